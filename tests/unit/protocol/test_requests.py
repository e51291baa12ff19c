import random
from itertools import pairwise

import pytest

from protocol.coap import message
from protocol.coap.message import Message
from protocol.coap.numbers import Code, Option, Type
from protocol.transfer.requests import MESSAGE_IDS, Incoming, Numbers, read, refusal, request
from tests.support.block_server import empty

TOKEN = b"\1\2\3\4"


def _response(
    kind: Type = Type.ACK, code: int = Code.CONTENT, token: bytes = TOKEN, options: message.Options = ()
) -> bytes:
    return message.encode(Message(type=kind, code=code, message_id=7, token=token, options=options))


def test_requests_have_message_ids_in_sequence_and_tokens_of_their_own() -> None:
    numbers = Numbers(random.Random(1))
    sent = [request(Code.GET, numbers, 0.0, ()) for _ in range(500)]
    assert all((b.message_id - a.message_id) % MESSAGE_IDS == 1 for a, b in pairwise(sent))
    assert len({found.token for found in sent}) == 500
    assert {len(found.token) for found in sent} == {4}
    assert {found.type for found in sent} == {Type.CON}


def test_the_first_message_id_is_drawn_from_the_seed() -> None:
    first = [Numbers(random.Random(seed)).message_id(0.0) for seed in (1, 1, 2)]
    assert first[0] == first[1] != first[2]


@pytest.mark.spec("RFC 7252 4.4")
def test_no_message_id_comes_back_within_exchange_lifetime(seed: int) -> None:
    rng = random.Random(seed)
    numbers, now = Numbers(rng), 0.0
    used: dict[int, float] = {}
    waited = 0
    for _ in range(3 * MESSAGE_IDS):
        now += rng.random() * 0.004
        if numbers.free_at() > now:
            waited += 1
            assert numbers.free_at() - now < 248
            now = numbers.free_at()
        found = numbers.message_id(now)
        assert now - used.get(found, -1_000.0) >= 247
        used[found] = now
    assert waited > 0
    assert len(used) == MESSAGE_IDS


def test_a_slow_transfer_never_waits_for_message_ids() -> None:
    numbers = Numbers(random.Random(1))
    for n in range(2 * MESSAGE_IDS):
        assert numbers.free_at() <= n / 200
        numbers.message_id(n / 200)


@pytest.mark.parametrize(
    ("kind", "reply"),
    [(Type.ACK, None), (Type.NON, None), (Type.CON, empty(Type.ACK, 7))],
    ids=lambda value: repr(value),
)
def test_a_response_that_is_waited_for_is_taken(kind: Type, reply: bytes | None) -> None:
    found = read(_response(kind), (TOKEN,))
    assert found.message is not None
    assert found.message.token == TOKEN
    assert found.reply == reply


@pytest.mark.spec("RFC 7252 4.2")
def test_a_confirmable_response_to_nobody_is_reset_and_others_are_ignored() -> None:
    assert read(_response(Type.CON), ()) == Incoming(None, empty(Type.RST, 7))
    assert read(_response(Type.NON), ()) == read(_response(Type.ACK), ()) == Incoming()


@pytest.mark.spec("RFC 7252 4.5")
def test_a_duplicate_of_a_confirmable_response_is_acknowledged_again_and_not_taken() -> None:
    assert read(_response(Type.CON), (), (TOKEN,)) == Incoming(None, empty(Type.ACK, 7))
    assert read(_response(Type.NON), (), (TOKEN,)) == Incoming()


@pytest.mark.spec("RFC 7252 4.3")
def test_a_ping_is_answered_with_a_reset() -> None:
    assert read(empty(Type.CON, 9), ()) == Incoming(None, empty(Type.RST, 9))


@pytest.mark.parametrize("kind", [Type.ACK, Type.RST])
def test_an_empty_message_is_handed_on(kind: Type) -> None:
    found = read(empty(kind, 9), ()).message
    assert found is not None
    assert (found.type, found.message_id) == (kind, 9)


@pytest.mark.spec("RFC 7252 5.4.1")
@pytest.mark.parametrize("kind", list(Type))
@pytest.mark.parametrize(
    "options", [((9, b""),), ((Option.BLOCK2, b""), (Option.BLOCK2, b"\x10")), ((Option.IF_MATCH, b"x"),)]
)
def test_a_response_with_an_option_that_cannot_be_ignored_is_rejected(kind: Type, options: message.Options) -> None:
    found = read(_response(kind, options=options), (TOKEN,), (TOKEN,))
    assert found.message is None
    assert found.reply == (empty(Type.RST, 7) if kind is Type.CON else None)


def test_an_elective_option_that_is_not_known_is_ignored() -> None:
    assert read(_response(options=((2_048, b"?"),)), (TOKEN,)).message is not None


@pytest.mark.parametrize("code", [Code.GET, Code.POST, 0x20, 0x60, 0xC0, 0xE1])
def test_what_is_no_response_is_never_taken(code: int) -> None:
    assert read(_response(Type.ACK, code), (TOKEN,)) == Incoming()
    assert read(_response(Type.CON, code), (TOKEN,)) == Incoming(None, empty(Type.RST, 7))


def test_a_reset_with_a_response_in_it_is_not_taken() -> None:
    assert read(_response(Type.RST), (TOKEN,)) == Incoming()


def test_every_datagram_of_garbage_is_ignored_or_reset(seed: int) -> None:
    rng = random.Random(seed)
    right = _response(options=((Option.ETAG, b"e"), (Option.BLOCK2, b"\x0e")))
    for _ in range(5_000):
        data = bytearray(right if rng.random() < 0.5 else rng.randbytes(rng.randrange(40)))
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        found = read(bytes(data), (TOKEN,))
        assert found.message is None or found.message.token == TOKEN or found.message.code == Code.EMPTY
        assert found.reply is None or len(found.reply) == 4


def test_a_refusal_is_one_short_line_whatever_the_diagnostic_holds() -> None:
    response = Message(
        type=Type.ACK, code=Code.NOT_FOUND, message_id=1, payload=b"no\n\x1b[31m such \xff thing" + b"!" * 900
    )
    error = refusal("/p/x", response)
    assert error.code == Code.NOT_FOUND
    assert str(error).startswith("/p/x: 4.04 no  [31m such \ufffd thing!!!")
    assert len(str(error)) < 250
    assert str(error).isprintable()


def test_a_refusal_without_diagnostic_ends_in_the_code() -> None:
    response = Message(type=Type.ACK, code=Code.NOT_FOUND, message_id=1)
    assert str(refusal("/p/x", response)) == "/p/x: 4.04"
