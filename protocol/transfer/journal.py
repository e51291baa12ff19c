"""The resume record of a transfer: what survives a power cut, as bytes in an append-only log.

A flash cannot set single bits of a bitmap, so the journal is a header and, behind it, one record per *granule* of the
payload, appended when the granule's bytes are safely in place. The rules:

* The header names the transfer: the signed digest, the size, the ETag of the representation, and where the bytes go.
  It is written last when a transfer begins, so a header means that the target was erased before.
* A record takes one write unit, at least 8 bytes, and ends in a CRC that is seeded with the header's: neither a torn
  record nor one of an earlier journal counts.
* Payload first, record second: a record says that its bytes are there. At a cut at most the bytes without a record are
  lost, that is the block in hand.
* REBUILD and REBUILT enclose the rewriting of one target sector through a scratch sector; COMPLETE says that the
  digest over the whole payload was right.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

HEADER_SIZE: Final = 64
"""Bytes of the encoded header: whole write units for every unit up to 64 bytes."""
MIN_RECORD: Final = 8
MIN_GRANULE: Final = 64
MAX_NUM: Final = (1 << 24) - 1
MAX_ETAG: Final = 8
ERASED: Final = 0xFF

_HEADER: Final = struct.Struct("<4sIIIB8s32s")  # magic, target, size, granule, length of the ETag, ETag, digest
_MAGIC: Final = b"JRNL"
_CRC: Final = struct.Struct("<I")


class RecordKind(IntEnum):
    """What a record says of its number: a granule, a sector of the target, a sector, nothing (0)."""

    RECEIVED = 1
    REBUILD = 2
    REBUILT = 3
    COMPLETE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalHeader:
    """Which transfer a journal belongs to.

    ``target`` identifies the region the payload goes to, ``etag`` has 0 to 8 bytes (RFC 7252 section 5.10.6), empty
    if the server gave none; ``digest`` is the signed SHA-256, ``size`` the signed size in bytes, ``granule`` the bytes
    that one record stands for, a power of two from 64; the last granule may be short.

    Raises:
        ValueError: a field that has no encoding.
    """

    target: int
    etag: bytes
    digest: bytes
    size: int
    granule: int

    def __post_init__(self) -> None:
        if not (0 <= self.target < 1 << 32 and 0 < self.size < 1 << 32):
            raise ValueError(f"target {self.target} or size {self.size} is not within 32 bits")
        if len(self.etag) > MAX_ETAG or len(self.digest) != 32:
            raise ValueError(f"an ETag of {len(self.etag)} or a digest of {len(self.digest)} bytes")
        if self.granule < MIN_GRANULE or self.granule & (self.granule - 1):
            raise ValueError(f"granule {self.granule} is not a power of two from {MIN_GRANULE}")
        if self.count > MAX_NUM + 1:
            raise ValueError(f"{self.count} granules, the limit is {MAX_NUM + 1}")

    @property
    def count(self) -> int:
        """The number of granules."""
        return -(-self.size // self.granule)

    def extent(self, num: int) -> range:
        """Return the payload offsets of granule ``num``."""
        return range(num * self.granule, min((num + 1) * self.granule, self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalState:
    """What a journal says.

    ``received`` are the granules whose bytes are in place, ``rebuilding`` the target sector (counted from the target's
    begin) whose rewriting was not ended, ``next_offset`` where the next record goes, from the journal's begin.
    """

    received: frozenset[int]
    rebuilding: int | None
    complete: bool
    next_offset: int


def record_size(unit: int) -> int:
    """Return the bytes that a record takes with write units of ``unit`` bytes."""
    return max(unit, MIN_RECORD)


def encode_header(header: JournalHeader, unit: int) -> bytes:
    """Return the header's bytes, whole write units."""
    body = _header_body(header)
    return (body + _CRC.pack(zlib.crc32(body))).ljust(-(-HEADER_SIZE // unit) * unit, b"\0")


def decode_header(data: bytes) -> JournalHeader | None:
    """Return the header that ``data`` begins with, or None: erased, torn or damaged."""
    body, crc = data[: _HEADER.size], data[_HEADER.size : _HEADER.size + _CRC.size]
    if len(crc) != _CRC.size or _CRC.unpack(crc)[0] != zlib.crc32(body):
        return None
    magic, target, size, granule, etag_size, etag, digest = _HEADER.unpack(body)
    if magic != _MAGIC or etag_size > MAX_ETAG:
        return None
    try:
        return JournalHeader(target=target, etag=etag[:etag_size], digest=digest, size=size, granule=granule)
    except ValueError:
        return None


def encode_record(kind: RecordKind, num: int, header: JournalHeader, unit: int) -> bytes:
    """Return one record of the journal that ``header`` begins.

    Raises:
        ValueError: ``num`` needs more than 24 bits.
    """
    if not 0 <= num <= MAX_NUM:
        raise ValueError(f"record number {num} needs more than 24 bits")
    body = bytes([kind]) + num.to_bytes(3, "little")
    return (body + _CRC.pack(zlib.crc32(body, _seed(header)))).ljust(record_size(unit), b"\0")


def replay(data: bytes, header: JournalHeader, unit: int) -> JournalState:
    """Return what the journal ``data``, header included, says; records that do not hold are skipped."""
    seed, step = _seed(header), record_size(unit)
    start = -(-HEADER_SIZE // unit) * unit
    received: set[int] = set()
    rebuilding: int | None = None
    complete = False
    next_offset = start
    for offset in range(start, len(data) - step + 1, step):
        place = data[offset : offset + step]
        if place.count(ERASED) == step:
            continue
        next_offset = offset + step
        body = place[:4]
        if _CRC.unpack_from(place, 4)[0] != zlib.crc32(body, seed):
            continue
        kind, num = body[0], int.from_bytes(body[1:4], "little")
        if kind == RecordKind.RECEIVED and num < header.count:
            received.add(num)
        elif kind == RecordKind.REBUILD:
            rebuilding = num
        elif kind == RecordKind.REBUILT:
            rebuilding = None
        elif kind == RecordKind.COMPLETE:
            complete = True
    return JournalState(received=frozenset(received), rebuilding=rebuilding, complete=complete, next_offset=next_offset)


def _header_body(header: JournalHeader) -> bytes:
    return _HEADER.pack(
        _MAGIC, header.target, header.size, header.granule, len(header.etag), header.etag, header.digest
    )


def _seed(header: JournalHeader) -> int:
    return zlib.crc32(_header_body(header))
