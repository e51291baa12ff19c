"""An asyncio loop whose clock jumps to the next timer instead of sleeping: hours of protocol in milliseconds.

The clock starts at 0.0 and only moves while every task waits. What happens depends on the code and its seeds alone, so
the loop refuses what would bring real time back in: sockets and pipes, and threads it does not know about. Work that
goes through ``run_in_executor`` (or ``asyncio.to_thread``) is waited for, with the clock at a standstill; any other
thread that reports to the loop must do so inside ``with loop.outside_work():``.
"""

import asyncio
import contextlib
import contextvars
import math
import random
import selectors
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar, TypeVarTuple

_Result = TypeVar("_Result")
_Ts = TypeVarTuple("_Ts")

OUTSIDE_PATIENCE_S = 60.0
"""Real seconds to wait for work outside the loop before the test is called stuck."""


class VirtualTimeError(RuntimeError):
    """Something that cannot be on virtual time: nothing left to wait for, a real socket, an unknown thread."""


class _JumpSelector(selectors.BaseSelector):
    """Waits by moving the clock of its loop."""

    def __init__(self, loop: "VirtualTimeLoop") -> None:
        self._inner = selectors.DefaultSelector()
        self._loop = loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._inner.get_map():  # the first one is the loop's own wake-up pipe
            raise VirtualTimeError("a real socket or pipe on the virtual-time loop: use MemoryNetwork instead")
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._inner.select(0)
        if ready or timeout == 0:
            return ready
        if self._loop.is_waiting_outside():
            if not (ready := self._inner.select(OUTSIDE_PATIENCE_S)):
                raise VirtualTimeError(f"work outside the loop took more than {OUTSIDE_PATIENCE_S:.0f} s")
            return ready
        if timeout is None:
            raise VirtualTimeError(f"deadlock at {self._loop.time():.3f} s: nothing is scheduled\n{self._loop.tasks()}")
        self._loop.advance(max(timeout, 0.0))
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop; `time` starts at 0.0 seconds."""

    def __init__(self) -> None:
        self._now = 0.0
        self._outside = 0
        self._stranger: str | None = None
        super().__init__(_JumpSelector(self))
        self._clock_resolution = 1e-9
        self._thread_name = threading.current_thread().name

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock; the selector does, when every task waits."""
        if self._stranger is not None:
            name, self._stranger = self._stranger, None
            raise VirtualTimeError(
                f"thread {name!r} reported to the virtual-time loop, so the result depends on real time: "
                "go through run_in_executor, or wrap the wait in `with loop.outside_work():`"
            )
        self._now += seconds
        # A timer fires once `time() + resolution > when`; late in a run 1 ns is lost in rounding, and it never would.
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._now))

    def is_waiting_outside(self) -> bool:
        """Return whether the clock must stand still because a thread or process is at work."""
        return self._outside > 0

    @contextlib.contextmanager
    def outside_work(self) -> Iterator[None]:
        """Hold the clock still while the caller waits for a thread or process that the loop does not know."""
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1

    def run_in_executor(self, executor: Any, func: Callable[[*_Ts], _Result], *args: *_Ts) -> asyncio.Future[_Result]:
        future = super().run_in_executor(executor, func, *args)
        self._outside += 1
        future.add_done_callback(self._finish_outside)
        return future

    def call_soon_threadsafe(
        self, callback: Callable[[*_Ts], object], *args: *_Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        name = threading.current_thread().name
        if name != self._thread_name and not self.is_waiting_outside():
            self._stranger = name
        return super().call_soon_threadsafe(callback, *args, context=context)

    async def shutdown_default_executor(self, *timeout: float | None) -> None:
        with self.outside_work():  # it waits for a thread of its own
            await super().shutdown_default_executor(*timeout)

    def tasks(self) -> str:
        """Return one line per unfinished task: its name and the line it waits at."""
        lines = []
        for task in sorted(asyncio.all_tasks(self), key=lambda task: task.get_name()):
            where = ", ".join(f"{f.f_code.co_filename}:{f.f_lineno}" for f in task.get_stack(limit=1))
            lines.append(f"  {task.get_name()} waits at {where}")
        return "\n".join(lines)

    def _finish_outside(self, _: object) -> None:
        self._outside -= 1


def run_virtual(main: Callable[[], Coroutine[Any, Any, _Result]], seed: int = 1) -> _Result:
    """Run ``main()`` on a fresh virtual-time loop and return its result; the same seed gives the same run.

    The global ``random``, which aiocoap draws from, is seeded for the run and put back afterwards. Tasks that are left
    are cancelled and the loop is closed.

    Raises:
        VirtualTimeError: every task waits and no timer is set.
    """
    with seeded_random(seed), asyncio.Runner(loop_factory=VirtualTimeLoop, debug=True) as runner:
        return runner.run(main())


@contextlib.contextmanager
def seeded_random(seed: int) -> Iterator[None]:
    """Seed the global ``random`` inside the block and put its state back after it."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
