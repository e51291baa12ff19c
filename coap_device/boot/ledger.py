"""The ledger: small facts that outlive every update, in a log over two sectors.

* SEQUENCE_FLOOR: no manifest below this sequence number is ever taken again (anti-rollback).
* REVERTED: this envelope's image was tried and did not hold; never run it again.
* DELTA_WITHHELD: how often the delta of this manifest failed for good; the next run takes the full image.
* REPORTED: the server has acknowledged this outcome of this envelope.

One sector is active and takes the records. When it is full the other one is erased, takes what is worth keeping, and
gets its header, with the next generation, last: until then the old sector stays the active one. Queries look at every
record of both sectors that holds, because facts here only accumulate; so a damaged header loses nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from coap_device.boot.records import RecordField, RecordFormat, RecordLog
from coap_device.errors import SlotError
from coap_device.hardware.flash import Flash
from coap_device.hardware.layout import Layout

KEEP: Final = 16
"""How many facts of a kind a compaction keeps, the newest, where the sector is large enough."""
_NO_DIGEST: Final = bytes(32)


class LedgerKind(IntEnum):
    """What a record says; ``value`` is the floor, unused, the count, the outcome."""

    SEQUENCE_FLOOR = 1
    REVERTED = 2
    DELTA_WITHHELD = 3
    REPORTED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRecord:
    """One fact. ``digest`` is the SHA-256 of an envelope, zeros where none belongs to it."""

    kind: LedgerKind
    value: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerHeader:
    """Makes a sector count as active if no other generation is higher."""

    generation: int


LEDGER_FORMAT: Final = RecordFormat(
    LedgerRecord, b"LR", (RecordField("kind", "B", LedgerKind), RecordField("value", "Q"), RecordField("digest", "32s"))
)
LEDGER_HEADER_FORMAT: Final = RecordFormat(LedgerHeader, b"LEDG", (RecordField("generation", "I"),))


class Ledger:
    """The facts, read once when it is built and kept up to date with the flash."""

    def __init__(self, flash: Flash, layout: Layout) -> None:
        self._flash = flash
        self._sectors = tuple(region.offset for region in layout.ledger)
        # The header has the place of one record, so that the log behind it begins on a write unit.
        self._head = LEDGER_FORMAT.size(flash.write_unit)
        self._logs = tuple(
            RecordLog(flash, offset + self._head, flash.sector_size - self._head, LEDGER_FORMAT)
            for offset in self._sectors
        )
        # At most three quarters of a sector after a compaction, or the next append would compact again.
        self._keep = max(1, min(KEEP, (self._logs[0].capacity * 3 // 4 - 1) // (len(LedgerKind) - 1)))
        self._active = self._find_active()
        older = 1 - self._active if self._active is not None else 0
        self._facts = self._logs[older].read_all() + self._logs[1 - older].read_all()

    def floor(self) -> int:
        """Return the lowest sequence number that is still acceptable."""
        return max((fact.value for fact in self._facts if fact.kind is LedgerKind.SEQUENCE_FLOOR), default=0)

    def raise_floor(self, sequence_number: int) -> None:
        """Raise the floor; it never goes down."""
        if sequence_number > self.floor():
            self._append(LedgerRecord(kind=LedgerKind.SEQUENCE_FLOOR, value=sequence_number, digest=_NO_DIGEST))

    def is_reverted(self, digest: bytes) -> bool:
        """Tell whether the manifest of ``digest`` was reverted."""
        return any(fact.kind is LedgerKind.REVERTED and fact.digest == digest for fact in self._facts)

    def mark_reverted(self, digest: bytes) -> None:
        """Remember that the manifest of ``digest`` was reverted."""
        if not self.is_reverted(digest):
            self._append(LedgerRecord(kind=LedgerKind.REVERTED, value=0, digest=digest))

    def reverted_digests(self) -> tuple[bytes, ...]:
        """Return the digests of the reverted manifests, newest first."""
        found = (fact.digest for fact in reversed(self._facts) if fact.kind is LedgerKind.REVERTED)
        return tuple(dict.fromkeys(found))

    def withheld_count(self, digest: bytes) -> int:
        """Return how often the delta of the manifest of ``digest`` failed for good."""
        counts = (f.value for f in self._facts if f.kind is LedgerKind.DELTA_WITHHELD and f.digest == digest)
        return max(counts, default=0)

    def withhold_delta(self, digest: bytes) -> int:
        """Count one more definite failure of the delta of the manifest of ``digest`` and return the count."""
        count = self.withheld_count(digest) + 1
        self._append(LedgerRecord(kind=LedgerKind.DELTA_WITHHELD, value=count, digest=digest))
        return count

    def is_reported(self, digest: bytes, outcome: int) -> bool:
        """Tell whether the server has acknowledged ``outcome`` of the manifest of ``digest``."""
        return LedgerRecord(kind=LedgerKind.REPORTED, value=outcome, digest=digest) in self._facts

    def mark_reported(self, digest: bytes, outcome: int) -> None:
        """Remember that the server has acknowledged ``outcome`` of the manifest of ``digest``."""
        if not self.is_reported(digest, outcome):
            self._append(LedgerRecord(kind=LedgerKind.REPORTED, value=outcome, digest=digest))

    def _append(self, record: LedgerRecord) -> None:
        active = self._active
        if active is None:
            # Fresh, or both headers are damaged: then the sector that holds more stays until the other is ready.
            active = 0 if len(self._logs[0].read_all()) <= len(self._logs[1].read_all()) else 1
            self._start(active, generation=1)
        elif self._logs[active].free == 0:
            generation = self._generation(active) + 1
            active = 1 - active
            self._start(active, generation=generation)
        if not self._logs[active].append(record):
            raise SlotError("ledger: a fresh sector is full; the flash's sectors are too small")
        self._facts.append(record)

    def _start(self, sector: int, *, generation: int) -> None:
        """Make ``sector`` the active one, holding what is worth keeping."""
        kept = _worth_keeping(self._facts, self._keep)
        offset = self._sectors[sector]
        if not self._flash.is_erased(offset, self._flash.sector_size):
            self._flash.erase(offset)
            self._flash.sync()
        for fact in kept:
            self._logs[sector].append(fact)
        header = LEDGER_HEADER_FORMAT.encode(LedgerHeader(generation=generation), self._flash.write_unit)
        self._flash.write(offset, header)
        self._flash.sync()
        self._active = sector
        self._facts = kept

    def _find_active(self) -> int | None:
        generations = (self._generation(0), self._generation(1))
        if max(generations) == 0:
            return None
        return generations.index(max(generations))

    def _generation(self, sector: int) -> int:
        header = LEDGER_HEADER_FORMAT.decode(self._flash.read(self._sectors[sector], self._head))
        return 0 if header is None else header.generation


def _worth_keeping(facts: Iterable[LedgerRecord], keep: int) -> list[LedgerRecord]:
    """Return the floor and the newest ``keep`` facts of every other kind, oldest first, one per digest and outcome."""
    newest: dict[tuple[LedgerKind, bytes, int], LedgerRecord] = {}
    floor = None
    for fact in facts:
        if fact.kind is LedgerKind.SEQUENCE_FLOOR:
            floor = fact if floor is None or fact.value > floor.value else floor
            continue
        name = (fact.kind, fact.digest, fact.value if fact.kind is LedgerKind.REPORTED else 0)
        before = newest.pop(name, None)
        newest[name] = fact if before is None or fact.value >= before.value else before
    kept = [] if floor is None else [floor]
    reverted: set[bytes] = set()
    for kind in LedgerKind:
        group = [fact for fact in newest.values() if fact.kind is kind]
        if kind is LedgerKind.REPORTED:
            # The report of a reverted manifest counts as new while the manifest is remembered: many confirmed updates
            # must not push it out, or it would be sent again.
            group.sort(key=lambda fact: fact.digest in reverted)
        kept += group[-keep:]
        if kind is LedgerKind.REVERTED:
            reverted = {fact.digest for fact in group[-keep:]}
    return kept
