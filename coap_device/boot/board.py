"""Everything below the firmware, as it stands after the power came: built anew for every boot, from flash alone."""

from dataclasses import dataclass

from coap_device.boot.bootloader import Bootloader
from coap_device.boot.envelopes import EnvelopeStore
from coap_device.boot.ledger import Ledger
from coap_device.boot.provisioning import Provisioning, read_provisioning
from coap_device.boot.slots import SlotStore
from coap_device.boot.store import PayloadStore
from coap_device.boot.verify import SlotVerifier
from coap_device.errors import FlashError
from coap_device.hardware.flash import Backing, Flash
from coap_device.hardware.layout import Layout, Region
from coap_device.hardware.power import PowerPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """The parts that a firmware works with."""

    flash: Flash
    layout: Layout
    provisioning: Provisioning
    slots: SlotStore
    envelopes: EnvelopeStore
    ledger: Ledger
    bootloader: Bootloader

    def payload_store(self, target: Region) -> PayloadStore:
        """Return a store for a transfer into ``target``."""
        return PayloadStore(self.flash, target, self.layout.journal, self.layout.scratch)


def open_board(backing: Backing, power: PowerPlan) -> Board:
    """Switch the board on.

    Raises:
        FlashError: the flash is damaged, or was never provisioned.
    """
    provisioning = read_provisioning(backing)
    if provisioning is None:
        raise FlashError(f"{backing.name}: not provisioned; give the factory image with --image")
    geometry = provisioning.geometry
    flash = Flash(backing, geometry.sector_size, geometry.write_unit, power=power)
    layout = Layout.of(geometry)
    slots = SlotStore(flash, layout)
    envelopes = EnvelopeStore(flash, layout)
    ledger = Ledger(flash, layout)
    verify = SlotVerifier(slots, envelopes, provisioning)
    return Board(
        flash=flash,
        layout=layout,
        provisioning=provisioning,
        slots=slots,
        envelopes=envelopes,
        ledger=ledger,
        bootloader=Bootloader(slots, ledger, verify),
    )
