"""Block options: number, more flag and size exponent against byte offsets (RFC 7959 section 2.2)."""

from dataclasses import dataclass
from typing import Final

from protocol.errors import DecodeError

MAX_SZX: Final = 6
MAX_NUM: Final = (1 << 20) - 1


class BlockError(DecodeError):
    """A block option that RFC 7959 section 2.2 does not allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The value of a Block1 or Block2 option.

    ``num`` is the block number 0..2^20-1, ``more`` the M bit, ``szx`` the size exponent 0..6 for 16..1,024 bytes.
    """

    num: int
    more: bool
    szx: int

    def __post_init__(self) -> None:
        """Refuse what has no encoding."""
        if not 0 <= self.szx <= MAX_SZX:
            raise BlockError(f"szx {self.szx} is not within 0..{MAX_SZX} (7 is reserved)")
        if not 0 <= self.num <= MAX_NUM:
            raise BlockError(f"block number {self.num} needs more than 20 bits")

    @property
    def size(self) -> int:
        """The block's size in bytes."""
        return 1 << (self.szx + 4)

    @property
    def offset(self) -> int:
        """The position of the block's first byte in the representation."""
        return self.num << (self.szx + 4)

    def encode(self) -> bytes:
        """Return the option value: 0 to 3 bytes, no leading zeros.

        >>> Block(num=1, more=False, szx=6).encode().hex()
        '16'
        """
        value = self.num << 4 | self.more << 3 | self.szx
        return value.to_bytes((value.bit_length() + 7) // 8, "big")


def decode_block(value: bytes) -> Block:
    """Return the block that an option value names.

    Raises:
        BlockError: more than 3 bytes, or szx 7.
    """
    if len(value) > 3:
        raise BlockError(f"{len(value)} bytes, a block option has 0 to 3")
    number = int.from_bytes(value, "big")
    return Block(num=number >> 4, more=bool(number & 8), szx=number & 7)


def block_at(offset: int, szx: int) -> Block:
    """Return the Block2 request option that fetches the byte at ``offset``.

    Blocks are aligned, so the block may begin before ``offset`` (RFC 7959 section 2.2).

    Args:
        offset: position in the representation, in bytes from 0.
        szx: size exponent 0..6; a block is ``2 ** (szx + 4)`` bytes, 16 to 1,024.

    Raises:
        BlockError: ``szx`` is 7 (reserved), or the number needs more than 20 bits.

    >>> block_at(1500, szx=6)
    Block(num=1, more=False, szx=6)
    """
    return Block(num=offset >> (szx + 4), more=False, szx=szx)
