"""Signature algorithms: identifier, name, the one kind of key each goes with, how to sign and verify.

ES256 (-7) and EdDSA (-8) are polymorphic identifiers that RFC 9864 deprecates: they are accepted with P-256 and with
Ed25519 only, and never written. ESP256 (-9) and Ed25519 (-19) say the same in full.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from protocol.errors import AuthenticityError

P256_COORDINATE: Final = 32


class Algorithm(IntEnum):
    """COSE algorithm identifiers (RFC 9053 section 2, RFC 9864 section 2)."""

    ES256 = -7
    EDDSA = -8
    ESP256 = -9
    ED25519 = -19


class KeyKind(Enum):
    """What a key is; an algorithm goes with exactly one kind."""

    P256 = "P-256"
    ED25519 = "Ed25519"


@dataclass(frozen=True, slots=True)
class Spec:
    """One line of the table. ``sign(private, message)`` and ``verify(public, signature, message)`` take raw keys."""

    kind: KeyKind
    sign: Callable[[Any, bytes], bytes]
    verify: Callable[[Any, bytes, bytes], None]


def _sign_p256(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(P256_COORDINATE, "big") + s.to_bytes(P256_COORDINATE, "big")


def _verify_p256(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> None:
    # RFC 9053 section 2.1: r and s at full length, one behind the other.
    if len(signature) != 2 * P256_COORDINATE:
        raise AuthenticityError(f"an ECDSA P-256 signature has 64 bytes, this one {len(signature)}")
    r = int.from_bytes(signature[:P256_COORDINATE], "big")
    s = int.from_bytes(signature[P256_COORDINATE:], "big")
    _verify(lambda: key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256())))


def _sign_ed25519(key: ed25519.Ed25519PrivateKey, message: bytes) -> bytes:
    return key.sign(message)


def _verify_ed25519(key: ed25519.Ed25519PublicKey, signature: bytes, message: bytes) -> None:
    _verify(lambda: key.verify(signature, message))


def _verify(check: Callable[[], None]) -> None:
    try:
        check()
    except (InvalidSignature, ValueError) as error:
        raise AuthenticityError("the signature does not hold") from error


_ECDSA_P256: Final = Spec(KeyKind.P256, _sign_p256, _verify_p256)
_PURE_ED25519: Final = Spec(KeyKind.ED25519, _sign_ed25519, _verify_ed25519)

ALGORITHMS: Final[dict[Algorithm, Spec]] = {
    Algorithm.ES256: _ECDSA_P256,
    Algorithm.ESP256: _ECDSA_P256,
    Algorithm.EDDSA: _PURE_ED25519,
    Algorithm.ED25519: _PURE_ED25519,
}
SIGNING: Final[dict[KeyKind, Algorithm]] = {KeyKind.P256: Algorithm.ESP256, KeyKind.ED25519: Algorithm.ED25519}
"""The identifier that is written for each kind of key."""
