"""Tasks that are suites of lm-evaluation-harness: what they take, and what they do not."""

import pytest
from pydantic import ValidationError

from clray.spec.task import Task


def test_a_suite_brings_its_own_examples_and_is_scored_by_acc():
    task = Task(name="arc", scorer="suite", suite="arc_easy", num_fewshot=5, limit=100, group="general")
    assert task.score == "acc" and not task.data
    assert Task(name="gsm", scorer="suite", suite="gsm8k", metric="exact_match:flexible-extract").score.endswith(
        "extract"
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scorer": "suite"}, "takes 'suite', the name of a task"),
        ({"scorer": "suite", "suite": "arc_easy", "data": "rows.jsonl"}, "'data' is not for scorer suite"),
        ({"scorer": "suite", "suite": "arc_easy", "max_new_tokens": 8}, "'max_new_tokens' is not for scorer suite"),
        ({"scorer": "suite", "suite": "arc_easy", "metric": "two words"}, "should match pattern"),
        ({"scorer": "choice", "data": "rows.jsonl", "num_fewshot": 2}, "'num_fewshot' is for scorer suite"),
        ({"scorer": "choice"}, "a task of scorer choice takes 'data'"),
        ({"scorer": "choice", "data": "rows.jsonl", "metric": "acc"}, "metric 'acc' does not fit scorer 'choice'"),
    ],
)
def test_what_does_not_fit_is_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Task(name="probe", **fields)
