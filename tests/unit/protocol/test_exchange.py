import random
from collections.abc import Callable

import pytest

from protocol.coap import message
from protocol.coap.message import Message
from protocol.coap.numbers import Code, ContentFormat, Option, Type
from protocol.coap.timing import Timing
from protocol.errors import RequestRefused, TransferTimeout
from protocol.transfer.exchange import Exchange
from protocol.transfer.requests import MESSAGE_IDS, Numbers
from tests.support.block_server import Replies, empty, play, reply

Answer = Callable[[Message, int], Replies]


def _exchange(seed: int = 1, timing: Timing | None = None, numbers: Numbers | None = None) -> Exchange:
    return Exchange(
        Code.POST,
        "/checkin",
        random.Random(seed),
        payload=b"hello",
        content_format=ContentFormat.CBOR,
        timing=timing,
        numbers=numbers,
    )


class _Peer:
    """Answers the n-th copy of the request as the test says; ``others`` is what else it was sent."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.copies: list[bytes] = []
        self.others: list[bytes] = []

    def __call__(self, datagram: bytes) -> Replies:
        found = message.decode(datagram)
        if found.code != Code.POST:
            self.others.append(datagram)
            return ()
        self.copies.append(datagram)
        return self.answer(found, len(self.copies) - 1)


def test_a_request_carries_what_was_given_and_its_response_is_handed_out() -> None:
    peer = _Peer(lambda asked, _: [(0.1, reply(asked, Code.CHANGED, payload=b"answer"))])
    played = play(_exchange(), peer)
    asked = message.decode(peer.copies[0])
    assert (asked.type, asked.code, asked.payload) == (Type.CON, Code.POST, b"hello")
    assert asked.options == ((Option.URI_PATH, b"checkin"), (Option.CONTENT_FORMAT, b"\x3c"))
    assert (played.response.code, played.response.payload) == (Code.CHANGED, b"answer")
    assert len(peer.copies) == 1


@pytest.mark.spec("RFC 7252 4.2")
@pytest.mark.parametrize("transfer_seed", range(5))
def test_the_same_datagram_is_sent_five_times_with_doubling_pauses(transfer_seed: int) -> None:
    peer = _Peer(lambda asked, _: ())
    played = play(_exchange(transfer_seed), peer)
    times = [time for time, _ in played.sent]
    pauses = [later - earlier for earlier, later in zip(times, [*times[1:], played.now], strict=True)]
    assert len(set(peer.copies)) == 1
    assert len(pauses) == 5
    assert 2.0 <= pauses[0] <= 3.0
    assert pauses == pytest.approx([pauses[0] * 2**n for n in range(5)])
    assert played.now == pytest.approx(31 * pauses[0])
    assert isinstance(played.error, TransferTimeout)
    assert played.error.retryable
    assert "5 transmissions" in str(played.error)


def test_the_first_pause_is_drawn_from_the_seed() -> None:
    ends = [play(_exchange(seed), _Peer(lambda asked, _: ())).now for seed in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


def test_other_timing_is_kept_to() -> None:
    timing = Timing(ack_timeout_s=1.0, ack_random_factor=1.0, max_retransmit=2)
    played = play(_exchange(timing=timing), _Peer(lambda asked, _: ()))
    assert [time for time, _ in played.sent] == [0.0, 1.0, 3.0]
    assert played.now == 7.0


def test_a_late_copy_that_is_answered_ends_the_exchange() -> None:
    peer = _Peer(lambda asked, n: [(0.1, reply(asked, Code.CHANGED))] if n == 4 else ())
    assert play(_exchange(), peer).response.code == Code.CHANGED
    assert len(peer.copies) == 5


@pytest.mark.spec("RFC 7252 5.2.2")
@pytest.mark.parametrize("kind", [Type.CON, Type.NON])
def test_an_acknowledged_request_is_not_sent_again_and_the_separate_response_is_taken(kind: Type) -> None:
    peer = _Peer(
        lambda asked, _: [
            (0.1, empty(Type.ACK, asked.message_id)),
            (100.0, reply(asked, Code.CHANGED, kind=kind, message_id=0x7777)),
        ]
    )
    played = play(_exchange(), peer)
    assert played.response.code == Code.CHANGED
    assert played.now == 100.0
    assert len(peer.copies) == 1
    assert peer.others == ([empty(Type.ACK, 0x7777)] if kind is Type.CON else [])


def test_an_acknowledged_request_without_response_ends_after_exchange_lifetime() -> None:
    peer = _Peer(lambda asked, _: [(0.1, empty(Type.ACK, asked.message_id))])
    played = play(_exchange(), peer)
    assert isinstance(played.error, TransferTimeout)
    assert "no response" in str(played.error)
    assert played.now == Timing().exchange_lifetime_s
    assert len(peer.copies) == 1


@pytest.mark.parametrize("code", [Code.BAD_REQUEST, Code.NOT_FOUND, Code.SERVICE_UNAVAILABLE, 0x9F])
def test_an_error_code_is_an_error_with_the_diagnostic(code: int) -> None:
    peer = _Peer(lambda asked, _: [(0.1, reply(asked, code, payload=b"unknown device"))])
    error = play(_exchange(), peer).error
    assert isinstance(error, RequestRefused)
    assert error.code == code
    assert str(error) == f"/checkin: {code >> 5}.{code & 31:02d} unknown device"


def test_a_reset_is_an_error() -> None:
    peer = _Peer(lambda asked, _: [(0.1, empty(Type.RST, asked.message_id))])
    error = play(_exchange(), peer).error
    assert isinstance(error, RequestRefused)
    assert error.code == Code.EMPTY


def test_what_belongs_to_another_request_changes_nothing() -> None:
    def answer(asked: Message, n: int) -> Replies:
        other = (asked.message_id + 1) & 0xFFFF
        return [
            (0.1, empty(Type.ACK, other)),
            (0.1, empty(Type.RST, other)),
            (0.1, reply(asked, token=b"\0\0\0\0")),
            (0.1, reply(asked, message_id=other)),  # piggybacked, yet not on this request's acknowledgement
            (0.1, reply(asked, kind=Type.RST)),
            (0.1, reply(asked, Code.GET)),
            (0.1, b"garbage"),
            (0.1, b""),
        ]

    played = play(_exchange(), _Peer(answer))
    assert isinstance(played.error, TransferTimeout)
    assert len(played.sent) == 5


def test_a_response_with_an_unknown_critical_option_is_reset_and_not_taken() -> None:
    def answer(asked: Message, n: int) -> Replies:
        if n == 0:
            return [(0.1, reply(asked, Code.CHANGED, kind=Type.CON, message_id=5, options=[(9, b"")], payload=b"bad"))]
        return [(0.1, reply(asked, Code.CHANGED, payload=b"good"))]

    peer = _Peer(answer)
    assert play(_exchange(), peer).response.payload == b"good"
    assert peer.others == [empty(Type.RST, 5)]


def test_a_confirmable_response_to_nobody_is_reset() -> None:
    def answer(asked: Message, n: int) -> Replies:
        stranger = reply(asked, kind=Type.CON, token=b"abcd", message_id=6)
        return [(0.1, stranger), (0.2, reply(asked, Code.CHANGED))]

    peer = _Peer(answer)
    assert play(_exchange(), peer).response.code == Code.CHANGED
    assert peer.others == [empty(Type.RST, 6)]


def test_exchanges_of_one_endpoint_share_their_message_ids() -> None:
    numbers = Numbers(random.Random(1))
    peer = _Peer(lambda asked, _: [(0.1, reply(asked, Code.CHANGED))])
    for seed in range(3):
        play(_exchange(seed, numbers=numbers), peer)
    first, second, third = (message.decode(copy).message_id for copy in peer.copies)
    assert (second - first) % MESSAGE_IDS == (third - second) % MESSAGE_IDS == 1


def test_an_exchange_waits_for_a_free_message_id() -> None:
    numbers = Numbers(random.Random(1))
    for _ in range(MESSAGE_IDS):
        numbers.message_id(0.0)
    peer = _Peer(lambda asked, _: [(0.1, reply(asked, Code.CHANGED))])
    played = play(_exchange(numbers=numbers), peer)
    assert [time for time, _ in played.sent] == [247.0]
    assert played.response.code == Code.CHANGED
