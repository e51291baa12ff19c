import pytest

from protocol.transfer.rto import INITIAL_RTO_S, MAX_RTO_S, MIN_RTO_S, RttEstimator


def test_before_any_sample_the_timeout_is_that_of_coap() -> None:
    assert RttEstimator().rto_s() == INITIAL_RTO_S == 2.0


@pytest.mark.spec("RFC 6298 2.2")
def test_the_first_sample_sets_the_mean_and_half_of_it_as_variation() -> None:
    rtt = RttEstimator()
    rtt.sample(0.4)
    assert (rtt.srtt_s, rtt.rttvar_s) == (0.4, 0.2)
    assert rtt.rto_s() == pytest.approx(0.4 + 4 * 0.2)


@pytest.mark.spec("RFC 6298 2.3")
def test_later_samples_move_the_variation_first_and_then_the_mean() -> None:
    rtt = RttEstimator()
    rtt.sample(0.4)
    rtt.sample(0.8)
    assert rtt.rttvar_s == pytest.approx(0.75 * 0.2 + 0.25 * 0.4)
    assert rtt.srtt_s == pytest.approx(0.875 * 0.4 + 0.125 * 0.8)


def test_a_steady_short_round_trip_comes_down_to_the_floor() -> None:
    rtt = RttEstimator()
    for _ in range(200):
        rtt.sample(0.001)
    assert rtt.rto_s() == MIN_RTO_S


def test_backing_off_doubles_up_to_the_bound() -> None:
    rtt = RttEstimator()
    assert [rtt.rto_s(n) for n in (1, 2, 4)] == [4.0, 8.0, 32.0]
    assert rtt.rto_s(5) == rtt.rto_s(10_000) == MAX_RTO_S
