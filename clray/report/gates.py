"""What the gates decided: every generation that was judged, in the order of the tries, with what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clray.report.numbers import NOTHING, Unit, duration, short_count
from clray.report.view import Line, View

WORDS = {"accept": "accepted", "reject": "rejected", "raise_replay": "rejected", "stop": "rejected"}


@dataclass(frozen=True)
class Judged:
    """One generation before its gate."""

    index: int
    stage: str
    colour: str
    key: str
    attempt: str
    replay: str
    decision: str
    is_rejected: bool
    why: str
    tokens: str
    time: str


@dataclass(frozen=True)
class Gated:
    """The judged generations of a line, and what its rejected tries cost in all."""

    line: Line
    rows: list[Judged]
    cost: str


def gates(view: View) -> list[Gated]:
    """The lines that have a gate."""
    found = []
    for line in view.lines:
        judged = [g for g in (*line.rejected, *line.generations) if g.get("verdict")]
        judged.sort(key=lambda g: (g["index"], g["verdict"]["decision"] == "accept", g["verdict"]["attempt"]))
        if judged:
            found.append(Gated(line, [_judged(view, g) for g in judged], _cost(line)))
    return found


def _judged(view: View, record: dict[str, Any]) -> Judged:
    verdict, training = record["verdict"], record.get("training", {})
    return Judged(
        index=record["index"],
        stage=record["stage_name"],
        colour=view.stage_colour(record["stage_name"]),
        key=record["key"],
        attempt=str(verdict["attempt"] + 1),
        replay=_replay(record.get("stage", {}).get("replay", {})),
        decision=WORDS[verdict["decision"]],
        is_rejected=verdict["decision"] != "accept",
        why=verdict["why"],
        tokens=short_count(training.get("tokens")),
        time=duration(training.get("seconds")),
    )


def _replay(replay: dict[str, Any]) -> str:
    """How much is replayed, in the unit in which it was given."""
    if replay.get("share") is not None:
        return f"{Unit('accuracy').show(replay['share'])}%"
    rows = replay.get("rows") or replay.get("rows_per_past_task")
    return NOTHING if rows is None else f"{short_count(rows)} rows{'' if replay.get('rows') else ' each'}"


def _cost(line: Line) -> str:
    """What the rejected generations took, in words; empty where there are none."""
    if not line.rejected:
        return ""
    tokens, seconds = (sum(g.get("training", {}).get(what, 0) for g in line.rejected) for what in ("tokens", "seconds"))
    number = len(line.rejected)
    return f"{number} rejected generation{'s' * (number > 1)}: {short_count(tokens)} tokens, {duration(seconds)}"
