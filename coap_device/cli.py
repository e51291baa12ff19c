"""The command line of the device: ``run`` one, ``inspect`` its flash, see the whole thing in the ``demo``."""

import asyncio
import json
import logging
import random
import secrets
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from coap_device.agent import Agent, RunResult
from coap_device.config import CutPlan, DeviceConfig, parse_cuts, parse_server
from coap_device.factory import open_flash
from coap_device.firmware import SelfTest
from coap_device.hardware.layout import Geometry
from coap_device.inspection import FlashReport, inspect_flash
from coap_device.progress import Narrator
from protocol.aio.endpoint import Endpoint, open_udp
from protocol.aio.relay import Relay
from protocol.errors import OtaError
from protocol.link.netem import LinkSpec
from protocol.messages import Outcome, check_name
from protocol.suit.identifiers import DEFAULT_VENDOR_DOMAIN
from protocol.trace import Event

app = typer.Typer(
    help="An emulated device that updates its firmware over CoAP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_GOOD: Final = (None, Outcome.CONFIRMED)


def main() -> None:
    """Run the command line; every expected error is one line on stderr and exit status 1."""
    try:
        app()
    except OtaError as error:
        print(f"ota-device: error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


@app.command()
def run(
    server: Annotated[str, typer.Option(help="The update server, coap://HOST[:PORT].")],
    state: Annotated[Path, typer.Option(help="Folder of the flash file; made on first use.")],
    model: Annotated[str, typer.Option(help="Model name, as published.")],
    image: Annotated[Path | None, typer.Option(help="Factory image (raw binary) of a new device.")] = None,
    trust: Annotated[list[Path] | None, typer.Option(help="Public key (COSE_Key or PEM) a new device trusts.")] = None,
    device_id: Annotated[str, typer.Option("--id", help="Device name; default: the name of the state folder.")] = "",
    vendor: Annotated[str, typer.Option(help="Vendor domain the identifiers are made from.")] = DEFAULT_VENDOR_DOMAIN,
    link: Annotated[str, typer.Option(help='Both directions, in netem\'s words: "delay 50ms loss 10%".')] = "",
    seed: Annotated[int | None, typer.Option(help="To replay a run: of the link, tokens and time-outs.")] = None,
    power_cut_at: Annotated[
        str, typer.Option(help="Comma-separated: flash operation N, 40% of the download, trailer.")
    ] = "",
    self_test: Annotated[SelfTest, typer.Option(help="How a new image's self test ends.")] = SelfTest.PASS,
    slot_size: Annotated[int, typer.Option(help="Bytes of a slot of a new device.")] = Geometry().slot_size,
    block_size: Annotated[int, typer.Option(help="Bytes of a block to ask for, 16 to 1024.")] = 1024,
    once: Annotated[
        bool, typer.Option("--once", help="Stop after one check-in and the update that came of it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines, the result last.")] = False,
) -> None:
    """Run one device until it is interrupted, or --once.

    Exit status 0: updated, or nothing to do. 1: refused, reverted, failed, or an error.

    Example: ota-device run --server coap://[::1] --state dev1 --model board-a --image old.bin --trust keys/esp256.pub
    """
    spec = LinkSpec.parse(link) if link else None
    config = DeviceConfig(
        server=parse_server(server),
        state=state,
        device_id=check_name(device_id or state.resolve().name, "--id"),
        model=check_name(model, "--model"),
        vendor_domain=vendor,
        image=image,
        trust=tuple(trust or ()),
        geometry=Geometry(slot_size=slot_size),
        link_up=spec,
        link_down=spec,
        self_test=self_test,
        cuts=parse_cuts(power_cut_at) if power_cut_at else CutPlan(),
        once=once,
        block_szx=_szx(block_size),
    )
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    chosen = secrets.randbits(32) if seed is None else seed
    narrator = Narrator(Console(stderr=not as_json), config.device_id)
    emit: Callable[[Event], None] = _print_json if as_json else narrator.tell
    try:
        result, extra = asyncio.run(_run(config, chosen, emit))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        narrator.close()
    if as_json:
        print(json.dumps({"event": "result", **_result(result), **extra}), flush=True)
    else:
        narrator.end(result)
    raise SystemExit(0 if result.outcome in _GOOD else 1)


@app.command()
def inspect(
    state: Annotated[Path, typer.Option(help="Folder of the flash file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what a device's flash holds: slots, trailers, and whether the bootloader would boot them.

    Example: ota-device inspect --state dev1
    """
    report = inspect_flash(state)
    if as_json:
        print(json.dumps(asdict(report)))
        return
    Console().print(_table(report))


@app.command()
def demo(
    firmware: Annotated[Path, typer.Option(help="Folder with corpus.json: three versions of one firmware.")],
    keep: Annotated[Path | None, typer.Option(help="Work here and keep it; default: a temporary folder.")] = None,
    loss: Annotated[str, typer.Option(help="Loss of the link in each direction.")] = "20%",
    seed: Annotated[int, typer.Option(help="Of the links.")] = 1,
    svg: Annotated[Path | None, typer.Option(help="Also write the final table as a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The final table as one JSON object.")] = False,
) -> None:
    """Update five devices over a lossy link: plain, unplugged, old, one that reverts, one that refuses.

    Example: ota-device demo --firmware build/firmware
    """
    from coap_device.demo import run_demo  # starts processes; not needed by the other commands

    raise SystemExit(run_demo(firmware, keep, loss=loss, seed=seed, as_json=as_json, picture=svg))


async def _run(config: DeviceConfig, seed: int, emit: Callable[[Event], None]) -> tuple[RunResult, dict[str, object]]:
    backing = open_flash(config)
    relay: Relay | None = None
    host, port = config.server.host, config.server.port
    try:
        if config.link_up is not None and config.link_down is not None:
            relay = Relay((host, port), config.link_up, config.link_down, seed)
            host, port = await relay.start()

        async def connect() -> Endpoint:
            return await open_udp(host, port)

        agent = Agent(config, backing, connect, random.Random(seed), emit=emit)
        result = await agent.run()
        meter = agent.meter
        extra: dict[str, object] = {
            "seed": seed,
            "bytes_up": meter.bytes_up,
            "bytes_down": meter.bytes_down,
            "blocks": meter.blocks,
            "blocks_resent": meter.blocks_resent,
            "blocks_received_twice": meter.received_twice,
            "power_cuts": [{"operation": cut.operation, "what": cut.what} for cut in agent.power.cuts],
            "via": meter.via.name.lower() if meter.via else None,
        }
        if relay is not None:
            stats = relay.stats()
            extra["link"] = {
                name: {"sent": side.sent, "lost": side.lost, "bytes": side.bytes_sent}
                for name, side in (("up", stats.up), ("down", stats.down))
            }
        return result, extra
    finally:
        if relay is not None:
            await relay.close()
        backing.close()


def _szx(block_size: int) -> int:
    sizes = {1 << (szx + 4): szx for szx in range(7)}
    if block_size not in sizes:
        raise typer.BadParameter(f"{block_size} is none of {sorted(sizes)}", param_hint="--block-size")
    return sizes[block_size]


def _print_json(event: Event) -> None:
    print(event.to_json(), flush=True)


def _result(result: RunResult) -> dict[str, object]:
    return {
        "outcome": result.outcome.name.lower() if result.outcome else "up-to-date",
        "detail": result.detail,
        "slot": "AB"[result.slot],
        "image": result.image_digest.hex(),
        "image_size": result.image_size,
        "sequence_number": result.sequence_number,
    }


def _table(report: FlashReport) -> Table:
    table = Table(title=f"{report.device_id} ({report.model}), sequence floor {report.floor}")
    for heading in ("slot", "state", "boots", "image", "bytes", "sequence", "why not"):
        table.add_column(heading)
    for slot in report.slots:
        table.add_row(
            slot.slot,
            slot.state,
            "yes, next" if slot.slot == report.boots else "yes" if slot.bootable else "no",
            (slot.image or "")[:16],
            str(slot.size or ""),
            str(slot.sequence_number if slot.sequence_number is not None else ""),
            slot.why,
        )
    return table
