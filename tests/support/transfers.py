"""What the tests of the receiver share: two representations, a receiver with a plan, scripts."""

import random
from collections.abc import Callable

from protocol.transfer.receiver import FetchPlan, Receiver, Resume
from protocol.transfer.requests import Numbers
from tests.support.block_server import RTT_S, Asked, Replies

DATA = random.Random(7).randbytes(10_000)
OTHER = random.Random(8).randbytes(9_000)
LIMIT = 1 << 20


def receiver(
    *,
    max_size: int = LIMIT,
    expected_size: int | None = None,
    szx: int = 6,
    window: int = 8,
    deadline_s: float = 86_400.0,
    stall_s: float = 600.0,
    resume: Resume | None = None,
    seed: int = 1,
    numbers: Numbers | None = None,
) -> Receiver:
    plan = FetchPlan(
        path="/p/fw",
        max_size=max_size,
        expected_size=expected_size,
        szx=szx,
        window=window,
        deadline_s=deadline_s,
        stall_s=stall_s,
        resume=resume,
    )
    return Receiver(plan, random.Random(seed), numbers=numbers)


def once(count: int, make: Callable[[Asked], bytes]) -> Callable[[Asked], Replies | None]:
    """A script that answers request ``count`` with ``make``, and nothing else."""
    return lambda asked: [(RTT_S, make(asked))] if asked.count == count else None


def held(*ranges: tuple[int, int], etag: bytes = b"etag", size: int = len(DATA)) -> Resume:
    return Resume(etag=etag, size=size, have=ranges)
