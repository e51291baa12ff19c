"""A database file made ready: checked whether it is one of ours, and brought to the newest revision.

This runs once at open, over a plain connection, before the first query. A file is ours if it bears our application id
(a field that SQLite keeps for this); one without tables is new.
"""

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from coap_server.errors import StoreError
from coap_server.store import migrations
from coap_server.text import printable

APPLICATION_ID: Final = 0x434F5441
"""``COTA`` in ASCII."""
BUSY_TIMEOUT_S: Final = 10.0
_UNUSABLE: Final = (sqlite3.Error, SQLAlchemyError, OSError, UnicodeDecodeError, CommandError)
"""What a file that is no good database makes the driver, SQLAlchemy and Alembic raise."""


def upgrade(path: Path) -> None:
    """Make the database at ``path`` where there is none, check it, and bring it to the newest revision.

    Raises:
        StoreError: damaged, not ours, made by a newer version, or not writable.
    """
    try:
        revision = _inspect(path)
        if revision != migrations.HEAD:
            _migrate(path)
    except _UNUSABLE as error:
        raise damaged(path, error) from error


def is_empty(path: Path) -> bool:
    """Return whether there is no database at ``path``, or one without tables. A file that is none is not empty.

    Nothing is written, and a file of no bytes is not even opened: SQLite would remove the log beside it.
    """
    if not path.exists() or path.stat().st_size == 0:
        return True
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            return connection.execute("SELECT name FROM sqlite_master").fetchone() is None
    except _UNUSABLE as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> StoreError:
    """Return the error for a database that SQLite cannot use."""
    reason = _reason(error)
    if "unable to open" in reason or "readonly" in reason or isinstance(error, OSError):
        return StoreError(f"database {path}: {reason}; check that the folder exists and may be written")
    if "locked" in reason:
        return StoreError(f"database {path}: {reason}; another program writes to it, try again")
    return StoreError(f"database {path} is damaged or no database ({reason}); restore it or choose another --data")


def _reason(error: Exception) -> str:
    lines = str(getattr(error, "orig", None) or error).splitlines()
    return printable(lines[0] if lines else type(error).__name__, 200)


def config() -> Config:
    """Return Alembic's configuration; the revisions travel inside the package."""
    result = Config()
    result.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return result


def _inspect(path: Path) -> str | None:
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            # Kept in the file: readers no longer wait for a writer.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            return None
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        if found != APPLICATION_ID:
            raise StoreError(f"database {path} belongs to another program; choose another --data")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(str(verdict).splitlines()[-1])  # the lines before it only name the database
        if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
            raise sqlite3.DatabaseError("a row refers to one that is not there")
        if "alembic_version" not in tables:
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        if row is not None and not isinstance(row[0], str):
            raise sqlite3.DatabaseError("its revision is no text")
        if row is not None and row[0] > migrations.HEAD:
            found = printable(row[0], 20)
            raise StoreError(f"database {path} was made by a newer ota-server (revision {found}); update this one")
        return None if row is None else row[0]


def _migrate(path: Path) -> None:
    options = {"timeout": BUSY_TIMEOUT_S, "isolation_level": None}
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, connect_args=options)
    # All revisions in one transaction: after a power cut there are all tables or none, and of two processes that open
    # a new database the second one waits, then finds nothing left to do.
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.begin() as connection:
            settings = config()
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")
    finally:
        engine.dispose()
