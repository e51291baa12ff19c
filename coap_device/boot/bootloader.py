"""The bootloader: which image runs, and what becomes of one that does not hold.

* Nothing is booted unverified: at every boot, of a trial or a confirmed image, the envelope is authenticated, its
  manifest validated and the image hashed. How, is behind the ``verify`` seam.
* The candidates are tried in the order of their trailers' counters, newest first.
* A trial image gets a few attempts. The attempt is counted in flash before the jump, so a firmware that hangs or
  browns out cannot boot for ever; when they are used up, or when it does not verify, it is reverted for good.
* A confirmed image that does not verify any more (bit rot) is passed over for the other slot.
* Confirming raises the anti-rollback floor after the trailer is confirmed. A cut in between is made good at the next
  boot, so the floor never stands above an image that could still be reverted.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from coap_device.boot.ledger import Ledger
from coap_device.boot.slots import SlotHeader, SlotStore
from coap_device.boot.trailer import NO_ENVELOPE, TrailerEvent, TrailerRecord, TrailerState
from coap_device.errors import BootError, SlotError
from coap_device.hardware.power import ATTEMPT_COUNTED
from protocol.errors import OtaError

logger = logging.getLogger(__name__)

TRIAL_LIMIT: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedImage:
    """What verification vouches for; ``manifest_digest`` is None for the factory image, which has no envelope."""

    image_digest: bytes
    size: int
    sequence_number: int
    manifest_digest: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootResult:
    """The image that runs now.

    ``state`` is TRIAL or CONFIRMED, ``reverted`` the manifest digest of a slot that was reverted at this boot (the
    newest, if two were), ``log`` what happened, for people.
    """

    slot: int
    image_digest: bytes
    size: int
    sequence_number: int
    manifest_digest: bytes | None
    state: TrailerState
    reverted: bytes | None
    log: tuple[str, ...]


@dataclass(slots=True)
class _Story:
    lines: list[str] = field(default_factory=list)
    reverted: bytes | None = None

    def tell(self, level: int, line: str) -> None:
        self.lines.append(line)
        logger.log(level, "%s", line)


class Bootloader:
    """Boots, and changes the state of slots for the firmware that runs.

    Args:
        slots: headers, images and trailers.
        ledger: takes the floor and the digests of reverted envelopes.
        verify: authenticates and hashes what is in a slot; raises `OtaError` when anything does not hold.
        trial_limit: boots that a trial image gets, at least 1.
    """

    def __init__(
        self,
        slots: SlotStore,
        ledger: Ledger,
        verify: Callable[[int], VerifiedImage],
        *,
        trial_limit: int = TRIAL_LIMIT,
    ) -> None:
        if trial_limit < 1:
            raise SlotError(f"a trial limit of {trial_limit} would never boot a new image")
        self._slots = slots
        self._trailers = slots.trailers
        self._ledger = ledger
        self._verify = verify
        self._trial_limit = trial_limit

    def boot(self) -> BootResult:
        """Choose, verify and start an image.

        Raises:
            BootError: no slot holds an image that may run.
        """
        story = _Story()
        for slot in (0, 1):
            if self._trailers.repair(slot):
                story.tell(logging.WARNING, f"slot {'AB'[slot]}: trailer copies differed, repaired")
        for slot in sorted((0, 1), key=lambda number: -self._trailers.read(number).counter):
            record = self._trailers.read(slot)
            image = self._try_slot(slot, record, story)
            if image is not None:
                return BootResult(
                    slot=slot,
                    image_digest=image.image_digest,
                    size=image.size,
                    sequence_number=image.sequence_number,
                    manifest_digest=image.manifest_digest,
                    state=record.state,
                    reverted=story.reverted,
                    log=tuple(story.lines),
                )
        raise BootError(f"no slot holds an image that may run: {'; '.join(story.lines) or 'both are empty'}")

    def activate(self, slot: int, header: SlotHeader) -> None:
        """Offer the image that was written to ``slot`` to the next boot, on trial. Done twice, it is done once.

        Raises:
            SlotError: the slot was not invalidated before its image was written.
        """
        record = self._trailers.read(slot)
        if record.state is TrailerState.TRIAL and record.manifest_digest == header.manifest_digest:
            if self._slots.read_header(slot) == header:
                self._trailers.repair(slot)
                return
        self._slots.require_empty(slot)
        self._slots.write_header(slot, header)
        self._trailers.update(slot, TrailerEvent.ACTIVATE, manifest_digest=header.manifest_digest)

    def confirm(self, slot: int) -> None:
        """Keep the trial image of ``slot`` for good and raise the floor to its sequence number. Idempotent.

        Raises:
            SlotError: the slot is neither on trial nor confirmed, or its header is damaged.
        """
        header = self._slots.read_header(slot)
        if header is None:
            raise SlotError(f"slot {'AB'[slot]}: cannot confirm, the slot header is damaged")
        if self._trailers.read(slot).state is TrailerState.CONFIRMED:
            self._trailers.repair(slot)
        else:
            self._trailers.update(slot, TrailerEvent.CONFIRM)
        self._ledger.raise_floor(header.sequence_number)

    def revert(self, slot: int) -> None:
        """Give up the trial image of ``slot``; the next boot takes the other slot. Idempotent.

        Raises:
            SlotError: the slot is neither on trial nor reverted.
        """
        record = self._trailers.read(slot)
        if record.state is TrailerState.REVERTED:
            self._trailers.repair(slot)
            return
        if record.state is not TrailerState.TRIAL:
            raise SlotError(f"slot {'AB'[slot]}: cannot revert while it is {record.state.name.lower()}")
        # The ledger first: were it cut off after the trailer, the device would not know what never to run again.
        # In between, `boot` sees a trial image that the ledger names, and reverts it.
        if record.manifest_digest != NO_ENVELOPE:
            self._ledger.mark_reverted(record.manifest_digest)
        self._trailers.update(slot, TrailerEvent.REVERT)

    def _try_slot(self, slot: int, record: TrailerRecord, story: _Story) -> VerifiedImage | None:
        if record.state is TrailerState.TRIAL:
            return self._try_trial(slot, record, story)
        if record.state is TrailerState.CONFIRMED:
            return self._try_confirmed(slot, story)
        return None

    def _try_trial(self, slot: int, record: TrailerRecord, story: _Story) -> VerifiedImage | None:
        letter = "AB"[slot]
        if self._ledger.is_reverted(record.manifest_digest):
            self._give_up(slot, record, "was given up before the power failed", story)
            return None
        if record.attempts >= self._trial_limit:
            self._give_up(slot, record, f"not confirmed after {record.attempts} trial boots", story)
            return None
        try:
            image = self._verified(slot, record)
        except OtaError as error:
            self._give_up(slot, record, f"does not verify: {error}", story)
            return None
        counted = self._trailers.update(slot, TrailerEvent.ATTEMPT)
        self._slots.flash.point(ATTEMPT_COUNTED)
        story.tell(logging.INFO, f"slot {letter}: trial boot {counted.attempts} of {self._trial_limit}")
        return image

    def _try_confirmed(self, slot: int, story: _Story) -> VerifiedImage | None:
        try:
            image = self._verified(slot, self._trailers.read(slot))
        except OtaError as error:
            story.tell(logging.ERROR, f"slot {'AB'[slot]}: the confirmed image does not verify: {error}")
            return None
        if image.sequence_number > self._ledger.floor():
            self._ledger.raise_floor(image.sequence_number)
            story.tell(logging.INFO, f"sequence floor raised to {image.sequence_number}")
        story.tell(logging.INFO, f"slot {'AB'[slot]}: booted the confirmed image")
        return image

    def _verified(self, slot: int, record: TrailerRecord) -> VerifiedImage:
        image = self._verify(slot)
        if (image.manifest_digest or NO_ENVELOPE) != record.manifest_digest:
            raise SlotError("the envelope is not the one that the trailer names")
        return image

    def _give_up(self, slot: int, record: TrailerRecord, why: str, story: _Story) -> None:
        self.revert(slot)
        if story.reverted is None and record.manifest_digest != NO_ENVELOPE:
            story.reverted = record.manifest_digest
        story.tell(logging.WARNING, f"slot {'AB'[slot]}: reverted: {why}")
