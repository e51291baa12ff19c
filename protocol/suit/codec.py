"""Manifests to and from bytes, in the order in which they may be trusted.

1. `protocol.suit.envelope`: the outer map only. Nothing inside the byte strings is looked at.
2. `protocol.suit.authentication`: the digest over the manifest's bytes, then signatures over that digest.
3. `decode_manifest`: only now the manifest is parsed, and each severed member is held against its digest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol import cbor, schema
from protocol.cose import sign1
from protocol.cose.keys import Signer
from protocol.errors import (
    REASON_SEVERING_UNSUPPORTED,
    AuthenticityError,
    DecodeError,
    UnsupportedError,
)
from protocol.suit.authentication import Authentic
from protocol.suit.envelope import member_digest
from protocol.suit.labels import (
    ENVELOPE_TAG,
    MANIFEST_VERSION,
    SEVERABLE,
    EnvelopeKey,
    ManifestKey,
)
from protocol.suit.manifest import Manifest
from protocol.suit.model import Digest, Envelope, Sequence
from protocol.suit.sequences import decode_sequence

MANIFEST_LIMITS: Final = cbor.Limits(size=65_536, depth=16, count=4_096)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An authentic manifest, parsed. ``sequences`` holds those that are present, severed ones included, by key."""

    authentic: Authentic
    manifest: Manifest
    sequences: Mapping[ManifestKey, Sequence]
    text: bytes | None


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


_SEQUENCES: Final = (
    *(label for label in SEVERABLE if label not in (ManifestKey.COSWID, ManifestKey.TEXT)),
    ManifestKey.VALIDATE,
    ManifestKey.LOAD,
    ManifestKey.INVOKE,
    ManifestKey.UNINSTALL,
)
