"""Which bytes of a representation are there."""

import bisect
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of byte positions, kept as sorted, disjoint, non-touching intervals ``[start, end)``."""

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        """Begin with the union of ``intervals``."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in intervals:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the intervals in order."""
        return iter(list(zip(self._starts, self._ends, strict=True)))

    @property
    def total(self) -> int:
        """How many bytes there are."""
        return sum(self._ends) - sum(self._starts)

    @property
    def end(self) -> int:
        """Where the last interval ends; 0 if there is none."""
        return self._ends[-1] if self._ends else 0

    def add(self, start: int, end: int) -> None:
        """Add ``[start, end)``.

        >>> r = Ranges([(0, 4), (8, 12)]); r.add(4, 8); list(r)
        [(0, 12)]
        """
        if start >= end:
            return
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def covers(self, start: int, end: int) -> bool:
        """Whether all of ``[start, end)`` is there."""
        at = bisect.bisect_right(self._starts, start) - 1
        return start >= end or (at >= 0 and self._ends[at] >= end)

    def gaps(self, end: int, start: int = 0) -> Iterator[tuple[int, int]]:
        """Yield what is missing of ``[start, end)``, in order; nothing may be added meanwhile."""
        position = start
        # By index: a caller that needs the first gaps of thousands must not pay for a copy of them all.
        for at in range(max(0, bisect.bisect_right(self._starts, start) - 1), len(self._starts)):
            if self._starts[at] >= end:
                break
            if self._starts[at] > position:
                yield position, self._starts[at]
            position = max(position, self._ends[at])
        if position < end:
            yield position, end
