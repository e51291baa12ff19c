"""Envelopes as a tree that people can read, with the names of the standard.

Printing needs no trust and must work on what would be refused: every part that does not decode is shown as bytes with
the reason beside it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol import cbor
from protocol.cose.algorithms import Algorithm
from protocol.cose.sign1 import Header
from protocol.errors import OtaError
from protocol.suit.codec import MANIFEST_LIMITS
from protocol.suit.envelope import open_envelope
from protocol.suit.labels import (
    Command,
    CommonKey,
    ComponentTextKey,
    DigestAlgorithm,
    EnvelopeKey,
    ManifestKey,
    Parameter,
    TextKey,
    spoken,
)
from protocol.suit.model import Digest, Sequence, component_name
from protocol.suit.sequences import PARAMETERS, decode_sequence

_SHOWN_BYTES: Final = 32
_COSE_TAGS: Final = {17: "COSE_Mac0", 18: "COSE_Sign1", 97: "COSE_Mac", 98: "COSE_Sign"}


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One line: how deep it stands in the tree, and its text."""

    depth: int
    text: str


def render_envelope(data: bytes) -> Iterator[TreeLine]:
    """Yield the lines of the tree.

    Raises:
        DecodeError: the bytes are no envelope, tagged or not.
    """
    for line in _lines(data):
        # One place for all: a key or an error may quote text of the envelope, which must not steer a terminal.
        yield TreeLine(line.depth, "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line.text))


def _lines(data: bytes) -> Iterator[TreeLine]:
    envelope = open_envelope(data, allow_untagged=True)
    yield TreeLine(0, f"SUIT envelope, {len(data)} bytes")
    yield from _wrapper(envelope.wrapper)
    yield from _manifest(envelope.manifest)
    for label, content in envelope.members.items():
        name = _name(EnvelopeKey, label)
        yield TreeLine(1, f"{name}, severed, {len(content)} bytes")
        yield from _text(content, 2) if label == EnvelopeKey.TEXT else _member(content, 2, label)
    for name, content in envelope.payloads.items():
        yield TreeLine(1, f"integrated payload {name!r}: {len(content)} bytes")


def _wrapper(content: bytes) -> Iterator[TreeLine]:
    yield TreeLine(1, f"{_name(EnvelopeKey, EnvelopeKey.AUTHENTICATION_WRAPPER)}, {len(content)} bytes")
    try:
        items = cbor.decode(content, path="wrapper")
        yield TreeLine(2, f"digest of the manifest: {_digest(cbor.decode(items[0], path='digest'))}")
        for block in items[1:]:
            yield TreeLine(2, _block(cbor.decode(block, path="block")))
    except (OtaError, TypeError, LookupError) as error:
        yield TreeLine(2, f"not readable: {error}")


def _block(value: cbor.Value) -> str:
    if not isinstance(value, cbor.Tag) or not isinstance(value.value, tuple) or not value.value:
        return f"no COSE structure: {_shorten(value)}"
    name = _COSE_TAGS.get(value.number, f"tag {value.number}")
    protected = value.value[0]
    headers = cbor.decode(protected, path="protected") if isinstance(protected, bytes) and protected else {}
    algorithm = headers.get(Header.ALG) if isinstance(headers, dict) else None
    words = next((known.name for known in Algorithm if known == algorithm), "not known here")
    return f"{name}, algorithm {algorithm} ({words}), signature or tag {_shorten(value.value[-1])}"


def _manifest(content: bytes) -> Iterator[TreeLine]:
    yield TreeLine(1, f"manifest (3), {len(content)} bytes")
    try:
        mapping = cbor.decode(content, path="manifest", limits=MANIFEST_LIMITS)
    except OtaError as error:
        yield TreeLine(2, f"not readable: {error}")
        return
    if not isinstance(mapping, dict):
        yield TreeLine(2, f"not a map: {_shorten(mapping)}")
        return
    for label, value in mapping.items():
        name = _name(ManifestKey, label)
        if isinstance(value, tuple) and label not in (ManifestKey.COMPONENT_ID,):
            yield TreeLine(2, f"{name}: severed, {_digest(value)}")
        elif label == ManifestKey.COMMON and isinstance(value, bytes):
            yield TreeLine(2, name)
            yield from _common(value)
        elif label == ManifestKey.TEXT and isinstance(value, bytes):
            yield TreeLine(2, name)
            yield from _text(value, 3)
        elif isinstance(value, bytes) and label != ManifestKey.SET_VERSION:
            yield TreeLine(2, name)
            yield from _member(value, 3, label)
        else:
            yield TreeLine(2, f"{name}: {_shorten(value)}")


def _common(content: bytes) -> Iterator[TreeLine]:
    try:
        mapping = cbor.decode(content, path="common")
        for label, value in mapping.items():
            name = _name(CommonKey, label)
            if label == CommonKey.COMPONENTS:
                yield TreeLine(3, name)
                for index, component in enumerate(value):
                    yield TreeLine(4, f"{index}: {component_name(component)}")
            elif label == CommonKey.SHARED_SEQUENCE:
                yield TreeLine(3, name)
                yield from _member(value, 4, label)
            else:
                yield TreeLine(3, f"{name}: {_shorten(value)}")
    except (OtaError, TypeError, AttributeError) as error:
        yield TreeLine(3, f"not readable: {error}")


def _member(content: bytes, depth: int, label: int) -> Iterator[TreeLine]:
    try:
        yield from _sequence(decode_sequence(content, str(label)), depth)
    except OtaError as error:
        yield TreeLine(depth, f"{_shorten(content)} ({error})")


def _sequence(sequence: Sequence, depth: int) -> Iterator[TreeLine]:
    for instruction in sequence.items:
        name = _name(Command, instruction.code)
        argument = instruction.argument
        if isinstance(argument, Sequence):
            yield TreeLine(depth, name)
            yield from _sequence(argument, depth + 1)
        elif instruction.code == Command.DIRECTIVE_TRY_EACH and isinstance(argument, tuple):
            yield TreeLine(depth, name)
            for number, branch in enumerate(argument):
                yield TreeLine(depth + 1, f"branch {number}" + (": nil, succeed" if branch is None else ""))
                if isinstance(branch, Sequence):
                    yield from _sequence(branch, depth + 2)
        elif isinstance(argument, Mapping) and instruction.code in _PARAMETER_COMMANDS:
            yield TreeLine(depth, name)
            for label, value in argument.items():
                yield TreeLine(depth + 1, f"{_name(Parameter, label)}: {_parameter(label, value)}")
        else:
            yield TreeLine(depth, f"{name}: {_shorten(argument)}")


def _parameter(label: int, value: object) -> str:
    if isinstance(value, Digest):
        return _digest(value.to_value())
    return _shorten(value) if label in PARAMETERS else f"{_shorten(value)} (not known here)"


def _text(content: bytes, depth: int) -> Iterator[TreeLine]:
    try:
        languages = cbor.decode(content, path="text")
        for language, fields in languages.items():
            yield TreeLine(depth, f"language {_printable(language)}")
            for label, value in fields.items():
                if isinstance(label, tuple):
                    yield TreeLine(depth + 1, f"component {component_name(label)}")
                    for inner, words in value.items():
                        yield TreeLine(depth + 2, f"{_name(ComponentTextKey, inner)}: {_printable(words)}")
                else:
                    yield TreeLine(depth + 1, f"{_name(TextKey, label)}: {_printable(value)}")
    except (OtaError, TypeError, AttributeError) as error:
        yield TreeLine(depth, f"not readable: {error}")


def _digest(value: cbor.Value) -> str:
    try:
        number, digest = value
        return f"{DigestAlgorithm(number).name.replace('_', '-')} {digest.hex()}"
    except (TypeError, ValueError, AttributeError):
        return f"no SUIT_Digest: {_shorten(value)}"


def _name(labels: type[IntEnum], label: object) -> str:
    known = next((member for member in labels if member == label), None)
    return f"not known here ({label!r})" if known is None else f"{spoken(known)} ({label})"


def _printable(value: object) -> str:
    # Text comes from whoever wrote the file: a line end or an escape sequence in it must not reach the terminal.
    return value if isinstance(value, str) and value.isprintable() else _shorten(value)


def _shorten(value: object) -> str:
    for kind, show in _SHOWN.items():
        if isinstance(value, kind) and not isinstance(value, bool):
            return show(value)
    return str(value)


def _show_bytes(value: bytes) -> str:
    tail = f"... ({len(value)} bytes)" if len(value) > _SHOWN_BYTES else ""
    return value[:_SHOWN_BYTES].hex() + tail


_SHOWN: Final[dict[type, Callable[..., str]]] = {
    bytes: _show_bytes,
    str: repr,
    int: lambda value: str(int(value)),
    type(None): lambda value: "nil",
    tuple: lambda value: "[" + ", ".join(_shorten(item) for item in value) + "]",
    dict: lambda value: "{" + ", ".join(f"{_shorten(k)}: {_shorten(v)}" for k, v in value.items()) + "}",
    cbor.Tag: lambda value: f"{value.number}({_shorten(value.value)})",
}
_PARAMETER_COMMANDS: Final = frozenset({Command.DIRECTIVE_SET_PARAMETERS, Command.DIRECTIVE_OVERRIDE_PARAMETERS})
