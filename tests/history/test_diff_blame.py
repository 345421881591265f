"""What changed between two generations, and which stage did what to a task."""

import json
import math

import numpy as np
import pytest

from clray.history.archive import Archive
from clray.history.blame import blame
from clray.history.diff import diff
from clray.history.examples import compared
from clray.history.paired import difference


def test_a_difference_of_shares_by_hand():
    """Four of ten right, then six: those four and two more. The change is 0.2 in every draw of a right pair."""
    before = [{"correct": n < 4} for n in range(10)]
    after = [{"correct": n < 6} for n in range(10)]
    found = difference("accuracy", before, after)
    assert (found.before, found.after, found.n) == (0.4, 0.6, 10)
    assert found.change == pytest.approx(0.2) and found.better
    assert 0 <= found.low <= 0.2 <= found.high <= 0.6  # 2 of 10 examples changed: binomial, 0.2 +- 0.25


def test_the_interval_is_that_of_paired_draws():
    """The standard error of a mean of n differences is their deviation over sqrt(n), whatever both have in common."""
    generator = np.random.default_rng(1)
    common = generator.normal(size=400) * 100
    steps = generator.normal(0.3, 1.0, size=400)
    before = [{"rouge_l": value} for value in common]
    after = [{"rouge_l": value} for value in common + steps]
    found = difference("rouge_l", before, after)
    half = 1.96 * steps.std() / math.sqrt(400)
    assert found.low == pytest.approx(steps.mean() - half, abs=0.02)
    assert found.high == pytest.approx(steps.mean() + half, abs=0.02)
    assert found.clear and difference("rouge_l", before, after) == found


def test_bits_per_byte_is_a_ratio_of_totals():
    """Two documents of 1 and 3 bytes: 2 nats in 4 bytes, then 1 nat in 4 bytes; less is better."""
    before = [{"nll": 1.0, "bytes": 1, "tokens": 1}, {"nll": 1.0, "bytes": 3, "tokens": 2}]
    after = [{"nll": 0.5, "bytes": 1, "tokens": 1}, {"nll": 0.5, "bytes": 3, "tokens": 2}]
    found = difference("bits_per_byte", before, after)
    assert (found.before, found.after) == (pytest.approx(2 / math.log(2) / 4), pytest.approx(1 / math.log(2) / 4))
    assert found.better and found.change < 0 and found.high < 0
    assert difference("perplexity", before, after).after == pytest.approx(math.exp(1 / 3))


def test_results_of_different_examples_are_not_compared():
    with pytest.raises(ValueError, match="1 and 2 results are not of the same examples"):
        difference("accuracy", [{"correct": True}], [{"correct": True}] * 2)


def test_rows_in_and_out():
    assert compared(frozenset("abc"), frozenset("bcde")) == {"both": 2, "rows_in": 2, "rows_out": 1}
    assert compared(None, frozenset("a")) is None


@pytest.mark.ray
@pytest.mark.slow
def test_a_stage_and_its_control_differ_in_replay_alone(storage, outcome, keys, control, clray):
    found = json.loads(clray("diff", control[2], keys[2], "--storage", storage, "--json")[1])
    assert found["settings"]["replay.kind"] == {"before": "none", "after": "random"}
    assert set(found["settings"]) == {"replay.kind", "replay.share", "replay.of"}
    assert found["sources"] == {"in": [], "out": []}
    assert found["examples"]["own"] == {"both": 60, "rows_in": 0, "rows_out": 0}
    drawn = outcome.line.generations[2].receipt["draws"][0]["rows"]
    assert found["examples"]["replayed"] == {"both": 0, "rows_in": drawn, "rows_out": 0} and drawn == 20
    assert found["rows_shown"]["text"] == {"before": 0, "after": 20}
    assert found["relation"].startswith("they part after text") and not found["unmeasured"]
    matrices = [line.matrix for line in outcome.lines]
    for each in found["tasks"]:
        column = matrices[0].tasks.index(each["task"])
        assert each["before"] == pytest.approx(matrices[1].R[2][column])
        assert each["after"] == pytest.approx(matrices[0].R[2][column])
        assert each["low"] <= each["change"] <= each["high"] and each["n"] == 10


@pytest.mark.ray
@pytest.mark.slow
def test_answers_that_turned_are_shown_with_their_question(storage, outcome, keys, clray):
    found = diff(Archive(storage), keys[0], keys[3], most=100)
    changes = {each.task: each for each in found.tasks}
    assert not changes["text"].flips, "a text has no answer"
    for task in ("first", "last"):
        turned = changes[task].flips
        assert len(turned["examples"]) == turned["right"] + turned["wrong"]
        share = (turned["right"] - turned["wrong"]) / 10
        assert changes[task].difference.change == pytest.approx(share)
        for flip in turned["examples"]:
            assert flip["prompt"].startswith(task) and flip["prompt"].endswith("Answer:")
            assert (flip["after"].strip() == flip["wanted"]) == (flip["became"] == "right")
    code, shown, _ = clray("diff", keys[0], keys[3], "--storage", storage)
    assert code == 0 and "3 generations after the first" in shown and "bits_per_byte" in shown
    assert "source in: last.jsonl" in shown


@pytest.mark.ray
@pytest.mark.slow
def test_blame_adds_up_to_the_whole_change(storage, outcome, keys, control, clray):
    for task in outcome.matrix.tasks:
        column = outcome.matrix.tasks.index(task)
        found = blame(Archive(storage), task)
        assert [step.made.key for step in found.steps] == keys, "the newest of the main line without another"
        assert [step.score for step in found.steps] == [row[column] for row in outcome.matrix.R]
        total = sum(step.change.change for step in found.steps if step.change)
        assert total == pytest.approx(outcome.matrix.R[3][column] - outcome.matrix.R[0][column])
    text = json.loads(clray("blame", "text", "--storage", storage, "--json")[1])
    assert text["gave_most"] == keys[1], "bits per byte fall by the stage that trains on the text: less is better"
    code, shown, _ = clray("blame", "text", control[3][:8], "--storage", storage)
    assert code == 0 and "gave most" in shown and "less is better" in shown and control[3][:10] in shown


@pytest.mark.ray
@pytest.mark.slow
def test_a_task_that_was_never_measured_or_in_two_ways(copied, keys, clray):
    from clray.lineage.store import Store

    code, _, said = clray("blame", "poems", "--storage", copied)
    assert code == 2 and "task 'poems' was never measured on the way to last" in said and "first, last, text" in said
    store = Store(copied)
    store.write_score(keys[1], "f" * 32, {"task": "text", "scorer": "choice", "metrics": {"accuracy": 0.5}})
    store.write_json(f"outputs/{keys[1]}/{'f' * 32}.json", [{"correct": True}, {"correct": False}])
    code, _, said = clray("blame", "text", "--storage", copied)
    assert code == 2 and "was measured in several ways" in said and "ffffffffff (1 generations)" in said
    assert [step.score for step in blame(Archive(copied), "ffff").steps] == [0.5]
