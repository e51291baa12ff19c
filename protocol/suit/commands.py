"""What each command does: one table from label to handler.

A handler is a generator of effects. A condition that does not hold raises `ConditionFailed`, which a try-each may
catch; a directive that cannot be done raises `OperationError`, which nothing catches; a command or parameter that is
not known raises `UnsupportedError` when it is executed, never softly.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from protocol.errors import (
    REASON_COMMAND_UNSUPPORTED,
    REASON_COMPONENT_UNSUPPORTED,
    REASON_PARAMETER_UNSUPPORTED,
    OperationError,
    PolicyError,
    UnsupportedError,
)
from protocol.suit.effects import (
    ApplyDelta,
    Copy,
    Effect,
    Fetch,
    Invoke,
    MatchIdentifier,
    MatchImage,
    MatchSlot,
    Outcome,
)
from protocol.suit.labels import Command, Parameter, spoken
from protocol.suit.model import Digest, Sequence

T = TypeVar("T")
Steps = Generator[Effect, Outcome, None]


class ConditionFailed(PolicyError):
    """A condition does not hold: it ends its sequence, and the procedure unless a try-each goes on."""


class Runner(Protocol):
    """What a handler needs of the processor: to run a sequence inside another."""

    def run_branch(
        self, branch: Sequence, context: "Context", *, soft_failure: bool
    ) -> Generator[Effect, Outcome, bool]:
        """Run ``branch`` and return True; False where it failed softly."""


@dataclass(slots=True)
class Context:
    """Where the processor stands: parameters by component, the index in force, the flags of the innermost sequence.

    ``soft_failure`` is None at the top of a section, where setting the flag is an error.
    """

    runner: Runner
    component_count: int
    parameters: dict[int, dict[int, object]]
    index: int | bool | tuple[int, ...] = 0
    soft_failure: bool | None = None
    in_shared: bool = False
    component: int = field(default=0, init=False)

    def get(self, parameter: Parameter, kind: type[T], component: int | None = None) -> T | None:
        """Return a parameter of the component in hand (or another), or None where it is not set."""
        value = self.parameters.get(self.component if component is None else component, {}).get(parameter)
        return value if isinstance(value, kind) else None

    def need(self, parameter: Parameter, kind: type[T], component: int | None = None) -> T:
        """Return a parameter that a directive cannot do without.

        Raises:
            OperationError: it is not set.
        """
        value = self.get(parameter, kind, component)
        if value is None:
            where = self.component if component is None else component
            raise OperationError(f"component {where}: parameter {spoken(parameter)} is not set")
        return value


Handler = Callable[[Context, object], Steps]
Action = Callable[[Context, object], None]


def execute(context: Context, code: int, argument: object) -> Steps:
    """Run one command for the component in hand; a label must stand in one of the two tables below.

    Raises:
        UnsupportedError: the command is not known, or not allowed where it stands.
    """
    handler, action = HANDLERS.get(code), ACTIONS.get(code)
    if handler is None and action is None:
        raise UnsupportedError(f"command {code} is not known", reason=REASON_COMMAND_UNSUPPORTED)
    if context.in_shared and code not in SHARED_SEQUENCE_COMMANDS:
        name = spoken(Command(code))
        raise UnsupportedError(f"{name} must not stand in the shared sequence", reason=REASON_COMMAND_UNSUPPORTED)
    if action is not None:
        action(context, argument)
    elif handler is not None:
        yield from handler(context, argument)


def _require(outcome: Outcome, what: str) -> None:
    if outcome is not True:
        raise ConditionFailed(what)


def _identifier(kind: Parameter) -> Handler:
    def handler(context: Context, argument: object) -> Steps:
        value = context.parameters.get(context.component, {}).get(kind)
        if value is None:
            raise ConditionFailed(f"component {context.component}: {spoken(kind)} is not set")
        outcome = yield MatchIdentifier(component=context.component, kind=kind, value=value)
        _require(outcome, f"component {context.component}: {spoken(kind)} is another one")

    return handler


def _image_match(context: Context, argument: object) -> Steps:
    digest = context.get(Parameter.IMAGE_DIGEST, Digest)
    if digest is None:
        raise ConditionFailed(f"component {context.component}: image-digest is not set")
    size = context.get(Parameter.IMAGE_SIZE, int)
    outcome = yield MatchImage(component=context.component, digest=digest, size=size)
    _require(outcome, f"component {context.component}: the image is another one (image-match)")


def _component_slot(context: Context, argument: object) -> Steps:
    slot = context.get(Parameter.COMPONENT_SLOT, int)
    if slot is None:
        raise ConditionFailed(f"component {context.component}: component-slot is not set")
    outcome = yield MatchSlot(component=context.component, slot=slot)
    _require(outcome, f"component {context.component}: not in slot {slot}")


def _abort(context: Context, argument: object) -> None:
    raise ConditionFailed("condition-abort")


def _set_component_index(context: Context, argument: object) -> None:
    indices = argument if isinstance(argument, tuple) else (argument,)
    for index in indices:
        if index is not True and not (isinstance(index, int) and index < context.component_count):
            raise OperationError(
                f"component index {index}: the manifest has {context.component_count} components",
                reason=REASON_COMPONENT_UNSUPPORTED,
            )
    context.index = argument if isinstance(argument, int | tuple) else 0


def _override_parameters(context: Context, argument: object) -> None:
    _set(context, argument, override=True)


def _set_parameters(context: Context, argument: object) -> None:
    _set(context, argument, override=False)


def _set(context: Context, argument: object, *, override: bool) -> None:
    parameters = context.parameters.setdefault(context.component, {})
    for label, value in _mapping(argument).items():
        if label not in KNOWN_PARAMETERS:
            raise UnsupportedError(f"parameter {label} is not known", reason=REASON_PARAMETER_UNSUPPORTED)
        if label == Parameter.SOFT_FAILURE:
            if context.soft_failure is None:
                raise OperationError("soft-failure is set outside try-each and run-sequence")
            context.soft_failure = bool(value)
        elif override or label not in parameters:
            parameters[label] = value


def _mapping(argument: object) -> Mapping[int, object]:
    if not isinstance(argument, Mapping):
        raise OperationError("a parameter map is due")
    return argument


def _try_each(context: Context, argument: object) -> Steps:
    branches = argument if isinstance(argument, tuple) else ()
    for branch in branches:
        if branch is None:
            return
        done = yield from context.runner.run_branch(branch, context, soft_failure=True)
        if done:
            return
    raise ConditionFailed("no branch of a try-each succeeded")


def _run_sequence(context: Context, argument: object) -> Steps:
    if not isinstance(argument, Sequence):
        raise OperationError("a sequence is due")
    yield from context.runner.run_branch(argument, context, soft_failure=False)


def _fetch(context: Context, argument: object) -> Steps:
    yield Fetch(
        component=context.component,
        uri=context.need(Parameter.URI, str),
        digest=context.get(Parameter.IMAGE_DIGEST, Digest),
        size=context.get(Parameter.IMAGE_SIZE, int),
    )


def _copy(context: Context, argument: object) -> Steps:
    source = _other_component(context, context.need(Parameter.SOURCE_COMPONENT, int))
    yield Copy(component=context.component, source=source, size=context.get(Parameter.IMAGE_SIZE, int))


def _invoke(context: Context, argument: object) -> Steps:
    yield Invoke(component=context.component, arguments=context.get(Parameter.INVOKE_ARGS, bytes))


def _apply_delta(context: Context, argument: object) -> Steps:
    precursor = _other_component(context, argument)
    patch = _other_component(context, context.need(Parameter.SOURCE_COMPONENT, int))
    if patch == precursor:
        raise OperationError(f"apply-delta: component {patch} is both the patch and the precursor")
    yield ApplyDelta(
        component=context.component,
        patch=patch,
        precursor=precursor,
        digest=context.need(Parameter.IMAGE_DIGEST, Digest),
        size=context.need(Parameter.IMAGE_SIZE, int),
        patch_digest=context.need(Parameter.IMAGE_DIGEST, Digest, patch),
        patch_size=context.need(Parameter.IMAGE_SIZE, int, patch),
        precursor_digest=context.need(Parameter.IMAGE_DIGEST, Digest, precursor),
        precursor_size=context.get(Parameter.IMAGE_SIZE, int, precursor),
        decoder=context.need(Parameter.CLASS_IDENTIFIER, bytes, patch),
    )


def _other_component(context: Context, index: object) -> int:
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < context.component_count:
        raise OperationError(
            f"component index {index!r}: the manifest has {context.component_count} components",
            reason=REASON_COMPONENT_UNSUPPORTED,
        )
    if index == context.component:
        raise OperationError(f"component {index} is both source and destination")
    return index


HANDLERS: Final[dict[int, Handler]] = {
    Command.CONDITION_VENDOR_IDENTIFIER: _identifier(Parameter.VENDOR_IDENTIFIER),
    Command.CONDITION_CLASS_IDENTIFIER: _identifier(Parameter.CLASS_IDENTIFIER),
    Command.CONDITION_IMAGE_MATCH: _image_match,
    Command.CONDITION_COMPONENT_SLOT: _component_slot,
    Command.CONDITION_DEVICE_IDENTIFIER: _identifier(Parameter.DEVICE_IDENTIFIER),
    Command.DIRECTIVE_TRY_EACH: _try_each,
    Command.DIRECTIVE_FETCH: _fetch,
    Command.DIRECTIVE_COPY: _copy,
    Command.DIRECTIVE_INVOKE: _invoke,
    Command.DIRECTIVE_RUN_SEQUENCE: _run_sequence,
    Command.DIRECTIVE_APPLY_DELTA: _apply_delta,
}
"""The commands that ask something of the platform."""

ACTIONS: Final[dict[int, Action]] = {
    Command.CONDITION_ABORT: _abort,
    Command.DIRECTIVE_SET_COMPONENT_INDEX: _set_component_index,
    Command.DIRECTIVE_SET_PARAMETERS: _set_parameters,
    Command.DIRECTIVE_OVERRIDE_PARAMETERS: _override_parameters,
}
"""The commands that change only the processor's own state. A label in neither table has a name and is refused."""

SHARED_SEQUENCE_COMMANDS: Final = frozenset(
    {
        *(command for command in Command if command.name.startswith("CONDITION_")),
        Command.DIRECTIVE_SET_COMPONENT_INDEX,
        Command.DIRECTIVE_TRY_EACH,
        Command.DIRECTIVE_SET_PARAMETERS,
        Command.DIRECTIVE_OVERRIDE_PARAMETERS,
        Command.DIRECTIVE_RUN_SEQUENCE,
        Command.DIRECTIVE_OVERRIDE_MULTIPLE,
        Command.DIRECTIVE_COPY_PARAMS,
    }
)
"""Nothing with a side effect, and nothing custom, may stand in the shared sequence."""

KNOWN_PARAMETERS: Final = frozenset(
    {
        Parameter.VENDOR_IDENTIFIER,
        Parameter.CLASS_IDENTIFIER,
        Parameter.IMAGE_DIGEST,
        Parameter.COMPONENT_SLOT,
        Parameter.STRICT_ORDER,
        Parameter.SOFT_FAILURE,
        Parameter.IMAGE_SIZE,
        Parameter.URI,
        Parameter.SOURCE_COMPONENT,
        Parameter.INVOKE_ARGS,
        Parameter.DEVICE_IDENTIFIER,
    }
)
"""The parameters that an executed command reads; any other is refused, since ignoring one could change the meaning."""

INDEX_FREE: Final = frozenset({Command.DIRECTIVE_SET_COMPONENT_INDEX})
"""Commands that run once whatever the component index is."""
