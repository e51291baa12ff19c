"""SQLite in the loop's own thread, behind the methods of aiosqlite that SQLAlchemy's dialect calls.

aiosqlite gives each connection a thread. On a virtual-time loop the answer of a thread comes at no defined time; here
each statement runs at once, so that the same seed gives the same run. A statement blocks the loop while it runs: good
for tests and emulations in one process, not for a server with many devices.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self


class InlineCursor:
    """aiosqlite's ``Cursor``, without its thread."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        """Wrap ``cursor``."""
        self._cursor = cursor

    async def __aenter__(self) -> Self:
        return self

    @property
    def description(self) -> Any:
        """Columns of the result, None where there is none."""
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        """Rows that the statement changed."""
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        """Number of the row inserted last."""
        return self._cursor.lastrowid

    @property
    def arraysize(self) -> int:
        """Rows that `fetchmany` returns by default."""
        return self._cursor.arraysize

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Self:
        """Run a statement."""
        self._cursor.execute(sql, parameters)
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Self:
        """Run a statement for each of ``parameters``."""
        self._cursor.executemany(sql, parameters)
        return self

    async def fetchone(self) -> Any:
        """Return the next row or None."""
        return self._cursor.fetchone()

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next rows."""
        return self._cursor.fetchmany(self._cursor.arraysize if size is None else size)

    async def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        return self._cursor.fetchall()

    async def close(self) -> None:
        """Close the cursor."""
        self._cursor.close()


class InlineConnection:
    """aiosqlite's ``Connection``, without its thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Wrap ``connection``."""
        # The dialect looks at this name to see whether the connection is open.
        self._connection: sqlite3.Connection | None = connection
        self._open = connection

    @property
    def isolation_level(self) -> str | None:
        """None: transactions begin where we say so."""
        return self._open.isolation_level

    def cursor(self) -> InlineCursor:
        """Return a new cursor."""
        return InlineCursor(self._open.cursor())

    async def create_function(self, *args: Any, **kwargs: Any) -> None:
        """Give SQL a function."""
        self._open.create_function(*args, **kwargs)

    async def commit(self) -> None:
        """Commit the transaction."""
        self._open.commit()

    async def rollback(self) -> None:
        """Undo the transaction."""
        self._open.rollback()

    async def close(self) -> None:
        """Close the connection."""
        self.stop()

    def stop(self) -> None:
        """Close the connection outside a coroutine."""
        self._connection = None
        self._open.close()


async def connect_inline(path: Path) -> InlineConnection:
    """Return a new connection to the database at ``path``, for ``create_async_engine(async_creator=...)``."""
    return InlineConnection(sqlite3.connect(path, isolation_level=None))
