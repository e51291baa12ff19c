"""What we publish: manifests of ours, their size and their form."""

from dataclasses import replace
from hashlib import sha256

import pytest

from protocol import cbor, schema
from protocol.cose.algorithms import Algorithm, KeyKind
from protocol.cose.keys import generate
from protocol.errors import PolicyError
from protocol.suit import author
from protocol.suit.authentication import authenticate
from protocol.suit.codec import decode_manifest
from protocol.suit.envelope import open_envelope
from protocol.suit.identifiers import class_id, vendor_id
from protocol.suit.labels import Command, ManifestKey
from protocol.suit.model import Digest, Sequence

KEY = generate(KeyKind.P256)
VENDOR = vendor_id("vendor.example")
TEXT = author.Text(
    description="board-a firmware 1.3.0",
    update_description="Fixes the radio; adds a shell.",
    model_name="board-a",
    component_version="1.3.0",
)


def name(text: str) -> bytes:
    return sha256(text.encode()).digest()


def precursor(number: int, slot: int | None = None) -> author.Precursor:
    delta = name(f"delta {number}")
    return author.Precursor(
        digest=name(f"old {number}"),
        delta_digest=delta,
        delta_size=16_022,
        delta_uri=f"/p/{delta.hex()[:16]}",
        slot=slot,
    )


IMAGE = author.Target(digest=name("new"), size=231_608, uri=f"/p/{name('new').hex()[:16]}")
RELEASE = author.Release(
    sequence_number=7,
    vendor_id=VENDOR,
    class_id=class_id(VENDOR, "board-a rev1"),
    targets=(IMAGE,),
    precursors=tuple(precursor(number) for number in range(10)),
    text=TEXT,
)


@pytest.mark.parametrize(("precursors", "size"), [(0, 467), (1, 648), (3, 882), (10, 1_694)])
def test_envelopes_are_as_small_as_the_format_promises(precursors: int, size: int) -> None:
    made = author.build_envelope(replace(RELEASE, precursors=RELEASE.precursors[:precursors]), KEY)
    assert len(open_envelope(made).members[ManifestKey.TEXT]) == 83
    assert len(made) == size < 1_750


def test_the_same_release_is_the_same_manifest_whoever_signs() -> None:
    one, two = (open_envelope(author.build_envelope(RELEASE, generate(kind))) for kind in KeyKind)
    assert (one.manifest, one.members) == (two.manifest, two.members)


@pytest.mark.parametrize(
    ("kind", "algorithm"), [(KeyKind.P256, Algorithm.ESP256), (KeyKind.ED25519, Algorithm.ED25519)]
)
def test_the_fully_specified_algorithm_is_written(kind: KeyKind, algorithm: Algorithm) -> None:
    key = generate(kind)
    authentic = authenticate(author.build_envelope(RELEASE, key), (key.public,))
    assert authentic.algorithm is algorithm


def test_several_signers_make_a_block_each() -> None:
    other = generate(KeyKind.ED25519)
    data = author.build_envelope(RELEASE, KEY, other)
    assert authenticate(data, (KEY.public,)).key == KEY.public
    assert authenticate(data, (other.public,)).key == other.public


def test_a_release_without_deltas_has_one_component_and_no_custom_code() -> None:
    data = author.build_envelope(replace(RELEASE, precursors=()), KEY)
    decoded = decode_manifest(authenticate(data, (KEY.public,)))
    assert decoded.manifest.common.components == (author.FW,)
    assert Command.DIRECTIVE_APPLY_DELTA not in _codes(decoded.sequences[ManifestKey.INSTALL])
    with_deltas = decode_manifest(authenticate(author.build_envelope(RELEASE, KEY), (KEY.public,)))
    assert with_deltas.manifest.common.components == (author.FW, author.RUN, author.DELTA)
    assert Command.DIRECTIVE_APPLY_DELTA in _codes(with_deltas.sequences[ManifestKey.INSTALL])


def test_every_sequence_begins_with_an_index_nested_ones_too() -> None:
    two = replace(
        RELEASE,
        targets=(replace(IMAGE, slot=0), replace(IMAGE, slot=1)),
        precursors=(precursor(0, 0), precursor(1, 1)),
    )
    for release in (RELEASE, two, replace(RELEASE, precursors=())):
        decoded = decode_manifest(authenticate(author.build_envelope(release, KEY), (KEY.public,)))
        assert decoded.manifest.common.shared_sequence is not None
        everything = [*decoded.sequences.values(), decoded.manifest.common.shared_sequence]
        for sequence in everything:
            everything += _nested(sequence)
            assert sequence.items[0].code == Command.DIRECTIVE_SET_COMPONENT_INDEX
        assert len(everything) > 5


def test_text_and_install_are_severable_and_text_reads_as_it_was_given() -> None:
    decoded = decode_manifest(authenticate(author.build_envelope(RELEASE, KEY), (KEY.public,)))
    assert isinstance(decoded.manifest.install, Digest)
    assert isinstance(decoded.manifest.text, Digest)
    assert decoded.text is not None
    assert cbor.decode(decoded.text) == {
        "en": {1: TEXT.description, 2: TEXT.update_description, (b"fw",): {2: "board-a", 6: "1.3.0"}}
    }
    bare = decode_manifest(authenticate(author.build_envelope(replace(RELEASE, text=None), KEY), (KEY.public,)))
    assert (bare.text, bare.manifest.text) == (None, None)


def test_what_is_written_decodes_to_what_its_table_encodes() -> None:
    authentic = authenticate(author.build_envelope(RELEASE, KEY), (KEY.public,))
    assert schema.encode(decode_manifest(authentic).manifest) == authentic.envelope.manifest


@pytest.mark.parametrize("slots", [(), (0,), (1,), (None, None), (1, 0), (0, 1, 0), (0, None)])
def test_targets_are_one_for_any_slot_or_one_for_each(slots: tuple[int | None, ...]) -> None:
    targets = tuple(replace(IMAGE, slot=slot) for slot in slots)
    with pytest.raises(PolicyError, match="one target for any slot or two for slots 0 and 1"):
        author.build_envelope(replace(RELEASE, targets=targets, precursors=()), KEY)


@pytest.mark.parametrize("slot", [None, 2, -1])
def test_with_two_targets_a_delta_must_say_which_it_leads_to(slot: int | None) -> None:
    two = replace(RELEASE, targets=(replace(IMAGE, slot=0), replace(IMAGE, slot=1)), precursors=(precursor(0, slot),))
    with pytest.raises(PolicyError, match="with two targets each precursor names slot 0 or 1"):
        author.build_envelope(two, KEY)


def test_an_unsigned_manifest_is_not_written() -> None:
    with pytest.raises(PolicyError, match="needs a signing key"):
        author.build_envelope(RELEASE)


def _nested(sequence: Sequence) -> list[Sequence]:
    found = []
    for item in sequence.items:
        inner = item.argument if isinstance(item.argument, tuple) else (item.argument,)
        found += [branch for branch in inner if isinstance(branch, Sequence)]
    return found


def _codes(sequence: Sequence) -> set[int]:
    codes = {item.code for item in sequence.items}
    for inner in _nested(sequence):
        codes |= _codes(inner)
    return codes
