"""A NOR flash: erased by sectors to all ones, written by units, and a unit is written once between two erases.

The bytes live in a `Backing`, a file or memory, which is the chip itself and outlasts power cuts. `Flash` is the
driver in one power domain: it enforces the rules, gives every erase, write and sync to the `PowerPlan` as one
operation, and is dead after a cut.
"""

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from coap_device.errors import FlashError
from coap_device.hardware.power import PowerPlan

ERASED: Final = 0xFF
_FILL_CHUNK: Final = 65_536


class Reader(Protocol):
    """What can be read like a flash: a backing or a flash. ``name`` is for messages."""

    @property
    def name(self) -> str:
        """The path, or a word."""

    @property
    def size(self) -> int:
        """The size in bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``."""


class Backing(Reader, Protocol):
    """The chip: bytes that stay when the power goes. It knows no rules."""

    def write(self, offset: int, data: bytes) -> None:
        """Set the bytes from ``offset``."""

    def sync(self) -> None:
        """Return when everything written will stay."""

    def close(self) -> None:
        """Let go of it."""


class MemoryBacking:
    """A chip of ``size`` bytes in memory, erased, or with ``content``."""

    def __init__(self, size: int, *, content: bytes | None = None) -> None:
        self._data = bytearray(content if content is not None else bytes([ERASED]) * size)
        if len(self._data) != size:
            raise FlashError(f"memory: {len(self._data)} bytes of content for a flash of {size}")

    @property
    def name(self) -> str:
        """A word for messages."""
        return "memory"

    @property
    def size(self) -> int:
        """The size in bytes."""
        return len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``."""
        return bytes(self._data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """Set the bytes from ``offset``."""
        self._data[offset : offset + len(data)] = data

    def sync(self) -> None:
        """Memory keeps what it has."""

    def close(self) -> None:
        """Nothing to let go of."""

    def snapshot(self) -> bytes:
        """Return a copy of all bytes."""
        return bytes(self._data)


class FileBacking:
    """A chip in a file, held by one process at a time.

    A write has reached the operating system when it returns, so it outlasts the death of this process; with
    ``durable`` a sync also waits for the disk, so it outlasts the host as well.

    Args:
        path: the file.
        size: in bytes; a file that is not there is created erased. None takes the file as it is.
        read_only: for looking at a flash that nobody writes; many may look at once.
        durable: see above.

    Raises:
        FlashError: the file cannot be opened, another process holds it, or its size is not ``size``.
    """

    def __init__(
        self, path: str | Path, size: int | None = None, *, read_only: bool = False, durable: bool = False
    ) -> None:
        self._path = Path(path)
        self._durable = durable
        create = size is not None and not read_only
        flags = (os.O_RDONLY if read_only else os.O_RDWR) | (os.O_CREAT if create else 0) | os.O_CLOEXEC
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise FlashError(f"{self._path}: cannot open the flash file: {error.strerror}") from error
        try:
            self._size = self._prepare(size, read_only)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def name(self) -> str:
        """The path."""
        return str(self._path)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``."""
        return os.pread(self._fd, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Set the bytes from ``offset``."""
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise FlashError(f"{self._path}: cannot write the flash file: {error.strerror}") from error

    def sync(self) -> None:
        """Wait for the disk if that was asked for."""
        if self._durable:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file, which also gives the lock back. Twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _prepare(self, size: int | None, read_only: bool) -> int:
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            raise FlashError(
                f"{self._path}: another process uses this flash file; stop it or take another state folder"
            ) from error
        actual = os.fstat(self._fd).st_size
        if size is None or actual == size:
            return actual
        if read_only or actual > size or not is_erased(os.pread(self._fd, actual, 0)):
            raise FlashError(
                f"{self._path}: damaged flash file: {actual} bytes where {size} are due; "
                f"remove {self._path} to provision again"
            )
        # New, or the process died while it filled a new file: what is there is erased, so fill up the rest.
        for offset in range(actual, size, _FILL_CHUNK):
            self.write(offset, bytes([ERASED]) * min(_FILL_CHUNK, size - offset))
        return size


@dataclass(slots=True, kw_only=True)
class FlashStatistics:
    """What a flash was asked to do in this power domain; ``erase_counts`` is per sector."""

    erases: int = 0
    writes: int = 0
    syncs: int = 0
    bytes_written: int = 0
    erase_counts: dict[int, int] = field(default_factory=dict)


class Flash:
    """The driver of one chip in one power domain.

    Args:
        backing: the chip; its size must be whole sectors.
        sector_size: what one erase clears, in bytes.
        write_unit: what one write programs at least, in bytes; divides ``sector_size``.
        erased: the value of an erased byte.
        power: counts the operations and may cut them.
    """

    def __init__(
        self,
        backing: Backing,
        sector_size: int,
        write_unit: int,
        *,
        erased: int = ERASED,
        power: PowerPlan | None = None,
    ) -> None:
        if sector_size % write_unit or backing.size % sector_size:
            raise FlashError(
                f"{backing.name}: {backing.size} bytes, sectors of {sector_size} and units of {write_unit} do not fit"
            )
        self._backing = backing
        self.sector_size = sector_size
        self.write_unit = write_unit
        self.erased = erased
        self.power = power if power is not None else PowerPlan()
        self.statistics = FlashStatistics()
        self._domain = self.power.domain

    @property
    def name(self) -> str:
        """The chip's name, for messages."""
        return self._backing.name

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._backing.size

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``.

        Raises:
            FlashError: beyond the end.
        """
        self._check(offset, size)
        return self._backing.read(offset, size)

    def erase(self, offset: int) -> None:
        """Erase the sector that begins at ``offset``.

        Raises:
            FlashError: not the begin of a sector, or beyond the end.
        """
        self._check(offset, self.sector_size)
        if offset % self.sector_size:
            raise FlashError(f"{self.name}: erase at {offset:#x}: sectors have {self.sector_size} bytes")
        sector = offset // self.sector_size
        self.statistics.erases += 1
        self.statistics.erase_counts[sector] = self.statistics.erase_counts.get(sector, 0) + 1
        fill = bytes([self.erased])
        self.power.perform(
            f"erase of sector {sector}",
            lambda: self._backing.write(offset, fill * self.sector_size),
            lambda: self._backing.write(offset, fill * (self.sector_size // 2)),
        )

    def write(self, offset: int, data: bytes) -> None:
        """Program ``data`` at ``offset``; both are multiples of the write unit and the place is erased.

        Raises:
            FlashError: misaligned, beyond the end, or a unit of the place is not erased.
        """
        self._check(offset, len(data))
        if offset % self.write_unit or len(data) % self.write_unit:
            raise FlashError(
                f"{self.name}: write of {len(data)} bytes at {offset:#x}: units have {self.write_unit} bytes"
            )
        if not self.is_erased(offset, len(data)):
            raise FlashError(f"{self.name}: write of {len(data)} bytes at {offset:#x}: the place is not erased")
        self.statistics.writes += 1
        self.statistics.bytes_written += len(data)
        self.power.perform(
            f"write of {len(data)} bytes at {offset:#x}",
            lambda: self._backing.write(offset, data),
            lambda: self._backing.write(offset, self._torn(data)),
        )

    def sync(self) -> None:
        """Return when every write so far will stay."""
        self.power.check(self._domain)
        self.statistics.syncs += 1
        self.power.perform("sync", self._backing.sync, lambda: None)

    def is_erased(self, offset: int, size: int) -> bool:
        """Tell whether ``size`` bytes from ``offset`` are all erased."""
        return is_erased(self.read(offset, size), self.erased)

    def point(self, name: str) -> None:
        """Say that the device is at the named point (`PowerPlan.point`)."""
        self.power.check(self._domain)
        self.power.point(name)

    def pad(self, data: bytes) -> bytes:
        """Return ``data`` filled up to whole write units with erased bytes."""
        return data + bytes([self.erased]) * (-len(data) % self.write_unit)

    def close(self) -> None:
        """Let go of the chip."""
        self._backing.close()

    def _check(self, offset: int, size: int) -> None:
        self.power.check(self._domain)
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FlashError(f"{self.name}: {size} bytes at {offset:#x}: the flash has {self.size} bytes")

    def _torn(self, data: bytes) -> bytes:
        # Half of the units, and the next one only in part: its first bytes are programmed, the others still erased.
        return data[: len(data) // self.write_unit // 2 * self.write_unit + self.write_unit // 2]


def is_erased(data: bytes, erased: int = ERASED) -> bool:
    """Tell whether every byte of ``data`` has the erased value."""
    return data.count(erased) == len(data)
