"""A publisher that is told to stop, or is killed: it ends at once, with all its processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.server.conftest import Bench, Command, listing
from tests.unit.server.test_cli import ROOT, publish

pytestmark = pytest.mark.faults


def children(pid: int) -> list[int]:
    """Return the processes that make deltas for ``pid``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_publisher_takes_its_processes_with_it(command: Command, bench: Bench, number: signal.Signals) -> None:
    for version in (1, 2):
        bench.image(version).write_bytes(os.urandom(8_000_000))
    publish(command, bench, 1)
    before = listing(bench.data / "artifacts")
    options = ("--data", bench.data, "--model", "plug", "--version", "2.0", "--key", bench.key)
    with subprocess.Popen(
        [sys.executable, "-m", "coap_server", "publish", bench.image(2), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        deadline = time.monotonic() + 30
        while not (workers := children(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert workers
        time.sleep(1)  # it is at work by now: the patch takes several seconds
        process.send_signal(number)
        begin = time.monotonic()
        out, err = process.communicate(timeout=20)  # to the end of stderr, which the processes hold as well

    assert time.monotonic() - begin < 5
    if number is not signal.SIGKILL:
        assert (process.returncode, out) == (1, "")
        assert err == "ota-server: error: publish was stopped by a signal and left nothing; run it again\n"
        assert listing(bench.data / "artifacts") == before
