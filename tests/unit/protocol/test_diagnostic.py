"""Envelopes shown to people: the tree, and the list of what holds."""

import pytest

from protocol import cbor
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import generate
from protocol.errors import DecodeError
from protocol.suit import author
from protocol.suit.codec import encode_envelope
from protocol.suit.diagnostic import render_envelope
from protocol.suit.envelope import member_digest
from protocol.suit.labels import Command, ManifestKey, Policy
from protocol.suit.manifest import Common, Manifest
from protocol.suit.sequences import sequence
from protocol.suit.verification import check_envelope, is_authentic
from tests.support.suit_platform import SIGNER, TRUST, with_member

RELEASE = author.Release(
    sequence_number=7,
    vendor_id=bytes(16),
    class_id=bytes(16),
    targets=(author.Target(digest=bytes(32), size=9, uri="/p/00"),),
    precursors=(author.Precursor(digest=bytes(32), delta_digest=bytes(32), delta_size=3, delta_uri="/p/11"),),
    text=author.Text(description="a plain description", model_name="board-a"),
)
GOOD = author.build_envelope(RELEASE, SIGNER)
HOSTILE = "two\nlines\x1b[2J\u202e"


def tree(data: bytes) -> list[str]:
    return ["  " * line.depth + line.text for line in render_envelope(data)]


def around(members: dict[cbor.Value, cbor.Value], wrapper: cbor.Value = (b"",), manifest: cbor.Value = None) -> bytes:
    """An envelope of any content, which nobody signed."""
    encoded = manifest if isinstance(manifest, bytes) else cbor.encode(manifest)
    content = wrapper if isinstance(wrapper, bytes) else cbor.encode(wrapper)
    return cbor.encode(cbor.Tag(107, {2: content, 3: encoded, **members}))


# ------------------------------------------------------------------------------------------------------- the tree


def test_the_tree_says_what_the_manifest_says() -> None:
    text = "\n".join(tree(GOOD))
    for words in (
        f"SUIT envelope, {len(GOOD)} bytes",
        "digest of the manifest: SHA-256 ",
        "COSE_Sign1, algorithm -9 (ESP256)",
        "sequence-number (2): 7",
        "0: fw",
        "2: delta",
        "directive-apply-delta (-257): 1",
        "uri (21): '/p/11'",
        "image-size (14): 3",
        "branch 1: nil, succeed",
        "manifest-description (1): a plain description",
        "model-name (2): board-a",
        "install (20), severed, ",
    ):
        assert words in text, words
    assert "not known here" not in text


def test_integrated_payloads_unknown_commands_and_parameters_are_shown() -> None:
    odd = cbor.encode((12, 0, -300, "x", 99, None, 20, {99: b"\x01"}))
    text = "\n".join(tree(around({"#fw": b"12345"}, manifest={1: 1, 7: odd, 99: 5})))
    assert "integrated payload '#fw': 5 bytes" in text
    for words in ("not known here (-300): 'x'", "not known here (99): nil", "not known here (99): 01", "(99): 5"):
        assert words in text, words


def test_control_characters_of_the_text_do_not_reach_the_terminal() -> None:
    texts = cbor.encode({HOSTILE: {1: HOSTILE, (HOSTILE.encode(),): {1: HOSTILE, 2: 5}, HOSTILE: HOSTILE}})
    commands = cbor.encode((20, {21: HOSTILE}, -300, HOSTILE))
    data = around({23: texts, HOSTILE: b""}, manifest={4: HOSTILE, 7: commands})
    lines = tree(data)
    assert len(lines) > 10
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    "wrapper",
    [
        b"",
        b"\xff",
        (),
        {},
        {0: b""},
        5,
        None,
        "text",
        b"bytes",
        (5,),
        (b"\xff",),
        (b"\x80",),
        (cbor.encode((-16, 5)),),
        (cbor.encode(({}, b"")),),
        (cbor.encode((-16, bytes(32))), 5, None),
        (cbor.encode((-16, bytes(32))), b"\xff"),
        (cbor.encode((-16, bytes(32))), cbor.encode(5)),
        (cbor.encode((-16, bytes(32))), cbor.encode(cbor.Tag(18, ()))),
        (cbor.encode((-16, bytes(32))), cbor.encode(cbor.Tag(18, (b"\x05", {}, None, 5)))),
        (cbor.encode((-16, bytes(32))), cbor.encode(cbor.Tag(18, (cbor.encode({1: {}}),)))),
        (cbor.encode((-16, bytes(32))), cbor.encode(cbor.Tag(96, ({},)))),
    ],
)
def test_a_wrapper_of_any_form_is_shown(wrapper: cbor.Value) -> None:
    assert len(tree(around({}, wrapper=wrapper))) >= 3


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"\xff",
        (),
        5,
        {1: {}, 2: (), 5: (b"x",), "x": 1, (b"x",): 1},
        {3: b"\xff"},
        {3: 5},
        {3: cbor.encode(())},
        {3: cbor.encode({2: 5})},
        {3: cbor.encode({2: (5,)})},
        {3: cbor.encode({2: (("x",),)})},
        {3: cbor.encode({2: {}, 4: 5, 9: 1})},
        {3: cbor.encode({4: b"\x01"})},
        {7: b"\x81\x03", 20: (5,), 23: b"\xff", 14: (-99, b"")},
        {23: cbor.encode(5)},
        {23: cbor.encode({"en": 5})},
        {23: cbor.encode({"en": {(5,): {}}})},
        {23: cbor.encode({"en": {(b"fw",): 5}})},
        {23: cbor.encode({5: {"x": {}, -1: ()}})},
        {7: cbor.encode((20, {3: cbor.encode((-16, bytes(32))), 1: cbor.Tag(112, b"\x01")}))},
    ],
)
def test_a_manifest_of_any_form_is_shown(manifest: cbor.Value) -> None:
    assert len(tree(around({}, manifest=manifest))) >= 4


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x80", GOOD[:-1], GOOD + b"\x00", b"\xd9\x04\x2e\xa0"])
def test_what_is_no_envelope_has_no_tree(data: bytes) -> None:
    with pytest.raises(DecodeError):
        tree(data)


# ------------------------------------------------------------------------------------------------------ the checks


def names(data: bytes, **options: bool) -> dict[str, bool]:
    return {check.name: check.holds for check in check_envelope(data, TRUST, **options)}


def test_everything_holds_of_an_envelope_of_ours() -> None:
    checks = check_envelope(GOOD, TRUST)
    assert is_authentic(checks)
    assert [check.name for check in checks] == [
        "envelope",
        "manifest digest",
        "signature 1",
        "manifest",
        "install",
        "text",
    ]
    assert all(check.holds for check in checks)


def test_the_check_that_fails_is_named_and_the_verdict_is_no() -> None:
    stranger = encode_envelope(Manifest(version=1, sequence_number=1, common=Common(components=((b"a",),))), [SIGNER])
    wrapper = cbor.decode(cbor.decode(GOOD).value[2])
    for data, failing in (
        (b"", "envelope"),
        (GOOD[:-1], "envelope"),
        (with_member(GOOD, 2, cbor.encode(5)), "envelope"),
        (with_member(GOOD, 3, b"\xa0"), "manifest digest"),
        (with_member(GOOD, 2, cbor.decode(stranger).value[2]), "manifest digest"),
        (with_member(GOOD, 2, cbor.encode(wrapper[:1])), "signature"),
        (with_member(GOOD, 20, b"\x80"), "manifest"),
    ):
        checks = check_envelope(data, TRUST)
        assert [check.name for check in checks if not check.holds] == [failing]
        assert not is_authentic(checks)
    assert not is_authentic(check_envelope(GOOD, (generate(KeyKind.P256).public,)))
    assert not is_authentic(check_envelope(GOOD, ()))
    assert not is_authentic(())


def test_a_severed_member_that_is_absent_is_pointed_out_and_no_failure() -> None:
    checks = check_envelope(with_member(GOOD, 20, None), TRUST)
    assert is_authentic(checks)
    assert {check.name: check.detail for check in checks}["install"] == "severed, not in this envelope"


def test_a_manifest_of_another_revision_is_authentic_all_the_same() -> None:
    install = sequence((Command.DIRECTIVE_SET_COMPONENT_INDEX, 0), (Command.DIRECTIVE_FETCH, Policy.NONE))
    manifest = Manifest(
        version=2, sequence_number=1, common=Common(components=((b"a",),)), install=member_digest(install.raw)
    )
    checks = check_envelope(encode_envelope(manifest, [SIGNER], {ManifestKey.INSTALL: install.raw}), TRUST)
    assert is_authentic(checks)
    assert [check.name for check in checks if not check.holds] == ["manifest"]


def test_an_untagged_envelope_is_looked_at_only_where_that_is_asked_for() -> None:
    assert names(GOOD[2:]) == {"envelope": False}
    assert names(GOOD[2:], allow_untagged=True)["signature 1"]


def test_a_key_of_the_manifest_cannot_steer_the_terminal() -> None:
    lines = tree(around({}, manifest=cbor.encode({"\x00\x1b[2J": b""})))
    assert all(line.isprintable() for line in lines)
    assert any("x1b" in line for line in lines)
