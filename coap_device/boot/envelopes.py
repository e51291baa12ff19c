"""The installed envelope of each slot: the signed manifest that the bootloader checks at every boot.

The header is written last, so an envelope is there wholly or not at all. Nothing in the header is believed: the
bootloader authenticates the bytes.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

from coap_device.boot.records import RecordField, RecordFormat
from coap_device.errors import SlotError
from coap_device.hardware.flash import Flash
from coap_device.hardware.layout import Layout

_PAYLOAD_OFFSET: Final = 64
"""Behind the header, on a write unit of any geometry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopeHeader:
    """Length in bytes and SHA-256 of the envelope behind it."""

    length: int
    digest: bytes


ENVELOPE_FORMAT: Final = RecordFormat(
    EnvelopeHeader, b"ENVL", (RecordField("length", "I"), RecordField("digest", "32s"))
)


class EnvelopeStore:
    """The envelope areas of both slots. Invalidate a slot before its envelope is replaced."""

    def __init__(self, flash: Flash, layout: Layout) -> None:
        self._flash = flash
        self._regions = layout.envelopes

    @property
    def capacity(self) -> int:
        """The greatest envelope that fits, in bytes."""
        return self._regions[0].size - _PAYLOAD_OFFSET

    def write(self, slot: int, envelope: bytes) -> None:
        """Keep ``envelope`` for ``slot``; nothing is written if it stands there already.

        Raises:
            SlotError: empty, or larger than the area.
        """
        if not 0 < len(envelope) <= self.capacity:
            raise SlotError(f"envelope {'AB'[slot]}: {len(envelope)} bytes, the limit is {self.capacity}")
        if self.read(slot) == envelope:
            return
        region = self._regions[slot]
        for offset in range(region.offset, region.end, self._flash.sector_size):
            if not self._flash.is_erased(offset, self._flash.sector_size):
                self._flash.erase(offset)
        self._flash.write(region.offset + _PAYLOAD_OFFSET, self._flash.pad(envelope))
        self._flash.sync()
        header = EnvelopeHeader(length=len(envelope), digest=hashlib.sha256(envelope).digest())
        self._flash.write(region.offset, ENVELOPE_FORMAT.encode(header, self._flash.write_unit))
        self._flash.sync()

    def read(self, slot: int) -> bytes | None:
        """Return the envelope of ``slot``, or None if there is none that is whole."""
        region = self._regions[slot]
        header = ENVELOPE_FORMAT.decode(self._flash.read(region.offset, _PAYLOAD_OFFSET))
        if header is None or not 0 < header.length <= self.capacity:
            return None
        envelope = self._flash.read(region.offset + _PAYLOAD_OFFSET, header.length)
        return envelope if hashlib.sha256(envelope).digest() == header.digest else None
