"""Whole updates on virtual time: the real server application and real devices, only the sockets are in memory."""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from coap_device.agent import Agent, RunResult
from coap_device.firmware import SelfTest
from coap_device.hardware.flash import MemoryBacking
from coap_server.config import DATABASE_NAME
from coap_server.store.base import Report
from protocol import cbor
from protocol.aio.relay import RelayStats
from protocol.coap import message
from protocol.coap.numbers import Code, Option, Type
from protocol.link.netem import LinkSpec
from protocol.messages import Outcome, Via
from tests.support.virtual_loop import run_virtual
from tests.support.world import MODEL, Published, World, digest_of, open_world, publish_all, runs

LOSSY = LinkSpec.parse("delay 50ms 10ms loss 20%")
SEEDS = 100


@dataclass
class Ended:
    result: RunResult
    agent: Agent
    chip: MemoryBacking
    stats: RelayStats
    trace: list[tuple[float, str, str, bytes]]
    seconds: float

    @property
    def trace_digest(self) -> str:
        return hashlib.sha256(repr(self.trace).encode()).hexdigest()


@pytest.fixture(scope="module")
def microbit(firmware_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A real pair of 229,492 and 231,608 bytes, and an older version."""
    versions = ("1.1.3", "1.2.0", "1.2.4")
    images = [(version, (firmware_dir / f"microbit-{version}.bin").read_bytes()) for version in versions]
    return publish_all(tmp_path_factory.mktemp("microbit") / "published", images)


@pytest.fixture(scope="module")
def without_deltas(firmware_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The same pair, full images only."""
    images = [(version, (firmware_dir / f"microbit-{version}.bin").read_bytes()) for version in ("1.2.0", "1.2.4")]
    return publish_all(tmp_path_factory.mktemp("full") / "published", images, with_deltas=False)


def run_update(
    published: Published,
    folder: Path,
    version: str,
    *,
    seed: int = 1,
    link: LinkSpec = LOSSY,
    prepare: Callable[[World], None] = lambda world: None,
    self_test: SelfTest = SelfTest.PASS,
    anchors: tuple[bytes, ...] | None = None,
) -> Ended:
    async def go() -> Ended:
        world = await open_world(published, folder, seed=seed, link=link)
        try:
            prepare(world)
            agent, chip = world.device(version, self_test=self_test, anchors=anchors)
            result = await agent.run()
            now = asyncio.get_running_loop().time()
            return Ended(result, agent, chip, world.network.stats(), world.network.trace, now)
        finally:
            await world.close()

    return run_virtual(go, seed=seed)


def test_an_update_over_20_percent_loss_succeeds_with_100_seeds_of_100(microbit: Published, tmp_path: Path) -> None:
    sent = lost = 0
    for seed in range(SEEDS):
        ended = run_update(microbit, tmp_path, "1.2.0", seed=seed)
        assert ended.result.outcome is Outcome.CONFIRMED, seed
        assert runs(ended.result, microbit.images["1.2.4"]), seed
        assert ended.agent.meter.via is Via.DELTA
        for side in (ended.stats.up, ended.stats.down):
            sent, lost = sent + side.sent, lost + side.lost
    assert 0.18 <= lost / sent <= 0.22


def test_a_full_image_over_20_percent_loss_arrives_whole(without_deltas: Published, tmp_path: Path) -> None:
    for seed in range(5):
        ended = run_update(without_deltas, tmp_path, "1.2.0", seed=seed)
        assert runs(ended.result, without_deltas.images["1.2.4"]), seed
        assert ended.agent.meter.via is Via.IMAGE
        assert ended.agent.meter.blocks_resent > 0
        for side in (ended.stats.up, ended.stats.down):
            assert 0.15 <= side.lost / side.sent <= 0.25


def test_the_same_seed_gives_the_same_datagrams_and_another_seed_others(microbit: Published, tmp_path: Path) -> None:
    first, again, other = (run_update(microbit, tmp_path, "1.2.0", seed=seed) for seed in (7, 7, 8))
    assert len(first.trace) > 50
    assert first.trace_digest == again.trace_digest
    assert first.trace_digest != other.trace_digest
    assert first.chip.snapshot() == again.chip.snapshot()


def test_one_manifest_serves_every_starting_version(microbit: Published, tmp_path: Path) -> None:
    for version in ("1.1.3", "1.2.0"):
        ended = run_update(microbit, tmp_path, version)
        assert runs(ended.result, microbit.images["1.2.4"])
        assert ended.agent.meter.via is Via.DELTA
    current = run_update(microbit, tmp_path, "1.2.4")
    assert current.result.outcome is None


@pytest.mark.parametrize("verdict", [SelfTest.FAIL, SelfTest.HANG])
def test_a_bad_new_image_is_reverted_reported_and_not_offered_again(
    microbit: Published, tmp_path: Path, verdict: SelfTest
) -> None:
    async def go() -> tuple[RunResult, RunResult]:
        world = await open_world(microbit, tmp_path, link=LOSSY)
        try:
            agent, chip = world.device("1.2.0", self_test=verdict)
            first = await agent.run()
            again, _ = world.device("1.2.0", backing=chip)
            return first, await again.run()
        finally:
            await world.close()

    first, second = run_virtual(go)
    assert first.outcome is Outcome.REVERTED
    assert runs(first, microbit.images["1.2.0"])
    assert second.outcome is None
    assert runs(second, microbit.images["1.2.0"])


def test_a_manifest_signed_by_a_stranger_is_refused_and_the_flash_stays_as_it_was(
    microbit: Published, without_deltas: Published, tmp_path: Path
) -> None:
    async def go() -> tuple[RunResult, bytes, bytes]:
        world = await open_world(microbit, tmp_path)
        try:
            agent, chip = world.device("1.2.0", anchors=without_deltas.anchors)
            before = chip.snapshot()
            result = await agent.run()
            return result, before, chip.snapshot()
        finally:
            await world.close()

    result, before, after = run_virtual(go)
    assert result.outcome is Outcome.REFUSED
    assert "no trusted key" in result.detail
    assert before == after


def test_an_unknown_model_ends_the_device_with_one_clear_error(microbit: Published, tmp_path: Path) -> None:
    async def go() -> None:
        world = await open_world(microbit, tmp_path)
        try:
            agent, _ = world.device("1.2.0", model="toaster")
            await agent.run()
        finally:
            await world.close()

    with pytest.raises(Exception, match=r"4\.04.*toaster"):
        run_virtual(go)


def test_a_device_whose_model_is_published_later_asks_again_and_counts_each_update_for_itself(
    microbit: Published, tmp_path: Path
) -> None:
    async def go() -> tuple[list[str], list[Report]]:
        world = await open_world(microbit, tmp_path)
        hidden = world.folder / DATABASE_NAME
        with sqlite3.connect(hidden) as database:
            database.execute("UPDATE models SET name = 'elsewhere'")
        try:
            agent, _ = world.device("1.1.3", once=False)
            life = asyncio.ensure_future(agent.run())
            await asyncio.sleep(70)
            with sqlite3.connect(hidden) as database:
                database.execute("UPDATE models SET name = ?", (MODEL,))
                database.execute("UPDATE releases SET promoted = 0 WHERE version = '1.2.4'")
            await asyncio.sleep(200)
            with sqlite3.connect(hidden) as database:
                database.execute("UPDATE releases SET promoted = 1")
            await asyncio.sleep(200)
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            return [event.name for event in world.events], list(await world.storage.database.reports("dev"))
        finally:
            await world.close()

    names, reports = run_virtual(go)
    assert names.count("check-in-refused") >= 1
    second, first = reports
    assert [report.outcome for report in (first, second)] == [Outcome.CONFIRMED, Outcome.CONFIRMED]
    assert first.image_digest == digest_of(microbit.images["1.2.0"])
    assert second.image_digest == digest_of(microbit.images["1.2.4"])
    # 1.2.0 to 1.2.4 is a delta of 36 KB, 1.1.3 to 1.2.0 one of over 50 KB: the second report does not hold the first.
    assert second.bytes_down < first.bytes_down
    # Neither holds the time in which there was nothing to do.
    assert max(first.duration_s, second.duration_s) < 60


def _delta_path(published: Published) -> str:
    made = next(entry for entry in published.results["1.2.4"].deltas if entry.base.version == "1.2.0")
    return made.delta.digest.hex()[:16]


def test_a_signed_delta_that_answers_4_04_ends_on_the_new_version_by_the_full_image(
    microbit: Published, tmp_path: Path
) -> None:
    name = _delta_path(microbit)

    def remove(world: World) -> None:
        with sqlite3.connect(world.folder / DATABASE_NAME) as database:
            removed = database.execute("DELETE FROM artifacts WHERE hex(digest) LIKE ?", (name + "%",)).rowcount
        assert removed == 1

    ended = run_update(microbit, tmp_path, "1.2.0", prepare=remove)
    assert ended.result.outcome is Outcome.CONFIRMED
    assert runs(ended.result, microbit.images["1.2.4"])
    assert ended.agent.meter.via is Via.IMAGE
    assert _asked_for(ended, name)


def _asked_for(ended: Ended, name: str) -> bool:
    return any((Option.URI_PATH, name.encode()) in message.decode(data).options for *_, data in ended.trace)


@pytest.fixture(scope="module")
def broken_delta(microbit: Published, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A release whose signed delta has the right digest and an undecodable body."""
    from protocol.delta import CODECS

    folder = tmp_path_factory.mktemp("broken") / "published"
    codec = CODECS["delta/1"]
    original = type(codec).diff
    patched = pytest.MonkeyPatch()
    # The pool's processes import the codec anew, so the publisher's own step is replaced, not the codec.
    from coap_server.services import publish as module

    async def undecodable(name: str, pairs: object, done: Callable[[int], None]) -> list[bytes]:
        assert original is type(codec).diff
        return [b"BSDIFF40" + bytes(24) + b"this is no bzip2 stream" for _ in list(pairs)]  # type: ignore[call-overload]

    patched.setattr(module, "make_deltas", undecodable)
    try:
        return publish_all(folder, [(v, microbit.images[v]) for v in ("1.2.0", "1.2.4")])
    finally:
        patched.undo()


def test_a_delta_with_a_right_digest_and_an_undecodable_body_ends_on_the_new_version_by_the_full_image(
    broken_delta: Published, tmp_path: Path
) -> None:
    ended = run_update(broken_delta, tmp_path, "1.2.0")
    assert ended.result.outcome is Outcome.CONFIRMED
    assert runs(ended.result, broken_delta.images["1.2.4"])
    assert ended.agent.meter.via is Via.IMAGE
    assert _asked_for(ended, _delta_path(broken_delta))


def test_the_world_is_what_it_says(microbit: Published, tmp_path: Path) -> None:
    """The trace holds real CoAP: a check-in as CBOR, answered piggybacked."""
    ended = run_update(microbit, tmp_path, "1.2.0", link=LinkSpec())
    first = message.decode(ended.trace[0][3])
    assert first.type is Type.CON
    assert first.code == Code.POST
    assert cbor.decode(first.payload)[2] == MODEL
