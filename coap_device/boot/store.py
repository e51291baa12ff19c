"""Where a transfer's blocks go, in any order, and what makes it resumable after a power cut.

* `PayloadStore.begin` clears the place: the journal's header goes first and comes back last, so a header in flash means
  that the target was erased for that transfer and holds nothing else.
* `PayloadStore.put` programs the bytes, syncs, appends the journal record of every granule that became whole, syncs.
  So a cut loses at most the block in hand, and that block may be put again: units that stand there already are left
  alone, erased ones are programmed.
* A cut can leave a write unit half programmed: neither erased nor right. NOR cannot repair it in place, so the sector
  is rebuilt through the scratch sector: what the journal vouches for is copied there, the journal says REBUILD, the
  sector is erased and filled again, the journal says REBUILT. `PayloadStore.resume` ends a rebuild that was cut.
* Blocks smaller than a granule wait in memory until the granule is whole; those are lost at a cut. Choose the granule
  not larger than the block, where the block has 64 bytes or more.
"""

import logging
from dataclasses import dataclass
from typing import Final

from coap_device.boot.slots import hash_flash
from coap_device.errors import FlashError, SlotError
from coap_device.hardware.flash import Flash
from coap_device.hardware.layout import Region
from protocol.transfer import journal
from protocol.transfer.journal import JournalHeader, JournalState, RecordKind

logger = logging.getLogger(__name__)

_SPARE_RECORDS: Final = 4
"""Below this many free records a journal is not resumed: it could not vouch for another rebuild."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A transfer found in flash: its header, and the payload offsets that are in place, ascending and disjoint."""

    header: JournalHeader
    ranges: tuple[range, ...]
    complete: bool

    @property
    def size(self) -> int:
        """The bytes that are in place."""
        return sum(len(extent) for extent in self.ranges)


class PayloadStore:
    """One target region, with the journal and the scratch sector.

    Only one transfer at a time is in the journal: two stores with different targets take it from one another.

    Args:
        flash: where the regions lie.
        target: takes the payload.
        journal_region: takes the journal.
        scratch: one sector.
    """

    def __init__(self, flash: Flash, target: Region, journal_region: Region, scratch: Region) -> None:
        self._flash = flash
        self._target = target
        self._journal = journal_region
        self._scratch = scratch
        self._unit = flash.write_unit
        self._step = journal.record_size(self._unit)
        self._header: JournalHeader | None = None
        self._received: set[int] = set()
        self._partial: dict[int, _Partial] = {}
        self._next = 0
        self._complete = False
        self.rebuilds = 0
        """How many sectors were rebuilt since the flash was opened."""

    @property
    def capacity(self) -> int:
        """The greatest payload, in bytes."""
        return self._target.size

    @property
    def header(self) -> JournalHeader | None:
        """The transfer that is open, or None."""
        return self._header

    @property
    def is_whole(self) -> bool:
        """Whether every granule of the open transfer is in place."""
        return self._header is not None and len(self._received) == self._header.count

    def make_header(self, *, digest: bytes, size: int, granule: int, etag: bytes = b"") -> JournalHeader:
        """Return the header of a transfer into this target.

        Raises:
            SlotError: larger than the target, or a granule larger than a sector.
            ValueError: a field that the journal cannot hold.
        """
        header = JournalHeader(target=self._target.offset, etag=etag, digest=digest, size=size, granule=granule)
        self._check_header(header)
        return header

    def begin(self, header: JournalHeader) -> None:
        """Clear journal and target and open the transfer of ``header``.

        Raises:
            SlotError: the header is not for this target, or does not fit it.
        """
        self._check_header(header)
        self.discard()
        self._erase(self._target.offset, header.size)
        self._flash.sync()
        encoded = journal.encode_header(header, self._unit)
        self._flash.write(self._journal.offset, encoded)
        self._flash.sync()
        self._open(header, journal.replay(encoded, header, self._unit))

    def resume(self, digest: bytes) -> Resumed | None:
        """Open the transfer of ``digest`` that the journal holds for this target, or return None.

        A rebuild that was cut is ended first.
        """
        header = self._stored_header()
        if header is None or header.digest != digest:
            return None
        data = self._flash.read(self._journal.offset, self._journal.size)
        state = journal.replay(data, header, self._unit)
        if state.next_offset + _SPARE_RECORDS * self._step > self._journal.size and not state.complete:
            logger.warning("%s: the journal is full, the transfer starts again", self._target.name)
            return None
        self._open(header, state)
        if state.rebuilding is not None:
            self._copy_back(header, state.rebuilding)
        return Resumed(header=header, ranges=self._ranges(header), complete=state.complete)

    def put(self, offset: int, data: bytes) -> None:
        """Keep ``data`` at ``offset`` of the payload; when this returns, every granule it made whole survives a cut.

        Bytes whose granule is in place already are ignored: the digest at the end decides.

        Raises:
            SlotError: no transfer is open, or the bytes lie beyond its size.
            FlashError: the journal cannot vouch for the rebuild of a torn sector; the transfer must begin again.
        """
        header = self._require_open()
        if offset < 0 or offset + len(data) > header.size:
            raise SlotError(f"{self._target.name}: {len(data)} bytes at {offset}: the payload has {header.size}")
        whole = self._collect(header, offset, data)
        if not whole:
            return
        for start, content in _runs(header, whole):
            self._program(header, start, content)
        self._flash.sync()
        self._append(header, [(RecordKind.RECEIVED, num) for num in sorted(whole)])
        self._received.update(whole)

    def complete(self) -> bool:
        """Hash the payload; if it is the signed one, say so in the journal, else throw the transfer away.

        Raises:
            SlotError: no transfer is open, or granules are missing.
        """
        header = self._require_open()
        if not self.is_whole:
            missing = header.count - len(self._received)
            raise SlotError(f"{self._target.name}: {missing} of {header.count} granules are missing")
        if hash_flash(self._flash, self._target.offset, header.size) != header.digest:
            self.discard()
            return False
        if not self._complete:
            self._append(header, [(RecordKind.COMPLETE, 0)])
            self._complete = True
        return True

    def is_verified(self, digest: bytes, size: int) -> bool:
        """Tell whether the target holds the whole payload of ``digest``, so that a fetch can be skipped.

        The journal must say COMPLETE, and the digest is computed again: the flash may have changed since.
        """
        header = self._stored_header()
        if header is None or header.digest != digest or header.size != size:
            return False
        data = self._flash.read(self._journal.offset, self._journal.size)
        if not journal.replay(data, header, self._unit).complete:
            return False
        return hash_flash(self._flash, self._target.offset, size) == digest

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` of the target.

        Raises:
            SlotError: beyond the target.
        """
        if offset < 0 or size < 0 or offset + size > self._target.size:
            raise SlotError(f"{self._target.name}: {size} bytes at {offset}: the region has {self._target.size}")
        return self._flash.read(self._target.offset + offset, size)

    def discard(self) -> None:
        """Erase the journal: no transfer is open, and none is found at the next boot."""
        self._header = None
        self._received.clear()
        self._partial.clear()
        # From the front, so the header goes before its records; the target is not touched until all of it is gone.
        self._erase(self._journal.offset, self._journal.size)
        self._flash.sync()

    def _check_header(self, header: JournalHeader) -> None:
        if header.target != self._target.offset:
            raise SlotError(f"{self._target.name}: the journal's header is for the region at {header.target:#x}")
        if header.size > self._target.size:
            raise SlotError(f"{self._target.name}: the payload has {header.size} bytes, the limit is {self.capacity}")
        if header.granule > self._flash.sector_size:
            raise SlotError(f"{self._target.name}: a granule of {header.granule} bytes does not fit into a sector")

    def _stored_header(self) -> JournalHeader | None:
        header = journal.decode_header(self._flash.read(self._journal.offset, journal.HEADER_SIZE))
        if header is None or header.target != self._target.offset:
            return None
        fits = header.size <= self._target.size and header.granule <= self._flash.sector_size
        return header if fits else None

    def _open(self, header: JournalHeader, state: JournalState) -> None:
        self._header = header
        self._received = set(state.received)
        self._partial = {}
        self._next = state.next_offset
        self._complete = state.complete

    def _require_open(self) -> JournalHeader:
        if self._header is None:
            raise SlotError(f"{self._target.name}: no transfer is open")
        return self._header

    def _collect(self, header: JournalHeader, offset: int, data: bytes) -> dict[int, bytes]:
        """Return the granules that ``data`` makes whole; keep in memory what does not fill one."""
        whole: dict[int, bytes] = {}
        for num in range(offset // header.granule, -(-(offset + len(data)) // header.granule)):
            if num in self._received:
                continue
            extent = header.extent(num)
            first, end = max(offset, extent.start), min(offset + len(data), extent.stop)
            partial = self._partial.setdefault(num, _Partial(len(extent)))
            if partial.put(first - extent.start, data[first - offset : end - offset]):
                whole[num] = bytes(partial.data)
                del self._partial[num]
        return whole

    def _program(self, header: JournalHeader, start: int, content: bytes) -> None:
        """Bring ``content`` to payload offset ``start``, which is on a granule; erased and equal units are fine."""
        content = self._flash.pad(content)
        present = self._flash.read(self._target.offset + start, len(content))
        for sector in sorted({place // self._flash.sector_size for place in self._torn(start, content, present)}):
            self._rebuild(header, sector)
        present = self._flash.read(self._target.offset + start, len(content))
        todo = [
            at for at in range(0, len(content), self._unit) if present[at : at + self._unit] != self._cut(content, at)
        ]
        for first, end in _stretches(todo, self._unit):
            self._flash.write(self._target.offset + start + first, content[first:end])

    def _torn(self, start: int, content: bytes, present: bytes) -> list[int]:
        erased = bytes([self._flash.erased]) * self._unit
        return [
            start + at
            for at in range(0, len(content), self._unit)
            if self._cut(present, at) not in (erased, self._cut(content, at))
        ]

    def _cut(self, data: bytes, at: int) -> bytes:
        return data[at : at + self._unit]

    def _rebuild(self, header: JournalHeader, sector: int) -> None:
        """Erase a target sector with torn units and give it back what the journal vouches for."""
        if self._next + 2 * self._step > self._journal.size:
            self.discard()
            raise FlashError(f"{self._target.name}: the journal is full, the transfer must begin again")
        logger.debug("%s: sector %d was torn by a power cut, rebuilding it", self._target.name, sector)
        self._erase(self._scratch.offset, self._scratch.size)
        self._copy_good(header, sector, self._sector_offset(sector), self._scratch.offset)
        self._flash.sync()
        self._append(header, [(RecordKind.REBUILD, sector)])
        self._copy_back(header, sector)

    def _copy_back(self, header: JournalHeader, sector: int) -> None:
        self.rebuilds += 1
        self._erase(self._sector_offset(sector), self._flash.sector_size)
        self._copy_good(header, sector, self._scratch.offset, self._sector_offset(sector))
        self._flash.sync()
        self._append(header, [(RecordKind.REBUILT, sector)])

    def _copy_good(self, header: JournalHeader, sector: int, source: int, destination: int) -> None:
        """Copy the recorded granules of a target sector from flash offset ``source`` to ``destination``."""
        per_sector = self._flash.sector_size // header.granule
        for num in range(sector * per_sector, (sector + 1) * per_sector):
            if num in self._received:
                extent = header.extent(num)
                shift = extent.start - sector * self._flash.sector_size
                self._flash.write(destination + shift, self._flash.pad(self._flash.read(source + shift, len(extent))))

    def _sector_offset(self, sector: int) -> int:
        return self._target.offset + sector * self._flash.sector_size

    def _append(self, header: JournalHeader, records: list[tuple[RecordKind, int]]) -> None:
        data = b"".join(journal.encode_record(kind, num, header, self._unit) for kind, num in records)
        if self._next + len(data) > self._journal.size:
            # Nothing is wrong with the payload: only a power cut from here on would cost more than a block.
            logger.warning("%s: the journal is full, progress is no longer recorded", self._target.name)
            return
        self._flash.write(self._journal.offset + self._next, data)
        self._flash.sync()
        self._next += len(data)

    def _erase(self, offset: int, size: int) -> None:
        """Erase the sectors of ``size`` bytes from ``offset``, as far as they are not erased."""
        for start in range(offset, offset + size, self._flash.sector_size):
            if not self._flash.is_erased(start, self._flash.sector_size):
                self._flash.erase(start)

    def _ranges(self, header: JournalHeader) -> tuple[range, ...]:
        merged: list[range] = []
        for num in sorted(self._received):
            extent = header.extent(num)
            if merged and merged[-1].stop == extent.start:
                merged[-1] = range(merged[-1].start, extent.stop)
            else:
                merged.append(extent)
        return tuple(merged)


class _Partial:
    """A granule that is not whole yet."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self._have = bytearray(size)

    def put(self, offset: int, data: bytes) -> bool:
        """Take ``data`` and tell whether the granule is whole."""
        self.data[offset : offset + len(data)] = data
        self._have[offset : offset + len(data)] = b"\1" * len(data)
        return all(self._have)


def _runs(header: JournalHeader, whole: dict[int, bytes]) -> list[tuple[int, bytes]]:
    """Return the payload offset and content of every run of neighbouring granules."""
    runs: list[tuple[int, bytes]] = []
    for num in sorted(whole):
        start = header.extent(num).start
        if runs and runs[-1][0] + len(runs[-1][1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + whole[num])
        else:
            runs.append((start, whole[num]))
    return runs


def _stretches(places: list[int], step: int) -> list[tuple[int, int]]:
    """Return begin and end of every stretch of neighbouring places."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = (found[-1][0], place + step)
        else:
            found.append((place, place + step))
    return found
