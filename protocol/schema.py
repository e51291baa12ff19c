"""A wire format as a table: a frozen dataclass whose fields carry CBOR map labels.

One line gives name, label and type, and that line drives encoding, decoding, error paths and diagnostic text:

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Manifest:
        sequence_number: int = key(2)
        common: Common = key(3, wrapped=True)       # bstr .cbor SUIT_Common

Rules: an ``X | None`` field may be absent from the map, every other one must be there. Labels that the table does not
have are refused. ``wrapped`` puts the value's encoding into a byte string. Types understood: ``int``, ``bool``,
``str``, ``bytes``, ``IntEnum``, ``tuple[T, ...]``, other tables, and any type with a `Format` given in
``Annotated[T, Format(...)]``; `Size` and `Range` in an ``Annotated`` limit strings and integers.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, TypeVar

from protocol import cbor
from protocol.errors import DecodeError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """Least and greatest length of a string, in bytes or characters."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Range:
    """Least and greatest value of an integer."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Format:
    """How a type of one's own stands on the wire: ``encode(value) -> CBOR value``, ``decode(CBOR value, path)``."""

    encode: Callable[[Any], cbor.Value]
    decode: Callable[[cbor.Value, str], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One line of a table: the field's name, its label on the wire, and whether its value is wrapped in a bstr."""

    name: str
    label: int
    wrapped: bool
    optional: bool
    annotation: Any


def key(label: int, *, wrapped: bool = False, optional: bool = False) -> Any:
    """Declare the field's label; ``optional`` gives it the default None."""
    metadata = {"label": label, "wrapped": wrapped}
    if optional:
        return dataclasses.field(default=None, metadata=metadata)
    return dataclasses.field(metadata=metadata)


def columns(table: type) -> tuple[Column, ...]:
    """Return the lines of ``table``, in the order of their labels."""
    return _columns(typing.cast(Hashable, table))


@cache
def _columns(table: Hashable) -> tuple[Column, ...]:
    hints = typing.get_type_hints(table, include_extras=True)
    found = []
    for field in dataclasses.fields(typing.cast(Any, table)):
        if "label" not in field.metadata:
            continue
        annotation, optional = _without_none(hints[field.name])
        found.append(
            Column(
                name=field.name,
                label=field.metadata["label"],
                wrapped=field.metadata["wrapped"],
                optional=optional,
                annotation=annotation,
            )
        )
    return tuple(sorted(found, key=lambda column: column.label))


def to_map(value: Any) -> dict[int, cbor.Value]:
    """Return the CBOR map of a table's value."""
    result = {}
    for column in columns(type(value)):
        item = getattr(value, column.name)
        if item is None and column.optional:
            continue
        encoded = _to_value(item, column.annotation)
        result[column.label] = cbor.encode(encoded) if column.wrapped else encoded
    return result


def from_map(table: type[T], mapping: cbor.Value, path: str) -> T:
    """Return the table's value that ``mapping`` stands for, or raise `DecodeError` with the path of what is wrong."""
    if not isinstance(mapping, Mapping):
        raise DecodeError(f"a map is due, not {_kind(mapping)}", path=path)
    lines = {column.label: column for column in columns(table)}
    for label in mapping:
        if label not in lines or isinstance(label, bool):
            raise DecodeError(f"unknown key {cbor.brief(label)}", path=path)
    fields = {}
    for label, column in lines.items():
        here = f"{path}.{column.name.replace('_', '-')}"
        if label in mapping:
            item = mapping[label]
            if column.wrapped:
                item = cbor.decode(expect(item, bytes, here), path=here)
            fields[column.name] = _from_value(item, column.annotation, here)
        elif not column.optional:
            raise DecodeError(f"key {label} ({column.name.replace('_', '-')}) is missing", path=path)
    return table(**fields)


def encode(value: Any) -> bytes:
    """Return the deterministic encoding of a table's value."""
    return cbor.encode(to_map(value))


def decode(table: type[T], data: bytes, *, path: str, limits: cbor.Limits = cbor.DEFAULT_LIMITS) -> T:
    """Return the table's value that ``data`` encodes.

    Raises:
        DecodeError: not deterministic CBOR, not this table, or a value beyond its limits.
    """
    return from_map(table, cbor.decode(data, path=path, limits=limits), path)


def expect(value: cbor.Value, kind: type[T], path: str) -> T:
    """Return ``value`` if it is of ``kind`` (a bool is not an int here), else raise `DecodeError`."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise DecodeError(f"{_WORDS.get(kind, kind.__name__)} is due, not {_kind(value)}", path=path)
    return value


_WORDS: dict[type, str] = {
    int: "an integer",
    bytes: "a byte string",
    str: "a text string",
    tuple: "an array",
    dict: "a map",
    bool: "true or false",
    type(None): "null",
    cbor.Tag: "a tag",
}


def _kind(value: cbor.Value) -> str:
    return _WORDS.get(type(value), type(value).__name__)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return annotation, False


def _split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(annotation) is typing.Annotated:
        base, *marks = typing.get_args(annotation)
        return base, tuple(marks)
    return annotation, ()


def _to_value(item: Any, annotation: Any) -> cbor.Value:
    base, marks = _split(annotation)
    for mark in marks:
        if isinstance(mark, Format):
            return mark.encode(item)
    if typing.get_origin(base) is tuple:
        return tuple(_to_value(part, typing.get_args(base)[0]) for part in item)
    if dataclasses.is_dataclass(base):
        return to_map(item)
    if isinstance(base, type) and issubclass(base, IntEnum):
        return int(item)
    return item


def _from_value(item: cbor.Value, annotation: Any, path: str) -> Any:
    base, marks = _split(annotation)
    for mark in marks:
        if isinstance(mark, Format):
            return mark.decode(item, path)
    if typing.get_origin(base) is tuple:
        inner = typing.get_args(base)[0]
        parts = expect(item, tuple, path)
        return tuple(_from_value(part, inner, f"{path}[{index}]") for index, part in enumerate(parts))
    if dataclasses.is_dataclass(base) and isinstance(base, type):
        return from_map(base, item, path)
    if issubclass(base, IntEnum):
        try:
            return base(expect(item, int, path))
        except ValueError as error:
            raise DecodeError(f"{item} is none of {[int(member) for member in base]}", path=path) from error
    checked = expect(item, base, path)
    for mark in marks:
        _check_limit(checked, mark, path)
    return checked


def _check_limit(value: Any, mark: Any, path: str) -> None:
    if isinstance(mark, Size) and not mark.least <= len(value) <= mark.most:
        raise DecodeError(f"length {len(value)} is not within {mark.least}..{mark.most}", path=path)
    if isinstance(mark, Range) and not mark.least <= value <= mark.most:
        raise DecodeError(f"{value} is not within {mark.least}..{mark.most}", path=path)
