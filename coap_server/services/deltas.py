"""Which deltas a release needs, and making them in processes of their own.

A process that makes deltas lives no longer than it is needed: it holds one end of a pipe whose other end only the
publisher has, and ends when that is closed: by a publisher that was told to stop, or by the system when it was killed.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from coap_server.errors import ServerError, StoreError
from coap_server.store.base import Release
from coap_server.store.blobs import BlobStore
from protocol.delta import CODECS


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """From an image that runs to one to install. ``slot`` is the slot the result goes to, None for any."""

    source: bytes
    target: bytes
    slot: int | None = None


def plan_edges(targets: Sequence[bytes], bases: Sequence[Release]) -> tuple[Edge, ...]:
    """Return the edges from the images of ``bases`` to a release's images, in the order of ``bases``.

    With two targets the image linked for slot 0 is only ever installed there, so that what runs in the other slot is
    its base. An image that runs in either slot needs a delta to each, and the manifest says which is for which slot.
    """
    edges: dict[Edge, None] = {}
    for base in bases:
        for at, source in enumerate(base.images):
            for slot, target in enumerate(targets):
                if source == target or (len(targets) == len(base.images) == 2 and slot == at):
                    continue
                edges[Edge(source=source, target=target, slot=slot if len(targets) == 2 else None)] = None
    return tuple(edges)


async def check_bases(blobs: BlobStore, bases: Sequence[Release], sources: Collection[bytes]) -> None:
    """See that the images which deltas are made from are what they were: a delta from other bytes fits no device.

    Raises:
        StoreError: one is missing or damaged; the message names its version.
    """
    versions = {image: base.version for base in reversed(bases) for image in base.images}
    for source in sources:
        if not await asyncio.to_thread(blobs.is_whole, source):
            path = blobs.path(source)
            state = "damaged" if path.exists() else "missing"
            raise StoreError(
                f"artifact {path} is {state}; publish version {versions[source]}'s file again under another version, "
                "or use --no-delta, or --from another version"
            )


async def make_deltas(
    codec: str, pairs: Sequence[tuple[Path, Path]], on_done: Callable[[int], None] = lambda done: None
) -> list[bytes]:
    """Return the patch of each ``(old, new)`` pair of files; ``on_done`` is told how many are ready.

    Raises:
        ServerError: a process died, e.g. for want of memory: a patch takes 17 times the size of the old image.
    """
    if not pairs:
        return []
    loop = asyncio.get_running_loop()
    # Spawned, not forked: a copy of a process with threads can stand still in a lock that nobody holds.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    workers = min(len(pairs), os.cpu_count() or 1)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with, initargs=(theirs,))
    tasks: list[asyncio.Future[bytes]] = []
    try:
        tasks = [loop.run_in_executor(pool, _diff, codec, old, new) for old, new in pairs]
        for done, task in enumerate(asyncio.as_completed(tasks), 1):
            await task
            on_done(done)
        return [task.result() for task in tasks]
    except BrokenProcessPool as error:
        raise ServerError(
            "a process that made a delta died, perhaps for want of memory; try --max-precursors 1 or --no-delta"
        ) from error
    finally:
        for task in tasks:
            task.cancel()
        ours.close()
        pool.shutdown(wait=True, cancel_futures=True)
        theirs.close()


def _end_with(publisher: Connection) -> None:
    """Prepare a process: an interrupt is for the publisher, and when that goes, the process goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        publisher.poll(None)  # nothing is ever sent: this returns at the end of the pipe
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _diff(codec: str, old: Path, new: Path) -> bytes:
    return CODECS[codec].diff(old.read_bytes(), new.read_bytes())
