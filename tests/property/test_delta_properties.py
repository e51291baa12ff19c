"""patch(base, diff(base, x)) == x, and what is no patch of x never makes more or less than was signed."""

import bsdiff4
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.delta import CODECS
from protocol.delta.base import PIECE, DeltaCodec, ReadAt
from protocol.errors import DecodeError

pytestmark = [pytest.mark.property, pytest.mark.parametrize("name", sorted(CODECS))]


def _reader(data: bytes) -> ReadAt:
    return lambda offset, size: data[offset : offset + size]


def _apply(codec: DeltaCodec, old: bytes, patch: bytes, size: int) -> bytes:
    pieces = list(codec.patch(_reader(old), len(old), _reader(patch), len(patch), size))
    assert all(len(piece) <= PIECE for piece in pieces)
    return b"".join(pieces)


# Few letters and repeated parts, so that there is something to match.
_PART = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda unit, count: unit * count, st.binary(min_size=1, max_size=8), st.integers(0, 200)),
    st.text("ab", max_size=200).map(str.encode),
)
_IMAGE = st.lists(_PART, max_size=8).map(b"".join)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An image and one made from its parts, in any order, with changes."""
    old = draw(_IMAGE)
    parts = []
    for _ in range(draw(st.integers(0, 6))):
        start, end = sorted((draw(st.integers(0, len(old))), draw(st.integers(0, len(old)))))
        parts.append(draw(st.one_of(st.just(old[start:end]), _PART)))
    return old, b"".join(parts)


@given(pair=_pairs())
@settings(max_examples=200, deadline=None)
def test_a_patch_makes_what_it_was_made_for(name: str, pair: tuple[bytes, bytes]) -> None:
    old, new = pair
    patch = CODECS[name].diff(old, new)
    assert _apply(CODECS[name], old, patch, len(new)) == new
    if name == "delta/1":
        assert bsdiff4.patch(old, patch) == new


@given(pair=_pairs(), wrong=st.integers(0, 5_000))
@settings(max_examples=50, deadline=None)
def test_a_patch_for_another_size_is_an_error(name: str, pair: tuple[bytes, bytes], wrong: int) -> None:
    old, new = pair
    if wrong == len(new):
        wrong += 1
    with pytest.raises(DecodeError):
        _apply(CODECS[name], old, CODECS[name].diff(old, new), wrong)


@given(pair=_pairs(), other=_IMAGE)
@settings(max_examples=50, deadline=None)
def test_a_patch_on_another_base_makes_as_many_bytes_or_is_an_error(
    name: str, pair: tuple[bytes, bytes], other: bytes
) -> None:
    old, new = pair
    patch = CODECS[name].diff(old, new)
    try:
        assert len(_apply(CODECS[name], other, patch, len(new))) == len(new)
    except DecodeError:
        assert len(other) != len(old)


@given(data=st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(lambda tail: b"BSDIFF40" + tail)))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_patch_are_an_error(name: str, data: bytes) -> None:
    with pytest.raises(DecodeError):
        _apply(CODECS[name], b"some old image", data, 100)
