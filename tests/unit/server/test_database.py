"""The store on SQLite, with a thread for each connection and inline on virtual time; revisions; damaged files."""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from coap_server.errors import ConflictError, NotFoundError, StoreError
from coap_server.store import migrations, schema
from coap_server.store.base import Artifact, Delta, Kind, NewRelease, Profile
from coap_server.store.database import Database
from coap_server.store.models import Base
from protocol.messages import Checkin, Outcome, StatusReport, Via
from protocol.suit.identifiers import class_id, vendor_id
from tests.support.virtual_loop import run_virtual

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[3]
VENDOR = "vendor.example"


def digest(number: int) -> bytes:
    return bytes([number]) * 32


def release(number: int, *, promoted: bool = True) -> NewRelease:
    return NewRelease(
        version=f"{number}.0",
        sequence_number=number,
        profile=Profile.SUIT,
        image_digest=digest(number),
        image_size=1_000 + number,
        image_b_digest=None,
        envelope_digest=digest(100 + number),
        envelope_size=500,
        manifest_digest=digest(100 + number),
        promoted=promoted,
    )


def artifacts(number: int) -> list[Artifact]:
    return [
        Artifact(digest=digest(number), size=1_000 + number, kind=Kind.IMAGE),
        Artifact(digest=digest(100 + number), size=500, kind=Kind.ENVELOPE),
    ]


async def add(database: Database, number: int, model: str = "plug", *, promoted: bool = True) -> int:
    stored = await database.add_release(model, VENDOR, release(number, promoted=promoted), artifacts(number), ())
    return stored.id


CHECKIN = Checkin(
    device_id="dev-1",
    model="plug",
    image_digest=digest(1),
    sequence_number=1,
    slot=0,
    trial=False,
    decoders=("delta/1",),
)
REPORT = StatusReport(
    device_id="dev-1",
    manifest_digest=digest(102),
    outcome=Outcome.CONFIRMED,
    reason=0,
    detail="",
    image_digest=digest(2),
    sequence_number=2,
    slot=1,
    bytes_up=100,
    bytes_down=2_000,
    blocks=3,
    blocks_resent=1,
    via=Via.DELTA,
    duration_s=9,
    power_cuts=0,
)


@pytest.fixture(params=[False, True], ids=["threads", "inline"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "server.db", inline=request.param, now=lambda: NOW)
    yield opened
    await opened.close()


async def test_first_release_makes_the_model(database: Database) -> None:
    await add(database, 1)

    model = await database.find_model("plug")
    assert model is not None
    assert model.vendor_id == vendor_id(VENDOR)
    assert model.class_id == class_id(vendor_id(VENDOR), "plug")
    assert model.created_at == NOW
    assert await database.models() == [model]
    (stored,) = await database.releases(model.id)
    assert (stored.version, stored.images, stored.profile) == ("1.0", (digest(1),), Profile.SUIT)


@pytest.mark.parametrize(
    "change", [{"version": "1.0"}, {"sequence_number": 1}], ids=["same version", "same sequence number"]
)
async def test_release_published_twice_is_a_conflict_and_leaves_nothing(
    database: Database, change: dict[str, object]
) -> None:
    await add(database, 1)

    with pytest.raises(ConflictError, match="published already"):
        await database.add_release("plug", VENDOR, replace(release(2), **change), artifacts(2), ())  # type: ignore[arg-type]

    assert len(await database.releases()) == 1
    assert len(await database.artifacts()) == 2


async def test_model_keeps_its_vendor(database: Database) -> None:
    await add(database, 1)

    with pytest.raises(ConflictError, match=r"vendor\.example, not other\.example"):
        await database.add_release("plug", "other.example", release(2), artifacts(2), ())


async def test_newest_promoted_has_the_highest_sequence_number(database: Database) -> None:
    for number in (2, 1):
        await add(database, number)
    held = await add(database, 3, promoted=False)
    model = await database.find_model("plug")
    assert model is not None

    before = await database.newest_promoted(model.id)
    await database.promote(held)
    after = await database.newest_promoted(model.id)

    assert before is not None
    assert after is not None
    assert (before.version, after.version) == ("2.0", "3.0")


async def test_payload_is_found_by_its_prefix_and_envelopes_are_none(database: Database) -> None:
    await add(database, 1)

    found = await database.artifact_by_prefix(digest(1)[:8])
    assert found is not None
    assert found.digest == digest(1)
    assert await database.artifact_by_prefix(digest(101)[:8]) is None
    assert await database.artifact_by_prefix(digest(9)[:8]) is None


async def test_deltas_are_found_by_their_ends(database: Database) -> None:
    await add(database, 1)
    delta = Delta(from_image_digest=digest(1), to_image_digest=digest(2), codec="delta/1", digest=digest(50), size=77)
    stored = [*artifacts(2), Artifact(digest=digest(50), size=77, kind=Kind.DELTA)]
    await database.add_release("plug", VENDOR, release(2), stored, [delta])

    assert await database.find_delta(digest(1), digest(2), "delta/1") == delta
    assert await database.find_delta(digest(2), digest(1), "delta/1") is None


async def test_check_in_makes_and_updates_the_device(database: Database) -> None:
    await add(database, 1)
    made = await database.check_in(CHECKIN, 1, NOW)
    again = await database.check_in(replace(CHECKIN, slot=1, trial=True), 1, NOW)

    assert (made.slot, made.trial, made.last_seen_at) == (0, False, NOW)
    assert (again.slot, again.trial) == (1, True)
    assert await database.devices() == [again]


async def test_device_can_be_assigned_before_it_checks_in(database: Database) -> None:
    number = await add(database, 1)

    await database.assign("dev-1", 1, number)

    device = await database.device("dev-1")
    assert device is not None
    assert (device.assigned_release_id, device.last_seen_at, device.image_digest) == (number, None, None)
    assert (await database.check_in(CHECKIN, 1, NOW)).assigned_release_id == number


async def test_other_hardware_under_an_old_name_loses_what_was_assigned(database: Database) -> None:
    number = await add(database, 1)
    await add(database, 2, model="lamp")
    await database.assign("dev-1", 1, number)

    device = await database.check_in(replace(CHECKIN, model="lamp"), 2, NOW)

    assert (device.model_id, device.assigned_release_id) == (2, None)


async def test_repeated_report_changes_nothing_and_a_new_one_counts(database: Database) -> None:
    await add(database, 1)
    await add(database, 2)
    await database.check_in(CHECKIN, 1, NOW)

    first = await database.add_report(REPORT, NOW)
    repeated = await database.add_report(REPORT, datetime(2026, 3, 2, tzinfo=UTC))
    other = await database.add_report(replace(REPORT, bytes_up=5), datetime(2026, 3, 3, tzinfo=UTC))

    assert first == repeated
    assert (first.attempts, first.release_id) == (1, 2)
    assert (other.attempts, other.bytes_up) == (2, 5)
    assert await database.reports("dev-1") == [other]
    device = await database.device("dev-1")
    assert device is not None
    assert (device.image_digest, device.slot) == (digest(2), 1)


async def test_report_of_a_stranger_is_refused(database: Database) -> None:
    with pytest.raises(NotFoundError, match="dev-1 is not known"):
        await database.add_report(REPORT, NOW)


async def test_writers_take_turns(database: Database) -> None:
    await add(database, 1)

    await asyncio.gather(
        *(database.check_in(replace(CHECKIN, device_id=f"dev-{number}"), 1, NOW) for number in range(30))
    )

    assert len(await database.devices()) == 30


async def test_two_processes_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    one, two = await Database.open(path), await Database.open(path)
    try:
        await add(one, 1)
        assert [model.name for model in await two.models()] == ["plug"]
        await asyncio.gather(add(one, 2), add(two, 3))
        assert len(await one.releases()) == 3
    finally:
        await one.close()
        await two.close()


def test_inline_store_needs_no_thread_and_runs_on_virtual_time(tmp_path: Path) -> None:
    async def work() -> list[str]:
        database = await Database.open(tmp_path / "server.db", inline=True, now=lambda: NOW)
        try:
            await add(database, 1)
            await asyncio.sleep(3_600)
            await asyncio.gather(
                *(database.check_in(replace(CHECKIN, device_id=f"dev-{number}"), 1, NOW) for number in range(5))
            )
            assert threading.active_count() == before
            assert asyncio.get_running_loop().time() == 3_600
            return [device.id for device in await database.devices()]
        finally:
            await database.close()

    before = threading.active_count()
    assert run_virtual(work) == [f"dev-{number}" for number in range(5)]


async def test_data_is_there_after_reopening(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "server.db")
    await add(database, 1)
    await database.close()

    database = await Database.open(tmp_path / "server.db")
    try:
        assert len(await database.releases()) == 1
    finally:
        await database.close()


def test_revisions_make_the_tables_of_the_models(tmp_path: Path) -> None:
    schema.upgrade(tmp_path / "server.db")

    engine = create_engine(f"sqlite:///{tmp_path / 'server.db'}")
    try:
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    finally:
        engine.dispose()


@pytest.mark.faults
def test_revision_cut_short_leaves_a_database_that_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = op.create_table

    def cut(name: str, *columns: Any) -> Any:
        if name == "devices":
            raise OSError("cut")
        made.append(name)
        return real(name, *columns)

    with monkeypatch.context() as patched:
        patched.setattr(op, "create_table", cut)
        with pytest.raises(StoreError, match="cut"):
            schema.upgrade(tmp_path / "server.db")
    assert made == ["models", "artifacts", "releases", "deltas"]

    schema.upgrade(tmp_path / "server.db")


async def test_database_can_be_made_by_several_at_once(tmp_path: Path) -> None:
    command = "import sys, pathlib; from coap_server.store.schema import upgrade; upgrade(pathlib.Path(sys.argv[1]))"
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", command, tmp_path / "server.db", cwd=ROOT)
        for _ in range(4)
    ]

    assert [await process.wait() for process in processes] == [0, 0, 0, 0]


def test_head_names_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(schema.config()).get_current_head() == migrations.HEAD


def test_database_is_write_ahead_logged_and_marked_as_ours(tmp_path: Path) -> None:
    schema.upgrade(tmp_path / "server.db")

    connection = sqlite3.connect(tmp_path / "server.db")
    try:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)
    finally:
        connection.close()


def foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()


def newer(path: Path) -> None:
    schema.upgrade(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"this was a database once " * 500)


def truncated(path: Path) -> None:
    schema.upgrade(path)
    path.write_bytes(path.read_bytes()[:6_000])


def overwritten(path: Path) -> None:
    schema.upgrade(path)
    data = bytearray(path.read_bytes())
    data[4_096:20_000] = b"\xa5" * (20_000 - 4_096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (garbage, "is damaged or no database"),
        (truncated, "is damaged or no database"),
        (overwritten, "is damaged or no database"),
        (foreign, "belongs to another program"),
        (newer, "was made by a newer ota-server"),
    ],
)
async def test_database_that_is_not_ours_to_use_is_refused_and_left_alone(
    tmp_path: Path, spoil: object, words: str
) -> None:
    path = tmp_path / "server.db"
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes()

    with pytest.raises(StoreError, match=words) as caught:
        await Database.open(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


async def test_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="check that the folder exists"):
        await Database.open(tmp_path / "none" / "server.db")


async def test_damage_found_in_a_query_is_a_store_error(database: Database, tmp_path: Path) -> None:
    await add(database, 1)
    other = sqlite3.connect(tmp_path / "server.db")
    other.execute("PRAGMA foreign_keys = OFF")
    other.execute("DROP TABLE releases")
    other.commit()
    other.close()

    with pytest.raises(StoreError, match="no such table"):
        await database.releases()
