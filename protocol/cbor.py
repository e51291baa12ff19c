"""Deterministic CBOR, strictly: one value has one encoding, and only that encoding is accepted.

`encode` writes the core deterministic encoding of RFC 8949 section 4.2.1: shortest heads, definite lengths, map keys
in the bytewise order of their encodings. `decode` accepts nothing else, because two encodings of one signed value are
two things an attacker can swap.

The values that occur: ``int`` within 64 bits, ``str``, ``bytes``, ``bool``, ``None``, ``tuple`` for arrays, ``dict``
for maps and `Tag`; a map key is an integer, a string, or an array of those. Floating point, undefined and simple values
have no place in the formats of this project and are refused by name.

Items are written by cbor2 and read here. A general library acts on tags while it reads: it compiles regular
expressions, follows shared references into cycles and repeats strings by reference, so that 60 kB of input become
gigabytes. Here a tag is a number and a value, nothing more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cbor2

from protocol.errors import DecodeError

Value = Any
"""A CBOR value as listed in the module's text. The type checker cannot express the recursion usefully."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged value (RFC 8949 section 3.4)."""

    number: int
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What `decode` takes at most, so that hostile input costs bounded time and memory.

    ``size`` is in bytes, ``depth`` in nested arrays, maps and tags, ``count`` in values of any kind.
    """

    size: int = 65_536
    depth: int = 24
    count: int = 8_192


DEFAULT_LIMITS: Final = Limits()
_LEAST: Final = -(2**64)
_MOST: Final = 2**64 - 1
_SHOWN_CHARACTERS: Final = 32
_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
_CONSTANTS: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}
_REFUSED: Final[dict[int, str]] = {23: "undefined", 25: "a float", 26: "a float", 27: "a float"}


def encode(value: Value) -> bytes:
    """Return the deterministic encoding of ``value``.

    >>> encode({24: 1, -1: 2, "a": (None, True)}).hex()
    'a31818012002616182f6f5'
    """
    return cbor2.dumps(_for_cbor2(value))


def decode(data: bytes, *, path: str = "", limits: Limits = DEFAULT_LIMITS) -> Value:
    """Return the value that ``data`` encodes, if ``data`` is its deterministic encoding and nothing follows.

    Args:
        data: the whole encoding.
        path: what the bytes are, for the error message, e.g. ``envelope.manifest``.
        limits: refused beyond these.

    Raises:
        DecodeError: anything else, whatever the bytes are.
    """
    if len(data) > limits.size:
        raise DecodeError(f"{len(data)} bytes, the limit is {limits.size}", path=path)
    reader = _Reader(data, path, limits)
    value = reader.value()
    if reader.position != len(data):
        raise DecodeError(f"{len(data) - reader.position} bytes after the end", path=path)
    return value


def wrap(encoded: bytes) -> bytes:
    """Return ``encoded`` as a CBOR byte string, head included: the form that SUIT digests are computed over."""
    return cbor2.dumps(encoded)


def brief(value: Value) -> str:
    """Return ``value`` as an error message shows it: what a peer sent never fills a line, nor breaks it.

    >>> brief("a" * 1_000)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...'"
    """
    if isinstance(value, bytes | str) and len(value) > _SHOWN_CHARACTERS:
        return repr(value[:_SHOWN_CHARACTERS])[:-1] + "...'"
    text = repr(value) if not isinstance(value, tuple) else "[" + ", ".join(map(brief, value[:4])) + "]"
    return text if len(text) <= 8 * _SHOWN_CHARACTERS else text[: 8 * _SHOWN_CHARACTERS] + "..."


def _for_cbor2(value: Value) -> Any:
    if value is None or isinstance(value, bool | bytes | str):
        return value
    if isinstance(value, int):
        if not _LEAST <= value <= _MOST:
            raise ValueError(f"{value} needs more than 64 bits")
        return int(value)
    if isinstance(value, Mapping):
        # RFC 8949 section 4.2.1 orders by the bytes of the encoded key; cbor2's own canonical mode orders by length
        # first, as RFC 7049 did.
        return {key: _for_cbor2(value[key]) for key in sorted(value, key=encode)}
    if isinstance(value, list | tuple):
        return tuple(_for_cbor2(item) for item in value)
    if isinstance(value, Tag):
        return cbor2.CBORTag(value.number, _for_cbor2(value.value))
    raise TypeError(f"{type(value).__name__} has no place in the CBOR of this project")


class _Reader:
    """Reads one item after the other; ``trail`` is where it stands, for the path of an error."""

    __slots__ = ("_count", "_data", "_limits", "_path", "_trail", "position")

    def __init__(self, data: bytes, path: str, limits: Limits) -> None:
        self._data = data
        self._path = path
        self._limits = limits
        self._count = 0
        self._trail: list[str] = []
        self.position = 0

    def value(self) -> Value:
        self._count += 1
        if self._count > self._limits.count:
            raise self._error(f"more than {self._limits.count} values")
        major, argument = self._head()
        if major == _UINT:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major in (_BYTES, _TEXT):
            return self._string(major, argument)
        if major > _TAG:
            return self._simple(argument)
        if len(self._trail) >= self._limits.depth:
            raise self._error(f"nested more than {self._limits.depth} deep")
        if major == _ARRAY:
            return tuple(self._inside(f"[{index}]") for index in self._indices(argument))
        if major == _MAP:
            return self._map(argument)
        return Tag(argument, self._inside(""))

    def _inside(self, step: str) -> Value:
        self._trail.append(step)
        value = self.value()
        self._trail.pop()
        return value

    def _map(self, size: int) -> dict[Value, Value]:
        found: dict[Value, Value] = {}
        last = b""
        for _ in self._indices(size):
            start = self.position
            key = self._inside("{key}")
            encoded = self._data[start : self.position]
            if not _is_key(key):
                raise self._error("a map key is an integer, a string or an array of those")
            if encoded <= last:
                wrong = "stands twice" if encoded == last else "is not in bytewise order (RFC 8949 section 4.2.1)"
                raise self._error(f"map key {brief(key)} {wrong}")
            found[key] = self._inside(f".{brief(key)}")
            last = encoded
        return found

    def _indices(self, size: int) -> range:
        # Every item takes a byte at least: a count that cannot be met is refused before anything is built.
        if size > len(self._data) - self.position:
            raise self._error("cut off")
        return range(size)

    def _string(self, major: int, length: int) -> bytes | str:
        content = self._take(length)
        if major == _BYTES:
            return content
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self._error("a text string that is not UTF-8") from error

    def _simple(self, argument: int) -> bool | None:
        if argument in _CONSTANTS:
            return _CONSTANTS[argument]
        raise self._error(f"{_REFUSED.get(argument, 'a simple value')} has no place here")

    def _head(self) -> tuple[int, int]:
        first = self._take(1)[0]
        major, low = first >> 5, first & 31
        if low < 24 or major > _TAG:
            return major, low
        if low > 27:
            raise self._error("an indefinite length or a reserved head")
        width = 1 << (low - 24)
        argument = int.from_bytes(self._take(width), "big")
        if argument < 24 or (width > 1 and argument < 1 << (4 * width)):
            raise self._error("a head that is longer than needed (RFC 8949 section 4.2.1)")
        return major, argument

    def _take(self, length: int) -> bytes:
        start = self.position
        if length > len(self._data) - start:
            raise self._error("cut off")
        self.position = start + length
        return self._data[start : self.position]

    def _error(self, message: str) -> DecodeError:
        return DecodeError(message, path=self._path + "".join(self._trail))


def _is_key(value: Value) -> bool:
    # True equals 1 in Python, so that a key of true would pass for label 1.
    if isinstance(value, tuple):
        return all(_is_key(item) for item in value)
    return isinstance(value, int | str | bytes) and not isinstance(value, bool)
