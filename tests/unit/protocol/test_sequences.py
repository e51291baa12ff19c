"""Command sequences: which arguments commands take, and that unknown ones are kept for the processor to judge."""

import pytest

from protocol import cbor
from protocol.errors import DecodeError
from protocol.suit.commands import ACTIONS, HANDLERS, KNOWN_PARAMETERS, SHARED_SEQUENCE_COMMANDS
from protocol.suit.labels import Command, Parameter, Policy
from protocol.suit.model import Digest, Sequence, sha256_digest
from protocol.suit.sequences import ARGUMENTS, MAX_BRANCH_DEPTH, PARAMETERS, decode_sequence, sequence

EMPTY = cbor.encode(())
DIGEST = cbor.encode((-16, bytes(32)))


def decode(*flat: cbor.Value) -> Sequence:
    return decode_sequence(cbor.encode(flat), "seq")


def test_every_table_speaks_of_the_same_labels() -> None:
    assert not HANDLERS.keys() & ACTIONS.keys()
    assert HANDLERS.keys() | ACTIONS.keys() <= set(Command)
    assert ARGUMENTS.keys() >= HANDLERS.keys() | ACTIONS.keys()
    assert PARAMETERS.keys() == set(Parameter)
    assert KNOWN_PARAMETERS <= PARAMETERS.keys()
    assert not {code for code in SHARED_SEQUENCE_COMMANDS if code < 0}


def test_what_an_author_writes_is_what_a_decoder_reads() -> None:
    written = sequence(
        (Command.DIRECTIVE_SET_COMPONENT_INDEX, True),
        (Command.DIRECTIVE_SET_COMPONENT_INDEX, (0, 2)),
        (
            Command.DIRECTIVE_OVERRIDE_PARAMETERS,
            {
                Parameter.IMAGE_DIGEST: sha256_digest(bytes(32)),
                Parameter.IMAGE_SIZE: 5,
                Parameter.URI: "/p/0",
                Parameter.SOFT_FAILURE: False,
                Parameter.VENDOR_IDENTIFIER: cbor.Tag(112, b"\x01"),
            },
        ),
        (
            Command.DIRECTIVE_TRY_EACH,
            (sequence((Command.CONDITION_ABORT, Policy.NONE)), sequence(), None),
        ),
        (Command.DIRECTIVE_RUN_SEQUENCE, sequence((Command.CONDITION_IMAGE_MATCH, Policy.ALL))),
        (Command.DIRECTIVE_APPLY_DELTA, 1),
    )
    read = decode_sequence(written.raw, "seq")
    assert read == written
    assert isinstance(read.items[2].argument, dict)
    assert isinstance(read.items[2].argument[3], Digest)


def test_an_unknown_command_and_an_unknown_parameter_are_kept_as_they_came() -> None:
    read = decode(-300, (1, "x"), 99, None, 20, {99: (1,), -5: b"x"})
    assert [(item.code, item.argument) for item in read.items] == [
        (-300, (1, "x")),
        (99, None),
        (20, {99: (1,), -5: b"x"}),
    ]


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ((3,), "a command without its argument"),
        (("3", 15), r"seq\[0\]: an integer is due"),
        ((True, 15), r"seq\[0\]: an integer is due"),
        ((None, 15), r"seq\[0\]: an integer is due"),
        ((3, 15, 3, 16), r"seq\[2\]: reporting policy 16"),
        ((3, -1), "reporting policy -1"),
        ((3, True), "an integer is due"),
        ((21, None), "an integer is due"),
        ((12, False), "an integer is due"),
        ((12, -1), "-1 is negative"),
        ((12, ()), "an integer is due"),
        ((12, (0, True)), "an integer is due"),
        ((12, (0, -1)), "-1 is negative"),
        ((12, "0"), "an integer is due"),
        ((-257, -1), "-1 is negative"),
        ((-257, None), "an integer is due"),
        ((-257, True), "an integer is due"),
        ((-257, (1,)), "an integer is due"),
        ((15, ()), "at least two branches"),
        ((15, (EMPTY,)), "at least two branches"),
        ((15, (None, EMPTY)), "nil stands before the last branch"),
        ((15, (EMPTY, None, None)), "nil stands before the last branch"),
        ((15, (EMPTY, 5)), "a byte string is due"),
        ((15, (EMPTY, b"\xff")), r"try-each\[1\]"),
        ((15, EMPTY), "an array is due"),
        ((32, ()), "a byte string is due"),
        ((32, b""), "run-sequence"),
        ((20, {}), "an empty parameter map"),
        ((20, ()), "a map is due"),
        ((20, {"1": b""}), "an integer is due"),
        ((20, {3: (-16, bytes(32))}), "a byte string is due"),
        ((20, {3: b"\x00"}), "an array is due"),
        ((20, {3: cbor.encode((-16, bytes(31)))}), "length|32"),
        ((20, {14: -1}), "-1 is negative"),
        ((20, {14: True}), "an integer is due"),
        ((20, {22: "0"}), "an integer is due"),
        ((20, {22: True}), "an integer is due"),
        ((20, {21: b"/p"}), "a text string is due"),
        ((20, {13: 0}), "true or false is due"),
        ((20, {1: "vendor"}), "a byte string is due"),
        ((19, {5: -1}), "-1 is negative"),
    ],
)
def test_arguments_of_another_form_are_refused_with_their_place(flat: tuple[cbor.Value, ...], words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        decode(*flat)


@pytest.mark.parametrize("data", [b"", b"\xa0", b"\x00", b"\x80\x80", b"\x9f\xff"])
def test_a_sequence_is_one_array(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^seq"):
        decode_sequence(data, "seq")


def test_sequences_nest_only_so_deep() -> None:
    nested = EMPTY
    for _ in range(MAX_BRANCH_DEPTH):
        nested = cbor.encode((32, nested))
    decode_sequence(nested, "seq")
    with pytest.raises(DecodeError, match="nested more than 8 deep"):
        decode_sequence(cbor.encode((32, nested)), "seq")
