"""The representation that is fetched: what is known of it, what is held of it, and which block belongs to it.

Every block is held against what was asked for and against all that is known: block number, size exponent, length, the
last block's place, the size that was signed, announced or learned. What does not fit is an error and not used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from protocol.coap.block import MAX_SZX, decode_block
from protocol.coap.message import Message
from protocol.coap.numbers import Option
from protocol.errors import BlockMismatch, SizeExceeded
from protocol.transfer.ranges import Ranges

MAX_ETAG: Final = 8
"""RFC 7252 section 5.10: an ETag has 1 to 8 bytes."""
MAX_UINT_OPTION: Final = 4
"""Bytes of Size2 and Max-Age (RFC 7959 section 4, RFC 7252 section 5.10)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredBlock:
    """What a 2.05 says: ``data`` at ``offset``. ``szx`` is None without Block2: ``data`` is the whole representation.

    ``etag`` is empty and ``size`` (of the representation, from Size2) None where the response does not tell.
    """

    offset: int
    more: bool
    szx: int | None
    etag: bytes
    size: int | None
    data: bytes

    @property
    def end(self) -> int:
        """Where the data ends."""
        return self.offset + len(self.data)


def answered_block(found: Message) -> AnsweredBlock:
    """Return what the response ``found`` says of its block.

    Raises:
        BlockError: a Block2 option that has no meaning.
    """
    value = found.option(Option.BLOCK2)
    block = None if value is None else decode_block(value)
    etag = found.option(Option.ETAG) or b""
    return AnsweredBlock(
        # Without Block2 the payload is the whole representation (RFC 7959 section 2.2).
        offset=0 if block is None else block.offset,
        more=block is not None and block.more,
        szx=None if block is None else block.szx,
        # An elective option of a length that is not allowed counts as absent (RFC 7252 section 5.4.3).
        etag=etag if len(etag) <= MAX_ETAG else b"",
        size=bounded_uint(found, Option.SIZE2),
        data=found.payload,
    )


def bounded_uint(found: Message, number: Option) -> int | None:
    """Return an option of at most 32 bits, None if it is absent or longer (RFC 7252 section 5.4.3)."""
    value = found.option(number)
    return None if value is None or len(value) > MAX_UINT_OPTION else int.from_bytes(value, "big")


class Representation:
    """One representation of ``path``; sizes in bytes."""

    def __init__(self, path: str, max_size: int, expected_size: int | None) -> None:
        """Nothing is held yet; ``expected_size`` is the signed size, where there is one."""
        self._path = path
        self._max_size = max_size
        self._expected_size = expected_size
        self.etag: bytes | None = None
        """None until a response told, or a resume record; empty if the server gives none."""
        self.size = expected_size
        """None as long as nobody told."""
        self._ranges = Ranges()

    def hold(self, etag: bytes, size: int, have: tuple[tuple[int, int], ...]) -> None:
        """Go on from what an earlier transfer held."""
        self.etag, self.size = etag, size
        self._ranges = Ranges((max(0, start), min(size, end)) for start, end in have)

    def forget(self) -> None:
        """Another representation follows: nothing is known of it, and nothing held."""
        self.etag, self.size = None, self._expected_size
        self._ranges = Ranges()

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return self._ranges.total

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are held."""
        return self.size is not None and self._ranges.covers(0, self.size)

    def is_other(self, block: AnsweredBlock) -> bool:
        """Whether ``block`` is of another representation than what is held: its ETag differs."""
        return self.etag is not None and block.etag != self.etag

    def missing(self, step: int) -> Iterator[int]:
        """Yield where the blocks of ``step`` bytes begin that are not held, in order.

        Without a known size that goes up to what there is room for; an empty representation has a block to ask for too.
        """
        end = self._max_size if self.size is None else self.size
        position = 0
        for start, stop in self._ranges.gaps(max(end, 1)):
            first = max(position, start - start % step)
            position = stop + -stop % step
            yield from range(first, stop, step)

    def take(self, block: AnsweredBlock, offset: int, szx: int) -> list[tuple[int, bytes]]:
        """Hold ``block``, the answer to a request for ``offset`` and ``szx``; return what is new of it, with offsets.

        Raises:
            SizeExceeded: more bytes than were signed, announced or than there is room for.
            BlockMismatch: a block that was not asked for or that contradicts what is known.
        """
        size = self._announced(block)
        self._check(block, offset, szx, size)
        self.etag = block.etag
        self.size = size if block.more else block.end
        new = list(self._ranges.gaps(block.end, block.offset))
        for start, end in new:
            self._ranges.add(start, end)
        return [(start, block.data[start - block.offset : end - block.offset]) for start, end in new]

    def _announced(self, block: AnsweredBlock) -> int | None:
        if block.size is None or block.size == self.size:
            return self.size
        if self._expected_size is not None:
            raise SizeExceeded(
                f"{self._path}: the server announces {block.size} bytes, {self._expected_size} were signed"
            )
        if block.size > self._max_size:
            raise SizeExceeded(f"{self._path}: {block.size} bytes, there is room for {self._max_size}")
        if self.size is not None:
            raise BlockMismatch(f"{self._path}: Size2 changed from {self.size} to {block.size} under one ETag")
        return block.size

    def _check(self, block: AnsweredBlock, offset: int, szx: int, size: int | None) -> None:
        where = f"{self._path}: block at {block.offset}"
        if block.szx is not None:
            self._check_asked(where, block, block.szx, offset, szx)
        limit = self._max_size if size is None else size
        if block.end > limit:
            raise SizeExceeded(f"{where}: ends at {block.end}, the representation has {limit} bytes at most")
        if size is None and block.more and block.end == limit:
            raise SizeExceeded(f"{where}: more follows behind {limit} bytes, and there is no room for it")
        if size is not None and block.more is (block.end == size):
            place = "the last block says that more follow" if block.more else "a last block in the middle"
            raise BlockMismatch(f"{where}: {place}, at {block.end} of {size}")
        if not block.more and block.end < self._ranges.end:
            raise BlockMismatch(f"{where}: the last one, though bytes up to {self._ranges.end} came before")

    @staticmethod
    def _check_asked(where: str, block: AnsweredBlock, block_szx: int, offset: int, szx: int) -> None:
        if block.offset != offset:
            raise BlockMismatch(f"{where}, asked for was {offset}")
        if block_szx > min(szx, MAX_SZX):
            raise BlockMismatch(f"{where}: {16 << block_szx} bytes a block, asked for were {16 << szx}")
        if len(block.data) > 16 << block_szx or (block.more and len(block.data) < 16 << block_szx):
            raise BlockMismatch(f"{where}: {len(block.data)} bytes in a block of {16 << block_szx}")
