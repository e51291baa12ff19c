import pytest

from coap_device.boot.envelopes import EnvelopeStore
from coap_device.errors import SlotError
from coap_device.hardware.layout import Geometry
from tests.unit.device.helpers import GEOMETRIES, Board, again, board, cuts, flip, random_bytes


def _store(device: Board) -> EnvelopeStore:
    return EnvelopeStore(device.flash, device.layout)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_envelope_of_each_slot_comes_back(geometry: Geometry) -> None:
    device = board(geometry)
    first, second = random_bytes(_store(device).capacity, 1), random_bytes(333, 2)
    _store(device).write(0, first)
    _store(device).write(1, second)
    _store(device).write(0, second)
    _store(device).write(0, first)
    assert (_store(again(device)).read(0), _store(again(device)).read(1)) == (first, second)


def test_area_without_an_envelope_has_none() -> None:
    assert _store(board()).read(0) is None


def test_same_envelope_is_not_written_twice() -> None:
    device = board()
    _store(device).write(0, b"envelope")
    operations = device.power.operations
    _store(device).write(0, b"envelope")
    assert device.power.operations == operations


@pytest.mark.parametrize("size", [0, 2_048 - 63])
def test_envelope_that_does_not_fit_is_refused_with_size_and_limit(size: int) -> None:
    with pytest.raises(SlotError, match=f"envelope B: {size} bytes, the limit is 1984"):
        _store(board()).write(1, bytes(size))


@pytest.mark.faults
def test_cut_at_every_operation_leaves_the_old_envelope_none_or_the_new_one() -> None:
    old, new = random_bytes(1_500, 1), random_bytes(900, 2)
    start = board()
    _store(start).write(0, old)
    seen = set()
    for device, where in cuts(lambda b: _store(b).write(0, new), content=start.backing.snapshot()):
        found = _store(device).read(0)
        assert found in (old, None, new), where
        seen.add(found)
        _store(device).write(0, new)
        assert _store(device).read(0) == new, where
    assert seen == {old, None, new}


def test_every_bit_flip_is_detected() -> None:
    device = board()
    envelope = random_bytes(50)
    _store(device).write(0, envelope)
    content, offset = device.backing.snapshot(), device.layout.envelopes[0].offset
    changed = [bit for bit in range(114 * 8) if _store(board(content=flip(content, offset * 8 + bit))).read(0) is None]
    padding = range(44 * 8, 64 * 8)
    assert changed == [bit for bit in range(114 * 8) if bit not in padding]
