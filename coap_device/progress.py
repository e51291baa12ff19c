"""What a person sees of a running device: a line a step, a bar for the download."""

from typing import Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from coap_device.agent import RunResult
from protocol.trace import Event

_WORDS: Final = {
    "booted": "booted slot {slot} ({state}), image {image}, sequence {sequence}",
    "checking-in": "asking {server}",
    "checked-in": "checked in, offered {offered}",
    "authentic": "manifest {sequence} is signed by a trusted {key} key",
    "installed": "installed into slot {slot} by {via}",
    "self-test": "self test: {verdict}",
    "power-cut": "POWER CUT at flash operation {operation}: {what}",
    "reset": "reset: {why}",
    "check-in-refused": "the server refuses the check-in: {why}",
    "report-refused": "the server refuses the report: {why}",
    "no-network": "no way to the server: {why}",
    "retrying": "no answer for {path}: {why}",
    "interrupted": "interrupted: {why}",
    "delta-withheld": "the delta failed for good ({why}), taking the full image",
    "refused": "refused: {why}",
    "failed": "failed: {why}",
    "reported": "reported: {outcome}",
    "up-to-date": "up to date",
}


class Narrator:
    """Prints events of one device to a console."""

    def __init__(self, console: Console, device_id: str) -> None:
        self._console = console
        self._name = device_id
        self._began_at: float | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def tell(self, event: Event) -> None:
        """Show one event."""
        if self._began_at is None:
            self._began_at = event.time_s
        if event.name == "block":
            self._bar(event)
            return
        self.close()
        words = _WORDS.get(event.name, event.name).format_map(dict(event.data))
        self._console.print(f"{event.time_s - self._began_at:7.1f} s  {words}", highlight=False, markup=False)

    def end(self, result: RunResult) -> None:
        """Show how it ended."""
        outcome = result.outcome.name.lower() if result.outcome else "up to date"
        self._console.print(
            f"{self._name}: {outcome}; runs slot {'AB'[result.slot]}, image {result.image_digest.hex()[:16]} "
            f"({result.image_size} bytes), sequence number {result.sequence_number}",
            highlight=False,
            markup=False,
        )

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None

    def _bar(self, event: Event) -> None:
        if self._progress is None or self._task is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(str(event.data["path"]), total=float(event.data["size"] or 0))
        self._progress.update(self._task, completed=float(event.data["held"] or 0))
