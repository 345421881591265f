"""What an align stage says, and what its presence changes in the recipes of others: nothing."""

import pytest

from clray.errors import SpecError
from clray.spec import loading
from clray.spec.recipe import resolve
from clray.spec.task import LOWER_IS_BETTER, METRICS

STREAM = """
name: aligned
align: {beta: 0.3}
stages:
  - {name: task, kind: instruct, data: a.jsonl}
  - {name: first, kind: align, data: b.jsonl}
  - {name: second, kind: align, data: c.jsonl, align: {loss: length_normalised, beta: 5}}
  - {name: third, kind: align, data: d.jsonl}
"""


def recipes(text):
    stream, parent, found = loading.loads(text), {}, {}
    for stage in stream.sequence:
        found[stage.name] = resolve(stream, stage, parent)
        parent = found[stage.name].resolved
    return found


def test_settings_come_from_the_stage_else_the_stream_else_the_parent():
    found = recipes(STREAM)
    assert "align" not in found["task"].resolved
    plain = {"loss": "dpo", "label_smoothing": 0.0, "likelihood": 0.0}
    assert found["first"].resolved["align"] == {**plain, "beta": 0.3}
    assert found["second"].resolved["align"] == {**plain, "loss": "length_normalised", "beta": 5.0}
    assert found["third"].inheritance["align"] == ({**plain, "beta": 0.3}, "stream")
    inherited = recipes(STREAM.replace("align: {beta: 0.3}\n", ""))["third"]
    assert inherited.inheritance["align"] == ({**plain, "loss": "length_normalised", "beta": 5.0}, "inherited")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STREAM.replace("data: a.jsonl}", "data: a.jsonl, align: {beta: 1.0}}"), "'align' is for stages of kind align"),
        (STREAM.replace("beta: 5", "label_smoothing: 0.5"), "less than 0.5"),
        (STREAM.replace("beta: 5", "temperature: 5"), "unknown key .*temperature"),
        (STREAM.replace("length_normalised", "ipo"), "'dpo' or 'length_normalised'"),
        (
            STREAM + "tasks: [{name: t, scorer: choice, data: t.jsonl, normalise: none}]",
            "'normalise' is for scorer preference; this task has scorer choice",
        ),
        (
            STREAM + "tasks: [{name: t, scorer: preference, data: t.jsonl, metric: rouge_l}]",
            "'rouge_l' does not fit scorer 'preference'; one of accuracy does",
        ),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        loading.loads(text)


def test_the_score_of_preferences_is_an_accuracy():
    assert METRICS["preference"] == ("accuracy",) and "accuracy" not in LOWER_IS_BETTER
