"""The seam between services and databases: frozen records, and the questions that services ask.

`Store` is what services see; `coap_server.store.database.Database` is the one for SQLite.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from protocol.messages import Checkin, StatusReport


class Profile(StrEnum):
    """The dialect of a release's manifest."""

    SUIT = "suit"
    RIOT = "riot-09"


class Kind(StrEnum):
    """What an artifact is. Images and deltas are payloads, served under ``/p/``."""

    IMAGE = "image"
    DELTA = "delta"
    ENVELOPE = "envelope"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A kind of device. ``class_id`` is what its manifests are for."""

    id: int
    name: str
    vendor_domain: str
    vendor_id: bytes
    class_id: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Bytes in the artifact folder, by their SHA-256; ``size`` in bytes."""

    digest: bytes
    size: int
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRelease:
    """A release about to be stored."""

    version: str
    sequence_number: int
    profile: Profile
    image_digest: bytes
    image_size: int
    image_b_digest: bytes | None
    envelope_digest: bytes
    envelope_size: int
    manifest_digest: bytes
    promoted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(NewRelease):
    """A published version of a model. ``image_b_digest`` is the image linked for slot 1, where there are two."""

    id: int
    model_id: int
    created_at: datetime

    @property
    def images(self) -> tuple[bytes, ...]:
        """The digests of the images that it installs, slot 0 first."""
        return (self.image_digest,) if self.image_b_digest is None else (self.image_digest, self.image_b_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A patch between two images; ``digest`` and ``size`` are those of the patch."""

    from_image_digest: bytes
    to_image_digest: bytes
    codec: str
    digest: bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What is known of a device. What it runs is None until it first checks in."""

    id: str
    model_id: int
    image_digest: bytes | None
    sequence_number: int | None
    slot: int | None
    trial: bool
    last_seen_at: datetime | None
    assigned_release_id: int | None
    offered_release_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The last report of its outcome that a device sent on a manifest, and how many different ones there were."""

    device_id: str
    manifest_digest: bytes
    release_id: int | None
    outcome: int
    reason: int
    detail: str
    image_digest: bytes
    sequence_number: int
    slot: int
    bytes_up: int
    bytes_down: int
    blocks: int
    blocks_resent: int
    via: int | None
    duration_s: int
    power_cuts: int
    attempts: int
    received_at: datetime


class Store(Protocol):
    """What services ask of a database. Each call is one transaction; every one may raise `StoreError`."""

    async def find_model(self, name: str) -> Model | None:
        """Return the model of that name."""

    async def models(self) -> Sequence[Model]:
        """Return all models by name."""

    async def add_release(
        self,
        model: str,
        vendor_domain: str,
        release: NewRelease,
        artifacts: Sequence[Artifact],
        deltas: Sequence[Delta],
    ) -> Release:
        """Store a release with all that belongs to it, or nothing; the model is made where it is new.

        Raises:
            ConflictError: version or sequence number are taken, or the model has another vendor.
        """

    async def releases(self, model_id: int | None = None) -> Sequence[Release]:
        """Return the releases of a model, or of all, newest first."""

    async def release(self, release_id: int) -> Release | None:
        """Return a release by its number."""

    async def newest_promoted(self, model_id: int) -> Release | None:
        """Return the release that everyone shall have: the highest sequence number among those promoted."""

    async def promote(self, release_id: int) -> None:
        """Promote a release to everyone."""

    async def find_delta(self, from_digest: bytes, to_digest: bytes, codec: str) -> Delta | None:
        """Return the delta between two images."""

    async def artifacts(self) -> Sequence[Artifact]:
        """Return all artifacts, by digest."""

    async def artifact_by_prefix(self, prefix: bytes) -> Artifact | None:
        """Return the payload whose digest begins with ``prefix``."""

    async def devices(self) -> Sequence[Device]:
        """Return all devices by name."""

    async def device(self, device_id: str) -> Device | None:
        """Return a device by name."""

    async def check_in(self, checkin: Checkin, model_id: int, now: datetime) -> Device:
        """Store what a device says of itself; a device that is new is made."""

    async def offer(self, device_id: str, release_id: int | None) -> None:
        """Store which release the device was last told to take."""

    async def assign(self, device_id: str, model_id: int, release_id: int | None) -> None:
        """Store the operator's wish for one device; the device may be one that never checked in."""

    async def add_report(self, report: StatusReport, now: datetime) -> Report:
        """Store a report and what it says of the device; the same report again changes nothing.

        Raises:
            NotFoundError: the device never checked in.
        """

    async def reports(self, device_id: str | None = None) -> Sequence[Report]:
        """Return the reports of one device, or of all, newest first."""
