"""A network of named nodes in memory: aiocoap servers and plain endpoints with a bad link between each two.

Every datagram passes the same `Link` and `Pipe` as on a real `Relay`. On a virtual-time loop the same seed gives the
same `MemoryNetwork.trace`, byte for byte.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import aiocoap
from aiocoap.resource import Site

from protocol.aio.context import memory_context
from protocol.aio.endpoint import Receiver
from protocol.aio.relay import Pipe, RelayStats
from protocol.link.netem import Link, LinkSpec, LinkStats

PERFECT = LinkSpec()


@dataclass
class _Node:
    receive: Callable[[str, bytes], None]
    is_server: bool


class MemoryNetwork:
    """The network. Make it inside a running loop.

    Attributes:
        trace: every datagram that was sent, lost ones too: time in seconds, source, destination, bytes.
        delivered: every datagram that arrived, in the same form.
        tamper: called with source, destination and bytes before the link; returns what to send, or None to lose it.
    """

    def __init__(self, seed: int = 1, up: LinkSpec = PERFECT, down: LinkSpec = PERFECT) -> None:
        """Start without nodes.

        Args:
            seed: each pair of nodes and direction draws from ``random.Random(f"{seed}/{source}/{destination}")``.
            up: the link from any node to a server.
            down: the link from a server to any other node, and between two nodes that are no servers.
        """
        self.trace: list[tuple[float, str, str, bytes]] = []
        self.delivered: list[tuple[float, str, str, bytes]] = []
        self.tamper: Callable[[str, str, bytes], bytes | None] | None = None
        self._loop = asyncio.get_running_loop()
        self._seed, self._up, self._down = seed, up, down
        self._nodes: dict[str, _Node] = {}
        self._pipes: dict[tuple[str, str], Pipe] = {}
        self._is_up: dict[tuple[str, str], bool] = {}
        self._contexts: list[aiocoap.Context] = []
        self._unreachable = 0

    async def serve(self, site: Site, name: str = "server") -> aiocoap.Context:
        """Start an unmodified aiocoap server at node ``name``: ``coap://name/...``."""
        return await self._context(site, name)

    async def client(self, name: str) -> aiocoap.Context:
        """Start an unmodified aiocoap client at node ``name``."""
        return await self._context(None, name)

    def endpoint(self, name: str, server: str = "server") -> "MemoryEndpoint":
        """Return an `Endpoint` at node ``name`` that talks to node ``server``."""
        return MemoryEndpoint(self, name, server)

    def stats(self) -> RelayStats:
        """Return what the links did so far; ``errors`` counts datagrams to nodes that are not there."""
        return RelayStats(
            up=LinkStats.total(pipe.stats for key, pipe in self._pipes.items() if self._is_up[key]),
            down=LinkStats.total(pipe.stats for key, pipe in self._pipes.items() if not self._is_up[key]),
            clients=sum(self._is_up.values()),
            errors=self._unreachable,
        )

    async def close(self) -> None:
        """Shut the contexts down and forget what is under way."""
        for context in self._contexts:
            await context.shutdown()
        self._contexts.clear()
        for pipe in self._pipes.values():
            pipe.close()

    def attach(self, name: str, receive: Callable[[str, bytes], None], *, is_server: bool = False) -> None:
        """Put a node on the network; a name is taken by one at a time."""
        if name in self._nodes:
            raise ValueError(f"node {name!r} is taken")
        self._nodes[name] = _Node(receive, is_server)

    def detach(self, name: str) -> None:
        """Take a node off; its links keep what is under way."""
        self._nodes.pop(name, None)

    def send(self, source: str, destination: str, datagram: bytes) -> None:
        """Put a datagram on the link between two nodes."""
        self.trace.append((self._loop.time(), source, destination, datagram))
        sent = datagram if self.tamper is None else self.tamper(source, destination, datagram)
        if sent is not None:
            self._pipe(source, destination).send(sent)

    async def _context(self, site: Site | None, name: str) -> aiocoap.Context:
        context = await memory_context(site, self, name)
        self._contexts.append(context)
        return context

    def _pipe(self, source: str, destination: str) -> Pipe:
        key = source, destination
        if key not in self._pipes:
            node = self._nodes.get(destination)
            self._is_up[key] = node is not None and node.is_server
            rng = random.Random(f"{self._seed}/{source}/{destination}")
            link = Link(self._up if self._is_up[key] else self._down, rng)
            self._pipes[key] = Pipe(link, lambda data: self._deliver(source, destination, data))
        return self._pipes[key]

    def _deliver(self, source: str, destination: str, data: bytes) -> None:
        node = self._nodes.get(destination)
        if node is None:
            self._unreachable += 1
            return
        self.delivered.append((self._loop.time(), source, destination, data))
        node.receive(source, data)


class MemoryEndpoint:
    """An `Endpoint` at a node of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, name: str, server: str) -> None:
        self._network, self._name, self._server = network, name, server
        self._receiver: Receiver | None = None
        self._closed = False
        network.attach(name, self._receive)

    def send(self, datagram: bytes) -> None:
        if not self._closed:
            self._network.send(self._name, self._server, datagram)

    def set_receiver(self, receiver: Receiver | None) -> None:
        self._receiver = receiver

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._receiver = None
            self._network.detach(self._name)

    def _receive(self, source: str, datagram: bytes) -> None:
        # As a connected UDP socket: what others send is not for us.
        if source == self._server and self._receiver is not None:
            self._receiver(datagram)
