import random
from collections import Counter
from collections.abc import Callable

import pytest

from protocol.coap.block import Block
from protocol.coap.numbers import Option
from protocol.errors import (
    BlockMismatch,
    DecodeError,
    OtaError,
    SizeExceeded,
)
from protocol.transfer.events import Completed
from protocol.transfer.receiver import Resume
from tests.support.block_server import RTT_S, Asked, BlockServer, Replies, play, reply
from tests.support.transfers import DATA, held, once, receiver

# A server that lies


@pytest.mark.parametrize("size2", [len(DATA) + 1, len(DATA) + 5_000, len(DATA) - 1, 100, 0])
def test_a_wrong_size2_ends_with_one_error_and_no_wrong_bytes(size2: int) -> None:
    played = play(receiver(), BlockServer(DATA, size2=size2))
    assert isinstance(played.error, BlockMismatch | SizeExceeded)
    assert all(DATA[at : at + len(data)] == data for at, data in played.held.items())


def test_a_changing_size2_ends_the_transfer() -> None:
    server = BlockServer(DATA)
    server.script = once(4, lambda asked: server.answer(asked, size2=len(DATA) + 1))
    assert isinstance(play(receiver(), server).error, BlockMismatch)


def test_a_size2_other_than_that_of_the_resumed_transfer_ends_it() -> None:
    played = play(receiver(resume=held((0, 5_120), size=8_000)), BlockServer(DATA))
    assert isinstance(played.error, BlockMismatch)


@pytest.mark.parametrize("size2", [9_999, 10_001])
def test_a_size2_other_than_the_signed_size_ends_the_transfer_at_once(size2: int) -> None:
    server = BlockServer(DATA, size2=size2)
    error = play(receiver(expected_size=len(DATA)), server).error
    assert isinstance(error, SizeExceeded)
    assert f"announces {size2} bytes, {len(DATA)} were signed" in str(error)
    assert len(server.requests) == 1


def test_a_size2_beyond_the_limit_ends_the_transfer_at_once() -> None:
    server = BlockServer(DATA)
    assert isinstance(play(receiver(max_size=9_999), server).error, SizeExceeded)
    assert len(server.requests) == 1


def test_a_size2_of_more_than_four_bytes_counts_as_absent() -> None:
    played = play(receiver(), BlockServer(DATA, size2=1 << 40))
    assert played.data == DATA
    assert played.described[0].size is None


@pytest.mark.parametrize("signed", [4_096, 4_097, 9_999])
def test_more_bytes_than_were_signed_are_not_taken(signed: int) -> None:
    played = play(receiver(expected_size=signed), BlockServer(DATA, size2=None))
    assert isinstance(played.error, SizeExceeded | BlockMismatch)
    assert len(played.data) <= signed


@pytest.mark.parametrize("limit", [1_024, 1_500, 8_192, 9_999])
def test_more_bytes_than_there_is_room_for_end_the_transfer_without_waiting(limit: int) -> None:
    played = play(receiver(max_size=limit), BlockServer(DATA, size2=None))
    assert isinstance(played.error, SizeExceeded)
    assert played.now < 2.0


def test_fewer_bytes_than_were_signed_end_the_transfer() -> None:
    played = play(receiver(expected_size=len(DATA) + 1), BlockServer(DATA, size2=None))
    assert isinstance(played.error, BlockMismatch)


def test_a_whole_representation_that_is_shorter_than_what_came_before_is_not_taken() -> None:
    server = BlockServer(DATA, size2=None)
    server.script = once(3, lambda asked: reply(asked.message, options=[(Option.ETAG, b"etag")], payload=b"short"))
    played = play(receiver(), server)
    assert isinstance(played.error, BlockMismatch)


Wrong = Callable[[BlockServer, Asked], bytes]
WRONG_BLOCKS: dict[str, Wrong] = {
    "another number": lambda server, asked: server.answer(
        asked, block=Block(num=asked.block.num + 1, more=True, szx=6)
    ),
    "block 0": lambda server, asked: server.answer(asked, block=Block(num=0, more=True, szx=6)),
    "a larger size": lambda server, asked: server.answer(
        asked, block=Block(num=asked.block.num >> 1, more=True, szx=6), payload=DATA[:1_024]
    ),
    "a short block": lambda server, asked: server.answer(asked, payload=DATA[:100]),
    "an empty block": lambda server, asked: server.answer(asked, payload=b""),
    "a long block": lambda server, asked: server.answer(asked, payload=DATA[:600]),
    "a last block": lambda server, asked: server.answer(asked, block=Block(num=asked.block.num, more=False, szx=5)),
    "a short last block": lambda server, asked: server.answer(
        asked, block=Block(num=asked.block.num, more=False, szx=5), payload=b"end"
    ),
    "szx 7": lambda server, asked: reply(
        asked.message, options=[(Option.ETAG, b"etag"), (Option.BLOCK2, b"\x2f")], payload=DATA[:512]
    ),
    "four bytes": lambda server, asked: reply(
        asked.message, options=[(Option.ETAG, b"etag"), (Option.BLOCK2, b"\0\0\0\x2d")], payload=DATA[:512]
    ),
}


@pytest.mark.parametrize("name", WRONG_BLOCKS)
@pytest.mark.parametrize("size2", [True, None])
def test_a_block_that_was_not_asked_for_ends_the_transfer_with_right_bytes(name: str, size2: bool | None) -> None:
    server = BlockServer(DATA, szx=5, size2=size2)
    server.script = once(4, lambda asked: WRONG_BLOCKS[name](server, asked))
    played = play(receiver(szx=5), server)
    if isinstance(played.final, Completed):  # without a size, a last block in the middle is just the end
        assert (size2, name) in ((None, "a last block"), (None, "a short last block"))
    else:
        assert isinstance(played.error, BlockMismatch | DecodeError)
        assert all(DATA[at : at + len(data)] == data for at, data in played.held.items())


def test_a_last_block_that_says_that_more_follow_ends_the_transfer() -> None:
    server = BlockServer(DATA[:2_048])
    server.script = once(1, lambda asked: server.answer(asked, block=Block(num=1, more=True, szx=6)))
    assert isinstance(play(receiver(), server).error, BlockMismatch)


def test_blocks_too_small_for_the_place_end_the_transfer_with_an_error() -> None:
    size = 40 << 20
    server = BlockServer(b"")
    server.script = lambda asked: [
        (RTT_S, reply(asked.message, options=[(Option.ETAG, b"etag"), (Option.BLOCK2, b"\x08")], payload=bytes(16)))
    ]
    resume = Resume(etag=b"etag", size=size, have=((16, size - 16),))
    played = play(receiver(max_size=size, resume=resume), server)
    assert isinstance(played.error, DecodeError)
    assert "20 bits" in str(played.error)


def test_any_bytes_in_answers_end_in_the_right_bytes_or_one_error(seed: int) -> None:
    ends = Counter[str]()
    for n in range(400):
        rng = random.Random(seed + n)
        server = BlockServer(DATA[:4_000], size2=rng.choice([True, None]))

        def script(asked: Asked, rng: random.Random = rng, server: BlockServer = server) -> Replies:
            right = server.answer(asked)
            if rng.random() < 0.8:
                return [(RTT_S, right)]
            wrong = bytearray(right)
            at = rng.choice([0, 1, *range(8, 30)])  # not the token
            wrong[at] ^= 1 << rng.randrange(8)
            return [(RTT_S, bytes(wrong)), (rng.random(), rng.randbytes(rng.randrange(30)))]

        server.script = script
        played = play(receiver(szx=4, seed=n, stall_s=60.0, expected_size=4_000), server, limit=20_000)
        if isinstance(played.final, Completed):
            assert played.size == len(played.data) == 4_000
        else:
            assert isinstance(played.error, OtaError)
        ends[type(played.final).__name__] += 1
    assert min(ends["Completed"], ends["Failed"]) > 10
