"""Artifacts on disk: a name stands for its whole bytes, or there is no such name."""

import hashlib
import os
from pathlib import Path

import pytest

from coap_server.errors import NotFoundError, StoreError
from coap_server.store.blobs import BlobStore

DATA = bytes(range(256)) * 20
DIGEST = hashlib.sha256(DATA).digest()


class Cut(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def blobs(folder: Path) -> BlobStore:
    return BlobStore(folder)


def test_bytes_come_back_by_their_digest(blobs: BlobStore) -> None:
    stored = blobs.put(DATA)

    assert (stored.digest, stored.size, stored.is_new) == (DIGEST, len(DATA), True)
    assert blobs.read(DIGEST) == DATA
    assert blobs.size(DIGEST) == len(DATA)


def test_any_part_can_be_read(blobs: BlobStore) -> None:
    blobs.put(DATA)

    assert blobs.read(DIGEST, 300, 16) == DATA[300:316]
    assert blobs.read(DIGEST, len(DATA) - 5, 100) == DATA[-5:]
    assert blobs.read(DIGEST, len(DATA), 10) == b""


def test_file_is_stored_like_bytes(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "fw.bin").write_bytes(DATA)

    assert blobs.put(tmp_path / "fw.bin", digest=DIGEST).digest == DIGEST


def test_second_put_of_the_same_bytes_is_not_new(blobs: BlobStore) -> None:
    blobs.put(DATA)

    assert not blobs.put(DATA).is_new


def test_put_of_other_bytes_than_announced_is_refused(blobs: BlobStore, folder: Path) -> None:
    with pytest.raises(StoreError, match="not " + DIGEST.hex()):
        blobs.put(DATA + b"!", digest=DIGEST)

    assert list(folder.iterdir()) == []


def test_damaged_file_is_repaired_by_the_next_put(blobs: BlobStore) -> None:
    blobs.put(DATA)
    blobs.path(DIGEST).write_bytes(DATA[:-1] + b"!")

    blobs.put(DATA)

    assert blobs.read(DIGEST) == DATA


def test_missing_digest_is_named(blobs: BlobStore) -> None:
    for ask in (lambda: blobs.read(DIGEST), lambda: blobs.size(DIGEST)):
        with pytest.raises(NotFoundError, match=DIGEST.hex()):
            ask()


def test_prefix_finds_the_one_digest(blobs: BlobStore) -> None:
    blobs.put(DATA)

    assert blobs.find_by_prefix(DIGEST.hex()[:16]) == DIGEST
    assert blobs.find_by_prefix("0" * 16) is None


def test_deleted_bytes_are_gone(blobs: BlobStore) -> None:
    blobs.put(DATA)

    blobs.delete(DIGEST)
    blobs.delete(DIGEST)

    assert blobs.find_by_prefix(DIGEST.hex()) is None


@pytest.mark.faults
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_process_that_ends_in_a_put_leaves_no_name(folder: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = []

    def cut(*_: object) -> None:
        cuts.append(step)
        raise Cut

    blobs = BlobStore(folder)
    with monkeypatch.context() as patched:
        # A killed process does not clean up behind itself either.
        patched.setattr(os, step, cut)
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Cut):
            blobs.put(DATA)

    assert cuts == [step]
    assert blobs.find_by_prefix(DIGEST.hex()) is None
    assert len(list(folder.iterdir())) == 1, "the temporary file was to be left over"
    reopened = BlobStore(folder)
    assert list(folder.iterdir()) == []
    assert reopened.put(DATA).is_new


def test_failed_write_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    blobs = BlobStore(folder)
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StoreError, match="No space left on device"):
        blobs.put(DATA)

    assert list(folder.iterdir()) == []


def test_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StoreError, match="file"):
        BlobStore(tmp_path / "file")
