"""Rounds of evolve stages: what learning from mistakes brought to the questions learnt from and to those held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clray.report.numbers import MINUS, NOTHING, Unit, finite, whole
from clray.report.view import Line, View

ACCURACY = Unit("accuracy")
KINDS = ("knowledge", "ambiguous", "schema", "known")
SIDES = ("heldout", "mine")
CLEAR = 2.0
"""Standard errors from which on a gain is coloured."""

COLUMNS = (
    ("likelihood", "the likeliest option: accuracy before and after the round"),
    ("gain", "change of the accuracy, ± its standard error"),
    ("written", "the answer that is written: accuracy before and after the round"),
    ("gain", "change of the accuracy, ± its standard error"),
    ("repaired", "share of the wrong ones that are right afterwards; likeliest option"),
    ("AFR", "answer-flip forgetting: share of the right ones that are wrong afterwards; likeliest option"),
    ("unreadable", "share of the written answers that cannot be read, before and after the round"),
    ("per 1k", "gain of the likeliest option for each thousand tokens of passages read"),
)
KIND_COLUMNS = (
    ("knowledge", "the likeliest option is wrong"),
    ("ambiguous", "right and readable, but unsure: tries differ, or the next option is about as likely"),
    ("schema", "the likeliest option is right, but the written answer cannot be read"),
    ("known", "none of these"),
)


@dataclass(frozen=True)
class Round:
    """A round of a line, as the outcome tells it; `is_own` where no earlier line has its generation.

    A round of two stages (cpt_then_cit) is two of these with one number, the second of which is about both.
    """

    line: Line
    index: int
    name: str
    is_own: bool
    told: dict[str, Any]

    @property
    def number(self) -> int:
        """Number of the round within its stage, from 1."""
        return int(self.told["round"])

    def change(self, side: str, way: str) -> dict[str, Any]:
        """What changed in "heldout" or "mine", by "likelihood" or "written"."""
        found: dict[str, Any] = self.told["change"][side][way]
        return found


@dataclass(frozen=True)
class Gain:
    """A difference between accuracies and its variance, as far as that comes from the choice of questions."""

    value: float | None
    variance: float | None

    def over(self, other: Gain) -> Gain:
        """How much more this is than another, of other training: their variances add up."""
        if self.value is None or other.value is None:
            return Gain(None, None)
        return Gain(self.value - other.value, (self.variance or 0.0) + (other.variance or 0.0))

    @property
    def text(self) -> str:
        """In percent, with its sign."""
        return ACCURACY.signed(self.value)

    @property
    def error(self) -> str:
        """The standard error in percent; "" where there is none."""
        return "" if self.variance is None else ACCURACY.show(math.sqrt(self.variance))

    @property
    def judgement(self) -> str:
        """Class of its colour: good or bad where it is more than CLEAR standard errors."""
        if self.value is None or abs(self.value) <= CLEAR * math.sqrt(self.variance or 0.0):
            return "even"
        return ACCURACY.better(self.value)


@dataclass(frozen=True)
class Row:
    """One line's round in one of the two tables; `lead` is the stream's over it, None for the stream itself."""

    line: Line
    note: str
    questions: str
    kinds: list[str]
    likelihood: tuple[str, Gain]
    written: tuple[str, Gain]
    repaired: tuple[str, str]
    afr: tuple[str, str]
    failures: str
    per_thousand: str
    lead: Gain | None


@dataclass(frozen=True)
class Card:
    """One gain over all rounds: the stream's, and each control's with the stream's lead over it."""

    title: str
    span: str
    gain: Gain
    rivals: list[tuple[Line, Gain, Gain]]


@dataclass(frozen=True)
class Evolution:
    """All rounds of one evolve stage. `line` is the one that it is about: the stream, where it has rounds."""

    stage: str
    line: Line
    rounds: list[Round]
    cards: list[Card]
    heldout: list[tuple[int, list[Row]]]
    mine: list[tuple[int, list[Row]]]
    stops: list[tuple[Line, int, str]]

    @property
    def own(self) -> list[Round]:
        """The rounds of the line that it is about."""
        return [one for one in self.rounds if one.line is self.line]

    @property
    def who(self) -> str:
        """The line that it is about, in a sentence."""
        return "the stream" if self.line.is_stream else self.line.name

    @property
    def lead(self) -> tuple[str, str] | None:
        """Head and meaning of the column of leads; None where no other line has rounds of its own."""
        meaning = f"how much more than this line {self.who} has gained since before the first round"
        return (f"{self.line.name} ahead", meaning) if self.cards[0].rivals else None


def evolutions(view: View) -> list[Evolution]:
    """What the rounds of each evolve stage brought; nothing where no line has one."""
    by_stage: dict[str, list[Round]] = {}
    for one in _rounds(view):
        by_stage.setdefault(one.told["stage"], []).append(one)
    return [_evolution(stage, found) for stage, found in by_stage.items()]


def whole_rounds(rounds: Sequence[Round]) -> list[Round]:
    """One for each number: of two halves the second."""
    return list({one.number: one for one in rounds}.values())


def gained(rounds: Sequence[Round], side: str, way: str) -> Gain:
    """What the rounds of a line brought in all.

    The variance is that of paired answers, (b + c - (b - c)^2 / n) / n^2 with b repaired and c turned wrong of n,
    summed over the rounds. That is rather too much: what turns back and forth counts each time.
    """
    rounds = whole_rounds(rounds)
    before, after = (finite(one.change(side, way)[end]) for one, end in ((rounds[0], "before"), (rounds[-1], "after")))
    variances = [_variance(one, side, way) for one in rounds]
    if before is None or after is None or None in variances:
        return Gain(None, None)
    return Gain(after - before, sum(filter(None, variances)))


def percent(share: Any) -> str:
    """A share as percent; a dash for none."""
    text = ACCURACY.show(share)
    return text if text == NOTHING else f"{text}%"


def span(before: Any, after: Any) -> str:
    """Two accuracies as 41.2 → 47.0."""
    return f"{ACCURACY.show(before)} → {ACCURACY.show(after)}"


def _rounds(view: View) -> list[Round]:
    own = {id(g) for _, generations in view.own_generations for g in generations}
    return [
        Round(line, g["index"], g["stage_name"], id(g) in own, g["evolved"])
        for line in view.lines
        for g in line.generations
        if g.get("evolved")
    ]


def _evolution(stage: str, rounds: list[Round]) -> Evolution:
    main = rounds[0].line
    return Evolution(
        stage=stage,
        line=main,
        rounds=rounds,
        cards=_cards(rounds),
        heldout=_table(rounds, "heldout"),
        mine=_table(rounds, "mine"),
        stops=[(one.line, one.number, one.told["stop"]) for one in rounds if one.told.get("stop") and one.is_own],
    )


def _variance(one: Round, side: str, way: str) -> float | None:
    change, number = one.change(side, way), one.told["change"][side]["questions"]
    if not number:
        return None
    repaired = change["wrong_before"] * (finite(change["repaired"]) or 0.0)
    flipped = change["right_before"] * (finite(change["afr"]) or 0.0)
    return max(0.0, repaired + flipped - (repaired - flipped) ** 2 / number) / number**2


def _by_line(rounds: list[Round]) -> list[list[Round]]:
    """The rounds of each line that has some of its own, the line that it is about first."""
    numbers = dict.fromkeys(one.line.number for one in rounds if one.is_own)
    return [[one for one in rounds if one.line.number == number] for number in numbers]


def _cards(rounds: list[Round]) -> list[Card]:
    titles = (
        ("heldout", "likelihood", "Held out, likeliest option"),
        ("heldout", "written", "Held out, written answer"),
        ("mine", "likelihood", "Learnt from, likeliest option"),
    )
    return [_card(_by_line(rounds), side, way, title) for side, way, title in titles]


def _card(lines: list[list[Round]], side: str, way: str, title: str) -> Card:
    main, *others = lines
    gain = gained(main, side, way)
    gains = [(other[0].line, gained(other, side, way)) for other in others]
    return Card(
        title=title,
        span=span(main[0].change(side, way)["before"], main[-1].change(side, way)["after"]),
        gain=gain,
        rivals=[(line, found, gain.over(found)) for line, found in gains],
    )


def _table(rounds: list[Round], side: str) -> list[tuple[int, list[Row]]]:
    """By number of the round the rows of all lines."""
    numbers = sorted({one.number for one in rounds})
    return [(n, [_row(one, rounds, side) for one in rounds if one.number == n and one.is_own]) for n in numbers]


def _row(one: Round, rounds: list[Round], side: str) -> Row:
    here, asked = one.told["change"][side], one.told["questions"]
    likelihood, written = here["likelihood"], here["written"]
    halves = sum(1 for other in rounds if (other.line.number, other.number) == (one.line.number, one.number))
    control = "" if one.told["control"] in ("none", one.line.name) else one.told["control"]
    return Row(
        line=one.line,
        note=one.name if halves > 1 or one.name.endswith(".cit") else control,
        questions=whole(here["questions"]),
        kinds=[whole(asked.get(kind)) for kind in KINDS],
        likelihood=(span(likelihood["before"], likelihood["after"]), gained([one], side, "likelihood")),
        written=(span(written["before"], written["after"]), gained([one], side, "written")),
        repaired=_rate(here, "repaired", "wrong_before", "wrong"),
        afr=_rate(here, "afr", "right_before", "right"),
        failures=span(here["parse_fail_before"], here["parse_fail_after"]),
        per_thousand=_small(likelihood["gain_per_1k_tokens"]),
        lead=_lead(one, rounds, side),
    )


def _rate(side: dict[str, Any], name: str, of: str, what: str) -> tuple[str, str]:
    """A share of the likeliest options with its tooltip, which tells the written answers' too."""
    likelihood, written = side["likelihood"], side["written"]
    title = f"of {whole(likelihood[of])} that were {what}; written answers: {percent(written[name])}"
    return percent(likelihood[name]), f"{title} of {whole(written[of])}"


def _small(gain: Any) -> str:
    """A gain for each thousand tokens, in percent with two digits that count."""
    value = finite(gain)
    if value is None:
        return NOTHING
    size = abs(100 * value)
    digits = 1 if size >= 1 or not size else min(5, 1 - math.floor(math.log10(size)))
    return f"{'+' if value >= 0 else MINUS}{size:.{digits}f}" if size else "0.0"


def _lead(one: Round, rounds: list[Round], side: str) -> Gain | None:
    """The stream's lead when both are through with the round; none over itself, an empty one where it had ended."""
    main = rounds[0].line
    if one.line is main:
        return None
    own = [other for other in rounds if other.line is main and other.number <= one.number]
    theirs = [other for other in rounds if other.line is one.line and other.index <= one.index]
    if not own or own[-1].number < one.number:
        return Gain(None, None)
    return gained(own, side, "likelihood").over(gained(theirs, side, "likelihood"))
