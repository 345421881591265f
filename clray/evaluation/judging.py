"""What a model's answers to a question come to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from clray.data.questions import Question
from clray.data.wording import contains, normalised
from clray.evaluation.evolution import Result
from clray.evaluation.generate import Written
from clray.evaluation.text import rouge_l

UNREADABLE = ""
"""Stands among the votes for answers that name no option, or are empty, or do not end."""


def judge(
    question: Question,
    options: Sequence[str],
    scores: Sequence[float],
    greedy: Written,
    sampled: Sequence[Written],
    rouge: float | None,
) -> Result:
    """All that the exam says about the question; `scores` are the options' mean log p in nats, in their order."""
    weights = np.exp(np.asarray(scores) - max(scores))
    p = (weights / weights.sum()).tolist()
    gold = list(options).index(question.gold)
    first, second = sorted(p, reverse=True)[:2]
    votes = Counter(answer_of(question, written) for written in sampled)
    shares = {answer: votes[answer] / len(sampled) for answer in sorted(votes)}
    return Result(
        name=question.name,
        subject=question.subject,
        heldout=question.heldout,
        options=list(options),
        p=p,
        gold=gold,
        likeliest_right=p.index(first) == gold,
        margin=first - second,
        written=greedy.text,
        written_right=is_right(question, greedy, rouge),
        parse_fail=answer_of(question, greedy) == UNREADABLE,
        votes=shares,
        entropy=spread(shares, len(question.options) or len(sampled)),
    )


def answer_of(question: Question, written: Written) -> str:
    """The option that is meant; without options the normalised text, if it ended; UNREADABLE where there is none."""
    if question.options:
        return recovered(written.text, question.options) or UNREADABLE
    return normalised(written.text) if written.ended else UNREADABLE


def recovered(text: str, options: Sequence[str]) -> str | None:
    """The one option that the text is, else that it contains; None where there is none, or several.

    Of options that contain one another the longest counts.
    """
    if text in options:
        return text
    plain = normalised(text)
    found = [option for option in options if normalised(option) == plain]
    if not found:
        within = [option for option in options if contains(text, option)]
        found = [one for one in within if not any(contains(more, one) and not contains(one, more) for more in within)]
    return found[0] if len(found) == 1 else None


def is_right(question: Question, written: Written, rouge: float | None) -> bool:
    """Whether the option that is meant is the gold one; without options, whether the answer contains a reference or has
    a ROUGE-L of `rouge` to one."""
    if question.options:
        return answer_of(question, written) == question.gold
    if any(contains(written.text, answer) for answer in question.answers):
        return True
    return rouge is not None and rouge_l(written.text, question.answers) >= rouge


def spread(votes: Mapping[str, float], most: int) -> float:
    """Entropy of the votes that can be read, as a share of the entropy of `most` equal ones: 0 agreed, 1 at odds.

    -sum_c v_c log v_c / log most, the v_c adding up to 1 (clray's own formula). 1 where none can be read.
    """
    read = [share for answer, share in votes.items() if answer != UNREADABLE]
    if not read:
        return 1.0
    total = math.fsum(read)
    entropy = -math.fsum(share / total * math.log(share / total) for share in read)
    return min(1.0, max(0.0, entropy) / math.log(most)) if most > 1 else 0.0
