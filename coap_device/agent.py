"""The firmware's update agent: check in, fetch, process, reboot, report; and the hand that switches the power on.

One `Agent` is one emulated device over its whole life. What is in RAM ends with every power cut: the board is built
anew from the flash, and only the flash, the meter and the plan of cuts go on.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from coap_device.boot.board import Board, open_board
from coap_device.boot.bootloader import BootResult
from coap_device.boot.trailer import TrailerState
from coap_device.config import DeviceConfig
from coap_device.downloads import Link
from coap_device.firmware import SelfTest
from coap_device.hardware.flash import Backing
from coap_device.hardware.power import BETWEEN_TRAILERS, PowerCut, PowerPlan
from coap_device.lifecycle import Lifecycle, Stage
from coap_device.meter import Meter, MeteredEndpoint
from coap_device.updater import Updater
from protocol import messages
from protocol.aio.endpoint import Endpoint
from protocol.coap.numbers import CHECKIN_PATH, REPORT_PATH, ContentFormat
from protocol.delta import CODECS
from protocol.errors import (
    REASON_OK,
    OtaError,
    RequestRefused,
    TransferError,
)
from protocol.messages import MAX_DETAIL, Assignment, Checkin, Outcome, StatusReport
from protocol.trace import Event

logger = logging.getLogger(__name__)

Connect = Callable[[], Awaitable[Endpoint]]
Emit = Callable[[Event], None]

EXCHANGE_TRIES: Final = 3
"""Times that a check-in or a report is tried in a row; each is up to five transmissions of its own."""
RETRY_S: Final = 5.0
REFUSED_S: Final = 60.0
"""Between check-ins that the server answers with an error."""
BOOT_S: Final = 0.5
"""From power to firmware."""
WATCHDOG_S: Final = 8.0
"""Until the watchdog resets a firmware that hangs."""
POWER_OFF_S: Final = 1.0
"""How long the power stays away after a cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended: the outcome of the last update (None: nothing to do), and what runs now."""

    outcome: Outcome | None
    detail: str
    slot: int
    image_digest: bytes
    image_size: int
    sequence_number: int


class Reset(Exception):
    """The firmware asks for a reboot, or the watchdog enforces one."""


class Agent:
    """One emulated device.

    Args:
        config: what the operator set.
        backing: the flash chip, provisioned.
        connect: opens an endpoint to the server; called after every boot.
        rng: the device's random source.
        power: when the power fails.
        emit: takes the trace.
    """

    def __init__(
        self,
        config: DeviceConfig,
        backing: Backing,
        connect: Connect,
        rng: random.Random,
        *,
        power: PowerPlan | None = None,
        emit: Emit | None = None,
    ) -> None:
        self._config = config
        self._backing = backing
        self._connect = connect
        self._rng = rng
        self.power = power or PowerPlan(config.cuts.operations)
        self._emit = emit
        self.meter = Meter()
        self._fractions = list(config.cuts.fractions)
        self._lifecycle = Lifecycle()
        self._last: tuple[Outcome, str] | None = None
        for _ in range(config.cuts.between_trailers):
            self.power.cut_next(BETWEEN_TRAILERS)

    async def run(self) -> RunResult:
        """Live: boot, run, update, through every power cut.

        Returns:
            The result; only where the configuration says ``once``.

        Raises:
            OtaError: the device cannot boot, or (``once``) the server cannot be reached.
        """
        self.meter.began_at = asyncio.get_running_loop().time()
        while True:
            try:
                return await self._live()
            except PowerCut as cut:
                self.meter.power_cuts += 1
                self._tell("power-cut", operation=cut.record.operation, what=cut.record.what)
                await asyncio.sleep(POWER_OFF_S)
            except Reset as reset:
                self._tell("reset", why=str(reset))
            self._lifecycle.power_on()

    async def _live(self) -> RunResult:
        """One power domain: from the bootloader to the next reset or cut."""
        await asyncio.sleep(BOOT_S)
        board = open_board(self._backing, self.power)
        running = board.bootloader.boot()
        self._tell(
            "booted",
            slot="AB"[running.slot],
            state=running.state.name.lower(),
            image=running.image_digest.hex()[:16],
            sequence=running.sequence_number,
        )
        if running.state is TrailerState.TRIAL:
            await self._self_test(board, running)
        self._lifecycle.go(Stage.RUNNING)
        try:
            endpoint = MeteredEndpoint(await self._connect(), self.meter)
        except OtaError as error:
            if self._config.once:
                raise
            self._tell("no-network", why=str(error))
            await asyncio.sleep(REFUSED_S)
            raise Reset("the server's address could not be used") from error
        try:
            link = self._link(endpoint)
            return await self._run(board, running, link)
        finally:
            endpoint.close()

    async def _self_test(self, board: Board, running: BootResult) -> None:
        self._lifecycle.go(Stage.SELF_TEST)
        verdict = self._config.self_test
        self._tell("self-test", verdict=verdict.value)
        if verdict is SelfTest.PASS:
            board.bootloader.confirm(running.slot)
            return
        if verdict is SelfTest.FAIL:
            board.bootloader.revert(running.slot)
            self._lifecycle.go(Stage.REBOOTING)
            raise Reset("the new image failed its self test and was reverted")
        await asyncio.sleep(WATCHDOG_S)
        raise Reset("the new image hangs, the watchdog bit")

    async def _run(self, board: Board, running: BootResult, link: Link) -> RunResult:
        while True:
            await self._report_ends(board, running, link)
            if self._config.once and self._last is not None:
                return self._result(running)
            try:
                assignment = await self._check_in(board, running, link)
            except OtaError as error:
                # Nothing is published for this model yet, say: a device in the field asks again later.
                if self._config.once:
                    raise
                self._tell("check-in-refused", why=str(error))
                self._lifecycle.go(Stage.RUNNING)
                await link.pause(REFUSED_S)
                self.meter.clear(asyncio.get_running_loop().time())
                continue
            await self._report_ends(board, running, link)
            if self._config.once and self._last is not None:
                return self._result(running)
            if assignment.manifest_uri is not None:
                await self._update(board, running, link, assignment)
                if self._config.once:
                    return self._result(running)
            elif self._config.once:
                self._tell("up-to-date", image=running.image_digest.hex()[:16])
                return self._result(running)
            if not self._config.once:
                await link.pause(max(1, assignment.poll_s))
                if assignment.manifest_uri is None:
                    self.meter.clear(asyncio.get_running_loop().time())

    # Talking to the server

    async def _check_in(self, board: Board, running: BootResult, link: Link) -> Assignment:
        self._lifecycle.go(Stage.CHECKING_IN)
        self._tell("checking-in", server=f"{self._config.server.host}:{self._config.server.port}")
        message = Checkin(
            device_id=board.provisioning.device_id,
            model=board.provisioning.model,
            image_digest=running.image_digest,
            sequence_number=board.ledger.floor(),
            slot=running.slot,
            trial=False,
            decoders=tuple(CODECS),
        )
        response = await self._post(link, f"/{CHECKIN_PATH}", messages.encode(message))
        assignment = messages.decode(Assignment, response)
        self._tell("checked-in", offered=assignment.manifest_uri or "nothing")
        self._lifecycle.go(Stage.RUNNING)
        return assignment

    async def _report_ends(self, board: Board, running: BootResult, link: Link) -> None:
        """Report what ended since the server last heard of it; the ledger knows, whatever the power did."""
        for digest in reversed(board.ledger.reverted_digests()):
            if not board.ledger.is_reported(digest, Outcome.REVERTED):
                await self._report(
                    board, running, link, digest, Outcome.REVERTED, "the new image did not confirm itself"
                )
        installed = running.manifest_digest
        if installed is not None and not board.ledger.is_reported(installed, Outcome.CONFIRMED):
            await self._report(board, running, link, installed, Outcome.CONFIRMED, "")

    async def _report(
        self,
        board: Board,
        running: BootResult,
        link: Link,
        digest: bytes,
        outcome: Outcome,
        detail: str,
        reason: int = REASON_OK,
    ) -> None:
        self._lifecycle.go(Stage.REPORTING)
        meter = self.meter
        report = StatusReport(
            device_id=board.provisioning.device_id,
            manifest_digest=digest,
            outcome=outcome,
            reason=reason,
            detail=detail[:MAX_DETAIL],
            image_digest=running.image_digest,
            sequence_number=running.sequence_number,
            slot=running.slot,
            bytes_up=meter.bytes_up,
            bytes_down=meter.bytes_down,
            blocks=meter.blocks,
            blocks_resent=meter.blocks_resent,
            via=meter.via,
            duration_s=round(asyncio.get_running_loop().time() - meter.began_at),
            power_cuts=meter.power_cuts,
        )
        try:
            await self._post(link, f"/{REPORT_PATH}", messages.encode(report))
        except RequestRefused as error:
            # A server that lost its records must not end the device: it learns of it at check-in, and is told again.
            self._tell("report-refused", why=str(error))
            self._lifecycle.go(Stage.RUNNING)
            return
        self._last = (outcome, detail)
        if outcome in (Outcome.CONFIRMED, Outcome.REVERTED):
            board.ledger.mark_reported(digest, outcome)
        self._tell("reported", outcome=outcome.name.lower(), detail=detail, reason=reason)
        self._lifecycle.go(Stage.RUNNING)

    async def _post(self, link: Link, path: str, payload: bytes) -> bytes:
        """Post until it is answered; an error code is final, silence is not."""
        tries = 0
        while True:
            tries += 1
            try:
                response = await link.post(path, payload, ContentFormat.CBOR)
            except TransferError as error:
                answered = isinstance(error, RequestRefused) and error.code >> 5 == 4
                if answered or (self._config.once and tries >= EXCHANGE_TRIES):
                    raise
                self._tell("retrying", path=path, why=str(error))
                await link.pause(RETRY_S)
                continue
            return response.payload

    async def _update(self, board: Board, running: BootResult, link: Link, assignment: Assignment) -> None:
        """Take the assignment to its end: a reset into the new image, or a report of why not."""
        self.meter.begin(assignment.manifest_digest or bytes(32), asyncio.get_running_loop().time())
        updater = Updater(board, running, link, self._lifecycle, self.meter, self._tell)
        ended = await updater.run(assignment)
        if ended is None:
            raise Reset("a new image is installed")
        if ended.outcome is not None:
            self._tell(ended.outcome.name.lower(), why=str(ended.error), reason=ended.error.reason)
            self._last = (ended.outcome, str(ended.error))
            await self._report(board, running, link, ended.digest, ended.outcome, str(ended.error), ended.error.reason)
            return
        self._tell("interrupted", why=str(ended.error))
        self._lifecycle.go(Stage.RUNNING)
        if self._config.once:
            raise ended.error

    # What others see

    def _link(self, endpoint: Endpoint) -> Link:
        return Link(
            endpoint,
            self._config.server,
            self._rng,
            self.meter,
            self.power,
            self._fractions,
            szx=self._config.block_szx,
            progress=self._progress,
        )

    def _progress(self, path: str, held: int, size: int) -> None:
        self._tell("block", path=path, held=held, size=size)

    def _result(self, running: BootResult) -> RunResult:
        outcome, detail = self._last or (None, "")
        return RunResult(
            outcome=outcome,
            detail=detail,
            slot=running.slot,
            image_digest=running.image_digest,
            image_size=running.size,
            sequence_number=running.sequence_number,
        )

    def _tell(self, name: str, **data: str | int | float | bool | None) -> None:
        fields: Mapping[str, str | int | float | bool | None] = data
        if name != "block":
            logger.info("%s %s", name, fields)
        if self._emit is not None:
            self._emit(Event(time_s=asyncio.get_running_loop().time(), name=name, data=fields))
