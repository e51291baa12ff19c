"""For any value and for any bytes: what is encoded comes back, and a decoder returns or raises an error of ours."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol import cbor, messages
from protocol.cbor import Tag
from protocol.coap import message
from protocol.coap.block import Block, block_at, decode_block
from protocol.coap.numbers import Type
from protocol.cose.keys import load_private_key, load_public_keys
from protocol.errors import DecodeError, OtaError
from protocol.messages import Assignment, Checkin, Outcome, StatusReport, Via
from protocol.suit import author
from protocol.suit.authentication import authenticate
from protocol.suit.codec import decode_manifest
from protocol.suit.diagnostic import render_envelope
from protocol.suit.envelope import member_digest
from protocol.suit.model import Sequence
from protocol.suit.processor import Procedure, Processor, perform_all
from protocol.suit.sequences import decode_sequence
from protocol.suit.verification import check_envelope, is_authentic
from tests.support.suit_platform import SIGNER, TRUST, Platform, encode_signed

pytestmark = pytest.mark.property

INTEGERS = st.integers(-(2**64), 2**64 - 1)
KEYS = st.recursive(
    INTEGERS | st.text(max_size=8) | st.binary(max_size=8), lambda inner: st.lists(inner, max_size=2).map(tuple)
)
LEAVES = st.none() | st.booleans() | INTEGERS | st.text(max_size=30) | st.binary(max_size=30)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.builds(Tag, st.integers(0, 2**64 - 1), inner)
    ),
    max_leaves=20,
)


# ------------------------------------------------------------------------------------------------------------ CBOR


@given(VALUES)
def test_every_value_comes_back_and_has_one_encoding(value: cbor.Value) -> None:
    encoded = cbor.encode(value)
    assert cbor.decode(encoded) == value
    assert cbor.encode(cbor.decode(encoded)) == encoded
    with pytest.raises(DecodeError):
        cbor.decode(encoded + b"\x00")
    for length in range(0, len(encoded), 7):
        with pytest.raises(DecodeError):
            cbor.decode(encoded[:length])


@given(st.binary(max_size=64))
@example(b"\xa1\xa0\x01")
@example(b"\xd8\x1c\x81\xd8\x1d\x00")
@example(b"\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x03")
def test_any_bytes_are_a_value_with_that_encoding_or_refused(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except DecodeError:
        return
    assert cbor.encode(value) == data


@given(VALUES)
def test_another_order_of_map_keys_is_refused(value: cbor.Value) -> None:
    encoded = cbor.encode({"first": value, 5: value, -1: value})
    items = [cbor.encode(key) + cbor.encode(value) for key in (5, -1, "first")]
    assert encoded == b"\xa3" + b"".join(items)
    for order in ((1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        with pytest.raises(DecodeError):
            cbor.decode(b"\xa3" + b"".join(items[index] for index in order))


PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 23) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_another_implementation_reads_what_we_write(value: object) -> None:
    assert cbor2.loads(cbor.encode(value)) == value


# -------------------------------------------------------------------------------------------------- tables, messages

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
DIGESTS = st.binary(min_size=32, max_size=32)
UINT32, UINT64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
CHECKINS = st.builds(
    Checkin,
    device_id=NAMES,
    model=NAMES,
    image_digest=DIGESTS,
    sequence_number=UINT64,
    slot=st.integers(0, 1),
    trial=st.booleans(),
    decoders=st.lists(st.text(min_size=1, max_size=10), max_size=4).map(tuple),
)
ASSIGNMENTS = st.builds(Assignment, poll_s=UINT32) | st.builds(
    Assignment,
    manifest_uri=st.text(min_size=1, max_size=60),
    manifest_digest=DIGESTS,
    size=UINT32,
    poll_s=UINT32,
)
REPORTS = st.builds(
    StatusReport,
    device_id=NAMES,
    manifest_digest=DIGESTS,
    outcome=st.sampled_from(Outcome),
    reason=st.integers(0, 255),
    detail=st.text(max_size=100),
    image_digest=DIGESTS,
    sequence_number=UINT64,
    slot=st.integers(0, 1),
    bytes_up=UINT64,
    bytes_down=UINT64,
    blocks=UINT32,
    blocks_resent=UINT32,
    via=st.none() | st.sampled_from(Via),
    duration_s=UINT32,
    power_cuts=UINT32,
)


@given(CHECKINS | ASSIGNMENTS | REPORTS)
def test_every_message_comes_back(body: Any) -> None:
    assert messages.decode(type(body), messages.encode(body)) == body


@given(st.dictionaries(st.integers(-1, 16) | st.text(max_size=2), VALUES, max_size=16) | VALUES)
def test_any_value_is_a_message_or_refused(value: cbor.Value) -> None:
    kinds: tuple[Any, ...] = (Checkin, Assignment, StatusReport)
    for kind in kinds:
        try:
            found = messages.decode(kind, cbor.encode(value))
        except DecodeError:
            continue
        assert messages.encode(found) == cbor.encode(value)


# ------------------------------------------------------------------------------------------------------------- CoAP

OPTIONS = st.lists(st.tuples(st.integers(0, 65_535), st.binary(max_size=300)), max_size=6).map(
    lambda found: tuple(sorted(found, key=lambda option: option[0]))
)
COAP = st.builds(
    message.Message,
    type=st.sampled_from(Type),
    code=st.integers(1, 255),
    message_id=st.integers(0, 65_535),
    token=st.binary(max_size=8),
    options=OPTIONS,
    payload=st.binary(max_size=200),
)


@given(COAP)
def test_every_coap_message_comes_back(original: message.Message) -> None:
    assert message.decode(message.encode(original)) == original


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: b"\x40\x45\x00\x01" + tail))
def test_any_datagram_is_a_message_or_refused(data: bytes) -> None:
    try:
        found = message.decode(data)
    except DecodeError:
        return
    assert message.decode(message.encode(found)) == found


@given(st.text(max_size=40) | st.text(max_size=40).map("/".__add__))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        options = message.path_options(text)
    except DecodeError:
        return
    assert "/" + "/".join(value.decode() for _, value in options) == text


@given(st.integers(0, 2**20 - 1), st.booleans(), st.integers(0, 6), st.binary(max_size=4))
def test_every_block_comes_back_and_any_value_is_a_block_or_refused(
    num: int, more: bool, szx: int, value: bytes
) -> None:
    block = Block(num=num, more=more, szx=szx)
    assert decode_block(block.encode()) == block
    assert block_at(block.offset, szx).num == num
    try:
        decode_block(value)
    except DecodeError:
        assert len(value) > 3 or value[-1] & 7 == 7


# -------------------------------------------------------------------------------------------------------- envelopes


@lru_cache
def envelope() -> bytes:
    delta = author.Precursor(digest=bytes(32), delta_digest=bytes(32), delta_size=3, delta_uri="/p/11")
    release = author.Release(
        sequence_number=7,
        vendor_id=bytes(16),
        class_id=bytes(16),
        targets=(author.Target(digest=bytes(32), size=9, uri="/p/00"),),
        precursors=(delta, replace(delta, digest=b"2" * 32)),
        text=author.Text(description="words", model_name="board"),
    )
    return author.build_envelope(release, SIGNER)


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 2_000), st.sampled_from(["flip", "cut", "insert", "repeat"]), st.binary(min_size=1, max_size=4)
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[int, str, bytes]]) -> bytes:
    for where, how, patch in changes:
        position = where % (len(data) + 1)
        if how == "flip":
            data = data[:position] + patch + data[position + len(patch) :]
        elif how == "cut":
            data = data[:position] + data[position + len(patch) :]
        elif how == "insert":
            data = data[:position] + patch + data[position:]
        else:
            data = data[:position] + data[max(0, position - 16) :]
    return data


@given(CHANGES)
@settings(max_examples=200)
def test_a_changed_envelope_is_refused_and_can_be_looked_at(changes: list[tuple[int, str, bytes]]) -> None:
    data = mutated(envelope(), changes)
    try:
        for line in render_envelope(data):
            assert line.text.isprintable()
    except DecodeError:
        pass
    checks = check_envelope(data, TRUST, allow_untagged=True)
    try:
        authentic = authenticate(data, TRUST, allow_untagged=True)
        decode_manifest(authentic)
    except OtaError:
        assert not is_authentic(checks)
        return
    # What still authenticates says what was signed: the severed members may at most be missing.
    assert authentic.envelope.manifest == authenticate(envelope(), TRUST).envelope.manifest


@given(st.binary(max_size=200) | VALUES.map(cbor.encode))
@settings(max_examples=200)
def test_any_manifest_that_a_trusted_key_signed_runs_or_is_refused(content: bytes) -> None:
    _run(encode_signed(content))


COMMANDS = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3, 5, 12, 14, 15, 19, 20, 21, 22, 23, 24, 32, 34, 35, 99, -257, -300]),
        st.sampled_from([0, 1, 2, 3, 15, True, None, (0, 1), (2, 2)])
        | st.dictionaries(
            st.sampled_from([1, 2, 3, 5, 12, 13, 14, 21, 22, 23, 99]),
            st.sampled_from([0, 1, 2, True, False, bytes(16), "/p/00", cbor.encode((-16, bytes(32)))]),
            max_size=3,
        ),
    ),
    max_size=6,
).map(lambda found: tuple(item for pair in found for item in pair))
SEQUENCES = st.recursive(
    COMMANDS,
    lambda inner: st.tuples(inner, st.sampled_from([15, 32]), inner, inner).map(
        lambda found: (
            *found[0],
            found[1],
            (cbor.encode(found[2]), cbor.encode(found[3])) if found[1] == 15 else cbor.encode(found[2]),
        )
    ),
    max_leaves=6,
)


@given(SEQUENCES, SEQUENCES)
@settings(max_examples=300)
def test_any_commands_that_a_trusted_key_signed_run_to_an_end(shared: cbor.Value, install: cbor.Value) -> None:
    common = {2: ((b"a",), (b"b",), (b"c",)), 4: cbor.encode((12, 0, *shared))}
    manifest = cbor.encode({1: 1, 2: 1, 3: cbor.encode(common), 20: cbor.encode((12, 0, *install))})
    _run(encode_signed(manifest))


def _run(data: bytes) -> None:
    for line in render_envelope(data):
        assert line.text.isprintable()
    check_envelope(data, TRUST)
    platform = Platform(images={0: b"", 1: b"x", 2: b"y"}, uris={"/p/00": b"image"})
    try:
        perform_all(Processor(decode_manifest(authenticate(data, TRUST))).run(Procedure.UPDATE), platform.perform)
    except OtaError:
        return


@given(SEQUENCES)
def test_a_sequence_is_kept_as_it_came(flat: cbor.Value) -> None:
    data = cbor.encode(flat)
    try:
        found = decode_sequence(data, "sequence")
    except DecodeError:
        return
    assert isinstance(found, Sequence)
    assert found.raw == data
    assert len(found.items) == len(flat) // 2
    assert member_digest(data).matches(cbor.wrap(found.raw))


# ------------------------------------------------------------------------------------------------------------- keys


@given(
    st.binary(max_size=100)
    | st.dictionaries(st.integers(-4, 4), VALUES, max_size=5).map(cbor.encode)
    | VALUES.map(cbor.encode)
)
def test_any_bytes_are_keys_or_refused(data: bytes) -> None:
    for load in (load_public_keys, load_private_key):
        try:
            load(data)
        except OtaError:
            continue
