"""Quotas are whole, sum exactly, stay within capacity, and follow the weights."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.replay.quotas import largest_remainder

PARTS = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), min_size=1, max_size=12)


def test_worked_by_hand():
    """Weights 5:3:2 of 7 are 3.5, 2.1, 1.4: floors 3, 2, 1; the one left goes to the remainder 0.5."""
    assert largest_remainder([5, 3, 2], 7, [10, 10, 10]) == [4, 2, 1]


def test_what_exceeds_a_capacity_goes_to_the_others():
    """8:1:1 of 10 asks for 8, 1, 1; the first holds 4, and 4 more are shared equally."""
    assert largest_remainder([8, 1, 1], 10, [4, 9, 9]) == [4, 3, 3]


def test_all_zero_weights_count_as_equal():
    assert largest_remainder([0, 0], 5, [9, 9]) == [3, 2]


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        largest_remainder([-1, 2], 3, [5, 5])


@given(PARTS, st.integers(0, 300))
def test_sums_exactly_within_capacity(parts, total):
    weights, capacities = [w for w, _ in parts], [c for _, c in parts]
    quotas = largest_remainder(weights, total, capacities)
    assert sum(quotas) == min(total, sum(capacities))
    assert all(0 <= q <= c for q, c in zip(quotas, capacities, strict=True))


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12), st.integers(0, 300))
def test_a_larger_weight_never_gets_less(weights, total):
    quotas = largest_remainder(weights, total, [10**6] * len(weights))
    ranked = sorted(zip(weights, quotas, strict=True))
    assert all(low[1] <= high[1] + (low[0] == high[0]) for low, high in pairwise(ranked))
