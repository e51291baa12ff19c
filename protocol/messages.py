"""The CBOR bodies of our own resources: check-in, assignment and status report (``docs/cddl/messages.cddl``).

A device posts a `Checkin` and gets an `Assignment`; when an update has come to its end it posts a `StatusReport`.
All three are maps with integer labels in deterministic CBOR, so that a check-in of a real device stays below one
64-byte block plus change and a C encoder needs no library.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final, TypeVar

from protocol import cbor, schema
from protocol.errors import DecodeError
from protocol.schema import Format, Range, Size, key

T = TypeVar("T", "Checkin", "Assignment", "StatusReport")

MAX_MESSAGE_SIZE: Final = 1_024
MAX_DETAIL: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(value: object, path: str) -> str:
    """Return ``value`` if it can name a device or a model: 1 to 64 of ``A-Z a-z 0-9 . _ -``, a letter or digit first.

    The rule keeps names usable as one Uri-Path segment, as a file name and in a log line.

    Raises:
        DecodeError: anything else.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise DecodeError(
            f"{value!r} is not a name: 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first", path=path
        )
    return value


Name = Annotated[str, Format(encode=lambda value: value, decode=check_name)]
Digest32 = Annotated[bytes, Size(32, 32)]
Uint32 = Annotated[int, Range(0, 2**32 - 1)]
Uint64 = Annotated[int, Range(0, 2**64 - 1)]
Slot = Annotated[int, Range(0, 1)]


class Outcome(IntEnum):
    """How an update ended on the device."""

    CONFIRMED = 1
    REVERTED = 2
    REFUSED = 3
    FAILED = 4


class Via(IntEnum):
    """Which payload brought the new image."""

    DELTA = 1
    IMAGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkin:
    """What a device says of itself: who it is, what it runs, which patch formats it can decode."""

    device_id: Name = key(1)
    model: Name = key(2)
    image_digest: Digest32 = key(3)
    sequence_number: Uint64 = key(4)
    slot: Slot = key(5)
    trial: bool = key(6)
    decoders: tuple[Annotated[str, Size(1, 32)], ...] = key(7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What the server wants of the device: a manifest to fetch, or nothing (all three None), and when to ask again.

    ``manifest_uri`` is a path on the same server. ``manifest_digest`` (SHA-256 of the manifest as a CBOR byte string)
    only tells the device whether it holds that manifest already: trust comes from the signature inside.
    """

    manifest_uri: Annotated[str, Size(1, 255)] | None = key(1, optional=True)
    manifest_digest: Digest32 | None = key(2, optional=True)
    size: Uint32 | None = key(3, optional=True)
    poll_s: Uint32 = key(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """How one update ended, and what it cost on the air.

    ``reason`` is the SUIT report reason (0 = ok), ``bytes_up`` and ``bytes_down`` count UDP payloads at the device's
    socket, ``blocks_resent`` counts block requests sent again.
    """

    device_id: Name = key(1)
    manifest_digest: Digest32 = key(2)
    outcome: Outcome = key(3)
    reason: Annotated[int, Range(0, 255)] = key(4)
    detail: Annotated[str, Size(0, MAX_DETAIL)] = key(5)
    image_digest: Digest32 = key(6)
    sequence_number: Uint64 = key(7)
    slot: Slot = key(8)
    bytes_up: Uint64 = key(9)
    bytes_down: Uint64 = key(10)
    blocks: Uint32 = key(11)
    blocks_resent: Uint32 = key(12)
    via: Via | None = key(13, optional=True)
    duration_s: Uint32 = key(14)
    power_cuts: Uint32 = key(15)


def encode(message: Checkin | Assignment | StatusReport) -> bytes:
    """Return the body of ``message``."""
    return schema.encode(message)


def decode(kind: type[T], data: bytes) -> T:
    """Return the message of ``kind`` that ``data`` is.

    Raises:
        DecodeError: anything else; the path names the field, e.g. ``checkin.device-id``.
    """
    limits = cbor.Limits(size=MAX_MESSAGE_SIZE, depth=4, count=64)
    message = schema.decode(kind, data, path=_PATHS[kind], limits=limits)
    if isinstance(message, Assignment):
        given = {message.manifest_uri is None, message.manifest_digest is None, message.size is None}
        if len(given) != 1:
            raise DecodeError("manifest-uri, manifest-digest and size go together", path=_PATHS[kind])
    return message


_PATHS: Final[dict[type, str]] = {Checkin: "checkin", Assignment: "assignment", StatusReport: "report"}
