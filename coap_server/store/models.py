"""The tables. A change here needs a migration in ``migrations/versions``; a test holds the two together."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Named constraints, so that a migration can alter them on every database.
NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone, kept in UTC; SQLite itself keeps none."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC, bare."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the time with its zone."""
        return value.replace(tzinfo=UTC) if isinstance(value, datetime) else None


class Base(DeclarativeBase):
    """Root of the tables."""

    metadata = MetaData(naming_convention=NAMING)


class ModelRow(Base):
    """See `coap_server.store.base.Model`."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    vendor_domain: Mapped[str] = mapped_column(String(255))
    vendor_id: Mapped[bytes] = mapped_column(LargeBinary(16))
    class_id: Mapped[bytes] = mapped_column(LargeBinary(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ArtifactRow(Base):
    """See `coap_server.store.base.Artifact`."""

    __tablename__ = "artifacts"

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ReleaseRow(Base):
    """See `coap_server.store.base.Release`."""

    __tablename__ = "releases"
    __table_args__ = (
        UniqueConstraint("model_id", "version"),
        UniqueConstraint("model_id", "sequence_number"),
        Index(None, "image_digest"),
        Index(None, "manifest_digest"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    version: Mapped[str] = mapped_column(String(64))
    sequence_number: Mapped[int] = mapped_column(BigInteger)
    profile: Mapped[str] = mapped_column(String(16))
    image_digest: Mapped[bytes] = mapped_column(ForeignKey("artifacts.digest"))
    image_size: Mapped[int] = mapped_column(BigInteger)
    image_b_digest: Mapped[bytes | None] = mapped_column(ForeignKey("artifacts.digest"))
    envelope_digest: Mapped[bytes] = mapped_column(ForeignKey("artifacts.digest"))
    manifest_digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    envelope_size: Mapped[int] = mapped_column(Integer)
    promoted: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DeltaRow(Base):
    """See `coap_server.store.base.Delta`."""

    __tablename__ = "deltas"
    __table_args__ = (UniqueConstraint("from_image_digest", "to_image_digest", "codec"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    from_image_digest: Mapped[bytes] = mapped_column(ForeignKey("artifacts.digest"))
    to_image_digest: Mapped[bytes] = mapped_column(ForeignKey("artifacts.digest"))
    codec: Mapped[str] = mapped_column(String(32))
    digest: Mapped[bytes] = mapped_column(ForeignKey("artifacts.digest"))
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DeviceRow(Base):
    """See `coap_server.store.base.Device`."""

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    image_digest: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    sequence_number: Mapped[int | None] = mapped_column(BigInteger)
    slot: Mapped[int | None] = mapped_column(Integer)
    trial: Mapped[bool] = mapped_column(Boolean)
    last_seen_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    assigned_release_id: Mapped[int | None] = mapped_column(ForeignKey("releases.id"))
    offered_release_id: Mapped[int | None] = mapped_column(ForeignKey("releases.id"))


class ReportRow(Base):
    """See `coap_server.store.base.Report`."""

    __tablename__ = "reports"
    __table_args__ = (UniqueConstraint("device_id", "manifest_digest", "outcome"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    manifest_digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    release_id: Mapped[int | None] = mapped_column(ForeignKey("releases.id"))
    outcome: Mapped[int] = mapped_column(Integer)
    reason: Mapped[int] = mapped_column(Integer)
    detail: Mapped[str] = mapped_column(String(200))
    image_digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    sequence_number: Mapped[int] = mapped_column(BigInteger)
    slot: Mapped[int] = mapped_column(Integer)
    bytes_up: Mapped[int] = mapped_column(BigInteger)
    bytes_down: Mapped[int] = mapped_column(BigInteger)
    blocks: Mapped[int] = mapped_column(BigInteger)
    blocks_resent: Mapped[int] = mapped_column(BigInteger)
    via: Mapped[int | None] = mapped_column(Integer)
    duration_s: Mapped[int] = mapped_column(BigInteger)
    power_cuts: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(Integer)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime)
