"""The store on SQLite: SQLAlchemy 2 over aiosqlite, or inline in the loop's own thread.

Writers take turns: within the process by a lock, between processes by BEGIN IMMEDIATE, which waits up to
`BUSY_TIMEOUT_S`. Readers see a snapshot and never wait (write-ahead log).
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar, get_type_hints

from sqlalchemy import URL, ColumnElement, Connection, and_, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from coap_server.errors import ConflictError, NotFoundError
from coap_server.store import schema
from coap_server.store.base import Artifact, Delta, Device, Kind, Model, NewRelease, Profile, Release, Report
from coap_server.store.inline import connect_inline
from coap_server.store.models import ArtifactRow, DeltaRow, DeviceRow, ModelRow, ReleaseRow, ReportRow
from coap_server.store.schema import BUSY_TIMEOUT_S
from protocol.messages import Checkin, Outcome, StatusReport, Via
from protocol.suit.identifiers import class_id, vendor_id

R = TypeVar("R", Model, Artifact, Release, Delta, Device, Report)

DIGEST_SIZE: Final = 32
"""Bytes of a SHA-256."""
_WRITES: Final = "ota_writes"
_UNUSABLE: Final = (SQLAlchemyError, ValueError, TypeError)
"""What a damaged row makes SQLAlchemy, its converters (a date that is none) and `_record` raise."""


class Database:
    """A `coap_server.store.base.Store` in one SQLite file. Open it with `open`, and `close` it."""

    def __init__(self, path: Path, engine: AsyncEngine, now: Callable[[], datetime]) -> None:
        """Use an engine whose database is ready; `open` is for everyone else."""
        self._path = path
        self._engine = engine
        self._writing = asyncio.Lock()
        self._now = now

    @classmethod
    async def open(cls, path: Path, *, inline: bool = False, now: Callable[[], datetime] | None = None) -> Self:
        """Open the database at ``path``; make it, or bring it to the newest revision, where that is due.

        Args:
            path: the file; its folder exists.
            inline: run SQLite in the loop's own thread, so that a run on virtual time is reproducible.
            now: what time it is, with a zone; the wall clock by default.

        Raises:
            StoreError: damaged, not ours, made by a newer version, or not writable.
        """
        schema.upgrade(path)
        if inline:
            # One connection: a second writer in the same thread would wait for the first one for ever.
            options: dict[str, Any] = {"async_creator": functools.partial(connect_inline, path), "pool_size": 1}
        else:
            options = {"connect_args": {"isolation_level": None, "timeout": BUSY_TIMEOUT_S}, "pool_size": 5}
        engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(path)),
            poolclass=AsyncAdaptedQueuePool,
            max_overflow=0,
            **options,
        )
        event.listen(engine.sync_engine, "connect", _prepare)
        event.listen(engine.sync_engine, "begin", _begin)
        return cls(path, engine, now or _wall_clock)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def find_model(self, name: str) -> Model | None:
        """Return the model of that name."""
        return await self._one(Model, ModelRow, ModelRow.name == name)

    async def models(self) -> Sequence[Model]:
        """Return all models by name."""
        return await self._all(Model, ModelRow, order=ModelRow.name)

    async def add_release(
        self,
        model: str,
        vendor_domain: str,
        release: NewRelease,
        artifacts: Sequence[Artifact],
        deltas: Sequence[Delta],
    ) -> Release:
        """Store a release with all that belongs to it; see `Store.add_release`."""
        async with self._write() as session:
            owner = await _model_row(session, model, vendor_domain, self._now())
            for artifact in artifacts:
                await _insert_new(session, ArtifactRow, artifact, self._now())
            for delta in deltas:
                await _insert_new(session, DeltaRow, delta, self._now())
            row = ReleaseRow(model_id=owner.id, created_at=self._now(), **_values(release))
            session.add(row)
            try:
                await session.flush()
            except IntegrityError as error:
                if "UNIQUE" not in str(error.orig):
                    raise
                raise ConflictError(
                    f"model {model}: version {release.version} or sequence number {release.sequence_number} "
                    "is published already; choose another"
                ) from error
            return _record(Release, row)

    async def releases(self, model_id: int | None = None) -> Sequence[Release]:
        """Return the releases of a model, or of all, newest first."""
        where = () if model_id is None else (ReleaseRow.model_id == model_id,)
        return await self._all(Release, ReleaseRow, *where, order=ReleaseRow.sequence_number.desc())

    async def release(self, release_id: int) -> Release | None:
        """Return a release by its number."""
        return await self._one(Release, ReleaseRow, ReleaseRow.id == release_id)

    async def newest_promoted(self, model_id: int) -> Release | None:
        """Return the release with the highest sequence number among those promoted to everyone."""
        query = (
            select(ReleaseRow)
            .where(ReleaseRow.model_id == model_id, ReleaseRow.promoted)
            .order_by(ReleaseRow.sequence_number.desc())
            .limit(1)
        )
        async with self._read() as session:
            row = await session.scalar(query)
            return None if row is None else _record(Release, row)

    async def promote(self, release_id: int) -> None:
        """Promote a release to everyone."""
        async with self._write() as session:
            row = await session.get(ReleaseRow, release_id)
            if row is None:
                raise NotFoundError(f"there is no release {release_id}")
            row.promoted = True

    async def find_delta(self, from_digest: bytes, to_digest: bytes, codec: str) -> Delta | None:
        """Return the delta between two images."""
        return await self._one(
            Delta,
            DeltaRow,
            DeltaRow.from_image_digest == from_digest,
            DeltaRow.to_image_digest == to_digest,
            DeltaRow.codec == codec,
        )

    async def artifacts(self) -> Sequence[Artifact]:
        """Return all artifacts, by digest."""
        return await self._all(Artifact, ArtifactRow, order=ArtifactRow.digest)

    async def artifact_by_prefix(self, prefix: bytes) -> Artifact | None:
        """Return the payload whose digest begins with ``prefix``."""
        between = ArtifactRow.digest.between(prefix.ljust(32, b"\0"), prefix.ljust(32, b"\xff"))
        payload = ArtifactRow.kind.in_((Kind.IMAGE, Kind.DELTA))
        return await self._one(Artifact, ArtifactRow, and_(between, payload))

    async def devices(self) -> Sequence[Device]:
        """Return all devices by name."""
        return await self._all(Device, DeviceRow, order=DeviceRow.id)

    async def device(self, device_id: str) -> Device | None:
        """Return a device by name."""
        return await self._one(Device, DeviceRow, DeviceRow.id == device_id)

    async def check_in(self, checkin: Checkin, model_id: int, now: datetime) -> Device:
        """Store what a device says of itself; a device that is new is made."""
        async with self._write() as session:
            row = await _device_row(session, checkin.device_id, model_id)
            if row.model_id != model_id:
                # Other hardware under an old name: what was meant for the old one is not for this one.
                row.model_id = model_id
                row.assigned_release_id = row.offered_release_id = None
            row.image_digest = checkin.image_digest
            row.sequence_number = checkin.sequence_number
            row.slot = checkin.slot
            row.trial = checkin.trial
            row.last_seen_at = now
            await session.flush()
            return _record(Device, row)

    async def offer(self, device_id: str, release_id: int | None) -> None:
        """Store which release the device was last told to take."""
        async with self._write() as session:
            row = await session.get(DeviceRow, device_id)
            if row is not None:
                row.offered_release_id = release_id

    async def assign(self, device_id: str, model_id: int, release_id: int | None) -> None:
        """Store the operator's wish for one device; the device may be one that never checked in."""
        async with self._write() as session:
            row = await _device_row(session, device_id, model_id)
            row.assigned_release_id = release_id

    async def add_report(self, report: StatusReport, now: datetime) -> Report:
        """Store a report and what it says of the device; see `Store.add_report`."""
        async with self._write() as session:
            device = await session.get(DeviceRow, report.device_id)
            if device is None:
                raise NotFoundError(f"device {report.device_id} is not known; check in first")
            device.image_digest, device.sequence_number = report.image_digest, report.sequence_number
            device.slot, device.trial, device.last_seen_at = report.slot, False, now
            row = await session.scalar(
                select(ReportRow).where(
                    ReportRow.device_id == report.device_id,
                    ReportRow.manifest_digest == report.manifest_digest,
                    ReportRow.outcome == int(report.outcome),
                )
            )
            values = _values(report)
            if row is None:
                row = ReportRow(**values, attempts=1, received_at=now)
                row.release_id = await session.scalar(
                    select(ReleaseRow.id).where(
                        ReleaseRow.manifest_digest == report.manifest_digest, ReleaseRow.model_id == device.model_id
                    )
                )
                session.add(row)
            elif any(getattr(row, name) != value for name, value in values.items()):
                for name, value in values.items():
                    setattr(row, name, value)
                row.attempts += 1
                row.received_at = now
            await session.flush()
            return _record(Report, row)

    async def reports(self, device_id: str | None = None) -> Sequence[Report]:
        """Return the reports of one device, or of all, newest first."""
        where = () if device_id is None else (ReportRow.device_id == device_id,)
        rows = await self._all(Report, ReportRow, *where, order=ReportRow.id.desc())
        return sorted(rows, key=lambda report: report.received_at, reverse=True)

    async def _one(self, kind: type[R], table: type[Any], *where: ColumnElement[bool]) -> R | None:
        async with self._read() as session:
            row = await session.scalar(select(table).where(*where).limit(1))
            return None if row is None else _record(kind, row)

    async def _all(self, kind: type[R], table: type[Any], *where: ColumnElement[bool], order: Any) -> list[R]:
        async with self._read() as session:
            return [_record(kind, row) for row in await session.scalars(select(table).where(*where).order_by(order))]

    @contextlib.asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncSession]:
        try:
            async with AsyncSession(self._engine) as session:
                yield session
        except _UNUSABLE as error:
            raise schema.damaged(self._path, error) from error

    @contextlib.asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncSession]:
        async with self._writing:
            try:
                engine = self._engine.execution_options(**{_WRITES: True})
                async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
                    yield session
            except _UNUSABLE as error:
                raise schema.damaged(self._path, error) from error


async def _model_row(session: AsyncSession, name: str, vendor_domain: str, now: datetime) -> ModelRow:
    row = await session.scalar(select(ModelRow).where(ModelRow.name == name))
    if row is None:
        vendor = vendor_id(vendor_domain)
        row = ModelRow(
            name=name,
            vendor_domain=vendor_domain,
            vendor_id=vendor,
            class_id=class_id(vendor, name),
            created_at=now,
        )
        session.add(row)
        await session.flush()
    elif row.vendor_domain != vendor_domain:
        raise ConflictError(f"model {name} is of vendor {row.vendor_domain}, not {vendor_domain}")
    return row


async def _device_row(session: AsyncSession, device_id: str, model_id: int) -> DeviceRow:
    row = await session.get(DeviceRow, device_id)
    if row is None:
        row = DeviceRow(id=device_id, model_id=model_id, trial=False)
        session.add(row)
    return row


async def _insert_new(session: AsyncSession, table: type[Any], record: Artifact | Delta, now: datetime) -> None:
    statement = insert(table).values(**_values(record), created_at=now)
    if isinstance(record, Artifact) and record.kind is not Kind.ENVELOPE:
        # The same bytes may have been an envelope so far; only payloads are served under /p/.
        payload = {"kind": record.kind.value}
        statement = statement.on_conflict_do_update(
            index_elements=[ArtifactRow.digest], set_=payload, where=ArtifactRow.kind == Kind.ENVELOPE
        )
    else:
        statement = statement.on_conflict_do_nothing()
    await session.execute(statement)


def _values(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


_ENUMS: Final[dict[str, Callable[[str], Any]]] = {"kind": Kind, "profile": Profile}
_ALLOWED: Final[dict[str, Collection[object]]] = {
    "slot": (0, 1, None),
    "outcome": tuple(Outcome),
    "via": (*Via, None),
}


_HINTS: Final[dict[Any, dict[str, Any]]] = {
    kind: get_type_hints(kind) for kind in (Model, Artifact, Release, Delta, Device, Report)
}


def _record(kind: type[R], row: Any) -> R:
    """Return a row as a record.

    SQLite keeps anything in any column, so that a damaged file shows here first.

    Raises:
        ValueError, TypeError: a value that we never write.
    """
    values = {field.name: getattr(row, field.name) for field in fields(kind)}
    values = {name: _ENUMS[name](value) if name in _ENUMS else value for name, value in values.items()}
    for name, hint in _HINTS[kind].items():
        value = values[name]
        if not isinstance(value, hint):
            raise TypeError(f"{name} in {row.__tablename__} is of type {type(value).__name__}")
        is_short = name.endswith("digest") and value is not None and len(value) != DIGEST_SIZE
        if is_short or (name in _ALLOWED and value not in _ALLOWED[name]):
            raise ValueError(f"{name} in {row.__tablename__} is {value!r}")
    return kind(**values)


def _prepare(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    try:
        # synchronous FULL: what was committed is there after a power cut.
        for pragma in ("foreign_keys = ON", "synchronous = FULL", f"busy_timeout = {int(BUSY_TIMEOUT_S * 1_000)}"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _begin(connection: Connection) -> None:
    # The driver leaves transactions to us: its own BEGIN comes too late to make read-then-write atomic.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _wall_clock() -> datetime:
    return datetime.now(UTC)
