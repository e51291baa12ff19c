import hashlib

import pytest

from coap_device.boot.slots import HEADER_FORMAT, SlotHeader, SlotStore
from coap_device.boot.trailer import TrailerEvent, TrailerState
from coap_device.errors import SlotError
from coap_device.hardware.layout import Geometry
from tests.unit.device.helpers import GEOMETRIES, Board, again, board, cuts, flip, random_bytes, sha256

HEADER = SlotHeader(image_size=100, sequence_number=7, image_digest=b"i" * 32, manifest_digest=b"e" * 32)


def _slots(device: Board) -> SlotStore:
    return SlotStore(device.flash, device.layout)


def _write_image(slots: SlotStore, slot: int, image: bytes, piece: int = 300) -> tuple[int, int]:
    writer = slots.image_writer(slot)
    for start in range(0, len(image), piece):
        writer.write(image[start : start + piece])
    assert writer.size == len(image)
    assert writer.finish() == len(image)
    return writer.sectors_written, writer.sectors_skipped


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("short", [0, 1, 100])
def test_image_is_written_and_hashed(geometry: Geometry, short: int) -> None:
    slots = _slots(board(geometry))
    image = random_bytes(geometry.slot_size - short)
    assert _write_image(slots, 1, image) == (4, 0)
    assert slots.hash_image(1, len(image)) == hashlib.sha256(image).digest()
    assert slots.read_image(1, 50, 100) == image[50:150]
    assert slots.read_image(1, len(image), short) == b"\xff" * short


def test_image_written_again_touches_nothing() -> None:
    device = board()
    image = random_bytes(3_000)
    _write_image(_slots(device), 0, image)
    before = (device.flash.statistics.erases, device.flash.statistics.writes)
    assert _write_image(_slots(device), 0, image, piece=1_500) == (0, 3)
    assert (device.flash.statistics.erases, device.flash.statistics.writes) == before


def test_only_sectors_that_differ_are_written() -> None:
    device = board()
    image = random_bytes(4_096)
    _write_image(_slots(device), 0, image)
    changed = image[:1_500] + b"?" + image[1_501:]
    assert _write_image(_slots(device), 0, changed) == (1, 3)
    assert _slots(device).hash_image(0, 4_096) == sha256(changed)


@pytest.mark.faults
def test_image_cut_at_every_operation_is_right_when_written_again() -> None:
    old, new = random_bytes(4_000, 1), random_bytes(3_500, 2)
    start = board()
    _write_image(_slots(start), 0, old)
    for device, where in cuts(lambda b: _write_image(_slots(b), 0, new) and None, content=start.backing.snapshot()):
        written, skipped = _write_image(_slots(device), 0, new)
        assert written + skipped == 4, where
        assert _slots(device).hash_image(0, len(new)) == sha256(new), where


def test_image_larger_than_the_slot_is_refused() -> None:
    slots = _slots(board())
    writer = slots.image_writer(0)
    writer.write(bytes(4_000))
    with pytest.raises(SlotError, match="slot A image: the image has at least 4097 bytes, the limit is 4096"):
        writer.write(bytes(97))
    with pytest.raises(SlotError, match="limit is 4096"):
        slots.hash_image(0, 4_097)
    with pytest.raises(SlotError, match="image area has 4096"):
        slots.read_image(0, 4_000, 97)


def test_header_comes_back_and_is_written_once() -> None:
    device = board()
    assert _slots(device).read_header(1) is None
    _slots(device).write_header(1, HEADER)
    operations = device.power.operations
    _slots(device).write_header(1, HEADER)
    assert device.power.operations == operations
    assert _slots(again(device)).read_header(1) == HEADER


def test_header_larger_than_the_slot_is_refused() -> None:
    large = SlotHeader(image_size=4_097, sequence_number=7, image_digest=b"i" * 32, manifest_digest=b"e" * 32)
    device = board()
    with pytest.raises(SlotError, match="limit is 4096"):
        _slots(device).write_header(0, large)
    device.flash.write(device.layout.slots[0].header.offset, HEADER_FORMAT.encode(large, 8))
    assert _slots(device).read_header(0) is None


def test_nothing_is_written_while_the_trailer_is_not_empty() -> None:
    slots = _slots(board())
    slots.trailers.update(0, TrailerEvent.PROVISION)
    with pytest.raises(SlotError, match="slot A: is confirmed; invalidate it"):
        slots.image_writer(0)
    with pytest.raises(SlotError, match="slot A: is confirmed; invalidate it"):
        slots.write_header(0, HEADER)
    slots.invalidate(0)
    assert slots.trailers.read(0).state is TrailerState.EMPTY
    slots.write_header(0, HEADER)


@pytest.mark.faults
def test_invalidate_cut_at_every_operation_is_idempotent() -> None:
    start = board()
    _slots(start).trailers.update(0, TrailerEvent.PROVISION)
    for device, where in cuts(lambda b: _slots(b).invalidate(0), content=start.backing.snapshot()):
        _slots(device).invalidate(0)
        for region in device.layout.slots[0].trailers:
            spoiled = bytearray(device.backing.snapshot())
            spoiled[region.offset : region.end] = b"\xff" * region.size
            one_copy = board(content=bytes(spoiled))
            assert _slots(one_copy).trailers.read(0).state is TrailerState.EMPTY, where


def test_every_bit_flip_in_the_header_is_detected() -> None:
    device = board()
    _slots(device).write_header(0, HEADER)
    content, offset = device.backing.snapshot(), device.layout.slots[0].header.offset
    for bit in range(HEADER_FORMAT.bare_size * 8):
        assert _slots(board(content=flip(content, offset * 8 + bit))).read_header(0) is None
