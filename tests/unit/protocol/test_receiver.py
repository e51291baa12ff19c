import random
from collections import Counter
from collections.abc import Callable

import pytest

from protocol.coap.message import encode_uint
from protocol.coap.numbers import Code, Option, Type
from protocol.errors import (
    RepresentationChanged,
    RequestRefused,
    TransferTimeout,
)
from protocol.transfer.events import Completed, Described
from protocol.transfer.receiver import MAX_SERVER_ERRORS
from tests.support.block_server import RTT_S, Asked, BlockServer, Replies, empty, play, reply
from tests.support.transfers import DATA, OTHER, held, once, receiver

# What goes right


@pytest.mark.spec("RFC 7959 2.4")
@pytest.mark.parametrize("szx", range(7))
def test_every_byte_arrives_once_with_each_block_size(szx: int) -> None:
    server = BlockServer(DATA)
    played = play(receiver(szx=szx), server)
    assert played.data == DATA
    assert played.size == len(DATA)
    assert played.described == [Described(etag=b"etag", size=len(DATA), szx=szx)]
    assert sorted(server.offsets) == list(range(0, len(DATA), 16 << szx))


@pytest.mark.parametrize("size", [1, 15, 16, 17, 1_023, 1_024, 1_025, 2_048])
@pytest.mark.parametrize("size2", [True, None])
def test_sizes_at_the_borders_of_blocks_are_right_with_and_without_size2(size: int, size2: bool | None) -> None:
    played = play(receiver(), BlockServer(DATA[:size], size2=size2))
    assert played.data == DATA[:size]
    assert played.size == size


@pytest.mark.spec("RFC 7959 4")
def test_the_first_request_asks_for_the_size_and_the_others_do_not() -> None:
    server = BlockServer(DATA)
    play(receiver(), server)
    assert [asked.message.option(Option.SIZE2) for asked in server.requests] == [b"", *[None] * 9]
    assert {asked.message.option(Option.URI_PATH) for asked in server.requests} == {b"p"}


@pytest.mark.parametrize("window", [1, 3, 8])
def test_after_the_first_answer_a_window_of_blocks_is_outstanding(window: int) -> None:
    server = BlockServer(DATA)
    played = play(receiver(window=window), server)
    at = Counter(round(time / RTT_S) for time, _ in played.sent)
    assert at[0] == 1
    assert at[1] == window
    assert max(at.values()) == window


def test_message_ids_and_tokens_are_fresh_for_each_request_and_each_repetition() -> None:
    server = BlockServer(DATA, script=lambda asked: () if asked.count % 3 == 1 else None)
    machine = receiver()
    played = play(machine, server)
    assert played.data == DATA
    assert len({asked.message.token for asked in server.requests}) == len(server.requests)
    assert len({asked.message.message_id for asked in server.requests}) == len(server.requests)
    assert machine.requests_sent == len(server.requests)
    assert machine.requests_resent == len(server.requests) - len(set(server.offsets)) > 0


def test_an_empty_representation_is_complete_at_once() -> None:
    for machine in (receiver(), receiver(expected_size=0, max_size=0)):
        played = play(machine, BlockServer(b""))
        assert (played.size, played.data) == (0, b"")
        assert played.described == [Described(etag=b"etag", size=0, szx=6)]


def test_without_size2_the_last_block_tells_the_size() -> None:
    server = BlockServer(DATA, size2=None)
    played = play(receiver(), server)
    assert played.data == DATA
    assert played.described[0].size is None
    assert server.offsets == list(range(0, 10_000, 1_024))


def test_a_signed_size_lets_a_window_be_used_without_size2() -> None:
    played = play(receiver(expected_size=len(DATA)), BlockServer(DATA, size2=None))
    assert played.data == DATA
    assert played.now == pytest.approx(3 * RTT_S)


@pytest.mark.spec("RFC 7959 2.2")
@pytest.mark.parametrize("size", [0, 10, 1_024, 3_000])
@pytest.mark.parametrize("signed", [True, False])
def test_without_block2_the_payload_is_the_whole_representation(size: int, signed: bool) -> None:
    played = play(
        receiver(expected_size=size if signed else None),
        BlockServer(b"", script=lambda asked: [(RTT_S, reply(asked.message, payload=DATA[:size]))]),
    )
    assert (played.data, played.size) == (DATA[:size], size)


def test_a_whole_representation_in_answer_to_a_later_block_is_taken() -> None:
    server = BlockServer(DATA[:3_000])
    server.script = once(2, lambda asked: reply(asked.message, options=[(Option.ETAG, b"etag")], payload=DATA[:3_000]))
    played = play(receiver(), server)
    assert (played.data, played.size) == (DATA[:3_000], 3_000)


# Smaller blocks


@pytest.mark.spec("RFC 7959 2.4")
@pytest.mark.parametrize("szx", range(6))
def test_a_smaller_block_size_in_the_first_answer_is_adopted(szx: int) -> None:
    server = BlockServer(DATA, szx=szx)
    played = play(receiver(), server)
    assert played.data == DATA
    assert played.described[0].szx == szx
    assert [asked.block.szx for asked in server.requests[1:]] == [szx] * (len(server.requests) - 1)
    assert len(server.offsets) == len(set(server.offsets))


def test_a_smaller_block_size_in_mid_transfer_is_adopted() -> None:
    server = BlockServer(DATA)

    def script(asked: Asked) -> None:
        if asked.count == 5:
            server.szx = 2

    server.script = script
    played = play(receiver(), server)
    assert played.data == DATA
    assert {asked.block.szx for asked in server.requests[-20:]} == {2}
    assert len(server.offsets) == len(set(server.offsets))


def test_a_block_size_that_varies_up_and_down_still_gives_the_right_bytes(seed: int) -> None:
    for n in range(20):
        rng = random.Random(seed + n)
        server = BlockServer(DATA)

        def script(asked: Asked, rng: random.Random = rng, server: BlockServer = server) -> Replies | None:
            server.szx = rng.randrange(7)
            return () if rng.random() < 0.2 else None

        server.script = script
        assert play(receiver(), server).data == DATA


# Going on


def test_a_resumed_transfer_asks_for_nothing_that_is_held() -> None:
    server = BlockServer(DATA)
    played = play(receiver(resume=held((0, 3_072), (5_120, 8_192))), server)
    assert sorted(server.offsets) == [3_072, 4_096, 8_192, 9_216]
    assert played.data == DATA[3_072:5_120] + DATA[8_192:]
    assert played.size == len(DATA)
    assert played.restarts == 0


def test_a_resumed_transfer_asks_once_for_a_block_of_which_parts_are_held() -> None:
    server = BlockServer(DATA)
    played = play(receiver(resume=held((64, 128), (256, 512), (1_024, 9_000))), server)
    assert sorted(server.offsets) == [0, 8_192, 9_216]
    assert played.held == {
        0: DATA[:64],
        128: DATA[128:256],
        512: DATA[512:1_024],
        9_000: DATA[9_000:9_216],
        9_216: DATA[9_216:],
    }


def test_a_resumed_transfer_that_is_complete_sends_nothing() -> None:
    played = play(receiver(resume=held((0, len(DATA)))), BlockServer(DATA))
    assert played.outputs == [Completed(size=len(DATA))]
    assert played.sent == []


def test_what_a_resume_record_holds_behind_the_end_does_not_count() -> None:
    played = play(receiver(resume=held((-5, 1_024), (2_048, 99_999))), BlockServer(DATA))
    assert played.data == DATA[1_024:2_048]
    assert played.size == len(DATA)


def test_a_resumed_transfer_of_another_etag_begins_anew() -> None:
    server = BlockServer(OTHER)
    played = play(receiver(resume=held((0, 5_120), etag=b"old")), server)
    assert played.restarts == 1
    assert played.data == OTHER
    assert played.size == len(OTHER)
    assert played.described == [Described(etag=b"etag", size=len(OTHER), szx=6)]


@pytest.mark.parametrize("etag", [b"", b"etag"])
def test_an_etag_that_came_or_went_begins_anew(etag: bytes) -> None:
    server = BlockServer(DATA, etag=etag)
    played = play(receiver(resume=held((0, 5_120), etag=b"" if etag else b"etag")), server)
    assert played.restarts == 1
    assert played.data == DATA


def test_a_resumed_transfer_of_a_shorter_representation_begins_anew() -> None:
    server = BlockServer(OTHER[:2_000], etag=b"new")
    played = play(receiver(resume=held((0, 5_120))), server)
    assert played.restarts == 1
    assert played.data == OTHER[:2_000]


@pytest.mark.parametrize(
    "fields",
    [
        {"expected_size": 9_999, "resume": held()},
        {"max_size": 9_999, "resume": held()},
        {"max_size": 10, "expected_size": 11},
        {"szx": 7},
        {"window": 0},
        {"max_size": -1},
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"limit|signed|szx"):
        receiver(**fields)  # type: ignore[arg-type]  # one table of fields of several types


# Another representation


def test_a_changed_etag_in_mid_transfer_begins_anew_and_ends_with_the_new_bytes() -> None:
    server = BlockServer(DATA)

    def script(asked: Asked) -> None:
        if asked.count == 6:
            server.data, server.etag = OTHER, b"new"

    server.script = script
    played = play(receiver(), server)
    assert played.restarts == 1
    assert played.data == OTHER
    assert played.size == len(OTHER)
    assert [found.etag for found in played.described] == [b"etag", b"new"]


def test_answers_to_requests_from_before_a_restart_are_not_taken() -> None:
    server = BlockServer(DATA)

    def script(asked: Asked) -> Replies | None:
        if asked.count < 3:
            return None
        if asked.count == 3:  # old blocks linger, and arrive when the new representation is on its way
            server.data, server.etag = OTHER, b"new"
            return None
        if asked.count < 9:
            late = BlockServer(DATA).answer(asked, kind=Type.CON, message_id=asked.count)
            return [(2.5 * RTT_S, late)]
        return None

    server.script = script
    played = play(receiver(), server)
    assert played.restarts == 1
    assert played.data == OTHER
    assert empty(Type.ACK, 4) in server.others


def test_a_representation_that_became_shorter_in_mid_transfer_begins_anew() -> None:
    server = BlockServer(DATA)

    def script(asked: Asked) -> None:
        if asked.count == 3:
            server.data, server.etag = OTHER[:1_500], b"new"

    server.script = script
    played = play(receiver(window=2), server)
    assert played.restarts == 1
    assert played.data == OTHER[:1_500]


@pytest.mark.parametrize("window", [1, 8])
def test_an_etag_that_changes_with_every_block_ends_the_transfer(window: int) -> None:
    server = BlockServer(DATA)

    def script(asked: Asked) -> None:
        server.etag = bytes([asked.count & 0xFF])

    server.script = script
    played = play(receiver(window=window), server)
    assert isinstance(played.error, RepresentationChanged)
    assert played.error.retryable
    assert played.restarts == 3
    assert len(server.requests) < 50


def test_three_changes_are_followed() -> None:
    server = BlockServer(DATA)

    def script(asked: Asked) -> None:
        if asked.count in (3, 8, 13):
            server.data, server.etag = server.data[::-1], bytes([asked.count])

    server.script = script
    played = play(receiver(window=1), server)
    assert played.restarts == 3
    assert played.data == DATA[::-1]


@pytest.mark.parametrize("etag", [b"123456789", bytes(200)])
def test_an_etag_too_long_counts_as_none(etag: bytes) -> None:
    played = play(receiver(), BlockServer(DATA, etag=etag))
    assert played.data == DATA
    assert played.described[0].etag == b""


# Error codes


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.FORBIDDEN, 0x82, 0x9D, Code.VALID, Code.CHANGED])
def test_a_refusal_ends_the_transfer_with_code_and_diagnostic(code: int) -> None:
    played = play(
        receiver(), BlockServer(b"", script=lambda asked: [(RTT_S, reply(asked.message, code, payload=b"gone away"))])
    )
    assert isinstance(played.error, RequestRefused)
    assert played.error.code == code
    assert str(played.error) == f"/p/fw: {code >> 5}.{code & 31:02d} gone away"
    assert len(played.sent) == 1


def test_not_found_in_mid_transfer_ends_it() -> None:
    server = BlockServer(DATA)
    server.script = once(4, lambda asked: reply(asked.message, Code.NOT_FOUND))
    error = play(receiver(), server).error
    assert isinstance(error, RequestRefused)
    assert error.code == Code.NOT_FOUND


@pytest.mark.spec("RFC 7252 5.9.3.4")
@pytest.mark.parametrize(("max_age", "wait_s"), [(30, 30.0), (3_000, 3_000.0), (None, 60.0)])
def test_unavailable_is_asked_again_after_max_age(max_age: int | None, wait_s: float) -> None:
    options = [] if max_age is None else [(Option.MAX_AGE, encode_uint(max_age))]
    server = BlockServer(DATA)
    server.script = once(1, lambda asked: reply(asked.message, Code.SERVICE_UNAVAILABLE, options=options))
    played = play(receiver(window=1), server)
    assert played.data == DATA
    assert played.sent[2][0] - played.sent[1][0] == pytest.approx(wait_s + RTT_S)


def test_unavailable_for_no_time_at_all_still_waits_a_little() -> None:
    server = BlockServer(b"")
    server.script = lambda asked: [
        (RTT_S, reply(asked.message, Code.SERVICE_UNAVAILABLE, options=[(Option.MAX_AGE, b"")]))
    ]
    played = play(receiver(), server)
    assert isinstance(played.error, RequestRefused)
    assert len(played.sent) == MAX_SERVER_ERRORS + 1
    assert played.now > 10.0


def test_a_window_of_server_errors_counts_once() -> None:
    server = BlockServer(DATA)
    server.script = lambda asked: (
        [(RTT_S, reply(asked.message, Code.SERVICE_UNAVAILABLE))] if 1 <= asked.count <= 8 else None
    )
    played = play(receiver(), server)
    assert played.data == DATA
    assert 60.0 < played.now < 62.0


def test_repeated_server_errors_end_the_transfer_with_pauses_that_grow() -> None:
    server = BlockServer(b"", script=lambda asked: [(RTT_S, reply(asked.message, Code.INTERNAL_SERVER_ERROR))])
    played = play(receiver(), server)
    assert isinstance(played.error, RequestRefused)
    assert played.error.code == Code.INTERNAL_SERVER_ERROR
    times = [time for time, _ in played.sent]
    assert len(times) == MAX_SERVER_ERRORS + 1
    assert times[-1] - times[-2] > 4 * (times[1] - times[0])
    assert played.now < 120


def test_a_pause_does_not_count_as_a_stall_and_ends_at_the_deadline() -> None:
    late = [(Option.MAX_AGE, encode_uint(0xFFFFFFFF))]
    server = BlockServer(
        b"", script=lambda asked: [(RTT_S, reply(asked.message, Code.SERVICE_UNAVAILABLE, options=late))]
    )
    played = play(receiver(), server)
    assert isinstance(played.error, TransferTimeout)
    assert played.now == 86_400.0
    assert len(played.sent) == 1


# Servers that assemble per client


def _stateful(server: BlockServer) -> Callable[[Asked], Replies | None]:
    """As a stock aiocoap resource: block 0 first, then any; 4.08 for the others."""
    begun = False

    def script(asked: Asked) -> Replies | None:
        nonlocal begun
        begun |= asked.offset == 0
        return None if begun else [(RTT_S, reply(asked.message, Code.REQUEST_ENTITY_INCOMPLETE))]

    return script


def test_a_server_that_wants_block_0_first_is_asked_for_it_when_resuming() -> None:
    server = BlockServer(DATA)
    server.script = _stateful(server)
    played = play(receiver(resume=held((0, 5_120))), server)
    assert server.offsets == [5_120, 0, 5_120, 6_144, 7_168, 8_192, 9_216]
    assert played.data == DATA[5_120:]
    assert played.size == len(DATA)


def test_after_4_08_one_block_is_asked_for_at_a_time() -> None:
    server = BlockServer(DATA)
    server.script = lambda asked: (
        [(RTT_S, reply(asked.message, Code.REQUEST_ENTITY_INCOMPLETE))] if asked.count == 4 else None
    )
    played = play(receiver(), server)
    assert played.data == DATA
    times = [round(time / RTT_S) for time, _ in played.sent[11:]]
    assert len(times) == len(set(times)) > 1


@pytest.mark.parametrize("offset", [0, 5_120])
def test_a_server_that_answers_4_08_to_everything_ends_with_one_error(offset: int) -> None:
    server = BlockServer(b"", script=lambda asked: [(RTT_S, reply(asked.message, Code.REQUEST_ENTITY_INCOMPLETE))])
    played = play(receiver(resume=held((0, offset))), server)
    assert isinstance(played.error, RequestRefused)
    assert played.error.code == Code.REQUEST_ENTITY_INCOMPLETE
    assert played.now < 1.0


@pytest.mark.parametrize("code", [Code.REQUEST_ENTITY_INCOMPLETE, Code.BAD_REQUEST])
def test_a_server_that_gives_block_0_only_ends_with_one_error(code: Code) -> None:
    server = BlockServer(DATA)
    server.script = lambda asked: [(RTT_S, reply(asked.message, code))] if asked.offset else None
    played = play(receiver(), server)
    assert isinstance(played.error, RequestRefused)
    assert played.error.code == code
    assert played.now < 2.0
