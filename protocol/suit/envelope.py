"""The outer map of an envelope: opened, but not looked into."""

import hashlib
from typing import Final

from protocol import cbor
from protocol.errors import DecodeError
from protocol.schema import expect
from protocol.suit.labels import ENVELOPE_TAG, MANIFEST_TAG, DigestAlgorithm, EnvelopeKey
from protocol.suit.model import Digest, Envelope

LIMITS: Final = cbor.Limits(size=8 * 1024 * 1024, depth=8, count=256)
"""The outer map; integrated payloads may be large."""
_ENVELOPE_KEYS: Final = frozenset(EnvelopeKey)


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


def member_digest(content: bytes) -> Digest:
    """Return the SHA-256 digest of a member as the drafts compute it: over the byte string, head included."""
    return Digest(DigestAlgorithm.SHA_256, hashlib.sha256(cbor.wrap(content)).digest())


def manifest_digest(envelope: Envelope) -> bytes:
    """Return the SHA-256 that names the manifest between server and device, whatever was severed from its envelope."""
    return hashlib.sha256(cbor.wrap(envelope.manifest)).digest()
