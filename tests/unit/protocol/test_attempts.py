import random
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest

from protocol.coap import message
from protocol.coap.numbers import Code, Type
from protocol.errors import (
    TransferTimeout,
)
from protocol.transfer.events import BlockReceived, Send
from protocol.transfer.receiver import Receiver
from protocol.transfer.requests import MESSAGE_IDS, Numbers
from tests.support.block_server import RTT_S, Asked, BlockServer, Played, Replies, empty, play, reply
from tests.support.transfers import DATA, held, once, receiver

# The message layer


@pytest.mark.spec("RFC 7252 5.2.2")
@pytest.mark.parametrize("kind", [Type.CON, Type.NON])
def test_separate_responses_are_taken_and_acknowledged(kind: Type) -> None:
    server = BlockServer(DATA[:5_000])
    server.script = lambda asked: [
        (RTT_S, empty(Type.ACK, asked.message.message_id)),
        (8.0, server.answer(asked, kind=kind, message_id=0x100 + asked.count)),
    ]
    machine = receiver()
    played = play(machine, server)
    assert played.data == DATA[:5_000]
    assert machine.requests_resent == 0
    wanted = [empty(Type.ACK, 0x100 + asked.count) for asked in server.requests]
    assert sorted(server.others) == (sorted(wanted) if kind is Type.CON else [])


def test_a_separate_response_that_never_comes_is_asked_for_again() -> None:
    server = BlockServer(DATA)
    server.script = lambda asked: [(RTT_S, empty(Type.ACK, asked.message.message_id))] if asked.count == 2 else None
    played = play(receiver(), server)
    assert played.data == DATA
    assert played.now > 10.0
    assert Counter(server.offsets)[server.requests[2].offset] == 2


@pytest.mark.spec("RFC 7252 4.5")
def test_every_copy_of_a_confirmable_response_is_acknowledged() -> None:
    server = BlockServer(DATA)
    server.script = lambda asked: [
        (RTT_S * (1 + copy / 2), server.answer(asked, kind=Type.CON, message_id=asked.count)) for copy in range(2)
    ]
    played = play(receiver(), server)
    assert played.data == DATA
    assert {message.decode(found).type for found in server.others} == {Type.ACK}
    assert Counter(server.others)[empty(Type.ACK, 0)] == 2


def test_a_reset_costs_a_timeout_and_nothing_else() -> None:
    server = BlockServer(DATA)
    server.script = once(2, lambda asked: empty(Type.RST, asked.message.message_id))
    played = play(receiver(), server)
    assert played.data == DATA
    assert len(server.requests) == 11


def test_duplicated_and_reordered_answers_give_each_byte_once(seed: int) -> None:
    for n in range(20):
        rng = random.Random(seed + n)
        server = BlockServer(DATA)

        def script(asked: Asked, rng: random.Random = rng, server: BlockServer = server) -> Replies:
            return [(rng.random() * 3, server.answer(asked)) for _ in range(rng.randrange(4))]

        server.script = script
        assert play(receiver(szx=4), server).data == DATA


def test_garbage_and_messages_to_others_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    server = BlockServer(DATA)

    def script(asked: Asked) -> Replies:
        token = asked.message.token
        return [
            (0.01, b""),
            (0.01, rng.randbytes(rng.randrange(1, 60))),
            (0.02, empty(Type.CON, 1)),
            (0.02, reply(asked.message, payload=b"stranger", token=b"\xff" + token[1:], kind=Type.CON, message_id=2)),
            (0.02, reply(asked.message, payload=b"stranger", token=token + b"!", kind=Type.NON)),
            (0.02, reply(asked.message, payload=b"no", message_id=asked.message.message_id ^ 1)),
            (0.02, reply(asked.message, payload=b"no", kind=Type.RST)),
            (0.02, reply(asked.message, Code.GET, kind=Type.CON, message_id=3)),
            (0.03, server.answer(asked, extra=[(9, b"")], kind=Type.CON, message_id=4)),
            (0.03, server.answer(asked, extra=[(9, b"")])),
            (RTT_S, server.answer(asked)),
        ]

    server.script = script
    played = play(receiver(), server)
    assert played.data == DATA
    kinds = Counter(server.others)
    for message_id in (1, 2, 3, 4):
        assert kinds[empty(Type.RST, message_id)] == len(server.requests)


def test_what_arrives_after_the_end_is_ignored() -> None:
    machine = receiver()
    server = BlockServer(DATA)
    play(machine, server)
    for asked in server.requests:
        machine.receive(server.answer(asked, kind=Type.CON), 99.0)
    machine.handle_timer(1e9)
    assert machine.next_output() is None
    assert machine.next_timer() is None


# Time


def test_a_silent_server_is_given_up_after_ten_minutes_with_ever_rarer_requests() -> None:
    played = play(receiver(), BlockServer(b"", script=lambda asked: ()))
    assert isinstance(played.error, TransferTimeout)
    assert played.error.retryable
    assert str(played.error) == "/p/fw: no new block for 600 s; 0 of ? bytes are held"
    assert played.now == 600.0
    assert len(played.sent) < 40
    pauses = [later - earlier for (earlier, _), (later, _) in pairwise(played.sent)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]


def test_a_transfer_that_stalls_keeps_what_it_has_and_says_so() -> None:
    server = BlockServer(DATA)
    server.script = lambda asked: () if asked.count >= 5 else None
    played = play(receiver(), server)
    assert isinstance(played.error, TransferTimeout)
    assert played.now == pytest.approx(600.0 + 2 * RTT_S)
    assert played.data == DATA[:5_120]
    assert str(played.error).endswith("no new block for 600 s; 5120 of 10000 bytes are held")


def test_blocks_that_bring_nothing_new_do_not_put_the_stall_off() -> None:
    server = BlockServer(DATA)
    server.script = lambda asked: () if asked.offset else [(RTT_S, server.answer(asked)), (300.0, server.answer(asked))]
    played = play(receiver(), server)
    assert isinstance(played.error, TransferTimeout)
    assert played.now == pytest.approx(600.0 + RTT_S)


def test_the_deadline_ends_a_transfer_that_moves() -> None:
    server = BlockServer(DATA)
    server.script = lambda asked: [(50.0, server.answer(asked))]
    played = play(receiver(window=1, deadline_s=175.0), server)
    assert isinstance(played.error, TransferTimeout)
    assert played.now == 175.0
    assert str(played.error) == "/p/fw: not done after 175 s; 3072 of 10000 bytes are held"


def _on_the_way(played: Played) -> list[int]:
    """For each request, how many were sent within the round trip up to it."""
    times = [time for time, _ in played.sent]
    return [sum(time - RTT_S + 1e-6 < other <= time for other in times) for time in times]


@pytest.mark.spec("RFC 7252 4.7")
def test_silence_closes_the_window_and_answers_open_it_again() -> None:
    server = BlockServer(DATA * 30)
    server.script = lambda asked: () if 100 <= asked.count < 130 else None
    played = play(receiver(), server)
    assert played.data == DATA * 30
    busy = _on_the_way(played)
    assert max(busy) == 8
    assert busy[90:105] == [8] * 15
    assert busy[116:130] == [1] * 14
    assert busy[150:250] == [8] * 100
    times = [time for time, _ in played.sent]
    pauses = [round(later - earlier, 6) for earlier, later in pairwise(times[116:130])]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 5 * pauses[0]


def test_one_lost_block_does_not_hold_up_the_others() -> None:
    server = BlockServer(DATA * 10)
    server.script = lambda asked: () if asked.offset == 5_120 and asked.count < 60 else None
    played = play(receiver(), server)
    assert played.data == DATA * 10
    last = [output.offset for output in played.outputs if isinstance(output, BlockReceived)]
    assert last.index(5_120) > 20


def test_an_answer_to_an_earlier_try_still_counts() -> None:
    server = BlockServer(DATA)
    server.script = lambda asked: [(5.0, server.answer(asked))]
    machine = receiver()
    played = play(machine, server)
    assert played.data == DATA
    assert server.offsets[:2] == [0, 0]
    assert played.described
    assert next(time for time, _ in played.sent if time > 4.0) == 5.0


# Many blocks


@pytest.mark.parametrize("alternating", [False, True])
def test_cost_of_a_block_does_not_grow_with_the_representation(alternating: bool) -> None:
    def lines_per_block(size: int) -> float:
        server = BlockServer(bytes(size))
        have = tuple((at, at + 64) for at in range(0, size, 128)) if alternating else ()
        machine = receiver(max_size=size, szx=2, resume=held(*have, size=size))
        return _lines_of(lambda: _drain(machine, server)) / len(server.requests)

    assert lines_per_block(1 << 18) < 1.2 * lines_per_block(1 << 14)


def _drain(machine: Receiver, server: BlockServer) -> None:
    """Play without the checks of `play`, whose cost grows."""
    now, answers = 0.0, list[bytes]()
    machine.start(now)
    while machine.next_timer() is not None:
        now += 0.01
        while (output := machine.next_output()) is not None:
            if isinstance(output, Send):
                answers += [answer for _, answer in server(output.datagram)]
        machine.receive(answers.pop(0), now)


def _lines_of(call: Callable[[], None]) -> int:
    """Return how many lines of the transfer package ``call`` runs: a clock that does not wobble."""
    count = 0
    before = sys.gettrace()  # coverage's

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal count
        if "transfer" not in frame.f_code.co_filename:
            return None
        count += 1
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_more_blocks_than_message_ids_wait_for_free_ones() -> None:
    numbers = Numbers(random.Random(1))
    for _ in range(MESSAGE_IDS - 4):
        numbers.message_id(0.0)
    server = BlockServer(DATA)
    played = play(receiver(numbers=numbers, stall_s=100.0), server)
    assert played.data == DATA
    assert len([time for time, _ in played.sent if time < 200]) == 4
    assert min(time for time, _ in played.sent if time > 10) == pytest.approx(247.0, abs=0.5)


# Under attack


@pytest.mark.parametrize("window", [1, 8])
def test_what_is_remembered_of_unanswered_requests_is_bounded(window: int) -> None:
    server = BlockServer(DATA * 50)
    hole = {5_120 * n for n in range(1, 9)}
    server.script = lambda asked: () if asked.offset in hole else None
    machine = receiver(window=window)
    played = play(machine, server)
    assert isinstance(played.error, TransferTimeout)
    machine = receiver(window=window)
    largest = 0

    def watch(datagram: bytes) -> Replies:
        nonlocal largest
        largest = max(largest, len(machine._attempts._by_token))
        return server(datagram)

    play(machine, watch)
    assert largest <= 8 * (window + 8)
