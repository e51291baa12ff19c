"""Requests on their way: fresh message IDs and tokens, and which datagram may be an answer."""

import random
from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from protocol.coap import message
from protocol.coap.message import Message, Options
from protocol.coap.numbers import Code, Option, Type, code_text
from protocol.coap.timing import Timing
from protocol.errors import DecodeError, RequestRefused

TOKEN_LENGTH: Final = 4
"""RFC 7252 section 5.3.1: at least 32 bits of randomness, so that an off-path attacker cannot answer."""
MESSAGE_IDS: Final = 1 << 16
MAX_DIAGNOSTIC: Final = 200
"""Bytes of a peer's diagnostic payload that an error message repeats."""

KNOWN_RESPONSE_OPTIONS: Final = frozenset(
    {Option.ETAG, Option.BLOCK2, Option.BLOCK1, Option.SIZE2, Option.CONTENT_FORMAT, Option.MAX_AGE, Option.OBSERVE}
)

_GROUP: Final = 256
"""Message IDs whose use is remembered together, by one time."""


class Numbers:
    """Message IDs in sequence and tokens at random, from one seeded source.

    Share one among all that is asked over one endpoint: a message ID that comes back within EXCHANGE_LIFETIME makes the
    peer take a new request for a duplicate and repeat the old answer (RFC 7252 sections 4.4 and 4.5).
    """

    def __init__(self, rng: random.Random, timing: Timing | None = None) -> None:
        """Begin at a random message ID (RFC 7252 section 4.4)."""
        self._rng = rng
        self._lifetime_s = (timing or Timing()).exchange_lifetime_s
        self._message_id = rng.randrange(MESSAGE_IDS)
        self._used = 0
        self._begun_at: deque[float] = deque(maxlen=MESSAGE_IDS // _GROUP)

    def free_at(self) -> float:
        """When the next message ID may be used; after fewer than 65,536 of them that has always been."""
        if self._used % _GROUP or self._used < MESSAGE_IDS:
            return 0.0
        # The next group was used last when the one behind it was begun, or just before.
        return self._begun_at[1] + self._lifetime_s

    def message_id(self, now: float) -> int:
        """Return the next message ID, to be used ``now``, which is not before `free_at`."""
        if self._used % _GROUP == 0:
            self._begun_at.append(now)
        self._used += 1
        self._message_id = (self._message_id + 1) % MESSAGE_IDS
        return self._message_id

    def token(self) -> bytes:
        """Return a new token."""
        return self._rng.randbytes(TOKEN_LENGTH)


def request(code: Code, numbers: Numbers, now: float, options: Options, payload: bytes = b"") -> Message:
    """Return a confirmable request, sent ``now``, with a message ID and a token of its own."""
    return Message(
        type=Type.CON,
        code=code,
        message_id=numbers.message_id(now),
        token=numbers.token(),
        options=options,
        payload=payload,
    )


@dataclass(frozen=True, slots=True)
class Incoming:
    """What is to be done with a datagram.

    ``message`` is an empty message or a response whose token is waited for, None where there is nothing to take;
    ``reply`` is the empty message that the datagram must be answered with, if any.
    """

    message: Message | None = None
    reply: bytes | None = None


def read(datagram: bytes, tokens: Container[bytes], answered: Container[bytes] = ()) -> Incoming:
    """Return what a datagram says to a client that waits for ``tokens`` and waits no more for ``answered``.

    A confirmable response gets an acknowledgement if its token is waited for, and again for a duplicate, and a reset
    otherwise (RFC 7252 sections 4.2, 4.5 and 5.3.2); so does a ping (section 4.3). A response with a critical option
    that is not known, or with Block2 twice, is rejected (sections 5.4.1 and 5.4.5). What is no message is ignored.
    """
    try:
        found = message.decode(datagram)
    except DecodeError:
        return Incoming()
    if found.code == Code.EMPTY:
        return Incoming(None, _empty(Type.RST, found)) if found.type is Type.CON else Incoming(found)
    usable = found.is_response and found.type is not Type.RST and _is_understood(found)
    wanted = usable and found.token in tokens
    reply = None
    if found.type is Type.CON:
        reply = _empty(Type.ACK if wanted or (usable and found.token in answered) else Type.RST, found)
    return Incoming(found if wanted else None, reply)


def refusal(path: str, response: Message) -> RequestRefused:
    """Return the error for an error response: the code and, on one line, the peer's diagnostic payload."""
    diagnostic = response.payload[:MAX_DIAGNOSTIC].decode(errors="replace")
    words = "".join(character if character.isprintable() else " " for character in diagnostic)
    return RequestRefused(f"{path}: {code_text(response.code)} {words}".rstrip(), code=response.code)


def _is_understood(found: Message) -> bool:
    if message.unknown_critical(found.options, KNOWN_RESPONSE_OPTIONS) is not None:
        return False
    return sum(number == Option.BLOCK2 for number, _ in found.options) <= 1


def _empty(kind: Type, to: Message) -> bytes:
    return message.encode(Message(type=kind, code=Code.EMPTY, message_id=to.message_id))
