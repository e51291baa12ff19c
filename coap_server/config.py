"""Settings of a server and how they are read from text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coap_server.errors import InputError
from protocol.coap.numbers import DEFAULT_PORT

DEFAULT_POLL_S: Final = 300
DEFAULT_WATCH_S: Final = 2.0
DATABASE_NAME: Final = "server.db"
ARTIFACTS_NAME: Final = "artifacts"
MAX_POLL_S: Final = 2**32 - 1
"""What fits the assignment's ``poll-s``."""
_EXPECTED: Final = "expected HOST:PORT, e.g. 127.0.0.1:5683 or [::]:5683"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where to listen. ``port`` 0 takes any free one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a server needs to know.

    Attributes:
        data: folder with the database and the artifacts.
        coap: where to listen.
        poll_s: after how many seconds a device shall check in again.
        watch_s: how often to look for releases that another process published, in seconds.
    """

    data: Path
    coap: Endpoint = Endpoint(host="::", port=DEFAULT_PORT)
    poll_s: int = DEFAULT_POLL_S
    watch_s: float = DEFAULT_WATCH_S


def parse_endpoint(text: str, option: str = "--coap") -> Endpoint:
    """Return the endpoint that ``HOST:PORT`` names; an IPv6 host stands in brackets, the port may be left out.

    Raises:
        InputError: anything else; the message names the option and the value.

    >>> parse_endpoint("[::1]:5684")
    Endpoint(host='::1', port=5684)
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or colon not in ("", ":") or ":" not in host:
            raise InputError(f"{option} {text!r}: {_EXPECTED}")
    else:
        host, colon, port = text.partition(":")
    if not host or (colon and not (port.isascii() and port.isdigit())):
        raise InputError(f"{option} {text!r}: {_EXPECTED}")
    number = int(port) if colon else DEFAULT_PORT
    if number > 65_535:
        raise InputError(f"{option} {text!r}: port {number} is not within 0..65535")
    return Endpoint(host=host, port=number)
