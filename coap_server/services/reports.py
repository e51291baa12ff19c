"""Status reports: how an update ended on a device."""

import logging
from collections.abc import Callable
from datetime import datetime

from coap_server.errors import InputError
from coap_server.services.assign import MAX_NUMBER
from coap_server.store.base import Report, Store
from coap_server.text import printable
from protocol.messages import Outcome, StatusReport

logger = logging.getLogger(__name__)


class Reporter:
    """Takes status reports. The same report again changes nothing, so a device may repeat one until it is answered."""

    def __init__(self, store: Store, *, now: Callable[[], datetime]) -> None:
        """Keep reports in ``store``."""
        self._store = store
        self._now = now

    async def add(self, report: StatusReport) -> Report:
        """Store a report.

        Raises:
            NotFoundError: the device never checked in.
            InputError: a number beyond what can be kept.
        """
        for name in ("sequence_number", "bytes_up", "bytes_down"):
            if getattr(report, name) > MAX_NUMBER:
                raise InputError(f"{name.replace('_', '-')} {getattr(report, name)} is above {MAX_NUMBER}")
        stored = await self._store.add_report(report, self._now())
        level = logging.INFO if report.outcome is Outcome.CONFIRMED else logging.WARNING
        logger.log(
            level,
            "device %s, update %s: %s, reason %d%s",
            report.device_id,
            report.manifest_digest.hex()[:16],
            report.outcome.name,
            report.reason,
            f" ({printable(report.detail)})" if report.detail else "",
        )
        return stored
