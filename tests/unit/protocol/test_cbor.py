"""Deterministic CBOR: what is written, and everything that is refused."""

import time

import pytest

from protocol import cbor
from protocol.cbor import Limits, Tag
from protocol.errors import DecodeError


@pytest.mark.spec("RFC 8949 4.2.1")
def test_map_keys_are_written_in_bytewise_order_not_length_first() -> None:
    assert cbor.encode({24: 1, -1: 2, "a": 3, 0: 4}).hex() == "a40004181801200261" + "6103"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65_535, "19ffff"),
        (65_536, "1a00010000"),
        (2**32, "1b0000000100000000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-257, "390100"),
        (-(2**64), "3bffffffffffffffff"),
        (b"\x01", "4101"),
        ("ü", "62c3bc"),
        ((), "80"),
        ({}, "a0"),
        (False, "f4"),
        (True, "f5"),
        (None, "f6"),
        (Tag(107, {}), "d86ba0"),
        (Tag(0, "x"), "c06178"),
    ],
)
def test_values_have_one_encoding(value: cbor.Value, encoded: str) -> None:
    assert cbor.encode(value).hex() == encoded
    assert cbor.decode(bytes.fromhex(encoded)) == value


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        ("", "cut off"),
        ("1800", "longer than needed"),
        ("190017", "longer than needed"),
        ("1900ff", "longer than needed"),
        ("1a0000ffff", "longer than needed"),
        ("1b00000000ffffffff", "longer than needed"),
        ("580161", "longer than needed"),
        ("9801" + "00", "longer than needed"),
        ("b801" + "0000", "longer than needed"),
        ("d80600", "longer than needed"),
        ("0000", "1 bytes after the end"),
        ("a202000100", "not in bytewise order"),
        ("a220001818" + "00", "not in bytewise order"),
        ("a201000100", "stands twice"),
        ("9f00ff", "indefinite"),
        ("bf0000ff", "indefinite"),
        ("5f4100ff", "indefinite"),
        ("ff", "no place here"),
        ("1c", "reserved head"),
        ("f7", "undefined"),
        ("f0", "simple value"),
        ("f820", "simple value"),
        ("f97e00", "float"),
        ("fa3f800000", "float"),
        ("fb3ff0000000000000", "float"),
        ("61ff", "UTF-8"),
        ("63eda080", "UTF-8"),
        ("82", "cut off"),
        ("4201", "cut off"),
        ("9b7fffffffffffffff", "cut off"),
        ("bb7fffffffffffffff", "cut off"),
        ("5b7fffffffffffffff", "cut off"),
        ("a1a001", "map key"),
        ("a181a001", "map key"),
        ("a1c60001", "map key"),
        ("a1f501", "map key"),
        ("a1f601", "map key"),
        ("a20101f501", "map key"),
        ("a1f93c0001", "float"),
    ],
)
def test_everything_else_is_refused_in_words(encoded: str, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        cbor.decode(bytes.fromhex(encoded))


def test_arrays_of_strings_may_be_map_keys() -> None:
    value = {"en": {1: "words", (b"fw", b"1"): {2: "model"}}}
    assert cbor.decode(cbor.encode(value)) == value


@pytest.mark.parametrize(
    "encoded",
    [
        "d81c81d81d00",  # a shared value that holds itself
        "c5821b7fffffffffffffff03",  # 3 * 2 ** (2 ** 63)
        "d82363282828",  # a regular expression
        "c249010000000000000000",  # a big integer
        "d9010281a0",  # a set of a map
        "d81e820100",  # one divided by zero
    ],
)
def test_tags_are_not_acted_upon(encoded: str) -> None:
    assert isinstance(cbor.decode(bytes.fromhex(encoded)), Tag)


def test_string_references_do_not_multiply_the_input() -> None:
    bomb = b"\xd9\x01\x00\x99\x10\x00\x59\xc3\x50" + b"a" * 50_000 + b"\xd8\x19\x00" * 4_095
    value = cbor.decode(bomb, limits=Limits(count=10_000))
    assert value.value[1:] == (Tag(25, 0),) * 4_095


def test_limits_hold() -> None:
    with pytest.raises(DecodeError, match="5 bytes, the limit is 4"):
        cbor.decode(b"\x84\x00\x00\x00\x00", limits=Limits(size=4))
    with pytest.raises(DecodeError, match="more than 4 values"):
        cbor.decode(b"\x84\x00\x00\x00\x00", limits=Limits(count=4))
    assert cbor.decode(b"\x81" * 4 + b"\x80", limits=Limits(depth=5)) == (((((),),),),)
    for nested in (b"\x81" * 5 + b"\x80", b"\xc6" * 5 + b"\x80", b"\xa1\x00" * 5 + b"\x80"):
        with pytest.raises(DecodeError, match="nested more than 5 deep"):
            cbor.decode(nested, limits=Limits(depth=5))


def test_refusing_is_quick_whatever_the_input_claims() -> None:
    started = time.process_time()
    for hostile in (b"\x81" * 60_000, b"\x9a\x00\x00\xea\x60" + b"\x9a\x00\x00\xea\x60" * 9_000, b"\xa1\x61a" * 20_000):
        with pytest.raises(DecodeError):
            cbor.decode(hostile)
    assert time.process_time() - started < 1


def test_the_path_of_an_error_names_the_place_and_stays_short() -> None:
    with pytest.raises(DecodeError, match=r"^report\.3\[1\]: a float has no place here$") as refused:
        cbor.decode(bytes.fromhex("a1038200f97e00"), path="report")
    assert refused.value.path == "report.3[1]"
    with pytest.raises(DecodeError) as refused:
        cbor.decode(b"\xa1\x79\xea\x60" + b"k" * 60_000 + b"\xf7", path="envelope")
    assert len(str(refused.value)) < 200


def test_brief_keeps_hostile_values_on_one_short_line() -> None:
    for value in ("a\n" * 100, b"\x00" * 1_000, ("x" * 500,) * 50, 2**64, {1: "y" * 5_000}, None):
        assert len(cbor.brief(value)) < 400
        assert "\n" not in cbor.brief(value)


@pytest.mark.parametrize("value", [1.5, 2**64, -(2**64) - 1, {1, 2}, object()])
def test_what_has_no_place_is_not_written(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        cbor.encode(value)


def test_wrap_puts_the_head_of_a_byte_string_before_the_bytes() -> None:
    assert cbor.wrap(b"a" * 24) == b"\x58\x18" + b"a" * 24
