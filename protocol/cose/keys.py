"""Keys: COSE_Key maps (RFC 9052 section 7) and PEM files on one side, usable keys on the other."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from protocol import cbor
from protocol.cose.algorithms import ALGORITHMS, P256_COORDINATE, SIGNING, Algorithm, KeyKind
from protocol.errors import AuthenticityError, DecodeError, PolicyError, ProtocolError, UnsupportedError

Ed25519Public = ed25519.Ed25519PublicKey
P256Public = ec.EllipticCurvePublicKey
ED25519_LENGTH: Final = 32
MAX_PASSPHRASE: Final = 1_023


class Label(IntEnum):
    """Labels of a COSE_Key (RFC 9052 section 7.1, RFC 9053 section 7)."""

    KTY = 1
    KID = 2
    ALG = 3
    KEY_OPS = 4
    CRV = -1
    X = -2
    Y = -3
    D = -4


class KeyType(IntEnum):
    """COSE key types."""

    OKP = 1
    EC2 = 2


class Curve(IntEnum):
    """COSE elliptic curves."""

    P256 = 1
    ED25519 = 6


_KINDS: Final[dict[tuple[int, int], KeyKind]] = {
    (KeyType.OKP, Curve.ED25519): KeyKind.ED25519,
    (KeyType.EC2, Curve.P256): KeyKind.P256,
}
_VERIFY: Final = 2
"""The key operation (RFC 9052 section 7.1)."""


class Signer(Protocol):
    """What an author needs of a key: its algorithm, its identifier or None, and a signature over bytes."""

    @property
    def algorithm(self) -> Algorithm:
        """The identifier that goes into the protected header."""

    @property
    def kid(self) -> bytes | None:
        """The key identifier, where one is in use."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature over ``message`` in COSE form."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies. ``kid`` only helps to find it; what it may verify follows from ``kind`` alone."""

    kind: KeyKind
    raw: Ed25519Public | P256Public
    kid: bytes | None = None

    def verify(self, algorithm: Algorithm, signature: bytes, message: bytes) -> None:
        """Return if ``signature`` holds.

        Raises:
            AuthenticityError: it does not, or the algorithm is not for this kind of key.
        """
        spec = ALGORITHMS[algorithm]
        if spec.kind is not self.kind:
            raise AuthenticityError(f"{algorithm.name} does not go with a {self.kind.value} key")
        spec.verify(self.raw, signature, message)

    def to_cose_key(self) -> bytes:
        """Return the key as a deterministic COSE_Key map."""
        if isinstance(self.raw, ed25519.Ed25519PublicKey):
            x = self.raw.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            fields: dict[int, cbor.Value] = {Label.KTY: KeyType.OKP, Label.CRV: Curve.ED25519, Label.X: x}
        else:
            point = self.raw.public_numbers()
            fields = {
                Label.KTY: KeyType.EC2,
                Label.CRV: Curve.P256,
                Label.X: point.x.to_bytes(P256_COORDINATE, "big"),
                Label.Y: point.y.to_bytes(P256_COORDINATE, "big"),
            }
        fields[Label.ALG] = SIGNING[self.kind]
        if self.kid is not None:
            fields[Label.KID] = self.kid
        return cbor.encode(fields)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs; a `Signer`."""

    kind: KeyKind
    raw: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
    kid: bytes | None = None

    @property
    def algorithm(self) -> Algorithm:
        """The fully specified identifier (RFC 9864) of what `sign` makes."""
        return SIGNING[self.kind]

    @property
    def public(self) -> PublicKey:
        """The half that verifies."""
        return PublicKey(self.kind, self.raw.public_key(), self.kid)

    def sign(self, message: bytes) -> bytes:
        """Return the signature over ``message``."""
        return ALGORITHMS[self.algorithm].sign(self.raw, message)

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the key as PKCS#8 PEM, encrypted where a passphrase is given.

        Raises:
            PolicyError: the passphrase is too long for the format's library.
        """
        protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            if len(passphrase) > MAX_PASSPHRASE:
                raise PolicyError(f"a passphrase of {len(passphrase)} bytes, the limit is {MAX_PASSPHRASE}")
            protection = serialization.BestAvailableEncryption(passphrase)
        return self.raw.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def generate(kind: KeyKind) -> PrivateKey:
    """Return a new private key from the operating system's random source."""
    if kind is KeyKind.ED25519:
        return PrivateKey(kind, ed25519.Ed25519PrivateKey.generate())
    return PrivateKey(kind, ec.generate_private_key(ec.SECP256R1()))


def load_private_key(pem: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """Return the private key in a PKCS#8 (or SEC1) PEM file.

    Raises:
        DecodeError: not a PEM private key, or the passphrase is missing or wrong.
        UnsupportedError: a kind of key that signs no manifests here, such as RSA.
    """
    if b"PUBLIC KEY" in pem and b"PRIVATE KEY" not in pem:
        raise DecodeError("this is a public key; signing needs the private key (PKCS#8 PEM)", path="key")
    try:
        raw = serialization.load_pem_private_key(pem, passphrase or None)
    except TypeError as error:
        words = "needs its passphrase" if not passphrase else "is not encrypted, but a passphrase was given"
        raise DecodeError(f"the private key {words}", path="key") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "wrong passphrase, or not a PKCS#8 PEM private key" if passphrase else "not a PKCS#8 PEM private key"
        raise DecodeError(hint, path="key") from error
    if isinstance(raw, ed25519.Ed25519PrivateKey):
        return PrivateKey(KeyKind.ED25519, raw)
    if isinstance(raw, ec.EllipticCurvePrivateKey) and isinstance(raw.curve, ec.SECP256R1):
        return PrivateKey(KeyKind.P256, raw)
    raise UnsupportedError(f"a {_describe(raw)} key cannot sign manifests here; use P-256 (ESP256) or Ed25519")


def load_public_keys(data: bytes) -> tuple[PublicKey, ...]:
    """Return the keys in a file: a COSE_Key, a COSE_KeySet, a PEM public key, or the public half of a PEM private key.

    Of a COSE_KeySet the keys that cannot be used are left out (RFC 9052 section 7), unless that is all of them.

    Raises:
        DecodeError: none of these.
        UnsupportedError: a kind of key that is not in use here.
    """
    if data.lstrip().startswith(b"-----BEGIN"):
        return (_load_pem_public(data),)
    value = cbor.decode(data, path="key")
    if not isinstance(value, tuple):
        return (from_cose_key(value),)
    if not value:
        raise DecodeError("an empty COSE_KeySet", path="key")
    found, failures = [], []
    for item in value:
        try:
            found.append(from_cose_key(item))
        except ProtocolError as error:
            failures.append(error)
    if not found:
        raise failures[0]
    return tuple(found)


def from_cose_key(value: cbor.Value) -> PublicKey:
    """Return the public key that a decoded COSE_Key map holds; a private part is left alone.

    Raises:
        DecodeError: a member is missing, has the wrong length, or is no point of the curve.
        UnsupportedError: another key type or curve, or a key that is for another algorithm.
    """
    if not isinstance(value, dict):
        raise DecodeError("a COSE_Key is a map", path="key")
    kid = value.get(Label.KID)
    if kid is not None and not isinstance(kid, bytes):
        raise DecodeError("kid is not a byte string", path="key")
    kind = _kind(value)
    if kind is KeyKind.ED25519:
        x = _coordinate(value, Label.X, ED25519_LENGTH)
        return PublicKey(KeyKind.ED25519, ed25519.Ed25519PublicKey.from_public_bytes(x), kid)
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(_coordinate(value, Label.X, P256_COORDINATE), "big"),
        int.from_bytes(_coordinate(value, Label.Y, P256_COORDINATE), "big"),
        ec.SECP256R1(),
    )
    try:
        return PublicKey(kind, numbers.public_key(), kid)
    except ValueError as error:
        raise DecodeError("x and y are no point of P-256", path="key") from error


def _kind(value: dict[int, cbor.Value]) -> KeyKind:
    kty, crv = value.get(Label.KTY), value.get(Label.CRV)
    kind = _KINDS.get((kty, crv)) if type(kty) is int and type(crv) is int else None
    if kind is None:
        raise UnsupportedError(
            f"COSE_Key of type {cbor.brief(kty)}, curve {cbor.brief(crv)}; P-256 and Ed25519 are in use here"
        )
    # RFC 9052 section 7.1: a key that names an algorithm is for that one only, say for key agreement.
    named = value.get(Label.ALG)
    if named is not None and not any(named == known and spec.kind is kind for known, spec in ALGORITHMS.items()):
        raise UnsupportedError(f"a {kind.value} key for algorithm {cbor.brief(named)}, which verifies no manifests")
    operations = value.get(Label.KEY_OPS)
    if operations is not None and (not isinstance(operations, tuple) or _VERIFY not in operations):
        raise UnsupportedError(f"a {kind.value} key whose key_ops leave out verify ({_VERIFY})")
    return kind


def _coordinate(value: dict[int, cbor.Value], label: Label, length: int) -> bytes:
    found = value.get(label)
    if not isinstance(found, bytes) or len(found) != length:
        raise DecodeError(f"{label.name.lower()} ({int(label)}) is not a byte string of {length} bytes", path="key")
    return found


def _load_pem_public(data: bytes) -> PublicKey:
    if b"PRIVATE KEY" in data:
        return load_private_key(data).public
    try:
        raw = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DecodeError("not a PEM public key", path="key") from error
    if isinstance(raw, ed25519.Ed25519PublicKey):
        return PublicKey(KeyKind.ED25519, raw)
    if isinstance(raw, ec.EllipticCurvePublicKey) and isinstance(raw.curve, ec.SECP256R1):
        return PublicKey(KeyKind.P256, raw)
    raise UnsupportedError(f"a {_describe(raw)} key verifies no manifests here; use P-256 (ESP256) or Ed25519")


def _describe(raw: object) -> str:
    curve = getattr(raw, "curve", None)
    return curve.name if curve is not None else type(raw).__name__.replace("PrivateKey", "").replace("PublicKey", "")
