"""Real processes of both ends, as a user starts them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 110
MODEL = "board-a"


def environment() -> dict[str, str]:
    """Return the environment of a child: this tree's packages, nothing buffered."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def run(*command: str, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it printed."""
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)


def ota_server(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``ota-server`` with these words."""
    return run(sys.executable, "-m", "coap_server", *words)


def ota_device(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``ota-device`` with these words."""
    return run(sys.executable, "-m", "coap_device", *words)


def checked(result: subprocess.CompletedProcess[str]) -> str:
    """Return the output of a command that must have succeeded."""
    assert result.returncode == 0, f"{result.args}: {result.stderr}"
    return result.stdout


def last_json(output: str) -> dict[str, Any]:
    """Return the object on the last line of a ``--json`` output."""
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


@dataclass(frozen=True)
class Shop:
    """A folder with keys and a server's data."""

    folder: Path

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    @property
    def public_key(self) -> str:
        return str(self.folder / "keys" / "esp256.pub")

    def publish(self, image: Path, version: str, *options: str, key: str = "esp256.pem") -> str:
        """Publish an image."""
        words = ("--data", self.data, "--model", MODEL, "--version", version)
        return checked(ota_server("publish", str(image), *words, "--key", str(self.folder / "keys" / key), *options))


def open_shop(folder: Path) -> Shop:
    """Make keys under ``folder``."""
    checked(ota_server("keys", "generate", str(folder / "keys")))
    return Shop(folder)


@contextlib.contextmanager
def serving(shop: Shop, host: str = "127.0.0.1") -> Iterator[str]:
    """Run a server process; yields its URI. It is asked to stop at the end, and must do so cleanly."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coap_server", "serve", "--data", shop.data, "--coap", f"{host}:0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield str(ready["coap"])
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE_S)
        process.stdout.close()  # type: ignore[union-attr]  # it was asked for
    assert status == 0
