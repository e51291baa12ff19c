"""What a delta codec offers: make a patch in one go, apply it in bounded memory."""

from collections.abc import Callable, Iterator
from typing import Final, Protocol

ReadAt = Callable[[int, int], bytes]
"""``read(offset, size)``: the bytes there, fewer only at the end."""
PIECE: Final = 4_096
"""Bytes that a decoder hands out at most at a time."""


class DeltaCodec(Protocol):
    """A patch format. ``name`` is what the decoder's class identifier is made from, e.g. ``delta/1``."""

    name: str

    def diff(self, old: bytes, new: bytes) -> bytes:
        """Return the patch that makes ``new`` out of ``old``. CPU work of seconds: never on an event loop."""

    def patch(self, read_old: ReadAt, old_size: int, read_patch: ReadAt, patch_size: int, size: int) -> Iterator[bytes]:
        """Yield the new image in consecutive pieces of at most `PIECE` bytes, ``size`` bytes in all.

        Neither the old image nor the new one nor the patch is ever in memory as a whole.

        Raises:
            DecodeError: the patch is not of the format, or makes more or fewer than ``size`` bytes.
        """
