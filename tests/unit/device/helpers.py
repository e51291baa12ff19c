"""What the device's unit tests share: small boards, and power cuts at every flash operation."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from coap_device.hardware.flash import Flash, MemoryBacking
from coap_device.hardware.layout import Geometry, Layout
from coap_device.hardware.power import CutMode, PowerCut, PowerPlan

GEOMETRIES = tuple(
    Geometry(sector_size=sector, write_unit=unit, slot_size=4 * sector, envelope_size=2 * sector)
    for sector in (1_024, 4_096)
    for unit in (8, 32)
)
SMALL = GEOMETRIES[0]
MODES = tuple(CutMode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One power domain of a device."""

    backing: MemoryBacking
    layout: Layout
    power: PowerPlan
    flash: Flash


def board(geometry: Geometry = SMALL, *, content: bytes | None = None, power: PowerPlan | None = None) -> Board:
    """Switch a device on: a fresh one, or one whose chip holds ``content``."""
    layout = Layout.of(geometry)
    backing = MemoryBacking(layout.size, content=content)
    plan = PowerPlan() if power is None else power
    return Board(
        backing=backing,
        layout=layout,
        power=plan,
        flash=Flash(backing, geometry.sector_size, geometry.write_unit, power=plan),
    )


def again(old: Board) -> Board:
    """Switch the same device on again, on the same plan."""
    geometry = old.layout.geometry
    flash = Flash(old.backing, geometry.sector_size, geometry.write_unit, power=old.power)
    return Board(backing=old.backing, layout=old.layout, power=old.power, flash=flash)


def cuts(
    scenario: Callable[[Board], None],
    *,
    geometry: Geometry = SMALL,
    content: bytes | None = None,
    modes: tuple[CutMode, ...] = MODES,
) -> Iterator[tuple[Board, str]]:
    """Run ``scenario`` once for each of its flash operations and mode, cut there; yield the device, switched on again.

    The scenario runs to its end once, first, to count its operations.
    """
    uncut = board(geometry, content=content)
    scenario(uncut)
    total = uncut.power.operations
    assert total > 0, "the scenario did nothing"
    for mode in modes:
        for operation in range(total):
            device = board(geometry, content=content, power=PowerPlan({operation}, mode))
            try:
                scenario(device)
            except PowerCut:
                pass
            assert len(device.power.cuts) == 1
            yield again(device), f"cut {mode.value} operation {operation} of {total}"


def random_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)
