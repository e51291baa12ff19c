"""The composition root: the only place that builds everything and puts it together."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from aiocoap.resource import Site

from coap_server.config import DATABASE_NAME, DEFAULT_POLL_S, Settings
from coap_server.errors import NotFoundError, StoreError
from coap_server.resources.devices import CheckinView, ReportView
from coap_server.resources.directory import DirectoryView
from coap_server.resources.manifests import DeviceManifestsView, ModelManifestsView
from coap_server.resources.payloads import PayloadsView
from coap_server.resources.view import OtaSite
from coap_server.services.assign import Assigner
from coap_server.services.catalog import Catalog
from coap_server.services.reports import Reporter
from coap_server.store.base import Store
from coap_server.store.blobs import BlobStore
from coap_server.store.database import Database
from coap_server.store.folder import DataFolder, refuse_orphans
from protocol.aio.context import ServerContext, server_context
from protocol.coap.numbers import CHECKIN_PATH, DEVICES_PATH, MODELS_PATH, PAYLOADS_PATH, REPORT_PATH

logger = logging.getLogger(__name__)


def wall_clock() -> datetime:
    """Return the time of day, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """An open data folder: the database and the artifacts."""

    database: Database
    blobs: BlobStore
    folder: DataFolder

    @classmethod
    async def open(
        cls, folder: Path, *, create: bool, inline: bool = False, now: Callable[[], datetime] = wall_clock
    ) -> Self:
        """Open the data folder.

        Args:
            folder: where everything stands.
            create: whether to make it where it is missing.
            inline: run SQLite in the loop's own thread (for virtual time).
            now: what time it is, with a zone.

        Raises:
            NotFoundError: there is no data here, and none shall be made.
            StoreError: the folder, the database or the artifacts cannot be used.
        """
        if not create and not (folder / DATABASE_NAME).exists():
            refuse_orphans(folder)
            raise NotFoundError(f"--data {folder} holds no {DATABASE_NAME}; check the path, or publish an image first")
        entered = DataFolder.enter(folder)
        try:
            database = await Database.open(entered.database, inline=inline, now=now)
        except BaseException:
            entered.take_back()
            raise
        try:
            return cls(database=database, blobs=BlobStore(entered.artifacts), folder=entered)
        except BaseException:
            await database.close()
            entered.take_back()
            raise

    async def close(self) -> None:
        """Close the database."""
        await self.database.close()
        self.folder.leave()

    async def abandon(self) -> None:
        """Close the database, and remove a data folder that this start made and nothing was put into."""
        await self.database.close()
        self.folder.take_back()


class Application:
    """Everything behind the socket: ``site`` answers requests, `watch` sees what other processes publish."""

    def __init__(
        self, store: Store, blobs: BlobStore, *, poll_s: int = DEFAULT_POLL_S, now: Callable[[], datetime] = wall_clock
    ) -> None:
        """Build the services on ``store`` and ``blobs``, and the views on the services."""
        self._catalog = Catalog(store, blobs)
        self.manifests = ModelManifestsView(self._catalog)
        self.site = build_site(
            self._catalog, self.manifests, Assigner(store, poll_s=poll_s, now=now), Reporter(store, now=now)
        )

    async def watch(self, interval_s: float) -> None:
        """Notify observers of new manifests, for ever; publishing is another process, so the database is asked."""
        seen: dict[str, bytes] | None = None
        while True:
            try:
                found = await self._newest()
            except StoreError as error:
                logger.error("looking for new releases failed, trying again in %.0f s: %s", interval_s, error)
            else:
                for model, digest in found.items():
                    if seen is not None and seen.get(model) != digest:
                        logger.info("model %s has a new manifest %s", model, digest.hex()[:16])
                        self.manifests.changed(model)
                seen = found
            await asyncio.sleep(interval_s)

    async def _newest(self) -> dict[str, bytes]:
        manifests = await self._catalog.manifests()
        return {entry.model: entry.release.envelope_digest for entry in manifests if entry.release is not None}


def build_site(catalog: Catalog, manifests: ModelManifestsView, assigner: Assigner, reporter: Reporter) -> Site:
    """Return the site with all resources; paths with names in them are one resource each, not one per name."""
    site = OtaSite()
    site.add_resource([".well-known", "core"], DirectoryView(site, catalog))
    site.add_resource([CHECKIN_PATH], CheckinView(assigner))
    site.add_resource([REPORT_PATH], ReportView(reporter))
    site.add_resource([MODELS_PATH], manifests)
    site.add_resource([DEVICES_PATH], DeviceManifestsView(catalog))
    site.add_resource([PAYLOADS_PATH], PayloadsView(catalog))
    return site


class Server:
    """A running server; `start` it, `stop` it."""

    def __init__(self, storage: Storage, context: ServerContext, watcher: asyncio.Task[None]) -> None:
        """Own what `start` made."""
        self._storage = storage
        self._context = context
        self._watcher = watcher

    @classmethod
    async def start(cls, settings: Settings) -> Self:
        """Open the data folder, listen, and answer from now on.

        Raises:
            StoreError: the data folder cannot be used.
            PortInUse, AddressError: the address cannot be bound.
        """
        storage = await Storage.open(settings.data, create=True)
        try:
            application = Application(storage.database, storage.blobs, poll_s=settings.poll_s)
            context = await server_context(application.site, settings.coap.host, settings.coap.port)
        except BaseException:
            await storage.abandon()
            raise
        watcher = asyncio.create_task(application.watch(settings.watch_s), name="watch releases")
        return cls(storage, context, watcher)

    @property
    def made_folder(self) -> Path | None:
        """The data folder, if this start made it."""
        return self._storage.folder.path if self._storage.folder.made else None

    @property
    def uri(self) -> str:
        """Where it listens, e.g. ``coap://127.0.0.1:5683``."""
        return self._context.uri

    async def stop(self) -> None:
        """Stop answering and close everything."""
        self._watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watcher
        await self._context.close()
        await self._storage.close()
