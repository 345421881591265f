"""Which instructions were shown again, the most telling first, and the tags that make them so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from clray.report.numbers import NOTHING, finite, whole
from clray.report.replay import Origin, Replay, origins, replays
from clray.report.view import Line, View

MOST_ROWS, MOST_TAGS, TAGS_IN_ROW = 20, 24, 8
TEXT_START = 150


@dataclass(frozen=True)
class Shown:
    """An instruction that was shown again."""

    origin: Origin
    text: str
    tags: list[str]
    more_tags: list[str]
    insinfo: str
    rows: str


@dataclass(frozen=True)
class Ranking:
    """The instructions that the last stage of a line was shown again, by InsInfo, and their tags by frequency."""

    line: Line
    index: int
    stage: str
    num_instructions: int
    rows: list[Shown]
    tags: list[tuple[str, int]]


def rankings(view: View) -> list[Ranking]:
    """The ranking of each line that replays by InsInfo."""
    found = [_ranking(line, drawn) for line, drawn in replays(view)]
    return [ranking for ranking in found if ranking is not None]


def _ranking(line: Line, drawn: list[Replay]) -> Ranking | None:
    for replay in reversed(drawn):
        shown = [(draw["stage"], one) for draw in replay.draws for one in draw.get("instructions") or []]
        ranked = [(stage, one) for stage, one in shown if finite(one.get("insinfo")) is not None]
        if not ranked:
            continue
        ranked.sort(key=lambda item: -item[1]["insinfo"])
        tags = Counter(tag for _, one in ranked for tag in dict.fromkeys(one.get("tags") or []))
        common = sorted(tags.items(), key=lambda item: (-item[1], item[0]))[:MOST_TAGS]
        rows = [_shown(line, *item) for item in ranked[:MOST_ROWS]]
        return Ranking(line, replay.index, replay.stage, len(ranked), rows, common)
    return None


def _shown(line: Line, stage: str, one: dict[str, Any]) -> Shown:
    text, tags = " ".join(one.get("text", "").split()), list(one.get("tags") or [])
    return Shown(
        origin=origins(line).get(stage, Origin(0, stage, 0.0)),
        text=f"{text[:TEXT_START].rstrip()}…" if len(text) > TEXT_START else text or NOTHING,
        tags=tags[:TAGS_IN_ROW],
        more_tags=tags[TAGS_IN_ROW:],
        insinfo=f"{one['insinfo']:.2f}",
        rows=f"{whole(one.get('rows'))} / {whole(one.get('of_rows'))}",
    )
