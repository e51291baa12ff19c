"""The retransmission time-out: RFC 6298, with CoAP's back-off bounds."""

from dataclasses import dataclass
from typing import Final

ALPHA: Final = 1 / 8
BETA: Final = 1 / 4
K: Final = 4
"""RFC 6298 section 2.3."""
INITIAL_RTO_S: Final = 2.0
"""ACK_TIMEOUT of RFC 7252 section 4.8, before anything was measured."""
MIN_RTO_S: Final = 0.1
"""RFC 6298 asks for 1 s, for TCP's delayed acknowledgements; CoAP answers at once."""
MIN_VARIANCE_S: Final = 0.02
"""The clock granularity G of RFC 6298: below it, jitter of the host would time out blocks that are on their way."""
MAX_RTO_S: Final = 60.0


@dataclass(slots=True)
class RttEstimator:
    """Smoothed round-trip time and its variation, in seconds; only unambiguous samples may be given."""

    srtt_s: float | None = None
    rttvar_s: float = 0.0

    def sample(self, rtt_s: float) -> None:
        """Take one measured round trip."""
        if self.srtt_s is None:
            self.srtt_s, self.rttvar_s = rtt_s, rtt_s / 2
            return
        self.rttvar_s = (1 - BETA) * self.rttvar_s + BETA * abs(self.srtt_s - rtt_s)
        self.srtt_s = (1 - ALPHA) * self.srtt_s + ALPHA * rtt_s

    def rto_s(self, backoff: int = 0) -> float:
        """Return the time-out, doubled ``backoff`` times, within its bounds."""
        base = INITIAL_RTO_S
        if self.srtt_s is not None:
            base = max(MIN_RTO_S, self.srtt_s + max(MIN_VARIANCE_S, K * self.rttvar_s))
        return min(MAX_RTO_S, base * 2.0 ** min(backoff, 16))
