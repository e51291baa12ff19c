"""Drives transfer machines over an endpoint: one loop around the five calls.

Datagrams are queued by the endpoint's callback and handled in the caller's task, so that whatever the caller's handler
raises, a simulated power cut included, surfaces where the transfer was awaited.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from protocol.aio.endpoint import Endpoint
from protocol.coap.message import Message
from protocol.errors import OtaError
from protocol.transfer.events import Answered, Completed, Failed, Machine, Output, Send

Handler = Callable[[Output], None]


async def drive(machine: Machine, endpoint: Endpoint, handle: Handler | None = None) -> Completed | Answered:
    """Run ``machine`` to its end over ``endpoint``.

    Args:
        machine: a machine that was not started yet.
        endpoint: the way to the peer; its receiver is this machine's until the call returns.
        handle: called with every output that is not a datagram, the last one included.

    Returns:
        The machine's last output.

    Raises:
        OtaError: the error the machine failed with.
    """
    loop = asyncio.get_running_loop()
    inbox: deque[bytes] = deque()
    wake = asyncio.Event()

    def arrive(datagram: bytes) -> None:
        inbox.append(datagram)
        wake.set()

    endpoint.set_receiver(arrive)
    try:
        machine.start(loop.time())
        while True:
            final = _handle_outputs(machine, endpoint, handle)
            if final is not None:
                return final
            if inbox:
                machine.receive(inbox.popleft(), loop.time())
            else:
                await _wait(loop, wake, machine.next_timer())
            # Whatever keeps arriving: what is due is done, or a flood of datagrams would put the deadline off.
            due = machine.next_timer()
            if due is not None and loop.time() >= due:
                machine.handle_timer(loop.time())
    finally:
        endpoint.set_receiver(None)


async def _wait(loop: asyncio.AbstractEventLoop, wake: asyncio.Event, until: float | None) -> None:
    timer = None if until is None else loop.call_at(until, wake.set)
    try:
        await wake.wait()
    finally:
        wake.clear()
        if timer is not None:
            timer.cancel()


def _handle_outputs(machine: Machine, endpoint: Endpoint, handle: Handler | None) -> Completed | Answered | None:
    final: Completed | Answered | None = None
    error: OtaError | None = None
    while (output := machine.next_output()) is not None:
        if isinstance(output, Send):
            endpoint.send(output.datagram)
            continue
        if handle is not None:
            handle(output)
        if isinstance(output, Failed):
            error = output.error
        elif isinstance(output, Completed | Answered):
            final = output
    if error is not None:
        raise error
    return final


async def ask(machine: Machine, endpoint: Endpoint) -> Message:
    """Run a single-request machine and return the response.

    Raises:
        OtaError: no answer, or an error code.
    """
    final = await drive(machine, endpoint)
    if not isinstance(final, Answered):
        raise TypeError(f"{type(machine).__name__} ended with {type(final).__name__}, not with a response")
    return final.response
