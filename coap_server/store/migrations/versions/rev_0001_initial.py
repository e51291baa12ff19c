"""The tables of the first version: models, artifacts, releases, deltas, devices, reports."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("vendor_domain", sa.String(255), nullable=False),
        sa.Column("vendor_id", sa.LargeBinary(16), nullable=False),
        sa.Column("class_id", sa.LargeBinary(16), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("name", name="uq_models_name"),
    )
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_artifacts"),
    )
    op.create_table(
        "releases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("sequence_number", sa.BigInteger(), nullable=False),
        sa.Column("profile", sa.String(16), nullable=False),
        sa.Column("image_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("image_size", sa.BigInteger(), nullable=False),
        sa.Column("image_b_digest", sa.LargeBinary(32), nullable=True),
        sa.Column("envelope_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("envelope_size", sa.Integer(), nullable=False),
        sa.Column("manifest_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("promoted", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_releases"),
        _foreign_key("releases", "model_id", "models.id"),
        _foreign_key("releases", "image_digest", "artifacts.digest"),
        _foreign_key("releases", "image_b_digest", "artifacts.digest"),
        _foreign_key("releases", "envelope_digest", "artifacts.digest"),
        sa.UniqueConstraint("model_id", "version", name="uq_releases_model_id_version"),
        sa.UniqueConstraint("model_id", "sequence_number", name="uq_releases_model_id_sequence_number"),
    )
    op.create_index("ix_releases_image_digest", "releases", ["image_digest"])
    op.create_index("ix_releases_manifest_digest", "releases", ["manifest_digest"])
    op.create_table(
        "deltas",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("from_image_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("to_image_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("codec", sa.String(32), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_deltas"),
        _foreign_key("deltas", "from_image_digest", "artifacts.digest"),
        _foreign_key("deltas", "to_image_digest", "artifacts.digest"),
        _foreign_key("deltas", "digest", "artifacts.digest"),
        sa.UniqueConstraint(
            "from_image_digest", "to_image_digest", "codec", name="uq_deltas_from_image_digest_to_image_digest_codec"
        ),
    )
    op.create_table(
        "devices",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("image_digest", sa.LargeBinary(32), nullable=True),
        sa.Column("sequence_number", sa.BigInteger(), nullable=True),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("trial", sa.Boolean(), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(), nullable=True),
        sa.Column("assigned_release_id", sa.Integer(), nullable=True),
        sa.Column("offered_release_id", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        _foreign_key("devices", "model_id", "models.id"),
        _foreign_key("devices", "assigned_release_id", "releases.id"),
        _foreign_key("devices", "offered_release_id", "releases.id"),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("manifest_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("release_id", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Integer(), nullable=False),
        sa.Column("detail", sa.String(200), nullable=False),
        sa.Column("image_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("sequence_number", sa.BigInteger(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("bytes_up", sa.BigInteger(), nullable=False),
        sa.Column("bytes_down", sa.BigInteger(), nullable=False),
        sa.Column("blocks", sa.BigInteger(), nullable=False),
        sa.Column("blocks_resent", sa.BigInteger(), nullable=False),
        sa.Column("via", sa.Integer(), nullable=True),
        sa.Column("duration_s", sa.BigInteger(), nullable=False),
        sa.Column("power_cuts", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reports"),
        _foreign_key("reports", "device_id", "devices.id"),
        _foreign_key("reports", "release_id", "releases.id"),
        sa.UniqueConstraint(
            "device_id", "manifest_digest", "outcome", name="uq_reports_device_id_manifest_digest_outcome"
        ),
    )


def downgrade() -> None:
    for table in ("reports", "devices", "deltas", "releases", "artifacts", "models"):
        op.drop_table(table)


def _foreign_key(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=f"fk_{table}_{column}")
