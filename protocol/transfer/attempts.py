"""The block requests that are on their way, how many there may be, and when each is overdue.

1. Each block is retried on its own, with a new message ID and token each time, so that every round-trip sample is
   unambiguous. A request that is overdue counts as lost, though its answer would still be taken.
2. When a whole window has gone unanswered in a row, the window is halved, down to one, and then the time-out doubles
   with every further silence; each answer opens the window by one and takes the doubling back.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from protocol.coap.message import Message
from protocol.coap.numbers import Type
from protocol.transfer.rto import RttEstimator

TRIES_REMEMBERED: Final = 8
"""Requests for one block whose answers would still be taken."""
ANSWERED_REMEMBERED: Final = 64
"""Tokens whose confirmable responses are acknowledged again, should the acknowledgement have been lost."""
SEPARATE_RESPONSE_S: Final = 10.0
"""How long a separate response may take after its acknowledgement."""
MAX_BLOCK_BACKOFF: Final = 2
"""Doublings for one block while others are answered: random loss of one block says nothing of congestion."""
MAX_BACKOFF: Final = 5
"""Doublings while nothing at all is answered: one request every 32 time-outs at the least."""


@dataclass(slots=True)
class Attempt:
    """One request on its way: for the block of ``16 << szx`` bytes at ``offset``; times in seconds."""

    offset: int
    szx: int
    sent_at: float
    expires_at: float
    message_id: int
    expired: bool = False

    @property
    def end(self) -> int:
        """Where the block that was asked for ends."""
        return self.offset + (16 << self.szx)


class Attempts:
    """The requests on their way, by token; at most `TRIES_REMEMBERED` for each block."""

    def __init__(self, window: int) -> None:
        """Allow ``window`` requests at a time while they are answered."""
        self.window = window
        self.rtt = RttEstimator()
        self.answered: deque[bytes] = deque(maxlen=ANSWERED_REMEMBERED)
        self._max_window = window
        self._by_token: dict[bytes, Attempt] = {}
        self._asked: dict[int, int] = {}
        self._silent = 0
        self._backoff = 0

    def __contains__(self, token: object) -> bool:
        """Whether an answer with this token would be taken."""
        return token in self._by_token

    def add(self, offset: int, szx: int, sent: Message, now: float) -> bool:
        """Note a request that is sent ``now``; return whether its block was asked for before."""
        before = self._asked.get(offset, 0)
        self._asked[offset] = before + 1
        tokens = [token for token, attempt in self._by_token.items() if attempt.offset == offset]
        for token in tokens[: max(0, len(tokens) - TRIES_REMEMBERED + 1)]:
            self._drop(token)
        timeout_s = self.rtt.rto_s(max(min(before, MAX_BLOCK_BACKOFF), self._backoff))
        self._by_token[sent.token] = Attempt(offset, szx, now, now + timeout_s, sent.message_id)
        return before > 0

    def take(self, response: Message, now: float) -> Attempt | None:
        """Return the request that ``response`` answers, which is then no longer on its way, or None.

        A piggybacked response must also have the request's message ID (RFC 7252 section 5.3.2).
        """
        attempt = self._by_token.get(response.token)
        if attempt is None or (response.type is Type.ACK and response.message_id != attempt.message_id):
            return None
        self._drop(response.token)
        self.rtt.sample(max(0.0, now - attempt.sent_at))
        self._silent = self._backoff = 0
        self.window = min(self._max_window, self.window + 1)
        return attempt

    def acknowledge(self, message_id: int, now: float) -> None:
        """Wait longer for a response that will come on its own (RFC 7252 section 5.2.2)."""
        for attempt in self._by_token.values():
            if attempt.message_id == message_id:
                attempt.expires_at = max(attempt.expires_at, now + SEPARATE_RESPONSE_S)

    def expire(self, now: float) -> None:
        """Count the requests that are overdue as lost."""
        for attempt in self._by_token.values():
            if not attempt.expired and now >= attempt.expires_at:
                attempt.expired = True
                self._count_loss()

    def settle(self, start: int, end: int) -> None:
        """Forget the requests for blocks that lie within the bytes ``[start, end)``: they are there."""
        for token in [token for token, found in self._by_token.items() if start <= found.offset and found.end <= end]:
            self._drop(token)
        self._asked.pop(start, None)

    def clear(self) -> None:
        """Forget all requests on their way."""
        for token in list(self._by_token):
            self._drop(token)

    def begin_anew(self) -> None:
        """Forget all requests, and what was asked for before."""
        self.clear()
        self._asked.clear()

    def outstanding(self) -> int:
        """How many requests are on their way and not overdue."""
        return sum(not attempt.expired for attempt in self._by_token.values())

    def offsets(self, step: int) -> set[int]:
        """Return where the blocks of ``step`` bytes begin that requests on their way, not overdue, will bring."""
        waited = (attempt for attempt in self._by_token.values() if not attempt.expired)
        return {offset for attempt in waited for offset in range(attempt.offset, attempt.end, step)}

    def next_expiry(self) -> float | None:
        """When the next request is overdue."""
        return min((found.expires_at for found in self._by_token.values() if not found.expired), default=None)

    def _drop(self, token: bytes) -> None:
        del self._by_token[token]
        self.answered.append(token)

    def _count_loss(self) -> None:
        self._silent += 1
        if self._silent < self.window:
            return
        self._silent = 0
        if self.window > 1:
            self.window //= 2
        else:
            self._backoff = min(self._backoff + 1, MAX_BACKOFF)
