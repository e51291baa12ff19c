"""Files by their SHA-256: a digest's bytes never change, and a file with a digest's name is whole.

A file is written under a temporary name in its own folder, synced, renamed, and the folder synced: after a power cut
there is the whole file or none. Temporary files that a cut left behind are removed at the next open.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coap_server.errors import NotFoundError, StoreError

_TEMPORARY: Final = ".new-"
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What `BlobStore.put` did; ``is_new`` tells whether the bytes were not there before."""

    digest: bytes
    size: int
    is_new: bool


class BlobStore:
    """The artifact folder. Methods block; call those on whole files off the loop."""

    def __init__(self, folder: Path) -> None:
        """Open ``folder``, make it where it is missing, and clear away what a power cut left half-written.

        Raises:
            StoreError: the folder cannot be made or read.
        """
        self._folder = folder
        with _os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"{_TEMPORARY}*"):
                if not _is_alive(left):
                    left.unlink(missing_ok=True)

    @property
    def folder(self) -> Path:
        """Where the files stand."""
        return self._folder

    def put(self, content: bytes | Path, *, digest: bytes | None = None) -> Stored:
        """Store bytes, or the bytes of a file, and return their digest.

        Raises:
            StoreError: the bytes are not those of ``digest``, what stands under their name is not they, or the folder
                cannot be written.
        """
        with _os_errors(self._folder):
            data = content.read_bytes() if isinstance(content, Path) else content
            found = hashlib.sha256(data).digest()
            if digest is not None and found != digest:
                raise StoreError(f"the bytes have the digest {found.hex()}, not {digest.hex()}")
            target = self.path(found)
            is_new = not target.exists()
            # A file of another content under this name was damaged on the disk; writing it again repairs it.
            if not self.is_whole(found):
                self._write(target, data)
        return Stored(digest=found, size=len(data), is_new=is_new)

    def is_whole(self, digest: bytes) -> bool:
        """Return whether the bytes of a digest are there and are still they; reads all of them.

        Raises:
            StoreError: the file cannot be read.
        """
        with _os_errors(self._folder):
            try:
                return _hash(self.path(digest)) == digest
            except FileNotFoundError:
                return False

    def path(self, digest: bytes) -> Path:
        """Return where the bytes of a digest stand, or would."""
        return self._folder / digest.hex()

    def size(self, digest: bytes) -> int:
        """Return the size in bytes.

        Raises:
            NotFoundError: there is no such file.
        """
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no artifact {digest.hex()}") from error

    def read(self, digest: bytes, offset: int = 0, size: int = -1) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer at the end; all of them by default.

        Raises:
            NotFoundError: there is no such file.
            StoreError: it cannot be read.
        """
        try:
            with self.path(digest).open("rb", buffering=0) as file:
                file.seek(offset)
                return file.read(size) or b""
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no artifact {digest.hex()}") from error
        except OSError as error:
            raise StoreError(f"artifact {self.path(digest)}: {error.strerror}") from error

    def delete(self, digest: bytes) -> None:
        """Remove the bytes of a digest, if they are there."""
        with _os_errors(self._folder):
            self.path(digest).unlink(missing_ok=True)
            _sync_folder(self._folder)

    def find_by_prefix(self, prefix: str) -> bytes | None:
        """Return the digest whose hex form begins with ``prefix``, None where none or more than one does."""
        with _os_errors(self._folder):
            found = [name for name in os.listdir(self._folder) if name.startswith(prefix) and len(name) == 64]
        return bytes.fromhex(found[0]) if len(found) == 1 else None

    def _write(self, target: Path, data: bytes) -> None:
        # The process id in the name tells the next open whether its writer is still at work.
        temporary = self._folder / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self._folder)


def _is_alive(temporary: Path) -> bool:
    try:
        writer = int(temporary.name.removeprefix(_TEMPORARY).partition("-")[0])
        if writer == os.getpid():
            return False  # a number used again: this process has not begun to write
        os.kill(writer, 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _hash(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.digest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _os_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = error.filename or folder
        raise StoreError(f"{name}: {error.strerror or error}; check the folder, its rights and free space") from error
