"""Performs what the manifest processor asks for, on the slots of the board.

The aliases of the manifest mean: ``fw`` the slot that does not run, ``run`` the slot that runs, ``delta`` the staging
area. Nothing is written before the manifest has shown that it is for this device; the first effect that writes makes
the slot's trailer EMPTY and keeps the envelope beside it, so that a device that wakes up again knows what it was doing.
"""

import asyncio
import dataclasses
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from coap_device.boot.board import Board
from coap_device.boot.bootloader import BootResult
from coap_device.boot.slots import SlotHeader, hash_flash
from coap_device.boot.store import PayloadStore
from coap_device.boot.trailer import TrailerState
from coap_device.hardware.layout import Region
from protocol.delta import CODECS
from protocol.errors import (
    REASON_COMPONENT_UNSUPPORTED,
    AuthenticityError,
    OperationError,
    OtaError,
    PolicyError,
    ProtocolError,
    RequestRefused,
    TransferError,
    UnsupportedError,
)
from protocol.messages import Via
from protocol.suit.author import DELTA, FW, RUN
from protocol.suit.codec import Decoded
from protocol.suit.effects import ApplyDelta, Effect, Fetch, MatchIdentifier, MatchImage, MatchSlot
from protocol.suit.identifiers import class_id
from protocol.suit.labels import DigestAlgorithm, Parameter
from protocol.suit.model import ComponentId, Digest

logger = logging.getLogger(__name__)

IDENTITY: Final = frozenset({Parameter.VENDOR_IDENTIFIER, Parameter.CLASS_IDENTIFIER})
"""What a manifest must have asked for, and got right, before anything is written: one key may sign for many models."""
PIECES_PER_TURN: Final = 16
"""Pieces of an image (4 KiB each at most) that are handled before the event loop gets a turn."""


class Role(Enum):
    """What a component of the manifest is on this device."""

    TARGET = FW
    RUNNING = RUN
    STAGING = DELTA


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A payload to fetch into a store."""

    uri: str
    digest: bytes
    size: int
    store: PayloadStore
    via: Via
    again: bool = False
    """Whether all of it was there already and did not hold."""


Downloader = Callable[[Download], Awaitable[None]]


class Platform:
    """Effects of one manifest on one board. ``download`` brings a payload into its store and raises `OtaError`.

    Args:
        board: the board as it booted.
        running: what runs.
        decoded: the authenticated manifest.
        digest: the manifest's digest.
        download: fetches over the link.
    """

    def __init__(
        self, board: Board, running: BootResult, decoded: Decoded, digest: bytes, download: Downloader
    ) -> None:
        self._board = board
        self._running = running
        self._decoded = decoded
        self._digest = digest
        self._download = download
        self.target = 1 - running.slot
        self._roles = tuple(_role(component) for component in decoded.manifest.common.components)
        self._decoders = {class_id(board.provisioning.vendor_id, name): codec for name, codec in CODECS.items()}
        self._begun = False
        self._delta_in_hand = False
        self._matched: MatchImage | None = None
        self._identified: set[Parameter] = set()
        self.via: Via | None = None

    async def perform(self, effect: Effect) -> bool | None:
        """Do ``effect`` and return its outcome.

        Raises:
            OtaError: it cannot be done.
        """
        if isinstance(effect, MatchIdentifier):
            return self._match_identifier(effect)
        if isinstance(effect, MatchSlot):
            return self._roles[effect.component] is Role.TARGET and effect.slot == self.target
        if isinstance(effect, MatchImage):
            return self._match_image(effect)
        if isinstance(effect, Fetch):
            await self._fetch(effect)
        elif isinstance(effect, ApplyDelta):
            await self._apply_delta(effect)
        else:
            raise UnsupportedError(f"this device cannot do {type(effect).__name__}")
        return None

    def withhold_delta_after(self, error: OtaError) -> bool:
        """Whether ``error`` is a definite failure of the delta, and if so remember to take the full image next time.

        Loss is no failure: the next run resumes. A server that is overloaded (5.xx) is none either, nor is a fault of
        this device's own flash.
        """
        passing = error.retryable or (isinstance(error, RequestRefused) and error.code >> 5 == 5)
        definite = not passing and isinstance(error, ProtocolError | TransferError)
        if not (self._delta_in_hand and definite):
            return False
        self._delta_in_hand = False
        self._board.ledger.withhold_delta(self._digest)
        return True

    def activate(self) -> None:
        """Offer the installed image to the next boot, on trial.

        Raises:
            OperationError: the manifest installed nothing that its own validate section checked.
        """
        matched = self._matched
        if matched is None or matched.size is None:
            raise OperationError("the manifest's last image-match on the firmware did not hold: nothing to boot")
        if not self._is_activated():
            self._begin()
        header = SlotHeader(
            image_size=matched.size,
            sequence_number=self._decoded.manifest.sequence_number,
            image_digest=matched.digest.value,
            manifest_digest=self._digest,
        )
        self._board.bootloader.activate(self.target, header)

    def _match_identifier(self, effect: MatchIdentifier) -> bool:
        matches = self._is_ours(effect)
        if matches and self._roles[effect.component] is Role.TARGET:
            self._identified.add(effect.kind)
        return matches

    def _is_ours(self, effect: MatchIdentifier) -> bool:
        role = self._roles[effect.component]
        identity = self._board.provisioning
        if effect.kind is Parameter.VENDOR_IDENTIFIER:
            return effect.value == identity.vendor_id
        if effect.kind is Parameter.DEVICE_IDENTIFIER:
            return effect.value == class_id(identity.vendor_id, f"device/{identity.device_id}")
        if role is Role.STAGING:
            # The staging component's class is a decoder. It is withheld after a definite failure with this manifest,
            # or a signed but broken delta would be tried for ever.
            return effect.value in self._decoders and not self._board.ledger.withheld_count(self._digest)
        return effect.value == identity.class_id

    def _match_image(self, effect: MatchImage) -> bool:
        if effect.digest.algorithm is not DigestAlgorithm.SHA_256:
            raise UnsupportedError(f"image digest {effect.digest.algorithm.name}; this device hashes SHA-256")
        role = self._roles[effect.component]
        if role is Role.RUNNING:
            same = hmac.compare_digest(effect.digest.value, self._running.image_digest)
            return same and effect.size in (None, self._running.size)
        if effect.size is None:
            return False
        if role is Role.STAGING:
            return self._board.payload_store(self._board.layout.staging).is_verified(effect.digest.value, effect.size)
        self._check_room(effect.size, self._target_region())
        matches = hmac.compare_digest(self._board.slots.hash_image(self.target, effect.size), effect.digest.value)
        self._matched = effect if matches else None
        if not matches and self._delta_in_hand:
            # The decoder was content and the image is wrong: do not take this delta again.
            self._delta_in_hand = False
            self._board.ledger.withhold_delta(self._digest)
        return matches

    async def _fetch(self, effect: Fetch) -> None:
        role = self._roles[effect.component]
        if role is Role.RUNNING:
            raise PolicyError("the running image is never written")
        if effect.digest is None or effect.size is None:
            raise OperationError(f"fetch of {effect.uri}: a payload without signed digest and size is not accepted")
        via = Via.DELTA if role is Role.STAGING else Via.IMAGE
        region = self._board.layout.staging if role is Role.STAGING else self._target_region()
        self._delta_in_hand = via is Via.DELTA
        self._check_room(effect.size, region)
        self._begin()
        store = self._board.payload_store(region)
        if not store.is_verified(effect.digest.value, effect.size):
            download = Download(uri=effect.uri, digest=effect.digest.value, size=effect.size, store=store, via=via)
            await self._download(download)
            if not store.complete():
                # A bit that flipped on the link or in flash: the store is empty again, and one more try is worth it.
                await self._download(dataclasses.replace(download, again=True))
                if not store.complete():
                    raise OperationError(f"{effect.uri}: fetched twice, and not the payload that was signed")
        self.via = via

    async def _apply_delta(self, effect: ApplyDelta) -> None:
        roles = tuple(self._roles[index] for index in (effect.component, effect.patch, effect.precursor))
        if roles != (Role.TARGET, Role.STAGING, Role.RUNNING):
            raise OperationError(f"apply-delta on {[role.name.lower() for role in roles]}")
        self._check_room(effect.size, self._target_region())
        codec = self._decoders.get(effect.decoder)
        if codec is None:
            raise UnsupportedError("apply-delta with a decoder that this device does not have")
        staging, running = self._board.layout.staging, self._board.layout.slots[self._running.slot].image
        self._require(staging, effect.patch_size, effect.patch_digest, "the staged delta")
        self._require(running, self._running.size, effect.precursor_digest, "the running image")
        self._begin()
        flash = self._board.flash
        writer = self._board.slots.image_writer(self.target)
        pieces = codec.patch(
            lambda offset, size: flash.read(running.offset + offset, size),
            self._running.size,
            lambda offset, size: flash.read(staging.offset + offset, max(0, min(size, effect.patch_size - offset))),
            effect.patch_size,
            effect.size,
        )
        for number, piece in enumerate(pieces):
            writer.write(piece)
            if number % PIECES_PER_TURN == 0:
                await asyncio.sleep(0)
        writer.finish()

    def _begin(self) -> None:
        """Make the target slot ours: nothing of it boots any more, and its envelope area holds this manifest."""
        if self._begun:
            return
        if not IDENTITY <= self._identified:
            raise PolicyError("the manifest does not check vendor and class: it does not say which devices it is for")
        self._board.slots.invalidate(self.target)
        self._board.envelopes.write(self.target, self._decoded.authentic.envelope.raw)
        self._begun = True

    def _is_activated(self) -> bool:
        # On trial only: a confirmed slot that this device had to leave (its header or envelope rotted) begins anew.
        record = self._board.slots.trailers.read(self.target)
        return record.state is TrailerState.TRIAL and record.manifest_digest == self._digest

    def _require(self, region: Region, size: int, digest: Digest, what: str) -> None:
        if not hmac.compare_digest(hash_flash(self._board.flash, region.offset, size), digest.value):
            raise AuthenticityError(f"{what} is not the one that was signed")

    def _check_room(self, size: int, region: Region) -> None:
        if size > region.size:
            raise PolicyError(f"{size} bytes for {region.name}, the limit is {region.size}")

    def _target_region(self) -> Region:
        return self._board.layout.slots[self.target].image


def _role(component: ComponentId) -> Role:
    try:
        return Role(component)
    except ValueError as error:
        raise UnsupportedError(
            f"component {[part.hex() for part in component]} is not on this device",
            reason=REASON_COMPONENT_UNSUPPORTED,
        ) from error
