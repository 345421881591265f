"""What a round of evolving from mistakes changed (CEM, arXiv 2404.08707): pure functions of the results of exams.

The words are the paper's: mistakes of knowledge and of task schema, ambiguous questions (AAKC), AFR. Its formulas are
not known to us; those here are clray's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

Kind = Literal["schema", "knowledge", "ambiguous", "known"]
View = Literal["likelihood", "written"]


class Result(TypedDict):
    """What the exam says about a question: shares `p` of its options and which is `gold`, whether the likeliest is
    right, and by how much it leads; the greedy answer; shares of the sampled answers ("": unreadable), and their
    entropy in [0, 1]."""

    name: str
    subject: str
    heldout: bool
    options: list[str]
    p: list[float]
    gold: int
    likeliest_right: bool
    margin: float
    written: str
    written_right: bool
    parse_fail: bool
    votes: dict[str, float]
    entropy: float


class Change(TypedDict):
    """One view of the same questions before and after; a rate is None where it has no question to speak of."""

    before: float
    after: float
    gain: float
    wrong_before: int
    repaired: float | None
    right_before: int
    afr: float | None
    gain_per_1k_tokens: float | None


class Comparison(TypedDict):
    """Both views of a set of questions, and the share of written answers that could not be read."""

    questions: int
    likelihood: Change
    written: Change
    parse_fail_before: float
    parse_fail_after: float


class Side(Comparison):
    """The same with each subject's own."""

    subjects: dict[str, Comparison]


class Evolution(TypedDict):
    """What a round did to the questions that it learnt from, and to those held out, which alone prove anything."""

    mine: Side
    heldout: Side


def kind_of(result: Result, entropy: float, margin: float) -> Kind:
    """What kind of mistake a question is.

    knowledge: the likeliest option is wrong. schema: it is right, but the written answer cannot be read. ambiguous
    (AAKC): neither, but the samples' entropy is above `entropy`, or the likeliest leads by less than `margin`. Else
    known. The kinds are the paper's, the rules clray's.
    """
    if not result["likeliest_right"]:
        return "knowledge"
    if result["parse_fail"]:
        return "schema"
    if result["entropy"] > entropy or result["margin"] < margin:
        return "ambiguous"
    return "known"


def compare(before: Sequence[Result], after: Sequence[Result], tokens: int | None = None) -> Evolution:
    """What changed between two exams on the same questions, by side, view and subject.

    For each view, likelihood (the likeliest option is gold) and written (the greedy answer is right):
    gain = accuracy after - accuracy before; repaired = P(right after | wrong before); afr = P(wrong after | right
    before), whose name is the paper's and whose formula is clray's; gain_per_1k_tokens = 1000 gain / `tokens`, those of
    the passages trained on in between. ValueError where the questions differ, or a side has none.
    """
    later = {result["name"]: result for result in after}
    names = {result["name"] for result in before}
    if names != later.keys() or not len(names) == len(before) == len(after):
        raise ValueError(
            f"the exams are not on the same questions, each once: {len(before)} before, {len(after)} after, "
            f"{len(names & later.keys())} in both"
        )
    pairs = [(result, later[result["name"]]) for result in before]
    mine, heldout = ([pair for pair in pairs if pair[0]["heldout"] is side] for side in (False, True))
    return Evolution(mine=_side(mine, tokens, "to learn from"), heldout=_side(heldout, tokens, "held out"))


def should_stop(
    rounds: Sequence[Evolution], delta: float, flips: float | None, view: View = "likelihood"
) -> str | None:
    """Why no further round is trained, or None.

    The last round's AFR on held-out questions is above `flips`, or the last two gained less than `delta` there, each
    over the one before it. `rounds` begins with the first.
    """
    changes = [evolved["heldout"][view] for evolved in rounds]
    if not changes:
        return None
    afr = changes[-1]["afr"]
    if flips is not None and afr is not None and afr > flips:
        return (
            f"round {len(rounds)} turned {afr:.1%} of the held-out questions that were right wrong (AFR), above "
            f"stop.flips ({flips:.1%})"
        )
    gains = [change["gain"] for change in changes[-2:]]
    if len(gains) == 2 and max(gains) < delta:
        return (
            f"held-out accuracy changed by {gains[0]:+.2%} and {gains[1]:+.2%} in the last two rounds, both below "
            f"stop.delta ({delta:.2%})"
        )
    return None


Pair = tuple[Result, Result]


def _side(pairs: Sequence[Pair], tokens: int | None, what: str) -> Side:
    if not pairs:
        raise ValueError(f"no question is {what}: there is nothing to compare on that side")
    subjects = sorted({first["subject"] for first, _ in pairs})
    of = {name: [pair for pair in pairs if pair[0]["subject"] == name] for name in subjects}
    return Side(**_comparison(pairs, tokens), subjects={name: _comparison(some, tokens) for name, some in of.items()})


def _comparison(pairs: Sequence[Pair], tokens: int | None) -> Comparison:
    return Comparison(
        questions=len(pairs),
        likelihood=_change([(a["likeliest_right"], b["likeliest_right"]) for a, b in pairs], tokens),
        written=_change([(a["written_right"], b["written_right"]) for a, b in pairs], tokens),
        parse_fail_before=_share(a["parse_fail"] for a, _ in pairs) or 0.0,
        parse_fail_after=_share(b["parse_fail"] for _, b in pairs) or 0.0,
    )


def _change(right: Sequence[tuple[bool, bool]], tokens: int | None) -> Change:
    before, after = sum(a for a, _ in right), sum(b for _, b in right)
    gain = (after - before) / len(right)
    return Change(
        before=before / len(right),
        after=after / len(right),
        gain=gain,
        wrong_before=len(right) - before,
        repaired=_share(b for a, b in right if not a),
        right_before=before,
        afr=_share(not b for a, b in right if a),
        gain_per_1k_tokens=1000 * gain / tokens if tokens else None,
    )


def _share(found: Iterable[bool]) -> float | None:
    """Share of what is true; None of nothing."""
    values = list(found)
    return sum(values) / len(values) if values else None
