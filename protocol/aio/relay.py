"""A bad link for real: a UDP relay that loses, delays and doubles datagrams between any client and one server.

Each client address gets its own socket towards the server and its own pair of links, as each device has its own radio.
Its random numbers depend on the seed and on how many clients came before it, on nothing else.
"""

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from protocol.aio.sockets import Address, AddressError, connect_client, enlarge_receive_buffer, resolve
from protocol.link.netem import Link, LinkSpec, LinkStats

logger = logging.getLogger(__name__)


class Pipe:
    """One direction of a `Link` on the running loop, real or virtual: what comes out is handed to ``deliver``.

    ``deliver`` is always called from the loop, never from inside `send`, so two ends that answer each other over
    perfect links do not recurse.
    """

    def __init__(self, link: Link, deliver: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._deliver = deliver
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def stats(self) -> LinkStats:
        """The counters of the link, live."""
        return self._link.stats

    def send(self, data: bytes) -> None:
        """Put a datagram on the link, now."""
        if not self._closed:
            self._link.enqueue(self._loop.time(), data)
            self._arm()

    def close(self) -> None:
        """Forget what is still under way."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        when = self._link.next_time()
        if when is None or self._closed:
            return
        if self._timer is not None:
            # Most packets queue behind others: re-arming only for an earlier time is worth 5,000 datagrams/s.
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._drain, when)

    def _drain(self, when: float) -> None:
        self._timer = None
        # A loop may fire a timer early by its clock's resolution; the packet is due all the same.
        now = max(when, self._loop.time())
        try:
            while not self._closed and (data := self._link.dequeue(now)) is not None:
                self._deliver(data)
        finally:
            self._arm()


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayStats:
    """What passed both directions of all clients; ``up`` is towards the server.

    Attributes:
        up: datagrams from clients.
        down: datagrams from the server.
        clients: how many client addresses were seen.
        errors: ICMP errors and failed sends, ignored as a link would.
    """

    up: LinkStats
    down: LinkStats
    clients: int
    errors: int


class _Client(asyncio.DatagramProtocol):
    """The socket of one client towards the server, and its two directions."""

    def __init__(self, relay: "Relay", address: tuple[str, int], up: Link, down: Link) -> None:
        self._relay = relay
        self._transport: asyncio.DatagramTransport | None = None
        self._early: list[bytes] = []
        self._failed = False
        self.up = Pipe(up, self._to_server)
        self.down = Pipe(down, lambda data: relay.send_to_client(data, address))

    async def open(self, server: Address) -> None:
        try:
            sock = connect_client([server])
            enlarge_receive_buffer(sock)
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=sock)
        except (OSError, AddressError) as error:
            self._failed = True
            self._early.clear()
            self._relay.count_error(error)

    def close(self) -> None:
        self.up.close()
        self.down.close()
        if self._transport is not None:
            self._transport.abort()

    def _to_server(self, data: bytes) -> None:
        if self._failed:
            self._relay.count_error(AddressError("the socket towards the server could not be opened"))
        elif self._transport is None:
            self._early.append(data)  # the link was faster than the loop that opens the socket
        elif not self._transport.is_closing():
            self._transport.sendto(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # no subclass of it in Python 3.11
        for data in self._early:
            self._transport.sendto(data)
        self._early.clear()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.down.send(data)

    def error_received(self, exc: Exception) -> None:
        self._relay.count_error(exc)


class Relay(asyncio.DatagramProtocol):
    """A UDP relay with a bad link between every client and one server."""

    def __init__(self, target: tuple[str, int], up: LinkSpec, down: LinkSpec, seed: int) -> None:
        """Remember what to do; `start` opens the socket.

        Args:
            target: host and port of the server, IPv4 or IPv6.
            up: the link from each client to the server.
            down: the link from the server to each client.
            seed: client number n, from 0, draws from ``random.Random(f"{seed}/{n}/up")`` and ``.../down``.
        """
        self._target = target
        self._up, self._down, self._seed = up, down, seed
        self._server: Address | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._clients: dict[tuple[str, int], _Client] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._errors = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen and return the numeric host and the port; port 0 takes any free one.

        Raises:
            AddressError: the target does not resolve, or the listening address cannot be bound.
        """
        self._server = (await resolve(*self._target))[0]
        listen = (await resolve(host, port))[0]
        sock = socket.socket(listen.family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.bind(listen.sockaddr)
            enlarge_receive_buffer(sock)
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=sock)
        except OSError as error:
            sock.close()
            raise AddressError(f"the relay cannot bind {listen}: {error.strerror}; choose another port") from error
        bound = sock.getsockname()
        logger.info("relay on %s port %d, to %s", bound[0], bound[1], self._server)
        return bound[0], bound[1]

    def stats(self) -> RelayStats:
        """Return the counters so far, summed over all clients."""
        clients = self._clients.values()
        return RelayStats(
            up=LinkStats.total(client.up.stats for client in clients),
            down=LinkStats.total(client.down.stats for client in clients),
            clients=len(self._clients),
            errors=self._errors,
        )

    async def close(self) -> None:
        """Close every socket and drop what is under way; `stats` still answers."""
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for client in self._clients.values():
            client.close()
        if self._transport is not None:
            self._transport.abort()
        await asyncio.sleep(0)  # asyncio closes the sockets in the loop's next turn

    def send_to_client(self, data: bytes, address: tuple[str, int]) -> None:
        """Send what came out of a client's link to that client."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, address)

    def count_error(self, error: Exception) -> None:
        """Count an error of the network and go on."""
        self._errors += 1
        logger.debug("relay: datagram lost: %s", error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (called by asyncio)."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # no subclass of it in Python 3.11

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Put a client's datagram on its link, made at its first one (called by asyncio)."""
        client = self._clients.get(addr)
        if client is None:
            client = self._clients[addr] = self._make_client(addr)
        client.up.send(data)

    def error_received(self, exc: Exception) -> None:
        """Count an ICMP error: a client has gone (called by asyncio)."""
        self.count_error(exc)

    def _make_client(self, address: tuple[str, int]) -> _Client:
        assert self._server is not None  # noqa: S101 - a datagram can only arrive after start
        stem = f"{self._seed}/{len(self._clients)}"
        up = Link(self._up, random.Random(f"{stem}/up"))
        down = Link(self._down, random.Random(f"{stem}/down"))
        client = _Client(self, address, up, down)
        task = asyncio.get_running_loop().create_task(client.open(self._server))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return client
