"""What a SUIT envelope says, as frozen data.

The bytes that were signed are kept as received (`Sequence.raw`, `Envelope.manifest`): digests are computed over those,
never over something encoded again.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol import cbor
from protocol.errors import REASON_ALGORITHM_UNSUPPORTED, DecodeError, UnsupportedError
from protocol.schema import expect
from protocol.suit.labels import DigestAlgorithm

ComponentId = tuple[bytes, ...]

_HASHES: Final[dict[DigestAlgorithm, Callable[[bytes], bytes]]] = {
    DigestAlgorithm.SHA_256: lambda data: hashlib.sha256(data).digest(),
    DigestAlgorithm.SHA_384: lambda data: hashlib.sha384(data).digest(),
    DigestAlgorithm.SHA_512: lambda data: hashlib.sha512(data).digest(),
    DigestAlgorithm.SHAKE_128: lambda data: hashlib.shake_128(data).digest(32),
    DigestAlgorithm.SHAKE_256: lambda data: hashlib.shake_256(data).digest(64),
}
_LENGTHS: Final[dict[DigestAlgorithm, int]] = {
    DigestAlgorithm.SHA_256: 32,
    DigestAlgorithm.SHA_384: 48,
    DigestAlgorithm.SHA_512: 64,
    DigestAlgorithm.SHAKE_128: 32,
    DigestAlgorithm.SHAKE_256: 64,
}


@dataclass(frozen=True, slots=True)
class Digest:
    """SUIT_Digest: hash function and value."""

    algorithm: DigestAlgorithm
    value: bytes

    def matches(self, data: bytes) -> bool:
        """Whether ``data`` has this digest."""
        return hmac.compare_digest(_HASHES[self.algorithm](data), self.value)

    def to_value(self) -> cbor.Value:
        """Return the CBOR array."""
        return (int(self.algorithm), self.value)


def sha256_digest(value: bytes) -> Digest:
    """Return a SUIT_Digest around a SHA-256 that is known already (32 bytes)."""
    return Digest(DigestAlgorithm.SHA_256, value)


def digest_from_value(value: cbor.Value, path: str) -> Digest:
    """Return the digest that a decoded array stands for.

    Raises:
        DecodeError: not ``[algorithm, bytes]``, or a value of the wrong length.
        UnsupportedError: a hash function that is not known.
    """
    members = expect(value, tuple, path)
    if len(members) != 2:
        raise DecodeError(f"{len(members)} members, SUIT_Digest has 2", path=path)
    number = expect(members[0], int, f"{path}[0]")
    try:
        algorithm = DigestAlgorithm(number)
    except ValueError as error:
        raise UnsupportedError(
            f"{path}: digest algorithm {number} is not known", reason=REASON_ALGORITHM_UNSUPPORTED
        ) from error
    value = expect(members[1], bytes, f"{path}[1]")
    if len(value) != _LENGTHS[algorithm]:
        raise DecodeError(f"{len(value)} bytes, {algorithm.name} has {_LENGTHS[algorithm]}", path=path)
    return Digest(algorithm, value)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One command of a sequence. ``argument`` is decoded as the command's row in `protocol.suit.sequences` says."""

    code: int
    argument: object


@dataclass(frozen=True, slots=True)
class Sequence:
    """A command sequence: its bytes as received, and the commands in them."""

    raw: bytes
    items: tuple[Instruction, ...]


def component_id_from_value(value: cbor.Value, path: str) -> ComponentId:
    """Return a component identifier: an array of byte strings."""
    parts = expect(value, tuple, path)
    return tuple(expect(part, bytes, f"{path}[{index}]") for index, part in enumerate(parts))


def component_name(component: ComponentId) -> str:
    """Return a component identifier as people read it.

    >>> component_name((b"ram", b"0"))
    'ram/0'
    """
    return "/".join(
        part.decode() if part.isascii() and part.decode().isprintable() else part.hex() for part in component
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """SUIT_Envelope, opened but not looked into.

    ``wrapper`` and ``manifest`` are the contents of their byte strings; ``members`` the severed members' contents by
    key, ``payloads`` the integrated payloads by name.
    """

    raw: bytes
    wrapper: bytes
    manifest: bytes
    members: Mapping[int, bytes]
    payloads: Mapping[str, bytes]
