"""What the best trial is: names, constraints, Pareto fronts and the order of trials."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.errors import SpecError
from clray.search import objectives
from clray.search.objectives import Score
from clray.spec import sweep_loading
from clray.spec.expression import NoValue

METRICS = {"exact_match": {"average_performance": 0.5, "forgetting_max": 0.04, "bwt": -0.04}}
COSTS = {"tokens": 1000.0, "device_seconds": 20.0, "flops": 1e9}


def load(*overrides):
    text = """
name: small
stream: {name: words, stages: [{name: one, kind: pretrain, data: a.jsonl}]}
tasks: [{name: one, scorer: perplexity, data: dev.jsonl}]
space: {seed: [0, 1]}
objectives: [{maximise: average_performance - forgetting_max}, {minimise: tokens}]
constraints: [forgetting_max <= 0.03]
"""
    return sweep_loading.loads(text, overrides)


def test_a_score_holds_objectives_in_order_and_how_far_constraints_are_broken():
    """0.5 - 0.04 = 0.46; 0.04 is 0.01 more than 0.03."""
    found = objectives.score(load(), objectives.names(METRICS, COSTS))
    assert found.values == pytest.approx((0.46, 1000.0)) and found.excesses == pytest.approx((0.01,))
    assert not found.kept and found.broken_by == pytest.approx(0.01)


def test_with_several_units_a_metric_must_say_which():
    two = {**METRICS, "bits_per_byte": {"average_performance": 1.5}}
    found = objectives.names(two, COSTS)
    assert "average_performance" not in found and found["bits_per_byte.average_performance"] == 1.5
    with pytest.raises(SpecError, match=r"bits_per_byte\.average_performance or exact_match\.average_performance"):
        objectives.check_names(load(), found)


def test_what_needs_a_past_is_nothing_before_there_is_one():
    early = {"exact_match": {"average_performance": 0.5}}
    assert objectives.early_value(load(), objectives.early_names(early, COSTS)) == 0.5
    with pytest.raises(NoValue):
        objectives.score(load(), objectives.names(early, COSTS))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objectives=[{maximise: averge_performance}]", "'averge_performance' of 'averge_performance' is no metric"),
        ("objectives=[{maximise: relative_gain}]", "set stream.experts=true"),
        ("objectives=[{maximise: forgetting_max}]", "write minimise: forgetting_max"),
        ("objectives=[{minimise: average_performance}]", "write maximise: average_performance"),
        ("constraints=[seconds <= 3]", "'seconds' of 'seconds <= 3' is no metric"),
    ],
)
def test_names_and_directions_are_checked_before_anything_runs(override, message):
    with pytest.raises(SpecError) as refused:
        objectives.check_names(load(override), objectives.names(METRICS, COSTS))
    assert message in str(refused.value)


def test_bits_per_byte_are_to_be_minimised():
    found = objectives.names({"bits_per_byte": {"average_performance": 1.5}}, COSTS)
    objectives.check_names(load("objectives=[{minimise: average_performance}]", "constraints=[]"), found)
    with pytest.raises(SpecError, match="write minimise: average_performance"):
        objectives.check_names(load("objectives=[{maximise: average_performance}]", "constraints=[]"), found)


def test_trials_cannot_be_stopped_by_what_is_known_at_the_end():
    found = {**objectives.names(METRICS, COSTS), "relative_gain": 90.0}
    with pytest.raises(SpecError, match="'relative_gain' is known when a trial ends"):
        objectives.check_names(load("objectives=[{maximise: relative_gain}]", "stopping={kind: asha}"), found)


def test_constraints_come_before_fronts_and_fronts_before_objectives():
    """Both objectives large: (3, 1) and (1, 3) are the front, (3, 1) first; (0.5, 0.5) is behind (1, 3); (9, 9) breaks
    a constraint by 1 and (9, 8) by 2."""
    scores = [Score((0.5, 0.5)), Score((9, 8), (2,)), Score((1, 3)), Score((9, 9), (1,)), Score((3, 1))]
    assert objectives.ranking(scores, (1, 1)) == [4, 2, 0, 3, 1]


def test_less_is_better_where_the_sign_says_so():
    assert objectives.ranking([Score((2.0,)), Score((1.0,)), Score((1.0,))], (-1,)) == [1, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_no_point_of_a_front_beats_another_of_it_and_each_later_one_is_beaten_from_the_front_before(points):
    def beats(one, other):
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    numbers = objectives.front_numbers(points)
    for n, front in enumerate(numbers):
        assert not any(beats(points[m], points[n]) for m, other in enumerate(numbers) if other == front)
        if front:
            assert any(beats(points[m], points[n]) for m, other in enumerate(numbers) if other == front - 1)
