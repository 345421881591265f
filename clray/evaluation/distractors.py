"""Wrong answers to choose from, for questions that have no options of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from clray.data.questions import Question
from clray.data.wording import normalised
from clray.errors import DataError


class Distractors:
    """The gold answers of a set of questions, by side and subject.

    A question gets them from its own side alone: what it is asked with goes into what is looked up for it, and a
    held-out answer there would be learnt.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        pools: dict[tuple[bool, str], dict[str, str]] = defaultdict(dict)
        for question in questions:
            for subject in (question.subject, ""):
                pools[question.heldout, subject].setdefault(normalised(question.gold), question.gold)
        self._pools = {place: list(pool.items()) for place, pool in pools.items()}

    def options(self, question: Question, most: int, draw: np.random.Generator) -> tuple[str, ...]:
        """The question's gold answer among at most `most` others, shuffled.

        They are drawn from its subject, and where that has too few, from its side; none is an answer of its own.
        DataError where there is none.
        """
        right = set(map(normalised, question.answers))
        found: dict[str, str] = {}
        for subject in dict.fromkeys([question.subject, ""]):
            pool = self._pools[question.heldout, subject]
            size = min(len(pool), most + len(right) + len(found))
            for number in draw.choice(len(pool), size=size, replace=False).tolist():
                plain, text = pool[number]
                if len(found) < most and plain not in right:
                    found.setdefault(plain, text)
        if not found:
            raise DataError(
                f"question {question.text[:60]!r} has no options, and no other question "
                f"{'that is held out' if question.heldout else 'to learn from'} has another answer to choose from; "
                "give it choices, or more questions"
            )
        options = [question.gold, *found.values()]
        return tuple(options[number] for number in draw.permutation(len(options)))
