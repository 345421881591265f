"""The learning rate is a pure function of the step."""

import pytest

from clray.train.schedule import learning_rate


def curve(kind, steps=11, warmup=0.0, final=0.1):
    return [learning_rate(s, steps, 1.0, {"kind": kind, "warmup": warmup, "final": final}) for s in range(steps)]


def test_linear_falls_to_its_final_share():
    """11 steps from 1 to 0.1: each step falls by 0.09."""
    assert curve("linear") == pytest.approx([1 - 0.09 * s for s in range(11)])


def test_cosine_is_half_way_in_the_middle():
    rates = curve("cosine", final=0.0)
    assert (rates[0], rates[5], rates[10]) == pytest.approx((1, 0.5, 0))


def test_constant_stays_after_its_warm_up():
    """Warm-up over 0.3 * 10 = 3 steps: 1/4, 2/4, 3/4, then 1."""
    assert curve("constant", steps=10, warmup=0.3) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)


INFINITE = {"kind": "infinite", "warmup": 0.2, "cooldown": 0.4, "constant": 0.5, "anneal": 0.0, "final": 0.1}


def infinite(steps=10, peak=2.0, **changes):
    return [learning_rate(s, steps, peak, INFINITE | changes) for s in range(steps)]


def test_an_infinite_schedule_warms_up_cools_down_and_stays():
    """Warm-up over 2 steps: 1/3, 2/3 of 2; half a cosine over 4 from 2 to 1: 2, 1.5 +- 0.5 cos(45 deg), 1.5; then 1."""
    cool = [1.5 + 0.5 * 2**-0.5, 1.5, 1.5 - 0.5 * 2**-0.5]
    assert infinite() == pytest.approx([2 / 3, 4 / 3, 2.0, *cool, 1.0, 1.0, 1.0, 1.0])


def test_a_stage_that_begins_constant_is_not_warmed_up_again():
    assert infinite(begins="constant") == [1.0] * 10


def test_annealing_falls_by_equal_factors_to_the_final_rate():
    """The last 4 of 10 steps: from 0.5 to 0.1 of the peak, each by 0.2 ** (1/4)."""
    rates = infinite(begins="constant", anneal=0.4)
    assert rates == pytest.approx([1.0] * 6 + [0.2 ** (n / 4) for n in (1, 2, 3, 4)])
    assert infinite(anneal=0.4) == pytest.approx(infinite()[:6] + rates[6:])


def test_a_single_step_and_no_shares_are_no_trouble():
    assert infinite(1, warmup=0.0, cooldown=0.0) == [1.0]
    assert infinite(1, anneal=1.0, warmup=0.0, cooldown=0.0) == pytest.approx([0.2])
