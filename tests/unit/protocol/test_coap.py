"""CoAP as we speak it ourselves: messages, block options, numbers and timing."""

from dataclasses import replace

import pytest

from protocol.coap import message, numbers
from protocol.coap.block import Block, BlockError, block_at, decode_block
from protocol.coap.message import Message, decode, encode, path_options
from protocol.coap.numbers import Code, Option, Type
from protocol.coap.timing import Timing
from protocol.errors import DecodeError

REQUEST = Message(
    type=Type.CON,
    code=Code.GET,
    message_id=0x1234,
    token=b"\xaa\xbb",
    options=((Option.URI_PATH, b"p"), (Option.URI_PATH, b"00ff"), (Option.BLOCK2, b"\x16")),
)


# ------------------------------------------------------------------------------------------------ messages


@pytest.mark.spec("RFC 7252 3")
def test_a_request_has_the_bytes_of_the_standard() -> None:
    assert encode(REQUEST).hex() == "42011234aabbb17004303066" + "66c116"
    assert decode(encode(REQUEST)) == REQUEST


@pytest.mark.parametrize("length", [0, 12, 13, 14, 268, 269, 270, 1_500])
@pytest.mark.parametrize("number", [1, 13, 268, 269, 65_535])
def test_long_options_and_large_numbers_keep_their_value(number: int, length: int) -> None:
    original = replace(REQUEST, options=((number, b"v" * length),), payload=b"\xff\x00")
    assert decode(encode(original)) == original


def test_options_are_written_in_ascending_order_and_repeated_ones_keep_theirs() -> None:
    shuffled = replace(REQUEST, options=((60, b"x"), (11, b"b"), (11, b"a")))
    assert decode(encode(shuffled)).options == ((11, b"b"), (11, b"a"), (60, b"x"))


@pytest.mark.parametrize(
    ("datagram", "words"),
    [
        ("", "0 bytes"),
        ("400112", "3 bytes"),
        ("0001" + "0000", "version 0"),
        ("80010000", "version 2"),
        ("49010000" + "00" * 9, "token length 9"),
        ("4f010000" + "00" * 15, "token length 15"),
        ("4201000000", "token is cut off"),
        ("4000000000", "empty message"),
        ("4100000000", "empty message"),
        ("40010000ff", "payload marker"),
        ("40010000f0", "15 is reserved"),
        ("400100000f", "15 is reserved"),
        ("40010000d0", "head is cut off"),
        ("40010000e000", "head is cut off"),
        ("400100000d", "head is cut off"),
        ("4001000001", "option 0 is cut off"),
        ("40010000e0ffff", "more than 16 bits"),
    ],
)
def test_message_format_errors_are_refused(datagram: str, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        decode(bytes.fromhex(datagram))


def test_a_datagram_beyond_the_limit_is_refused() -> None:
    with pytest.raises(DecodeError, match="4097 bytes"):
        decode(encode(replace(REQUEST, options=(), payload=bytes(4_097 - 7))))


def test_option_values_read_as_numbers() -> None:
    answer = replace(REQUEST, code=Code.CONTENT, options=((Option.SIZE2, b"\x01\x00"), (Option.ETAG, b"")))
    assert answer.uint(Option.SIZE2) == 256
    assert answer.uint(Option.ETAG) == 0
    assert answer.uint(Option.BLOCK2) is None
    assert answer.option(Option.ETAG) == b""
    assert answer.is_response
    assert not REQUEST.is_response
    assert [message.encode_uint(value) for value in (0, 1, 255, 256)] == [b"", b"\x01", b"\xff", b"\x01\x00"]


@pytest.mark.spec("RFC 7252 5.4.1")
def test_an_unknown_critical_option_is_found_and_an_elective_one_is_not() -> None:
    known = frozenset({int(Option.BLOCK2)})
    assert message.unknown_critical(((Option.BLOCK2, b""), (2_049, b"")), known) == 2_049
    assert message.unknown_critical(((Option.BLOCK2, b""), (2_048, b"")), known) is None


@pytest.mark.spec("RFC 7252 6.4")
def test_paths_become_one_option_a_segment() -> None:
    assert path_options("/") == ()
    assert path_options("/p/00ff") == ((Option.URI_PATH, b"p"), (Option.URI_PATH, b"00ff"))
    assert path_options("/a//") == ((11, b"a"), (11, b""), (11, b""))


@pytest.mark.parametrize(
    "path", ["", "p/1", "coap://host/p", "/p?q", "/p#f", "/" + "a" * 256, "/\ud800", "/a/../b", "/."]
)
def test_what_is_no_absolute_path_is_refused(path: str) -> None:
    with pytest.raises(DecodeError, match=r"^uri: "):
        path_options(path)


# -------------------------------------------------------------------------------------------------- blocks


@pytest.mark.spec("RFC 7959 2.2")
@pytest.mark.parametrize(
    ("value", "block"),
    [
        (b"", Block(num=0, more=False, szx=0)),
        (b"\x06", Block(num=0, more=False, szx=6)),
        (b"\x0e", Block(num=0, more=True, szx=6)),
        (b"\x01\x02", Block(num=16, more=False, szx=2)),
        (b"\xff\xff\xfe", Block(num=2**20 - 1, more=True, szx=6)),
    ],
)
def test_block_options_have_the_bytes_of_the_standard(value: bytes, block: Block) -> None:
    assert decode_block(value) == block
    assert block.encode() == value


@pytest.mark.parametrize("value", [b"\x07", b"\x0f", b"\x00\x00\x00\x00", b"\xff\xff\xff"])
def test_reserved_sizes_and_long_values_are_refused(value: bytes) -> None:
    with pytest.raises(BlockError):
        decode_block(value)


@pytest.mark.parametrize("szx", range(7))
def test_a_block_at_an_offset_holds_it(szx: int) -> None:
    for offset in (0, 1, 15, 16, 1_023, 1_024, 1_500, 231_607):
        block = block_at(offset, szx)
        assert block.offset <= offset < block.offset + block.size


@pytest.mark.parametrize(("offset", "szx"), [(0, 7), (-1, 6), (2**24, 0), (2**30, 6), (0, -1)])
def test_offsets_that_no_block_holds_are_refused(offset: int, szx: int) -> None:
    with pytest.raises(BlockError):
        block_at(offset, szx)


# --------------------------------------------------------------------------------------- numbers and timing


def test_numbers_that_go_on_the_wire_are_those_of_the_registries() -> None:
    assert (numbers.Option.BLOCK2, numbers.Option.SIZE2, numbers.Option.ETAG) == (23, 28, 4)
    assert (numbers.ContentFormat.CBOR, numbers.ContentFormat.SUIT_ENVELOPE) == (60, 65_107)
    assert numbers.code_text(numbers.Code.CONTENT) == "2.05"
    assert numbers.payload_uri(bytes.fromhex("00112233445566778899")) == "/p/0011223344556677"


@pytest.mark.spec("RFC 7252 4.8.2")
def test_the_derived_times_are_those_of_the_standard() -> None:
    timing = Timing()
    assert timing.max_transmit_span_s == 45
    assert timing.max_transmit_wait_s == 93
    assert timing.exchange_lifetime_s == 247
