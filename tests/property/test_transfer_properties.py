"""Whatever the link does, a transfer ends with the right bytes, each handed out once, or with one error."""

import random

import aiocoap
import aiocoap.resource
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.aio.fetch import drive
from protocol.coap import message
from protocol.coap.message import Message
from protocol.coap.numbers import Code, Type
from protocol.errors import OtaError
from protocol.link.netem import LinkSpec
from protocol.transfer.events import BlockReceived, Completed, Output, Restarted
from protocol.transfer.ranges import Ranges
from protocol.transfer.receiver import FetchPlan, Receiver, Resume
from tests.support.block_server import Asked, BlockServer, Replies, play
from tests.support.memory_link import MemoryNetwork
from tests.support.virtual_loop import run_virtual

pytestmark = pytest.mark.property
DATA = random.Random(5).randbytes(20_000)
BAD_LINKS = [
    "delay 50ms",
    "delay 50ms loss 20%",
    "delay 30ms 30ms loss 10% duplicate 20% reorder 20%",
    "delay 300ms 100ms loss 35% duplicate 2%",
    "delay 20ms loss 5% rate 50kbit",
]


class _Stock(aiocoap.resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    """As most servers are written: the library slices, and wants block 0 first."""

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=DATA)


def _stateless(network: MemoryNetwork) -> None:
    server = BlockServer(DATA)

    def receive(source: str, datagram: bytes) -> None:
        for _, answer in server(datagram):
            network.send("server", source, answer)

    network.attach("server", receive, is_server=True)


async def _fetch(seed: int, link: str, stock: bool, szx: int = 6) -> tuple[bytes, list[int], MemoryNetwork]:
    spec = LinkSpec.parse(link)
    network = MemoryNetwork(seed=seed, up=spec, down=spec)
    if stock:
        site = aiocoap.resource.Site()
        site.add_resource(["p", "fw"], _Stock())
        await network.serve(site)
    else:
        _stateless(network)
    endpoint = network.endpoint("device")
    image, offsets = bytearray(len(DATA)), list[int]()

    def handle(output: Output) -> None:
        assert not isinstance(output, Restarted)
        if isinstance(output, BlockReceived):
            image[output.offset : output.offset + len(output.data)] = output.data
            offsets.append(output.offset)

    plan = FetchPlan(path="/p/fw", max_size=1 << 20, expected_size=len(DATA), szx=szx)
    final = await drive(Receiver(plan, random.Random(seed)), endpoint, handle)
    assert final == Completed(size=len(DATA))
    endpoint.close()
    await network.close()
    return bytes(image), offsets, network


def _run(seed: int, link: str, stock: bool, szx: int = 6) -> tuple[bytes, list[int], MemoryNetwork]:
    return run_virtual(lambda: _fetch(seed, link, stock, szx), seed=seed)


@pytest.mark.faults
@pytest.mark.parametrize("stock", [True, False], ids=["stock aiocoap", "stateless"])
@pytest.mark.parametrize("link", BAD_LINKS)
def test_a_bad_link_delivers_every_byte_once(link: str, stock: bool, seed: int) -> None:
    lost = 0
    for n in range(6):
        image, offsets, network = _run(seed + n, link, stock)
        assert image == DATA
        assert offsets and len(offsets) == len(set(offsets)) == 20
        lost += network.stats().up.lost + network.stats().down.lost
    if "loss" in link:
        assert lost > 0


@pytest.mark.faults
def test_one_seed_gives_the_same_datagrams_at_the_same_times(seed: int) -> None:
    link = "delay 30ms 30ms loss 20% duplicate 5% reorder 5%"
    first, again, other = (_run(n, link, stock=True, szx=4)[2].trace for n in (seed, seed, seed + 1))
    assert first == again
    assert first != other
    assert len(first) > 160


@pytest.mark.faults
def test_small_blocks_over_a_bad_link_to_a_stock_server(seed: int) -> None:
    image, _, _ = _run(seed, "delay 50ms loss 20% duplicate 5%", stock=True, szx=2)
    assert image == DATA


# A link that hypothesis draws: for each request, when which copies of the answer arrive.
_COPIES = st.lists(st.floats(0.001, 20.0), max_size=3)


@given(
    size=st.integers(0, 3_000),
    szx=st.integers(0, 6),
    server_szx=st.integers(0, 6),
    window=st.integers(1, 9),
    size2=st.sampled_from([True, None]),
    signed=st.booleans(),
    separate=st.booleans(),
    have=st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 3_000)), max_size=5),
    links=st.lists(_COPIES, max_size=60),
)
@settings(max_examples=150, deadline=None)
def test_any_loss_duplication_and_order_gives_the_right_bytes(
    size: int,
    szx: int,
    server_szx: int,
    window: int,
    size2: bool | None,
    signed: bool,
    separate: bool,
    have: list[tuple[int, int]],
    links: list[list[float]],
) -> None:
    data = DATA[:size]
    server = BlockServer(data, szx=server_szx, size2=size2)

    def script(asked: Asked) -> Replies | None:
        if asked.count >= len(links):
            return None  # the link is good from here on, so that the transfer ends
        kind = Type.CON if separate else Type.ACK
        return [
            (delay, server.answer(asked, kind=kind, message_id=asked.count if separate else None))
            for delay in links[asked.count]
        ]

    server.script = script
    resume = Resume(etag=b"etag", size=size, have=tuple(have)) if have else None
    plan = FetchPlan(
        path="/p/fw",
        max_size=3_000,
        expected_size=size if signed else None,
        szx=szx,
        window=window,
        stall_s=3_600.0,
        resume=resume,
    )
    played = play(Receiver(plan, random.Random(size)), server)
    assert played.size == size
    missing = list(Ranges((start, min(end, size)) for start, end in have).gaps(size))
    assert sum(len(piece) for piece in played.held.values()) == sum(end - start for start, end in missing)
    assert all(data[at : at + len(piece)] == piece for at, piece in played.held.items())
    assert all(
        any(start <= at and at + len(piece) <= end for start, end in missing) for at, piece in played.held.items()
    )


_OPTIONS = st.lists(
    st.tuples(st.sampled_from([4, 6, 8, 12, 14, 23, 23, 23, 27, 28, 60, 9]), st.binary(max_size=5)), max_size=4
)


@given(
    answers=st.lists(
        st.tuples(
            st.sampled_from(list(Type)),
            st.sampled_from([0x45, 0x45, 0x45, 0x44, 0x80, 0x84, 0x88, 0xA0, 0xA3, 0x00, 0x01, 0xE0]),
            st.booleans(),
            st.booleans(),
            _OPTIONS,
            st.one_of(st.binary(max_size=20), st.sampled_from([bytes(16), bytes(64), bytes(1_024)])),
        ),
        min_size=1,
        max_size=12,
    ),
    resume=st.booleans(),
    signed=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_peer_that_answers_anything_gets_one_end_in_bounded_time(
    answers: list[tuple[Type, int, bool, bool, message.Options, bytes]], resume: bool, signed: bool
) -> None:
    count = 0

    def peer(datagram: bytes) -> Replies:
        nonlocal count
        found = message.decode(datagram)
        if found.code != Code.GET:
            return []
        kind, code, right_token, right_id, options, payload = answers[count % len(answers)]
        count += 1
        empty = code == Code.EMPTY
        answer = Message(
            type=kind,
            code=code,
            message_id=found.message_id if right_id else 9,
            token=b"" if empty else found.token if right_token else b"xxxx",
            options=() if empty else options,
            payload=b"" if empty else payload,
        )
        return [(0.05, message.encode(answer))]

    plan = FetchPlan(
        path="/p/fw",
        max_size=5_000,
        expected_size=4_000 if signed else None,
        stall_s=30.0,
        deadline_s=3_600.0,
        resume=Resume(etag=b"e", size=4_000, have=((0, 1_000),)) if resume else None,
    )
    played = play(Receiver(plan, random.Random(1)), peer, limit=30_000)
    if isinstance(played.final, Completed):
        held = 1_000 if resume and not played.restarts else 0
        assert played.size == len(played.data) + held <= 5_000
        assert not signed or played.size == 4_000
    else:
        assert isinstance(played.error, OtaError)
    assert played.now <= 3_600.0
