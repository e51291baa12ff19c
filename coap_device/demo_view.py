"""What the demo shows: a bar for each device while it runs, the table and the checks when all have ended."""

import io
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

_STORY: Final = {
    "booted": "booted slot {slot} ({state})",
    "checked-in": "offered {offered}",
    "authentic": "manifest is authentic",
    "installed": "installed by {via}",
    "self-test": "self test: {verdict}",
    "power-cut": "POWER CUT: {what}",
    "reset": "reset: {why}",
    "retrying": "no answer, trying again",
    "delta-withheld": "delta failed, full image next",
    "refused": "REFUSED: {why}",
    "failed": "FAILED: {why}",
    "reported": "reported {outcome}",
}
_WIDTH: Final = 120
_COLOURS: Final = {"confirmed": "green", "reverted": "yellow", "refused": "cyan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the final table; sizes in bytes."""

    device: str
    begins_as: str
    runs: str
    slot: str
    bytes_on_air: int
    image_size: int
    via: str
    blocks_resent: int
    seconds: int
    outcome: str
    expected: str

    def to_json(self) -> dict[str, Any]:
        """Return the row for machines."""
        return {**asdict(self), "share": round(self.bytes_on_air / self.image_size, 4)}


def make_console(*, stderr: bool) -> Console:
    """Return a console; where there is no terminal that tells its width, wide enough for the table."""
    console = Console(stderr=stderr)
    if not console.is_terminal and console.width < _WIDTH:
        console = Console(stderr=stderr, width=_WIDTH)
    return console


class LiveView:
    """Bars on a terminal, lines elsewhere."""

    def __init__(self, console: Console, devices: list[tuple[str, str]]) -> None:
        self._console = console
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.fields[name]:<10}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {
            name: self._progress.add_task(role, total=1, name=name) for name, role in devices
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tell(self, device: str, event: dict[str, Any]) -> None:
        """Show an event of a device."""
        name = event["event"]
        if name == "block":
            self._progress.update(self._tasks[device], completed=event["held"], total=event["size"])
        elif name in _STORY:
            self._say(device, _STORY[name].format_map(event))

    def end(self, device: str, outcome: str, trouble: str) -> None:
        """Show how a device ended."""
        self._say(device, f"ended: {outcome}" + (f" ({trouble})" if trouble else ""))
        self._progress.stop_task(self._tasks[device])

    def _say(self, device: str, words: str) -> None:
        if self._live:
            self._progress.update(self._tasks[device], description=words)
        else:
            self._console.print(f"  {device:<10} {words}", highlight=False, markup=False, soft_wrap=True)


def print_rows(console: Console, rows: list[Row]) -> None:
    """Print the table."""
    table = Table(title="Five devices, from their flash files and the server's database")
    for heading in ("device", "from", "to", "slot", "via"):
        table.add_column(heading)
    for heading in ("bytes on air", "of full image", "resent", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("outcome")
    for row in rows:
        colour = _COLOURS.get(row.outcome, "red") if row.outcome == row.expected else "bold red"
        table.add_row(
            row.device,
            row.begins_as,
            row.runs,
            row.slot,
            row.via,
            f"{row.bytes_on_air:,}",
            f"{row.bytes_on_air / row.image_size:.1%}",
            str(row.blocks_resent),
            str(row.seconds),
            f"[{colour}]{row.outcome}[/]",
        )
    console.print()
    console.print(table)


def save_picture(rows: list[Row], checks: dict[str, bool], path: Path) -> None:
    """Write table and checks as an SVG picture that needs nothing from elsewhere."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO())
    print_rows(console, rows)
    print_checks(console, checks)
    # Rich's own template fetches a font from a network address; a picture in a document should not.
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    path.write_text(console.export_svg(title="ota-device demo", code_format=template))


def print_checks(console: Console, checks: dict[str, bool]) -> None:
    """Print what was checked."""
    for words, holds in checks.items():
        console.print(f"  {'[green]ok[/]  ' if holds else '[bold red]NOT[/]'} {words}", highlight=False)
