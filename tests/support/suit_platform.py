"""A device in memory: enough of a platform to run manifests to their verdict, and one signer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol import cbor
from protocol.cose import sign1
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import PrivateKey, generate
from protocol.errors import OperationError, PolicyError
from protocol.suit.authentication import authenticate
from protocol.suit.codec import Decoded, decode_manifest, encode_envelope
from protocol.suit.effects import (
    ApplyDelta,
    Copy,
    Effect,
    Fetch,
    Invoke,
    MatchIdentifier,
    MatchImage,
    MatchSlot,
    Outcome,
)
from protocol.suit.envelope import member_digest
from protocol.suit.labels import ENVELOPE_TAG, Command, Parameter
from protocol.suit.manifest import Common, Manifest
from protocol.suit.model import ComponentId, Digest, Sequence
from protocol.suit.processor import Procedure, Processor, perform_all
from protocol.suit.sequences import sequence

SIGNER: PrivateKey = generate(KeyKind.P256)
TRUST = (SIGNER.public,)
DELTA_MAGIC = b"DELTA:"
"""A delta of this platform is this word and the new image."""


@dataclass(slots=True)
class Platform:
    """What the device is and holds. ``images`` is by component index, ``log`` every effect in the order it came."""

    images: dict[int, bytes] = field(default_factory=dict)
    uris: Mapping[str, bytes] = field(default_factory=dict)
    slots: Mapping[int, int] = field(default_factory=dict)
    identifiers: Mapping[Parameter, frozenset[bytes]] = field(default_factory=dict)
    invoked: list[bytes | None] = field(default_factory=list)
    log: list[Effect] = field(default_factory=list)

    def perform(self, effect: Effect) -> Outcome:
        """Do what ``effect`` asks; raise `OtaError` where it cannot be done."""
        self.log.append(effect)
        match effect:
            case MatchIdentifier(kind=kind, value=value):
                return value in self.identifiers.get(kind, frozenset())
            case MatchSlot(component=component, slot=slot):
                return self.slots.get(component, 0) == slot
            case MatchImage(component=component, digest=digest, size=size):
                return self._holds(component, digest, size)
            case Fetch(component=component, uri=uri):
                if uri not in self.uris:
                    raise OperationError(f"{uri}: 4.04")
                self.images[component] = self.uris[uri]
            case Copy(component=component, source=source):
                self.images[component] = self.images[source]
            case ApplyDelta():
                self._apply(effect)
            case Invoke(arguments=arguments):
                self.invoked.append(arguments)
        return None

    def fetched(self) -> list[str]:
        """Return the URIs that were fetched, in order."""
        return [effect.uri for effect in self.log if isinstance(effect, Fetch)]

    def _holds(self, component: int, digest: Digest, size: int | None) -> bool:
        content = self.images.get(component)
        return content is not None and size in (None, len(content)) and digest.matches(content)

    def _apply(self, effect: ApplyDelta) -> None:
        if not self._holds(effect.patch, effect.patch_digest, effect.patch_size):
            raise OperationError("the delta is another one")
        if not self._holds(effect.precursor, effect.precursor_digest, effect.precursor_size):
            raise OperationError("the precursor is another one")
        self.images[effect.component] = self.images[effect.patch].removeprefix(DELTA_MAGIC)


def run_envelope(
    envelope: bytes,
    platform: Platform,
    procedure: Procedure = Procedure.UPDATE,
    *,
    minimum_sequence: int = 0,
) -> Processor:
    """Authenticate with `TRUST`, decode, refuse a rollback, run."""
    decoded = decode_manifest(authenticate(envelope, TRUST))
    if decoded.manifest.sequence_number < minimum_sequence:
        raise PolicyError("sequence number is lower than the current one")
    processor = Processor(decoded)
    perform_all(processor.run(procedure), platform.perform)
    return processor


def decoded_manifest(
    *install: tuple[Command | int, object],
    shared: Sequence | None = None,
    validate: Sequence | None = None,
    components: tuple[ComponentId, ...] = ((b"fw",), (b"run",), (b"delta",)),
) -> Decoded:
    """Return a signed, authenticated and decoded manifest whose install sequence is ``install``."""
    manifest = Manifest(
        version=1,
        sequence_number=1,
        common=Common(components=components, shared_sequence=shared),
        validate=validate,
        install=commands(*install),
    )
    return decode_manifest(authenticate(encode_envelope(manifest, [SIGNER]), TRUST))


def commands(*items: tuple[Command | int, object]) -> Sequence:
    """Return a sequence that may hold codes without a name, or arguments of the wrong form."""
    flat: list[cbor.Value] = []
    for code, argument in items:
        single = cbor.decode(sequence((Command.CONDITION_ABORT, argument)).raw)
        flat += [int(code), single[1]]
    return Sequence(cbor.encode(flat), ())


def with_member(envelope: bytes, key: int | str, content: bytes | None) -> bytes:
    """Return the envelope with one outer member replaced, or left out where ``content`` is None; nothing is signed."""
    value = cbor.decode(envelope, limits=cbor.Limits(size=len(envelope)))
    mapping = {label: item for label, item in value.value.items() if label != key}
    if content is not None:
        mapping[key] = content
    return cbor.encode(cbor.Tag(value.number, mapping))


def encode_signed(content: bytes) -> bytes:
    """Return an envelope around any bytes as the manifest, with a digest and a signature that hold."""
    digest = cbor.encode(member_digest(content).to_value())
    block = cbor.encode(sign1.sign(SIGNER, digest))
    return cbor.encode(cbor.Tag(ENVELOPE_TAG, {2: cbor.encode((digest, block)), 3: content}))
