"""Questions that a round repaired, left wrong or turned wrong: what was written, and what was read. Foreign text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clray.report.evolving import Evolution
from clray.report.numbers import NOTHING, finite

MOST = 5
PASSAGE_LENGTH, QUESTION_LENGTH, ANSWER_LENGTH, TITLE_LENGTH = 300, 400, 160, 120

KINDS = (
    ("repaired", "Repaired", False, True),
    ("still_wrong", "Still wrong", False, False),
    ("flipped", "Turned wrong", True, False),
)
"""Kind, its title, whether the likeliest option was right before and after."""


@dataclass(frozen=True)
class Answer:
    """What was written, and the probability of the right option."""

    when: str
    is_right: bool
    written: str
    p_gold: str


@dataclass(frozen=True)
class Example:
    """One question; `options` with whether each is the right one."""

    question: str
    options: list[tuple[str, bool]]
    gold: str
    is_heldout: bool
    answers: list[Answer]
    points: list[str]
    passages: list[tuple[str, str]]


@dataclass(frozen=True)
class Examples:
    """The examples of one round, by kind; `counts` in words."""

    number: int
    generation: int
    counts: str
    groups: list[tuple[str, list[Example]]]


def examples(evolution: Evolution) -> list[Examples]:
    """Some questions of each round of the line that the evolution is about, the last round first."""
    found = []
    for one in reversed(evolution.own):
        told = one.told["examples"]
        groups = [(title, [_example(e, was, now) for e in told[kind][:MOST]]) for kind, title, was, now in KINDS]
        groups = [(title, some) for title, some in groups if some]
        counts = ", ".join(f"{len(some)} {title.lower()}" for title, some in groups)
        found += [Examples(one.number, one.index, counts, groups)] if groups else []
    return found


def _example(told: dict[str, Any], was_right: bool, is_right: bool) -> Example:
    ends = (("before", was_right), ("after", is_right))
    return Example(
        question=_cut(told["question"], QUESTION_LENGTH),
        options=[(_cut(option, ANSWER_LENGTH), option == told["gold"]) for option in told["options"]],
        gold=_cut(told["gold"], ANSWER_LENGTH),
        is_heldout=told["heldout"],
        answers=[Answer(end, right, *_answer(told[end])) for end, right in ends],
        points=[_cut(point, TITLE_LENGTH) for point in told["points"]],
        passages=[(_cut(p["title"], TITLE_LENGTH), _cut(p["text"], PASSAGE_LENGTH)) for p in told["passages"]],
    )


def _answer(told: dict[str, Any]) -> tuple[str, str]:
    share = finite(told["p_gold"])
    return _cut(told["written"], ANSWER_LENGTH), NOTHING if share is None else f"{share:.2f}"


def _cut(text: Any, limit: int) -> str:
    """The beginning of a text, in one line; "" for None."""
    flat = " ".join(str(text or "").split())
    return flat if len(flat) <= limit else f"{flat[:limit].rstrip()}…"
