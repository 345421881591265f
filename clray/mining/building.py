"""The supplemental training set of a round: passages to read, and four kinds of instructions (CEM).

The kinds and their names are the paper's (arXiv 2404.08707, by notes on it); what a row of each looks like, and how
many there are, is clray's own.

    cpt          the passages, loss on all tokens
    normative    a mistaken question in the form it is asked in -> its answer: repairs the form
    extractive   passage and question -> the sentence of the passage that holds the answer: ties reading to use
    review       a question that the generation knows -> its answer: against forgetting
    general      instructions of other kinds: against forgetting
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex

from clray.mining.leak import HeldOut, Leak
from clray.mining.shelf import Passage
from clray.mining.words import words

Row = dict[str, Any]
KINDS = ("cpt", "normative", "extractive", "review", "general")
EXTRACT = "Give the sentence of the passage that answers the question."
_SENTENCE = regex.compile(r"(?<=[.!?。！？])\s+|\n+")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as it is trained on: name, text, answers (the first is the right one to write), and as a record."""

    name: str
    question: str
    answers: tuple[str, ...]
    record: Row


@dataclass(frozen=True, kw_only=True)
class Built:
    """Rows of each kind, and what was left out because it gives a held-out question away."""

    rows: dict[str, list[Row]]
    leaks: list[tuple[str, Leak]] = field(default_factory=list)


def build(
    *,
    control: str,
    mistakes: Sequence[Asked],
    known: Sequence[Asked],
    found: Mapping[str, Sequence[Passage]],
    passages: Sequence[Passage],
    general: Sequence[Row],
    shares: Mapping[str, float],
    heldout: HeldOut,
    seed: int,
) -> Built:
    """The rows of a round.

    `found` gives for a mistake's name its passages, the best first; `passages` are those to be read, in whatever way
    they were chosen. `shares` are the fields of spec.Shares but `cpt`. No row that shares a run of words with a
    held-out question is taken. Draws depend on the seed and on what is drawn from alone.
    """
    chance, leaks = random.Random(seed), []  # type: tuple[random.Random, list[tuple[str, Leak]]]

    def safe(kind: str, rows: Sequence[Row]) -> list[Row]:
        given = heldout.leaks([_text(row) for row in rows])
        leaks.extend((kind, leak) for leak in given.values())
        return [row for number, row in enumerate(rows) if number not in given]

    read = control != "cit_only" and control not in ("format_only", "naive")
    answer = control != "cpt_only"
    rows: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    if read:
        rows["cpt"] = safe("cpt", [{"text": _passage_text(one), "passage": one.digest} for one in passages])
    if answer:
        rows["normative"] = safe("normative", [{**one.record, "question": one.name} for one in mistakes])
    if answer and control not in ("format_only", "naive"):
        most = round(shares["extractive"] * len(rows["normative"]))
        rows["extractive"] = safe("extractive", _extractive(mistakes, found))[:most]
    if answer and control != "naive":
        fresh = len(rows["normative"]) + len(rows["extractive"])
        total = fresh / (1 - shares["review"] - (shares["general"] if general else 0.0))
        review = [{**one.record, "question": one.name} for one in known]
        rows["review"] = safe("review", _draw(review, round(shares["review"] * total), chance))
        rows["general"] = safe("general", _draw(general, round(shares["general"] * total), chance))
    return Built(rows=rows, leaks=leaks)


def _extractive(mistakes: Sequence[Asked], found: Mapping[str, Sequence[Passage]]) -> list[Row]:
    """A row for each mistake with a passage that holds its answer: the best one. First all mistakes' first rows."""
    rows = []
    for one in mistakes:
        for passage in found.get(one.name, ()):
            sentence = supporting(passage.text, one.answers)
            if sentence:
                given = f"{passage.text}\n\nQuestion: {one.question}"
                rows.append({"instruction": EXTRACT, "input": given, "output": sentence, "question": one.name})
                break
    return rows


def supporting(text: str, answers: Sequence[str]) -> str | None:
    """The first sentence of the text that holds one of the answers word by word, or None."""
    wanted = [f" {' '.join(words(answer))} " for answer in answers if words(answer)]
    for sentence in _SENTENCE.split(text):
        here = f" {' '.join(words(sentence))} "
        if any(answer in here for answer in wanted):
            return str(sentence).strip()
    return None


def _draw(rows: Sequence[Row], count: int, chance: random.Random) -> list[Row]:
    return chance.sample(list(rows), min(count, len(rows)))


def _passage_text(passage: Passage) -> str:
    return f"{passage.title}\n\n{passage.text}" if passage.title else passage.text


def _text(row: Row) -> str:
    turns = [turn["content"] for turn in row.get("messages", [])]
    output = row.get("output", "")
    outputs = output if isinstance(output, list) else [output]
    return "\n".join(
        [str(row.get("text", "")), str(row.get("instruction", "")), str(row.get("input", "")), *turns]
        + [str(one) for one in outputs]
    )


def best_first(found: Mapping[str, Sequence[tuple[Passage, float]]]) -> list[Passage]:
    """All passages that were found, each once: first every question's best, by falling score, then the second ones."""
    placed = [
        (place, -score, passage.digest, passage)
        for hits in found.values()
        for place, (passage, score) in enumerate(hits)
    ]
    ordered = sorted(placed, key=lambda item: item[:3])
    return list({mark: passage for _, _, mark, passage in ordered}.values())


def within(passages: Sequence[Passage], tokens: float) -> list[Passage]:
    """The first passages of so many tokens in all; at least one, where there is one."""
    taken: list[Passage] = []
    for passage in passages:
        if taken and sum(one.num_tokens for one in taken) + passage.num_tokens > tokens:
            break
        taken.append(passage)
    return taken
