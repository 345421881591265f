"""A sweep's file: its stream, space and objectives are checked before anything runs; expressions are never executed."""

from pathlib import Path

import pytest

from clray.errors import SpecError
from clray.spec import loading, sweep_loading
from clray.spec.expression import NoValue, constraint, expression

JOBS = Path(__file__).parents[2] / "jobs"
SWEEP = """
name: small
stream: olora5.yaml
tasks: [{name: dbpedia, scorer: generate, data: dev.jsonl}]
space:
  method.replay.share: [0.0, 0.1]
  optimiser.learning_rate: {low: 1e-4, high: 1e-2, scale: log}
search: {kind: random, trials: 3}
objectives: [{maximise: average_performance}]
constraints: [forgetting_max <= 0.03]
"""


def load(*overrides):
    return sweep_loading.loads(SWEEP, overrides, beside=JOBS)


def test_a_sweep_loads_its_stream_from_the_file_beside_it_and_comes_back_from_its_own_yaml():
    sweep = load("stream.seed=7")
    assert sweep.stream.name == "olora5" and sweep.stream.seed == 7
    assert sweep.space["method.replay.share"].values == (0.0, 0.1)
    assert sweep_loading.loads(sweep_loading.to_yaml(sweep)) == sweep


def test_files_of_sweeps_are_told_from_those_of_streams(tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    assert sweep_loading.is_sweep(tmp_path / "sweep.yaml")
    assert not sweep_loading.is_sweep(JOBS / "olora5.yaml") and not sweep_loading.is_sweep(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("space={compute.workers: [1, 2]}", "'compute.workers' cannot be searched"),
        ("space={storage: [a, b]}", "'storage' cannot be searched"),
        ("search={kind: grid}", "a grid cannot run over the range of 'optimiser.learning_rate'"),
        ("search={kind: grid, trials: 4}", "a grid runs all its combinations"),
        ("search={kind: optuna}", "kind optuna needs 'trials'"),
        ("space={seed: {low: 3}}", "low 3.0 must be there and less than high None"),
        ("space={seed: {low: 0, high: 1, scale: log}}", "low 0 has no logarithm"),
        ("objectives=[{maximise: a, minimise: b}]", "exactly one of 'maximise' and 'minimise'"),
        ("objectives=[{maximise: a b}]", "'a b' is no expression"),
        ("constraints=[bwt]", "write a comparison by <= or >="),
        ("fidelity={shares: [0.5, 0.25]}", "must rise"),
        ("serch=1", "unknown key 'serch'; did you mean 'search'"),
        ("stream.nme=1", "unknown key 'stream.nme'; did you mean 'name'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_mend(override, message):
    with pytest.raises(SpecError) as refused:
        load(override)
    assert message in str(refused.value)


def test_precision_is_the_one_field_of_compute_that_may_be_searched():
    sweep = load("space={compute.precision: [fp32, bf16]}", "search={kind: grid}")
    assert sweep.space["compute.precision"].values == ("fp32", "bf16")


def test_an_expression_is_arithmetic_over_named_values():
    """0.5 - 2 max(0.1, 0) = 0.3; 2^3 / 4 = 2."""
    found = expression("average_performance - 2 * max(exact_match.bwt, 0)")
    assert found.names == ("average_performance", "exact_match.bwt")
    assert found.value({"average_performance": 0.5, "exact_match.bwt": 0.1}) == pytest.approx(0.3)
    assert expression("2 ** 3 / abs(-4)").value({}) == 2.0


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "a.b.c",
        "a[0]",
        "x if y else z",
        "lambda: 1",
        "True",
        "'a'",
        "max()",
        "a <= b",
        "f(x)",
        "a @ b",
    ],
)
def test_nothing_else_is_an_expression(text):
    with pytest.raises(SpecError):
        expression(text)


@pytest.mark.parametrize("text", ["9 ** 9 ** 9", "1 / 0", "(-1) ** 0.5", "unknown"])
def test_what_has_no_finite_value_says_so(text):
    with pytest.raises(NoValue):
        expression(text).value({})


def test_a_constraint_is_broken_by_the_difference_of_its_sides():
    """0.05 <= 0.03 is broken by 0.02; 1 >= 0.25 is kept by 0.75."""
    assert constraint("forgetting_max <= 0.03").excess({"forgetting_max": 0.05}) == pytest.approx(0.02)
    assert constraint("a >= b / 4").excess({"a": 1.0, "b": 1.0}) == pytest.approx(-0.75)


@pytest.mark.parametrize("job", sorted(JOBS.glob("sweep_*.yaml")), ids=lambda job: job.stem)
def test_a_job_of_a_sweep_loads(job):
    sweep = sweep_loading.load(job)
    assert sweep.tasks and loading.dump(sweep.stream)["stages"]
