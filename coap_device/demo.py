"""The whole thing, as a user would run it: a server process, five device processes, a lossy link, real firmware.

The demo talks to both ends by their command lines only. At the end it reads the devices' flash files and asks the
server for its database, and says nothing is fine unless both agree and every outcome is the expected one.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from coap_device.demo_view import LiveView, Row, make_console, print_checks, print_rows, save_picture
from coap_device.errors import DeviceError
from coap_device.inspection import inspect_flash
from protocol.link.netem import LinkSpec

MODEL: Final = "demo-board"
STRANGER_VERSION: Final = "by-a-stranger"
DEVICE_TIMEOUT_S: Final = 240.0
COMMAND_TIMEOUT_S: Final = 120.0
SLOT_SIZE: Final = 262_144


class DemoError(DeviceError):
    """The demo cannot go on; the message says what failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One device of the demo: which version it runs at first, what is done to it, how it must end."""

    name: str
    role: str
    begins_as: str
    expected: str
    options: tuple[str, ...] = ()
    cuts: int = 0


CAST: Final = (
    Part(name="plain", role="nothing special", begins_as="old", expected="confirmed"),
    Part(
        name="unplugged",
        role="power cut twice in mid-download and once between the trailer copies",
        begins_as="old",
        expected="confirmed",
        options=("--power-cut-at", "30%,70%,trailer"),
        cuts=3,
    ),
    Part(name="oldtimer", role="runs an older version", begins_as="older", expected="confirmed"),
    Part(
        name="relapse",
        role="its new image fails the self test",
        begins_as="old",
        expected="reverted",
        options=("--self-test", "fail"),
    ),
    Part(name="wary", role="is offered a manifest signed by a stranger", begins_as="old", expected="refused"),
)


@dataclass(slots=True)
class Ended:
    """What one device process printed."""

    part: Part
    status: int = -1
    result: dict[str, Any] = field(default_factory=dict)
    stderr: str = ""


def run_demo(
    firmware: Path, keep: Path | None, *, loss: str, seed: int, as_json: bool, picture: Path | None = None
) -> int:
    """Run the demo and return the exit status: 0 only if everything ended as expected.

    Args:
        firmware: folder with ``corpus.json`` and the images it names.
        keep: work here and leave it; a temporary folder where None.
        loss: of the link in each direction, e.g. ``20%``.
        seed: of the links and devices.
        as_json: print one JSON object, no table.
        picture: write the final table there as SVG.
    """
    LinkSpec.parse(f"loss {loss}")
    corpus = _load_corpus(firmware)
    work = keep or Path(tempfile.mkdtemp(prefix="coap-ota-demo-"))
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        raise DemoError(f"--keep {work}: is not empty")
    try:
        return asyncio.run(_Demo(corpus, firmware, work, loss, seed, as_json, picture).run())
    finally:
        if keep is None:
            shutil.rmtree(work, ignore_errors=True)


def _load_corpus(firmware: Path) -> dict[str, Any]:
    path = firmware / "corpus.json"
    try:
        corpus: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DemoError(f"{path}: {error}; `python -m tools.corpus demo --into {firmware}` makes it") from error
    return corpus


class _Demo:
    def __init__(
        self,
        corpus: dict[str, Any],
        firmware: Path,
        work: Path,
        loss: str,
        seed: int,
        as_json: bool,
        picture: Path | None,
    ) -> None:
        self._picture = picture
        self._files = {item["role"]: item for item in corpus["files"]}
        self._synthetic = bool(corpus["synthetic"])
        self._firmware = firmware
        self._work = work
        self._data = work / "server"
        self._log = work / "server.log"
        self._link = f"delay 20ms 5ms loss {loss}"
        self._seed = seed
        self._as_json = as_json
        self._console = make_console(stderr=as_json)

    async def run(self) -> int:
        await self._publish()
        with self._log.open("wb") as log:
            server, address = await self._serve(log)
            try:
                ended = await self._run_devices(address)
            finally:
                server.send_signal(signal.SIGTERM)
                await asyncio.wait_for(server.wait(), COMMAND_TIMEOUT_S)
        devices = {item["device"]: item for item in json.loads(await self._server("devices", "--json"))}
        releases = json.loads(await self._server("releases", "--json"))
        rows = [self._row(item, devices.get(item.part.name, {}), releases) for item in ended]
        checks = self._checks(ended, rows, devices)
        if self._as_json:
            print(json.dumps({"rows": [row.to_json() for row in rows], "checks": checks}))
        else:
            print_rows(self._console, rows)
            print_checks(self._console, checks)
        if self._picture is not None:
            save_picture(rows, checks, self._picture)
        return 0 if all(checks.values()) else 1

    # Setting the scene

    async def _publish(self) -> None:
        origin = "SYNTHETIC images (no network)" if self._synthetic else "real firmware"
        names = ", ".join(self._version(role) for role in ("older", "old", "new"))
        self._console.print(f"Firmware: {origin}: {names}", highlight=False)
        await self._server("keys", "generate", str(self._work / "keys"), data=False)
        await self._server("keys", "generate", str(self._work / "stranger"), data=False)
        for role in ("older", "old", "new"):
            await self._publish_one(role, self._version(role), "keys")
        await self._publish_one("new", STRANGER_VERSION, "stranger", "--hold")
        await self._server("assign", "wary", "--model", MODEL, "--version", STRANGER_VERSION)

    async def _publish_one(self, role: str, version: str, keys: str, *options: str) -> None:
        image = str(self._firmware / self._files[role]["file"])
        key = str(self._work / keys / "esp256.pem")
        await self._server("publish", image, "--model", MODEL, "--version", version, "--key", key, *options)
        by = "a stranger" if keys == "stranger" else "us"
        self._console.print(f"Published {self._files[role]['file']} as {version}, signed by {by}", highlight=False)

    def _version(self, role: str) -> str:
        return str(self._files[role]["version"])

    async def _serve(self, log: BinaryIO) -> tuple[asyncio.subprocess.Process, str]:
        process = await asyncio.create_subprocess_exec(
            *_python("coap_server"),
            "serve",
            "--data",
            str(self._data),
            "--coap",
            "127.0.0.1:0",
            "--json",
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        if process.stdout is None:
            raise DemoError("the server has no output")
        line = await asyncio.wait_for(process.stdout.readline(), COMMAND_TIMEOUT_S)
        try:
            address = str(json.loads(line)["coap"])
        except (ValueError, KeyError) as error:
            raise DemoError(f"the server did not start: {self._log.read_text()}") from error
        self._console.print(f"Server process {process.pid} on {address}", highlight=False)
        return process, address

    async def _server(self, *words: str, data: bool = True) -> str:
        arguments = [*words, "--data", str(self._data)] if data else list(words)
        process = await asyncio.create_subprocess_exec(
            *_python("coap_server"), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
        if process.returncode:
            raise DemoError(f"ota-server {' '.join(words)}: {err.decode(errors='replace').strip()}")
        return out.decode()

    # The devices

    async def _run_devices(self, address: str) -> list[Ended]:
        self._console.print(f"Five devices, link: {self._link} in each direction\n", highlight=False)
        with LiveView(self._console, [(part.name, part.role) for part in CAST]) as view:
            tasks = [self._run_device(number, part, address, view) for number, part in enumerate(CAST)]
            return list(await asyncio.gather(*tasks))

    async def _run_device(self, number: int, part: Part, address: str, view: LiveView) -> Ended:
        process = await asyncio.create_subprocess_exec(
            *_python("coap_device"),
            "run",
            "--server",
            address,
            "--state",
            str(self._work / part.name),
            "--model",
            MODEL,
            "--image",
            str(self._firmware / self._files[part.begins_as]["binary"]),
            "--trust",
            str(self._work / "keys" / "esp256.pub"),
            "--slot-size",
            str(SLOT_SIZE),
            "--link",
            self._link,
            "--seed",
            str(self._seed * 100 + number),
            "--once",
            "--json",
            *part.options,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        ended = Ended(part)
        try:
            async with asyncio.timeout(DEVICE_TIMEOUT_S):
                await self._follow(process, ended, view)
                ended.status = await process.wait()
        except TimeoutError:
            process.kill()
            ended.stderr = f"not done after {DEVICE_TIMEOUT_S:.0f} s"
        view.end(part.name, ended.result.get("outcome", "died"), ended.stderr)
        return ended

    async def _follow(self, process: asyncio.subprocess.Process, ended: Ended, view: LiveView) -> None:
        if process.stdout is None or process.stderr is None:
            raise DemoError(f"{ended.part.name}: the device has no output")
        errors = asyncio.ensure_future(process.stderr.read())
        async for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "result":
                ended.result = event
            else:
                view.tell(ended.part.name, event)
        lines = (await errors).decode(errors="replace").strip().splitlines()
        ended.stderr = lines[-1] if lines else ""

    # What came of it

    def _row(self, ended: Ended, stored: dict[str, Any], releases: list[dict[str, Any]]) -> Row:
        flash = inspect_flash(self._work / ended.part.name)
        running = flash.running
        report = stored.get("last_report") or {}
        return Row(
            device=ended.part.name,
            begins_as=self._version(ended.part.begins_as),
            runs=_version_of(running.image if running else None, releases),
            slot=running.slot if running else "-",
            bytes_on_air=int(report.get("bytes_up", 0)) + int(report.get("bytes_down", 0)),
            image_size=int(self._files["new"]["size"]),
            via=report.get("via") or "-",
            blocks_resent=int(report.get("blocks_resent", 0)),
            seconds=int(report.get("duration_s", 0)),
            outcome=str(report.get("outcome", "none")),
            expected=ended.part.expected,
        )

    def _checks(self, ended: list[Ended], rows: list[Row], devices: dict[str, Any]) -> dict[str, bool]:
        outcomes = [row.outcome for row in rows]
        links = [item.result.get("link", {}) for item in ended]
        lost = sum(side["lost"] for link in links for side in link.values())
        sent = sum(side["sent"] for link in links for side in link.values())
        unplugged = next(item for item in ended if item.part.cuts)
        cuts = [cut["what"] for cut in unplugged.result.get("power_cuts", [])]
        return {
            "every outcome is the expected one": all(row.outcome == row.expected for row in rows),
            "every process ended with the status of its outcome": all(
                item.status == (0 if item.part.expected == "confirmed" else 1) for item in ended
            ),
            "the refusal was for the signature": any(
                "no trusted key" in str(item.result.get("detail", "")) for item in ended if item.part.name == "wary"
            ),
            "every device runs the version that its outcome implies": all(self._runs_right(row) for row in rows),
            "flash files and database agree on image, slot and sequence number": all(
                self._agrees(row.device, devices.get(row.device, {})) for row in rows
            ),
            f"datagrams were really lost ({lost} of {sent})": lost > 0,
            "blocks were sent again": any(row.blocks_resent for row in rows),
            f"the power was cut as planned ({', '.join(cuts) or 'never'})": len(cuts) == unplugged.part.cuts
            and cuts[-1] == "between-trailers"
            and all("of the download" in what for what in cuts[:-1]),
            "no block was received twice by more than one per cut": unplugged.result.get("blocks_received_twice", 99)
            <= len(cuts),
            "exactly one device reverted, exactly one refused": outcomes.count("reverted") == 1
            and outcomes.count("refused") == 1,
        }

    def _runs_right(self, row: Row) -> bool:
        return row.runs == (self._version("new") if row.outcome == "confirmed" else row.begins_as)

    def _agrees(self, name: str, stored: dict[str, Any]) -> bool:
        running = inspect_flash(self._work / name).running
        if running is None:
            return False
        report = stored.get("last_report") or {}
        seen = (report.get("image"), report.get("slot"), report.get("sequence_number"))
        return seen == (running.image, running.slot, running.sequence_number)


def _version_of(image: str | None, releases: list[dict[str, Any]]) -> str:
    found = [item["version"] for item in releases if image in item["images"] and item["version"] != STRANGER_VERSION]
    return str(found[0]) if found else "unknown"


def _python(package: str) -> tuple[str, ...]:
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    return (sys.executable, "-m", package)
