"""Firmware linked for each slot, and the other signature algorithm: whole updates on virtual time."""

import random
from pathlib import Path

import pytest

from coap_device.agent import RunResult
from coap_device.hardware.layout import Geometry
from protocol.cose.algorithms import KeyKind
from protocol.link.netem import LinkSpec
from protocol.messages import Outcome, Via
from tests.support.virtual_loop import run_virtual
from tests.support.world import Published, open_world, publish_all, runs

SMALL = Geometry(slot_size=32_768)
LOSSY = LinkSpec.parse("delay 30ms loss 10%")


def relinked(image: bytes) -> bytes:
    """The same firmware at another address: every eighth word differs."""
    words = [image[at : at + 4] for at in range(0, len(image), 4)]
    return b"".join(bytes([word[0] ^ 0x40]) + word[1:] if n % 8 == 0 else word for n, word in enumerate(words))


@pytest.fixture(scope="module")
def versions() -> list[tuple[str, bytes]]:
    rng = random.Random(11)
    first = rng.randbytes(20_000)
    second = first[:9_000] + rng.randbytes(1_500) + first[10_000:]
    third = second[:2_000] + rng.randbytes(700) + second[2_500:]
    return [("1", first), ("2", second), ("3", third)]


@pytest.fixture(scope="module")
def linked(versions: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Version 1 runs anywhere; 2 and 3 come linked for slot A and for slot B."""
    folder = tmp_path_factory.mktemp("linked") / "published"
    return publish_all(folder, versions, for_slot_b={name: relinked(image) for name, image in versions[1:]})


def update(published: Published, folder: Path, starts_as: str) -> tuple[RunResult, Via | None]:
    async def go() -> tuple[RunResult, Via | None]:
        world = await open_world(published, folder, link=LOSSY)
        try:
            agent, _ = world.device(starts_as, geometry=SMALL)
            return await agent.run(), agent.meter.via
        finally:
            await world.close()

    return run_virtual(go)


@pytest.mark.parametrize("starts_as", ["1", "2"])
def test_slot_b_gets_the_image_that_was_linked_for_it(linked: Published, tmp_path: Path, starts_as: str) -> None:
    result, via = update(linked, tmp_path, starts_as)
    assert result.outcome is Outcome.CONFIRMED
    assert result.slot == 1
    assert runs(result, relinked(linked.images["3"]))
    assert via is Via.DELTA


def test_a_device_in_slot_b_gets_the_image_for_slot_a_next(versions: list[tuple[str, bytes]], tmp_path: Path) -> None:
    for_b = {name: relinked(image) for name, image in versions}
    first = publish_all(tmp_path / "first", versions[:2], for_slot_b=for_b)

    async def go() -> tuple[RunResult, RunResult]:
        world = await open_world(first, tmp_path / "w1")
        try:
            agent, chip = world.device("1", geometry=SMALL)
            into_b = await agent.run()
        finally:
            await world.close()
        await publish_more(world.folder)
        world = await open_world(Published(world.folder, first.key, first.images, first.results), tmp_path / "w2")
        try:
            agent, _ = world.device("1", geometry=SMALL, backing=chip)
            return into_b, await agent.run()
        finally:
            await world.close()

    async def publish_more(folder: Path) -> None:
        from coap_server.app import Storage
        from coap_server.services.publish import PublishRequest, prepare, publish

        (tmp_path / "a.bin").write_bytes(versions[2][1])
        (tmp_path / "b.bin").write_bytes(for_b["3"])
        (tmp_path / "key.pem").write_bytes(first.key.to_pem())
        storage = await Storage.open(folder, create=False, inline=True)
        try:
            request = PublishRequest(
                image=tmp_path / "a.bin",
                image_b=tmp_path / "b.bin",
                model="board-a",
                version="3",
                key=tmp_path / "key.pem",
            )
            await publish(prepare(request), storage.database, storage.blobs)
        finally:
            await storage.close()

    import asyncio

    into_b, into_a = asyncio.run(go())
    assert (into_b.slot, into_a.slot) == (1, 0)
    assert runs(into_b, for_b["2"])
    assert runs(into_a, versions[2][1])


def test_ed25519_signs_as_well(versions: list[tuple[str, bytes]], tmp_path: Path) -> None:
    published = publish_all(tmp_path / "published", versions, kind=KeyKind.ED25519)
    result, _ = update(published, tmp_path, "1")
    assert runs(result, versions[2][1])
