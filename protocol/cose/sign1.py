"""COSE_Sign1 (RFC 9052 section 4.2): one signer, payload detached or attached.

What is checked before any signature: tag 18, four members, the algorithm in the *protected* header (an unprotected one
could be changed by anyone), no label in both headers, every critical label understood (RFC 9052 section 3.1).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol import cbor
from protocol.cose.algorithms import Algorithm
from protocol.cose.keys import PublicKey, Signer
from protocol.errors import (
    REASON_ALGORITHM_UNSUPPORTED,
    REASON_COSE_UNSUPPORTED,
    AuthenticityError,
    DecodeError,
    UnsupportedError,
)
from protocol.schema import expect

TAG: Final = 18
_CONTEXT: Final = "Signature1"


class Header(IntEnum):
    """Common header labels (RFC 9052 section 3.1)."""

    ALG = 1
    CRIT = 2
    CONTENT_TYPE = 3
    KID = 4


_UNDERSTOOD: Final = frozenset(Header)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """A decoded COSE_Sign1. ``protected`` is the byte string as received: it is what was signed."""

    protected: bytes
    algorithm: Algorithm
    kid: bytes | None
    payload: bytes | None
    signature: bytes


def sign(signer: Signer, payload: bytes, *, attached: bool = False, algorithm: Algorithm | None = None) -> cbor.Tag:
    """Return a COSE_Sign1 over ``payload``.

    Args:
        signer: the key.
        payload: the bytes to sign.
        attached: whether the payload travels inside.
        algorithm: another identifier for the same algorithm, for readers of the older one (EdDSA for Ed25519).
    """
    protected = cbor.encode({Header.ALG: algorithm or signer.algorithm})
    unprotected = {} if signer.kid is None else {Header.KID: signer.kid}
    signature = signer.sign(_to_be_signed(protected, payload))
    return cbor.Tag(TAG, (protected, unprotected, payload if attached else None, signature))


def decode(value: cbor.Value, path: str) -> Sign1:
    """Return the COSE_Sign1 that a decoded CBOR value stands for.

    Raises:
        DecodeError: not of this form.
        UnsupportedError: an algorithm or critical header that is not known here.
    """
    if not isinstance(value, cbor.Tag) or value.number != TAG:
        kind = f"tag {value.number}" if isinstance(value, cbor.Tag) else "no tag"
        raise UnsupportedError(f"{path}: {kind} where COSE_Sign1 (tag {TAG}) is due", reason=REASON_COSE_UNSUPPORTED)
    members = expect(value.value, tuple, path)
    if len(members) != 4:
        raise DecodeError(f"{len(members)} members, COSE_Sign1 has 4", path=path)
    protected = expect(members[0], bytes, f"{path}.protected")
    unprotected = expect(members[1], dict, f"{path}.unprotected")
    headers = _decode_protected(protected, f"{path}.protected")
    both = headers.keys() & unprotected.keys()
    if both:
        raise DecodeError(f"header {cbor.brief(min(both, key=repr))} stands in both headers", path=path)
    _check_critical(headers, unprotected, path)
    payload = members[2]
    if payload is not None:
        expect(payload, bytes, f"{path}.payload")
    kid = headers.get(Header.KID, unprotected.get(Header.KID))
    return Sign1(
        protected=protected,
        algorithm=_algorithm(headers, path),
        kid=None if kid is None else expect(kid, bytes, f"{path}.kid"),
        payload=payload,
        signature=expect(members[3], bytes, f"{path}.signature"),
    )


def verify(signed: Sign1, payload: bytes, keys: Iterable[PublicKey]) -> PublicKey:
    """Return the key of ``keys`` under which the signature over ``payload`` holds.

    A ``kid`` narrows the choice to the keys that carry it, if there are any; keys without one are always tried.

    Raises:
        AuthenticityError: under none of them.
    """
    message = _to_be_signed(signed.protected, payload)
    for key in keys:
        if signed.kid is not None and key.kid is not None and signed.kid != key.kid:
            continue
        try:
            key.verify(signed.algorithm, signed.signature, message)
        except AuthenticityError:
            continue
        return key
    raise AuthenticityError("no trusted key verifies the signature")


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode((_CONTEXT, protected, b"", payload))


def _decode_protected(protected: bytes, path: str) -> dict[cbor.Value, cbor.Value]:
    if not protected:
        return {}
    return expect(cbor.decode(protected, path=path), dict, path)


def _algorithm(headers: dict[cbor.Value, cbor.Value], path: str) -> Algorithm:
    if Header.ALG not in headers:
        raise UnsupportedError(f"{path}: no algorithm in the protected header", reason=REASON_COSE_UNSUPPORTED)
    number = headers[Header.ALG]
    try:
        return Algorithm(number)
    except ValueError as error:
        raise UnsupportedError(
            f"{path}: signature algorithm {cbor.brief(number)} is not known", reason=REASON_ALGORITHM_UNSUPPORTED
        ) from error


def _check_critical(
    headers: dict[cbor.Value, cbor.Value], unprotected: dict[cbor.Value, cbor.Value], path: str
) -> None:
    if Header.CRIT in unprotected:
        raise DecodeError("crit must be protected (RFC 9052 section 3.1)", path=path)
    if Header.CRIT not in headers:
        return
    labels = expect(headers[Header.CRIT], tuple, f"{path}.crit")
    if not labels:
        raise DecodeError("crit is empty (RFC 9052 section 3.1)", path=path)
    for label in labels:
        # The type first: true would pass for label 1, and a map cannot be looked up.
        if type(label) not in (int, str) or label not in headers or label not in _UNDERSTOOD:
            raise UnsupportedError(
                f"{path}: critical header {cbor.brief(label)} not known", reason=REASON_COSE_UNSUPPORTED
            )
