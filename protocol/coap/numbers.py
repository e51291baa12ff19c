"""Registered numbers of CoAP, and the resource paths of this project."""

from enum import IntEnum
from typing import Final


class Type(IntEnum):
    """Message types (RFC 7252 section 3)."""

    CON = 0
    NON = 1
    ACK = 2
    RST = 3


class Code(IntEnum):
    """Method and response codes that are used here, as the byte on the wire (RFC 7252 section 12.1)."""

    EMPTY = 0x00
    GET = 0x01
    POST = 0x02
    CREATED = 0x41
    VALID = 0x43
    CHANGED = 0x44
    CONTENT = 0x45
    BAD_REQUEST = 0x80
    FORBIDDEN = 0x83
    NOT_FOUND = 0x84
    NOT_ACCEPTABLE = 0x86
    REQUEST_ENTITY_INCOMPLETE = 0x88
    INTERNAL_SERVER_ERROR = 0xA0
    SERVICE_UNAVAILABLE = 0xA3


class Option(IntEnum):
    """Option numbers (RFC 7252 section 12.2, RFC 7641, RFC 7959)."""

    IF_MATCH = 1
    URI_HOST = 3
    ETAG = 4
    IF_NONE_MATCH = 5
    OBSERVE = 6
    URI_PORT = 7
    LOCATION_PATH = 8
    URI_PATH = 11
    CONTENT_FORMAT = 12
    MAX_AGE = 14
    URI_QUERY = 15
    ACCEPT = 17
    LOCATION_QUERY = 20
    BLOCK2 = 23
    BLOCK1 = 27
    SIZE2 = 28
    PROXY_URI = 35
    PROXY_SCHEME = 39
    SIZE1 = 60


class ContentFormat(IntEnum):
    """Content-Formats (RFC 7252 section 12.3); the envelope has none registered, so 65107 of the experimental range."""

    LINK_FORMAT = 40
    OCTET_STREAM = 42
    CBOR = 60
    SUIT_ENVELOPE = 65107


DEFAULT_PORT: Final = 5683
CHECKIN_PATH: Final = "checkin"
REPORT_PATH: Final = "report"
MODELS_PATH: Final = "m"
DEVICES_PATH: Final = "d"
PAYLOADS_PATH: Final = "p"
PAYLOAD_NAME_DIGITS: Final = 16
"""A payload is called by this many hex digits of its SHA-256: 64 bits, so that a name is short and never reused."""


def code_text(code: int) -> str:
    """Return a code as people write it.

    >>> code_text(0x84)
    '4.04'
    """
    return f"{code >> 5}.{code & 0x1F:02d}"


def payload_uri(digest: bytes) -> str:
    """Return the immutable path of the payload with this SHA-256.

    >>> payload_uri(bytes(32))
    '/p/0000000000000000'
    """
    return f"/{PAYLOADS_PATH}/{digest.hex()[:PAYLOAD_NAME_DIGITS]}"
