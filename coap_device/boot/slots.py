"""The two slots: a header that says what the image is, the image itself, and the rule that protects it.

An image is touched only while its trailer says EMPTY, so whatever a cut leaves behind cannot boot. The header is
written when the image is whole, the trailer after the header.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from coap_device.boot.records import RecordField, RecordFormat
from coap_device.boot.trailer import TrailerEvent, Trailers, TrailerState
from coap_device.errors import SlotError
from coap_device.hardware.flash import Flash
from coap_device.hardware.layout import Layout, Region

HASH_PIECE: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotHeader:
    """What a slot holds: size in bytes, SHA-256 digests, and the sequence number of the manifest that brought it.

    It is a note, not a proof: the bootloader believes the authenticated envelope and compares.
    """

    image_size: int
    sequence_number: int
    image_digest: bytes
    manifest_digest: bytes


HEADER_FORMAT: Final = RecordFormat(
    SlotHeader,
    b"SLOT",
    (
        RecordField("image_size", "I"),
        RecordField("sequence_number", "Q"),
        RecordField("image_digest", "32s"),
        RecordField("manifest_digest", "32s"),
    ),
)


def read_pieces(flash: Flash, offset: int, size: int, piece: int = HASH_PIECE) -> Iterator[bytes]:
    """Yield ``size`` bytes from ``offset`` in pieces of at most ``piece`` bytes."""
    for start in range(0, size, piece):
        yield flash.read(offset + start, min(piece, size - start))


def hash_flash(flash: Flash, offset: int, size: int) -> bytes:
    """Return the SHA-256 of ``size`` bytes from ``offset``, read in pieces of 4 KiB."""
    digest = hashlib.sha256()
    for piece in read_pieces(flash, offset, size):
        digest.update(piece)
    return digest.digest()


class SlotStore:
    """Headers, images and trailers of both slots; ``trailers`` is public for those who show or boot them."""

    def __init__(self, flash: Flash, layout: Layout) -> None:
        self.flash = flash
        self.layout = layout
        self.trailers = Trailers(flash, layout)

    def read_header(self, slot: int) -> SlotHeader | None:
        """Return the header of ``slot``, or None if there is none that holds."""
        region = self.layout.slots[slot].header
        header = HEADER_FORMAT.decode(self.flash.read(region.offset, HEADER_FORMAT.size(self.flash.write_unit)))
        return header if header is not None and header.image_size <= self.layout.slots[slot].image.size else None

    def write_header(self, slot: int, header: SlotHeader) -> None:
        """Write the header of ``slot``, unless it stands there already.

        Raises:
            SlotError: the slot's trailer is not EMPTY, or the image would be larger than the slot.
        """
        self._check_size(slot, header.image_size)
        if self.read_header(slot) == header:
            return
        self.require_empty(slot)
        offset = self.layout.slots[slot].header.offset
        self.flash.erase(offset)
        self.flash.write(offset, HEADER_FORMAT.encode(header, self.flash.write_unit))
        self.flash.sync()

    def read_image(self, slot: int, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` in the image area.

        Raises:
            SlotError: beyond the image area.
        """
        region = self.layout.slots[slot].image
        if offset < 0 or size < 0 or offset + size > region.size:
            raise SlotError(f"slot {'AB'[slot]}: {size} bytes at {offset}: the image area has {region.size}")
        return self.flash.read(region.offset + offset, size)

    def hash_image(self, slot: int, size: int) -> bytes:
        """Return the SHA-256 of the first ``size`` bytes of the image area.

        Raises:
            SlotError: larger than the image area.
        """
        self._check_size(slot, size)
        return hash_flash(self.flash, self.layout.slots[slot].image.offset, size)

    def invalidate(self, slot: int) -> None:
        """Make the trailer EMPTY, which comes before the slot's image, header or envelope is touched."""
        record = self.trailers.read(slot)
        if record.state is not TrailerState.EMPTY:
            self.trailers.update(slot, TrailerEvent.INVALIDATE)
        else:
            # EMPTY in one copy is not enough to go on: were that copy lost, the old state would come back.
            self.trailers.repair(slot)

    def require_empty(self, slot: int) -> None:
        """Raise `SlotError` unless the slot's trailer is EMPTY."""
        state = self.trailers.read(slot).state
        if state is not TrailerState.EMPTY:
            raise SlotError(f"slot {'AB'[slot]}: is {state.name.lower()}; invalidate it before it is written")

    def image_writer(self, slot: int) -> "ImageWriter":
        """Return a writer for the image of ``slot``.

        Raises:
            SlotError: the slot's trailer is not EMPTY.
        """
        self.require_empty(slot)
        return ImageWriter(self.flash, self.layout.slots[slot].image)

    def _check_size(self, slot: int, size: int) -> None:
        region = self.layout.slots[slot].image
        if size > region.size:
            raise SlotError(f"slot {'AB'[slot]}: the image has {size} bytes, the limit is {region.size}")


class ImageWriter:
    """Writes an image from front to back, sector by sector, and leaves alone every sector that is right already.

    So the same image written again after a cut costs one erase at most for the sector that was in hand, and none for
    those before it. Holds one sector in memory.
    """

    def __init__(self, flash: Flash, region: Region) -> None:
        self._flash = flash
        self._region = region
        self._buffer = bytearray()
        self._position = 0
        self.sectors_written = 0
        self.sectors_skipped = 0

    @property
    def size(self) -> int:
        """The bytes taken so far."""
        return self._position + len(self._buffer)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the image.

        Raises:
            SlotError: the image gets larger than the area.
        """
        if self.size + len(chunk) > self._region.size:
            raise SlotError(
                f"{self._region.name}: the image has at least {self.size + len(chunk)} bytes, "
                f"the limit is {self._region.size}"
            )
        self._buffer += chunk
        while len(self._buffer) >= self._flash.sector_size:
            self._put(bytes(self._buffer[: self._flash.sector_size]))
            del self._buffer[: self._flash.sector_size]

    def finish(self) -> int:
        """Write what is left, sync, and return the size of the image; the rest of the last sector stays erased."""
        size = self.size
        if self._buffer:
            self._put(bytes(self._buffer))
            self._buffer.clear()
        self._flash.sync()
        return size

    def _put(self, data: bytes) -> None:
        offset = self._region.offset + self._position
        sector = self._flash.sector_size
        wanted = data + bytes([self._flash.erased]) * (sector - len(data))
        present = self._flash.read(offset, sector)
        if present == wanted:
            self.sectors_skipped += 1
        else:
            if not self._flash.is_erased(offset, sector):
                self._flash.erase(offset)
            self._flash.write(offset, self._flash.pad(data))
            self.sectors_written += 1
        self._position += len(data)
