"""Devices against a server that serves what it likes, rot in flash, and bits that flip on the link; on virtual time."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from coap_device.agent import Agent, RunResult
from coap_device.downloads import Link
from coap_device.firmware import SelfTest
from coap_device.hardware.flash import MemoryBacking
from coap_device.hardware.layout import Geometry, Layout
from coap_server.store.database import Database
from protocol import cbor
from protocol.coap import message
from protocol.coap.message import Message
from protocol.coap.numbers import Option
from protocol.messages import Assignment, Outcome, Via
from tests.support.virtual_loop import run_virtual
from tests.support.world import Published, World, open_world, publish_all, runs

GEOMETRY = Geometry(slot_size=16_384)
LAYOUT = Layout.of(GEOMETRY)


@pytest.fixture(scope="module")
def versions() -> list[tuple[str, bytes]]:
    rng = random.Random(5)
    first = rng.randbytes(10_000)
    second = first[:3_000] + rng.randbytes(5_000) + first[8_000:] + b"more"
    third = second[:2_000] + rng.randbytes(3_000) + second[5_000:]
    return [("1.0", first), ("1.1", second), ("1.2", third)]


@pytest.fixture(scope="module")
def published(versions: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_all(tmp_path_factory.mktemp("hostile") / "published", versions)


@pytest.fixture(scope="module")
def full_only(versions: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_all(tmp_path_factory.mktemp("full") / "published", versions, with_deltas=False)


def envelope(published: Published, version: str) -> bytes:
    digest = published.results[version].release.envelope_digest
    return (published.folder / "artifacts" / digest.hex()).read_bytes()


def live(
    published: Published,
    folder: Path,
    chip: MemoryBacking | None = None,
    *,
    version: str = "1.0",
    self_test: SelfTest = SelfTest.PASS,
    before: Callable[[World, Agent], None] = lambda world, agent: None,
) -> tuple[RunResult, MemoryBacking, Agent]:
    async def go() -> tuple[RunResult, MemoryBacking, Agent]:
        world = await open_world(published, folder)
        try:
            agent, backing = world.device(version, geometry=GEOMETRY, backing=chip, self_test=self_test)
            before(world, agent)
            return await agent.run(), backing, agent
        finally:
            await world.close()

    return run_virtual(go)


def offers(monkeypatch: pytest.MonkeyPatch, data: bytes, uri: str = "/d/dev/m") -> None:
    """Make every check-in offer ``uri``, and every manifest fetched be ``data``."""

    async def check_in(self: Agent, *parts: object) -> Assignment:
        return Assignment(manifest_uri=uri, manifest_digest=b"\1" * 32, size=len(data), poll_s=1)

    async def fetch_small(self: Link, path: str, limit: int = 0) -> bytes:
        return data

    monkeypatch.setattr(Agent, "_check_in", check_in)
    if data:
        monkeypatch.setattr(Link, "fetch_small", fetch_small)


def without_text(data: bytes) -> bytes:
    tag = cbor.decode(data)
    return cbor.encode(cbor.Tag(tag.number, {key: value for key, value in tag.value.items() if key != 23}))


@pytest.mark.parametrize(
    ("replayed", "words"), [("1.1", "rollback refused"), ("1.0", "rollback refused"), ("1.2", "installed already")]
)
def test_an_older_or_installed_manifest_is_refused_and_the_flash_stays_as_it_was(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replayed: str, words: str
) -> None:
    _, chip, _ = live(published, tmp_path)
    before = chip.snapshot()
    offers(monkeypatch, envelope(published, replayed))
    result, _, _ = live(published, tmp_path, chip)
    assert result.outcome is Outcome.REFUSED
    assert words in result.detail
    assert chip.snapshot() == before


@pytest.mark.parametrize("severed", [False, True])
def test_a_reverted_manifest_is_never_run_again_not_even_with_its_text_severed(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, severed: bool
) -> None:
    first, chip, _ = live(published, tmp_path, self_test=SelfTest.FAIL)
    assert first.outcome is Outcome.REVERTED
    before = chip.snapshot()
    data = envelope(published, "1.2")
    offers(monkeypatch, without_text(data) if severed else data)
    result, _, _ = live(published, tmp_path, chip)
    assert result.outcome is Outcome.REFUSED
    assert "reverted on this device" in result.detail
    assert chip.snapshot() == before


@pytest.mark.parametrize("uri", ["coap://elsewhere/d/dev/m", "coap://[", "coap://127.0.0.1:99999/x", "http://server/m"])
def test_an_assignment_to_another_host_is_refused(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    offers(monkeypatch, b"", uri)
    result, _, _ = live(published, tmp_path)
    assert result.outcome is Outcome.REFUSED
    assert "URI" in result.detail


def flip(chip: MemoryBacking, offset: int) -> None:
    chip.write(offset, bytes([chip.read(offset, 1)[0] ^ 4]))


@pytest.mark.parametrize("place", ["header", "envelope", "image"])
@pytest.mark.parametrize("kind", ["delta", "full"])
def test_rot_in_the_newest_slot_heals_by_a_new_update(
    published: Published, full_only: Published, tmp_path: Path, place: str, kind: str
) -> None:
    source = published if kind == "delta" else full_only
    first, chip, _ = live(source, tmp_path)
    assert first.slot == 1
    region = {"header": LAYOUT.slots[1].header, "envelope": LAYOUT.envelopes[1], "image": LAYOUT.slots[1].image}[place]
    flip(chip, region.offset + (100 if place == "envelope" else 20))
    result, _, _ = live(source, tmp_path, chip)
    # The server heard of this manifest's confirmation before, so there is nothing new to report.
    assert result.outcome is None, result.detail
    assert result.slot == 1
    assert runs(result, source.images["1.2"])


@pytest.mark.parametrize("kind", ["delta", "full"])
def test_a_bit_that_flips_once_on_the_link_costs_a_second_download_and_no_more(
    published: Published, full_only: Published, tmp_path: Path, kind: str
) -> None:
    source = published if kind == "delta" else full_only
    flipped: list[int] = []

    def spoil(world: World, agent: Agent) -> None:
        def tamper(sender: str, to: str, data: bytes) -> bytes | None:
            found = message.decode(data)
            is_payload = found.is_response and found.uint(Option.CONTENT_FORMAT) == 42
            if flipped or not is_payload or sender.startswith("dev") or len(found.payload) < 500:
                return data
            flipped.append(found.message_id)
            spoilt = found.payload[:50] + bytes([found.payload[50] ^ 1]) + found.payload[51:]
            return message.encode(
                Message(
                    type=found.type,
                    code=found.code,
                    message_id=found.message_id,
                    token=found.token,
                    options=found.options,
                    payload=spoilt,
                )
            )

        world.network.tamper = tamper

    result, _, agent = live(source, tmp_path, before=spoil)
    assert flipped
    assert result.outcome is Outcome.CONFIRMED, result.detail
    assert runs(result, source.images["1.2"])
    assert agent.meter.via is (Via.DELTA if kind == "delta" else Via.IMAGE)
    assert agent.meter.received_twice == 0


def test_a_report_that_the_server_refuses_is_sent_again_after_the_check_in(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Agent._report

    async def lost(self: Agent, *parts: object, **named: object) -> None:
        return None

    monkeypatch.setattr(Agent, "_report", lost)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Agent, "_report_ends", lost)
        updated, chip, _ = live(published, tmp_path)
    monkeypatch.setattr(Agent, "_report", real)
    assert runs(updated, published.images["1.2"])
    reports: list[object] = []
    store = Database.add_report

    async def count(self: Database, report: object, now: object) -> object:
        stored = await store(self, report, now)  # type: ignore[arg-type]  # handed on as it came
        reports.append(stored)
        return stored

    monkeypatch.setattr(Database, "add_report", count)
    result, _, _ = live(published, tmp_path, chip)
    assert result.outcome is Outcome.CONFIRMED
    assert len(reports) == 1
