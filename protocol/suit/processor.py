"""The manifest processor: procedures as generators of effects.

Rules that hold here (SUIT manifest, "Processing"):

* The manifest was authenticated before it got here; parameters start empty.
* For every section the shared sequence runs first, then the section's sequence. With more than one component each of
  them begins with set-component-index.
* A component index of true or a list runs a command once for each component, in order; the bodies of try-each and
  run-sequence see one integer index.
* A failed condition ends its sequence. In a try-each the next branch is tried while the branch's soft-failure flag
  (true at its start) still stands; in a run-sequence the flag starts false. A failed directive ends everything.
* Parameters set in a failed branch stay set.

The processor is never persisted. After a power cut the procedure runs again from its start, and what was done already
is found done.
"""

from collections.abc import Callable, Generator, Mapping
from enum import Enum
from typing import Final

from protocol.errors import REASON_COMMAND_UNSUPPORTED, DecodeError, OperationError, OtaError, UnsupportedError
from protocol.suit.codec import Decoded, require_sequence
from protocol.suit.commands import INDEX_FREE, ConditionFailed, Context, Steps, execute
from protocol.suit.effects import Effect, Outcome
from protocol.suit.labels import Command, ManifestKey
from protocol.suit.model import Sequence

MAX_STEPS: Final = 65_536
"""Commands one procedure may execute: nested sequences over long index lists would otherwise multiply without end."""


class Procedure(Enum):
    """Which sections run, in order."""

    UPDATE = (
        ManifestKey.DEPENDENCY_RESOLUTION,
        ManifestKey.PAYLOAD_FETCH,
        ManifestKey.CANDIDATE_VERIFICATION,
        ManifestKey.INSTALL,
        ManifestKey.VALIDATE,
    )
    VALIDATE = (ManifestKey.VALIDATE,)
    INVOKE = (ManifestKey.VALIDATE, ManifestKey.LOAD, ManifestKey.INVOKE)


class Processor:
    """Runs the procedures of one authenticated, decoded manifest."""

    def __init__(self, decoded: Decoded) -> None:
        """Take the manifest; nothing runs yet."""
        self._decoded = decoded
        self._components: Final = len(decoded.manifest.common.components)
        self._parameters: dict[int, dict[int, object]] = {}
        self._steps = 0

    @property
    def parameters(self) -> Mapping[int, Mapping[int, object]]:
        """The parameters by component as the last run left them."""
        return self._parameters

    def run(self, procedure: Procedure) -> Steps:
        """Yield the effects of ``procedure``, one at a time; send each one's outcome.

        Raises:
            ConditionFailed: the manifest is not for this device, or what stands there is not what it says.
            OperationError: a directive failed.
            UnsupportedError: something in the manifest is not known here.
        """
        self._parameters.clear()
        self._steps = 0
        shared = self._decoded.manifest.common.shared_sequence
        if shared is not None:
            _refuse_custom(shared)
        sections = [(label, require_sequence(self._decoded, label)) for label in procedure.value]
        for label, section in sections:
            if section is None:
                continue
            context = Context(self, self._components, self._parameters)
            if shared is not None:
                context.in_shared = True
                yield from self._run_section(shared, context, "common.shared-sequence")
                context.in_shared = False
            context.index = 0
            yield from self._run_section(section, context, label.name.lower().replace("_", "-"))

    def run_branch(self, branch: Sequence, context: Context, *, soft_failure: bool) -> Generator[Effect, Outcome, bool]:
        """Run a sequence inside another, with a soft-failure flag of its own; False where it failed softly."""
        outer, context.soft_failure = context.soft_failure, soft_failure
        index, component = context.index, context.component
        context.index = component
        try:
            yield from self._run_sequence(branch, context)
        except ConditionFailed:
            if not context.soft_failure:
                raise
            return False
        finally:
            context.soft_failure = outer
            # The next branch starts where this one did, whatever index this one set.
            context.index, context.component = index, component
        return True

    def _run_section(self, section: Sequence, context: Context, name: str) -> Steps:
        first = section.items[0].code if section.items else None
        if self._components > 1 and first is not None and first != Command.DIRECTIVE_SET_COMPONENT_INDEX:
            raise DecodeError("with several components a sequence begins with set-component-index", path=name)
        yield from self._run_sequence(section, context)

    def _run_sequence(self, sequence: Sequence, context: Context) -> Steps:
        for instruction in sequence.items:
            if instruction.code in INDEX_FREE:
                self._count_step()
                yield from execute(context, instruction.code, instruction.argument)
                continue
            for component in _components_of(context.index, self._components):
                self._count_step()
                context.component = component
                yield from execute(context, instruction.code, instruction.argument)

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise OperationError(f"more than {MAX_STEPS} commands in one procedure")


def perform_all(steps: Steps, perform: Callable[[Effect], Outcome]) -> None:
    """Run a procedure to its end, doing each effect by ``perform``; a platform that waits drives the steps itself.

    Raises:
        OtaError: what ``perform`` raises goes through the processor, and comes out unless that decides otherwise.
    """
    try:
        effect = next(steps)
        while True:
            try:
                outcome = perform(effect)
            except OtaError as error:
                effect = steps.throw(error)
            else:
                effect = steps.send(outcome)
    except StopIteration:
        return


def _refuse_custom(sequence: Sequence) -> None:
    # At the start and in every branch, so that the verdict does not depend on what the device happens to run.
    for instruction in sequence.items:
        if instruction.code < 0:
            raise UnsupportedError(
                f"custom command {instruction.code} must not stand in the shared sequence",
                reason=REASON_COMMAND_UNSUPPORTED,
            )
        inner = instruction.argument if isinstance(instruction.argument, tuple) else (instruction.argument,)
        for branch in inner:
            if isinstance(branch, Sequence):
                _refuse_custom(branch)


def _components_of(index: int | bool | tuple[int, ...], count: int) -> tuple[int, ...]:
    if index is True:
        return tuple(range(count))
    return index if isinstance(index, tuple) else (int(index),)
