"""Whether an envelope may be trusted: the digest over the manifest's bytes, then signatures over that digest.

The digest is computed over the manifest *as a CBOR byte string, head included*; the signature covers the bytes of the
SUIT_Digest array without a head; external_aad is empty.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol import cbor
from protocol.cose import sign1
from protocol.cose.algorithms import Algorithm
from protocol.cose.keys import PublicKey
from protocol.errors import AuthenticityError, DecodeError, OtaError, ProtocolError
from protocol.schema import expect
from protocol.suit.envelope import open_envelope
from protocol.suit.model import Digest, Envelope, digest_from_value

MAX_AUTHENTICATION_BLOCKS: Final = 8

TrustAnchors = tuple[PublicKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentic:
    """An envelope whose manifest was signed by ``key``. ``digest`` is the signed SUIT_Digest of the manifest."""

    envelope: Envelope
    digest: Digest
    key: PublicKey
    algorithm: Algorithm


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
