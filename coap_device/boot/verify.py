"""What the bootloader trusts: a signature by a provisioned anchor over a manifest whose validate section holds.

The factory image came without a manifest; its digest stands in the bootloader's own region instead.
"""

import hmac
from typing import Final

from coap_device.boot.bootloader import VerifiedImage
from coap_device.boot.envelopes import EnvelopeStore
from coap_device.boot.provisioning import FACTORY_SEQUENCE_NUMBER, Provisioning
from coap_device.boot.slots import SlotHeader, SlotStore
from coap_device.boot.trailer import NO_ENVELOPE
from coap_device.errors import BootError, SlotError
from protocol.cose.keys import load_public_keys
from protocol.suit.authentication import TrustAnchors, authenticate
from protocol.suit.author import FW, FW_INDEX
from protocol.suit.codec import Decoded, decode_manifest
from protocol.suit.effects import Effect, MatchIdentifier, MatchImage, MatchSlot
from protocol.suit.envelope import manifest_digest
from protocol.suit.labels import DigestAlgorithm, Parameter
from protocol.suit.model import Digest
from protocol.suit.processor import Procedure, Processor, perform_all

_IDENTIFIERS: Final = {Parameter.VENDOR_IDENTIFIER: "vendor_id", Parameter.CLASS_IDENTIFIER: "class_id"}


def trust_anchors(provisioning: Provisioning) -> TrustAnchors:
    """Return the keys that the factory wrote."""
    return tuple(key for encoded in provisioning.trust_anchors for key in load_public_keys(encoded))


class SlotVerifier:
    """The bootloader's ``verify``: reads flash, writes nothing."""

    def __init__(self, slots: SlotStore, envelopes: EnvelopeStore, provisioning: Provisioning) -> None:
        self._slots = slots
        self._envelopes = envelopes
        self._provisioning = provisioning
        self._anchors = trust_anchors(provisioning)

    def __call__(self, slot: int) -> VerifiedImage:
        """Return what holds of the image in ``slot``.

        Raises:
            OtaError: header, envelope, signature, manifest or image does not hold; the message says which.
        """
        header = self._slots.read_header(slot)
        if header is None:
            raise SlotError(f"slot {'AB'[slot]}: the header does not hold")
        if self._slots.trailers.read(slot).manifest_digest == NO_ENVELOPE:
            return self._verify_factory(slot, header)
        envelope = self._envelopes.read(slot)
        if envelope is None:
            raise SlotError(f"slot {'AB'[slot]}: the envelope does not hold")
        authentic = authenticate(envelope, self._anchors)
        decoded = decode_manifest(authentic)
        image, size = self._validate(slot, decoded)
        found = SlotHeader(
            image_size=size,
            sequence_number=decoded.manifest.sequence_number,
            image_digest=image,
            manifest_digest=manifest_digest(authentic.envelope),
        )
        if found != header:
            raise SlotError(f"slot {'AB'[slot]}: header and manifest name different images")
        return VerifiedImage(
            image_digest=image,
            size=size,
            sequence_number=found.sequence_number,
            manifest_digest=found.manifest_digest,
        )

    def _verify_factory(self, slot: int, header: SlotHeader) -> VerifiedImage:
        factory = self._provisioning
        found = self._slots.hash_image(slot, factory.image_size)
        if header.image_size != factory.image_size or not hmac.compare_digest(found, factory.image_digest):
            raise SlotError(f"slot {'AB'[slot]}: not the factory image")
        return VerifiedImage(
            image_digest=found,
            size=factory.image_size,
            sequence_number=FACTORY_SEQUENCE_NUMBER,
            manifest_digest=None,
        )

    def _validate(self, slot: int, decoded: Decoded) -> tuple[bytes, int]:
        if decoded.manifest.common.components[FW_INDEX] != FW:
            raise BootError(f"slot {'AB'[slot]}: the manifest's first component is not the firmware")
        held: list[Effect] = []

        def check(effect: Effect) -> bool:
            if self._check(slot, effect):
                held.append(effect)
                return True
            return False

        perform_all(Processor(decoded).run(Procedure.VALIDATE), check)
        matched = next((effect for effect in reversed(held) if isinstance(effect, MatchImage)), None)
        identified = {effect.kind for effect in held if isinstance(effect, MatchIdentifier)}
        # A manifest whose validate section checks no image must not vouch for one.
        if matched is None or matched.size is None:
            raise BootError(f"slot {'AB'[slot]}: the manifest's validate section checks no image")
        if not _IDENTIFIERS.keys() <= identified:
            raise BootError(f"slot {'AB'[slot]}: the manifest does not check vendor and class")
        return matched.digest.value, matched.size

    def _check(self, slot: int, effect: Effect) -> bool:
        if effect.component != FW_INDEX:
            return False
        if isinstance(effect, MatchIdentifier):
            name = _IDENTIFIERS.get(effect.kind)
            return name is not None and getattr(self._provisioning, name) == effect.value
        if isinstance(effect, MatchSlot):
            return effect.slot == slot
        if isinstance(effect, MatchImage):
            return self._image_matches(slot, effect.digest, effect.size)
        raise BootError(f"slot {'AB'[slot]}: {type(effect).__name__} has no place in a validate section")

    def _image_matches(self, slot: int, digest: Digest, size: int | None) -> bool:
        if size is None or digest.algorithm is not DigestAlgorithm.SHA_256:
            return False
        return hmac.compare_digest(self._slots.hash_image(slot, size), digest.value)
