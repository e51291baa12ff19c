"""Transmission parameters of RFC 7252 section 4.8, and what follows from them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The parameters of one link; the defaults are those of RFC 7252 section 4.8. Times in seconds."""

    ack_timeout_s: float = 2.0
    ack_random_factor: float = 1.5
    max_retransmit: int = 4
    max_latency_s: float = 100.0

    @property
    def max_transmit_span_s(self) -> float:
        """From the first transmission of a confirmable message to its last (RFC 7252 section 4.8.2)."""
        return float(self.ack_timeout_s * (2**self.max_retransmit - 1) * self.ack_random_factor)

    @property
    def max_transmit_wait_s(self) -> float:
        """From the first transmission to giving up on an acknowledgement (RFC 7252 section 4.8.2)."""
        return float(self.ack_timeout_s * (2 ** (self.max_retransmit + 1) - 1) * self.ack_random_factor)

    @property
    def exchange_lifetime_s(self) -> float:
        """How long a message ID must not be used again: 247 s by default (RFC 7252 section 4.8.2)."""
        return self.max_transmit_span_s + 2 * self.max_latency_s + self.ack_timeout_s
