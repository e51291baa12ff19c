"""Check-in: what the server tells a device that says what it runs.

In this order, the first that applies:

1. a device in a trial boot is left alone;
2. an operator assigned a release to the device: that one, or nothing if the device runs it or is done with it;
3. the newest release promoted to everyone: nothing if the device runs it, is done with it, or runs a newer one.

A device is *done* with a manifest once it reported that it reverted or refused it, or failed for a reason that will
not pass. Failed operations may pass (a link that was down for a day): those are offered again, `MAX_ATTEMPTS` times.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from coap_server.errors import ConflictError, InputError, NotFoundError
from coap_server.store.base import Device, Model, Release, Report, Store
from coap_server.text import printable
from protocol.coap.numbers import DEVICES_PATH
from protocol.errors import REASON_OPERATION_FAILED, DecodeError
from protocol.messages import Assignment, Checkin, Outcome, check_name

MAX_ATTEMPTS: Final = 3
MAX_NUMBER: Final = 2**63 - 1
"""Greatest integer that the database keeps."""


class Assigner:
    """Answers check-ins, and takes the operator's wishes."""

    def __init__(self, store: Store, *, poll_s: int, now: Callable[[], datetime]) -> None:
        """Answer from ``store``; devices shall ask again after ``poll_s`` seconds."""
        self._store = store
        self._poll_s = poll_s
        self._now = now

    async def check_in(self, checkin: Checkin) -> Assignment:
        """Return what the device shall do, and store what it said.

        Raises:
            NotFoundError: nothing was ever published for its model.
            InputError: a sequence number beyond what can be kept.
        """
        if checkin.sequence_number > MAX_NUMBER:
            raise InputError(f"sequence number {checkin.sequence_number} is above {MAX_NUMBER}")
        model = await find_model(self._store, checkin.model)
        device = await self._store.check_in(checkin, model.id, self._now())
        if device.trial:
            return Assignment(poll_s=self._poll_s)
        assigned = await self._assigned(device)
        newest = await self._store.newest_promoted(model.id)
        offer = choose(device, assigned, newest, await self._store.reports(device.id))
        offered = offer.id if offer is not None else None
        if offered != device.offered_release_id:
            await self._store.offer(device.id, offered)
        if offer is None:
            return Assignment(poll_s=self._poll_s)
        return Assignment(
            manifest_uri=f"/{DEVICES_PATH}/{device.id}/m",
            manifest_digest=offer.manifest_digest,
            size=offer.envelope_size,
            poll_s=self._poll_s,
        )

    async def _assigned(self, device: Device) -> Release | None:
        return None if device.assigned_release_id is None else await self._store.release(device.assigned_release_id)


def choose(
    device: Device, assigned: Release | None, newest: Release | None, reports: Sequence[Report]
) -> Release | None:
    """Return the release to offer, None for none; the rules of this module, without a database."""
    offer = assigned if assigned is not None else newest
    if offer is None or device.image_digest in offer.images or is_done(offer.manifest_digest, reports):
        return None
    # An operator may assign an older release; the device will refuse it as a rollback, and report that.
    if assigned is None and offer.sequence_number < (device.sequence_number or 0):
        return None
    return offer


def is_done(manifest_digest: bytes, reports: Sequence[Report]) -> bool:
    """Return whether a device's reports say that it will never install the manifest."""
    return any(report.manifest_digest == manifest_digest and _is_definite(report) for report in reports)


def _is_definite(report: Report) -> bool:
    if report.outcome == Outcome.FAILED:
        return report.reason != REASON_OPERATION_FAILED or report.attempts >= MAX_ATTEMPTS
    return report.outcome in (Outcome.REVERTED, Outcome.REFUSED)


async def find_model(store: Store, name: str) -> Model:
    """Return the model of that name.

    Raises:
        NotFoundError: there is none; the message names it and those there are.
    """
    model = await store.find_model(name)
    if model is None:
        raise NotFoundError(f"model {printable(name, 64)} is not known here; publish an image for it first")
    return model


async def find_release(store: Store, model: Model, version: str) -> Release:
    """Return the release of that version.

    Raises:
        NotFoundError: there is none.
    """
    releases = await store.releases(model.id)
    for release in releases:
        if release.version == version:
            return release
    known = ", ".join(release.version for release in releases)
    raise NotFoundError(f"model {model.name} has no version {printable(version, 64)}; it has {known or 'none'}")


async def promote(store: Store, model_name: str, version: str) -> Release:
    """Promote a release to everyone and return it.

    Raises:
        NotFoundError: there is no such model or version.
    """
    release = await find_release(store, await find_model(store, model_name), version)
    await store.promote(release.id)
    return release


async def assign(store: Store, device_id: str, version: str | None, model_name: str | None = None) -> Release | None:
    """Give a device its own release, or take that back with ``version`` None; return the release.

    ``model_name`` is needed only for a device that has not checked in yet.

    Raises:
        InputError: the device's name is none.
        NotFoundError: there is no such device, model or version.
        ConflictError: the device is of another model.
    """
    try:
        check_name(device_id, "device")
    except DecodeError as error:
        raise InputError(str(error)) from error
    device = await store.device(device_id)
    if device is None and model_name is None:
        raise NotFoundError(f"device {device_id} never checked in; name its model with --model to assign beforehand")
    models = {model.id: model for model in await store.models()}
    model = models[device.model_id] if device is not None else await find_model(store, model_name or "")
    if model_name is not None and model.name != model_name:
        raise ConflictError(f"device {device_id} is of model {model.name}, not {model_name}")
    release = None if version is None else await find_release(store, model, version)
    await store.assign(device_id, model.id, None if release is None else release.id)
    return release
