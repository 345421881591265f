"""Settings of trials: grids, draws and proposals are functions of the sweep, and each makes a stream."""

import math

import pytest

from clray.errors import SpecError
from clray.search import space
from clray.search.objectives import Score
from clray.spec import loading, sweep_loading
from clray.spec.sweep import Parameter

SWEEP = """
name: small
stream:
  name: words
  optimiser: {learning_rate: 1e-3}
  stages:
    - {name: one, kind: pretrain, data: a.jsonl, length: {steps: 10}}
    - {name: two, kind: pretrain, data: b.jsonl}
  tasks: [{name: one, scorer: perplexity, data: test.jsonl}]
  controls: {other: {seed: 1}}
  grid: {seed: [0, 1]}
tasks: [{name: one, scorer: perplexity, data: dev.jsonl, limit: 5}]
space:
  method.replay: [{kind: none}, {kind: random, share: 0.1}]
  optimiser.learning_rate: [1e-3, 1e-2, 1e-1]
objectives: [{minimise: average_performance}]
"""


def load(*overrides):
    return sweep_loading.loads(SWEEP, overrides)


RANGE = (
    "space={optimiser.learning_rate: {low: 1e-4, high: 1e-1, scale: log}, batch.size: {low: 2, high: 9, whole: true}}"
)


def test_a_grid_is_multiplied_out_its_first_field_outermost():
    found = space.settings_of(load())
    assert [(s["method.replay"]["kind"], s["optimiser.learning_rate"]) for s in found] == [
        ("none", 1e-3),
        ("none", 1e-2),
        ("none", 1e-1),
        ("random", 1e-3),
        ("random", 1e-2),
        ("random", 1e-1),
    ]


def test_a_draw_lies_where_it_is_asked_to():
    """Half-way between 1e-4 and 1e-2 on a logarithmic axis lies 1e-3; two thirds through three values the third."""
    log = Parameter(low=1e-4, high=1e-2, scale="log")
    assert [space.drawn(log, at) for at in (0.0, 0.5, 1.0)] == [1e-4, 1e-3, 1e-2]
    whole = Parameter(low=2, high=4, whole=True)
    assert [space.drawn(whole, at) for at in (0.0, 0.5, 1.0)] == [2, 3, 4]
    assert [space.drawn(Parameter(values=("a", "b", "c")), at) for at in (0.0, 0.5, 0.67, 1.0)] == ["a", "b", "c", "c"]


def test_random_trials_differ_and_depend_on_the_seed_alone():
    sweep = load(RANGE, "search={kind: random, trials: 20}")
    found = space.settings_of(sweep)
    assert (
        found
        == space.settings_of(sweep)
        != space.settings_of(load(RANGE, "search={kind: random, trials: 20, seed: 1}"))
    )
    assert len({tuple(s.values()) for s in found}) == 20
    assert all(1e-4 <= s["optimiser.learning_rate"] <= 1e-1 and 2 <= s["batch.size"] <= 9 for s in found)


def test_a_space_that_is_used_up_is_refused_with_both_numbers():
    with pytest.raises(SpecError, match=r"7 different trials are asked for, and the space has about 6"):
        space.settings_of(load("search={kind: random, trials: 7}"))


def test_a_trial_has_the_sweeps_tasks_and_neither_controls_nor_grid():
    stream = space.stream_of(load("settings={batch.size: 2}"), {"method.replay": {"kind": "random", "share": 0.1}})
    assert [task.data[0].source for task in stream.tasks] == ["dev.jsonl"]
    assert not stream.controls and not stream.grid
    assert stream.method.replay.share == 0.1 and stream.batch.size == 2


def test_a_setting_that_makes_no_stream_is_refused_with_its_trial():
    with pytest.raises(SpecError, match=r"learning_rate -1 of sweep 'small'"):
        space.stream_of(load(), {"optimiser.learning_rate": -1})


def test_a_rung_of_length_shortens_each_stage_and_one_of_stages_none():
    """A quarter of 10 steps is 2.5, rounded to 2; of one epoch 0.25."""
    short = space.stream_of(load("fidelity={of: length, shares: [0.25]}"), {}, 0.25)
    assert [stage.length.model_dump(exclude_none=True) for stage in short.stages] == [{"steps": 2}, {"epochs": 0.25}]
    whole = space.stream_of(load("fidelity={of: stages, shares: [0.25]}"), {}, 0.25)
    assert [stage.length for stage in whole.stages] == [stage.length for stage in load().stream.stages]


def test_the_default_puts_whole_top_level_fields_back():
    sweep = load("stream.seed=3")
    assert space.default_of(sweep) == {"method": {}, "optimiser": {"learning_rate": 1e-3}}
    best = loading.dump(space.stream_of(sweep, {"method.replay": {"kind": "random", "share": 0.5}}))
    back = loading.validate({**best, **space.default_of(sweep)})
    assert back.method == sweep.stream.method and back.optimiser == sweep.stream.optimiser and back.seed == 3


def test_corners_hold_every_value_and_both_ends():
    found = space.corners(load(RANGE, "search={kind: random, trials: 2}"))
    assert found == [
        {"optimiser.learning_rate": 1e-4, "batch.size": 2},
        {"optimiser.learning_rate": 1e-1, "batch.size": 2},
        {"optimiser.learning_rate": 1e-4, "batch.size": 9},
    ]


def test_optuna_proposes_by_what_came_before_and_nothing_else():
    """Trials are better the nearer the rate lies to 1e-2; after twenty, proposals lie nearer than at first."""
    pytest.importorskip("optuna")
    sweep = load(RANGE, "search={kind: optuna, trials: 30, startup: 5}", "objectives=[{maximise: average_performance}]")
    history = []
    for number in range(20):
        settings = space.proposed(sweep, history, number)
        assert settings == space.proposed(sweep, list(history), number)
        history.append((settings, Score((-abs(math.log10(settings["optimiser.learning_rate"]) + 2),))))
    first, last = history[:5], history[-5:]
    assert sum(score.values[0] for _, score in last) > sum(score.values[0] for _, score in first)


def test_optuna_takes_several_objectives_constraints_failed_trials_and_choices():
    pytest.importorskip("optuna")
    sweep = load(
        "search={kind: optuna, trials: 9, startup: 2}",
        "objectives=[{maximise: average_performance}, {minimise: tokens}]",
        "constraints=[tokens <= 5]",
    )
    history = []
    for number in range(8):
        settings = space.proposed(sweep, history, number)
        assert settings["method.replay"] in ({"kind": "none"}, {"kind": "random", "share": 0.1})
        history.append((settings, None if number == 3 else Score((0.5, float(number)), (number - 5.0,))))


def test_settings_are_said_in_one_line():
    settings = {"method.replay": {"kind": "random", "share": 0.1}, "model.base": "models/small", "batch.size": 4}
    assert space.described(settings) == "replay random share 0.1, base small, size 4"
