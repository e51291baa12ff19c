"""The dialect of RIOT's ``suit_update`` (manifest draft 09), which real boards speak and the final text replaced.

No tag 107, Ed25519 as EdDSA with the payload attached, digest algorithm 2 for SHA-256, install under key 9 and validate
under 10. Anything else in the manifest makes the device fail after it has installed, so nothing else is written.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Final

from protocol import cbor
from protocol.cose import sign1
from protocol.cose.algorithms import Algorithm, KeyKind
from protocol.cose.keys import PrivateKey
from protocol.errors import PolicyError, UnsupportedError
from protocol.suit.model import ComponentId

MAX_ENVELOPE: Final = 640
MAX_COMPONENT_NAME: Final = 31
MAX_URI: Final = 127
MAX_SEQUENCE_NUMBER: Final = 2**32 - 1
DEFAULT_COMPONENT: Final[ComponentId] = (b"ram", b"0")

_SHA256: Final = 2
_AUTHENTICATION, _MANIFEST = 2, 3
_VERSION, _SEQUENCE, _COMMON, _INSTALL, _VALIDATE = 1, 2, 3, 9, 10
_COMPONENTS, _COMMON_SEQUENCE = 2, 4
_VENDOR_ID, _CLASS_ID, _IMAGE_MATCH, _TRY_POLICY = 1, 2, 3, 15
_OVERRIDE, _FETCH = 20, 21
_P_VENDOR, _P_CLASS, _P_DIGEST, _P_SIZE, _P_URI = 1, 2, 3, 14, 21


@dataclass(frozen=True, slots=True, kw_only=True)
class RiotRelease:
    """All that a RIOT manifest says. ``uri`` is absolute, ``component`` is one file name or ``(b"ram", b"0")``."""

    sequence_number: int
    vendor_id: bytes
    class_id: bytes
    component: ComponentId
    digest: bytes
    size: int
    uri: str


def parse_component(text: str) -> ComponentId:
    """Return the component identifier that an operator writes: ``ram:0``, or a path, which is one element.

    >>> parse_component("ram:0"), parse_component("/nvm0/SLOT0.txt")
    ((b'ram', b'0'), (b'/nvm0/SLOT0.txt',))
    """
    if text.startswith("/"):
        return (text.encode(),)
    return tuple(part.encode() for part in text.split(":"))


def build_riot_envelope(release: RiotRelease, signer: PrivateKey) -> bytes:
    """Return the signed envelope in RIOT's dialect.

    Raises:
        UnsupportedError: the key is not Ed25519.
        PolicyError: a limit of the device is exceeded; the message names it.
    """
    if signer.kind is not KeyKind.ED25519:
        raise UnsupportedError(f"RIOT verifies Ed25519 only, this key is {signer.kind.value}")
    _check_limits(release)
    manifest = cbor.encode(_manifest(release))
    digest = cbor.encode((_SHA256, hashlib.sha256(cbor.wrap(manifest)).digest()))
    # No kid: the unprotected header of the dialect is empty.
    block = sign1.sign(dataclasses.replace(signer, kid=None), digest, attached=True, algorithm=Algorithm.EDDSA)
    envelope = cbor.encode({_AUTHENTICATION: cbor.encode((cbor.encode(block),)), _MANIFEST: manifest})
    if len(envelope) > MAX_ENVELOPE:
        raise PolicyError(f"the envelope has {len(envelope)} bytes, RIOT takes {MAX_ENVELOPE}: shorten the URI")
    return envelope


def _check_limits(release: RiotRelease) -> None:
    name = b"".join(release.component)
    if not name or len(name) > MAX_COMPONENT_NAME:
        raise PolicyError(f"component name of {len(name)} bytes, RIOT takes 1 to {MAX_COMPONENT_NAME}")
    if not release.uri.startswith("coap://"):
        raise PolicyError(f"URI {release.uri!r}: RIOT needs an absolute coap:// URI (--uri-base coap://HOST)")
    if not release.uri.isascii() or not release.uri.isprintable():
        raise PolicyError(f"URI {release.uri!r}: RIOT takes printable ASCII only")
    if len(release.uri) > MAX_URI:
        raise PolicyError(f"URI of {len(release.uri)} characters, RIOT takes {MAX_URI}")
    if not 0 < release.sequence_number <= MAX_SEQUENCE_NUMBER:
        raise PolicyError(f"sequence number {release.sequence_number} does not fit RIOT's 32 bits")


def _manifest(release: RiotRelease) -> cbor.Value:
    parameters = {
        _P_VENDOR: release.vendor_id,
        _P_CLASS: release.class_id,
        _P_DIGEST: cbor.encode((_SHA256, release.digest)),
        _P_SIZE: release.size,
    }
    common = {
        _COMPONENTS: (release.component,),
        _COMMON_SEQUENCE: cbor.encode((_OVERRIDE, parameters, _VENDOR_ID, _TRY_POLICY, _CLASS_ID, _TRY_POLICY)),
    }
    return {
        _VERSION: 1,
        _SEQUENCE: release.sequence_number,
        _COMMON: cbor.encode(common),
        _INSTALL: cbor.encode((_OVERRIDE, {_P_URI: release.uri}, _FETCH, 2, _IMAGE_MATCH, 15)),
        _VALIDATE: cbor.encode((_IMAGE_MATCH, 15)),
    }
