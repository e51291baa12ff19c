"""Envelopes to and from bytes, in the order in which they may be trusted.

1. `open_envelope`: the outer map only. Nothing inside the byte strings is looked at.
2. `authenticate`: the digest over the manifest's bytes, then a signature over that digest by a trusted key.
3. `decode_manifest`: only now the manifest is parsed, and each severed member is held against its digest.

The digest is computed over the manifest *as a CBOR byte string, head included*; the signature covers the bytes of the
SUIT_Digest array without a head; external_aad is empty.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol import cbor, schema
from protocol.cose import sign1
from protocol.cose.algorithms import Algorithm
from protocol.cose.keys import PublicKey, Signer
from protocol.errors import (
    REASON_SEVERING_UNSUPPORTED,
    AuthenticityError,
    DecodeError,
    OtaError,
    ProtocolError,
    UnsupportedError,
)
from protocol.schema import expect
from protocol.suit.labels import (
    ENVELOPE_TAG,
    MANIFEST_TAG,
    MANIFEST_VERSION,
    SEVERABLE,
    DigestAlgorithm,
    EnvelopeKey,
    ManifestKey,
)
from protocol.suit.manifest import Manifest
from protocol.suit.model import Digest, Envelope, Sequence, digest_from_value
from protocol.suit.sequences import decode_sequence

LIMITS: Final = cbor.Limits(size=8 * 1024 * 1024, depth=8, count=256)
"""The outer map; integrated payloads may be large."""
MANIFEST_LIMITS: Final = cbor.Limits(size=65_536, depth=16, count=4_096)
MAX_AUTHENTICATION_BLOCKS: Final = 8

TrustAnchors = tuple[PublicKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentic:
    """An envelope whose manifest was signed by ``key``. ``digest`` is the signed SUIT_Digest of the manifest."""

    envelope: Envelope
    digest: Digest
    key: PublicKey
    algorithm: Algorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An authentic manifest, parsed. ``sequences`` holds those that are present, severed ones included, by key."""

    authentic: Authentic
    manifest: Manifest
    sequences: Mapping[ManifestKey, Sequence]
    text: bytes | None


def open_envelope(data: bytes, *, allow_untagged: bool = False) -> Envelope:
    """Return the envelope's members without looking into them.

    Args:
        data: the whole envelope.
        allow_untagged: whether the map may stand without tag 107, as TEEP sends it.

    Raises:
        DecodeError: not deterministic CBOR, another tag, a member missing, unknown or of the wrong type.
    """
    value = cbor.decode(data, path="envelope", limits=LIMITS)
    if isinstance(value, cbor.Tag):
        if value.number == MANIFEST_TAG:
            raise DecodeError("tag 1070 is a bare, unsigned manifest; an envelope (tag 107) is due", path="envelope")
        if value.number != ENVELOPE_TAG:
            raise DecodeError(f"tag {value.number}, an envelope has tag {ENVELOPE_TAG}", path="envelope")
        value = value.value
    elif not allow_untagged:
        raise DecodeError(f"tag {ENVELOPE_TAG} is missing", path="envelope")
    mapping = expect(value, dict, "envelope")
    members: dict[int, bytes] = {}
    payloads: dict[str, bytes] = {}
    for label, item in mapping.items():
        if isinstance(label, str):
            payloads[label] = expect(item, bytes, f"envelope.{cbor.brief(label)}")
        elif isinstance(label, int) and not isinstance(label, bool) and label in _ENVELOPE_KEYS:
            members[label] = expect(item, bytes, f"envelope.{label}")
        else:
            raise DecodeError(f"unknown key {cbor.brief(label)}", path="envelope")
    for due in (EnvelopeKey.AUTHENTICATION_WRAPPER, EnvelopeKey.MANIFEST):
        if due not in members:
            raise DecodeError(f"key {int(due)} ({due.name.lower().replace('_', '-')}) is missing", path="envelope")
    return Envelope(
        raw=data,
        wrapper=members.pop(EnvelopeKey.AUTHENTICATION_WRAPPER),
        manifest=members.pop(EnvelopeKey.MANIFEST),
        members=members,
        payloads=payloads,
    )


def read_wrapper(envelope: Envelope) -> tuple[bytes, Digest, tuple[bytes, ...]]:
    """Return the signed bytes of the digest, the digest they are, and the encoded COSE blocks.

    Raises:
        DecodeError: the wrapper is not an array of byte strings that begins with a SUIT_Digest.
    """
    path = "envelope.authentication-wrapper"
    items = expect(cbor.decode(envelope.wrapper, path=path), tuple, path)
    if not items:
        raise DecodeError("empty, it begins with the manifest's digest", path=path)
    if len(items) - 1 > MAX_AUTHENTICATION_BLOCKS:
        raise DecodeError(f"{len(items) - 1} blocks, the limit is {MAX_AUTHENTICATION_BLOCKS}", path=path)
    signed = expect(items[0], bytes, f"{path}[0]")
    digest = digest_from_value(cbor.decode(signed, path=f"{path}[0]"), f"{path}[0]")
    return signed, digest, tuple(expect(item, bytes, f"{path}[{n}]") for n, item in enumerate(items[1:], 1))


def manifest_digest(envelope: Envelope) -> bytes:
    """Return the SHA-256 that names the manifest between server and device, whatever was severed from its envelope."""
    return hashlib.sha256(cbor.wrap(envelope.manifest)).digest()


def check_digest(envelope: Envelope, digest: Digest) -> None:
    """Return if the manifest's bytes have the wrapper's digest.

    Raises:
        AuthenticityError: they have not.
    """
    if not digest.matches(cbor.wrap(envelope.manifest)):
        raise AuthenticityError("envelope.manifest: the digest in the authentication wrapper is of other bytes")


def check_block(block: bytes, signed: bytes, keys: Iterable[PublicKey], path: str) -> tuple[PublicKey, Algorithm]:
    """Return the trusted key and the algorithm under which one authentication block holds.

    Raises:
        ProtocolError: what is wrong with the block.
    """
    message = sign1.decode(cbor.decode(block, path=path), path)
    if message.payload is not None:
        raise DecodeError("the payload is detached in an authentication wrapper, nil is due", path=path)
    return sign1.verify(message, signed, keys), message.algorithm


def authenticate(data: bytes, trust: TrustAnchors, *, allow_untagged: bool = False) -> Authentic:
    """Return the envelope if a key of ``trust`` signed its manifest. Nothing of the manifest is parsed.

    Of several blocks any one that a trusted key verifies suffices; the others may be of kinds unknown here.

    Raises:
        DecodeError: the envelope or its wrapper is not of the form.
        AuthenticityError: unsigned, signed by a stranger, or changed.
        UnsupportedError: the only block is of an algorithm or form that is not known.
    """
    envelope = open_envelope(data, allow_untagged=allow_untagged)
    signed, digest, blocks = read_wrapper(envelope)
    check_digest(envelope, digest)
    if not blocks:
        raise AuthenticityError("envelope.authentication-wrapper: no signature, unsigned manifests are refused")
    failures: list[OtaError] = []
    for number, block in enumerate(blocks, 1):
        try:
            key, algorithm = check_block(block, signed, trust, f"envelope.authentication-wrapper[{number}]")
        except ProtocolError as error:
            failures.append(error)
            continue
        return Authentic(envelope=envelope, digest=digest, key=key, algorithm=algorithm)
    # With one block its own failure says most; with several, that none of them is trusted.
    if len(failures) == 1:
        raise failures[0]
    raise AuthenticityError("envelope.authentication-wrapper: no trusted key verifies any of the blocks")


def decode_manifest(authentic: Authentic) -> Decoded:
    """Return the parsed manifest of an authenticated envelope.

    Raises:
        DecodeError: the manifest or a sequence is not of the form.
        AuthenticityError: a severed member is not the one whose digest was signed.
        UnsupportedError: another manifest version.
    """
    envelope = authentic.envelope
    manifest = schema.decode(Manifest, envelope.manifest, path="envelope.manifest", limits=MANIFEST_LIMITS)
    if manifest.version != MANIFEST_VERSION:
        raise UnsupportedError(
            f"envelope.manifest.version: {manifest.version}, this is for {MANIFEST_VERSION}", reason=1
        )
    if not manifest.common.components:
        raise DecodeError("no component", path="envelope.manifest.common.components")
    severed = _check_severed(manifest, envelope)
    sequences = {label: found for label in _SEQUENCES if (found := _sequence(manifest, label, severed)) is not None}
    text = manifest.text if isinstance(manifest.text, bytes) else severed.get(ManifestKey.TEXT)
    return Decoded(authentic=authentic, manifest=manifest, sequences=sequences, text=text)


def require_sequence(decoded: Decoded, label: ManifestKey) -> Sequence | None:
    """Return the sequence of ``label``, or None where the manifest has none.

    Raises:
        UnsupportedError: it was severed and does not come with the envelope.
    """
    value = getattr(decoded.manifest, _attribute(label))
    if isinstance(value, Digest) and label not in decoded.sequences:
        raise UnsupportedError(
            f"envelope.{_attribute(label)}: severed, and needed here", reason=REASON_SEVERING_UNSUPPORTED
        )
    return decoded.sequences.get(label)


def encode_envelope(
    manifest: Manifest, signers: Iterable[Signer], members: Mapping[ManifestKey, bytes] | None = None
) -> bytes:
    """Return a signed envelope: tag 107, SHA-256 over the manifest, one COSE_Sign1 of each signer."""
    encoded = schema.encode(manifest)
    digest = cbor.encode(member_digest(encoded).to_value())
    blocks = [cbor.encode(sign1.sign(signer, digest)) for signer in signers]
    return cbor.encode(
        cbor.Tag(
            ENVELOPE_TAG,
            {
                EnvelopeKey.AUTHENTICATION_WRAPPER: cbor.encode((digest, *blocks)),
                EnvelopeKey.MANIFEST: encoded,
                **{int(label): content for label, content in (members or {}).items()},
            },
        )
    )


def member_digest(content: bytes) -> Digest:
    """Return the SHA-256 digest of a member as the drafts compute it: over the byte string, head included."""
    return Digest(DigestAlgorithm.SHA_256, hashlib.sha256(cbor.wrap(content)).digest())


def _check_severed(manifest: Manifest, envelope: Envelope) -> dict[int, bytes]:
    found = {}
    for label, content in envelope.members.items():
        value = getattr(manifest, _attribute(ManifestKey(label)))
        if not isinstance(value, Digest):
            raise DecodeError("the manifest has no digest for this member", path=f"envelope.{label}")
        if not value.matches(cbor.wrap(content)):
            raise AuthenticityError(f"envelope.{label}: the severed member is not the one that was signed")
        found[label] = content
    return found


def _sequence(manifest: Manifest, label: ManifestKey, severed: Mapping[int, bytes]) -> Sequence | None:
    value = getattr(manifest, _attribute(label))
    if isinstance(value, Sequence):
        return value
    if label in severed:
        return decode_sequence(severed[label], f"envelope.{_attribute(label).replace('_', '-')}")
    return None


def _attribute(label: ManifestKey) -> str:
    return label.name.lower()


_ENVELOPE_KEYS: Final = frozenset(EnvelopeKey)
_SEQUENCES: Final = (
    *(label for label in SEVERABLE if label not in (ManifestKey.COSWID, ManifestKey.TEXT)),
    ManifestKey.VALIDATE,
    ManifestKey.LOAD,
    ManifestKey.INVOKE,
    ManifestKey.UNINSTALL,
)
