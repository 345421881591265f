"""Checks of written answers that need no reference and no judge: whether the format is kept, and whether it refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from clray.data.wording import contains
from clray.spec.task import Task

APOSTROPHES = str.maketrans("’‘ʼ", "'''")


def keeps_format(pattern: str, answer: str) -> bool:
    """Whether the regular expression (Python's `re`) matches the whole answer; `.` matches ends of lines too."""
    return re.fullmatch(pattern, answer, re.DOTALL) is not None


def refuses(answer: str, phrases: Sequence[str]) -> bool:
    """Whether one of the phrases stands in the answer, word for word, in any case."""
    plain = answer.translate(APOSTROPHES)
    return any(contains(plain, phrase.translate(APOSTROPHES)) for phrase in phrases)


def checked(task: Task, answer: str) -> dict[str, float]:
    """What the task asks to be checked of an answer: `format` and `refused`, each 0 or 1."""
    found: dict[str, Any] = {}
    if task.pattern is not None:
        found["format"] = float(keeps_format(task.pattern, answer))
    if task.refusal_phrases:
        found["refused"] = float(refuses(answer, task.refusal_phrases))
    return found
