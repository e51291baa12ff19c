"""What both ends of a firmware update over CoAP agree on: pure functions, frozen data and state machines.

Nothing here but `protocol.aio` opens a socket, reads a clock, sleeps or draws from a global random source. Time comes
in as ``now`` in monotonic seconds, randomness as a ``random.Random``; bytes go in, bytes, events and effects come out.
"""

from typing import Final

SPECS: Final = {
    "suit-manifest": "draft-ietf-suit-manifest-37",
    "suit-report": "draft-ietf-suit-report-22",
    "suit-mti": "draft-ietf-suit-mti (text of 2025-07-12)",
    "suit-riot": "draft-ietf-suit-manifest-09",
}
"""The revision of each draft that the code follows; the only place that names one."""
