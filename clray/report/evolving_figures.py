"""How a round's mistakes became its training set, and what the rounds brought subject by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clray.report.evolving import ACCURACY, KINDS, Evolution, Round, percent, span, whole_rounds
from clray.report.figures import axis_number
from clray.report.numbers import finite, short_count, shorten, whole
from clray.report.scale import Scale, ticks
from clray.report.view import Line

MOST_SUBJECTS = 20
NAME_LENGTH = 60

COLOURS = {
    "knowledge": "var(--t0)",
    "ambiguous": "var(--t5)",
    "schema": "var(--t3)",
    "known": "var(--ink-3)",
    "cpt": "var(--t2)",
    "normative": "var(--t1)",
    "extractive": "var(--t4)",
    "review": "var(--t6)",
    "general": "var(--t7)",
    "over the limit": "var(--rule)",
}
FUNNEL_COLUMNS = (
    ("questions", "to learn from"),
    ("mistakes", "questions that are not known, as far as they are learnt from"),
    ("points", "phrases that are looked up"),
    ("passages", "found for the mistakes"),
    ("left out", "passages that give a held-out question away"),
    ("cpt", "rows of plain passages"),
    ("normative", "rows of mistakes with their answers"),
    ("extractive", "rows of a question about a passage"),
    ("review", "rows of questions that are known already"),
    ("general", "rows of general instructions"),
    ("left out", "rows that give a held-out question away"),
    ("tokens read", "of the passages"),
)


@dataclass(frozen=True)
class Part:
    """A part of a step: its name, how many, its colour; `is_leak` where it was left out."""

    name: str
    number: int
    colour: str
    is_leak: bool = False

    @property
    def text(self) -> str:
        """Number and name."""
        return f"{whole(self.number)} {self.name}"


@dataclass(frozen=True)
class Step:
    """One step of a funnel."""

    name: str
    total: str
    parts: list[Part]
    notes: list[str]


@dataclass(frozen=True)
class Subject:
    """One row of a dumbbell chart; all places in percent of its width. `rivals` are where the controls ended."""

    name: str
    questions: str
    start: float
    between: list[float]
    end: float
    text: str
    title: str
    judgement: str
    rivals: list[tuple[float, str]]


@dataclass(frozen=True)
class Subjects:
    """The subjects with the most held-out questions, and what is said of the others."""

    axis: list[tuple[float, str]]
    rows: list[Subject]
    others: str
    has_rivals: bool


def funnel(one: Round) -> list[Step]:
    """From questions to rows."""
    told = one.told
    asked, rows = told["questions"], told["rows"]
    wrong = sum(n for kind, n in asked.items() if kind != "known")
    mistakes, leaking = told["mistakes"], told["leaking_passages"]
    each = f"{told['points'] / mistakes:.1f} for each mistake" if mistakes and told["points"] else ""
    return [
        Step("questions", whole(sum(asked.values())), _parts({kind: asked.get(kind, 0) for kind in KINDS}), []),
        Step(
            "mistakes learnt from",
            whole(mistakes),
            _parts({"taken": mistakes, "over the limit": wrong - mistakes}) if wrong > mistakes else [],
            _notes("all that are not known" if wrong == mistakes else ""),
        ),
        Step("points looked up", whole(told["points"]), [], _notes(each)),
        Step(
            "passages found",
            whole(told["passages"]),
            [*_parts({"found": told["passages"]}), *_leak(leaking)] if leaking else [],
            [],
        ),
        Step(
            "rows to train on",
            whole(sum(rows.values())),
            [*_parts(rows), *_leak(told["leaks"])],
            _notes(f"{short_count(told['tokens_read'])} tokens read" if told["tokens_read"] else ""),
        ),
    ]


def funnel_rows(evolution: Evolution) -> list[tuple[Line, int, list[str]]]:
    """The same in numbers, for all lines, in the order of FUNNEL_COLUMNS."""
    kinds = ("cpt", "normative", "extractive", "review", "general")
    return [
        (
            one.line,
            one.number,
            [
                whole(sum(one.told["questions"].values())),
                *(whole(one.told[name]) for name in ("mistakes", "points", "passages", "leaking_passages")),
                *(whole(one.told["rows"].get(kind, 0)) for kind in kinds),
                whole(one.told["leaks"]),
                short_count(one.told["tokens_read"]),
            ],
        )
        for one in evolution.rounds
        if one.is_own
    ]


def subjects(evolution: Evolution) -> Subjects | None:
    """Accuracy by subject from before the first round to after the last one; None where there are no two subjects."""
    rounds = whole_rounds(evolution.own)
    courses = {name: course for name in _named(rounds) if (course := _course(rounds, name))}
    if len(courses) < 2:
        return None
    sizes = {name: _subject(rounds[-1], name)["questions"] for name in courses}
    order = sorted(courses, key=lambda name: (-sizes[name], name))
    shown, rest = order[:MOST_SUBJECTS], order[MOST_SUBJECTS:]
    ends = {name: _rivals(evolution, name) for name in shown}
    values = [v for name in shown for v in (*courses[name], *(end for _, end in ends[name]))]
    marks = ticks(min(values), max(values))
    place = Scale(marks[0], marks[-1], 0, 100)
    return Subjects(
        axis=[(place(mark), axis_number(100 * mark)) for mark in marks],
        rows=[_dumbbell(name, sizes[name], courses[name], ends[name], rounds, place) for name in shown],
        others=_others(rest, sizes, courses),
        has_rivals=any(ends.values()),
    )


def _parts(numbers: dict[str, int]) -> list[Part]:
    return [Part(name, n, COLOURS.get(name, "var(--ink-2)")) for name, n in numbers.items() if n]


def _leak(number: int) -> list[Part]:
    return [Part("left out, leaks", number, "var(--bad)", True)] if number else []


def _notes(*texts: str) -> list[str]:
    return [text for text in texts if text]


def _subject(one: Round, name: str) -> dict[str, Any]:
    found: dict[str, Any] = one.told["change"]["heldout"]["subjects"].get(name) or {}
    return found


def _named(rounds: Sequence[Round]) -> list[str]:
    return list(dict.fromkeys(name for one in rounds for name in one.told["change"]["heldout"]["subjects"]))


def _course(rounds: Sequence[Round], name: str) -> list[float]:
    """Accuracy before the first round and after each; nothing where a round did not measure it."""
    changes = [_subject(one, name).get("likelihood") or {} for one in rounds]
    course = [finite(changes[0].get("before")), *(finite(change.get("after")) for change in changes)]
    return [value for value in course if value is not None] if None not in course else []


def _rivals(evolution: Evolution, name: str) -> list[tuple[Line, float]]:
    """Where the other lines ended."""
    others = {one.line.number for one in evolution.rounds if one.is_own and one.line is not evolution.line}
    last = {one.line.number: one for one in evolution.rounds if one.line.number in others}
    ends = ((one.line, finite((_subject(one, name).get("likelihood") or {}).get("after"))) for one in last.values())
    return [(line, end) for line, end in ends if end is not None]


def _dumbbell(
    name: str, size: int, course: list[float], ends: list[tuple[Line, float]], rounds: list[Round], place: Scale
) -> Subject:
    written = span(
        *(_subject(one, name)["written"][end] for one, end in ((rounds[0], "before"), (rounds[-1], "after")))
    )
    return Subject(
        name=shorten(name, NAME_LENGTH) or "no subject",
        questions=whole(size),
        start=place(course[0]),
        between=[place(value) for value in course[1:-1]],
        end=place(course[-1]),
        text=span(course[0], course[-1]),
        title=f"{name or 'no subject'}, {whole(size)} questions: likeliest option "
        f"{' → '.join(map(percent, course))}; written answer {written}",
        judgement=ACCURACY.better(course[-1] - course[0]),
        rivals=[(place(end), f"{line.name}: {percent(end)}") for line, end in ends],
    )


def _others(rest: list[str], sizes: dict[str, int], courses: dict[str, list[float]]) -> str:
    """What is said of the subjects that are not drawn."""
    total = sum(sizes[name] for name in rest)
    if not total:
        return ""
    ends = [sum(sizes[name] * courses[name][at] for name in rest) / total for at in (0, -1)]
    few, many = sizes[rest[-1]], sizes[rest[0]]
    each = f"{few}" if few == many else f"{few} to {many}"
    return (
        f"Not drawn: {len(rest)} more subject{'' if len(rest) == 1 else 's'} of {each} questions each, "
        f"{whole(total)} in all, together {span(*ends)}."
    )
