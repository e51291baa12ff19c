"""What the operator asks of the store: releases and devices, with names instead of digests and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from coap_server.services.assign import find_model
from coap_server.store.base import Device, Release, Report, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseView:
    """A release and its model's name."""

    model: str
    release: Release


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """A device: which version its image is (None: none of ours), what it shall have, and its last report."""

    device: Device
    model: str
    version: str | None
    assigned_version: str | None
    offered_version: str | None
    reports: tuple[Report, ...]


async def list_releases(store: Store, model_name: str | None = None) -> Sequence[ReleaseView]:
    """Return the releases of a model, or of all, by model, newest first.

    Raises:
        NotFoundError: there is no such model.
    """
    models = [await find_model(store, model_name)] if model_name is not None else await store.models()
    return [
        ReleaseView(model=model.name, release=release) for model in models for release in await store.releases(model.id)
    ]


async def list_devices(store: Store) -> Sequence[DeviceView]:
    """Return all devices by name."""
    models = {model.id: model.name for model in await store.models()}
    releases = await store.releases()
    versions = {release.id: release.version for release in releases}
    # Later ones win: an image published under several versions bears the newest name that is for everyone.
    by_fame = sorted(releases, key=lambda release: (release.promoted, release.sequence_number))
    running = {(release.model_id, image): release.version for release in by_fame for image in release.images}
    reports: dict[str, list[Report]] = {}
    for report in await store.reports():
        reports.setdefault(report.device_id, []).append(report)
    return [
        DeviceView(
            device=device,
            model=models[device.model_id],
            version=running.get((device.model_id, device.image_digest or b"")),
            assigned_version=versions.get(device.assigned_release_id or 0),
            offered_version=versions.get(device.offered_release_id or 0),
            reports=tuple(reports.get(device.id, ())),
        )
        for device in await store.devices()
    ]
