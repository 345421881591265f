"""Checks of written answers: formats and refusals."""

import pytest

from clray.evaluation.checks import checked, keeps_format, refuses
from clray.evaluation.outcomes import aggregate
from clray.spec.task import REFUSALS, Task


def task(**settings):
    return Task.model_validate({"name": "t", "scorer": "generate", "data": "x.jsonl", **settings})


@pytest.mark.parametrize(
    ("pattern", "answer", "kept"),
    [
        (r"[A-D]", "B", True),
        (r"[A-D]", "B because", False),
        (r"[A-D].*", "B\nbecause", True),
        (r"\{.*\}", '{"a": 1}', True),
        (r"\d{4}-\d{2}-\d{2}", "on 2024-01-02", False),
    ],
)
def test_a_format_is_kept_by_the_whole_answer(pattern, answer, kept):
    assert keeps_format(pattern, answer) is kept


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I can’t help with that.", True),
        ("I'M SORRY, BUT no.", True),
        ("As an AI, I have no opinion.", True),
        ("I can help with that.", False),
        ("Sorry is a word.", False),
        ("", False),
    ],
)
def test_refusals_are_known_by_their_phrases(answer, refused):
    assert refuses(answer, REFUSALS) is refused
    assert refuses("Das kann ich nicht.", ["kann ich nicht"]) and not refuses("Das kann ich.", ["kann ich nicht"])


def test_only_what_the_task_asks_is_checked_and_counted():
    """Two answers, of which one refuses: refusal rate 1/2, compliance 1/2; the format is kept by one of them: 1/2."""
    assert checked(task(), "no") == {}
    plain = {"exact_match": 0.0, "rouge_l": 0.0, "answered": True}
    answers = ("I cannot say", "yes")
    asked = task(metric="refusal_rate")
    found = aggregate("generate", [{**plain, **checked(asked, answer)} for answer in answers])
    assert found["refusal_rate"] == found["compliance_rate"] == 0.5 and "format" not in found
    asked = task(metric="format", pattern="yes|no")
    found = aggregate("generate", [{**plain, **checked(asked, answer)} for answer in answers])
    assert found["format"] == 0.5 and "refusal_rate" not in found
