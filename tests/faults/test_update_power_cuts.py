"""Power cut at every flash operation of a whole update: download, patch, activation, trial boot, confirmation."""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from coap_device.agent import Agent, RunResult
from coap_device.firmware import SelfTest
from coap_device.hardware.flash import MemoryBacking
from coap_device.hardware.layout import Geometry, Layout
from coap_device.hardware.power import CutMode, PowerPlan
from protocol.messages import Outcome
from protocol.trace import Event
from tests.support.virtual_loop import run_virtual
from tests.support.world import Published, open_world, publish_all, runs

pytestmark = pytest.mark.faults

GEOMETRY = Geometry(slot_size=16_384)
SHARDS = 4


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Two versions of three sectors each; the delta between them takes six blocks."""
    rng = random.Random(5)
    old = rng.randbytes(10_000)
    new = old[:3_000] + rng.randbytes(5_000) + old[8_000:] + b"one more"
    return publish_all(tmp_path_factory.mktemp("cuts") / "published", [("1.0", old), ("1.1", new)])


def update(
    published: Published, folder: Path, power: PowerPlan, *, szx: int = 6, self_test: SelfTest = SelfTest.PASS
) -> tuple[RunResult, Agent, MemoryBacking, list[Event]]:
    async def go() -> tuple[RunResult, Agent, MemoryBacking, list[Event]]:
        world = await open_world(published, folder)
        try:
            agent, chip = world.device("1.0", geometry=GEOMETRY, power=power, szx=szx, self_test=self_test)
            async with asyncio.timeout(3_600):
                result = await agent.run()
            return result, agent, chip, world.events
        finally:
            await world.close()

    return run_virtual(go)


def slot_image(chip: MemoryBacking, slot: int, size: int) -> bytes:
    return chip.read(Layout.of(GEOMETRY).slots[slot].image.offset, size)


def check_boots(events: Sequence[Event], published: Published) -> None:
    """Every boot was of one of the two published images, as its digest says."""
    known = {hashlib.sha256(image).hexdigest()[:16] for image in published.images.values()}
    booted = [event.data["image"] for event in events if event.name == "booted"]
    assert booted
    assert set(booted) <= known


def operations_of(published: Published, folder: Path, **options: object) -> int:
    plan = PowerPlan()
    result, *_ = update(published, folder, plan, **options)  # type: ignore[arg-type]
    assert result.outcome is not None
    return plan.operations


@pytest.mark.parametrize("mode", CutMode)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_cut_at_any_operation_ends_on_the_new_version_with_at_most_one_block_twice(
    published: Published, tmp_path: Path, mode: CutMode, shard: int
) -> None:
    total = operations_of(published, tmp_path)
    assert total > 60
    for operation in range(shard, total, SHARDS):
        plan = PowerPlan({operation}, mode)
        result, agent, chip, events = update(published, tmp_path, plan)
        new = published.images["1.1"]
        where = f"{mode.value} {plan.cuts}"
        assert len(plan.cuts) == 1, where
        assert result.outcome is Outcome.CONFIRMED, where
        assert runs(result, new), where
        assert slot_image(chip, result.slot, len(new)) == new, where
        assert agent.meter.received_twice <= 1, where
        check_boots(events, published)


@pytest.mark.parametrize("mode", CutMode)
def test_small_blocks_resume_as_well(published: Published, tmp_path: Path, mode: CutMode, seed: int) -> None:
    total = operations_of(published, tmp_path, szx=2)
    for operation in random.Random(seed).sample(range(total), 12):
        plan = PowerPlan({operation}, mode)
        result, _, _, events = update(published, tmp_path, plan, szx=2)
        assert len(plan.cuts) == 1
        assert runs(result, published.images["1.1"]), plan.cuts
        check_boots(events, published)


def test_a_second_cut_at_the_same_place_of_the_recovery_changes_nothing(
    published: Published, tmp_path: Path, seed: int
) -> None:
    total = operations_of(published, tmp_path)
    rng = random.Random(seed)
    for _ in range(20):
        first = rng.randrange(total)
        plan = PowerPlan({first, first + rng.randrange(1, 40)}, CutMode.TORN)
        result, agent, _, events = update(published, tmp_path, plan)
        assert runs(result, published.images["1.1"]), plan.cuts
        assert agent.meter.received_twice <= len(plan.cuts)
        check_boots(events, published)


@pytest.mark.parametrize("self_test", [SelfTest.FAIL, SelfTest.HANG])
def test_a_cut_anywhere_in_a_bad_update_ends_on_the_old_version(
    published: Published, tmp_path: Path, self_test: SelfTest, seed: int
) -> None:
    total = operations_of(published, tmp_path, self_test=self_test)
    for operation in random.Random(seed).sample(range(total), 25):
        plan = PowerPlan({operation})
        result, _, _, events = update(published, tmp_path, plan, self_test=self_test)
        assert result.outcome is Outcome.REVERTED, plan.cuts
        assert runs(result, published.images["1.0"]), plan.cuts
        check_boots(events, published)
