import pytest

from coap_device.hardware.power import CutMode, PowerCut, PowerPlan


def _perform(plan: PowerPlan, done: list[str]) -> None:
    plan.perform("step", lambda: done.append("whole"), lambda: done.append("torn"))


@pytest.mark.parametrize(("mode", "left"), [(CutMode.BEFORE, []), (CutMode.TORN, ["torn"]), (CutMode.AFTER, ["whole"])])
def test_cut_leaves_of_the_operation_what_the_mode_says(mode: CutMode, left: list[str]) -> None:
    plan = PowerPlan({1}, mode)
    done: list[str] = []
    _perform(plan, [])
    with pytest.raises(PowerCut) as caught:
        _perform(plan, done)
    assert done == left
    assert caught.value.record.operation == 1
    assert plan.cuts == [caught.value.record]


def test_operations_are_counted_across_cuts_and_each_cut_happens_once() -> None:
    plan = PowerPlan({0, 2})
    done: list[str] = []
    with pytest.raises(PowerCut):
        _perform(plan, done)
    _perform(plan, done)
    with pytest.raises(PowerCut):
        _perform(plan, done)
    _perform(plan, done)
    assert (done, plan.operations, len(plan.cuts)) == (["whole", "whole"], 4, 2)


def test_named_point_cuts_once_for_each_arming() -> None:
    plan = PowerPlan()
    plan.point("here")
    plan.cut_next("here")
    plan.point("elsewhere")
    with pytest.raises(PowerCut):
        plan.point("here")
    plan.point("here")
    assert [record.point for record in plan.cuts] == ["here"]


def test_cut_now_is_recorded_with_its_words() -> None:
    plan = PowerPlan()
    with pytest.raises(PowerCut, match="half of the download"):
        plan.cut_now("half of the download")
    assert plan.cuts[0].what == "half of the download"


def test_power_cut_is_not_swallowed_by_except_exception() -> None:
    assert not issubclass(PowerCut, Exception)


def test_the_domain_before_a_cut_is_dead() -> None:
    plan = PowerPlan()
    domain = plan.domain
    plan.check(domain)
    with pytest.raises(PowerCut):
        plan.cut_now("off")
    with pytest.raises(PowerCut):
        plan.check(domain)
    plan.check(plan.domain)
