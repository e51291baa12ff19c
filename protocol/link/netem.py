"""One direction of a link with the words and the behaviour of ``tc ... netem``, on the caller's clock.

`LinkSpec` reads the words that follow ``netem`` in a ``tc`` command; `Link` is the queue they describe. Per packet and
in the order of the kernel's ``netem_enqueue``:

1. the duplicate draw makes it two copies;
2. the loss draw takes one copy, so a duplicated packet survives one loss;
3. a full queue (``limit``) drops the packet at the tail, twin included;
4. the twin re-enters at the top, where it can be lost but not doubled again;
5. the reorder draw sends the packet at once, in front of everything that waits;
6. any other packet waits for ``delay`` plus or minus ``jitter``, uniformly.

Jitter alone reorders packets, as in the kernel. With ``rate`` nothing is reordered by jitter, because each packet
starts to leave when the last queued one has left: to keep the order of a jittered link, give it a rate.
"""

import heapq
import math
import random
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final

from protocol.errors import DecodeError, UnsupportedError

UDP_OVERHEAD: Final = 14 + 20 + 8
"""Bytes of an Ethernet, an IPv4 and a UDP header: netem counts them all when it applies ``rate``."""

DEFAULT_LIMIT: Final = 1000
MAX_LIMIT: Final = 1_000_000
MAX_TIME_S: Final = 86_400.0
MAX_RATE_BPS: Final = 10**12

# The order in which tc compares an abbreviation: "d" is delay, "l" is limit, "r" is reorder.
_KEYWORDS: Final = (
    *("limit", "latency", "delay", "loss", "drop", "seed", "ecn", "reorder", "corrupt"),
    *("gap", "duplicate", "distribution", "rate", "slot"),
)
_SAME_WORD: Final = MappingProxyType({"latency": "delay", "drop": "loss"})
_SUPPORTED: Final = ("delay", "loss", "duplicate", "reorder", "rate", "limit")
_TIME_UNITS: Final = MappingProxyType(
    {unit: scale for unit, scale in (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1))}
    | {f"{unit}ec{plural}": scale for unit, scale in (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1))
       for plural in ("", "s")}
)  # fmt: skip
_PREFIXES: Final = (("", 1), *((p, 1000 ** (i + 1)) for i, p in enumerate("kmg")))
_BINARY_PREFIXES: Final = tuple((p + "i", 1024 ** (i + 1)) for i, p in enumerate("kmg"))
_RATE_UNITS: Final = MappingProxyType(
    {"": 1}
    | {f"{prefix}bit": scale for prefix, scale in (*_PREFIXES, *_BINARY_PREFIXES)}
    | {f"{prefix}bps": 8 * scale for prefix, scale in (*_PREFIXES, *_BINARY_PREFIXES)}
)
_NUMBER: Final = re.compile(r"((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)([A-Za-z%]*)")


def _broken(message: str) -> DecodeError:
    return DecodeError(message, path="link")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """What one direction of a link does to packets; without arguments it is a perfect link.

    Attributes:
        delay_s: mean one-way delay in seconds, kept to the nanosecond.
        jitter_s: the delay is uniform in ``delay_s`` plus or minus this, never below 0.
        loss_percent: independent loss, 0..100.
        duplicate_percent: packets that are doubled, 0..100.
        reorder_percent: packets that are sent at once, in front of those that wait, 0..100; needs a delay.
        rate_bps: bits per second, headers included; None for no limit.
        limit: packets that may wait; one more is dropped.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss_percent: float = 0.0
    duplicate_percent: float = 0.0
    reorder_percent: float = 0.0
    rate_bps: int | None = None
    limit: int = DEFAULT_LIMIT

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            DecodeError: a value is out of its range, or ``reorder`` comes without ``delay``.
        """
        for name in ("delay", "jitter"):
            seconds = getattr(self, name + "_s")
            if not 0 <= seconds <= MAX_TIME_S:
                raise _broken(f"{name}: {seconds} s is out of range; expected 0 to {MAX_TIME_S:.0f} s")
            object.__setattr__(self, name + "_s", round(seconds * 1e9) / 1e9)
        for name in ("loss", "duplicate", "reorder"):
            percent = getattr(self, name + "_percent")
            if not 0 <= percent <= 100:
                raise _broken(f"{name}: {percent} % is out of range; expected 0 to 100")
        if self.rate_bps is not None and not 1 <= self.rate_bps <= MAX_RATE_BPS:
            raise _broken(f"rate: {self.rate_bps} bit/s is out of range; expected 1 to {MAX_RATE_BPS}")
        if not 1 <= self.limit <= MAX_LIMIT:
            raise _broken(f"limit: {self.limit} packets is out of range; expected 1 to {MAX_LIMIT}")
        if self.reorder_percent and not self.delay_s:
            raise _broken("reorder: nothing waits that a packet could overtake; give a delay as well")

    @classmethod
    def parse(cls, text: str) -> "LinkSpec":
        """Read netem's words; the empty text is a perfect link.

        ``delay TIME [JITTER]``, ``loss [random] P``, ``duplicate P``, ``reorder P``, ``rate RATE``, ``limit N``, in any
        order, each at most once, shortened as ``tc`` allows. A time needs its unit: a bare number means microseconds
        to one version of ``tc`` and nanoseconds to another.

        Raises:
            DecodeError: a word, number or unit that netem does not know, or a value out of range.
            UnsupportedError: a word of netem that this model does not have.

        >>> LinkSpec.parse("delay 50ms 10ms loss 20%").loss_percent
        20.0
        """
        words = _Words(text)
        values: dict[str, float | int] = {}
        seen: set[str] = set()
        while (given := words.take()) is not None:
            keyword = _keyword(given)
            if keyword in seen:
                raise _broken(f"{keyword}: given twice; say it once")
            seen.add(keyword)
            match keyword:
                case "delay":
                    values["delay_s"] = _time(words.value(keyword, "a time such as 50ms"), "delay")
                    if words.has_number():
                        values["jitter_s"] = _time(words.value("jitter", "a time such as 10ms"), "jitter")
                    words.refuse_number("delay", "a correlation")
                case "loss":
                    values["loss_percent"] = _loss(words)
                case "duplicate" | "reorder":
                    values[keyword + "_percent"] = _percent(words.value(keyword, "a percentage such as 1%"), keyword)
                    words.refuse_number(keyword, "a correlation")
                case "rate":
                    values["rate_bps"] = _rate(words.value(keyword, "a rate such as 250kbit"))
                    words.refuse_number("rate", "a packet overhead")
                case _:
                    values["limit"] = _limit(words.value(keyword, "a number of packets such as 20"))
        return cls(**values)  # type: ignore[arg-type]  # the keys are field names, each with its field's type

    def __str__(self) -> str:
        """Give netem's words back, so that ``LinkSpec.parse(str(spec)) == spec``; empty for a perfect link."""
        parts: list[str] = []
        if self.delay_s or self.jitter_s:
            jitter = f" {_time_text(self.jitter_s)}" if self.jitter_s else ""
            parts.append(f"delay {_time_text(self.delay_s)}{jitter}")
        for name in ("loss", "duplicate", "reorder"):
            if percent := getattr(self, name + "_percent"):
                parts.append(f"{name} {repr(float(percent)).removesuffix('.0')}%")
        if self.rate_bps is not None:
            parts.append(f"rate {_rate_text(self.rate_bps)}")
        if self.limit != DEFAULT_LIMIT:
            parts.append(f"limit {self.limit}")
        return " ".join(parts)


class _Words:
    """The words of a specification, read from the left."""

    def __init__(self, text: str) -> None:
        self._words = deque(text.split())

    def take(self) -> str | None:
        return self._words.popleft() if self._words else None

    def value(self, keyword: str, expected: str) -> str:
        if not self._words:
            raise _broken(f"{keyword}: the value is missing; expected {expected}")
        return self._words.popleft()

    def has_number(self) -> bool:
        return bool(self._words) and (self._words[0][0].isdigit() or self._words[0][0] in ".-+")

    def refuse_number(self, keyword: str, meaning: str) -> None:
        if self.has_number():
            raise UnsupportedError(f"link: {keyword}: {meaning} ({self._words[0]!r}) is not supported; leave it out")


def _keyword(given: str) -> str:
    found = next((word for word in _KEYWORDS if word.startswith(given)), None)
    if found is None:
        raise _broken(f"{given!r} is no word of netem; expected one of {', '.join(_SUPPORTED)}")
    found = _SAME_WORD.get(found, found)
    if found not in _SUPPORTED:
        raise UnsupportedError(f"link: {found} is not supported; this model has {', '.join(_SUPPORTED)}")
    return found


def _loss(words: _Words) -> float:
    expected = "a percentage such as 20%"
    value = words.value("loss", expected)
    if value in ("state", "gemodel"):
        raise UnsupportedError(f"link: loss {value} is not supported; give independent loss as loss P")
    if value == "random":
        value = words.value("loss", expected)
    percent = _percent(value, "loss")
    words.refuse_number("loss", "a correlation")
    return percent


def _scaled(text: str, units: Mapping[str, int], name: str, expected: str) -> float:
    found = _NUMBER.fullmatch(text)
    scale = units.get(found[2].lower()) if found else None
    if found is None or scale is None or not math.isfinite(value := float(found[1]) * scale):
        raise _broken(f"{name}: cannot read {text!r}; expected {expected}")
    return value


def _time(text: str, name: str) -> float:
    return _scaled(text, _TIME_UNITS, name, "a time with its unit s, ms, us or ns, such as 50ms") / 1e9


def _percent(text: str, name: str) -> float:
    return _scaled(text, MappingProxyType({"": 1, "%": 1}), name, "a percentage from 0 to 100, such as 20%")


def _rate(text: str) -> int:
    units = "bit, kbit, mbit, gbit (kibit ... in steps of 1024) or bps for bytes per second"
    return round(_scaled(text, _RATE_UNITS, "rate", f"a rate in {units}, such as 250kbit"))


def _limit(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise _broken(f"limit: cannot read {text!r}; expected a number of packets, such as 20")
    return int(text)


def _time_text(seconds: float) -> str:
    nanoseconds = round(seconds * 1e9)
    unit, scale = next(
        (u, s) for u, s in (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1)) if not nanoseconds % s
    )
    return f"{nanoseconds // scale}{unit}" if nanoseconds else "0ms"


def _rate_text(rate_bps: int) -> str:
    prefix, scale = next((p, s) for p, s in reversed(_PREFIXES) if not rate_bps % s)
    return f"{rate_bps // scale}{prefix}bit"


@dataclass(slots=True)
class LinkStats:
    """What happened to the packets of one direction.

    ``sent + duplicated == delivered + lost + overflowed + those still waiting``, always. A packet that was doubled and
    then lost one copy counts as neither. Bytes are those handed in and out, without the headers a rate counts.
    """

    sent: int = 0
    lost: int = 0
    overflowed: int = 0
    duplicated: int = 0
    reordered: int = 0
    delivered: int = 0
    bytes_sent: int = 0
    bytes_delivered: int = 0

    @classmethod
    def total(cls, parts: "Iterable[LinkStats]") -> "LinkStats":
        """Return the sum of ``parts``, a new object."""
        result = cls()
        for part in parts:
            for field in fields(cls):
                setattr(result, field.name, getattr(result, field.name) + getattr(part, field.name))
        return result


class Link:
    """One direction of a link: packets go in at one time and come out, or not, at another.

    Times are seconds on any monotonic clock of the caller and must not decrease from call to call.
    """

    def __init__(self, spec: LinkSpec, rng: random.Random, overhead: int = UDP_OVERHEAD) -> None:
        """Start empty.

        Args:
            spec: what the link does.
            rng: the only source of chance; the same seed and the same calls give the same packets.
            overhead: bytes of headers that ``rate`` counts for each packet.
        """
        self.spec = spec
        self.stats = LinkStats()
        self._random = rng.random
        self._overhead = overhead
        self._loss = spec.loss_percent / 100
        self._duplicate = spec.duplicate_percent / 100
        self._reorder = spec.reorder_percent / 100
        self._waiting: list[tuple[float, int, bytes]] = []
        self._front: deque[tuple[float, bytes]] = deque()
        self._order = 0
        self._last_due = 0.0

    def __len__(self) -> int:
        """Return how many packets wait."""
        return len(self._waiting) + len(self._front)

    def enqueue(self, now: float, data: bytes) -> None:
        """Take a packet at time ``now``; it comes out of `dequeue` never, once or twice."""
        self.stats.sent += 1
        self.stats.bytes_sent += len(data)
        self._enter(now, data, may_double=True)

    def dequeue(self, now: float) -> bytes | None:
        """Return the next packet that is due at ``now``, or None. Call until it returns None."""
        if self._front:
            data = self._front.popleft()[1]
        elif self._waiting and self._waiting[0][0] <= now:
            data = heapq.heappop(self._waiting)[2]
        else:
            return None
        self.stats.delivered += 1
        self.stats.bytes_delivered += len(data)
        return data

    def next_time(self) -> float | None:
        """Return when `dequeue` has something, perhaps a time already past; None while nothing waits."""
        if self._front:
            return self._front[0][0]
        return self._waiting[0][0] if self._waiting else None

    def _enter(self, now: float, data: bytes, *, may_double: bool) -> None:
        copies = 1
        if may_double and self._draw(self._duplicate):
            copies += 1
        if self._draw(self._loss):
            copies -= 1
        if not copies:
            self.stats.lost += 1
            return
        if len(self) >= self.spec.limit:
            self.stats.overflowed += 1
            return
        if copies > 1:
            self.stats.duplicated += 1
            self._enter(now, data, may_double=False)
        if self._draw(self._reorder):
            self.stats.reordered += 1
            self._front.appendleft((now, data))
        else:
            self._order += 1
            heapq.heappush(self._waiting, (self._due(now, len(data)), self._order, data))

    def _draw(self, probability: float) -> bool:
        return probability > 0 and self._random() < probability

    def _due(self, now: float, size: int) -> float:
        spec = self.spec
        delay = spec.delay_s
        if spec.jitter_s:
            delay = max(0.0, delay + (2 * self._random() - 1) * spec.jitter_s)
        if spec.rate_bps is None:
            return now + delay
        # As the kernel counts: the time a packet spends behind the last queued one is taken off its delay.
        start = now
        if self._waiting:
            start = max(now, self._last_due)
            delay = max(0.0, delay - (start - now))
        self._last_due = start + delay + (size + self._overhead) * 8 / spec.rate_bps
        return self._last_due
