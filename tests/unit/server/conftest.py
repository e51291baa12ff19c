"""What the server's tests share: keys, firmware files, an open data folder, a served application."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiocoap
import pytest
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.optiontypes import OpaqueOption

from coap_server.app import Application, Storage
from coap_server.cli import main
from coap_server.services.publish import PublishRequest, PublishResult, prepare, publish
from protocol.aio.context import ServerContext, server_context
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import generate
from tests.support.firmware import make_firmware, mutate

MODEL = "plug"


@dataclass(frozen=True)
class Bench:
    """A folder with an ESP256 and an Ed25519 key, and three versions of a firmware."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def key(self) -> Path:
        return self.folder / "esp256.pem"

    @property
    def riot_key(self) -> Path:
        return self.folder / "ed25519.pem"

    def image(self, number: int) -> Path:
        path = self.folder / f"fw-{number}.bin"
        if not path.exists():
            image = make_firmware(7, 40_000)
            for version in range(1, number):
                image = mutate(image, version, changes=3, growth=64)
            path.write_bytes(image)
        return path

    def request(self, number: int, **changes: Any) -> PublishRequest:
        values: dict[str, Any] = {
            "image": self.image(number),
            "model": MODEL,
            "version": f"{number}.0",
            "key": self.key,
        }
        return PublishRequest(**(values | changes))


@pytest.fixture(scope="session")
def _keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "esp256.pem").write_bytes(generate(KeyKind.P256).to_pem())
    (folder / "ed25519.pem").write_bytes(generate(KeyKind.ED25519).to_pem())
    return folder


@pytest.fixture
def bench(tmp_path: Path, _keys: Path) -> Bench:
    for name in ("esp256.pem", "ed25519.pem"):
        (tmp_path / name).write_bytes((_keys / name).read_bytes())
    return Bench(tmp_path)


@pytest.fixture
async def storage(bench: Bench) -> AsyncIterator[Storage]:
    opened = await Storage.open(bench.data, create=True)
    yield opened
    await opened.close()


Publish = Callable[..., Awaitable[PublishResult]]


@pytest.fixture
def publishing(bench: Bench, storage: Storage) -> Publish:
    """Publish version ``number`` of the firmware; without deltas unless asked, since they take a process."""

    async def work(number: int, **changes: Any) -> PublishResult:
        request = bench.request(number, **({"with_deltas": False} | changes))
        return await publish(prepare(request), storage.database, storage.blobs)

    return work


@dataclass(frozen=True)
class Served:
    application: Application
    context: ServerContext
    client: aiocoap.Context

    async def request(
        self,
        path: str,
        code: aiocoap.Code = aiocoap.GET,
        payload: bytes = b"",
        *,
        extra: tuple[int, bytes] | None = None,
        **options: Any,
    ) -> aiocoap.Message:
        """Send one request, with an ``extra`` option by number, and return the answer to it, no block after it."""
        message = aiocoap.Message(code=code, uri=self.context.uri + path, payload=payload)
        if extra is not None:
            message.opt.add_option(OpaqueOption(OptionNumber(extra[0]), extra[1]))
        for name, value in options.items():
            setattr(message.opt, name, value)
        return await self.client.request(message, handle_blockwise=False).response

    async def fetch(self, path: str) -> bytes:
        """Fetch a whole representation with aiocoap's own block-wise transfer."""
        message = aiocoap.Message(code=aiocoap.GET, uri=self.context.uri + path)
        return bytes((await self.client.request(message).response_raising).payload)


@pytest.fixture
async def served(storage: Storage) -> AsyncIterator[Served]:
    application = Application(storage.database, storage.blobs, poll_s=60)
    context = await server_context(application.site, "127.0.0.1", 0)
    client = await aiocoap.Context.create_client_context(transports=["udp6"])
    yield Served(application, context, client)
    await client.shutdown()
    await context.close()


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ended]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run ``ota-server`` with these arguments, in this process."""

    def run(*arguments: object) -> Ended:
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return run


def listing(folder: Path) -> dict[str, bytes]:
    """Return every file below ``folder`` with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
