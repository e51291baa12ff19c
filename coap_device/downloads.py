"""Brings representations over the link: small ones into memory, payloads into flash, resumable."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from coap_device.boot.store import Resumed
from coap_device.config import ServerAddress
from coap_device.hardware.power import PowerPlan
from coap_device.meter import Meter
from coap_device.platform import Download
from protocol.aio.endpoint import Endpoint
from protocol.aio.fetch import ask, drive
from protocol.coap.message import Message
from protocol.coap.numbers import DEFAULT_PORT, Code
from protocol.errors import PolicyError
from protocol.transfer.events import BlockReceived, Described, Output, Restarted
from protocol.transfer.exchange import Exchange
from protocol.transfer.journal import MIN_GRANULE
from protocol.transfer.receiver import FetchPlan, Receiver, Resume
from protocol.transfer.requests import Numbers

Progress = Callable[[str, int, int], None]
"""``progress(path, bytes held, size)``."""
MAX_MANIFEST: Final = 8_128
"""What an envelope area takes."""


def local_path(uri: str, server: ServerAddress) -> str:
    """Return the path of ``uri``, which must be on the server that gave the manifest.

    Raises:
        PolicyError: another scheme or another server.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise PolicyError(f"URI {uri!r} cannot be read: {error}") from error
    if not parts.scheme and not parts.netloc and uri.startswith("/"):
        return uri
    if (parts.scheme, parts.hostname, port) != ("coap", server.host, server.port):
        raise PolicyError(f"URI {uri!r} is not on the server coap://{server.host}:{server.port}")
    return parts.path


class Link:
    """Requests of one device over one endpoint, with what is measured and where the power may fail."""

    def __init__(
        self,
        endpoint: Endpoint,
        server: ServerAddress,
        rng: random.Random,
        meter: Meter,
        power: PowerPlan,
        cut_fractions: list[float],
        *,
        szx: int = 6,
        progress: Progress | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._server = server
        self._rng = rng
        self._numbers = Numbers(rng)
        self._meter = meter
        self._power = power
        self._cut_fractions = cut_fractions
        self._szx = szx
        self._progress = progress

    async def post(self, path: str, payload: bytes, content_format: int) -> Message:
        """Post one message and return the response.

        Raises:
            TransferError: no answer, or an error code.
        """
        exchange = Exchange(
            Code.POST, path, self._rng, payload=payload, content_format=content_format, numbers=self._numbers
        )
        return await ask(exchange, self._endpoint)

    async def fetch_small(self, uri: str, max_size: int = MAX_MANIFEST) -> bytes:
        """Return a representation on the server that fits into memory.

        Raises:
            TransferError: no end, an error code, or more than ``max_size`` bytes.
            PolicyError: the URI is on another server.
        """
        path = local_path(uri, self._server)
        held: dict[int, bytes] = {}
        etag = b""

        def handle(output: Output) -> None:
            nonlocal etag
            if isinstance(output, Restarted):
                held.clear()
                self._meter.forget_blocks(path)
            elif isinstance(output, Described):
                etag = output.etag
            elif isinstance(output, BlockReceived):
                self._meter.count_block(path, etag, output.offset)
                held[output.offset] = output.data

        receiver = Receiver(FetchPlan(path=path, max_size=max_size, szx=self._szx), self._rng, numbers=self._numbers)
        try:
            await drive(receiver, self._endpoint, handle)
        finally:
            self._meter.blocks_resent += receiver.requests_resent
        return b"".join(held[offset] for offset in sorted(held))

    async def fetch_payload(self, download: Download) -> None:
        """Bring a payload into its store, going on where an earlier transfer of the same digest was cut off.

        Raises:
            TransferError: as above; what was received stays in the store.
        """
        path = local_path(download.uri, self._server)
        if download.again:
            self._meter.forget_blocks(path)
        resumed = download.store.resume(download.digest)
        if resumed is not None and resumed.header.size != download.size:
            resumed = None
        sink = _Sink(self, download, path, resumed)
        plan = FetchPlan(
            path=path,
            max_size=download.size,
            expected_size=download.size,
            szx=self._szx,
            resume=None if resumed is None else _resume(resumed),
        )
        receiver = Receiver(plan, self._rng, numbers=self._numbers)
        try:
            await drive(receiver, self._endpoint, sink.handle)
        finally:
            self._meter.blocks_resent += receiver.requests_resent

    def took_block(self, path: str, etag: bytes, offset: int, held: int, size: int) -> None:
        """Count a payload block that arrived, before it is kept; the power may fail here."""
        self._meter.count_block(path, etag, offset)
        if self._progress is not None:
            self._progress(path, held, size)
        if self._cut_fractions and held >= self._cut_fractions[0] * size:
            fraction = self._cut_fractions.pop(0)
            self._power.cut_now(f"{fraction:.0%} of the download of {path}")

    def forget_blocks(self, path: str) -> None:
        """The transfer began anew."""
        self._meter.forget_blocks(path)

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)


class _Sink:
    """Puts what the receiver hands out into the store."""

    def __init__(self, link: Link, download: Download, path: str, resumed: Resumed | None) -> None:
        self._link = link
        self._download = download
        self._path = path
        self._held = 0 if resumed is None else resumed.size
        self._etag = b"" if resumed is None else resumed.header.etag
        self._begun = resumed is not None

    def handle(self, output: Output) -> None:
        if isinstance(output, Restarted):
            self._begun = False
            self._held = 0
            self._link.forget_blocks(self._path)
        elif isinstance(output, Described):
            self._etag = output.etag
            self._begin(output)
        elif isinstance(output, BlockReceived):
            self._held += len(output.data)
            self._link.took_block(self._path, self._etag, output.offset, self._held, self._download.size)
            self._download.store.put(output.offset, output.data)

    def _begin(self, described: Described) -> None:
        if self._begun:
            return
        store = self._download.store
        granule = max(MIN_GRANULE, 1 << (described.szx + 4))
        store.begin(
            store.make_header(
                digest=self._download.digest, size=self._download.size, granule=granule, etag=described.etag
            )
        )
        self._begun = True


def _resume(resumed: Resumed) -> Resume:
    ranges: Sequence[range] = resumed.ranges
    return Resume(
        etag=resumed.header.etag,
        size=resumed.header.size,
        have=tuple((extent.start, extent.stop) for extent in ranges),
    )
