"""The format ``delta/1``: BSDIFF40 as Colin Percival defined it, decoded in pieces.

The patch is a header of 32 bytes and three bzip2 streams: control triples, differences to add to the old image, and
bytes that are new. bsdiff4 makes it; its own decoder wants both images and the unpacked streams in memory and trusts
the lengths in the header (a patch of 845 bytes took it 2 GiB), so the decoder here is a stream: the three bzip2 streams
are read side by side, no more is unpacked than is asked for, and every length is held against the signed size.
"""

import bz2
from collections.abc import Iterator
from typing import Final

import bsdiff4

from protocol.delta.base import PIECE, ReadAt
from protocol.errors import DecodeError

MAGIC: Final = b"BSDIFF40"
HEADER_SIZE: Final = 32
_NUMBER: Final = 8
_FEED: Final = 512
_MIN_MATCH: Final = 8
"""bsdiff begins a triple only behind a match of more bytes than this, so a patch has no more triples than that allows.

Those that make no byte are counted: without a limit a few hundred packed bytes unpack to hours of them."""


class Bsdiff:
    """BSDIFF40; a `protocol.delta.base.DeltaCodec`."""

    name = "delta/1"

    def diff(self, old: bytes, new: bytes) -> bytes:
        """Return the patch from ``old`` to ``new``; 17 bytes of memory for each byte of ``old``."""
        patch: bytes = bsdiff4.diff(old, new)
        return patch

    def patch(self, read_old: ReadAt, old_size: int, read_patch: ReadAt, patch_size: int, size: int) -> Iterator[bytes]:
        """Yield the new image in pieces; see `DeltaCodec.patch`."""
        control, difference, extra = _open(read_patch, patch_size, size)
        written = old_position = 0
        idle_left = size // _MIN_MATCH + 1
        while written < size:
            add, copy, seek = (_number(control.read(_NUMBER)) for _ in range(3))
            if add < 0 or copy < 0 or written + add + copy > size:
                raise DecodeError(f"control triple {add}, {copy}, {seek} at byte {written} of {size}", path="delta")
            idle_left -= add + copy == 0
            if idle_left < 0:
                raise DecodeError(f"control triples without end at byte {written} of {size}", path="delta")
            for start in range(0, add, PIECE):
                count = min(PIECE, add - start)
                yield _add(difference.read(count), _old(read_old, old_size, old_position + start, count))
            for start in range(0, copy, PIECE):
                yield extra.read(min(PIECE, copy - start))
            written += add + copy
            old_position += add + seek
            if not -size <= old_position <= old_size + size:
                raise DecodeError(f"position {old_position} is far outside the old image", path="delta")


class _Stream:
    """One bzip2 stream within the patch, unpacked only as far as it is read."""

    def __init__(self, read_patch: ReadAt, start: int, end: int) -> None:
        self._read_patch = read_patch
        self._position = start
        self._end = end
        self._bz2 = bz2.BZ2Decompressor()

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._some(size)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        while not self._bz2.eof:
            packed = b""
            if self._bz2.needs_input:
                packed = self._read_patch(self._position, min(_FEED, self._end - self._position))
                if not packed:
                    break
                self._position += len(packed)
            try:
                part = self._bz2.decompress(packed, size)
            except (OSError, ValueError, EOFError) as error:
                raise DecodeError(f"not bzip2 data before byte {self._position}", path="delta") from error
            if part:
                return part
        raise DecodeError("a stream ends too early", path="delta")


def _open(read_patch: ReadAt, patch_size: int, size: int) -> tuple[_Stream, _Stream, _Stream]:
    header = read_patch(0, HEADER_SIZE)
    if len(header) < HEADER_SIZE or not header.startswith(MAGIC):
        raise DecodeError("the header is not that of BSDIFF40", path="delta")
    control_size, difference_size, new_size = (_number(header[at : at + _NUMBER]) for at in (8, 16, 24))
    if new_size != size:
        raise DecodeError(f"the patch makes {new_size} bytes, {size} were signed", path="delta")
    first = HEADER_SIZE
    second = first + control_size
    third = second + difference_size
    if control_size < 0 or difference_size < 0 or third > patch_size:
        raise DecodeError("the streams do not fit into the patch", path="delta")
    return (
        _Stream(read_patch, first, second),
        _Stream(read_patch, second, third),
        _Stream(read_patch, third, patch_size),
    )


def _number(data: bytes) -> int:
    # Sign and magnitude, little endian.
    value = int.from_bytes(data, "little")
    return -(value & ~(1 << 63)) if value >> 63 else value


def _old(read_old: ReadAt, old_size: int, position: int, count: int) -> bytes:
    # Bytes before and behind the old image count as zero.
    before = min(count, max(0, -position))
    inside = max(0, min(count - before, old_size - position - before))
    found = read_old(position + before, inside) if inside else b""
    return bytes(before) + found + bytes(count - before - inside)


def _add(difference: bytes, old: bytes) -> bytes:
    return bytes((a + b) & 0xFF for a, b in zip(difference, old, strict=True))
