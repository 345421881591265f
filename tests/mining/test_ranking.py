"""The best of many: one total order, in which cutting into shards and merging changes nothing."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clray.mining.ranking import best, best_above_zero, bounds, merge

scores = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=60)


@given(scores, st.integers(1, 70))
def test_the_best_are_the_first_of_all_sorted(values, k):
    order = sorted(range(len(values)), key=lambda number: (-values[number], number))[:k]
    found = best(np.arange(len(values)), np.array(values), k)
    assert found.numbers.tolist() == order and found.scores.tolist() == [values[number] for number in order]


@given(scores, st.integers(1, 9), st.integers(1, 70))
def test_shards_merge_to_the_ranking_of_the_whole(values, shards, k):
    array = np.array(values)
    parts = [best(np.arange(*limits), array[slice(*limits)], k) for limits in bounds(len(values), shards)]
    whole, merged = best(np.arange(len(values)), array, k), merge(parts, k)
    assert merged.numbers.tolist() == whole.numbers.tolist() and merged.scores.tolist() == whole.scores.tolist()


@given(st.integers(1, 1000), st.integers(1, 40))
def test_shards_hold_everything_once_and_none_is_empty(count, shards):
    limits = bounds(count, shards)
    assert limits[0][0] == 0 and limits[-1][1] == count and len(limits) == min(shards, count)
    assert all(start < stop for start, stop in limits)
    assert all(one[1] == other[0] for one, other in pairwise(limits))


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 12))
def test_the_best_above_zero_are_the_best_of_those_picked_out(values, k):
    scores = np.array(values, np.float32)
    numbers = np.flatnonzero(scores)
    expected, found = best(numbers, scores[numbers], k), best_above_zero(scores, k)
    assert found.numbers.tolist() == expected.numbers.tolist() and found.scores.tolist() == expected.scores.tolist()
