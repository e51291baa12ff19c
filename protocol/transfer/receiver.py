"""Fetches a representation block by block with Block2 (RFC 7959), several blocks outstanding, sans-IO.

How it goes:

1. One request asks for the first byte that is missing, with Size2 = 0 to be told the size (RFC 7959 section 4). Its
   answer tells ETag, size and the block size to use: a smaller one than asked for is adopted (section 2.4).
2. Then up to ``window`` blocks are outstanding, each retried on its own after an adaptive time-out (RFC 6298) that
   doubles with each try. RFC 7252 section 4.7 limits a client to one outstanding request unless it controls congestion
   in another way: `protocol.transfer.attempts` says how that is done here.
3. A 2.05 with another ETag means another representation: everything received is void and the transfer begins anew.
   Since a representation that became shorter may answer 4.00 behind its end, a 4.00 is asked about: block 0 tells.
4. A 5.xx stops all requests for a while, 5.03 for as long as it says; requests also stop while no message ID is free.
5. The transfer ends at the caller's deadline or after ``stall_s`` without a new block. What was received stays valid:
   a `Resume` goes on from it.

Every answer is held against what was asked and what is known (`protocol.transfer.representation`). What does not fit
ends the transfer with one error; wrong bytes are never handed out.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from protocol.coap import message
from protocol.coap.block import MAX_SZX, block_at
from protocol.coap.message import Message
from protocol.coap.numbers import Code, Option, Type
from protocol.errors import OtaError, RepresentationChanged, TransferTimeout
from protocol.transfer.attempts import Attempt, Attempts
from protocol.transfer.events import BlockReceived, Completed, Described, Failed, Output, Restarted, Send
from protocol.transfer.representation import Representation, answered_block, bounded_uint
from protocol.transfer.requests import Numbers, read, refusal, request

DEFAULT_DEADLINE_S: Final = 24 * 3600.0
DEFAULT_STALL_S: Final = 600.0
DEFAULT_WINDOW: Final = 8
MAX_RESTARTS: Final = 3
"""Changes of the representation under one URI before the transfer gives up; new blocks do not take them back."""
MAX_PRIMES: Final = 4
"""Times in a row, without a new block, that a server may make us ask for block 0 again."""
MAX_SERVER_ERRORS: Final = 6
"""Pauses in a row, without a block, that a server may impose by 5.xx."""
DEFAULT_MAX_AGE_S: Final = 60.0
"""RFC 7252 section 5.10.5; with 5.03 it says when to try again (section 5.9.3.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What is held of a representation: its ETag, its size and the bytes that are there."""

    etag: bytes
    size: int
    have: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlan:
    """What to fetch and within which limits.

    ``max_size`` bounds what is accepted; ``expected_size`` is the signed size, where there is one. ``window`` counts
    blocks, times are in seconds from the start.

    Raises:
        ValueError: values that contradict each other or have no meaning.
    """

    path: str
    max_size: int
    expected_size: int | None = None
    szx: int = MAX_SZX
    window: int = DEFAULT_WINDOW
    deadline_s: float = DEFAULT_DEADLINE_S
    stall_s: float = DEFAULT_STALL_S
    resume: Resume | None = None

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be followed."""
        if not 0 <= self.szx <= MAX_SZX or self.window < 1 or self.max_size < 0:
            raise ValueError(f"szx {self.szx}, window {self.window} or limit of {self.max_size} bytes")
        held = None if self.resume is None else self.resume.size
        for size in (self.expected_size, held):
            if size is not None and not 0 <= size <= self.max_size:
                raise ValueError(f"{size} bytes, the limit is {self.max_size}")
        if held is not None and self.expected_size not in (None, held):
            raise ValueError(f"a resume record of {held} bytes, {self.expected_size} were signed")


class Receiver:
    """A `protocol.transfer.events.Machine` that fetches one representation."""

    def __init__(self, plan: FetchPlan, rng: random.Random, *, numbers: Numbers | None = None) -> None:
        """Prepare the transfer.

        Args:
            plan: what to fetch.
            rng: draws message IDs and tokens where no ``numbers`` are given.
            numbers: those of the endpoint, where more than this transfer goes over it.
        """
        self._plan = plan
        self._path = message.path_options(plan.path)
        self._numbers = Numbers(rng) if numbers is None else numbers
        self._outputs: deque[Output] = deque()
        self._attempts = Attempts(plan.window)
        self._representation = Representation(plan.path, plan.max_size, plan.expected_size)
        if plan.resume is not None:
            self._representation.hold(plan.resume.etag, plan.resume.size, plan.resume.have)
        self._szx = plan.szx
        self._restarts = self._primes = self._server_errors = 0
        self._described = False
        self._prime_due = False
        self._one_at_a_time = False
        self._paused_until: float | None = None
        self._deadline_at = self._stall_at = 0.0
        self._done = False
        self.requests_sent = self.requests_resent = 0
        """Block requests sent in all, and those among them for a block that was asked for before."""

    def start(self, now: float) -> None:
        """Ask for the first missing byte."""
        self._deadline_at = now + self._plan.deadline_s
        self._stall_at = now + self._plan.stall_s
        if self._plan.resume is not None and self._representation.is_complete:
            self._finish(Completed(size=self._representation.held))
            return
        self._pump(now)

    def receive(self, datagram: bytes, now: float) -> None:
        """Take a datagram; what is no answer to a request of this transfer is ignored."""
        if self._done:
            return
        incoming = read(datagram, self._attempts, self._attempts.answered)
        if incoming.reply is not None:
            self._outputs.append(Send(datagram=incoming.reply))
        found = incoming.message
        if found is None:
            return
        if found.code == Code.EMPTY:
            # A reset says that the peer could not make sense of the request just now: the time-out covers it.
            if found.type is Type.ACK:
                self._attempts.acknowledge(found.message_id, now)
            return
        attempt = self._attempts.take(found, now)
        if attempt is None:
            return
        try:
            self._take_response(found, attempt, now)
        except OtaError as error:
            self._finish(Failed(error=error))
        self._pump(now)

    def handle_timer(self, now: float) -> None:
        """Count what is overdue as lost, ask again, or give up."""
        if self._done:
            return
        if now >= min(self._deadline_at, self._stall_at):
            self._give_up(now)
            return
        self._attempts.expire(now)
        self._pump(now)

    def next_timer(self) -> float | None:
        """The earliest time at which something is due."""
        if self._done:
            return None
        others = (self._paused_until, self._attempts.next_expiry())
        return min(self._deadline_at, self._stall_at, *(time for time in others if time is not None))

    def next_output(self) -> Output | None:
        """The next datagram or event."""
        return self._outputs.popleft() if self._outputs else None

    # What comes in

    def _take_response(self, found: Message, attempt: Attempt, now: float) -> None:
        if found.code == Code.CONTENT:
            self._server_errors = 0
            self._take_block(found, attempt, now)
        elif self._begins_again(found, attempt) and self._primes < MAX_PRIMES:
            self._primes += 1
            self._prime_due = True
            self._one_at_a_time |= found.code == Code.REQUEST_ENTITY_INCOMPLETE
            self._attempts.clear()
        elif not self._stops(found, now):
            raise refusal(self._plan.path, found)

    @staticmethod
    def _begins_again(found: Message, attempt: Attempt) -> bool:
        # 4.08: a server that assembles the representation per client wants to be asked for block 0 first.
        # 4.00 behind block 0: the block does not exist, perhaps because the representation is another one by now.
        return found.code == Code.REQUEST_ENTITY_INCOMPLETE or (found.code == Code.BAD_REQUEST and attempt.offset > 0)

    def _stops(self, found: Message, now: float) -> bool:
        if found.code >> 5 != 5:
            return False
        if self._paused_until is None or now >= self._paused_until:
            # Blocks that were outstanding together fail together, and count once.
            self._server_errors += 1
        if self._server_errors > MAX_SERVER_ERRORS:
            return False
        wait_s = self._attempts.rtt.rto_s(self._server_errors)
        if found.code == Code.SERVICE_UNAVAILABLE:
            max_age = bounded_uint(found, Option.MAX_AGE)
            wait_s = DEFAULT_MAX_AGE_S if max_age is None else max(wait_s, max_age)
        self._pause(now + wait_s)
        return True

    def _take_block(self, found: Message, attempt: Attempt, now: float) -> None:
        block = answered_block(found)
        if self._representation.is_other(block):
            self._restart()
            if block.offset != 0:
                return
        new = self._representation.take(block, attempt.offset, attempt.szx)
        self._prime_due = False
        if block.szx is not None:
            self._szx = min(self._szx, block.szx)
        if not self._described:
            self._described = True
            self._outputs.append(Described(etag=block.etag, size=self._representation.size, szx=self._szx))
        self._attempts.settle(block.offset, block.end if block.more else max(block.end, attempt.end))
        for offset, data in new:
            self._outputs.append(BlockReceived(offset=offset, data=data))
            self._primes = 0
            self._stall_at = max(self._stall_at, now + self._plan.stall_s)
        if self._representation.is_complete:
            self._finish(Completed(size=self._representation.held))

    def _restart(self) -> None:
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            raise RepresentationChanged(f"{self._plan.path}: the ETag changed {self._restarts} times")
        self._representation.forget()
        self._attempts.begin_anew()
        self._described = False
        self._outputs.append(Restarted())

    # What goes out

    def _pump(self, now: float) -> None:
        if self._done or (self._paused_until is not None and now < self._paused_until):
            return
        self._paused_until = None
        room = self._limit() - self._attempts.outstanding()
        try:
            for offset in self._wanted():
                if room <= 0:
                    return
                if self._numbers.free_at() > now:
                    self._pause(self._numbers.free_at())
                    return
                self._ask(offset, now)
                room -= 1
        except OtaError as error:  # a block so far behind that its number has no encoding in blocks so small
            self._finish(Failed(error=error))

    def _pause(self, until: float) -> None:
        self._paused_until = max(until, self._paused_until or until)
        self._stall_at = max(self._stall_at, self._paused_until + self._plan.stall_s)

    def _limit(self) -> int:
        if not self._described or self._representation.size is None or self._one_at_a_time:
            return 1
        return self._attempts.window

    def _wanted(self) -> Iterator[int]:
        """Yield the offsets of blocks to ask for, first missing first, without those that are on their way."""
        if self._prime_due:
            yield from () if self._attempts.outstanding() else (0,)
            return
        step = 16 << self._szx
        asked = self._attempts.offsets(step)
        yield from (offset for offset in self._representation.missing(step) if offset not in asked)

    def _ask(self, offset: int, now: float) -> None:
        options = [*self._path, (Option.BLOCK2, block_at(offset, self._szx).encode())]
        if not self._described:
            options.append((Option.SIZE2, b""))
        asked = request(Code.GET, self._numbers, now, tuple(options))
        resent = self._attempts.add(offset, self._szx, asked, now)
        self.requests_sent += 1
        self.requests_resent += resent
        self._outputs.append(Send(datagram=message.encode(asked), resent=resent))

    # How it ends

    def _give_up(self, now: float) -> None:
        size = "?" if self._representation.size is None else str(self._representation.size)
        held = f"{self._representation.held} of {size} bytes are held"
        if now >= self._deadline_at:
            words = f"not done after {self._plan.deadline_s:.0f} s"
        else:
            words = f"no new block for {self._plan.stall_s:.0f} s"
        self._finish(Failed(error=TransferTimeout(f"{self._plan.path}: {words}; {held}")))

    def _finish(self, output: Completed | Failed) -> None:
        self._done = True
        self._attempts.clear()
        self._outputs.append(output)
