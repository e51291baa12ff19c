import random
import tracemalloc

from protocol.transfer.ranges import Ranges


def test_touching_and_overlapping_intervals_become_one() -> None:
    ranges = Ranges([(0, 4), (8, 12), (20, 30)])
    ranges.add(4, 9)
    assert list(ranges) == [(0, 12), (20, 30)]
    ranges.add(1, 100)
    assert list(ranges) == [(0, 100)]
    assert (ranges.total, ranges.end) == (100, 100)


def test_an_empty_interval_adds_nothing() -> None:
    ranges = Ranges([(5, 5), (7, 3)])
    assert list(ranges) == []
    assert (ranges.total, ranges.end) == (0, 0)


def test_what_is_empty_is_always_covered() -> None:
    assert Ranges().covers(3, 3)
    assert not Ranges().covers(0, 1)
    assert Ranges([(2, 6)]).covers(2, 6)
    assert not Ranges([(2, 6)]).covers(1, 6)
    assert not Ranges([(2, 6)]).covers(2, 7)


def test_gaps_are_what_is_missing_within_the_bounds() -> None:
    ranges = Ranges([(2, 4), (6, 8), (20, 22)])
    assert list(ranges.gaps(10)) == [(0, 2), (4, 6), (8, 10)]
    assert list(ranges.gaps(7, 3)) == [(4, 6)]
    assert list(ranges.gaps(8, 6)) == []
    assert list(ranges.gaps(5, 5)) == []
    assert list(Ranges().gaps(3)) == [(0, 3)]


def test_the_first_gap_of_thousands_costs_no_copy_of_the_others() -> None:
    ranges = Ranges((at, at + 64) for at in range(64, 1 << 21, 128))
    tracemalloc.start()
    assert next(ranges.gaps(1 << 21)) == (0, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000


def test_ranges_agree_with_a_set_of_positions(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        ranges, positions = Ranges(), set[int]()
        for _ in range(rng.randrange(12)):
            start, end = rng.randrange(60), rng.randrange(60)
            ranges.add(start, end)
            positions.update(range(start, end))
        assert ranges.total == len(positions)
        assert {at for start, end in ranges for at in range(start, end)} == positions
        assert all(end < start for (_, end), (start, _) in zip(list(ranges), list(ranges)[1:], strict=False))
        low, high = rng.randrange(60), rng.randrange(60)
        assert {at for start, end in ranges.gaps(high, low) for at in range(start, end)} == set(
            range(low, high)
        ) - positions
        assert ranges.covers(low, high) is (set(range(low, high)) <= positions)
