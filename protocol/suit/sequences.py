"""Command sequences to and from bytes: one table says what argument each command takes, another what each parameter is.

A code or parameter that no table knows is kept as it came: whether it matters is decided when it is executed.
"""

from collections.abc import Callable, Mapping
from typing import Final

from protocol import cbor
from protocol.errors import DecodeError
from protocol.schema import expect
from protocol.suit.labels import Command, Parameter, Policy
from protocol.suit.model import Digest, Instruction, Sequence, digest_from_value

MAX_BRANCH_DEPTH: Final = 8
"""Nested try-each and run-sequence; the delta manifest needs 3."""

Decoder = Callable[[cbor.Value, str, int], object]


def decode_sequence(data: bytes, path: str, depth: int = 0) -> Sequence:
    """Return the sequence that the content of a byte string encodes.

    Raises:
        DecodeError: not a flat array of code, argument, code, argument; or an argument of the wrong form.
    """
    if depth > MAX_BRANCH_DEPTH:
        raise DecodeError(f"sequences nested more than {MAX_BRANCH_DEPTH} deep", path=path)
    flat = expect(cbor.decode(data, path=path), tuple, path)
    if len(flat) % 2:
        raise DecodeError("a command without its argument", path=path)
    items = []
    for position in range(0, len(flat), 2):
        here = f"{path}[{position}]"
        code = expect(flat[position], int, here)
        decoder = ARGUMENTS.get(code)
        raw = flat[position + 1]
        items.append(Instruction(code, decoder(raw, here, depth) if decoder else raw))
    return Sequence(data, tuple(items))


def sequence(*commands: tuple[Command, object]) -> Sequence:
    """Return the sequence of ``commands``, each a code and its decoded argument; the way authors write one."""
    flat: list[cbor.Value] = []
    for code, argument in commands:
        flat += [int(code), argument_to_value(argument)]
    return Sequence(cbor.encode(flat), tuple(Instruction(code, argument) for code, argument in commands))


def argument_to_value(argument: object) -> cbor.Value:
    """Return the CBOR value of a decoded argument."""
    if isinstance(argument, Sequence):
        return argument.raw
    if isinstance(argument, tuple):
        return tuple(argument_to_value(branch) for branch in argument)
    if isinstance(argument, Mapping):
        return {int(label): _parameter_to_value(value) for label, value in argument.items()}
    return argument


def _parameter_to_value(value: object) -> cbor.Value:
    return cbor.encode(value.to_value()) if isinstance(value, Digest) else value


def _policy(value: cbor.Value, path: str, depth: int) -> Policy:
    number = expect(value, int, path)
    if not 0 <= number <= Policy.ALL:
        raise DecodeError(f"reporting policy {number} is not within 0..15", path=path)
    return Policy(number)


def _index(value: cbor.Value, path: str, depth: int) -> int | bool | tuple[int, ...]:
    if value is True:
        return True
    if isinstance(value, tuple) and value:
        return tuple(_uint(item, path, depth) for item in value)
    return _uint(value, path, depth)


def _uint(value: cbor.Value, path: str, depth: int) -> int:
    number: int = expect(value, int, path)
    if number < 0:
        raise DecodeError(f"{number} is negative", path=path)
    return number


def _branches(value: cbor.Value, path: str, depth: int) -> tuple[Sequence | None, ...]:
    items = expect(value, tuple, path)
    if len(items) < 2:
        raise DecodeError("a try-each has at least two branches", path=path)
    if any(item is None for item in items[:-1]):
        raise DecodeError("nil stands before the last branch", path=path)
    return tuple(
        None if item is None else decode_sequence(expect(item, bytes, path), f"{path}.try-each[{number}]", depth + 1)
        for number, item in enumerate(items)
    )


def _sequence(value: cbor.Value, path: str, depth: int) -> Sequence:
    return decode_sequence(expect(value, bytes, path), f"{path}.run-sequence", depth + 1)


def _parameters(value: cbor.Value, path: str, depth: int) -> Mapping[int, object]:
    mapping = expect(value, dict, path)
    if not mapping:
        raise DecodeError("an empty parameter map", path=path)
    found: dict[int, object] = {}
    for label, item in mapping.items():
        here = f"{path}.{label}"
        decoder = PARAMETERS.get(expect(label, int, here))
        found[label] = decoder(item, here, depth) if decoder else item
    return found


def _bytes(value: cbor.Value, path: str, depth: int) -> bytes:
    return expect(value, bytes, path)


def _text(value: cbor.Value, path: str, depth: int) -> str:
    return expect(value, str, path)


def _flag(value: cbor.Value, path: str, depth: int) -> bool:
    return expect(value, bool, path)


def _identifier(value: cbor.Value, path: str, depth: int) -> object:
    # A UUID of 16 bytes, or a private enterprise number as tag 112, which is only ever compared as a whole.
    return value if isinstance(value, cbor.Tag) else expect(value, bytes, path)


def _wrapped_digest(value: cbor.Value, path: str, depth: int) -> Digest:
    return digest_from_value(cbor.decode(expect(value, bytes, path), path=path), path)


_SEQUENCE_ARGUMENTS: Final[dict[Command, Decoder]] = {
    Command.DIRECTIVE_SET_COMPONENT_INDEX: _index,
    Command.DIRECTIVE_TRY_EACH: _branches,
    Command.DIRECTIVE_RUN_SEQUENCE: _sequence,
    Command.DIRECTIVE_SET_PARAMETERS: _parameters,
    Command.DIRECTIVE_OVERRIDE_PARAMETERS: _parameters,
    Command.DIRECTIVE_APPLY_DELTA: _uint,
}
_RAW_ARGUMENTS: Final = frozenset({Command.DIRECTIVE_OVERRIDE_MULTIPLE, Command.DIRECTIVE_COPY_PARAMS})
ARGUMENTS: Final[dict[int, Decoder]] = {
    int(command): _SEQUENCE_ARGUMENTS.get(command, _policy) for command in Command if command not in _RAW_ARGUMENTS
}
"""What argument each command takes; all but these few take a reporting policy."""

PARAMETERS: Final[dict[int, Decoder]] = {
    Parameter.VENDOR_IDENTIFIER: _identifier,
    Parameter.CLASS_IDENTIFIER: _identifier,
    Parameter.IMAGE_DIGEST: _wrapped_digest,
    Parameter.USE_BEFORE: _uint,
    Parameter.COMPONENT_SLOT: _uint,
    Parameter.STRICT_ORDER: _flag,
    Parameter.SOFT_FAILURE: _flag,
    Parameter.IMAGE_SIZE: _uint,
    Parameter.CONTENT: _bytes,
    Parameter.ENCRYPTION_INFO: _bytes,
    Parameter.URI: _text,
    Parameter.SOURCE_COMPONENT: _uint,
    Parameter.INVOKE_ARGS: _bytes,
    Parameter.DEVICE_IDENTIFIER: _bytes,
    Parameter.FETCH_ARGUMENTS: _bytes,
    Parameter.MINIMUM_BATTERY: _uint,
    Parameter.UPDATE_PRIORITY: lambda value, path, depth: expect(value, int, path),
    Parameter.VERSION: _bytes,
    Parameter.WAIT_INFO: _bytes,
    Parameter.COMPONENT_METADATA: _bytes,
}
"""What each parameter's value is."""
