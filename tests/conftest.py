"""Options, marks and fixtures of every test: the seed, virtual time, material that is not ours."""

import asyncio
import random
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.expect import expect_folder
from tests.support.virtual_loop import VirtualTimeLoop, seeded_random

_SEED = pytest.StashKey[int]()


def _seed_option(text: str) -> str:
    return text if text == "random" else str(int(text, 0))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed",
        metavar="N|random",
        type=_seed_option,
        help="seed of the random tests; by default each test has its own, the same in every run",
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}


def _seed_of(item: pytest.Item) -> int:
    if _SEED not in item.stash:
        option = item.config.getoption("--seed")
        if option == "random":
            item.stash[_SEED] = random.SystemRandom().randrange(2**32)
        else:
            item.stash[_SEED] = int(option) if option is not None else zlib.crc32(item.nodeid.encode())
    return item.stash[_SEED]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test; a failure prints it, ``--seed N`` replays it."""
    return _seed_of(request.node)


@pytest.fixture(autouse=True)
def _seeded_in_virtual_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seed the global random for tests on virtual time: aiocoap draws message IDs and retransmission times from it."""
    if request.node.get_closest_marker("virtual_time") is None:
        yield
        return
    with seeded_random(_seed_of(request.node)):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and _SEED in item.stash:
        report.sections.append(("seed", f"replay this test with --seed {item.stash[_SEED]}"))
    return report


@pytest.fixture(scope="session")
def vectors_dir() -> Path:
    """Other people's SUIT and COSE vectors: OTA_VECTORS, or ``shared/vectors`` next to the repository."""
    return expect_folder("OTA_VECTORS", "vectors")


@pytest.fixture(scope="session")
def firmware_dir() -> Path:
    """Pairs of real firmware versions: OTA_FIRMWARE, or ``shared/firmware`` next to the repository."""
    return expect_folder("OTA_FIRMWARE", "firmware")
