"""What the factory writes once into the bootloader's region: who the device is, whom it trusts, what it was born with.

The commit record stands at offset 0 with a size that depends on no geometry, so the flash's geometry can be read from
a file of which nothing else is known. It is written last: a device without it is not provisioned yet, and the factory
starts again. A commit record that was written and does not hold is damage, and nobody may guess what it said.
"""

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from coap_device.boot.records import RecordField, RecordFormat
from coap_device.boot.slots import SlotHeader, SlotStore
from coap_device.boot.trailer import NO_ENVELOPE, TrailerEvent
from coap_device.errors import FlashError, SlotError
from coap_device.hardware.flash import ERASED, Flash, Reader, is_erased
from coap_device.hardware.layout import Geometry, Layout
from protocol import schema
from protocol.errors import DecodeError
from protocol.messages import Digest32, Name, Uint32
from protocol.schema import Format, Size, key

FACTORY_SEQUENCE_NUMBER: Final = 0
"""The factory image came without a manifest, so every manifest is newer."""
FACTORY_SLOT: Final = 0
_COMMIT_SIZE: Final = 64
_MAX_PAYLOAD: Final = 65_536


def _encode_geometry(geometry: Geometry) -> tuple[int, ...]:
    return (
        geometry.sector_size,
        geometry.write_unit,
        geometry.slot_size,
        geometry.staging_size,
        geometry.envelope_size,
    )


def _decode_geometry(value: Any, path: str) -> Geometry:
    sizes = [schema.expect(item, int, path) for item in schema.expect(value, tuple, path)]
    if len(sizes) != 5:
        raise DecodeError(f"{len(sizes)} sizes where 5 are due", path=path)
    try:
        return Geometry(
            sector_size=sizes[0],
            write_unit=sizes[1],
            slot_size=sizes[2],
            staging_size=sizes[3],
            envelope_size=sizes[4],
        )
    except FlashError as error:
        raise DecodeError(str(error), path=path) from error


Identifier = Annotated[bytes, Size(16, 16)]
GeometryArray = Annotated[Geometry, Format(encode=_encode_geometry, decode=_decode_geometry)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioning:
    """The factory's record.

    ``vendor_id`` and ``class_id`` are the UUIDs that manifests are checked against, ``trust_anchors`` COSE_Key
    encodings, ``image_digest`` and ``image_size`` the SHA-256 and size of the factory image in slot A.
    """

    geometry: GeometryArray = key(1)
    device_id: Name = key(2)
    model: Name = key(3)
    vendor_id: Identifier = key(4)
    class_id: Identifier = key(5)
    trust_anchors: tuple[bytes, ...] = key(6)
    image_digest: Digest32 = key(7)
    image_size: Uint32 = key(8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Says that provisioning is whole: length and CRC-32 of the CBOR behind it."""

    length: int
    crc: int


COMMIT_FORMAT: Final = RecordFormat(Commit, b"COAPOTA1", (RecordField("length", "I"), RecordField("crc", "I")))


def provision(flash: Flash, provisioning: Provisioning, image: Iterable[bytes]) -> None:
    """Do the factory's work: the image into slot A, confirmed, then the record. Cut at any point, it can be run again.

    Args:
        flash: with the geometry that ``provisioning`` names.
        provisioning: what to record.
        image: the factory image in pieces.

    Raises:
        FlashError: the device is provisioned already, or the record does not fit its region.
        SlotError: the image is larger than the slot, or not the one that ``provisioning`` names.
    """
    layout = Layout.of(provisioning.geometry)
    if read_provisioning(flash) is not None:
        raise FlashError(f"{flash.name}: is provisioned already; remove {flash.name} to provision again")
    payload = schema.encode(provisioning)
    if len(payload) > layout.bootloader.size - _COMMIT_SIZE:
        raise FlashError(
            f"{flash.name}: the provisioning record has {len(payload)} bytes, "
            f"the limit is {layout.bootloader.size - _COMMIT_SIZE}; fewer trust anchors make it smaller"
        )
    _install_factory_image(SlotStore(flash, layout), provisioning, image)
    for offset in range(layout.bootloader.offset, layout.bootloader.end, flash.sector_size):
        if not flash.is_erased(offset, flash.sector_size):
            flash.erase(offset)
    flash.write(_COMMIT_SIZE, flash.pad(payload))
    flash.sync()
    commit = COMMIT_FORMAT.encode(Commit(length=len(payload), crc=zlib.crc32(payload)), flash.write_unit)
    flash.write(0, commit.ljust(_COMMIT_SIZE, b"\0"))
    flash.sync()


def read_provisioning(reader: Reader) -> Provisioning | None:
    """Return the factory's record, or None if the device is not provisioned yet.

    Args:
        reader: a backing whose geometry is not known yet, or a flash.

    Raises:
        FlashError: what stands there is damaged, or is no flash of ours.
    """
    head = reader.read(0, min(_COMMIT_SIZE, reader.size))
    # The commit record ends in zeros. An erased end means it was never written to its end: the factory was interrupted.
    if is_erased(head[-8:], ERASED):
        return None
    commit = COMMIT_FORMAT.decode(head)
    if commit is None or not 0 < commit.length <= min(_MAX_PAYLOAD, reader.size - _COMMIT_SIZE):
        raise _damaged(reader, "the commit record does not hold")
    payload = reader.read(_COMMIT_SIZE, commit.length)
    if zlib.crc32(payload) != commit.crc:
        raise _damaged(reader, "the checksum of the provisioning record is wrong")
    try:
        found = schema.decode(Provisioning, payload, path="provisioning")
    except DecodeError as error:
        raise _damaged(reader, str(error)) from error
    if Layout.of(found.geometry).size != reader.size:
        raise _damaged(reader, f"{reader.size} bytes where {Layout.of(found.geometry).size} are due")
    return found


def _damaged(reader: Reader, what: str) -> FlashError:
    return FlashError(f"{reader.name}: damaged flash: {what}; remove {reader.name} to provision again")


def _install_factory_image(slots: SlotStore, provisioning: Provisioning, image: Iterable[bytes]) -> None:
    slots.invalidate(FACTORY_SLOT)
    writer = slots.image_writer(FACTORY_SLOT)
    digest = hashlib.sha256()
    for chunk in image:
        writer.write(chunk)
        digest.update(chunk)
    if writer.finish() != provisioning.image_size or digest.digest() != provisioning.image_digest:
        raise SlotError("the factory image is not the one that the provisioning record names")
    header = SlotHeader(
        image_size=provisioning.image_size,
        sequence_number=FACTORY_SEQUENCE_NUMBER,
        image_digest=provisioning.image_digest,
        manifest_digest=NO_ENVELOPE,
    )
    slots.write_header(FACTORY_SLOT, header)
    slots.trailers.update(FACTORY_SLOT, TrailerEvent.PROVISION)
