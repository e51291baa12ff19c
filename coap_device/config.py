"""What an operator sets for one emulated device, checked before anything is touched."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from coap_device.errors import DeviceError
from coap_device.firmware import SelfTest
from coap_device.hardware.layout import Geometry
from protocol.coap.numbers import DEFAULT_PORT
from protocol.link.netem import LinkSpec
from protocol.suit.identifiers import DEFAULT_VENDOR_DOMAIN

FLASH_FILE: Final = "flash.bin"
TRAILER_CUT: Final = "trailer"


class ConfigError(DeviceError):
    """A setting that cannot be used; the message names it and says what can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """Where the server is."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPlan:
    """When the power goes: at numbered flash operations, at fractions of the download, between trailer copies."""

    operations: tuple[int, ...] = ()
    fractions: tuple[float, ...] = ()
    between_trailers: int = 0

    @property
    def count(self) -> int:
        """How many cuts are planned."""
        return len(self.operations) + len(self.fractions) + self.between_trailers


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One emulated device. ``once`` ends it after one check-in and the update that came of it."""

    server: ServerAddress
    state: Path
    device_id: str
    model: str
    vendor_domain: str = DEFAULT_VENDOR_DOMAIN
    image: Path | None = None
    trust: tuple[Path, ...] = ()
    geometry: Geometry = field(default_factory=Geometry)
    link_up: LinkSpec | None = None
    link_down: LinkSpec | None = None
    self_test: SelfTest = SelfTest.PASS
    cuts: CutPlan = field(default_factory=CutPlan)
    once: bool = False
    block_szx: int = 6


def parse_server(uri: str) -> ServerAddress:
    """Return the address in a URI such as ``coap://[::1]:5683``.

    Raises:
        ConfigError: another scheme, a path, or no host.
    """
    try:
        parts = urlsplit(uri)
        if parts.scheme != "coap":
            raise ConfigError(f"--server {uri!r}: not a coap URI; write coap://HOST or coap://HOST:PORT")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"--server {uri!r}: {error}; write coap://HOST or coap://HOST:PORT") from error
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ConfigError(f"--server {uri!r}: only a host and a port are due; write coap://HOST or coap://HOST:PORT")
    return ServerAddress(host=host, port=DEFAULT_PORT if port is None else port)


def parse_cuts(text: str) -> CutPlan:
    """Return the cuts that a comma-separated list names: ``120``, ``40%``, ``trailer``.

    Raises:
        ConfigError: a word that is none of these.

    >>> parse_cuts("30%,70%,trailer").count
    3
    """
    operations: list[int] = []
    fractions: list[float] = []
    trailers = 0
    for word in (part.strip() for part in text.split(",") if part.strip()):
        if word == TRAILER_CUT:
            trailers += 1
        elif word.isdecimal():
            operations.append(int(word))
        else:
            fractions.append(_fraction(word))
    return CutPlan(operations=tuple(operations), fractions=tuple(sorted(fractions)), between_trailers=trailers)


def _fraction(word: str) -> float:
    try:
        value = float(word.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not word.endswith("%") or not 0 < value < 1:
        raise ConfigError(
            f"--power-cut-at {word!r}: a number of a flash operation, a share of the download such as 40%, "
            f"or {TRAILER_CUT!r} is due"
        )
    return value
