"""The seam below a transfer: something that carries datagrams to one peer and back, or loses them."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, cast

from protocol.aio.sockets import connect_client, resolve

logger = logging.getLogger(__name__)

Receiver = Callable[[bytes], None]


class Endpoint(Protocol):
    """One peer, reached by datagrams. Every failure of the network looks like loss."""

    def send(self, datagram: bytes) -> None:
        """Send ``datagram``, without waiting; after `close` it is dropped."""

    def set_receiver(self, receiver: Receiver | None) -> None:
        """Hand every datagram that arrives from now on to ``receiver``; with None they are dropped."""

    def close(self) -> None:
        """Stop receiving and give the socket back. A second call does nothing."""


class UdpEndpoint(asyncio.DatagramProtocol):
    """An `Endpoint` over a connected UDP socket; `open_udp` makes one."""

    def __init__(self) -> None:
        self.errors = 0
        """How many ICMP errors and failed sends were taken as loss."""
        self._transport: asyncio.DatagramTransport | None = None
        self._receiver: Receiver | None = None

    def send(self, datagram: bytes) -> None:
        """Send ``datagram`` to the peer; it is dropped when the socket is closed or the kernel refuses it."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram)

    def set_receiver(self, receiver: Receiver | None) -> None:
        """Hand what arrives from now on to ``receiver``."""
        self._receiver = receiver

    def close(self) -> None:
        """Drop the receiver and close the socket."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (called by asyncio)."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # no subclass of it in Python 3.11

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Hand a datagram on (called by asyncio)."""
        if self._receiver is not None:
            self._receiver(data)

    def error_received(self, exc: Exception) -> None:
        """Count an error of the network: a server that is down for now looks like loss (called by asyncio)."""
        self.errors += 1
        logger.debug("datagram lost: %s", exc)


async def open_udp(host: str, port: int) -> UdpEndpoint:
    """Return an endpoint that talks to ``host``:``port`` over UDP.

    Raises:
        AddressError: the name does not resolve, or no address of it has a route.
    """
    sock = connect_client(await resolve(host, port))
    try:
        _, endpoint = await asyncio.get_running_loop().create_datagram_endpoint(UdpEndpoint, sock=sock)
    except BaseException:
        sock.close()
        raise
    return endpoint
