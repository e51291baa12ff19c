"""CoAP messages to and from datagrams, strictly (RFC 7252 section 3).

The transfer machines are sans-IO and keep several blocks outstanding, so they read and write datagrams themselves;
servers keep to aiocoap's own codec.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.coap.numbers import Code, Option, Type
from protocol.errors import DecodeError

VERSION: Final = 1
MAX_TOKEN_LENGTH: Final = 8
PAYLOAD_MARKER: Final = 0xFF
MAX_DATAGRAM: Final = 4_096

Options = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One CoAP message. ``options`` is in ascending order of number; equal numbers keep their order."""

    type: Type
    code: int
    message_id: int
    token: bytes = b""
    options: Options = ()
    payload: bytes = b""

    def option(self, number: int) -> bytes | None:
        """Return the first value of option ``number``, or None."""
        return next((value for found, value in self.options if found == number), None)

    def uint(self, number: int) -> int | None:
        """Return option ``number`` as an unsigned integer (RFC 7252 section 3.2), or None."""
        value = self.option(number)
        return None if value is None else int.from_bytes(value, "big")

    @property
    def is_response(self) -> bool:
        """Whether the code is a response (class 2, 4 or 5)."""
        return self.code >> 5 in (2, 4, 5)


def encode_uint(value: int) -> bytes:
    """Return ``value`` in the fewest bytes; 0 is the empty string (RFC 7252 section 3.2)."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def encode(message: Message) -> bytes:
    """Return the datagram of ``message``."""
    parts = [
        bytes([VERSION << 6 | message.type << 4 | len(message.token), message.code]),
        message.message_id.to_bytes(2, "big"),
        message.token,
    ]
    last = 0
    for number, value in sorted(message.options, key=lambda option: option[0]):
        delta, delta_more = _nibble(number - last)
        length, length_more = _nibble(len(value))
        parts += [bytes([delta << 4 | length]), delta_more, length_more, value]
        last = number
    if message.payload:
        parts += [bytes([PAYLOAD_MARKER]), message.payload]
    return b"".join(parts)


def decode(data: bytes) -> Message:
    """Return the message in the datagram ``data``.

    Raises:
        DecodeError: a message format error of RFC 7252 section 3; the caller drops or resets it.
    """
    if not 4 <= len(data) <= MAX_DATAGRAM:
        raise DecodeError(f"{len(data)} bytes, a message has 4 to {MAX_DATAGRAM}", path="coap")
    if data[0] >> 6 != VERSION:
        raise DecodeError(f"version {data[0] >> 6}", path="coap")
    token_length = data[0] & 15
    if token_length > MAX_TOKEN_LENGTH:
        raise DecodeError(f"token length {token_length} is reserved", path="coap")
    start = 4 + token_length
    if len(data) < start:
        raise DecodeError("the token is cut off", path="coap")
    if data[1] == Code.EMPTY and len(data) > 4:
        raise DecodeError("bytes after an empty message (RFC 7252 section 4.1)", path="coap")
    options, payload = _decode_options(data, start)
    return Message(
        type=Type(data[0] >> 4 & 3),
        code=data[1],
        message_id=int.from_bytes(data[2:4], "big"),
        token=data[4:start],
        options=options,
        payload=payload,
    )


def path_options(path: str) -> Options:
    """Return the Uri-Path options of an absolute path such as ``/p/0011223344556677``.

    The root, ``/``, has none (RFC 7252 section 6.4).

    Raises:
        DecodeError: not an absolute path, a segment of more than 255 bytes or with the meaning of ``.`` or ``..``
            (RFC 7252 section 5.10), or no UTF-8.
    """
    if not path.startswith("/") or "?" in path or "#" in path:
        raise DecodeError(f"{path!r} is not an absolute path without query and fragment", path="uri")
    options: list[tuple[int, bytes]] = []
    for segment in path[1:].split("/") if path != "/" else ():
        try:
            value = segment.encode()
        except UnicodeEncodeError as error:
            raise DecodeError(f"{path!r} has no UTF-8 form", path="uri") from error
        if value in (b".", b".."):
            raise DecodeError(f"{path!r} has a relative segment", path="uri")
        if len(value) > 255:
            raise DecodeError(f"a segment of {len(value)} bytes, the limit is 255", path="uri")
        options.append((Option.URI_PATH, value))
    return tuple(options)


def is_critical(number: int) -> bool:
    """Whether an option that is not understood makes the message unusable (RFC 7252 section 5.4.6)."""
    return bool(number & 1)


def unknown_critical(options: Iterable[tuple[int, bytes]], known: frozenset[int]) -> int | None:
    """Return the number of a critical option outside ``known``, or None."""
    return next((number for number, _ in options if is_critical(number) and number not in known), None)


def _nibble(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes([value - 13])
    return 14, (value - 269).to_bytes(2, "big")


def _decode_options(data: bytes, position: int) -> tuple[Options, bytes]:
    options: list[tuple[int, bytes]] = []
    number = 0
    while position < len(data):
        head = data[position]
        position += 1
        if head == PAYLOAD_MARKER:
            if position == len(data):
                raise DecodeError("a payload marker without payload", path="coap")
            return tuple(options), data[position:]
        delta, position = _extended(data, head >> 4, position)
        length, position = _extended(data, head & 15, position)
        number += delta
        if number > 65_535:
            raise DecodeError(f"option number {number} needs more than 16 bits", path="coap")
        if position + length > len(data):
            raise DecodeError(f"option {number} is cut off", path="coap")
        options.append((number, data[position : position + length]))
        position += length
    return tuple(options), b""


def _extended(data: bytes, nibble: int, position: int) -> tuple[int, int]:
    if nibble < 13:
        return nibble, position
    if nibble == 15:
        raise DecodeError("option nibble 15 is reserved", path="coap")
    width = nibble - 12
    if position + width > len(data):
        raise DecodeError("an option head is cut off", path="coap")
    return int.from_bytes(data[position : position + width], "big") + (13 if width == 1 else 269), position + width
