"""A whole world in one process: the real server application and real devices, over a lossy link in memory.

The server is everything but its socket: services, SQLite, artifacts, aiocoap. The device is everything but its socket
and its flash file. On a virtual-time loop an update over a bad link takes a fraction of a second.
"""

import asyncio
import hashlib
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coap_device.agent import Agent, RunResult
from coap_device.config import CutPlan, DeviceConfig, ServerAddress
from coap_device.factory import factory_record, write_factory_data
from coap_device.firmware import SelfTest
from coap_device.hardware.flash import MemoryBacking
from coap_device.hardware.layout import Geometry, Layout
from coap_device.hardware.power import PowerPlan
from coap_server.app import Application, Storage
from coap_server.services.publish import PublishRequest, PublishResult, prepare, publish
from protocol.cose.algorithms import KeyKind
from protocol.cose.keys import PrivateKey, generate
from protocol.link.netem import LinkSpec
from protocol.trace import Event
from tests.support.memory_link import PERFECT, MemoryNetwork

MODEL = "board-a"
SERVER = "server"


@dataclass(frozen=True)
class Published:
    """A data folder with releases in it; made once, copied for every world. ``images`` by version."""

    folder: Path
    key: PrivateKey
    images: dict[str, bytes]
    results: dict[str, PublishResult]

    @property
    def anchors(self) -> tuple[bytes, ...]:
        return (self.key.public.to_cose_key(),)


def publish_all(
    folder: Path,
    versions: Sequence[tuple[str, bytes]],
    *,
    for_slot_b: Mapping[str, bytes] | None = None,
    kind: KeyKind = KeyKind.P256,
    with_deltas: bool = True,
) -> Published:
    """Publish ``versions`` (name, image), oldest first, into ``folder``; the deltas come from the real process pool.

    ``for_slot_b`` gives the versions that come linked for each slot their image for slot B.
    """
    key = generate(kind)
    folder.mkdir(parents=True)
    pem = folder / "key.pem"
    pem.write_bytes(key.to_pem())

    async def work() -> dict[str, PublishResult]:
        storage = await Storage.open(folder / "data", create=True)
        results = {}
        try:
            for version, image in versions:
                path = folder / f"{version}.bin"
                path.write_bytes(image)
                image_b = None
                if for_slot_b is not None and version in for_slot_b:
                    image_b = folder / f"{version}-b.bin"
                    image_b.write_bytes(for_slot_b[version])
                request = PublishRequest(
                    image=path, image_b=image_b, model=MODEL, version=version, key=pem, with_deltas=with_deltas
                )
                results[version] = await publish(prepare(request), storage.database, storage.blobs)
        finally:
            await storage.close()
        return results

    return Published(folder=folder / "data", key=key, images=dict(versions), results=asyncio.run(work()))


@dataclass
class World:
    """A server and the network around it. Make it with `open_world`, inside a running loop."""

    published: Published
    network: MemoryNetwork
    storage: Storage
    folder: Path
    seed: int
    events: list[Event] = field(default_factory=list)
    _endpoints: int = 0

    def device(
        self,
        version: str,
        *,
        name: str = "dev",
        backing: MemoryBacking | None = None,
        power: PowerPlan | None = None,
        self_test: SelfTest = SelfTest.PASS,
        cuts: CutPlan | None = None,
        geometry: Geometry | None = None,
        anchors: tuple[bytes, ...] | None = None,
        model: str = MODEL,
        szx: int = 6,
        once: bool = True,
    ) -> tuple[Agent, MemoryBacking]:
        """Return a device that runs ``version``, and its flash chip."""
        config = DeviceConfig(
            server=ServerAddress(host=SERVER, port=5683),
            state=Path("unused"),
            device_id=name,
            model=model,
            geometry=geometry or Geometry(slot_size=262_144),
            self_test=self_test,
            cuts=cuts or CutPlan(),
            once=once,
            block_szx=szx,
        )
        if backing is None:
            backing = make_chip(config, self.published.images[version], anchors or self.published.anchors)

        async def connect() -> object:
            self._endpoints += 1
            return self.network.endpoint(f"{name}:{self._endpoints}", SERVER)

        agent = Agent(
            config,
            backing,
            connect,  # type: ignore[arg-type]  # a MemoryEndpoint is an Endpoint
            random.Random(self.seed),
            power=power,
            emit=self.events.append,
        )
        return agent, backing

    async def close(self) -> None:
        """Take everything down."""
        await self.network.close()
        await self.storage.close()


def make_chip(config: DeviceConfig, image: bytes, anchors: tuple[bytes, ...]) -> MemoryBacking:
    """Return a provisioned flash chip."""
    backing = MemoryBacking(Layout.of(config.geometry).size)
    write_factory_data(backing, factory_record(config, image, anchors), image)
    return backing


async def open_world(
    published: Published, folder: Path, *, seed: int = 1, link: LinkSpec = PERFECT, poll_s: int = 60
) -> World:
    """Start a world on a copy of ``published`` under ``folder``."""
    copy = folder / "world"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(published.folder, copy)
    storage = await Storage.open(copy, create=False, inline=True)
    network = MemoryNetwork(seed=seed, up=link, down=link)
    application = Application(storage.database, storage.blobs, poll_s=poll_s)
    await network.serve(application.site, SERVER)
    return World(published=published, network=network, storage=storage, folder=copy, seed=seed)


def digest_of(image: bytes) -> bytes:
    """Return the SHA-256 of ``image``."""
    return hashlib.sha256(image).digest()


def runs(result: RunResult, image: bytes) -> bool:
    """Whether ``result`` runs ``image``."""
    return result.image_digest == digest_of(image) and result.image_size == len(image)
