import asyncio
import random
import socket
import threading
import time

import pytest

from tests.support.virtual_loop import VirtualTimeError, VirtualTimeLoop, run_virtual


def test_a_year_passes_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(365 * 86_400)
        return asyncio.get_running_loop().time()

    started = time.monotonic()
    assert run_virtual(main) == pytest.approx(365 * 86_400)
    assert time.monotonic() - started < 10


def test_timers_fire_in_order_and_at_their_times() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        seen: list[float] = []
        for delay in (3.0, 0.1, 2.0, 0.3):
            loop.call_later(delay, lambda: seen.append(loop.time()))
        await asyncio.sleep(5)
        return seen

    assert run_virtual(main) == [0.1, 0.3, 2.0, 3.0]


def test_a_deadlock_is_named_with_the_tasks_that_wait() -> None:
    async def main() -> None:
        await asyncio.sleep(2)
        asyncio.current_task().set_name("the-stuck-one")  # type: ignore[union-attr]
        await asyncio.Event().wait()

    with pytest.raises(
        VirtualTimeError, match=r"deadlock at 2\.000 s(.|\n)*the-stuck-one waits at .*test_virtual_loop"
    ):
        run_virtual(main)


def _slow_answer() -> int:
    time.sleep(0.05)
    return 42


def test_work_in_an_executor_takes_no_virtual_time() -> None:
    async def main() -> tuple[int, float]:
        timer = asyncio.get_running_loop().create_task(asyncio.sleep(1))
        result = await asyncio.to_thread(_slow_answer)
        when = asyncio.get_running_loop().time()
        await timer
        return result, when

    assert run_virtual(main) == (42, 0.0)


def _report_from_thread(loop: asyncio.AbstractEventLoop, future: asyncio.Future[int]) -> threading.Thread:
    def work() -> None:
        time.sleep(0.05)
        loop.call_soon_threadsafe(future.set_result, 42)

    thread = threading.Thread(target=work, name="stranger")
    thread.start()
    return thread


def test_a_thread_the_loop_does_not_know_is_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        thread = _report_from_thread(loop, future)
        thread.join()
        await future
        await asyncio.sleep(1)

    with pytest.raises(VirtualTimeError, match="thread 'stranger' reported"):
        run_virtual(main)


def test_a_thread_that_is_waited_for_as_outside_work_is_welcome() -> None:
    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        future: asyncio.Future[int] = loop.create_future()
        thread = _report_from_thread(loop, future)
        timer = loop.create_task(asyncio.sleep(1))
        with loop.outside_work():
            result = await future
        when = loop.time()
        await timer
        thread.join()
        return result, when

    assert run_virtual(main) == (42, 0.0)


def test_a_real_socket_is_refused() -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            asyncio.get_running_loop().add_reader(sock, print)

    with pytest.raises(VirtualTimeError, match="a real socket or pipe"):
        run_virtual(main)


def test_the_global_random_is_seeded_inside_and_untouched_outside() -> None:
    async def main() -> float:
        return random.random()

    state = random.getstate()
    assert run_virtual(main, 1) == run_virtual(main, 1) != run_virtual(main, 2)
    assert random.getstate() == state


@pytest.mark.virtual_time
async def test_the_mark_gives_a_test_the_virtual_loop() -> None:
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    await asyncio.sleep(86_400)


async def test_without_the_mark_the_loop_is_real() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
