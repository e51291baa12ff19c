"""What goes into a transfer machine and what comes out: five calls and a handful of outputs.

A driver's whole work is: `Machine.start` once; then each `Machine.next_output` until None, and wait for a datagram or
for `Machine.next_timer`, whichever comes first. All times are monotonic seconds.
"""

from dataclasses import dataclass
from typing import Protocol

from protocol.coap.message import Message
from protocol.errors import OtaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Put this datagram on the link. ``resent`` marks a request that was sent before in the same words."""

    datagram: bytes
    resent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The first answer tells what is fetched: ``etag`` (empty where there is none), ``size`` in bytes if known."""

    etag: bytes
    size: int | None
    szx: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReceived:
    """New bytes at ``offset``; each byte of a representation is handed out once."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """Another representation stands behind the URI now (another ETag): whatever was received is void."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """All bytes were handed out; ``size`` is their number."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The response to a single request."""

    response: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The machine has given up; nothing follows."""

    error: OtaError


Output = Send | Described | BlockReceived | Restarted | Completed | Answered | Failed
FINAL = (Completed, Answered, Failed)
"""Outputs after which a machine is done."""


class Machine(Protocol):
    """The engine contract."""

    def start(self, now: float) -> None:
        """Begin; called once."""

    def receive(self, datagram: bytes, now: float) -> None:
        """Take a datagram from the peer. Whatever it holds, this raises nothing."""

    def handle_timer(self, now: float) -> None:
        """Do what is due at ``now``."""

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called next, or None."""

    def next_output(self) -> Output | None:
        """The next thing for the driver to do, or None when there is nothing more for now."""
