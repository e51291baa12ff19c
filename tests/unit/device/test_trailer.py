import pytest

from coap_device.boot.trailer import NO_ENVELOPE, TRANSITIONS, TrailerEvent, TrailerRecord, Trailers, TrailerState
from coap_device.errors import SlotError
from coap_device.hardware.layout import Geometry
from coap_device.hardware.power import BETWEEN_TRAILERS, PowerCut
from tests.unit.device.helpers import GEOMETRIES, Board, again, board, cuts, flip

DIGEST = bytes(range(32))
STEPS = (
    (TrailerEvent.ACTIVATE, TrailerState.TRIAL),
    (TrailerEvent.ATTEMPT, TrailerState.TRIAL),
    (TrailerEvent.CONFIRM, TrailerState.CONFIRMED),
    (TrailerEvent.INVALIDATE, TrailerState.EMPTY),
)


def _trailers(device: Board) -> Trailers:
    return Trailers(device.flash, device.layout)


def _step(device: Board, slot: int = 1) -> TrailerRecord:
    """Do the next of `STEPS`, whichever is due by the slot's state."""
    trailers = _trailers(device)
    record = trailers.read(slot)
    names = [TrailerState.EMPTY, TrailerState.TRIAL, None, TrailerState.CONFIRMED]
    due = 2 if record.state is TrailerState.TRIAL and record.attempts else names.index(record.state)
    return trailers.update(slot, STEPS[due][0], manifest_digest=DIGEST if due == 0 else None)


def test_slot_without_a_record_is_empty() -> None:
    assert _trailers(board()).read(0) == TrailerRecord(
        counter=0, state=TrailerState.EMPTY, attempts=0, manifest_digest=NO_ENVELOPE
    )


def test_life_of_an_update() -> None:
    device = board()
    found = [_step(device) for _ in STEPS]
    assert [record.state for record in found] == [state for _, state in STEPS]
    assert [record.counter for record in found] == [1, 2, 3, 4]
    assert [record.attempts for record in found] == [0, 1, 1, 0]
    assert [record.manifest_digest for record in found] == [DIGEST, DIGEST, DIGEST, NO_ENVELOPE]
    assert _trailers(again(device)).read(1) == found[-1]


def test_counter_grows_over_both_slots() -> None:
    trailers = _trailers(board())
    counters = [trailers.update(slot, TrailerEvent.INVALIDATE).counter for slot in (0, 1, 1, 0)]
    assert counters == [1, 2, 3, 4]


@pytest.mark.parametrize("state", list(TrailerState))
@pytest.mark.parametrize("event", list(TrailerEvent))
def test_every_event_in_every_state_follows_the_table(state: TrailerState, event: TrailerEvent) -> None:
    device = board()
    trailers = _trailers(device)
    way = {
        TrailerState.EMPTY: (),
        TrailerState.TRIAL: (TrailerEvent.ACTIVATE,),
        TrailerState.CONFIRMED: (TrailerEvent.PROVISION,),
        TrailerState.REVERTED: (TrailerEvent.ACTIVATE, TrailerEvent.REVERT),
    }
    for step in way[state]:
        trailers.update(0, step)
    before = device.backing.snapshot()
    if (state, event) in TRANSITIONS:
        assert trailers.update(0, event).state is TRANSITIONS[state, event]
    else:
        with pytest.raises(SlotError, match=f"slot A: cannot {event.value} while it is {state.name.lower()}"):
            trailers.update(0, event)
        assert device.backing.snapshot() == before


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_full_sectors_are_erased_one_at_a_time(geometry: Geometry) -> None:
    device = board(geometry)
    for _ in range(2 * geometry.sector_size // 32):
        record = _step(device)
        assert _trailers(device).read(1) == record
    copies = [region.offset // geometry.sector_size for region in device.layout.slots[1].trailers]
    assert all(device.flash.statistics.erase_counts[sector] >= 1 for sector in copies)


def test_cut_between_the_copies_is_seen_and_repaired() -> None:
    device = board()
    device.power.cut_next(BETWEEN_TRAILERS)
    with pytest.raises(PowerCut):
        _step(device)
    device = again(device)
    assert _trailers(device).read(1).state is TrailerState.TRIAL
    assert _trailers(device).repair(1)
    assert not _trailers(device).repair(1)
    first, second = (device.flash.read(region.offset, 48) for region in device.layout.slots[1].trailers)
    assert first == second


def test_update_after_an_unrepaired_cut_keeps_the_newest_record_in_flash() -> None:
    device = board()
    while _trailers(device)._logs[1][0].free > 1:
        _step(device)
    device.power.cut_next(BETWEEN_TRAILERS)
    with pytest.raises(PowerCut):
        _step(device)
    device = again(device)
    newest = _trailers(device).read(1)
    assert _trailers(device)._logs[1][0].free == 0
    for second, where in cuts(_step_only, content=device.backing.snapshot()):
        assert _trailers(second).read(1).counter in (newest.counter, newest.counter + 1), where


def _step_only(device: Board) -> None:
    _step(device)


def _recover_and_step(device: Board) -> None:
    trailers = _trailers(device)
    for slot in (0, 1):
        trailers.repair(slot)
    _step(device)


@pytest.mark.faults
@pytest.mark.parametrize("fill", [0, 1, 20, 21, 22])
def test_cut_at_every_operation_and_again_at_every_operation_of_the_recovery(fill: int) -> None:
    start = board()
    for _ in range(fill):
        _step(start)
    before = _trailers(start).read(1)
    after = _step(again(board(content=start.backing.snapshot())))
    seen = set()
    for device, where in cuts(_step_only, content=start.backing.snapshot()):
        found = _trailers(device).read(1)
        assert found in (before, after), where
        seen.add(found.counter)
        for second, where_again in cuts(_recover_and_step, content=device.backing.snapshot()):
            counter = _trailers(second).read(1).counter
            assert counter in (found.counter, found.counter + 1), (where, where_again)
            _recover_and_step(second)
            assert _trailers(second).read(1).counter > counter, (where, where_again)
    assert seen == {before.counter, after.counter}


@pytest.mark.faults
def test_every_bit_flip_in_one_copy_leaves_the_state() -> None:
    start = board()
    for _ in range(2):
        _step(start)
    content, expected = start.backing.snapshot(), _trailers(start).read(1)
    for region in start.layout.slots[1].trailers:
        for bit in range(region.offset * 8, (region.offset + 96) * 8):
            device = board(content=flip(content, bit))
            assert _trailers(device).read(1) == expected
            _trailers(device).repair(1)
            _step(device)
            assert _trailers(again(device)).read(1).counter == expected.counter + 1
