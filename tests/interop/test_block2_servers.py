"""Our receiver against other people's Block2 servers over loopback UDP: libcoap's coap-server and stock aiocoap."""

import asyncio
import random
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import aiocoap
import aiocoap.resource
import pytest

from protocol.aio.endpoint import UdpEndpoint, open_udp
from protocol.aio.fetch import ask, drive
from protocol.aio.relay import Relay
from protocol.coap.numbers import Code
from protocol.errors import RequestRefused
from protocol.link.netem import LinkSpec
from protocol.transfer.events import BlockReceived, Completed, Described, Output
from protocol.transfer.exchange import Exchange
from protocol.transfer.receiver import FetchPlan, Receiver, Resume
from tests.support.expect import expect_tool

pytestmark = pytest.mark.interop
DATA = random.Random(11).randbytes(100_000)
HOST = "127.0.0.1"


class _Resource(aiocoap.resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=DATA)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
def libcoap() -> Iterator[int]:
    """The port of a coap-server that lets resources be put."""
    port = _free_port()
    command = [expect_tool("coap-server-notls"), "-A", HOST, "-p", str(port), "-d", "10"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield port
        process.terminate()


@pytest.fixture
async def stock() -> AsyncIterator[int]:
    """The port of an aiocoap server with a resource that leaves slicing to the library."""
    site = aiocoap.resource.Site()
    site.add_resource(["fw"], _Resource())
    port = _free_port()
    context = await aiocoap.Context.create_server_context(site, bind=(HOST, port), transports=["udp6"])
    yield port
    await context.shutdown()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as found:
        yield found


async def _open(stack: AsyncExitStack, port: int) -> UdpEndpoint:
    endpoint = await open_udp(HOST, port)
    stack.callback(endpoint.close)
    return endpoint


async def _put(port: int, data: bytes) -> None:
    """Put a representation with stock aiocoap; a server that is still starting loses the first datagrams."""
    client = await aiocoap.Context.create_client_context(transports=["udp6"])
    try:
        put = aiocoap.Message(code=aiocoap.PUT, uri=f"coap://{HOST}:{port}/fw", payload=data)
        response = await client.request(put).response
        assert response.code.is_successful()
    finally:
        await client.shutdown()


async def _fetch(endpoint: UdpEndpoint, plan: FetchPlan) -> tuple[bytes, Receiver, list[Output]]:
    image, outputs = bytearray(len(DATA)), list[Output]()

    def handle(output: Output) -> None:
        outputs.append(output)
        if isinstance(output, BlockReceived):
            image[output.offset : output.offset + len(output.data)] = output.data

    machine = Receiver(plan, random.Random(1))
    assert await drive(machine, endpoint, handle) == Completed(size=len(DATA))
    return bytes(image), machine, outputs


@pytest.mark.parametrize("szx", [6, 4])
async def test_libcoap_gives_a_representation_that_was_put(libcoap: int, stack: AsyncExitStack, szx: int) -> None:
    await _put(libcoap, DATA)
    endpoint = await _open(stack, libcoap)
    image, machine, outputs = await _fetch(endpoint, FetchPlan(path="/fw", max_size=1 << 20, szx=szx))
    assert image == DATA
    assert isinstance(outputs[0], Described)
    assert outputs[0].size == len(DATA)
    assert machine.requests_sent - machine.requests_resent == -(-len(DATA) // (16 << szx))


async def test_a_transfer_from_libcoap_goes_on_where_it_was(libcoap: int, stack: AsyncExitStack) -> None:
    await _put(libcoap, DATA)
    endpoint = await _open(stack, libcoap)
    _, _, outputs = await _fetch(endpoint, FetchPlan(path="/fw", max_size=1 << 20))
    assert isinstance(outputs[0], Described)
    resume = Resume(etag=outputs[0].etag, size=len(DATA), have=((0, 51_200),))
    image, machine, _ = await _fetch(endpoint, FetchPlan(path="/fw", max_size=1 << 20, resume=resume))
    assert image == bytes(51_200) + DATA[51_200:]
    assert machine.requests_sent - machine.requests_resent <= 50


async def test_libcoap_refuses_what_it_does_not_have(libcoap: int, stack: AsyncExitStack) -> None:
    await _put(libcoap, b"started")
    endpoint = await _open(stack, libcoap)
    with pytest.raises(RequestRefused, match=r"^/nothing: 4\.04"):
        await drive(Receiver(FetchPlan(path="/nothing", max_size=10), random.Random(1)), endpoint)


async def test_libcoap_takes_a_single_request(libcoap: int, stack: AsyncExitStack) -> None:
    await _put(libcoap, b"started")
    endpoint = await _open(stack, libcoap)
    response = await ask(Exchange(Code.GET, "/fw", random.Random(1)), endpoint)
    assert (response.code, response.payload) == (Code.CONTENT, b"started")


async def test_stock_aiocoap_gives_every_byte(stock: int, stack: AsyncExitStack) -> None:
    endpoint = await _open(stack, stock)
    image, machine, _ = await _fetch(endpoint, FetchPlan(path="/fw", max_size=1 << 20))
    assert image == DATA
    assert machine.requests_sent - machine.requests_resent == 98


async def test_stock_aiocoap_gives_the_rest_though_it_wants_block_0_first(stock: int, stack: AsyncExitStack) -> None:
    endpoint = await _open(stack, stock)
    _, _, outputs = await _fetch(endpoint, FetchPlan(path="/fw", max_size=1 << 20))
    assert isinstance(outputs[0], Described)
    resume = Resume(etag=outputs[0].etag, size=len(DATA), have=((0, 51_200),))
    fresh = await _open(stack, stock)  # another port: to the server, a client it never saw
    image, machine, _ = await _fetch(fresh, FetchPlan(path="/fw", max_size=1 << 20, resume=resume))
    assert image == bytes(51_200) + DATA[51_200:]
    assert machine.requests_sent - machine.requests_resent <= 51


async def test_stock_aiocoap_behind_a_bad_link_gives_every_byte(stock: int, stack: AsyncExitStack) -> None:
    spec = LinkSpec.parse("delay 5ms loss 10%")
    relay = Relay((HOST, stock), spec, spec, seed=1)
    _, port = await relay.start()
    stack.push_async_callback(relay.close)
    endpoint = await _open(stack, port)
    async with asyncio.timeout(60):
        image, machine, _ = await _fetch(endpoint, FetchPlan(path="/fw", max_size=1 << 20))
    assert image == DATA
    assert machine.requests_resent > 0
    assert relay.stats().up.lost + relay.stats().down.lost > 0
