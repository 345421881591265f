"""The gate and the groups of probes as they are written in a stream: short forms, inheritance, refusals."""

import jsonschema
import pytest

from clray.errors import SpecError
from clray.spec import loading
from clray.spec.gate import EVERY, Gate

STREAM = """
name: s
stages:
  - {name: a, kind: pretrain, data: a.jsonl}
  - {name: b, kind: pretrain, data: b.jsonl}
tasks:
  - {name: a, scorer: perplexity, data: a.jsonl}
  - {name: quiz, scorer: choice, data: q.jsonl}
  - {name: safe, scorer: generate, data: s.jsonl, metric: refusal_rate, group: safety}
"""


def loaded(*overrides):
    return loading.loads(STREAM, overrides)


def complaint(*overrides):
    with pytest.raises(SpecError) as found:
        loaded(*overrides)
    return str(found.value)


def test_the_short_form_of_a_delta_is_the_long_one():
    short = loaded("gate={max_forgetting: 0.02, max_delta_general: 0.05, max_delta_safety: {refusal_rate: 0.1}}")
    long = loaded("gate={max_forgetting: 0.02, max_delta: {general: 0.05, safety: {refusal_rate: 0.1}}}")
    assert short == long
    assert short.gate.limits == {
        "forgetting": {EVERY: 0.02},
        "delta general": {EVERY: 0.05},
        "delta safety": {"refusal_rate": 0.1},
    }
    assert loading.loads(loading.to_yaml(short)) == short
    assert "max_forgetting: 0.02" in loading.to_yaml(short)
    jsonschema.validate({"max_forgetting": 0.02, "max_delta_general": 0.05}, Gate.model_json_schema())


def test_a_stage_has_the_streams_gate_its_own_or_none():
    stream = loaded("gate={max_forgetting: 0.02}", "stages.b.gate=null")
    assert [stream.gate_of(stage) is stream.gate for stage in stream.stages] == [True, False]
    assert stream.gate_of(stream.stages[1]) is None
    own = loaded("gate={max_forgetting: 0.02}", "stages.b.gate={max_forgetting: 0.5, on_fail: stop}")
    assert own.gate_of(own.stages[1]).on_fail == "stop"
    assert loaded("gate={on_fail: stop}").gate_of(own.stages[0]) is None, "a gate without limits lets all pass"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("gate={max_forgeting: 0.1}", "unknown key 'gate.max_forgeting'; did you mean 'max_forgetting'?"),
        ("gate={max_delta_knowledge: 0.1}", "no task is of group 'knowledge'; groups are general, safety"),
        ("gate={max_forgetting: {rouge_l: 0.1}}", "no task is measured in rouge_l"),
        ("gate={max_forgetting: -0.1}", "greater than or equal to 0"),
        ("gate={max_delta_general: 0.1, max_delta: {general: 0.2}}", "max_delta_general and max_delta.general say the"),
        ("gate={max_forgetting: 0.1, retries: 3}", "'retries' is used by on_fail raise_replay alone"),
        ("gate={max_forgetting: 0.1, on_fail: raise_replay, raise_by: 1}", "greater than 1"),
        ("tasks.safe.metric=format", "metric 'format' needs 'pattern'"),
        ("tasks.safe.pattern='a+'", "'pattern' is used by metric format alone"),
        ("tasks.quiz.refusals=[never]", "'refusals' is used by metric refusal_rate or compliance_rate alone"),
        ("tasks.quiz.metric=format", "does not fit scorer 'choice'"),
        ("tasks.quiz.group='two words'", "should match pattern"),
    ],
)
def test_what_does_not_fit_is_refused(override, said):
    assert said in complaint(override)


def test_a_pattern_that_is_no_regular_expression_is_refused():
    stream = STREAM.replace("metric: refusal_rate", "metric: format, pattern: '(a'")
    with pytest.raises(SpecError, match="pattern '\\(a' is no regular expression"):
        loading.loads(stream)
