import random
from collections.abc import Callable
from typing import Any

import pytest

from protocol.errors import DecodeError, UnsupportedError
from protocol.link.netem import UDP_OVERHEAD, Link, LinkSpec, LinkStats

PACKETS = 20_000


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("delay 50ms", {"delay_s": 0.05}),
        ("delay 50ms 10ms", {"delay_s": 0.05, "jitter_s": 0.01}),
        ("latency 1.5s", {"delay_s": 1.5}),
        ("delay 500us 200usec", {"delay_s": 0.0005, "jitter_s": 0.0002}),
        ("delay 3NSECS", {"delay_s": 3e-9}),
        ("delay 0ms", {}),
        ("delay 1e-3s", {"delay_s": 0.001}),
        ("loss 20%", {"loss_percent": 20.0}),
        ("loss 0.2", {"loss_percent": 0.2}),
        ("loss random 3%", {"loss_percent": 3.0}),
        ("drop 100", {"loss_percent": 100.0}),
        ("duplicate 1%", {"duplicate_percent": 1.0}),
        ("delay 1ms reorder 25%", {"delay_s": 0.001, "reorder_percent": 25.0}),
        ("reorder 25% delay 1ms", {"delay_s": 0.001, "reorder_percent": 25.0}),
        ("rate 250kbit", {"rate_bps": 250_000}),
        ("rate 1.5mbit", {"rate_bps": 1_500_000}),
        ("rate 1gbit", {"rate_bps": 10**9}),
        ("rate 2Kibit", {"rate_bps": 2048}),
        ("rate 5470", {"rate_bps": 5470}),
        ("rate 250bit", {"rate_bps": 250}),
        ("rate 100bps", {"rate_bps": 800}),
        ("rate 1kbps", {"rate_bps": 8000}),
        ("rate 1mibps", {"rate_bps": 8 * 1024**2}),
        ("limit 20", {"limit": 20}),
        ("d 1ms", {"delay_s": 0.001}),
        ("la 1ms", {"delay_s": 0.001}),
        ("lo 5%", {"loss_percent": 5.0}),
        ("l 20", {"limit": 20}),
        ("dr 5%", {"loss_percent": 5.0}),
        ("du 5%", {"duplicate_percent": 5.0}),
        ("ra 9kbit", {"rate_bps": 9000}),
        ("delay 1ms re 5%", {"delay_s": 0.001, "reorder_percent": 5.0}),
        (
            "  delay 50ms 10ms   loss 20% duplicate 1% reorder 2%\n",
            {
                "delay_s": 0.05,
                "jitter_s": 0.01,
                "loss_percent": 20.0,
                "duplicate_percent": 1.0,
                "reorder_percent": 2.0,
            },
        ),
    ],
)
def test_words_of_netem_are_read_and_given_back(text: str, fields: dict[str, Any]) -> None:
    spec = LinkSpec.parse(text)
    assert spec == LinkSpec(**fields)
    assert LinkSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fast", "'fast' is no word of netem; expected one of delay, loss, duplicate, reorder, rate, limit"),
        ("DELAY 5ms", "'DELAY' is no word"),
        ("delays 5ms", "'delays' is no word"),
        ("5ms", "'5ms' is no word"),
        ("delay", "delay: the value is missing; expected a time such as 50ms"),
        ("delay 50", "delay: cannot read '50'; expected a time with its unit"),
        ("delay 50ms 10", "jitter: cannot read '10'"),
        ("delay -5ms", "delay: cannot read '-5ms'"),
        ("delay 5min", "delay: cannot read '5min'"),
        ("delay 1e999s", "delay: cannot read '1e999s'"),
        ("delay 2e5s", "delay: 200000.0 s is out of range; expected 0 to 86400 s"),
        ("delay nan", "delay: cannot read 'nan'"),
        ("delay ٣ms", "delay: cannot read '٣ms'"),
        ("loss", "loss: the value is missing"),
        ("loss random", "loss: the value is missing"),
        ("loss much", "loss: cannot read 'much'; expected a percentage from 0 to 100"),
        ("loss 101", "loss: 101.0 % is out of range; expected 0 to 100"),
        ("loss -1", "loss: cannot read '-1'"),
        ("loss 5%%", "loss: cannot read '5%%'"),
        ("loss 5ms", "loss: cannot read '5ms'"),
        ("duplicate 100.1%", "duplicate: 100.1 % is out of range"),
        ("reorder 5%", "reorder: nothing waits that a packet could overtake; give a delay as well"),
        ("reorder 5% delay 0ms", "reorder: nothing waits"),
        ("rate 0", "rate: 0 bit/s is out of range"),
        ("rate fast", "rate: cannot read 'fast'"),
        ("rate 5tbit", "rate: cannot read '5tbit'"),
        ("limit 0", "limit: 0 packets is out of range"),
        ("limit 1.5", "limit: cannot read '1.5'"),
        ("limit 1kb", "limit: cannot read '1kb'"),
        ("delay 1ms latency 2ms", "delay: given twice"),
        ("loss 1% drop 2%", "loss: given twice"),
    ],
)
def test_a_broken_word_is_named_with_what_was_expected(text: str, complaint: str) -> None:
    with pytest.raises(DecodeError) as caught:
        LinkSpec.parse(text)
    assert str(caught.value).startswith("link: " + complaint)
    assert caught.value.path == "link"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("delay 50ms 10ms distribution normal", "distribution"),
        ("corrupt 1%", "corrupt"),
        ("c 1%", "corrupt"),
        ("delay 1ms reorder 5% gap 3", "gap"),
        ("loss 1% ecn", "ecn"),
        ("slot 1ms", "slot"),
        ("s 7", "seed"),
        ("loss state 1%", "loss state"),
        ("loss gemodel 1% 20%", "loss gemodel"),
        ("delay 50ms 10ms 25%", "correlation"),
        ("loss 5% 25%", "correlation"),
        ("loss random 5% 25%", "correlation"),
        ("duplicate 5% 25%", "correlation"),
        ("delay 1ms reorder 5% 25%", "correlation"),
        ("rate 250kbit 0 96 31", "packet overhead"),
        ("rate 250kbit -20", "packet overhead"),
    ],
)
def test_a_word_of_netem_that_the_model_lacks_is_refused_by_name(text: str, word: str) -> None:
    with pytest.raises(UnsupportedError, match=word):
        LinkSpec.parse(text)


def test_any_specification_survives_the_way_through_its_words(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        spec = LinkSpec(
            delay_s=rng.choice([1, 1e-3, 1e-6]) * (0.1 + rng.random()),
            jitter_s=rng.choice([0, 1, 1e-9]) * rng.random(),
            loss_percent=rng.choice([0, 100, 1, 1e-7]) * rng.random(),
            duplicate_percent=rng.choice([0, 7, 1]) * rng.random(),
            reorder_percent=rng.choice([0, 7, 1]) * rng.random(),
            rate_bps=rng.choice([None, 250, 2048, 20_000_000, rng.randrange(1, 10**10)]),
            limit=rng.choice([1000, 1, 20]),
        )
        assert LinkSpec.parse(str(spec)) == spec


def _run(words: str, *, packets: int = PACKETS, gap_s: float = 0.01, size: int = 100, seed: int = 5) -> "_Result":
    """Send ``packets`` numbered packets, one each ``gap_s``, and take each out when the link says so."""
    link = Link(LinkSpec.parse(words), random.Random(seed))
    arrivals: list[tuple[float, int]] = []

    def drain_until(now: float) -> None:
        while (when := link.next_time()) is not None and when <= now:
            while (data := link.dequeue(when)) is not None:
                arrivals.append((when, int.from_bytes(data[:4], "big")))

    for number in range(packets):
        drain_until(number * gap_s)
        link.enqueue(number * gap_s, number.to_bytes(4, "big") + bytes(size - 4))
    drain_until(float("inf"))
    assert len(link) == 0
    return _Result(link.stats, arrivals, gap_s)


class _Result:
    def __init__(self, stats: LinkStats, arrivals: list[tuple[float, int]], gap_s: float) -> None:
        self.stats, self.arrivals = stats, arrivals
        self.delays = [when - number * gap_s for when, number in arrivals]
        self.numbers = [number for _, number in arrivals]


def test_a_perfect_link_delivers_everything_at_once_and_in_order() -> None:
    result = _run("", packets=100)
    assert result.numbers == list(range(100))
    assert set(result.delays) == {0.0}
    assert result.stats == LinkStats(sent=100, delivered=100, bytes_sent=10_000, bytes_delivered=10_000)


def test_loss_of_20_percent_loses_18_to_22_percent() -> None:
    stats = _run("loss 20%").stats
    assert 0.18 * PACKETS < stats.lost < 0.22 * PACKETS
    assert stats.delivered == PACKETS - stats.lost


def test_loss_of_100_percent_loses_everything() -> None:
    assert _run("loss 100%", packets=1000).stats.lost == 1000


def test_delay_without_jitter_is_exact() -> None:
    result = _run("delay 50ms", packets=1000)
    assert all(delay == pytest.approx(0.05) for delay in result.delays)
    assert result.numbers == list(range(1000))


def test_jitter_is_uniform_around_the_delay_and_reorders() -> None:
    result = _run("delay 50ms 10ms")
    assert min(result.delays) >= 0.04 - 1e-9
    assert max(result.delays) <= 0.06 + 1e-9
    mean = sum(result.delays) / PACKETS
    assert mean == pytest.approx(0.05, abs=0.0002)
    deviation = (sum((d - mean) ** 2 for d in result.delays) / PACKETS) ** 0.5
    assert deviation == pytest.approx(0.01 / 3**0.5, rel=0.03)
    assert result.numbers != sorted(result.numbers)


def test_jitter_above_the_delay_never_delivers_before_the_packet_was_sent() -> None:
    assert min(_run("delay 1ms 50ms").delays) >= 0.0


def test_duplicate_delivers_twice() -> None:
    result = _run("duplicate 5%")
    assert 0.045 * PACKETS < result.stats.duplicated < 0.055 * PACKETS
    assert result.stats.delivered == PACKETS + result.stats.duplicated
    assert sorted(set(result.numbers)) == list(range(PACKETS))


def test_loss_takes_one_copy_of_a_duplicated_packet() -> None:
    # Every packet is doubled and each doubled one loses one copy, so all arrive once.
    result = _run("duplicate 100% loss 100%", packets=1000)
    assert result.stats == LinkStats(sent=1000, delivered=1000, bytes_sent=100_000, bytes_delivered=100_000)


def test_a_twin_can_be_lost_when_it_re_enters() -> None:
    stats = _run("duplicate 100% loss 50%").stats
    # Half lose one of two copies at once (counted as neither); the twins of the others are lost half of the time.
    assert stats.duplicated == pytest.approx(PACKETS / 2, rel=0.05)
    assert stats.lost == pytest.approx(PACKETS / 4, rel=0.05)
    assert stats.delivered == stats.sent + stats.duplicated - stats.lost


def test_reorder_sends_at_once_in_front_of_those_that_wait() -> None:
    result = _run("delay 50ms reorder 10%")
    assert 0.09 * PACKETS < result.stats.reordered < 0.11 * PACKETS
    assert sum(delay == 0.0 for delay in result.delays) == result.stats.reordered
    assert sum(delay == pytest.approx(0.05) for delay in result.delays) == PACKETS - result.stats.reordered


def test_rate_spaces_packets_by_their_length_with_headers() -> None:
    # (100 + 42) * 8 bits at 11,360 bit/s are 0.1 s; packets come faster than that.
    assert UDP_OVERHEAD == 42
    result = _run("rate 11360bit", packets=50)
    assert [when for when, _ in result.arrivals] == pytest.approx([0.1 * (n + 1) for n in range(50)])


def test_an_idle_link_with_a_rate_starts_at_once() -> None:
    result = _run("rate 11360bit", packets=5, gap_s=1.0)
    assert result.delays == pytest.approx([0.1] * 5)


def test_waiting_behind_others_is_taken_off_the_delay() -> None:
    result = _run("delay 250ms rate 11360bit", packets=4, gap_s=0.0)
    assert [when for when, _ in result.arrivals] == pytest.approx([0.35, 0.45, 0.55, 0.65])


def test_with_a_rate_jitter_reorders_nothing() -> None:
    result = _run("delay 50ms 40ms rate 1mbit", gap_s=0.002)
    assert result.numbers == list(range(PACKETS))
    assert len({round(delay, 6) for delay in result.delays}) > 100


def test_a_full_queue_drops_at_the_tail() -> None:
    result = _run("delay 1s limit 20", packets=50, gap_s=0.0)
    assert result.stats.overflowed == 30
    assert result.numbers == list(range(20))


def test_a_doubled_packet_at_a_full_queue_counts_once() -> None:
    stats = _run("delay 1s duplicate 100% limit 3", packets=4, gap_s=0.0).stats
    # 1 and its twin, then 2's twin and 2 (the kernel, too, checks the limit before the twin re-enters), then full.
    assert (stats.delivered, stats.duplicated, stats.overflowed) == (4, 2, 2)


@pytest.mark.parametrize("words", ["loss 30% duplicate 20% delay 90ms 50ms reorder 9% limit 9", "loss 5% rate 20kbit"])
def test_no_packet_goes_uncounted(words: str, seed: int) -> None:
    stats = _run(words, packets=5000, seed=seed).stats
    assert stats.sent + stats.duplicated == stats.delivered + stats.lost + stats.overflowed
    assert stats.lost > 0


def test_the_same_seed_gives_the_same_packets_and_another_one_does_not() -> None:
    def arrivals(seed: int) -> list[tuple[float, int]]:
        return _run("delay 50ms 10ms loss 20% duplicate 1% reorder 2%", packets=1000, seed=seed).arrivals

    assert arrivals(1) == arrivals(1)
    assert arrivals(1) != arrivals(2)


def test_nothing_is_drawn_from_the_global_random(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> float:
        raise AssertionError("global random used")

    names: list[tuple[str, Callable[..., float]]] = [("random", refuse), ("uniform", refuse), ("randrange", refuse)]
    for name, function in names:
        monkeypatch.setattr(random, name, function)
    assert _run("delay 50ms 10ms loss 20% duplicate 1% reorder 2%", packets=100).stats.sent == 100


def test_totals_add_up() -> None:
    total = LinkStats.total([LinkStats(sent=2, bytes_sent=5), LinkStats(sent=3, lost=1)])
    assert total == LinkStats(sent=5, lost=1, bytes_sent=5)
