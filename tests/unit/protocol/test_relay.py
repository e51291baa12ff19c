import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest

from protocol.aio.endpoint import UdpEndpoint, open_udp
from protocol.aio.relay import Pipe, Relay
from protocol.aio.sockets import AddressError
from protocol.link.netem import Link, LinkSpec

PERFECT = LinkSpec()
Starter = Callable[..., Awaitable[tuple[Relay, UdpEndpoint]]]


class _Echo(asyncio.DatagramProtocol):
    """Answers every datagram with itself and remembers who sent it."""

    def __init__(self) -> None:
        self.peers: set[tuple[str, int]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.peers.add(addr)
        self.transport.sendto(data, addr)


class _Inbox:
    """Collects what an endpoint receives and waits for a number of datagrams."""

    def __init__(self, endpoint: UdpEndpoint) -> None:
        self.received: list[bytes] = []
        self._arrived = asyncio.Event()
        endpoint.set_receiver(self._take)

    def _take(self, datagram: bytes) -> None:
        self.received.append(datagram)
        self._arrived.set()

    async def wait_for(self, count: int) -> list[bytes]:
        async with asyncio.timeout(20):
            while len(self.received) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.received


class _World:
    """An echo server, relays to it and endpoints on them, all closed at the end."""

    def __init__(self) -> None:
        self.echo = _Echo()
        self.relays: list[Relay] = []
        self.endpoints: list[UdpEndpoint] = []
        self.target = ("", 0)

    async def serve(self, host: str = "127.0.0.1") -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self.echo, local_addr=(host, 0))
        self.target = self.echo.transport.get_extra_info("sockname")[:2]

    async def relay(self, up: LinkSpec = PERFECT, down: LinkSpec = PERFECT, seed: int = 1) -> tuple[Relay, int]:
        relay = Relay(self.target, up, down, seed)
        self.relays.append(relay)
        host, port = await relay.start()
        assert host == "127.0.0.1"
        return relay, port

    async def client(self, port: int) -> tuple[UdpEndpoint, _Inbox]:
        endpoint = await open_udp("127.0.0.1", port)
        self.endpoints.append(endpoint)
        return endpoint, _Inbox(endpoint)

    async def close(self) -> None:
        for endpoint in self.endpoints:
            endpoint.close()
        for relay in self.relays:
            await relay.close()
        self.echo.transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[_World]:
    world = _World()
    await world.serve()
    yield world
    await world.close()


async def test_datagrams_pass_both_ways_and_are_counted(world: _World) -> None:
    relay, port = await world.relay()
    endpoint, inbox = await world.client(port)
    sent = [f"datagram {n}".encode() for n in range(20)]
    for datagram in sent:
        endpoint.send(datagram)
    assert await inbox.wait_for(20) == sent
    stats = relay.stats()
    assert (stats.up.sent, stats.up.delivered, stats.down.sent, stats.down.delivered) == (20, 20, 20, 20)
    assert stats.up.bytes_delivered == stats.down.bytes_sent == sum(map(len, sent))
    assert (stats.clients, stats.errors) == (1, 0)


async def test_each_client_has_its_own_socket_and_gets_its_own_answers(world: _World) -> None:
    relay, port = await world.relay(LinkSpec(delay_s=0.001), LinkSpec(delay_s=0.001))
    clients = [await world.client(port) for _ in range(3)]
    for number, (endpoint, _) in enumerate(clients):
        endpoint.send(b"client %d" % number)
    for number, (_, inbox) in enumerate(clients):
        assert await inbox.wait_for(1) == [b"client %d" % number]
    assert len(world.echo.peers) == relay.stats().clients == 3


async def test_an_ipv6_server_is_reached_from_an_ipv4_client(world: _World) -> None:
    world.echo.transport.abort()
    await asyncio.sleep(0)
    await world.serve("::1")
    _, port = await world.relay()
    endpoint, inbox = await world.client(port)
    endpoint.send(b"six")
    assert await inbox.wait_for(1) == [b"six"]


async def test_the_same_seed_loses_the_same_datagrams(world: _World) -> None:
    async def survivors(seed: int) -> list[bytes]:
        relay, port = await world.relay(LinkSpec(loss_percent=50), PERFECT, seed)
        endpoint, inbox = await world.client(port)
        for number in range(100):
            endpoint.send(bytes([number]))
        async with asyncio.timeout(20):
            while relay.stats().up.sent < 100 or relay.stats().down.delivered < relay.stats().up.delivered:
                await asyncio.sleep(0.001)
        return list(await inbox.wait_for(relay.stats().down.delivered))

    first = await survivors(7)
    assert 20 < len(first) < 80
    assert await survivors(7) == first
    assert await survivors(8) != first


async def test_a_server_that_is_not_there_is_loss_and_counted(world: _World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        world.target = free.getsockname()
    relay, port = await world.relay()
    endpoint, inbox = await world.client(port)
    async with asyncio.timeout(20):
        while not relay.stats().errors:
            endpoint.send(b"anybody?")
            await asyncio.sleep(0.001)
    assert inbox.received == []


async def test_what_is_under_way_when_the_relay_closes_is_dropped(world: _World) -> None:
    relay, port = await world.relay(LinkSpec(delay_s=3600))
    endpoint, inbox = await world.client(port)
    endpoint.send(b"late")
    async with asyncio.timeout(20):
        while not relay.stats().up.sent:
            await asyncio.sleep(0.001)
    await relay.close()
    assert relay.stats().up.delivered == 0
    assert inbox.received == []


async def test_a_relay_on_a_port_in_use_says_so(world: _World) -> None:
    _, port = await world.relay()
    second = Relay(world.target, PERFECT, PERFECT, 1)
    with pytest.raises(AddressError, match=f"the relay cannot bind 127.0.0.1:{port}: .*choose another port"):
        await second.start(port=port)


async def test_an_endpoint_without_a_receiver_or_after_close_drops(world: _World) -> None:
    endpoint, inbox = await world.client(world.target[1])
    endpoint.send(b"one")
    await inbox.wait_for(1)
    endpoint.set_receiver(None)
    endpoint.send(b"two")
    other, other_inbox = await world.client(world.target[1])
    other.send(b"three")
    await other_inbox.wait_for(1)
    endpoint.close()
    endpoint.send(b"four")
    endpoint.close()
    assert inbox.received == [b"one"]


async def test_an_endpoint_takes_a_refused_datagram_as_loss(world: _World) -> None:
    world.echo.transport.abort()
    await asyncio.sleep(0)
    endpoint, inbox = await world.client(world.target[1])
    async with asyncio.timeout(20):
        while not endpoint.errors:
            endpoint.send(b"anybody?")
            await asyncio.sleep(0.001)
    assert inbox.received == []


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70, "two words", "127.0.0.1.5"])
async def test_a_host_that_does_not_resolve_is_named(host: str) -> None:
    with pytest.raises(AddressError, match=f"cannot resolve host '{host}': .*check the name or give an address"):
        await open_udp(host, 5683)


@pytest.mark.parametrize("port", [-1, 65536])
async def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(AddressError, match=f"port {port} of localhost: expected 0 to 65535"):
        await open_udp("localhost", port)


@pytest.mark.virtual_time
async def test_a_pipe_delivers_at_the_times_of_its_link() -> None:
    loop = asyncio.get_running_loop()
    arrivals: list[tuple[float, bytes]] = []
    link = Link(LinkSpec.parse("delay 50ms 40ms"), random.Random(3))
    pipe = Pipe(link, lambda data: arrivals.append((loop.time(), data)))
    for number in range(50):
        pipe.send(bytes([number]))
    await asyncio.sleep(0.009)
    assert arrivals == []
    await asyncio.sleep(0.1)
    assert [when for when, _ in arrivals] == sorted(when for when, _ in arrivals)
    assert sorted(data[0] for _, data in arrivals) == list(range(50))
    assert min(arrivals)[0] >= 0.01
    assert max(arrivals)[0] <= 0.09


@pytest.mark.virtual_time
async def test_a_receiver_that_fails_does_not_stop_the_pipe() -> None:
    loop = asyncio.get_running_loop()
    arrivals: list[bytes] = []
    complaints: list[object] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))

    def deliver(data: bytes) -> None:
        arrivals.append(data)
        if data == b"bad":
            raise ValueError("bad datagram")

    pipe = Pipe(Link(PERFECT, random.Random(3)), deliver)
    for data in (b"one", b"bad", b"two"):
        pipe.send(data)
    assert arrivals == [], "never from inside send"
    await asyncio.sleep(1)
    assert arrivals == [b"one", b"bad", b"two"]
    assert [str(complaint) for complaint in complaints] == ["bad datagram"]


async def test_a_server_without_a_route_is_loss_and_counted(world: _World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> socket.socket:
        raise AddressError("no route")

    monkeypatch.setattr("protocol.aio.relay.connect_client", refuse)
    relay, port = await world.relay()
    endpoint, inbox = await world.client(port)
    for _ in range(3):
        endpoint.send(b"anybody?")
    async with asyncio.timeout(20):
        while relay.stats().errors < 2:
            await asyncio.sleep(0.001)
    assert inbox.received == []
