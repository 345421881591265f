"""Early stopping between stages: Tune's rules, fed from the journal, decide the same after a sweep was killed."""

import json
from types import SimpleNamespace

import pytest

from clray.lineage.store import Store
from clray.search.journal import COMPLETE, FAILED, RUNNING, STOPPED, Entry, Journal
from clray.search.stopping import Judge
from clray.spec import sweep_loading

STAGES = 4
CURVES = [(0.5, 0.6, 0.6, 0.7), (0.4, 0.3, 0.2, 0.1), (0.6, 0.7, 0.8, 0.9), (0.9, 0.1, 0.1, 0.1), (0.5, 0.5, 0.9, 0.9)]
"""Average performance of five trials after each of four stages."""


def load(*overrides):
    text = """
name: small
stream: {name: words, stages: [{name: one, kind: pretrain, data: a.jsonl}]}
tasks: [{name: one, scorer: perplexity, data: dev.jsonl}]
space: {seed: [0, 1, 2, 3, 4]}
objectives: [{maximise: average_performance}]
stopping: {kind: asha, grace: 2, reduction: 2}
"""
    return sweep_loading.loads(text, overrides)


def report(number, stage, **more):
    metrics = {"exact_match": {"average_performance": CURVES[number][stage - 1]}}
    return {"stage": stage, "of": STAGES, "metrics": metrics, "costs": {"tokens": 1.0}, "keys": [], **more}


class Runner:
    """Runs trials one after the other as Tune does, for a judge over the journal of a folder."""

    def __init__(self, sweep, folder):
        self.journal, self.told = Journal.read(Store(str(folder)), "sweep"), []
        self.judge = Judge(sweep, self.journal, 0, STAGES, self.told.append)

    def run(self, number, until=STAGES):
        """The stage after which the trial ended; `until` is where the whole sweep is killed."""
        trial = SimpleNamespace(config={"number": number})
        if self.journal.begin(Entry(rung=0, number=number, settings={"seed": number}, mark="m")).ended:
            return None
        for stage in range(1, until + 1):
            result = {"report": json.dumps(report(number, stage))}
            if stage == STAGES:
                self.judge.on_trial_complete(None, trial, result)
            elif self.judge.on_trial_result(None, trial, result) == "STOP":
                self.judge.on_trial_complete(None, trial, result)
                return stage
        return until


def test_asha_keeps_the_better_half_at_its_rung(tmp_path):
    """At stage 2 the cut is the median of those that came before: 0.6 for the second trial (0.3), 0.45 for the third
    (0.7), 0.6 for the fourth (0.1), 0.45 for the fifth (0.5). So the second and the fourth end there."""
    runner = Runner(load(), tmp_path)
    assert [runner.run(number) for number in range(5)] == [4, 2, 4, 2, 4]
    entries = runner.journal.of_rung(0)
    assert [entry.status for entry in entries] == [COMPLETE, STOPPED, COMPLETE, STOPPED, COMPLETE]
    assert entries[1].why == "stopped after stage 2 of 4 by asha, at 0.3"
    assert [entry.stage for entry in runner.told] == [1, 2, 3, 4, 1, 2, 1, 2, 3, 4, 1, 2, 1, 2, 3, 4]


def test_median_ends_what_was_never_as_good_as_the_others_mean(tmp_path):
    """With two others wanted, the third trial is the first that is judged. From stage 2 on: the means of the first two
    at stage 2 are 0.6 and 0.3, at stage 3 0.6 and 0.25. The fourth has been at 0.9 and goes on for ever; the fifth at
    stage 2 has had 0.5, and the median of 0.6, 0.3, 0.7 and 0.1 is 0.45, so it goes on."""
    runner = Runner(load("stopping={kind: median, grace: 2, least: 2}"), tmp_path)
    assert [runner.run(number) for number in range(5)] == [4, 4, 4, 4, 4]
    low = Runner(load("stopping={kind: median, grace: 1, least: 1}"), tmp_path / "low")
    assert [low.run(number) for number in (0, 1)] == [4, 1]


@pytest.mark.parametrize("kind", ["asha", "median"])
@pytest.mark.parametrize("killed", range(1, STAGES))
def test_a_killed_sweep_decides_as_if_it_had_not_been(tmp_path, kind, killed):
    """The sweep is killed while its third trial runs, and goes on with a new judge."""
    sweep = load(f"stopping={{kind: {kind}, grace: 1, least: 1}}")
    whole = Runner(sweep, tmp_path / "whole")
    wanted = [whole.run(number) for number in range(5)]
    first = Runner(sweep, tmp_path / "parts")
    assert [first.run(0), first.run(1)] == wanted[:2]
    first.run(2, until=min(killed, wanted[2]))
    second = Runner(sweep, tmp_path / "parts")
    assert [second.run(number) for number in range(2)] == [None, None], "what has ended is not run again"
    for number in range(2, 5):
        second.run(number)
    assert second.journal.of_rung(0) == whole.journal.of_rung(0)


def test_a_mistake_ends_a_trial_and_a_value_that_is_not_defined_fails_it(tmp_path):
    runner = Runner(load("objectives=[{maximise: average_performance / (tokens - 1)}]"), tmp_path)
    runner.run(0)
    entry = runner.journal.of_rung(0)[0]
    assert entry.status == FAILED and "has no value" in entry.why
    runner.journal.begin(Entry(rung=0, number=1, settings={}, mark=""))
    trial = SimpleNamespace(config={"number": 1})
    assert runner.judge.on_trial_result(None, trial, {"report": json.dumps({"error": "no such file"})}) == "STOP"
    assert runner.journal.of_rung(0)[1].why == "no such file" and runner.told[-1].status == FAILED


def test_what_was_journaled_before_is_not_reported_twice(tmp_path):
    runner = Runner(load("stopping={kind: none}"), tmp_path)
    runner.run(0, until=2)
    again = Runner(load("stopping={kind: none}"), tmp_path)
    assert again.run(0) == STAGES
    entry = again.journal.of_rung(0)[0]
    assert [r["stage"] for r in entry.reports] == [1, 2, 3, 4] and [r["at"] for r in entry.reports] == [0, 1, 2, 3]


def test_other_data_under_the_same_settings_begins_a_trial_anew(tmp_path):
    runner = Runner(load(), tmp_path)
    runner.run(0)
    fresh = runner.journal.begin(Entry(rung=0, number=0, settings={"seed": 0}, mark="other"))
    assert fresh.status == RUNNING and not fresh.reports


def test_failed_trials_can_be_taken_up_again(tmp_path):
    journal = Journal.read(Store(str(tmp_path)), "sweep")
    journal.fail(journal.begin(Entry(rung=0, number=0, settings={}, mark="m")), "lost its node")
    journal.forget(FAILED)
    assert Journal.read(Store(str(tmp_path)), "sweep").of_rung(0)[0].status == RUNNING
