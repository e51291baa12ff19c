"""What can be fetched: manifests of models and devices, payloads, and the list of them all."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coap_server.errors import NotFoundError, StoreError
from coap_server.services.assign import find_model
from coap_server.store.base import Artifact, Kind, Release, Store
from coap_server.store.blobs import BlobStore
from protocol.coap.numbers import PAYLOAD_NAME_DIGITS

_REMEMBERED: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """The manifest that everyone of a model shall have, None before the first promoted release."""

    model: str
    release: Release | None


class Catalog:
    """Answers what a path stands for."""

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        """Look things up in ``store``, read bytes from ``blobs``."""
        self._store = store
        self._blobs = blobs
        # A name stands for the same bytes for ever, so that what was looked up once stays right.
        self._payloads: OrderedDict[str, Artifact] = OrderedDict()

    async def model_manifest(self, model_name: str) -> Artifact:
        """Return the envelope of the newest release promoted to everyone.

        Raises:
            NotFoundError: no such model, or nothing promoted yet.
        """
        model = await find_model(self._store, model_name)
        release = await self._store.newest_promoted(model.id)
        if release is None:
            raise NotFoundError(f"no release of model {model_name} is promoted to everyone yet")
        return _envelope(release)

    async def device_manifest(self, device_id: str) -> Artifact:
        """Return the envelope that the device's last check-in offered.

        Raises:
            NotFoundError: no such device, or nothing offered.
        """
        device = await self._store.device(device_id)
        if device is None or device.offered_release_id is None:
            raise NotFoundError(f"nothing is assigned to device {device_id}; check in first")
        release = await self._store.release(device.offered_release_id)
        if release is None:
            raise StoreError(f"release {device.offered_release_id}, offered to device {device_id}, is gone")
        return _envelope(release)

    async def payload(self, name: str) -> Artifact:
        """Return the payload called by the first 16 hex digits of its digest.

        Raises:
            NotFoundError: there is none.
        """
        if name in self._payloads:
            return self._payloads[name]
        artifact = None
        if len(name) == PAYLOAD_NAME_DIGITS and set(name) <= set("0123456789abcdef"):
            artifact = await self._store.artifact_by_prefix(bytes.fromhex(name))
        if artifact is None:
            raise NotFoundError(f"there is no payload {name[:64]!r}")
        if self._blobs.size(artifact.digest) != artifact.size:
            raise StoreError(f"artifact {self._blobs.path(artifact.digest)} is damaged; publish its file again")
        self._payloads[name] = artifact
        if len(self._payloads) > _REMEMBERED:
            self._payloads.popitem(last=False)
        return artifact

    def read(self, artifact: Artifact, offset: int, size: int) -> bytes:
        """Return bytes of an artifact."""
        return self._blobs.read(artifact.digest, offset, size)

    async def manifests(self) -> Sequence[ModelManifest]:
        """Return what each model's manifest is now, by name."""
        return [
            ModelManifest(model=model.name, release=await self._store.newest_promoted(model.id))
            for model in await self._store.models()
        ]

    async def payloads(self) -> Sequence[Artifact]:
        """Return all payloads, by digest."""
        return [artifact for artifact in await self._store.artifacts() if artifact.kind is not Kind.ENVELOPE]


def _envelope(release: Release) -> Artifact:
    return Artifact(digest=release.envelope_digest, size=release.envelope_size, kind=Kind.ENVELOPE)
