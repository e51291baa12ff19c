"""The ``ota-server`` command: publish, serve, decide who gets what, see what became of it.

Exit codes: 0 fine, 1 refused or failed (one line on stderr says what, where and what to do), 2 wrong usage.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from coap_server import terminal
from coap_server.app import Server, Storage
from coap_server.cli_files import AsJson, Passphrase, keys_app, manifest_app, passphrase_from
from coap_server.config import DEFAULT_POLL_S, MAX_POLL_S, Settings, parse_endpoint
from coap_server.errors import InputError, ServerError
from coap_server.listings import device_json, device_row, published_json, release_json, show_published
from coap_server.services import assign as assignments
from coap_server.services.fleet import DeviceView, ReleaseView, list_devices, list_releases
from coap_server.services.publish import (
    DEFAULT_COMPONENT,
    MAX_PRECURSORS,
    Draft,
    PublishRequest,
    PublishResult,
    prepare,
    publish,
)
from coap_server.store.base import Profile
from protocol.errors import OtaError

T = TypeVar("T")
logger = logging.getLogger(__name__)

app = typer.Typer(
    name="ota-server",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Publish firmware and serve it over CoAP.",
)
app.add_typer(keys_app, name="keys")
app.add_typer(manifest_app, name="manifest")

Data = Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder with the database and the artifacts.")]
Model = Annotated[str, typer.Option("--model", metavar="M", help="The kind of device.")]
Version = Annotated[str, typer.Option("--version", metavar="V", help="What people call the release.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    terminal.tolerate_encodings()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="ota-server")
    except OtaError as error:
        terminal.show_error(error)
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


@app.command("publish")
def publish_command(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Firmware: raw binary or Intel HEX.")],
    data: Data,
    model: Model,
    version: Version,
    key: Annotated[Path, typer.Option("--key", metavar="PEM", help="Private key that signs the manifest.")],
    passphrase_file: Passphrase = None,
    image_b: Annotated[
        Path | None, typer.Option("--image-b", metavar="FILE", help="The same firmware linked for slot B.")
    ] = None,
    profile: Annotated[Profile, typer.Option("--profile", help="The manifest's dialect.")] = Profile.SUIT,
    vendor_domain: Annotated[
        str | None, typer.Option("--vendor-domain", metavar="NAME", help="Names the vendor of a new model.")
    ] = None,
    sequence: Annotated[
        int | None, typer.Option("--sequence", metavar="N", help="Rollback counter; default: the highest + 1.")
    ] = None,
    slot_size: Annotated[
        int, typer.Option("--slot-size", metavar="BYTES", min=0, help="Refuse a larger image; 0: no limit.")
    ] = 0,
    bases: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="VERSION", help="Make a delta from this version; repeatable."),
    ] = None,
    max_precursors: Annotated[
        int, typer.Option("--max-precursors", metavar="N", min=0, help="Deltas from the newest N versions.")
    ] = MAX_PRECURSORS,
    no_delta: Annotated[
        bool, typer.Option("--no-delta", help="Full image only, for processors that refuse custom commands.")
    ] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Not for everyone yet; see promote and assign.")] = False,
    description: Annotated[str | None, typer.Option("--description", metavar="TEXT", help="For people.")] = None,
    uri_base: Annotated[
        str | None, typer.Option("--uri-base", metavar="coap://HOST", help="Where RIOT finds this server.")
    ] = None,
    component: Annotated[
        str, typer.Option("--component", metavar="NAME", help="RIOT's component: a file name, or ram:0.")
    ] = DEFAULT_COMPONENT,
    as_json: AsJson = False,
) -> None:
    """Store a firmware image, make deltas from earlier versions, sign one manifest for all of them.

    Example: ota-server publish fw-2.bin --data data --model plug --version 2.0 --key keys/esp256.pem

    For RIOT: ota-server publish fw.bin --data data --model native64 --version 2 --key keys/ed25519.pem
    --profile riot-09 --uri-base coap://[fd00::1]
    """
    draft = prepare(
        PublishRequest(
            image=image,
            model=model,
            version=version,
            key=key,
            passphrase=passphrase_from(passphrase_file),
            image_b=image_b,
            profile=profile,
            vendor_domain=vendor_domain,
            sequence_number=sequence,
            slot_size=slot_size,
            bases=tuple(bases or ()),
            max_precursors=max_precursors,
            with_deltas=not no_delta,
            promote=not hold,
            description=description,
            uri_base=uri_base,
            component=component,
        )
    )
    result = _run(_publish(draft, data))
    if as_json:
        terminal.show_json(published_json(result))
    else:
        show_published(result)


@app.command("serve")
def serve_command(
    data: Data,
    coap: Annotated[str, typer.Option("--coap", metavar="HOST:PORT", help="Where to listen.")] = "[::]:5683",
    poll: Annotated[
        int, typer.Option("--poll", metavar="SECONDS", min=1, max=MAX_POLL_S, help="How often devices shall check in.")
    ] = DEFAULT_POLL_S,
    as_json: AsJson = False,
) -> None:
    """Serve manifests and payloads over CoAP until SIGTERM or SIGINT.

    Once the port is bound, one line is printed: "ready coap://HOST:PORT", with --json {"event":"ready","coap":"..."}.

    Example: ota-server serve --data data --coap 127.0.0.1:5683
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("coap_server").setLevel(logging.INFO)
    _run(_serve(Settings(data=data, coap=parse_endpoint(coap), poll_s=poll), as_json))


@app.command("promote")
def promote_command(data: Data, model: Model, version: Version, as_json: AsJson = False) -> None:
    """Give a release that was published with --hold to everyone.

    Example: ota-server promote --data data --model plug --version 2.0
    """

    async def work() -> ReleaseView:
        async with _storage(data) as storage:
            return ReleaseView(model=model, release=await assignments.promote(storage.database, model, version))

    view = _run(work())
    if as_json:
        terminal.show_json(release_json(view))
    else:
        terminal.show_line(f"{model} {version} is for everyone now")


@app.command("assign")
def assign_command(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's name.")],
    data: Data,
    version: Annotated[str | None, typer.Option("--version", metavar="V", help="The release it shall have.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="Only for a device that has not checked in yet.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Treat the device like every other again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give one device a release of its own; it goes before what is promoted to everyone.

    Example: ota-server assign plug-0042 --data data --version 2.1-test
    """
    if (version is None) is not clear:
        raise InputError("assign: give either --version V or --clear")

    async def work() -> None:
        async with _storage(data) as storage:
            await assignments.assign(storage.database, device, version, model)

    _run(work())
    if as_json:
        terminal.show_json({"device": device, "assigned_version": version})
    else:
        terminal.show_line(f"{device} gets {version if version is not None else 'what everyone gets'}")


@app.command("releases")
def releases_command(
    data: Data,
    model: Annotated[str | None, typer.Option("--model", metavar="M", help="Only of this model.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the published releases, newest first.

    Example: ota-server releases --data data --model plug
    """

    async def work() -> Sequence[ReleaseView]:
        async with _storage(data) as storage:
            return await list_releases(storage.database, model)

    views = _run(work())
    if as_json:
        terminal.show_json([release_json(view) for view in views])
        return
    rows = [
        (
            view.model,
            view.release.version,
            str(view.release.sequence_number),
            view.release.profile,
            terminal.sized(view.release.image_size),
            "everyone" if view.release.promoted else "on hold",
            view.release.image_digest.hex()[:16],
        )
        for view in views
    ]
    columns = ("model", "version", "sequence", "profile", "bytes", "for", "image")
    terminal.show_table(columns, rows, "nothing published yet")


@app.command("devices")
def devices_command(data: Data, as_json: AsJson = False) -> None:
    """List the devices: what they run, when they were last seen, how their last update ended.

    Example: ota-server devices --data data --json
    """

    async def work() -> Sequence[DeviceView]:
        async with _storage(data) as storage:
            return await list_devices(storage.database)

    views = _run(work())
    if as_json:
        terminal.show_json([device_json(view) for view in views])
        return
    columns = ("device", "model", "version", "slot", "sequence", "last seen", "assigned", "last report")
    terminal.show_table(columns, [device_row(view) for view in views], "no device has checked in yet")


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@contextlib.asynccontextmanager
async def _storage(data: Path, *, create: bool = False) -> AsyncIterator[Storage]:
    storage = await Storage.open(data, create=create)
    try:
        yield storage
    except BaseException:
        await storage.abandon()
        raise
    await storage.close()


async def _publish(draft: Draft, data: Path) -> PublishResult:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    async with _storage(data, create=True) as storage:
        with shown:
            tasks = {}

            def progress(step: str, done: int, total: int) -> None:
                if step not in tasks:
                    tasks[step] = shown.add_task(step, total=total)
                shown.update(tasks[step], completed=done, total=total)

            work = publish(draft, storage.database, storage.blobs, progress=progress)
            return await _until_signalled(work, "publish was stopped by a signal and left nothing; run it again")


async def _until_signalled(work: Coroutine[Any, Any, T], words: str) -> T:
    """Return what ``work`` does; SIGTERM and SIGINT cancel it, so that it undoes what it began.

    Raises:
        ServerError: a signal came; it says ``words``.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError as error:
        raise ServerError(words) from error
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _serve(settings: Settings, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await Server.start(settings)
    try:
        if server.made_folder is not None:
            logger.info("--data %s was not there and is new; nothing is published in it yet", server.made_folder)
        if as_json:
            terminal.show_json({"event": "ready", "coap": server.uri})
        else:
            terminal.show_line(f"ready {server.uri}")
        await stop.wait()
    finally:
        await server.stop()
