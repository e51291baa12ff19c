import pytest

from coap_device.boot.ledger import LEDGER_FORMAT, Ledger
from coap_device.hardware.layout import Geometry
from tests.unit.device.helpers import GEOMETRIES, Board, again, board, cuts, flip


def _ledger(device: Board) -> Ledger:
    return Ledger(device.flash, device.layout)


def _digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _sectors(device: Board) -> list[int]:
    return [region.offset // device.flash.sector_size for region in device.layout.ledger]


def test_fresh_ledger_knows_nothing_and_writes_nothing() -> None:
    device = board()
    ledger = _ledger(device)
    assert ledger.floor() == 0
    assert not ledger.is_reverted(_digest(1))
    assert ledger.withheld_count(_digest(1)) == 0
    assert not ledger.is_reported(_digest(1), 1)
    assert ledger.reverted_digests() == ()
    assert device.power.operations == 0


def test_facts_outlive_the_power() -> None:
    device = board()
    ledger = _ledger(device)
    ledger.raise_floor(1 << 40)
    ledger.mark_reverted(_digest(1))
    ledger.mark_reverted(_digest(2))
    assert [ledger.withhold_delta(_digest(3)) for _ in range(3)] == [1, 2, 3]
    ledger.mark_reported(_digest(1), 2)
    for found in (ledger, _ledger(again(device))):
        assert found.floor() == 1 << 40
        assert found.reverted_digests() == (_digest(2), _digest(1))
        assert (found.withheld_count(_digest(3)), found.withheld_count(_digest(1))) == (3, 0)
        assert found.is_reported(_digest(1), 2)
        assert not found.is_reported(_digest(1), 1)
        assert not found.is_reported(_digest(2), 2)


def test_floor_never_goes_down() -> None:
    ledger = _ledger(board())
    ledger.raise_floor(5)
    ledger.raise_floor(3)
    assert ledger.floor() == 5


def test_fact_that_is_known_is_not_written_again() -> None:
    device = board()
    for _ in range(2):
        ledger = _ledger(device)
        ledger.raise_floor(5)
        ledger.mark_reverted(_digest(1))
        ledger.mark_reported(_digest(1), 2)
        if device.power.operations:
            operations = device.power.operations
    assert device.power.operations == operations


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_compaction_goes_on_for_ever_and_keeps_the_newest(geometry: Geometry) -> None:
    device = board(geometry)
    ledger = _ledger(device)
    rounds = 300
    ledger.raise_floor(77)
    for number in range(rounds):
        ledger.mark_reverted(_digest(number))
        ledger.mark_reported(_digest(number), 2)
        ledger.withhold_delta(_digest(number))
    assert all(device.flash.statistics.erase_counts[sector] > 1 for sector in _sectors(device))
    found = _ledger(again(device))
    assert found.floor() == 77
    newest = _digest(rounds - 1)
    assert found.is_reverted(newest)
    assert found.is_reported(newest, 2)
    assert found.withheld_count(newest) == 1
    assert not found.is_reverted(_digest(0))
    kept = 16 if geometry.sector_size == 4_096 and geometry.write_unit == 8 else ledger._keep
    assert ledger._keep == kept >= 3
    assert len(found.reverted_digests()) >= kept


def _full(geometry: Geometry) -> Board:
    """Return a device whose active sector is full and whose other one holds older facts."""
    device = board(geometry)
    number = 0
    while not (
        sum(device.flash.statistics.erase_counts.get(s, 0) for s in _sectors(device)) >= 1
        and _ledger(device)._logs[_ledger(device)._active or 0].free == 0
    ):
        ledger = _ledger(device)
        ledger.raise_floor(number)
        ledger.mark_reverted(_digest(number))
        number += 1
    return device


@pytest.mark.faults
@pytest.mark.parametrize("geometry", GEOMETRIES[:2])
@pytest.mark.parametrize("full", [True, False])
def test_cut_at_every_operation_and_again_in_the_recovery(geometry: Geometry, full: bool) -> None:
    start = _full(geometry) if full else board(geometry)
    if not full:
        _ledger(start).raise_floor(3)
        _ledger(start).mark_reverted(_digest(3))
    known = _ledger(again(start)).reverted_digests()[: _ledger(again(start))._keep]
    floor = _ledger(again(start)).floor()

    def scenario(device: Board) -> None:
        _ledger(device).raise_floor(floor + 1)

    def check(device: Board, where: str) -> None:
        found = _ledger(device)
        assert found.floor() in (floor, floor + 1), where
        assert found.reverted_digests()[: len(known)] == known, where

    ends = set()
    for device, where in cuts(scenario, geometry=geometry, content=start.backing.snapshot()):
        check(device, where)
        ends.add(_ledger(device).floor())
        if _ledger(device).floor() > floor:
            continue
        for second, where_again in cuts(scenario, geometry=geometry, content=device.backing.snapshot()):
            check(second, f"{where}, then {where_again}")
            scenario(second)
            assert _ledger(again(second)).floor() == floor + 1, (where, where_again)
            check(second, where_again)
    assert ends == {floor, floor + 1}


@pytest.mark.faults
def test_bit_flips_cost_at_most_the_record_they_hit() -> None:
    device = board()
    ledger = _ledger(device)
    for number in range(1, 4):
        ledger.mark_reverted(_digest(number))
    content = device.backing.snapshot()
    size = LEDGER_FORMAT.size(8)
    for bit in range(4 * size * 8):
        found = _ledger(board(content=flip(content, device.layout.ledger[0].offset * 8 + bit)))
        hit = bit // (size * 8)
        lost = {_digest(1), _digest(2), _digest(3)} - set(found.reverted_digests())
        assert lost <= ({_digest(hit)} if hit else set())
        found.mark_reverted(_digest(9))
        assert found.is_reverted(_digest(9))


def test_damaged_headers_of_both_sectors_lose_no_fact() -> None:
    device = _full(GEOMETRIES[0])
    known = set(_ledger(device).reverted_digests())
    content = device.backing.snapshot()
    for region in device.layout.ledger:
        content = flip(content, region.offset * 8)
    damaged = board(content=content)
    assert set(_ledger(damaged).reverted_digests()) == known
    floor = _ledger(damaged).floor()
    _ledger(damaged).raise_floor(floor + 1)
    assert _ledger(again(damaged)).floor() == floor + 1
    assert len(_ledger(again(damaged)).reverted_digests()) >= _ledger(damaged)._keep


def test_many_confirmed_updates_do_not_push_out_the_report_of_a_reverted_one() -> None:
    device = board()
    ledger = _ledger(device)
    bad = _digest(1_000_000)
    ledger.mark_reverted(bad)
    ledger.mark_reported(bad, 2)
    for number in range(1, 300):
        ledger.raise_floor(number)
        ledger.mark_reported(_digest(number), 1)
    fresh = _ledger(again(device))
    assert fresh.is_reverted(bad)
    assert fresh.is_reported(bad, 2)
    assert fresh.floor() == 299
