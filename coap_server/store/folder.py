"""The data folder: what stands where, whether its parts belong together, and taking back a folder made in vain.

Whoever uses the folder holds a shared lock on it, so that a start which failed removes what it made only if nobody else
has begun to use it.
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from coap_server.config import ARTIFACTS_NAME, DATABASE_NAME
from coap_server.errors import StoreError
from coap_server.store import schema


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFolder:
    """A folder in use; `leave` it. ``made`` are the folders that were missing, innermost first."""

    path: Path
    made: tuple[Path, ...]
    has_new_database: bool
    descriptor: int

    @classmethod
    def enter(cls, path: Path) -> Self:
        """Make the folder where it is missing, and hold it.

        Raises:
            StoreError: it cannot be made or read, or its database is lost.
        """
        made = tuple(folder for folder in (path, *path.parents) if not folder.exists())
        try:
            path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreError(f"--data {path}: {error.strerror}; choose a folder that can be made") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            is_new = schema.is_empty(path / DATABASE_NAME)
            if is_new:
                refuse_orphans(path)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path=path, made=made, has_new_database=is_new, descriptor=descriptor)

    @property
    def database(self) -> Path:
        """The database file."""
        return self.path / DATABASE_NAME

    @property
    def artifacts(self) -> Path:
        """The folder of artifacts."""
        return self.path / ARTIFACTS_NAME

    def leave(self) -> None:
        """Let go of the folder."""
        os.close(self.descriptor)

    def take_back(self) -> None:
        """Remove the database and the folders that this start made, if they are unused; then let go.

        The database is closed already. What cannot be removed, or is somebody's, stays.
        """
        with contextlib.suppress(OSError):
            if self.has_new_database:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.artifacts.exists():
                    self.artifacts.rmdir()  # fails where something is stored
                for suffix in ("", "-wal", "-shm"):
                    self.path.joinpath(DATABASE_NAME + suffix).unlink(missing_ok=True)
                for folder in self.made:
                    folder.rmdir()
        self.leave()


def refuse_orphans(path: Path) -> None:
    """Refuse artifacts whose database is lost: sequence numbers would begin again, and devices refuse those.

    Raises:
        StoreError: there are artifacts.
    """
    folder = path / ARTIFACTS_NAME
    try:
        count = sum(len(name) == 64 for name in os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"--data {folder}: {error.strerror}; check the folder and its rights") from error
    if count:
        raise StoreError(
            f"database {path / DATABASE_NAME} is empty or gone although {folder} holds {count} "
            "artifacts; restore it from a backup or choose another --data"
        )
