"""The trailer: which state a slot's image is in, in two copies, each in a sector of its own.

* A record carries a counter that grows over both slots together, so the newest record of all tells which slot was
  last changed, and the newest of a slot tells that slot's state.
* An update writes copy 0, then copy 1. A cut in between leaves copy 0 ahead; the next boot repairs copy 1.
* Records are appended. A full sector is erased while the other copy holds the same newest record.
* A torn or damaged record does not count: the other copy, or the record before, does.

    EMPTY --activate--> TRIAL --attempt--> TRIAL --confirm--> CONFIRMED
    EMPTY --provision-> CONFIRMED            TRIAL --revert--> REVERTED          any --invalidate--> EMPTY
"""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from coap_device.boot.records import RecordField, RecordFormat, RecordLog
from coap_device.errors import SlotError
from coap_device.hardware.flash import Flash
from coap_device.hardware.layout import Layout
from coap_device.hardware.power import BETWEEN_TRAILERS

NO_ENVELOPE: Final = bytes(32)
"""Envelope digest of an image that came without one: the factory image."""


class TrailerState(IntEnum):
    """What may be done with a slot's image."""

    EMPTY = 1
    """Nothing: the image is being written, or there is none."""
    TRIAL = 2
    """Boot it a few times; it goes unless it is confirmed."""
    CONFIRMED = 3
    """Boot it."""
    REVERTED = 4
    """Never boot it again."""


class TrailerEvent(Enum):
    """What happens to a slot."""

    PROVISION = "provision"
    ACTIVATE = "activate"
    ATTEMPT = "attempt"
    CONFIRM = "confirm"
    REVERT = "revert"
    INVALIDATE = "invalidate"


TRANSITIONS: Final[dict[tuple[TrailerState, TrailerEvent], TrailerState]] = {
    (TrailerState.EMPTY, TrailerEvent.PROVISION): TrailerState.CONFIRMED,
    (TrailerState.EMPTY, TrailerEvent.ACTIVATE): TrailerState.TRIAL,
    (TrailerState.TRIAL, TrailerEvent.ATTEMPT): TrailerState.TRIAL,
    (TrailerState.TRIAL, TrailerEvent.CONFIRM): TrailerState.CONFIRMED,
    (TrailerState.TRIAL, TrailerEvent.REVERT): TrailerState.REVERTED,
    (TrailerState.EMPTY, TrailerEvent.INVALIDATE): TrailerState.EMPTY,
    (TrailerState.TRIAL, TrailerEvent.INVALIDATE): TrailerState.EMPTY,
    (TrailerState.CONFIRMED, TrailerEvent.INVALIDATE): TrailerState.EMPTY,
    (TrailerState.REVERTED, TrailerEvent.INVALIDATE): TrailerState.EMPTY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailerRecord:
    """One state of one slot.

    ``counter`` is 0 only for a slot that never had a record, ``attempts`` counts trial boots, ``manifest_digest`` is
    the signed digest of the manifest that brought the image (`NO_ENVELOPE` without one).
    """

    counter: int
    state: TrailerState
    attempts: int
    manifest_digest: bytes


TRAILER_FORMAT: Final = RecordFormat(
    TrailerRecord,
    b"TRLR",
    (
        RecordField("counter", "I"),
        RecordField("state", "B", TrailerState),
        RecordField("attempts", "B"),
        RecordField("manifest_digest", "32s"),
    ),
)
_NEVER: Final = TrailerRecord(counter=0, state=TrailerState.EMPTY, attempts=0, manifest_digest=NO_ENVELOPE)
_MAX_ATTEMPTS: Final = 255


class Trailers:
    """The trailers of both slots."""

    def __init__(self, flash: Flash, layout: Layout) -> None:
        self._flash = flash
        self._regions = tuple(slot.trailers for slot in layout.slots)
        self._logs = tuple(
            tuple(RecordLog(flash, region.offset, region.size, TRAILER_FORMAT) for region in slot.trailers)
            for slot in layout.slots
        )

    def read(self, slot: int) -> TrailerRecord:
        """Return the newest record of ``slot`` that holds, in either copy."""
        return max(self._newest(slot, 0), self._newest(slot, 1), key=lambda record: record.counter)

    def update(self, slot: int, event: TrailerEvent, *, manifest_digest: bytes | None = None) -> TrailerRecord:
        """Let ``event`` happen to ``slot`` and return the new record.

        Args:
            slot: 0 or 1.
            event: what happens; `TRANSITIONS` tells whether it can.
            manifest_digest: of the new image, 32 bytes; None keeps the one that stands there.

        Raises:
            SlotError: the slot's state does not allow the event.
        """
        self.repair(slot)
        now = self.read(slot)
        state = TRANSITIONS.get((now.state, event))
        if state is None:
            raise SlotError(f"slot {'AB'[slot]}: cannot {event.value} while it is {now.state.name.lower()}")
        record = TrailerRecord(
            counter=1 + max(self.read(0).counter, self.read(1).counter),
            state=state,
            attempts=min(_attempts_after(now, event), _MAX_ATTEMPTS),
            manifest_digest=_digest_after(now, event) if manifest_digest is None else manifest_digest,
        )
        self._write(slot, 0, record)
        self._flash.point(BETWEEN_TRAILERS)
        self._write(slot, 1, record)
        return record

    def repair(self, slot: int) -> bool:
        """Write the newest record into the copy that lags, and tell whether one did."""
        newest = self.read(slot)
        lagging = [copy for copy in (0, 1) if self._newest(slot, copy) != newest]
        for copy in lagging:
            self._write(slot, copy, newest)
        return bool(lagging)

    def _newest(self, slot: int, copy: int) -> TrailerRecord:
        return max(self._logs[slot][copy].read_all(), key=lambda record: record.counter, default=_NEVER)

    def _write(self, slot: int, copy: int, record: TrailerRecord) -> None:
        if not self._logs[slot][copy].append(record):
            # Safe: the other copy holds the record that is newest now (`repair` ran before the first copy was written).
            self._flash.erase(self._regions[slot][copy].offset)
            self._flash.sync()
            self._logs[slot][copy].append(record)


def _attempts_after(now: TrailerRecord, event: TrailerEvent) -> int:
    if event is TrailerEvent.ATTEMPT:
        return now.attempts + 1
    return now.attempts if event in (TrailerEvent.CONFIRM, TrailerEvent.REVERT) else 0


def _digest_after(now: TrailerRecord, event: TrailerEvent) -> bytes:
    return NO_ENVELOPE if event in (TrailerEvent.INVALIDATE, TrailerEvent.PROVISION) else now.manifest_digest
