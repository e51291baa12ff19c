"""Where things lie in the flash: one `Geometry` gives one `Layout`.

    bootloader | slot A | slot B | staging | scratch | journal | envelope A | envelope B | ledger
    slot = header sector | image | trailer copy 0 (one sector) | trailer copy 1 (one sector)

Every region begins and ends on a sector, and whatever must not be lost together never shares one.
"""

from dataclasses import dataclass
from typing import Final

from coap_device.errors import FlashError
from protocol.transfer.journal import MIN_GRANULE, record_size

BOOTLOADER_SECTORS: Final = 4
_SECTOR_SIZES: Final = tuple(1 << exponent for exponent in range(10, 18))
_WRITE_UNITS: Final = tuple(1 << exponent for exponent in range(7))
_MAX_FLASH: Final = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The chip's units and the sizes of the regions, all in bytes.

    ``slot_size`` is the greatest image, ``staging_size`` the greatest delta (0: as large as a slot), ``envelope_size``
    the area of one slot's envelope with its header.

    Raises:
        FlashError: a size that no layout can be made of.
    """

    sector_size: int = 4_096
    write_unit: int = 8
    slot_size: int = 524_288
    staging_size: int = 0
    envelope_size: int = 8_192

    def __post_init__(self) -> None:
        if self.staging_size == 0:
            object.__setattr__(self, "staging_size", self.slot_size)
        if self.sector_size not in _SECTOR_SIZES:
            raise FlashError(f"geometry: sector size {self.sector_size} is none of {_SECTOR_SIZES}")
        if self.write_unit not in _WRITE_UNITS:
            raise FlashError(f"geometry: write unit {self.write_unit} is none of {_WRITE_UNITS}")
        for name in ("slot_size", "staging_size", "envelope_size"):
            size = getattr(self, name)
            if not 0 < size <= _MAX_FLASH or size % self.sector_size:
                raise FlashError(f"geometry: {name} {size} is not a number of sectors of {self.sector_size} bytes")

    @property
    def journal_size(self) -> int:
        """One record per 64 bytes of the greatest payload, and a sector for the header and for what cuts waste."""
        records = max(self.slot_size, self.staging_size) // MIN_GRANULE * record_size(self.write_unit)
        return -(-records // self.sector_size) * self.sector_size + self.sector_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A named stretch of whole sectors, in bytes from the begin of the flash."""

    name: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first offset behind it."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRegions:
    """The parts of slot ``number`` (0 is A, 1 is B)."""

    number: int
    header: Region
    image: Region
    trailers: tuple[Region, Region]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All regions of a flash; ``size`` is that of the whole flash."""

    geometry: Geometry
    bootloader: Region
    slots: tuple[SlotRegions, SlotRegions]
    staging: Region
    scratch: Region
    journal: Region
    envelopes: tuple[Region, Region]
    ledger: tuple[Region, Region]
    size: int

    @classmethod
    def of(cls, geometry: Geometry) -> "Layout":
        """Return the layout of ``geometry``.

        Raises:
            FlashError: the flash would be larger than 2 GiB.
        """
        allocate = _Allocator()
        sector = geometry.sector_size
        layout = cls(
            geometry=geometry,
            bootloader=allocate("bootloader", BOOTLOADER_SECTORS * sector),
            slots=(_slot(allocate, 0, geometry), _slot(allocate, 1, geometry)),
            staging=allocate("staging", geometry.staging_size),
            scratch=allocate("scratch", sector),
            journal=allocate("journal", geometry.journal_size),
            envelopes=(allocate("envelope A", geometry.envelope_size), allocate("envelope B", geometry.envelope_size)),
            ledger=(allocate("ledger 0", sector), allocate("ledger 1", sector)),
            size=allocate.offset,
        )
        if layout.size > _MAX_FLASH:
            raise FlashError(f"geometry: the flash would have {layout.size} bytes, the limit is {_MAX_FLASH}")
        return layout

    @property
    def regions(self) -> tuple[Region, ...]:
        """Every region, in the order of the flash."""
        slots = (part for slot in self.slots for part in (slot.header, slot.image, *slot.trailers))
        return (self.bootloader, *slots, self.staging, self.scratch, self.journal, *self.envelopes, *self.ledger)


class _Allocator:
    def __init__(self) -> None:
        self.offset = 0

    def __call__(self, name: str, size: int) -> Region:
        region = Region(name=name, offset=self.offset, size=size)
        self.offset += size
        return region


def _slot(allocate: _Allocator, number: int, geometry: Geometry) -> SlotRegions:
    letter = "AB"[number]
    sector = geometry.sector_size
    return SlotRegions(
        number=number,
        header=allocate(f"slot {letter} header", sector),
        image=allocate(f"slot {letter} image", geometry.slot_size),
        trailers=(allocate(f"slot {letter} trailer 0", sector), allocate(f"slot {letter} trailer 1", sector)),
    )
