"""aiocoap contexts for our servers, over UDP or in memory: the only module that touches aiocoap's unstable parts.

Two things that aiocoap has no public way for are done here:

* `server_context` hands aiocoap a socket that we bound ourselves. aiocoap's own server socket sets SO_REUSEPORT, so
  that a second server on the port starts without an error and the kernel deals the devices out between the two.
* `memory_context` runs unmodified aiocoap, message layer included, over any `DatagramNetwork`.

Both rest on names that aiocoap does not promise to keep; ``tests/unit/protocol/test_context.py`` lists them and holds
the version they were read in (`AIOCOAP_VERSION`).

aiocoap draws message IDs, tokens and retransmission times from the global ``random`` module. A test that wants the same
run twice seeds that one as well; the tests' ``run_virtual`` and their ``virtual_time`` mark do.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import aiocoap
from aiocoap import error, interfaces
from aiocoap.resource import Site
from aiocoap.transports.udp6 import MessageInterfaceUDP6
from aiocoap.util import hostportsplit

from protocol.aio.sockets import (
    AddressError,
    PortInUse,
    bind_server,
    enlarge_receive_buffer,
    host_port,
    resolve,
    unmapped,
)

__all__ = [
    "AIOCOAP_VERSION",
    "AddressError",
    "DatagramNetwork",
    "PortInUse",
    "ServerContext",
    "memory_context",
    "server_context",
]

logger = logging.getLogger(__name__)

AIOCOAP_VERSION: Final = "0.4.17"
"""The version whose unstable parts this module was written against; ``pyproject.toml`` pins it."""

MAXIMUM_BLOCK_SIZE_EXP: Final = 6
"""szx of the largest block, 1,024 bytes (RFC 7959 section 2.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """A CoAP server that listens.

    Attributes:
        context: aiocoap's context, to notify observers and to send requests with.
        host: the numeric address it is bound to, an IPv4 one without its ``::ffff:``.
        port: the port it is bound to, never 0.
    """

    context: aiocoap.Context
    host: str
    port: int

    @property
    def uri(self) -> str:
        """The URI of the server, e.g. ``coap://127.0.0.1:5683``."""
        return f"coap://{host_port(self.host, self.port)}"

    async def close(self) -> None:
        """Stop answering and give the port back."""
        await self.context.shutdown()


async def server_context(site: Site | None, host: str, port: int) -> ServerContext:
    """Serve ``site`` over UDP at ``host``:``port``; port 0 takes any free one.

    Of the addresses of a host name, the first one that this machine has is taken. ``::`` serves IPv4 as well.

    Raises:
        PortInUse: another server has the port, on this address or on all.
        AddressError: the name does not resolve, is no address of this machine, or the port needs more rights.
    """
    sock = bind_server(await resolve(host, port))
    try:
        enlarge_receive_buffer(sock)
        loop = asyncio.get_running_loop()
        context = aiocoap.Context(loop=loop, serversite=site, loggername="coap-server")

        async def transport(manager: interfaces.MessageManager) -> interfaces.MessageInterface:
            return await MessageInterfaceUDP6._create_transport_endpoint(sock, manager, context.log, loop)

        await context._append_tokenmanaged_messagemanaged_transport(transport)
    except BaseException:
        sock.close()
        raise
    bound = sock.getsockname()
    server = ServerContext(context=context, host=unmapped(bound[0]), port=bound[1])
    logger.info("serving %s", server.uri)
    return server


class DatagramNetwork(Protocol):
    """A network of named nodes that carries datagrams, e.g. the one of the tests."""

    def attach(self, name: str, receive: Callable[[str, bytes], None], *, is_server: bool) -> None:
        """Call ``receive(source, datagram)`` for what arrives at ``name``; what goes to a server goes up."""

    def detach(self, name: str) -> None:
        """Drop what arrives at ``name`` from now on."""

    def send(self, source: str, destination: str, datagram: bytes) -> None:
        """Send, without waiting; the datagram arrives later or never."""


async def memory_context(site: Site | None, network: DatagramNetwork, name: str) -> aiocoap.Context:
    """Return a context at node ``name`` of ``network``: a server with ``site``, a client with None.

    A node is addressed by its name, as in ``coap://server/m/model``. Its ``shutdown()`` detaches it.
    """
    context = aiocoap.Context(loop=asyncio.get_running_loop(), serversite=site, loggername=f"coap.{name}")

    async def transport(manager: interfaces.MessageManager) -> interfaces.MessageInterface:
        return _MemoryInterface(manager, network, name, is_server=site is not None)

    await context._append_tokenmanaged_messagemanaged_transport(transport)
    return context


class _MemoryAddress(interfaces.EndpointAddress):  # type: ignore[misc]  # aiocoap publishes no types
    """A node as another node sees it."""

    scheme: ClassVar[str] = "coap"
    is_multicast: ClassVar[bool] = False
    is_multicast_locally: ClassVar[bool] = False
    # aiocoap lowers it on the instance when a peer asks for smaller blocks.
    maximum_block_size_exp: int = MAXIMUM_BLOCK_SIZE_EXP

    def __init__(self, name: str, local: str) -> None:
        self.name, self.local = name, local

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _MemoryAddress) and (other.name, other.local) == (self.name, self.local)

    def __hash__(self) -> int:
        return hash((self.name, self.local))

    def __repr__(self) -> str:
        return f"<{self.name} seen from {self.local}>"

    @property
    def hostinfo(self) -> str:
        return self.name

    @property
    def hostinfo_local(self) -> str:
        return self.local

    @property
    def uri_base(self) -> str:
        return f"coap://{self.name}"

    @property
    def uri_base_local(self) -> str:
        return f"coap://{self.local}"

    @property
    def blockwise_key(self) -> tuple[str, str]:
        return (self.name, self.local)


class _MemoryInterface(interfaces.MessageInterface):  # type: ignore[misc]  # aiocoap publishes no types
    """aiocoap's message interface over a `DatagramNetwork`."""

    def __init__(
        self, manager: interfaces.MessageManager, network: DatagramNetwork, name: str, *, is_server: bool
    ) -> None:
        self._manager, self._network, self._name = manager, network, name
        network.attach(name, self._receive, is_server=is_server)

    def send(self, message: aiocoap.Message) -> None:
        self._network.send(self._name, message.remote.name, message.encode())

    def _receive(self, source: str, datagram: bytes) -> None:
        try:
            message = aiocoap.Message.decode(datagram, _MemoryAddress(source, self._name))
        except error.UnparsableMessage:
            logger.debug("%s: a datagram of %d bytes from %s is no CoAP", self._name, len(datagram), source)
            return
        self._manager.dispatch_message(message)

    async def recognize_remote(self, remote: Any) -> bool:
        return isinstance(remote, _MemoryAddress) and remote.local == self._name

    async def determine_remote(self, message: aiocoap.Message) -> _MemoryAddress | None:
        if message.requested_scheme not in ("coap", None):
            return None
        if message.unresolved_remote is not None:
            host, _ = hostportsplit(message.unresolved_remote)
        else:
            host = message.opt.uri_host
        if not host:
            raise ValueError("the request names no host, neither in its URI nor in Uri-Host")
        address = _MemoryAddress(host, self._name)
        address.maximum_block_size_exp = min(MAXIMUM_BLOCK_SIZE_EXP, message.remote.maximum_block_size_exp)
        return address

    async def shutdown(self) -> None:
        self._network.detach(self._name)
