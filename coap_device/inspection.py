"""What a device's flash file says: the state of both slots, read without touching anything."""

from dataclasses import dataclass
from pathlib import Path

from coap_device.boot.envelopes import EnvelopeStore
from coap_device.boot.ledger import Ledger
from coap_device.boot.provisioning import read_provisioning
from coap_device.boot.slots import SlotStore
from coap_device.boot.trailer import TrailerState
from coap_device.boot.verify import SlotVerifier
from coap_device.config import FLASH_FILE
from coap_device.errors import FlashError
from coap_device.hardware.flash import FileBacking, Flash
from coap_device.hardware.layout import Layout
from protocol.errors import OtaError


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """One slot: its trailer, what its header names, and whether the bootloader would boot it (or why not)."""

    slot: str
    state: str
    attempts: int
    counter: int
    size: int | None
    image: str | None
    sequence_number: int | None
    bootable: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashReport:
    """A whole device; ``boots`` is the slot that the next boot would take, or None."""

    device_id: str
    model: str
    floor: int
    reverted: tuple[str, ...]
    slots: tuple[SlotReport, ...]
    boots: str | None

    @property
    def running(self) -> SlotReport | None:
        """The slot that boots."""
        return next((slot for slot in self.slots if slot.slot == self.boots), None)


def inspect_flash(state: Path) -> FlashReport:
    """Return what the flash file under ``state`` says.

    Raises:
        FlashError: there is none, or it is damaged.
    """
    path = state / FLASH_FILE
    if not path.is_file():
        raise FlashError(f"{path}: no flash file; `ota-device run --state {state}` makes one")
    backing = FileBacking(path, read_only=True)
    try:
        found = read_provisioning(backing)
        if found is None:
            raise FlashError(f"{path}: not provisioned; remove {path} to provision again")
        flash = Flash(backing, found.geometry.sector_size, found.geometry.write_unit)
        layout = Layout.of(found.geometry)
        slots, envelopes, ledger = SlotStore(flash, layout), EnvelopeStore(flash, layout), Ledger(flash, layout)
        verify = SlotVerifier(slots, envelopes, found)
        reports = tuple(_slot(slots, verify, slot) for slot in (0, 1))
        ready = [report for report in reports if report.bootable]
        boots = max(ready, key=lambda report: report.counter).slot if ready else None
        return FlashReport(
            device_id=found.device_id,
            model=found.model,
            floor=ledger.floor(),
            reverted=tuple(digest.hex() for digest in ledger.reverted_digests()),
            slots=reports,
            boots=boots,
        )
    finally:
        backing.close()


def _slot(slots: SlotStore, verify: SlotVerifier, slot: int) -> SlotReport:
    trailer = slots.trailers.read(slot)
    header = slots.read_header(slot)
    bootable, why = trailer.state in (TrailerState.CONFIRMED, TrailerState.TRIAL), ""
    if bootable:
        try:
            verify(slot)
        except OtaError as error:
            bootable, why = False, str(error)
    else:
        why = trailer.state.name.lower()
    image = None
    if header is not None:
        image = slots.hash_image(slot, header.image_size).hex()
    return SlotReport(
        slot="AB"[slot],
        state=trailer.state.name.lower(),
        attempts=trailer.attempts,
        counter=trailer.counter,
        size=None if header is None else header.image_size,
        image=image,
        sequence_number=None if header is None else header.sequence_number,
        bootable=bootable,
        why=why,
    )
