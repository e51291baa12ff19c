"""Tables: one line drives encoding, decoding and the words of an error."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

import pytest

from protocol import cbor, schema
from protocol.errors import DecodeError
from protocol.schema import Format, Range, Size, key


class Colour(IntEnum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    name: Annotated[str, Size(1, 4)] = key(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    number: Annotated[int, Range(0, 9)] = key(1)
    flag: bool = key(-1)
    inner: Inner = key(3, wrapped=True)
    colours: tuple[Colour, ...] = key(4)
    shouted: Annotated[str, Format(encode=str.lower, decode=lambda value, path: value.upper())] = key(5)
    data: Annotated[bytes, Size(2, 2)] | None = key(6, optional=True)
    inners: tuple[Inner, ...] | None = key(7, optional=True)
    comment: str = ""


FULL = Outer(
    number=9,
    flag=True,
    inner=Inner(name="ab"),
    colours=(Colour.RED, Colour.BLUE),
    shouted="HEY",
    data=b"\x00\x01",
    inners=(Inner(name="x"),),
)
GOOD = {1: 9, -1: True, 3: cbor.encode({1: "ab"}), 4: (1, 2), 5: "hey", 6: b"\x00\x01", 7: ({1: "x"},)}


def test_a_table_drives_both_directions() -> None:
    assert cbor.decode(schema.encode(FULL)) == GOOD
    assert schema.decode(Outer, cbor.encode(GOOD), path="outer") == FULL


def test_absent_optional_fields_are_not_written() -> None:
    small = Outer(number=0, flag=False, inner=Inner(name="a"), colours=(), shouted="")
    assert set(schema.to_map(small)) == {1, -1, 3, 4, 5}
    assert schema.decode(Outer, schema.encode(small), path="outer") == small


def test_columns_come_in_the_order_of_their_labels_and_leave_plain_fields_out() -> None:
    assert [column.label for column in schema.columns(Outer)] == [-1, 1, 3, 4, 5, 6, 7]
    assert schema.columns(Outer) is schema.columns(Outer)


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        (1, 10, r"^outer\.number: 10 is not within 0\.\.9"),
        (1, True, r"^outer\.number: an integer is due, not true or false"),
        (1, "1", r"^outer\.number: an integer is due, not a text string"),
        (-1, 1, r"^outer\.flag: true or false is due, not an integer"),
        (3, {1: "ab"}, r"^outer\.inner: a byte string is due, not a map"),
        (3, b"\xff", r"^outer\.inner: "),
        (3, cbor.encode({1: "abcde"}), r"^outer\.inner\.name: length 5 is not within 1\.\.4"),
        (3, cbor.encode(()), r"^outer\.inner: a map is due, not an array"),
        (4, (1, 3), r"^outer\.colours\[1\]: 3 is none of \[1, 2\]"),
        (4, (True,), r"^outer\.colours\[0\]: an integer is due"),
        (4, {}, r"^outer\.colours: an array is due, not a map"),
        (6, b"", r"^outer\.data: length 0 is not within 2\.\.2"),
        (6, None, r"^outer\.data: a byte string is due, not null"),
        (7, (1,), r"^outer\.inners\[0\]: a map is due, not an integer"),
        (8, 1, r"^outer: unknown key 8"),
        ("x" * 5_000, 1, r"^outer: unknown key 'x{32}\.\.\.'$"),
    ],
)
def test_what_the_table_does_not_say_is_refused_with_its_path(label: int | str, value: cbor.Value, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        schema.decode(Outer, cbor.encode({**GOOD, label: value}), path="outer")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DecodeError, match=r"^outer: key 3 \(inner\) is missing"):
        schema.decode(Outer, cbor.encode({label: item for label, item in GOOD.items() if label != 3}), path="outer")


@pytest.mark.parametrize("value", [(), 1, None, "a", b"", True])
def test_only_a_map_is_a_table(value: cbor.Value) -> None:
    with pytest.raises(DecodeError, match="a map is due"):
        schema.decode(Outer, cbor.encode(value), path="outer")


def test_true_does_not_pass_for_label_one() -> None:
    with pytest.raises(DecodeError, match="unknown key True"):
        schema.from_map(Inner, {True: "ab"}, "inner")
