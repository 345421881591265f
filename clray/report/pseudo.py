"""What the generators of pseudo-samples wrote: a few samples of each task, for a person to judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clray.report.view import Line, View

TEXT_START = 220


@dataclass(frozen=True)
class Written:
    """Samples of one task: its stage, how many are kept of how many asked for, and the first few as text."""

    index: int
    stage: str
    kept: int
    asked: int
    samples: list[str]


@dataclass(frozen=True)
class PseudoSamples:
    """What a line's generators wrote, in the order of its stages."""

    line: Line
    tasks: list[Written]


def pseudo_samples(view: View) -> list[PseudoSamples]:
    """The samples of each line that reflects on some."""
    written = ((line, [_written(g) for g in line.generations if g.get("pseudo")]) for line in view.lines)
    return [PseudoSamples(line, tasks) for line, tasks in written if tasks]


def _written(generation: dict[str, Any]) -> Written:
    pseudo = generation["pseudo"]
    texts = ["\n".join(filter(None, (s["instruction"], s["input"]))) for s in pseudo["samples"]]
    return Written(
        index=generation["index"],
        stage=generation["stage_name"],
        kept=pseudo["kept"],
        asked=pseudo["asked"],
        samples=[text if len(text) <= TEXT_START else f"{text[:TEXT_START]}…" for text in texts],
    )
