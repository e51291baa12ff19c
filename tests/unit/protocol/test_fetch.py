import asyncio
import random

import aiocoap
import aiocoap.resource
import pytest

from protocol.aio.endpoint import Receiver as Inbox
from protocol.aio.fetch import ask, drive
from protocol.coap.numbers import Code
from protocol.errors import RequestRefused, TransferTimeout
from protocol.link.netem import LinkSpec
from protocol.transfer.events import Answered, BlockReceived, Completed, Described, Output
from protocol.transfer.exchange import Exchange
from protocol.transfer.receiver import FetchPlan, Receiver
from tests.support.block_server import BlockServer
from tests.support.memory_link import MemoryNetwork
from tests.support.transfers import DATA, receiver

pytestmark = pytest.mark.virtual_time


class PowerOff(BaseException):
    """As a simulated power cut: no Exception."""


class _Endpoint:
    """An endpoint to a scripted peer, on the running loop."""

    def __init__(self, peer: BlockServer) -> None:
        self.peer = peer
        self.inbox: Inbox | None = None
        self.inboxes: list[Inbox | None] = []
        self.sent = 0

    def send(self, datagram: bytes) -> None:
        self.sent += 1
        for delay, answer in self.peer(datagram):
            asyncio.get_running_loop().call_later(delay, self.deliver, answer)

    def deliver(self, datagram: bytes) -> None:
        if self.inbox is not None:
            self.inbox(datagram)

    def set_receiver(self, receiver: Inbox | None) -> None:
        self.inbox = receiver
        self.inboxes.append(receiver)

    def close(self) -> None:
        self.inbox = None


async def test_every_output_but_datagrams_is_handed_to_the_caller_in_order() -> None:
    endpoint = _Endpoint(BlockServer(DATA))
    outputs: list[Output] = []
    final = await drive(receiver(), endpoint, outputs.append)
    assert final == outputs[-1] == Completed(size=len(DATA))
    assert isinstance(outputs[0], Described)
    assert [type(output) for output in outputs[1:-1]] == [BlockReceived] * 10
    assert asyncio.get_running_loop().time() == pytest.approx(0.3)
    assert endpoint.inbox is None


async def test_a_transfer_without_handler_completes() -> None:
    assert await drive(receiver(), _Endpoint(BlockServer(DATA))) == Completed(size=len(DATA))


async def test_the_error_of_a_machine_is_raised_and_was_handed_out() -> None:
    endpoint = _Endpoint(BlockServer(DATA, script=lambda asked: ()))
    outputs: list[Output] = []
    with pytest.raises(TransferTimeout, match="no new block for 600 s"):
        await drive(receiver(), endpoint, outputs.append)
    assert len(outputs) == 1
    assert endpoint.inbox is None
    assert asyncio.get_running_loop().time() == pytest.approx(600)


@pytest.mark.parametrize("error", [ValueError, PowerOff, asyncio.CancelledError])
async def test_whatever_the_handler_raises_surfaces_and_frees_the_endpoint(error: type[BaseException]) -> None:
    endpoint = _Endpoint(BlockServer(DATA))

    def handle(output: Output) -> None:
        if isinstance(output, BlockReceived) and output.offset == 3_072:
            raise error

    with pytest.raises(error):
        await drive(receiver(), endpoint, handle)
    assert endpoint.inbox is None
    sent = endpoint.sent
    await asyncio.sleep(1_000)
    assert endpoint.sent == sent


async def test_an_error_at_the_first_output_frees_the_endpoint() -> None:
    def handle(output: Output) -> None:
        raise PowerOff

    endpoint = _Endpoint(BlockServer(DATA))
    with pytest.raises(PowerOff):
        await drive(receiver(), endpoint, handle)
    assert endpoint.inbox is None


async def test_a_cancelled_transfer_frees_the_endpoint_and_its_timers() -> None:
    endpoint = _Endpoint(BlockServer(DATA, script=lambda asked: ()))
    task = asyncio.create_task(drive(receiver(), endpoint))
    await asyncio.sleep(20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert endpoint.inbox is None
    sent = endpoint.sent
    await asyncio.sleep(1_000)
    assert endpoint.sent == sent


async def test_datagrams_that_never_stop_do_not_put_a_timer_off() -> None:
    loop = asyncio.get_running_loop()
    endpoint = _Endpoint(BlockServer(DATA, script=lambda asked: ()))
    came = 0

    def flood() -> None:  # one datagram in every turn of the loop, as a socket under attack
        nonlocal came
        came += 1
        endpoint.deliver(b"garbage")
        if came < 1_000:
            loop.call_soon(flood)

    loop.call_later(599.9999999, flood)
    machine = Receiver(FetchPlan(path="/p/fw", max_size=1, stall_s=599.9999999), random.Random(1))
    with pytest.raises(TransferTimeout):
        await drive(machine, endpoint)
    assert came < 10


async def test_one_endpoint_serves_one_transfer_after_the_other() -> None:
    endpoint = _Endpoint(BlockServer(DATA))
    for _ in range(3):
        assert await drive(receiver(), endpoint) == Completed(size=len(DATA))
    assert [inbox is None for inbox in endpoint.inboxes] == [False, True] * 3


async def test_ask_takes_single_requests_only() -> None:
    with pytest.raises(TypeError, match="Receiver ended with Completed"):
        await ask(receiver(), _Endpoint(BlockServer(DATA)))


class _Echo(aiocoap.resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    """Counts posts; slow ones are answered separately."""

    def __init__(self, pause_s: float = 0.0, code: aiocoap.Code = aiocoap.CHANGED) -> None:
        super().__init__()
        self.pause_s, self.code = pause_s, code
        self.posts = 0

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        self.posts += 1
        await asyncio.sleep(self.pause_s)
        return aiocoap.Message(code=self.code, payload=request.payload[::-1])


async def _post(resource: _Echo, seed: int, link: str) -> Answered:
    spec = LinkSpec.parse(link)
    network = MemoryNetwork(seed=seed, up=spec, down=spec)
    site = aiocoap.resource.Site()
    site.add_resource(["echo"], resource)
    await network.serve(site)
    endpoint = network.endpoint("device")
    try:
        exchange = Exchange(Code.POST, "/echo", random.Random(seed), payload=b"abc")
        return Answered(response=await ask(exchange, endpoint))
    finally:
        endpoint.close()
        await network.close()


async def test_a_request_to_an_aiocoap_server_survives_loss_and_is_acted_on_once() -> None:
    lost = 0
    for seed in range(20):
        resource = _Echo()
        try:
            answer = await _post(resource, seed, "delay 50ms loss 30% duplicate 10%")
        except TransferTimeout:
            lost += 1
            continue
        assert answer.response.payload == b"cba"
        assert resource.posts == 1
    assert lost <= 3


async def test_a_slow_aiocoap_server_acknowledges_first_and_answers_later() -> None:
    resource = _Echo(pause_s=60.0)
    assert (await _post(resource, 1, "delay 50ms")).response.payload == b"cba"
    assert resource.posts == 1


async def test_an_error_of_an_aiocoap_server_is_raised() -> None:
    with pytest.raises(RequestRefused, match=r"/echo: 4\.03 cba"):
        await _post(_Echo(code=aiocoap.FORBIDDEN), 1, "delay 50ms")
