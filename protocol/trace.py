"""What happened, as events: one JSON object a line, for people's tools, tests and benchmarks to read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    ``time_s`` is monotonic seconds of the loop that saw it, ``name`` a short verb phrase such as ``update-confirmed``,
    ``data`` strings, numbers and booleans.
    """

    time_s: float
    name: str
    data: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the event as one line of JSON, without a line end.

        >>> Event(time_s=1.5, name="booted", data={"slot": 0}).to_json()
        '{"time_s": 1.5, "event": "booted", "slot": 0}'
        """
        return json.dumps({"time_s": round(self.time_s, 3), "event": self.name, **self.data})
