import bz2
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import bsdiff4
import pytest

from protocol.delta import CODECS
from protocol.delta.base import PIECE, ReadAt
from protocol.delta.bsdiff import MAGIC
from protocol.errors import DecodeError

CODEC = CODECS["delta/1"]
OLD = random.Random(1).randbytes(6_000)
Triple = tuple[int, int, int]


def _reader(data: bytes) -> ReadAt:
    return lambda offset, size: data[offset : offset + size]


def _pieces(old: bytes, patch: bytes, size: int) -> Iterator[bytes]:
    return CODEC.patch(_reader(old), len(old), _reader(patch), len(patch), size)


def _apply(old: bytes, patch: bytes, size: int) -> bytes:
    return b"".join(_pieces(old, patch, size))


def _number(value: int) -> bytes:
    return (abs(value) | (value < 0) << 63).to_bytes(8, "little")


def _header(control: int, difference: int, size: int) -> bytes:
    return MAGIC + _number(control) + _number(difference) + _number(size)


def _patch(triples: list[Triple], difference: bytes = b"", extra: bytes = b"", *, size: int, repeat: int = 1) -> bytes:
    control = bz2.compress(b"".join(_number(value) for triple in triples for value in triple) * repeat)
    streams = control, bz2.compress(difference), bz2.compress(extra)
    return _header(len(streams[0]), len(streams[1]), size) + b"".join(streams)


# What a patch does


@pytest.mark.parametrize(
    "new",
    [
        b"",
        OLD,
        OLD[:100],
        OLD[5_900:],
        OLD[5_900:] + b"end",
        OLD * 3,
        OLD[3_000:] + OLD[:3_000],
        b"nothing of the old image",
        bytes(20_000),
        OLD[:2_000] + bytes(5_000) + OLD[2_100:],
    ],
    ids=lambda new: f"{len(new)} bytes",
)
def test_a_patch_makes_the_new_image(new: bytes) -> None:
    patch = CODEC.diff(OLD, new)
    assert _apply(OLD, patch, len(new)) == new == bsdiff4.patch(OLD, patch)


@pytest.mark.parametrize("new", [b"", b"x", bytes(10_000)])
def test_a_patch_from_nothing_makes_the_new_image(new: bytes) -> None:
    assert _apply(b"", CODEC.diff(b"", new), len(new)) == new


@pytest.mark.parametrize("kept", [100, 50_000, 150_000])
def test_an_image_that_shrinks_much_is_no_reason_to_refuse(kept: int) -> None:
    old = random.Random(2).randbytes(200_000)
    for new in (old[:kept], old[-kept:], old[kept : kept + 64]):
        assert _apply(old, CODEC.diff(old, new), len(new)) == new


@pytest.mark.vectors
def test_real_firmware_is_patched_in_small_pieces_to_the_very_bytes(firmware_dir: Path) -> None:
    old, new = ((firmware_dir / f"microbit-{version}.bin").read_bytes() for version in ("1.2.0", "1.2.4"))
    patch = CODEC.diff(old, new)
    pieces = list(_pieces(old, patch, len(new)))
    assert b"".join(pieces) == new == bsdiff4.patch(old, patch)
    assert len(patch) < len(new) / 4
    assert max(map(len, pieces)) <= PIECE


def test_pieces_are_small_and_memory_does_not_grow_with_the_image() -> None:
    size = 8_000_000
    patch = _patch([(4_000_000, 4_000_000, 0)], bytes(4_000_000), bytes(4_000_000), size=size)
    peak, (count, largest) = _peak_of(lambda: _measure(_pieces(OLD, patch, size)))
    assert (count, largest) == (size, PIECE)
    assert peak < 13_000_000  # three bzip2 decoders


def test_bytes_outside_the_old_image_count_as_zero() -> None:
    patch = _patch([(0, 0, -3), (6, 0, 4), (2, 0, 0)], bytes(range(8)), size=8)
    assert _apply(b"abc", patch, 8) == bytes([0, 1, 2, ord("a") + 3, ord("b") + 4, ord("c") + 5, 6, 7])


def test_additions_wrap_around() -> None:
    assert _apply(b"\xff\x80", _patch([(2, 0, 0)], b"\x02\x80", size=2), 2) == b"\x01\x00"


def test_what_follows_in_the_patch_behind_the_last_byte_is_not_read() -> None:
    patch = _patch([(0, 3, 0), (-1, -1, -1)], extra=b"abcdef", size=3)
    assert _apply(b"", patch, 3) == b"abc"


# Hostile patches


def _measure(pieces: Iterator[bytes]) -> tuple[int, int]:
    """Return the number of bytes and the largest piece."""
    count = largest = 0
    for piece in pieces:
        count, largest = count + len(piece), max(largest, len(piece))
    return count, largest


def _peak_of(call: object) -> tuple[int, tuple[int, int]]:
    tracemalloc.start()
    try:
        result = call()  # type: ignore[operator]  # a lambda
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


GOOD = _patch([(3, 2, 1)], b"\0\0\0", b"xy", size=5)
BROKEN_HEADERS = {
    "empty": b"",
    "header cut off": GOOD[:31],
    "another format": b"BSDIFF41" + GOOD[8:],
    "size too large": GOOD[:24] + _number(6) + GOOD[32:],
    "size too small": GOOD[:24] + _number(4) + GOOD[32:],
    "negative size": GOOD[:24] + _number(-5) + GOOD[32:],
    "huge size": GOOD[:24] + _number((1 << 63) - 1) + GOOD[32:],
    "negative control length": GOOD[:8] + _number(-1) + GOOD[16:],
    "huge control length": GOOD[:8] + _number((1 << 63) - 1) + GOOD[16:],
    "negative difference length": GOOD[:16] + _number(-1) + GOOD[24:],
    "difference behind the end": GOOD[:16] + _number(len(GOOD)) + GOOD[24:],
    "no control": GOOD[:8] + _number(0) + GOOD[16:],
}


@pytest.mark.parametrize("name", BROKEN_HEADERS)
def test_a_header_that_lies_is_an_error(name: str) -> None:
    assert _apply(b"abc", GOOD, 5) == b"abcxy"
    with pytest.raises(DecodeError, match=r"^delta: "):
        _apply(b"abc", BROKEN_HEADERS[name], 5)


BROKEN_CONTROLS: dict[str, list[Triple]] = {
    "negative addition": [(-1, 0, 0)],
    "negative copy": [(0, -1, 0)],
    "both, sum right": [(6, -1, 0)],
    "too much addition": [(6, 0, 0)],
    "too much copying": [(0, 6, 0)],
    "too much in all": [(3, 3, 0)],
    "largest numbers": [((1 << 63) - 1, (1 << 63) - 1, 0)],
    "far behind": [(1, 0, 1 << 62), (4, 0, 0)],
    "far before": [(1, 0, -(1 << 62)), (4, 0, 0)],
    "too few": [(2, 0, 0)],
    "nothing": [],
    "no progress": [(0, 0, 0)] * 100,
    "back and forth": [(0, 0, 1), (0, 0, -1)] * 100,
}


@pytest.mark.parametrize("name", BROKEN_CONTROLS)
def test_control_triples_that_make_no_sense_are_an_error(name: str) -> None:
    with pytest.raises(DecodeError, match=r"^delta: "):
        _apply(b"abc", _patch(BROKEN_CONTROLS[name], bytes(10), bytes(10), size=5), 5)


@pytest.mark.parametrize(("difference", "extra"), [(b"12", b"123"), (b"123", b"1"), (b"", b"")])
def test_streams_that_end_too_early_are_an_error(difference: bytes, extra: bytes) -> None:
    with pytest.raises(DecodeError, match="too early"):
        _apply(b"abc", _patch([(3, 2, 0)], difference, extra, size=5), 5)


def test_every_truncation_is_an_error_unless_only_a_checksum_is_cut_off() -> None:
    new = OLD[:500] + b"changed" + OLD[700:1_500]
    patch = CODEC.diff(OLD, new)
    right = 0
    for size in range(len(patch)):
        try:
            assert _apply(OLD, patch[:size], len(new)) == new
            right += 1
        except DecodeError:
            assert size < len(patch) - 1
    assert right <= 11  # the end of a bzip2 stream: a mark of 6 bytes, a checksum of 4, padding


def test_a_reader_that_gives_less_than_the_patch_is_an_error() -> None:
    with pytest.raises(DecodeError, match="too early"):
        list(CODEC.patch(_reader(b"abc"), 3, lambda offset, size: GOOD[:40][offset : offset + size], len(GOOD), 5))


def test_mutants_give_an_error_or_as_many_bytes_as_were_signed(seed: int) -> None:
    rng = random.Random(seed)
    new = OLD[:1_000] + rng.randbytes(200) + OLD[1_100:2_500]
    patch = CODEC.diff(OLD, new)
    ends = Counter[str]()
    begin = time.process_time()
    for _ in range(3_000):
        mutant = bytearray(patch)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            kind, at = rng.randrange(4), rng.randrange(len(mutant))
            if kind == 0:
                mutant[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                mutant[at] = rng.randrange(256)
            elif kind == 2:
                del mutant[at : at + rng.randrange(1, 9)]
            else:
                mutant[at:at] = rng.randbytes(rng.randrange(1, 9))
        try:
            made = _apply(OLD, bytes(mutant), len(new))
        except DecodeError:
            ends["error"] += 1
        else:
            ends["right" if made == new else "wrong"] += 1
            assert len(made) == len(new)
    assert sum(ends.values()) == 3_000
    assert ends["error"] > 2_000
    assert time.process_time() - begin < 20


def test_mutants_of_the_streams_give_an_error_or_as_many_bytes_as_were_signed(seed: int) -> None:
    """bzip2 has checksums, so that only mutants made before packing get as far as the control loop."""
    rng = random.Random(seed)
    ends = Counter[str]()
    for _ in range(3_000):
        triples = [
            tuple(rng.choice([0, 1, -1, 40, -40, rng.randrange(-200, 200), rng.getrandbits(63)]) for _ in range(3))
            for _ in range(rng.randrange(1, 5))
        ]
        triples[-1:] = [(60, 40, 0)] * rng.randrange(3)
        patch = _patch(triples, rng.randbytes(200), rng.randbytes(200), size=100)  # type: ignore[arg-type]  # of three
        try:
            ends[str(len(_apply(OLD[:300], patch, 100)))] += 1
        except DecodeError:
            ends["error"] += 1
    assert set(ends) == {"error", "100"}
    assert min(ends.values()) > 50


def test_a_bomb_of_additions_takes_no_memory_and_stops_at_the_signed_size() -> None:
    """845 bytes of this kind took bsdiff4 2.07 GiB: it unpacks all, and allocates what the header says."""
    bomb = bz2.compress(bytes(40_000_000))
    control = bz2.compress(b"".join(map(_number, (4_000, 96, 0))))
    patch = _header(len(control), len(bomb), 4_096) + control + bomb + bomb
    assert len(patch) < 845
    peak, (count, _) = _peak_of(lambda: _measure(_pieces(OLD, patch, 4_096)))
    assert count == 4_096
    assert peak < 12_000_000


@pytest.mark.parametrize("size", [1 << 31, (1 << 63) - 1])
def test_a_header_of_gigabytes_is_refused_before_anything_is_unpacked(size: int) -> None:
    bomb = bz2.compress(bytes(10_000_000))
    patch = _header(len(bomb), len(bomb), size) + bomb * 3

    def refused() -> tuple[int, int]:
        with pytest.raises(DecodeError, match="4096 were signed"):
            _apply(OLD, patch, 4_096)
        return 0, 0

    peak, _ = _peak_of(refused)
    assert peak < 1_000_000


def test_a_bomb_of_control_triples_ends_soon() -> None:
    """48 bytes a pair, packed to next to nothing: without a limit this runs for minutes."""
    patch = _patch([(0, 0, 1), (0, 0, -1)], b"", b"", size=4_096, repeat=100_000)
    assert len(patch) < 16_384
    begin = time.process_time()
    with pytest.raises(DecodeError, match="without end"):
        _apply(OLD, patch, 4_096)
    assert time.process_time() - begin < 2


def test_seeking_away_and_back_more_often_than_a_match_allows_is_an_error() -> None:
    triples = [(0, 0, 1), (0, 0, -1)] * 4
    assert _apply(OLD, _patch([*triples, (64, 0, 0)], bytes(64), size=64), 64) == OLD[:64]
    with pytest.raises(DecodeError, match="without end"):
        _apply(OLD, _patch([*triples, *triples, (64, 0, 0)], bytes(64), size=64), 64)
