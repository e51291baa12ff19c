"""Envelopes: what is looked at, in which order, and what is refused."""

from dataclasses import replace
from hashlib import sha256

import pytest

from protocol import cbor, schema
from protocol.cose import sign1
from protocol.cose.algorithms import Algorithm, KeyKind
from protocol.cose.keys import PrivateKey, generate
from protocol.errors import AuthenticityError, DecodeError, OtaError, UnsupportedError
from protocol.suit import author
from protocol.suit.authentication import MAX_AUTHENTICATION_BLOCKS, authenticate, read_wrapper
from protocol.suit.codec import decode_manifest, encode_envelope, require_sequence
from protocol.suit.envelope import manifest_digest, open_envelope
from protocol.suit.labels import Command, DigestAlgorithm, ManifestKey, Policy
from protocol.suit.manifest import Common, Manifest
from protocol.suit.model import Digest, component_name, digest_from_value, sha256_digest
from protocol.suit.sequences import sequence
from tests.support.suit_platform import SIGNER, TRUST, encode_signed, with_member

STRANGER = generate(KeyKind.P256)
ED25519 = generate(KeyKind.ED25519)
VALIDATE = sequence((Command.DIRECTIVE_SET_COMPONENT_INDEX, 0), (Command.CONDITION_IMAGE_MATCH, Policy.ALL))
MANIFEST = Manifest(
    version=1, sequence_number=5, common=Common(components=((b"fw",),), shared_sequence=None), validate=VALIDATE
)
GOOD = encode_envelope(MANIFEST, [SIGNER])
RELEASE = author.Release(
    sequence_number=2,
    vendor_id=bytes(16),
    class_id=bytes(16),
    targets=(author.Target(digest=bytes(32), size=1, uri="/p/00"),),
    text=author.Text(description="words"),
)
SEVERED = author.build_envelope(RELEASE, SIGNER)


def with_wrapper(*blocks: bytes, digest: bytes | None = None, envelope: bytes = GOOD) -> bytes:
    """The envelope with other authentication blocks, or another digest before them."""
    signed = read_wrapper(open_envelope(envelope))[0] if digest is None else digest
    return with_member(envelope, 2, cbor.encode((signed, *blocks)))


def block_of(signer: PrivateKey, envelope: bytes = GOOD) -> bytes:
    """A block that ``signer`` made over the envelope's digest."""
    return cbor.encode(sign1.sign(signer, read_wrapper(open_envelope(envelope))[0]))


# ------------------------------------------------------------------------------------------------- the outer map


def test_an_envelope_of_ours_opens_authenticates_and_decodes() -> None:
    authentic = authenticate(GOOD, TRUST)
    assert authentic.key == SIGNER.public
    assert authentic.algorithm is Algorithm.ESP256
    decoded = decode_manifest(authentic)
    assert schema.encode(decoded.manifest) == authentic.envelope.manifest
    assert decoded.sequences == {ManifestKey.VALIDATE: VALIDATE}


@pytest.mark.spec("SUIT manifest 8.2")
def test_the_digest_covers_the_manifest_as_a_byte_string_head_included() -> None:
    envelope = open_envelope(GOOD)
    signed, digest, _ = read_wrapper(envelope)
    assert digest.value == sha256(cbor.wrap(envelope.manifest)).digest()
    assert signed == cbor.encode((-16, digest.value))
    assert manifest_digest(envelope) == manifest_digest(open_envelope(GOOD[2:], allow_untagged=True)) == digest.value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (cbor.Tag(1070, {}), "tag 1070 is a bare, unsigned manifest"),
        (cbor.Tag(106, {}), "tag 106, an envelope has tag 107"),
        (cbor.Tag(107, ()), "a map is due"),
        (cbor.Tag(107, cbor.Tag(107, {})), "a map is due"),
        (cbor.Tag(107, {}), r"key 2 \(authentication-wrapper\) is missing"),
        (cbor.Tag(107, {2: b""}), r"key 3 \(manifest\) is missing"),
        (cbor.Tag(107, {2: b"", 3: ()}), "envelope.3: a byte string is due"),
        (cbor.Tag(107, {2: b"", 3: b"", "#fw": 1}), "envelope.'#fw': a byte string is due"),
        (cbor.Tag(107, {1: b"", 2: b"", 3: b""}), "unknown key 1"),
        (cbor.Tag(107, {2: b"", 3: b"", 17: b""}), "unknown key 17"),
        (cbor.Tag(107, {2: b"", 3: b"", -1: b""}), "unknown key -1"),
        (cbor.Tag(107, {2: b"", 3: b"", b"x": b""}), "unknown key b'x'"),
        (cbor.Tag(107, {2: b"", 3: b"", (b"x",): b""}), r"unknown key \[b'x'\]"),
    ],
)
def test_other_outer_forms_are_refused(value: cbor.Value, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        open_envelope(cbor.encode(value))


def test_an_untagged_envelope_is_taken_only_where_that_is_asked_for() -> None:
    untagged = GOOD[2:]
    with pytest.raises(DecodeError, match="tag 107 is missing"):
        authenticate(untagged, TRUST)
    assert authenticate(untagged, TRUST, allow_untagged=True).digest == authenticate(GOOD, TRUST).digest


def test_integrated_payloads_are_kept_by_name() -> None:
    assert dict(open_envelope(with_member(GOOD, "#fw", b"image")).payloads) == {"#fw": b"image"}


def test_every_truncation_is_refused() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(DecodeError):
            open_envelope(GOOD[:length])


# ------------------------------------------------------------------------------------------------ authentication


def test_any_flipped_bit_is_refused() -> None:
    for position in range(len(GOOD)):
        for bit in range(8):
            changed = GOOD[:position] + bytes([GOOD[position] ^ 1 << bit]) + GOOD[position + 1 :]
            with pytest.raises(OtaError):
                authenticate(changed, TRUST)


def test_nothing_of_the_manifest_is_parsed_before_it_is_authentic() -> None:
    garbage = encode_signed(b"\xff\xff\xff")
    with pytest.raises(AuthenticityError):
        authenticate(garbage, (STRANGER.public,))
    authentic = authenticate(garbage, TRUST)
    with pytest.raises(DecodeError, match=r"^envelope\.manifest: "):
        decode_manifest(authentic)


def test_unsigned_strange_and_moved_signatures_are_refused() -> None:
    other = encode_envelope(replace(MANIFEST, sequence_number=6), [SIGNER])
    for data in (
        with_wrapper(),
        with_wrapper(block_of(STRANGER)),
        with_wrapper(block_of(SIGNER, other)),
        with_member(GOOD, 3, open_envelope(other).manifest),
        with_wrapper(block_of(SIGNER, other), digest=read_wrapper(open_envelope(other))[0]),
    ):
        with pytest.raises(AuthenticityError):
            authenticate(data, TRUST)
    with pytest.raises(AuthenticityError):
        authenticate(GOOD, ())


def test_of_several_blocks_one_that_a_trusted_key_made_suffices() -> None:
    unknown = cbor.encode(cbor.Tag(18, (cbor.encode({1: -50}), {}, None, bytes(10))))
    mac = cbor.encode(cbor.Tag(17, (cbor.encode({1: 5}), {}, None, bytes(32))))
    good = block_of(SIGNER)
    for blocks in ((unknown, good), (good, unknown), (mac, b"\xff", block_of(STRANGER), good)):
        assert authenticate(with_wrapper(*blocks), TRUST).key == SIGNER.public
    with pytest.raises(AuthenticityError, match="no trusted key verifies any of the blocks"):
        authenticate(with_wrapper(unknown, mac), TRUST)
    with pytest.raises(UnsupportedError, match="signature algorithm -50"):
        authenticate(with_wrapper(unknown), TRUST)


def test_a_block_under_any_of_several_trust_anchors_counts() -> None:
    both = encode_envelope(MANIFEST, [ED25519, STRANGER])
    assert authenticate(both, (*TRUST, ED25519.public)).algorithm is Algorithm.ED25519


def test_the_number_of_blocks_is_limited() -> None:
    assert authenticate(with_wrapper(*[block_of(STRANGER)] * (MAX_AUTHENTICATION_BLOCKS - 1), block_of(SIGNER)), TRUST)
    with pytest.raises(DecodeError, match="9 blocks, the limit is 8"):
        authenticate(with_wrapper(*[block_of(SIGNER)] * (MAX_AUTHENTICATION_BLOCKS + 1)), TRUST)


def test_an_attached_payload_is_refused_even_if_it_is_the_right_one() -> None:
    signed = read_wrapper(open_envelope(GOOD))[0]
    for payload in (signed, b""):
        block = cbor.encode(sign1.sign(SIGNER, payload, attached=True))
        with pytest.raises(DecodeError, match="the payload is detached"):
            authenticate(with_wrapper(block), TRUST)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", DecodeError),
        (cbor.encode({}), DecodeError),
        (cbor.encode(()), DecodeError),
        (cbor.encode((5,)), DecodeError),
        (cbor.encode((b"",)), DecodeError),
        (cbor.encode((cbor.encode((-16, bytes(31))),)), DecodeError),
        (cbor.encode((cbor.encode((-16, bytes(32), 0)),)), DecodeError),
        (cbor.encode((cbor.encode((True, bytes(32))),)), DecodeError),
        (cbor.encode((cbor.encode((2, bytes(32))),)), UnsupportedError),
        (cbor.encode((cbor.encode((-16, bytes(32))), 5)), DecodeError),
        (cbor.encode((cbor.encode((-16, bytes(32))),)), AuthenticityError),
    ],
)
def test_a_wrapper_of_another_form_is_refused(content: bytes, error: type[OtaError]) -> None:
    with pytest.raises(error):
        authenticate(with_member(GOOD, 2, content), TRUST)


# ------------------------------------------------------------------------------------------------- the manifest


@pytest.mark.parametrize(
    ("changes", "words", "reason"),
    [
        ({1: 2}, "version: 2", 1),
        ({1: True}, "version: an integer is due", 1),
        ({2: -1}, "sequence-number: -1", 1),
        ({2: True}, "sequence-number: an integer is due", 1),
        ({2: None}, "key 2 .sequence-number. is missing", 1),
        ({3: None}, "key 3 .common. is missing", 1),
        ({3: cbor.encode({2: ()})}, "components: no component", 1),
        ({3: cbor.encode({2: ("fw",)})}, r"components\[0\]: an array is due", 1),
        ({3: cbor.encode({2: ((1,),)})}, r"components\[0\]\[0\]: a byte string is due", 1),
        ({3: cbor.encode({2: ((b"fw",),), 5: 1})}, "unknown key 5", 1),
        ({7: (-16, bytes(32))}, "validate: a byte string is due", 1),
        ({10: b"\x80"}, "unknown key 10", 1),
        ({17: b"\x80"}, "unknown key 17", 1),
        ({20: (-16, bytes(8))}, "install", 1),
        ({20: (-1, bytes(8))}, "install", 3),
        ({20: 5}, "install: a byte string is due", 1),
    ],
)
def test_a_manifest_of_another_form_is_refused_with_its_path(
    changes: dict[int, cbor.Value], words: str, reason: int
) -> None:
    fields = {**cbor.decode(open_envelope(GOOD).manifest), **changes}
    content = cbor.encode({label: item for label, item in fields.items() if item is not None})
    with pytest.raises(OtaError, match=words) as refused:
        decode_manifest(authenticate(encode_signed(content), TRUST))
    assert refused.value.reason == reason


def test_severed_members_are_held_against_their_digests() -> None:
    decoded = decode_manifest(authenticate(SEVERED, TRUST))
    assert require_sequence(decoded, ManifestKey.INSTALL) is not None
    assert decoded.text is not None
    for label in (20, 23):
        content = open_envelope(SEVERED).members[label]
        for changed in (content[:-1], content + b"\x00", b""):
            with pytest.raises(AuthenticityError, match=f"envelope.{label}: the severed member is not the one"):
                decode_manifest(authenticate(with_member(SEVERED, label, changed), TRUST))


def test_text_may_stay_away_and_install_only_where_it_is_not_needed() -> None:
    without_text = decode_manifest(authenticate(with_member(SEVERED, 23, None), TRUST))
    assert without_text.text is None
    without_install = decode_manifest(authenticate(with_member(SEVERED, 20, None), TRUST))
    assert require_sequence(without_install, ManifestKey.VALIDATE) is not None
    assert require_sequence(without_install, ManifestKey.LOAD) is None
    with pytest.raises(UnsupportedError, match="severed, and needed here") as refused:
        require_sequence(without_install, ManifestKey.INSTALL)
    assert refused.value.reason == 9


def test_a_member_that_the_manifest_did_not_sign_is_refused() -> None:
    for label in (14, 15, 16, 18, 20, 23):
        with pytest.raises(DecodeError, match="the manifest has no digest for this member"):
            decode_manifest(authenticate(with_member(GOOD, label, b"\x80"), TRUST))


def test_every_hash_function_of_the_standard_is_known() -> None:
    lengths = {-16: 32, -18: 32, -43: 48, -44: 64, -45: 64}
    for number, length in lengths.items():
        digest = digest_from_value((number, bytes(length)), "digest")
        assert not digest.matches(b"")
        assert digest.to_value() == (number, bytes(length))
        for wrong in (length - 1, length + 1, 0):
            with pytest.raises(DecodeError):
                digest_from_value((number, bytes(wrong)), "digest")
    assert Digest(DigestAlgorithm.SHA_256, sha256(b"x").digest()) == sha256_digest(sha256(b"x").digest())
    assert sha256_digest(sha256(b"x").digest()).matches(b"x")


def test_component_names_read_well_and_hide_nothing() -> None:
    assert component_name((b"ram", b"0")) == "ram/0"
    assert component_name((b"a\n", b"\xff")) == "610a/ff"
