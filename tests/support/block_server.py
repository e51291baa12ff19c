"""Scripted peers for the transfer machines, on datagrams: a stateless Block2 server, and a clock that plays the two.

A peer takes one datagram and gives back what it sends, each with the seconds until it arrives. `play` runs a machine
against a peer and checks what must hold in every transfer: a timer while it is not done, no timer that is due for ever,
no byte handed out twice, nothing after the end.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from protocol.coap import message
from protocol.coap.block import Block, decode_block
from protocol.coap.message import Message
from protocol.coap.numbers import Code, Option, Type
from protocol.errors import OtaError
from protocol.transfer.events import (
    FINAL,
    Answered,
    BlockReceived,
    Completed,
    Described,
    Failed,
    Machine,
    Output,
    Restarted,
    Send,
)

RTT_S = 0.1
Replies = Iterable[tuple[float, bytes]]
Peer = Callable[[bytes], Replies]


@dataclass(frozen=True)
class Asked:
    """A block request; ``count`` is its number, from 0."""

    message: Message
    block: Block
    count: int

    @property
    def offset(self) -> int:
        return self.block.offset


Script = Callable[[Asked], Replies | None]


def reply(
    asked: Message,
    code: int = Code.CONTENT,
    *,
    options: Iterable[tuple[int, bytes]] = (),
    payload: bytes = b"",
    kind: Type = Type.ACK,
    message_id: int | None = None,
    token: bytes | None = None,
) -> bytes:
    """Return a response to ``asked``, piggybacked unless ``kind`` says otherwise."""
    return message.encode(
        Message(
            type=kind,
            code=code,
            message_id=asked.message_id if message_id is None else message_id,
            token=asked.token if token is None else token,
            options=tuple(options),
            payload=payload,
        )
    )


def empty(kind: Type, message_id: int) -> bytes:
    """Return an empty message."""
    return message.encode(Message(type=kind, code=Code.EMPTY, message_id=message_id))


@dataclass
class BlockServer:
    """Slices ``data`` by number and size exponent, any block first.

    Attributes:
        etag: empty for none.
        szx: the largest block it gives.
        size2: what it announces; None for nothing, True for the truth.
        script: asked first; what it returns goes out instead, None lets the server answer.
        requests: every block request that came.
        others: everything else that came: acknowledgements, resets, what is no message.
    """

    data: bytes
    etag: bytes = b"etag"
    szx: int = 6
    size2: int | bool | None = True
    script: Script | None = None
    requests: list[Asked] = field(default_factory=list)
    others: list[bytes] = field(default_factory=list)

    def __call__(self, datagram: bytes) -> Replies:
        found = message.decode(datagram)
        if found.code != Code.GET:
            self.others.append(datagram)
            return ()
        asked = Asked(found, decode_block(found.option(Option.BLOCK2) or b""), len(self.requests))
        self.requests.append(asked)
        scripted = None if self.script is None else self.script(asked)
        return [(RTT_S, self.answer(asked))] if scripted is None else scripted

    def answer(
        self,
        asked: Asked,
        *,
        block: Block | None = None,
        payload: bytes | None = None,
        etag: bytes | None = None,
        size2: int | None = None,
        extra: Iterable[tuple[int, bytes]] = (),
        kind: Type = Type.ACK,
        message_id: int | None = None,
    ) -> bytes:
        """Return the right answer, but for what is given."""
        szx = min(self.szx, asked.block.szx)
        start, stop = asked.offset, asked.offset + (16 << szx)
        if start >= len(self.data) and start > 0:
            return reply(asked.message, Code.BAD_REQUEST, payload=b"no such block")
        block = block or Block(num=start >> (szx + 4), more=stop < len(self.data), szx=szx)
        options: list[tuple[int, bytes]] = [(Option.BLOCK2, block.encode()), *extra]
        tag = self.etag if etag is None else etag
        if tag:
            options.append((Option.ETAG, tag))
        announced = size2 if size2 is not None else len(self.data) if self.size2 is True else self.size2
        if announced is not None and announced is not False:
            options.append((Option.SIZE2, message.encode_uint(announced)))
        data = self.data[start:stop] if payload is None else payload
        return reply(asked.message, options=options, payload=data, kind=kind, message_id=message_id)

    @property
    def offsets(self) -> list[int]:
        """The offsets that were asked for, in order."""
        return [asked.offset for asked in self.requests]


@dataclass
class Played:
    """What came of a transfer; ``held`` are the bytes handed out since the last restart, by offset."""

    outputs: list[Output] = field(default_factory=list)
    sent: list[tuple[float, bytes]] = field(default_factory=list)
    held: dict[int, bytes] = field(default_factory=dict)
    now: float = 0.0

    @property
    def data(self) -> bytes:
        """The bytes as handed out, in order of their offsets."""
        return b"".join(self.held[offset] for offset in sorted(self.held))

    @property
    def final(self) -> Output:
        """The last output."""
        return self.outputs[-1]

    @property
    def size(self) -> int:
        """The size with which the transfer completed."""
        assert isinstance(self.final, Completed), self.final
        return self.final.size

    @property
    def response(self) -> Message:
        """The response of a single request."""
        assert isinstance(self.final, Answered), self.final
        return self.final.response

    @property
    def error(self) -> OtaError:
        """The error with which the machine failed."""
        assert isinstance(self.final, Failed), self.final
        return self.final.error

    @property
    def described(self) -> list[Described]:
        return [output for output in self.outputs if isinstance(output, Described)]

    @property
    def restarts(self) -> int:
        return sum(isinstance(output, Restarted) for output in self.outputs)

    def take(self, output: Output) -> None:
        """Note an output that is no datagram."""
        assert not (self.outputs and isinstance(self.final, FINAL)), f"{output} after the end"
        self.outputs.append(output)
        if isinstance(output, Restarted):
            self.held.clear()
        elif isinstance(output, BlockReceived):
            assert output.data, "an empty piece"
            end = output.offset + len(output.data)
            twice = [at for at, data in self.held.items() if at < end and output.offset < at + len(data)]
            assert not twice, f"{output.offset}..{end} was handed out before"
            self.held[output.offset] = output.data


def play(machine: Machine, peer: Peer, *, until: float = 1e9, limit: int = 100_000) -> Played:
    """Run ``machine`` against ``peer`` until it ends, time is ``until`` or ``limit`` events have passed.

    Events at one time are handled in the order in which they were sent.
    """
    played = Played()
    arriving: list[tuple[float, int, bytes]] = []
    count = 0

    def flush() -> bool:
        nonlocal count
        done = False
        while (output := machine.next_output()) is not None:
            if not isinstance(output, Send):
                played.take(output)
                done = isinstance(output, FINAL)
                continue
            played.sent.append((played.now, output.datagram))
            for delay, datagram in peer(output.datagram):
                count += 1
                heapq.heappush(arriving, (played.now + delay, count, datagram))
        return done

    machine.start(played.now)
    for _ in range(limit):
        if flush():
            assert machine.next_timer() is None, "a timer after the end"
            return played
        due = machine.next_timer()
        assert due is not None, "neither done nor waiting for anything"
        if arriving and arriving[0][0] <= due:
            played.now, _, datagram = heapq.heappop(arriving)
            if played.now > until:
                return played
            machine.receive(datagram, played.now)
            continue
        if due > until:
            return played
        played.now = max(played.now, due)
        machine.handle_timer(played.now)
        later = machine.next_timer()
        assert later is None or later > played.now, "a timer that stays due"
    raise AssertionError(f"no end after {limit} events, at {played.now} s")
