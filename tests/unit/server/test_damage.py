"""A data folder that was damaged, lost in part, or made in vain: one line, and nothing is made worse."""

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from coap_server.app import Application, Storage
from coap_server.errors import StoreError
from coap_server.services import assign as assignments
from coap_server.store import schema
from coap_server.text import printable
from tests.unit.server.conftest import Bench, Command, Publish, listing
from tests.unit.server.test_cli import assert_one_line, publish

pytestmark = pytest.mark.faults


def run_sql(data: Path, statement: str) -> None:
    connection = sqlite3.connect(data / "server.db")
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "update alembic_version set version_num = '0000'",
        "update alembic_version set version_num = x'00ff'",
        "update releases set profile = 'xx'",
        "update releases set manifest_digest = 'text'",
        "update releases set manifest_digest = x'00'",
        "update releases set created_at = 'never'",
        "update releases set version = cast(x'ff' as text)",
        "update releases set image_digest = x'00'",
    ],
)
def test_spoilt_row_is_one_line(command: Command, bench: Bench, statement: str) -> None:
    publish(command, bench, 1)
    run_sql(bench.data, statement)

    assert_one_line(command("releases", "--data", bench.data), "is damaged or no database")


def test_random_damage_is_never_a_traceback(command: Command, bench: Bench) -> None:
    publish(command, bench, 1)
    path = bench.data / "server.db"
    whole = path.read_bytes()
    for seed in range(150):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(chance.choice((1, 20, 400))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        ended = command("releases", "--data", bench.data)
        assert ended.code in (0, 1)
        assert ended.code == 0 or ended.err.count("\n") == 1
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def test_damaged_page_is_told_in_sqlites_last_line(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    schema.upgrade(path)
    data = bytearray(path.read_bytes())
    data[4_096:20_000] = b"\xa5" * (20_000 - 4_096)
    path.write_bytes(data)

    with pytest.raises(StoreError, match="damaged or no database") as caught:
        schema.upgrade(path)

    assert "*** in database" not in str(caught.value)


async def test_watcher_survives_a_spoilt_row(
    bench: Bench, storage: Storage, publishing: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    await publishing(1)
    run_sql(bench.data, "update releases set profile = 'xx'")

    with pytest.raises(StoreError, match="'xx' is not a valid Profile"):
        await Application(storage.database, storage.blobs)._newest()


@pytest.mark.parametrize("name", ["what?mode=ro", "100%41", "a#b", "two words", "semi;colon"])
def test_any_folder_name_will_do(command: Command, bench: Bench, name: str) -> None:
    data = bench.folder / name
    ended = command("publish", bench.image(1), "--data", data, "--model", "m", "--version", "1", "--key", bench.key)

    assert ended.code == 0
    assert (data / "server.db").stat().st_size > 0
    assert len(command("releases", "--data", data, "--json").json) == 1


@pytest.mark.parametrize("empty", [True, False])
def test_database_that_was_lost_is_not_begun_anew(command: Command, bench: Bench, empty: bool) -> None:
    publish(command, bench, 1)
    (bench.data / "server.db").unlink()
    if empty:
        (bench.data / "server.db").touch()
    before = listing(bench.data)

    for ended in (
        publish(command, bench, 2),
        command("releases", "--data", bench.data),
        command("serve", "--data", bench.data),
    ):
        assert_one_line(ended, "holds 2 artifacts; restore it from a backup or choose another --data")
    assert listing(bench.data) == before


def test_first_publish_that_was_interrupted_can_be_repeated(command: Command, bench: Bench) -> None:
    publish(command, bench, 1)
    shutil.rmtree(bench.data)
    bench.data.joinpath("artifacts").mkdir(parents=True)
    schema.upgrade(bench.data / "server.db")
    (bench.data / "artifacts" / ("0" * 64)).write_bytes(b"left behind")

    assert publish(command, bench, 1).code == 0


def test_what_was_made_in_vain_is_taken_back(command: Command, bench: Bench) -> None:
    data = bench.folder / "new" / "data"
    image = ("publish", bench.image(1), "--data", data, "--model", "m", "--version", "1", "--key", bench.key)

    assert_one_line(command(*image, "--from", "9"), "no such version")
    assert_one_line(command("serve", "--data", data, "--coap", "no-such-host.invalid:1"), "cannot resolve")

    assert not (bench.folder / "new").exists()


async def test_folder_that_another_one_uses_is_not_taken_back(bench: Bench) -> None:
    first, second = await Storage.open(bench.data, create=True), await Storage.open(bench.data, create=True)

    await first.abandon()
    await second.database.models()
    await second.close()

    assert (bench.data / "server.db").exists()


async def test_assignment_to_what_is_no_name_is_refused(storage: Storage, publishing: Publish) -> None:
    await publishing(1)

    with pytest.raises(Exception, match="is not a name"):
        await assignments.assign(storage.database, "a b\n", "1.0", "plug")


def test_text_is_made_printable() -> None:
    assert printable("a\x1b[31m\r\nb\u2028c\udc80") == "a\\x1b[31m\\r\\nb\\u2028c\\udc80"
    assert printable("x" * 400, 10) == "xxxxxxx..."
