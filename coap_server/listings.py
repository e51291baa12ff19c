"""Releases, devices and reports as commands print them: the stable JSON that programs read, and lines for people."""

from dataclasses import fields
from typing import Final

from coap_server import terminal
from coap_server.services.fleet import DeviceView, ReleaseView
from coap_server.services.publish import PublishResult
from coap_server.store.base import Report
from coap_server.text import printable
from protocol.coap.numbers import MODELS_PATH, payload_uri
from protocol.messages import Outcome, Via

SLOT_NAMES: Final = "AB"


def show_published(result: PublishResult) -> None:
    """Print what was published, for people."""
    release = result.release
    for image in result.images:
        for area in image.left_out:
            terminal.show_note(f"{image.path}: {area.size} bytes at 0x{area.address:08x} are another memory, left out")
    terminal.show_line(
        f"{result.model} {release.version}: sequence number {release.sequence_number}, "
        f"image {terminal.sized(release.image_size)} bytes, manifest {terminal.sized(release.envelope_size)} bytes, "
        f"{'for everyone' if release.promoted else 'on hold'}"
    )
    for made in result.deltas:
        share = 100 * made.delta.size / release.image_size
        slot = f" for slot {_slot_name(made.slot)}" if made.slot is not None else ""
        note = "" if made.used else ", not used: larger than the image"
        terminal.show_line(
            f"  delta from {made.base.version}{slot}: {terminal.sized(made.delta.size)} bytes ({share:.1f} %){note}"
        )


def published_json(result: PublishResult) -> terminal.Json:
    """Return what was published: the release, its deltas, and what was left out of a HEX file."""
    listed = release_json(ReleaseView(model=result.model, release=result.release))
    deltas: list[terminal.Json] = [
        {
            "from_version": made.base.version,
            "from_image": made.delta.from_image_digest.hex(),
            "slot": _slot_name(made.slot),
            "digest": made.delta.digest.hex(),
            "size": made.delta.size,
            "uri": payload_uri(made.delta.digest),
            "used": made.used,
        }
        for made in result.deltas
    ]
    left_out: list[terminal.Json] = [
        {"file": str(image.path), "address": area.address, "size": area.size}
        for image in result.images
        for area in image.left_out
    ]
    return {**listed, "deltas": deltas, "left_out": left_out}


def release_json(view: ReleaseView) -> dict[str, terminal.Json]:
    """Return a release; ``images`` are SHA-256 digests, slot A first."""
    release = view.release
    return {
        "model": view.model,
        "version": release.version,
        "sequence_number": release.sequence_number,
        "profile": release.profile.value,
        "promoted": release.promoted,
        "images": [digest.hex() for digest in release.images],
        "image_uris": [payload_uri(digest) for digest in release.images],
        "image_size": release.image_size,
        "envelope_digest": release.envelope_digest.hex(),
        "manifest_digest": release.manifest_digest.hex(),
        "envelope_size": release.envelope_size,
        "manifest_uri": f"/{MODELS_PATH}/{view.model}",
        "created_at": terminal.timed(release.created_at),
    }


def device_json(view: DeviceView) -> terminal.Json:
    """Return a device with its reports, newest first."""
    device = view.device
    reports = [_report_json(report) for report in view.reports]
    return {
        "device": device.id,
        "model": view.model,
        "version": view.version,
        "image": terminal.hexed(device.image_digest),
        "sequence_number": device.sequence_number,
        "slot": _slot_name(device.slot),
        "trial": device.trial,
        "last_seen_at": terminal.timed(device.last_seen_at),
        "assigned_version": view.assigned_version,
        "offered_version": view.offered_version,
        "last_report": reports[0] if reports else None,
        "reports": reports,
    }


def _slot_name(slot: int | None) -> str | None:
    return None if slot is None else SLOT_NAMES[slot]


def _report_json(report: Report) -> terminal.Json:
    left_out = ("device_id", "image_digest", "release_id")
    values = {field.name: getattr(report, field.name) for field in fields(report) if field.name not in left_out}
    return {
        **values,
        "image": report.image_digest.hex(),
        "slot": _slot_name(report.slot),
        "outcome": terminal.named(Outcome(report.outcome)),
        "via": terminal.named(Via(report.via)) if report.via is not None else None,
        "manifest_digest": report.manifest_digest.hex(),
        "received_at": terminal.timed(report.received_at),
    }


def device_row(view: DeviceView) -> tuple[str, ...]:
    """Return a device as a line of the table."""
    device = view.device
    last = view.reports[0] if view.reports else None
    words = "-"
    if last is not None:
        words = Outcome(last.outcome).name.lower() + (f" ({printable(last.detail)})" if last.detail else "")
    unknown = device.image_digest.hex()[:16] if device.image_digest is not None else "-"
    return (
        device.id,
        view.model,
        view.version or unknown,
        _slot_name(device.slot) or "-",
        "-" if device.sequence_number is None else str(device.sequence_number),
        terminal.timed(device.last_seen_at) or "never",
        view.assigned_version or "-",
        words,
    )
