"""What is measured from outside of the device: it outlasts power cuts, and the device knows nothing of it."""

from dataclasses import dataclass, field

from protocol.aio.endpoint import Endpoint, Receiver
from protocol.messages import Via


@dataclass(slots=True)
class Meter:
    """Counters of one update. Bytes are UDP payloads at the device's socket.

    ``received_twice`` counts blocks that had reached the device before a power cut and were accepted again after it.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    blocks: int = 0
    blocks_resent: int = 0
    received_twice: int = 0
    power_cuts: int = 0
    began_at: float = 0.0
    via: Via | None = None
    update: bytes | None = None
    _seen: set[tuple[str, bytes, int]] = field(default_factory=set)

    def begin(self, update: bytes, now: float) -> None:
        """Count for the update with this manifest digest from here on; another one than before begins at zero."""
        if self.update is not None and update != self.update:
            self.clear(now)
        self.update = update

    def clear(self, now: float) -> None:
        """Begin at zero: nothing is under way, what comes belongs to the next update."""
        self.bytes_up = self.bytes_down = self.blocks = self.blocks_resent = 0
        self.received_twice = self.power_cuts = 0
        self.via = None
        self._seen.clear()
        self.began_at = now

    def count_block(self, path: str, etag: bytes, offset: int) -> None:
        """Count a block that was accepted from the link."""
        self.blocks += 1
        block = (path, etag, offset)
        self.received_twice += block in self._seen
        self._seen.add(block)

    def forget_blocks(self, path: str) -> None:
        """A transfer began anew on purpose (another representation, or a payload that did not hold)."""
        self._seen = {block for block in self._seen if block[0] != path}


class MeteredEndpoint:
    """An `Endpoint` that counts what passes."""

    def __init__(self, inner: Endpoint, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter
        self._receiver: Receiver | None = None

    def send(self, datagram: bytes) -> None:
        """Count and send."""
        self._meter.bytes_up += len(datagram)
        self._inner.send(datagram)

    def set_receiver(self, receiver: Receiver | None) -> None:
        """Count what arrives, and hand it on."""
        self._receiver = receiver
        self._inner.set_receiver(None if receiver is None else self._arrive)

    def close(self) -> None:
        """Close the endpoint."""
        self._inner.close()

    def _arrive(self, datagram: bytes) -> None:
        self._meter.bytes_down += len(datagram)
        if self._receiver is not None:
            self._receiver(datagram)
