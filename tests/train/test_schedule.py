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
