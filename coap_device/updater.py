"""One update, from an assignment to an image that the next boot will try, or to the reason why not.

What a manifest must pass before its first command runs: a signature by a provisioned key, then the parser, then the
anti-rollback floor and the list of manifests that this device has reverted.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from coap_device.boot.board import Board
from coap_device.boot.bootloader import BootResult
from coap_device.boot.verify import trust_anchors
from coap_device.downloads import MAX_MANIFEST, Link
from coap_device.lifecycle import Lifecycle, Stage
from coap_device.meter import Meter
from coap_device.platform import Platform
from protocol.errors import OperationError, OtaError, PolicyError, ProtocolError, TransferError
from protocol.messages import Assignment, Outcome
from protocol.suit.authentication import authenticate
from protocol.suit.codec import Decoded, decode_manifest
from protocol.suit.envelope import manifest_digest
from protocol.suit.processor import Procedure, Processor

logger = logging.getLogger(__name__)

Tell = Callable[..., None]
"""``tell(name, **data)``: one event of the trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An update that installed nothing. ``outcome`` is what to report, None where trying again may help."""

    digest: bytes
    outcome: Outcome | None
    error: OtaError


class Updater:
    """Takes assignments on one board, as it booted."""

    def __init__(
        self, board: Board, running: BootResult, link: Link, lifecycle: Lifecycle, meter: Meter, tell: Tell
    ) -> None:
        self._board = board
        self._running = running
        self._link = link
        self._lifecycle = lifecycle
        self._meter = meter
        self._tell = tell

    async def run(self, assignment: Assignment) -> Ended | None:
        """Return None when a new image awaits the next boot, else how the update ended. Raises nothing but a cut."""
        digest = assignment.manifest_digest or bytes(32)
        try:
            decoded = await self._manifest(assignment)
            digest = manifest_digest(decoded.authentic.envelope)
            self._check_policy(decoded, digest)
            self._lifecycle.go(Stage.INSTALLING)
            await self._install(decoded, digest)
        except OtaError as error:
            return Ended(digest=digest, outcome=_outcome(error), error=error)
        self._lifecycle.go(Stage.REBOOTING)
        return None

    async def _manifest(self, assignment: Assignment) -> Decoded:
        """Return the authenticated manifest: the one kept beside the other slot if that is assigned, or fetched."""
        anchors = trust_anchors(self._board.provisioning)
        kept = self._board.envelopes.read(1 - self._running.slot)
        if kept is not None:
            try:
                authentic = authenticate(kept, anchors)
            except OtaError:
                logger.debug("the envelope beside the other slot does not authenticate any more")
            else:
                if manifest_digest(authentic.envelope) == assignment.manifest_digest:
                    self._lifecycle.go(Stage.VERIFYING)
                    return decode_manifest(authentic)
        self._lifecycle.go(Stage.FETCHING_MANIFEST)
        limit = min(MAX_MANIFEST, self._board.envelopes.capacity)
        envelope = await self._link.fetch_small(assignment.manifest_uri or "", limit)
        self._lifecycle.go(Stage.VERIFYING)
        return decode_manifest(authenticate(envelope, anchors))

    def _check_policy(self, decoded: Decoded, digest: bytes) -> None:
        """Refuse what must not be processed, before its first command runs."""
        number, floor = decoded.manifest.sequence_number, self._board.ledger.floor()
        if number < floor:
            raise PolicyError(f"sequence number {number} is lower than {floor}: rollback refused")
        if self._board.ledger.is_reverted(digest):
            raise PolicyError("this manifest was reverted on this device before")
        if digest == self._running.manifest_digest:
            raise PolicyError("this manifest is installed already")
        self._tell("authentic", sequence=number, key=decoded.authentic.key.kind.value)

    async def _install(self, decoded: Decoded, digest: bytes) -> None:
        """Run the update procedure; once more, without the delta, if the delta failed for good."""
        platform = Platform(self._board, self._running, decoded, digest, self._link.fetch_payload)
        try:
            await _process(platform, decoded)
        except OtaError as error:
            if not platform.withhold_delta_after(error):
                raise
            self._tell("delta-withheld", why=str(error))
            platform = Platform(self._board, self._running, decoded, digest, self._link.fetch_payload)
            await _process(platform, decoded)
        self._meter.via = platform.via or self._meter.via
        platform.activate()
        via = platform.via.name.lower() if platform.via else "nothing"
        self._tell("installed", slot="AB"[platform.target], via=via)


async def _process(platform: Platform, decoded: Decoded) -> None:
    steps = Processor(decoded).run(Procedure.UPDATE)
    try:
        effect = next(steps)
        while True:
            try:
                outcome = await platform.perform(effect)
            except OtaError as error:
                # The processor decides what a failure means; it lets directives' failures through.
                effect = steps.throw(error)
            else:
                effect = steps.send(outcome)
    except StopIteration:
        return


def _outcome(error: OtaError) -> Outcome | None:
    if isinstance(error, TransferError):
        return None if error.retryable else Outcome.FAILED
    refused = isinstance(error, ProtocolError) and not isinstance(error, OperationError)
    return Outcome.REFUSED if refused else Outcome.FAILED
