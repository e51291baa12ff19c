"""UDP addresses and sockets, with errors a person can act on: resolve, bind for a server, connect for a client."""

import errno
import logging
import socket
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from protocol.errors import OtaError

logger = logging.getLogger(__name__)

RECEIVE_BUFFER: Final = 4 * 1024 * 1024
"""Bytes asked for where many peers may send at once; the kernel grants at most ``net.core.rmem_max`` without rights."""

_SO_RCVBUFFORCE: Final = 33  # Linux; Python's socket module does not name it
# The next address of a name may work where this one fails in one of these ways.
_TRY_NEXT: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)
_Result = TypeVar("_Result")

Sockaddr = tuple[str, int] | tuple[str, int, int, int]
"""What Python's sockets take for IPv4: host, port; and for IPv6: with flow label and zone."""


class AddressError(OtaError):
    """An address that cannot be used: the name does not resolve, is not this machine's, or may not be bound."""


class PortInUse(AddressError):
    """Another program, perhaps another server of ours, has the port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A numeric address: ``family`` and ``sockaddr`` are what the socket calls take."""

    family: int
    sockaddr: Sockaddr

    def __str__(self) -> str:
        """Give ``HOST:PORT``, with brackets around an IPv6 host."""
        return host_port(self.sockaddr[0], self.sockaddr[1])

    def mapped(self) -> Sockaddr:
        """Return the address for an IPv6 socket that speaks both families (RFC 4291 section 2.5.5.2)."""
        host, port = self.sockaddr[:2]
        return (f"::ffff:{host}", port, 0, 0) if self.family == socket.AF_INET else self.sockaddr


def host_port(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unmapped(host: str) -> str:
    """Return ``127.0.0.1`` for ``::ffff:127.0.0.1``, and any other host as it is."""
    return host.removeprefix("::ffff:") if host.startswith("::ffff:") and "." in host else host


async def resolve(host: str, port: int) -> list[Address]:
    """Return the UDP addresses of ``host``, in the order in which the system wants them tried.

    A numeric host is answered without a thread, so it also works where there is none.

    Raises:
        AddressError: the port is not 0..65535, or the name does not resolve.
    """
    if not 0 <= port <= 65535:
        raise AddressError(f"port {port} of {host}: expected 0 to 65535")
    try:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name at all, e.g. a label of more than 63 bytes
        reason = getattr(error, "strerror", None) or "not a host name"
        raise AddressError(f"cannot resolve host {host!r}: {reason}; check the name or give an address") from error
    return [
        Address(family=family, sockaddr=cast(Sockaddr, sockaddr))
        for family, _, _, _, sockaddr in found
        if family in (socket.AF_INET, socket.AF_INET6)
    ]


def bind_server(addresses: Sequence[Address]) -> socket.socket:
    """Return a non-blocking IPv6 socket for both families, bound to the first of ``addresses`` this machine has.

    It shares its port with nobody: neither SO_REUSEADDR nor SO_REUSEPORT is set, and on Linux both ends would have to
    set them to share.

    Raises:
        PortInUse: another socket has the port, also when that one is bound to ``::`` and this one would not be.
        AddressError: no address belongs to this machine, or the port needs rights this process does not have.
    """
    return _first(addresses, _bound, "bind")


def connect_client(addresses: Sequence[Address]) -> socket.socket:
    """Return a non-blocking UDP socket connected to the first of ``addresses`` that has a route.

    Raises:
        AddressError: no address has a route.
    """
    return _first(addresses, _connected, "reach")


def enlarge_receive_buffer(sock: socket.socket, size: int = RECEIVE_BUFFER) -> int:
    """Ask for a receive buffer of ``size`` bytes and return what the kernel counts now (Linux: twice the request)."""
    for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
        except OSError:  # the second one needs CAP_NET_ADMIN
            continue
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= size:
            break
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if granted < size:
        logger.info("receive buffer of %d bytes instead of %d; raise net.core.rmem_max for large fleets", granted, size)
    return granted


def _first(addresses: Sequence[Address], use: Callable[[Address], _Result], verb: str) -> _Result:
    last: tuple[Address, OSError] | None = None
    for address in addresses:
        try:
            return use(address)
        except OSError as failure:
            last = address, failure
            if failure.errno not in _TRY_NEXT:
                break
    if last is None:
        raise AddressError(f"cannot {verb}: the host has no IPv4 or IPv6 address")
    address, error = last
    host, port = address.sockaddr[:2]
    if verb == "bind" and error.errno == errno.EADDRINUSE:
        hint = "stop the other server or choose another with --coap HOST:PORT"
        raise PortInUse(f"port {port} on {host} is in use: {hint}") from error
    if verb == "bind" and error.errno == errno.EADDRNOTAVAIL:
        raise AddressError(f"{host} is no address of this machine; use one of its own, or :: for all") from error
    raise AddressError(f"cannot {verb} {address}: {error.strerror}") from error


def _bound(address: Address) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address.mapped())
    except OSError:
        sock.close()
        raise
    return sock


def _connected(address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(address.sockaddr)
    except OSError:
        sock.close()
        raise
    return sock
