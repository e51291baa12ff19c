"""Firmware images as files: raw binary, or Intel HEX turned into the bytes that the flash will hold."""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from intelhex import IntelHex, IntelHexError

from coap_server.errors import InputError

MAX_IMAGE_SIZE: Final = 64 * 1024 * 1024
MEMORY_GAP: Final = 64 * 1024
"""Records further apart than this many bytes are for different memories."""
ERASED: Final = 0xFF

_FIRST_RECORD: Final = re.compile(rb":[0-9A-Fa-f]{10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An area of an Intel HEX file that is not part of the image, e.g. a register bank far from the flash."""

    address: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The bytes that boot. ``address`` is where an Intel HEX file puts them, None for a raw binary."""

    path: Path
    data: bytes
    digest: bytes
    address: int | None = None
    left_out: tuple[LeftOut, ...] = ()


def read_image(path: Path, slot_size: int = 0) -> Image:
    """Return the image in a raw binary or Intel HEX file (by its suffix ``.hex``, or its first record).

    Gaps between the records of a HEX file are filled with 0xFF, what erased flash holds. Where records lie further
    apart than `MEMORY_GAP`, only the area with most bytes is the image.

    Args:
        path: the file.
        slot_size: greatest size in bytes, 0 for no limit.

    Raises:
        InputError: missing, unreadable, empty, not Intel HEX although named so, or too large.
    """
    data = read_file(path, "image", MAX_IMAGE_SIZE * 4)
    address: int | None = None
    left_out: tuple[LeftOut, ...] = ()
    if path.suffix.lower() in (".hex", ".ihex") or _FIRST_RECORD.match(data):
        data, address, left_out = _from_hex(path, data)
    if not data:
        raise InputError(f"image {path} is empty; give the firmware's binary or Intel HEX file")
    if len(data) > MAX_IMAGE_SIZE:
        raise InputError(f"image {path} has {len(data)} bytes, more than the {MAX_IMAGE_SIZE} that can be served")
    if slot_size and len(data) > slot_size:
        raise InputError(
            f"image {path} has {len(data)} bytes, the slot takes {slot_size}: "
            "make the image smaller, or correct --slot-size"
        )
    return Image(path=path, data=data, digest=hashlib.sha256(data).digest(), address=address, left_out=left_out)


def read_file(path: Path, what: str, limit: int) -> bytes:
    """Return a file's bytes.

    Raises:
        InputError: missing, unreadable, a folder, or larger than ``limit`` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}; check the path and its rights") from error
    if len(data) > limit:
        raise InputError(f"{what} {path} has more than {limit} bytes")
    return data


def _from_hex(path: Path, text: bytes) -> tuple[bytes, int | None, tuple[LeftOut, ...]]:
    if not text.strip():
        return b"", None, ()
    reader = IntelHex()
    try:
        reader.loadhex(io.StringIO(text.decode("ascii")))
        segments: list[tuple[int, int]] = reader.segments()
    except (IntelHexError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"image {path} is not Intel HEX: {reason}; build or export the file again") from error
    _check_end(path, text)
    areas = _areas(segments)
    if not areas:
        return b"", None, ()
    chosen = max(areas, key=lambda area: sum(end - start for start, end in area))
    start, end = chosen[0][0], chosen[-1][1]
    if end - start > MAX_IMAGE_SIZE:
        raise InputError(f"image {path} spans {end - start} bytes, more than the {MAX_IMAGE_SIZE} that can be served")
    reader.padding = ERASED
    data = bytes(reader.tobinarray(start=start, end=end - 1))
    left_out = tuple(LeftOut(address=area[0][0], size=area[-1][1] - area[0][0]) for area in areas if area is not chosen)
    return data, start, left_out


def _check_end(path: Path, text: bytes) -> None:
    """See that the last record is the only end-of-file record; a copy cut short would boot as half an image."""
    records = [line.strip() for line in text.splitlines() if line.strip()]
    ends = [number for number, record in enumerate(records) if record[7:9] == b"01"]
    if not ends:
        raise InputError(f"image {path} ends without an end-of-file record (truncated?); build or export it again")
    if ends[0] != len(records) - 1:
        raise InputError(f"image {path} goes on after its end-of-file record (two files in one?); build it again")


def _areas(segments: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Group ``(start, end)`` segments, ascending, into memories."""
    areas: list[list[tuple[int, int]]] = []
    for start, end in segments:
        if areas and start - areas[-1][-1][1] <= MEMORY_GAP:
            areas[-1].append((start, end))
        else:
            areas.append([(start, end)])
    return areas
