"""Fixed records in flash: a magic, fields from a table, a CRC, padded to whole write units, appended one after another.

A record counts only if its CRC holds, so a torn write or a flipped bit makes it as if it had never been written. The
padding is zeros, which tells a written unit from an erased one even where the record is all ones.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from coap_device.hardware.flash import Flash, is_erased

T = TypeVar("T")
_CRC: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class RecordField:
    """One line of a record's table: the attribute, its `struct` code (little endian), and how its value is made."""

    name: str
    code: str
    convert: Callable[[Any], Any] | None = None


class RecordFormat(Generic[T]):
    """The table of one kind of record: ``kind`` is the dataclass, ``magic`` its first bytes."""

    def __init__(self, kind: type[T], magic: bytes, fields: tuple[RecordField, ...]) -> None:
        self._kind = kind
        self._magic = magic
        self._fields = fields
        self._struct = struct.Struct("<" + "".join(line.code for line in fields))
        self.bare_size: Final = len(magic) + self._struct.size + _CRC.size

    def size(self, unit: int) -> int:
        """Return the bytes that one record takes with write units of ``unit`` bytes."""
        return -(-self.bare_size // unit) * unit

    def encode(self, record: T, unit: int) -> bytes:
        """Return the record's bytes, padded to ``unit``."""
        body = self._magic + self._struct.pack(*(getattr(record, line.name) for line in self._fields))
        return (body + _CRC.pack(zlib.crc32(body))).ljust(self.size(unit), b"\0")

    def decode(self, data: bytes) -> T | None:
        """Return the record that ``data`` begins with, or None: erased, torn, damaged or of another kind."""
        body, crc = data[: self.bare_size - _CRC.size], data[self.bare_size - _CRC.size : self.bare_size]
        if len(crc) != _CRC.size or not body.startswith(self._magic) or _CRC.unpack(crc)[0] != zlib.crc32(body):
            return None
        values = self._struct.unpack(body[len(self._magic) :])
        try:
            converted = {
                line.name: value if line.convert is None else line.convert(value)
                for line, value in zip(self._fields, values, strict=True)
            }
        except ValueError:
            # The CRC holds, but an enumeration does not know the value: a record of a future format.
            return None
        return self._kind(**converted)


class RecordLog(Generic[T]):
    """Records of one kind, appended within ``size`` bytes at ``offset``; unreadable ones are skipped.

    Args:
        flash: where it lies.
        offset: begin of the area, on a write unit.
        size: of the area in bytes.
        form: the records' format.
    """

    def __init__(self, flash: Flash, offset: int, size: int, form: RecordFormat[T]) -> None:
        self._flash = flash
        self._offset = offset
        self._form = form
        self._step = form.size(flash.write_unit)
        self.capacity: Final = size // self._step

    def read_all(self) -> list[T]:
        """Return the records that hold, oldest first."""
        found = (self._form.decode(place) for place in self._places())
        return [record for record in found if record is not None]

    @property
    def free(self) -> int:
        """How many records still fit."""
        return self.capacity - self._next()

    def append(self, record: T) -> bool:
        """Write ``record`` behind the last one and sync; False if there is no room."""
        index = self._next()
        if index >= self.capacity:
            return False
        self._flash.write(self._offset + index * self._step, self._form.encode(record, self._flash.write_unit))
        self._flash.sync()
        return True

    def _next(self) -> int:
        # Behind the last place that is not erased, not simply the first erased one: a torn erase leaves erased places
        # in front of old records, and cells that were not erased to the end.
        used = [index for index, place in enumerate(self._places()) if not is_erased(place, self._flash.erased)]
        return used[-1] + 1 if used else 0

    def _places(self) -> list[bytes]:
        data = self._flash.read(self._offset, self.capacity * self._step)
        return [data[start : start + self._step] for start in range(0, len(data), self._step)]
