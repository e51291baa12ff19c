import asyncio
import importlib.metadata
import inspect
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiocoap
import aiocoap.resource
import pytest
from aiocoap import GET, PUT, Message, interfaces
from aiocoap.transports.udp6 import MessageInterfaceUDP6

from protocol.aio import context as module
from protocol.aio.context import AddressError, PortInUse, ServerContext, server_context
from protocol.aio.sockets import enlarge_receive_buffer
from protocol.link.netem import LinkSpec
from tests.support.memory_link import MemoryNetwork
from tests.support.virtual_loop import run_virtual

BODY = bytes(range(256)) * 40
Serve = Callable[..., Awaitable[ServerContext]]


class _Counter(aiocoap.resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    """Serves BODY and remembers what was put."""

    def __init__(self) -> None:
        super().__init__()
        self.put: list[bytes] = []

    async def render_get(self, request: Message) -> Message:
        return Message(payload=BODY)

    async def render_put(self, request: Message) -> Message:
        self.put.append(request.payload)
        return Message(code=aiocoap.CHANGED)


def _site(resource: _Counter | None = None) -> aiocoap.resource.Site:
    site = aiocoap.resource.Site()
    site.add_resource(["body"], resource or _Counter())
    return site


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(host: str = "127.0.0.1", port: int = 0) -> ServerContext:
            server = await server_context(_site(), host, port)
            stack.push_async_callback(server.close)
            return server

        yield start


async def _get(uri: str) -> bytes:
    client = await aiocoap.Context.create_client_context(transports=["udp6"])
    try:
        response = await client.request(Message(code=GET, uri=uri)).response
        return bytes(response.payload)
    finally:
        await client.shutdown()


def test_the_unstable_parts_of_aiocoap_are_where_they_were() -> None:
    """If this fails, aiocoap has moved: read protocol/aio/context.py against the new version, then change the pin."""
    assert importlib.metadata.version("aiocoap") == module.AIOCOAP_VERSION
    parameters = inspect.signature(MessageInterfaceUDP6._create_transport_endpoint).parameters
    assert list(parameters) == ["sock", "ctx", "log", "loop", "multicast"]
    parameters = inspect.signature(aiocoap.Context._append_tokenmanaged_messagemanaged_transport).parameters
    assert list(parameters) == ["self", "message_interface_constructor"]
    assert interfaces.MessageInterface.__abstractmethods__ == {"shutdown", "send", "determine_remote"}
    assert interfaces.EndpointAddress.__abstractmethods__ == {
        *("hostinfo", "hostinfo_local", "uri_base", "uri_base_local"),
        *("is_multicast", "is_multicast_locally", "scheme", "blockwise_key"),
    }
    for name in ("requested_scheme", "unresolved_remote", "decode", "encode"):
        assert hasattr(Message, name), name
    assert hasattr(interfaces.MessageManager, "dispatch_message")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_a_server_answers_at_the_address_it_reports(serve: Serve, host: str) -> None:
    server = await serve(host)
    assert server.port > 0
    assert server.host in ("127.0.0.1", "::1")
    assert await _get(f"{server.uri}/body") == BODY


async def test_a_server_on_all_addresses_answers_on_both_families(serve: Serve) -> None:
    server = await serve("::")
    assert server.uri == f"coap://[::]:{server.port}"
    assert await _get(f"coap://127.0.0.1:{server.port}/body") == BODY
    assert await _get(f"coap://[::1]:{server.port}/body") == BODY


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("127.0.0.1", "::"),
        ("::", "127.0.0.1"),
        ("::", "::1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "0.0.0.0"),
    ],
)
async def test_a_second_server_on_the_port_is_refused_at_once(serve: Serve, first: str, second: str) -> None:
    port = (await serve(first)).port
    expected = f"port {port} on {second} is in use: stop the other server or choose another with --coap HOST:PORT"
    with pytest.raises(PortInUse) as caught:
        await serve(second, port)
    assert str(caught.value) == expected


async def test_a_port_whose_owner_would_share_it_is_refused_all_the_same(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOCOAP_REUSE_PORT", "1")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("::ffff:127.0.0.1", 0))
        with pytest.raises(PortInUse):
            await serve("127.0.0.1", other.getsockname()[1])


async def test_a_program_that_would_share_does_not_get_our_port(serve: Serve) -> None:
    server = await serve("127.0.0.1")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="Address already in use"):
            other.bind(("::ffff:127.0.0.1", server.port))


async def test_a_port_is_free_again_after_close() -> None:
    first = await server_context(_site(), "127.0.0.1", 0)
    await first.close()
    second = await server_context(_site(), "127.0.0.1", first.port)
    assert second.port == first.port
    await second.close()


async def test_an_address_of_another_machine_is_refused(serve: Serve) -> None:
    with pytest.raises(AddressError, match=r"192\.0\.2\.1 is no address of this machine; use one of its own"):
        await serve("192.0.2.1")


async def test_a_host_name_that_does_not_resolve_is_refused(serve: Serve) -> None:
    with pytest.raises(AddressError, match=r"cannot resolve host 'no-such-host\.invalid'"):
        await serve("no-such-host.invalid")


async def test_a_port_out_of_range_is_refused(serve: Serve) -> None:
    with pytest.raises(AddressError, match="port 70000 of ::1: expected 0 to 65535"):
        await serve("::1", 70000)


def test_the_receive_buffer_grows_as_far_as_the_kernel_lets_it() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert enlarge_receive_buffer(sock) == sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= before


Trace = list[tuple[float, str, str, bytes]]
LOSSY = LinkSpec.parse("delay 50ms 20ms loss 20% duplicate 5%")


def _transfer(seed: int) -> tuple[bytes, Trace, MemoryNetwork]:
    async def main() -> tuple[bytes, Trace, MemoryNetwork]:
        network = MemoryNetwork(seed, LOSSY, LOSSY)
        await network.serve(_site())
        client = await network.client("device-1")
        response = await client.request(Message(code=GET, uri="coap://server/body")).response
        await network.close()
        return response.payload, network.trace, network

    return run_virtual(main, seed)


def test_a_block_wise_transfer_over_a_lossy_network_in_memory_is_whole() -> None:
    body, trace, network = _transfer(5)
    assert body == BODY
    stats = network.stats()
    assert stats.up.lost > 0
    assert stats.down.lost > 0
    assert stats.up.sent + stats.down.sent == len(trace)
    assert stats.clients == 1
    assert trace[-1][0] > 1.0, "virtual seconds"


def test_the_same_seed_gives_the_same_datagrams_at_the_same_times() -> None:
    first, second, other = (_transfer(seed)[1] for seed in (5, 5, 6))
    assert first == second
    assert first != other


@pytest.mark.virtual_time
async def test_a_block1_request_reaches_a_server_in_memory() -> None:
    resource = _Counter()
    network = MemoryNetwork()
    await network.serve(_site(resource))
    client = await network.client("device-1")
    response = await client.request(Message(code=PUT, payload=BODY, uri="coap://server/body")).response
    assert response.code == aiocoap.CHANGED
    assert resource.put == [BODY]
    await network.close()


@pytest.mark.virtual_time
async def test_a_plain_endpoint_talks_to_a_server_in_memory() -> None:
    network = MemoryNetwork(1, LinkSpec(delay_s=1.0), LinkSpec(delay_s=2.0))
    await network.serve(_site())
    endpoint = network.endpoint("device-1")
    received: list[tuple[float, bytes]] = []
    endpoint.set_receiver(lambda data: received.append((asyncio.get_running_loop().time(), data)))
    endpoint.send(bytes.fromhex("4001 1234 b4") + b"body")  # CON GET, message ID 0x1234
    await asyncio.sleep(10)
    assert [(when, data[:4].hex()) for when, data in received] == [(3.0, "60451234")]  # ACK 2.05
    endpoint.close()
    await network.close()


@pytest.mark.virtual_time
async def test_what_is_no_coap_is_ignored_by_a_server_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    network = MemoryNetwork()
    await network.serve(_site())
    endpoint = network.endpoint("device-1")
    with caplog.at_level(logging.DEBUG, logger="protocol.aio.context"):
        for datagram in (b"", b"\x40", b"\xc0\x01\x00\x00", b"\x40\x01\x00\x00\xff\xf0"):
            endpoint.send(datagram)
        await asyncio.sleep(1)
    assert "is no CoAP" in caplog.text
    await network.close()


@pytest.mark.virtual_time
async def test_a_request_to_a_node_that_is_not_there_times_out() -> None:
    network = MemoryNetwork()
    client = await network.client("device-1")
    with pytest.raises(aiocoap.error.ConRetransmitsExceeded):
        await client.request(Message(code=GET, uri="coap://nobody/x")).response
    assert network.stats().errors == 5  # the request and MAX_RETRANSMIT more
    assert asyncio.get_running_loop().time() > 31 * 2.0  # RFC 7252 section 4.8.2: MAX_TRANSMIT_WAIT
    await network.close()
