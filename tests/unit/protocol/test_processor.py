"""The manifest processor: order of sections, component indices, try-each and run-sequence, the custom directive."""

from hashlib import sha256
from typing import Any

import pytest

from protocol.errors import DecodeError, OperationError, UnsupportedError
from protocol.suit import processor
from protocol.suit.codec import Decoded, encode_envelope
from protocol.suit.commands import ConditionFailed
from protocol.suit.effects import ApplyDelta, Copy, Effect, Fetch, Invoke, MatchSlot
from protocol.suit.labels import Command, Parameter, Policy
from protocol.suit.manifest import Common, Manifest
from protocol.suit.model import sha256_digest
from protocol.suit.processor import Procedure, Processor, perform_all
from tests.support.suit_platform import (
    DELTA_MAGIC,
    SIGNER,
    Platform,
    commands,
    decoded_manifest,
    run_envelope,
)

INDEX = Command.DIRECTIVE_SET_COMPONENT_INDEX
SET = Command.DIRECTIVE_OVERRIDE_PARAMETERS
DEFAULT = Command.DIRECTIVE_SET_PARAMETERS
TRY = Command.DIRECTIVE_TRY_EACH
RUN = Command.DIRECTIVE_RUN_SEQUENCE
FETCH = Command.DIRECTIVE_FETCH
COPY = Command.DIRECTIVE_COPY
INVOKE = Command.DIRECTIVE_INVOKE
APPLY = Command.DIRECTIVE_APPLY_DELTA
MATCH = Command.CONDITION_IMAGE_MATCH
SLOT = Command.CONDITION_COMPONENT_SLOT
ABORT = Command.CONDITION_ABORT
NONE = Policy.NONE
URI, SIZE, DIGEST, SOURCE, SOFT = (
    Parameter.URI,
    Parameter.IMAGE_SIZE,
    Parameter.IMAGE_DIGEST,
    Parameter.SOURCE_COMPONENT,
    Parameter.SOFT_FAILURE,
)
FAIL = (ABORT, NONE)


def uri(name: str) -> tuple[Command, dict[Parameter, object]]:
    """A command that sets the URI; what a later fetch asks for tells where it stood."""
    return SET, {URI: name}


def run(*install: tuple[Command | int, object], platform: Platform | None = None, **parts: Any) -> list[Effect]:
    """Run an install sequence of a manifest with three components and return the effects it had."""
    platform = platform or Platform(uris={name: name.encode() for name in "abcdefgh"})
    perform_all(Processor(decoded_manifest((INDEX, 0), *install, **parts)).run(Procedure.UPDATE), platform.perform)
    return platform.log


def fetches(log: list[Effect]) -> list[tuple[int, str]]:
    return [(effect.component, effect.uri) for effect in log if isinstance(effect, Fetch)]


# ---------------------------------------------------------------------------------- sections and component indices


def test_the_shared_sequence_runs_before_every_section_and_parameters_last() -> None:
    shared = commands((INDEX, 0), uri("a"), (SLOT, NONE), (SET, {Parameter.COMPONENT_SLOT: 0}), (SLOT, NONE))
    with pytest.raises(ConditionFailed, match="component-slot is not set"):
        run((FETCH, NONE), shared=shared)
    shared = commands((INDEX, 0), uri("a"), (SET, {Parameter.COMPONENT_SLOT: 0}), (SLOT, NONE))
    log = run((FETCH, NONE), uri("b"), shared=shared, validate=commands((INDEX, 0), (SLOT, NONE)))
    assert [type(effect) for effect in log] == [MatchSlot, Fetch, MatchSlot, MatchSlot]
    assert fetches(log) == [(0, "a")]


def test_parameters_are_cleared_before_a_procedure() -> None:
    manifest = decoded_manifest((INDEX, 0), (DEFAULT, {URI: "a"}), (FETCH, NONE), uri("b"))
    runner = Processor(manifest)
    for _ in range(2):
        platform = Platform(uris={"a": b""})
        perform_all(runner.run(Procedure.UPDATE), platform.perform)
        assert platform.fetched() == ["a"]
        assert runner.parameters[0][URI] == "b"


def test_procedures_run_their_sections_in_order() -> None:
    def section(name: str) -> Any:
        return commands((INDEX, 0), uri(name), (FETCH, NONE))

    base = decoded_manifest((INDEX, 0), uri("install"), (FETCH, NONE))
    manifest = Manifest(
        version=1,
        sequence_number=1,
        common=Common(components=((b"fw",),)),
        payload_fetch=section("payload-fetch"),
        candidate_verification=section("candidate-verification"),
        dependency_resolution=section("dependency-resolution"),
        install=base.manifest.install,
        validate=section("validate"),
        load=section("load"),
        invoke=commands((INDEX, 0), (SET, {Parameter.INVOKE_ARGS: b"args"}), (INVOKE, NONE)),
        uninstall=section("uninstall"),
    )
    envelope = encode_envelope(manifest, [SIGNER])
    names = ("dependency-resolution", "payload-fetch", "candidate-verification", "install", "validate", "load")
    world = {name: b"" for name in (*names, "uninstall")}
    update, invoke, validate = (Platform(uris=world) for _ in range(3))
    run_envelope(envelope, update)
    assert update.fetched() == list(names[:5])
    run_envelope(envelope, invoke, Procedure.INVOKE)
    assert invoke.fetched() == ["validate", "load"]
    assert invoke.invoked == [b"args"]
    assert isinstance(invoke.log[-1], Invoke)
    run_envelope(envelope, validate, Procedure.VALIDATE)
    assert validate.fetched() == ["validate"]


def test_with_several_components_every_section_begins_with_an_index() -> None:
    wrong: list[dict[str, Any]] = [{"shared": commands(uri("a"))}, {"validate": commands((MATCH, NONE))}]
    for parts in wrong:
        with pytest.raises(DecodeError, match="a sequence begins with set-component-index"):
            run(**parts)
    one = decoded_manifest(uri("a"), (FETCH, NONE), components=((b"fw",),))
    platform = Platform(uris={"a": b"x"})
    perform_all(Processor(one).run(Procedure.UPDATE), platform.perform)
    assert platform.images == {0: b"x"}


def test_the_index_of_the_shared_sequence_ends_with_it() -> None:
    shared = commands((INDEX, (0, 0)), uri("a"))
    manifest = decoded_manifest((FETCH, NONE), shared=shared, components=((b"fw",),))
    platform = Platform(uris={"a": b""})
    perform_all(Processor(manifest).run(Procedure.UPDATE), platform.perform)
    assert platform.fetched() == ["a"]


def test_an_empty_section_does_nothing() -> None:
    assert run(validate=commands()) == []


def test_an_index_of_true_means_every_component_in_order() -> None:
    assert fetches(run((INDEX, True), uri("a"), (FETCH, NONE))) == [(0, "a"), (1, "a"), (2, "a")]


def test_an_index_list_means_its_components_in_its_order() -> None:
    assert fetches(run((INDEX, (2, 0)), uri("a"), (FETCH, NONE))) == [(2, "a"), (0, "a")]


def test_a_failure_for_one_component_of_a_list_ends_the_sequence() -> None:
    log: list[Effect] = []
    platform = Platform(slots={0: 1, 1: 0, 2: 1}, log=log)
    with pytest.raises(ConditionFailed):
        run((INDEX, True), (SET, {Parameter.COMPONENT_SLOT: 1}), (SLOT, NONE), platform=platform)
    assert len(log) == 2


@pytest.mark.parametrize("index", [3, (0, 3), 2**64 - 1])
def test_an_index_beyond_the_components_is_refused(index: object) -> None:
    with pytest.raises(OperationError, match="the manifest has 3 components") as refused:
        run((INDEX, index))
    assert refused.value.reason == 6


def test_parameters_belong_to_one_component() -> None:
    with pytest.raises(OperationError, match=r"component 1: parameter uri is not set"):
        run(uri("a"), (INDEX, 1), (FETCH, NONE))


def test_set_parameters_leaves_what_is_set_and_override_does_not() -> None:
    assert fetches(run((DEFAULT, {URI: "a"}), (DEFAULT, {URI: "b"}), (FETCH, NONE))) == [(0, "a")]
    assert fetches(run((DEFAULT, {URI: "a"}), uri("b"), (FETCH, NONE))) == [(0, "b")]


def test_what_one_procedure_executes_is_limited() -> None:
    nested = commands((INDEX, True), (FETCH, NONE))
    for _ in range(6):
        nested = commands((INDEX, (0, 1, 2) * 20), (RUN, nested))
    world = Platform(uris={"a": b""})
    with pytest.raises(OperationError, match="more than 65536 commands"):
        run((INDEX, True), uri("a"), (RUN, nested), platform=world)
    assert len(world.log) <= processor.MAX_STEPS


# ----------------------------------------------------------------------------------- try-each and run-sequence


def test_the_first_branch_that_succeeds_is_the_last_that_runs() -> None:
    log = run((TRY, (commands(uri("a"), FAIL), commands(uri("b"), (FETCH, NONE)), commands(uri("c"), (FETCH, NONE)))))
    assert fetches(log) == [(0, "b")]


def test_when_every_branch_fails_the_try_each_fails() -> None:
    with pytest.raises(ConditionFailed, match="no branch of a try-each succeeded"):
        run((TRY, (commands(FAIL), commands(FAIL))))


def test_a_last_branch_of_nil_succeeds() -> None:
    log = run(uri("a"), (TRY, (commands(FAIL), commands(FAIL), None)), (FETCH, NONE))
    assert fetches(log) == [(0, "a")]


def test_parameters_set_in_a_failed_branch_stay_set() -> None:
    assert fetches(run((TRY, (commands(uri("a"), FAIL), None)), (FETCH, NONE))) == [(0, "a")]


def test_a_try_each_that_fails_inside_a_branch_lets_the_next_one_run() -> None:
    inner = commands((TRY, (commands(FAIL), commands(FAIL))))
    assert fetches(run((TRY, (inner, commands(uri("a"), (FETCH, NONE)))))) == [(0, "a")]


def test_a_branch_that_forbids_soft_failure_ends_everything() -> None:
    hard, good = commands((SET, {SOFT: False}), FAIL), commands(uri("a"), (FETCH, NONE))
    for branches in ((hard, good), (hard, None), (commands(FAIL), hard, good)):
        with pytest.raises(ConditionFailed, match="condition-abort"):
            run((TRY, branches))
    assert fetches(run((TRY, (good, hard)))) == [(0, "a")]


def test_soft_failure_is_true_again_in_the_next_branch() -> None:
    outer = commands((TRY, (commands((SET, {SOFT: False})), commands(FAIL))), FAIL)
    assert fetches(run((TRY, (outer, commands(uri("a"), (FETCH, NONE)))))) == [(0, "a")]


def test_a_run_sequence_fails_hard_unless_it_allows_soft_failure() -> None:
    with pytest.raises(ConditionFailed, match="condition-abort"):
        run((RUN, commands(FAIL)))
    log = run(uri("a"), (RUN, commands((SET, {SOFT: True}), FAIL, uri("b"))), (FETCH, NONE))
    assert fetches(log) == [(0, "a")]


def test_soft_failure_is_not_inherited_by_a_run_sequence() -> None:
    # The run-sequence fails hard; the branch around it catches that softly, since its own flag stands.
    inner = commands((RUN, commands(FAIL)), uri("a"), (FETCH, NONE))
    assert fetches(run((TRY, (inner, commands(uri("b"), (FETCH, NONE)))))) == [(0, "b")]


def test_soft_failure_outside_a_nested_sequence_is_refused() -> None:
    for code in (SET, DEFAULT):
        with pytest.raises(OperationError, match="soft-failure is set outside"):
            run((code, {SOFT: True}))


@pytest.mark.parametrize(("index", "inside"), [(1, [1]), ((1, 2), [1, 2]), (True, [0, 1, 2])])
def test_nested_sequences_see_one_integer_index_and_leave_the_outer_one_alone(index: object, inside: list[int]) -> None:
    log = run((INDEX, index), (RUN, commands(uri("a"), (FETCH, NONE), (INDEX, 0), uri("b"))), (FETCH, NONE))
    after = {component: "b" if component == 0 else "a" for component in inside}
    assert fetches(log) == [(component, "a") for component in inside] + [(c, after[c]) for c in inside]


def test_every_branch_starts_with_the_index_of_its_try_each() -> None:
    log = run((INDEX, 1), (TRY, (commands((INDEX, 2), uri("a"), FAIL), commands(uri("b"), (FETCH, NONE)))))
    assert fetches(log) == [(1, "b")]


def test_the_component_in_hand_survives_a_nested_sequence() -> None:
    log = run((INDEX, (1, 2)), (TRY, (commands((INDEX, 0), FAIL), None)), uri("a"), (FETCH, NONE))
    assert fetches(log) == [(1, "a"), (2, "a")]


# --------------------------------------------------------------------------- what is unknown, and directives that fail


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ((99, NONE), 5),
        ((-300, "argument"), 5),
        ((-258, None), 5),
        ((Command.DIRECTIVE_SWAP, NONE), 5),
        ((Command.CONDITION_USE_BEFORE, NONE), 5),
        ((Command.DIRECTIVE_OVERRIDE_MULTIPLE, {0: {1: b""}}), 5),
        ((SET, {99: 1}), 8),
        ((SET, {-1: 1}), 8),
        ((SET, {Parameter.ENCRYPTION_INFO: b""}), 8),
        ((DEFAULT, {Parameter.USE_BEFORE: 1}), 8),
    ],
)
def test_what_is_unknown_aborts_when_it_is_executed_and_only_then(
    command: tuple[Command | int, object], reason: int
) -> None:
    then = commands(uri("a"), (FETCH, NONE))
    with pytest.raises(UnsupportedError) as refused:
        run((TRY, (commands(command), then)))
    assert refused.value.reason == reason
    assert fetches(run((TRY, (then, commands(command))))) == [(0, "a")]
    assert fetches(run((TRY, (commands(FAIL, command), then)))) == [(0, "a")]


def test_a_directive_that_fails_aborts_even_inside_a_try_each() -> None:
    for failing in ((FETCH, NONE), (COPY, NONE)):
        with pytest.raises(OperationError):
            run((TRY, (commands(failing), commands(uri("a"), (FETCH, NONE)), None)))
    with pytest.raises(OperationError, match=r"4\.04"):
        run((TRY, (commands(uri("gone"), (FETCH, NONE)), None)))


@pytest.mark.parametrize(
    "command",
    [
        (FETCH, NONE),
        (COPY, NONE),
        (INVOKE, NONE),
        (Command.DIRECTIVE_WRITE, NONE),
        (Command.DIRECTIVE_SWAP, NONE),
        (Command.DIRECTIVE_PROCESS_DEPENDENCY, NONE),
        (APPLY, 1),
        (-300, None),
        (99, NONE),
    ],
)
def test_the_shared_sequence_may_have_no_side_effects(command: tuple[Command | int, object]) -> None:
    platform = Platform(uris={"a": b""})
    with pytest.raises(UnsupportedError) as refused:
        run(shared=commands((INDEX, 0), uri("a"), command), platform=platform)
    assert refused.value.reason == 5
    assert platform.log == []


@pytest.mark.parametrize("code", [APPLY, -300])
def test_a_custom_code_in_the_shared_sequence_is_refused_even_where_it_would_not_run(code: int) -> None:
    hidden = commands((code, 1))
    for shared in (
        commands((INDEX, 0), (TRY, (commands(uri("a")), hidden))),
        commands((INDEX, 0), (TRY, (commands(uri("a")), commands((RUN, hidden))))),
        commands((INDEX, 0), (RUN, commands((SET, {SOFT: True}), FAIL, (code, 1)))),
    ):
        with pytest.raises(UnsupportedError, match=f"custom command {int(code)} must not stand in the shared sequence"):
            run(shared=shared)


def test_a_digest_that_is_not_set_matches_nothing() -> None:
    with pytest.raises(ConditionFailed, match="image-digest is not set"):
        run((MATCH, NONE), platform=Platform(images={0: b""}))


# ------------------------------------------------------------------------------------------ directive apply-delta

OLD, NEW = b"old image", b"new image, longer"
PATCH = DELTA_MAGIC + NEW
DECODER = b"d" * 16


def image(content: bytes) -> dict[Parameter, object]:
    return {DIGEST: sha256_digest(sha256(content).digest()), SIZE: len(content)}


def delta_manifest(
    precursor: object = 1,
    *,
    destination: int = 0,
    source: object = 2,
    leave_out: tuple[int, Parameter] | None = None,
) -> Decoded:
    """A manifest whose install ends in apply-delta; one parameter of one component may be left out."""
    given: dict[int, dict[Parameter, object]] = {
        0: image(NEW),
        1: image(OLD),
        2: {**image(PATCH), Parameter.CLASS_IDENTIFIER: DECODER},
    }
    given[destination] = {**given[destination], **({} if source is None else {SOURCE: source})}
    if leave_out is not None:
        del given[leave_out[0]][leave_out[1]]
    set_all = [command for index, values in given.items() for command in ((INDEX, index), (SET, values)) if values]
    return decoded_manifest(*set_all, (INDEX, destination), (APPLY, precursor))


def test_apply_delta_hands_over_what_was_signed() -> None:
    platform = Platform(images={1: OLD, 2: PATCH})
    perform_all(Processor(delta_manifest()).run(Procedure.UPDATE), platform.perform)
    assert platform.images[0] == NEW
    assert platform.log == [
        ApplyDelta(
            component=0,
            patch=2,
            precursor=1,
            digest=sha256_digest(sha256(NEW).digest()),
            size=len(NEW),
            patch_digest=sha256_digest(sha256(PATCH).digest()),
            patch_size=len(PATCH),
            precursor_digest=sha256_digest(sha256(OLD).digest()),
            precursor_size=len(OLD),
            decoder=DECODER,
        )
    ]


@pytest.mark.parametrize("argument", [None, "1", b"\x01", -1, True, (1,), {}])
def test_apply_delta_takes_an_index_and_nothing_else(argument: object) -> None:
    with pytest.raises(DecodeError):
        delta_manifest(argument)


@pytest.mark.parametrize(
    ("arguments", "words", "reason"),
    [
        ({"precursor": 3}, "component index 3: the manifest has 3 components", 6),
        ({"source": 3}, "component index 3: the manifest has 3 components", 6),
        ({"source": None}, "component 0: parameter source-component is not set", 11),
        ({"source": 0}, "component 0 is both source and destination", 11),
        ({"precursor": 0}, "component 0 is both source and destination", 11),
        ({"precursor": 2}, "component 2 is both the patch and the precursor", 11),
        ({"destination": 1}, "component 1 is both source and destination", 11),
        ({"leave_out": (0, DIGEST)}, "component 0: parameter image-digest is not set", 11),
        ({"leave_out": (0, SIZE)}, "component 0: parameter image-size is not set", 11),
        ({"leave_out": (1, DIGEST)}, "component 1: parameter image-digest is not set", 11),
        ({"leave_out": (2, DIGEST)}, "component 2: parameter image-digest is not set", 11),
        ({"leave_out": (2, SIZE)}, "component 2: parameter image-size is not set", 11),
        ({"leave_out": (2, Parameter.CLASS_IDENTIFIER)}, "component 2: parameter class-identifier is not set", 11),
    ],
)
def test_apply_delta_with_one_thing_wrong_is_refused(arguments: dict[str, Any], words: str, reason: int) -> None:
    platform = Platform(images={1: OLD, 2: PATCH})
    with pytest.raises(OperationError, match=words) as refused:
        perform_all(Processor(delta_manifest(**arguments)).run(Procedure.UPDATE), platform.perform)
    assert refused.value.reason == reason
    assert platform.log == []


def test_apply_delta_goes_without_a_signed_size_of_the_precursor() -> None:
    platform = Platform(images={1: OLD, 2: PATCH})
    perform_all(Processor(delta_manifest(leave_out=(1, SIZE))).run(Procedure.UPDATE), platform.perform)
    assert platform.images[0] == NEW


@pytest.mark.parametrize(("argument", "words"), [(3, "3 components"), (0, "both source and destination")])
def test_copy_checks_its_source_as_well(argument: int, words: str) -> None:
    with pytest.raises(OperationError, match=words):
        run((SET, {SOURCE: argument}), (COPY, NONE))
    assert run((SET, {SOURCE: 2}), (COPY, NONE), platform=Platform(images={2: b""})) == [
        Copy(component=0, source=2, size=None)
    ]
