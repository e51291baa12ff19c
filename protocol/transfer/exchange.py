"""One confirmable request and its response (RFC 7252 sections 4.2 and 5.2), sans-IO.

The message is sent again after a random time between ACK_TIMEOUT and ACK_TIMEOUT * ACK_RANDOM_FACTOR, doubling, up to
MAX_RETRANSMIT times, always as the same datagram. An empty acknowledgement stops that, and the response is waited for.
"""

import random
from collections import deque

from protocol.coap import message
from protocol.coap.message import Message, Options
from protocol.coap.numbers import Code, Option, Type
from protocol.coap.timing import Timing
from protocol.errors import RequestRefused, TransferTimeout
from protocol.transfer.events import Answered, Failed, Output, Send
from protocol.transfer.requests import Numbers, read, refusal, request


class Exchange:
    """A `protocol.transfer.events.Machine` for a single request whose answer fits into one message."""

    def __init__(
        self,
        code: Code,
        path: str,
        rng: random.Random,
        *,
        payload: bytes = b"",
        content_format: int | None = None,
        timing: Timing | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        """Prepare a request.

        Args:
            code: the method.
            path: an absolute path.
            rng: draws the retransmission times, and message ID and token where no ``numbers`` are given.
            payload: of at most one datagram.
            content_format: that of the payload.
            timing: the parameters of the link.
            numbers: those of the endpoint, where more than this request goes over it.
        """
        options: Options = message.path_options(path)
        if content_format is not None:
            options += ((Option.CONTENT_FORMAT, message.encode_uint(content_format)),)
        self._path = path
        self._code, self._options, self._payload = code, options, payload
        self._timing = timing or Timing()
        self._rng = rng
        self._numbers = Numbers(rng) if numbers is None else numbers
        self._request: Message | None = None
        self._outputs: deque[Output] = deque()
        self._sent = 0
        self._timeout_s = 0.0
        self._next_at: float | None = None
        self._give_up_at = 0.0
        self._acknowledged = False
        self._done = False

    def start(self, now: float) -> None:
        """Send the request, or wait until a message ID is free."""
        if self._numbers.free_at() > now:
            self._next_at = self._numbers.free_at()
            return
        self._request = request(self._code, self._numbers, now, self._options, self._payload)
        low = self._timing.ack_timeout_s
        self._timeout_s = self._rng.uniform(low, low * self._timing.ack_random_factor)
        self._give_up_at = now + self._timing.exchange_lifetime_s
        self._transmit(self._request, now)

    def receive(self, datagram: bytes, now: float) -> None:
        """Take an acknowledgement or the response."""
        if self._done or self._request is None:
            return
        incoming = read(datagram, (self._request.token,))
        if incoming.reply is not None:
            self._outputs.append(Send(datagram=incoming.reply))
        found = incoming.message
        if found is None:
            return
        matches = found.message_id == self._request.message_id
        if found.code == Code.EMPTY and matches:
            self._take_empty(found)
        # A piggybacked response must also have the request's message ID (RFC 7252 section 5.3.2).
        elif found.is_response and (matches or found.type is not Type.ACK):
            self._finish(found)

    def handle_timer(self, now: float) -> None:
        """Send again, or give up."""
        if self._done or self._next_at is None or now < self._next_at:
            return
        if self._request is None:
            self.start(now)
            return
        if self._acknowledged or self._sent > self._timing.max_retransmit:
            what = "no response" if self._acknowledged else f"no answer to {self._sent} transmissions"
            self._fail(TransferTimeout(f"{self._path}: {what}"))
            return
        self._timeout_s *= 2
        self._transmit(self._request, now)

    def next_timer(self) -> float | None:
        """When to send again or give up."""
        return None if self._done else self._next_at

    def next_output(self) -> Output | None:
        """The next datagram, or the end."""
        return self._outputs.popleft() if self._outputs else None

    def _transmit(self, asked: Message, now: float) -> None:
        self._outputs.append(Send(datagram=message.encode(asked), resent=self._sent > 0))
        self._sent += 1
        self._next_at = now + self._timeout_s

    def _take_empty(self, found: Message) -> None:
        if found.type is Type.ACK:
            self._acknowledged = True
            self._next_at = self._give_up_at
        elif found.type is Type.RST:
            self._fail(RequestRefused(f"{self._path}: the peer reset the request", code=Code.EMPTY))

    def _finish(self, response: Message) -> None:
        if response.code >> 5 == 2:
            self._done = True
            self._outputs.append(Answered(response=response))
            return
        self._fail(refusal(self._path, response))

    def _fail(self, error: TransferTimeout | RequestRefused) -> None:
        self._done = True
        self._outputs.append(Failed(error=error))
