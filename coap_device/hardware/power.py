"""The power supply of the emulated device, and when it fails.

A `PowerPlan` lives outside the device: it is the hand on the plug, so it outlasts every reboot and keeps count of the
flash operations of the whole process. A cut is a `PowerCut`, a ``BaseException`` like ``CancelledError``: code that
handles errors must not be able to swallow it. Once a cut has happened, every object of that power domain is dead: a
flash opened before the cut raises `PowerCut` again, so that no ``finally`` can tidy up after the lights went out.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

BETWEEN_TRAILERS: Final = "between-trailers"
"""Point: copy 0 of a trailer is written and copy 1 is not."""
ATTEMPT_COUNTED: Final = "attempt-counted"
"""Point: the bootloader has counted a trial boot and has not jumped yet."""


class CutMode(Enum):
    """What is left of the flash operation at which the power fails."""

    BEFORE = "before"
    """Nothing of it happens."""
    TORN = "torn"
    """Half of it: the first write units whole and the next one in part, or a sector erased half."""
    AFTER = "after"
    """All of it, and nothing that follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutRecord:
    """One cut that happened.

    ``operation`` is the number of the flash operation (the next one for a cut between two), ``point`` the named point
    or None, ``what`` a short text for people.
    """

    operation: int
    point: str | None
    what: str


class PowerCut(BaseException):
    """The power failed. Simulation only; caught where the emulated device is switched on again, nowhere else."""

    def __init__(self, record: CutRecord) -> None:
        super().__init__(f"power cut at operation {record.operation}: {record.what}")
        self.record = record


class PowerPlan:
    """When the power fails: at numbered flash operations, at named points, or now.

    Args:
        cut_at: operation numbers, from 0 over the life of the process and across reboots.
        mode: what is left of an operation that is cut.
    """

    def __init__(self, cut_at: Iterable[int] = (), mode: CutMode = CutMode.BEFORE) -> None:
        self.cut_at: set[int] = set(cut_at)
        self.mode = mode
        self.operations = 0
        self.cuts: list[CutRecord] = []
        self._armed: Counter[str] = Counter()

    @property
    def domain(self) -> int:
        """The number of the power domain that lives now: how often the power has failed."""
        return len(self.cuts)

    def check(self, domain: int) -> None:
        """Raise `PowerCut` if the power has failed since ``domain`` was read."""
        if domain != self.domain:
            raise PowerCut(self.cuts[domain])

    def cut_next(self, point: str) -> None:
        """Fail once, the next time that ``point`` is reached; two calls arm two cuts."""
        self._armed[point] += 1

    def point(self, name: str) -> None:
        """Say that the device is at the point ``name``; the power fails here if somebody armed it."""
        if self._armed[name] > 0:
            self._armed[name] -= 1
            self._cut(name, name)

    def cut_now(self, what: str) -> None:
        """Fail here, between two flash operations."""
        self._cut(None, what)

    def perform(self, what: str, whole: Callable[[], None], torn: Callable[[], None]) -> None:
        """Count one flash operation and do it, or cut it.

        Args:
            what: the operation in words, for the record.
            whole: does all of it.
            torn: does what is left of it when it is torn.
        """
        number = self.operations
        self.operations += 1
        if number not in self.cut_at:
            whole()
            return
        self.cut_at.discard(number)
        if self.mode is CutMode.TORN:
            torn()
        elif self.mode is CutMode.AFTER:
            whole()
        self._cut(None, f"{self.mode.value} {what}", operation=number)

    def _cut(self, point: str | None, what: str, operation: int | None = None) -> None:
        number = self.operations if operation is None else operation
        record = CutRecord(operation=number, point=point, what=what)
        self.cuts.append(record)
        raise PowerCut(record)
