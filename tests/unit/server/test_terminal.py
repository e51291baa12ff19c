"""What commands print, whatever stands in it."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coap_server import terminal
from coap_server.services.reports import Reporter
from coap_server.store.database import Database
from tests.unit.server.test_cli import ROOT
from tests.unit.server.test_database import CHECKIN, NOW, REPORT, add

EVIL = "\x1b[2J\x9b31m\nforged \u202e"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "server.db")
    yield opened
    await opened.close()


@pytest.mark.parametrize("show", [terminal.show_line, terminal.show_note, terminal.show_error])
def test_lines_are_one_line_without_control_characters(show: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(show)
    show(EVIL)

    out, err = capsys.readouterr()
    assert (out + err).count("\n") == 1
    assert (out + err).strip().isprintable()


def test_json_is_the_same_value_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_json({"detail": EVIL + "\U0001f600\U000e0001"})

    out = capsys.readouterr().out
    assert out.strip().isprintable()
    assert json.loads(out) == {"detail": EVIL + "\U0001f600\U000e0001"}


def test_table_cells_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_table(("detail",), [(EVIL,)], "none")

    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert "\x1b[2J" not in out


async def test_detail_of_a_report_cannot_forge_a_log_line(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    await add(database, 1)
    model = await database.find_model("plug")
    assert model is not None
    await database.check_in(CHECKIN, model.id, NOW)
    caplog.set_level("INFO", "coap_server")

    stored = await Reporter(database, now=lambda: datetime.now(UTC)).add(replace(REPORT, detail=EVIL))

    assert stored.detail == EVIL
    (record,) = [record for record in caplog.records if record.name == "coap_server.services.reports"]
    assert record.getMessage().isprintable()


def test_output_that_the_encoding_lacks_is_escaped() -> None:
    words = "import sys; from coap_server.cli import main; sys.exit(main(['releases', '--data', '\u00e4']))"

    ended = subprocess.run(
        [sys.executable, "-c", f"{words}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith(b"ota-server: error: --data \\xe4 holds no")
