"""Representations served block by block, without state: any block first, from any worker, at any time.

The answer to a GET follows from the representation and the request's Block2 option alone (RFC 7959 section 2.4), so
that a device resumes wherever it stopped. Each answer carries ETag, Size2 and Block2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiocoap import Code, Message

from coap_server.errors import InputError
from protocol.coap.block import MAX_SZX, BlockError

ETAG_SIZE: Final = 8
NOT_ACCEPTABLE: Final = int(Code.NOT_ACCEPTABLE)


class NotAcceptableError(InputError):
    """The Accept option asks for a Content-Format that there is none of."""

    coap_code = NOT_ACCEPTABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """Bytes with a digest. ``read(offset, size)`` returns some of them; ``formats`` are its Content-Formats."""

    digest: bytes
    size: int
    formats: tuple[int, ...]
    read: Callable[[int, int], bytes]

    @property
    def etag(self) -> bytes:
        """The entity tag: the first 8 bytes of the SHA-256."""
        return self.digest[:ETAG_SIZE]


def slice_response(request: Message, representation: Representation) -> Message:
    """Return the answer to a GET: the block asked for, or 2.03 where the client holds this very representation.

    Without a Block2 option block 0 of 1,024 bytes is meant.

    Raises:
        NotAcceptableError: the Accept option names none of the formats.
        BlockError: size exponent 7, which is reserved (RFC 7959 section 2.2).
        InputError: the block begins behind the end.
    """
    accept = request.opt.accept
    if accept is not None and int(accept) not in representation.formats:
        names = ", ".join(str(number) for number in representation.formats)
        raise NotAcceptableError(f"Content-Format {int(accept)} is not available; {names} is")
    if representation.etag in request.opt.etags:
        return Message(code=Code.VALID, etag=representation.etag)
    num, szx = _block(request)
    size = 1 << (szx + 4)
    offset = num * size
    if offset >= representation.size and num > 0:
        raise InputError(f"block {num} begins at byte {offset}, the representation has {representation.size}")
    response = Message(code=Code.CONTENT, payload=representation.read(offset, size))
    response.opt.content_format = int(accept) if accept is not None else representation.formats[0]
    response.opt.etag = representation.etag
    response.opt.size2 = representation.size
    response.opt.block2 = (num, offset + size < representation.size, szx)
    return response


def _block(request: Message) -> tuple[int, int]:
    """Return number and size exponent; a peer that takes smaller blocks only gets them."""
    largest = min(MAX_SZX, int(request.remote.maximum_block_size_exp))
    block = request.opt.block2
    if block is None:
        return 0, largest
    if block.size_exponent > MAX_SZX:
        raise BlockError(f"size exponent {block.size_exponent} is reserved", path="block2")
    smaller = block.reduced_to(largest)
    return int(smaller.block_number), int(smaller.size_exponent)
