"""Runs a stream with an evolve stage over seeds: accuracy, repairs, flips and cost of each line, for REPRODUCE.md.

    python benchmarks/evolving.py jobs/cem_concept1k.yaml --seeds 0 1 2 --set storage=/tmp/store

A row is a line after a round, its cells mean and spread (sample standard deviation) over seeds: accuracy on the
questions learnt from and on the held-out ones (the likeliest option; then the written answer); by how much the stream
is ahead of the line on held-out questions, seed by seed; the share of the held-out questions wrong before the round
that are right after it, and of the right ones that are wrong (AFR); written answers that cannot be read; held-out gain
for each thousand tokens of passages read; and the mean score of the stream's own tasks. The first row is where all
lines start. What is in the storage is taken, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seeds import cell, run

COLUMNS = (
    "mined",
    "held out",
    "stream ahead by",
    "mined, written",
    "held out, written",
    "repaired",
    "AFR",
    "unreadable",
    "per 1k tokens",
    "tasks",
)
Cells = dict[str, float | None]
START = "before"


def main() -> None:
    """Runs everything, and prints the table after each seed as far as it is filled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of all runs")
    parser.add_argument("--out", type=Path, help="also writes each seed's cells there, as JSON lines")
    asked = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in asked.seeds:
        rows = of_run(run(asked.stream, [*asked.set, f"seed={seed}"])["lines"])
        if asked.out:
            with asked.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"seed": seed, "rows": rows}) + "\n")
        for name, cells in rows.items():
            for column, value in cells.items():
                if value is not None:
                    found[name][column].append(value)
        print(table(found), flush=True)


def of_run(lines: Sequence[dict[str, Any]]) -> dict[str, Cells]:
    """Name of the row -> its cells; the stream is the first line."""
    rows: dict[str, Cells] = {}
    for line in lines:
        told = [made.get("evolved") for made in line["generations"]]
        first = next(one for one in told if one)
        rows.setdefault(START, accuracies(first["change"], "before") | {"tasks": tasks(line, 0)})
        for index, one in enumerate(told):
            if one:  # of a round of two stages the second one is about both, and is kept
                cells = of_round(one) | {"tasks": tasks(line, index)}
                rows[f"{line['name']}, round {one['round']}"] = cells
                stream = rows.get(f"{lines[0]['name']}, round {one['round']}", {}).get("held out")
                if line is not lines[0] and stream is not None:
                    cells["stream ahead by"] = stream - (cells["held out"] or 0.0)
    return rows


def of_round(told: dict[str, Any]) -> Cells:
    """Cells of what a round did."""
    heldout = told["change"]["heldout"]["likelihood"]
    return {
        **accuracies(told["change"], "after"),
        "repaired": heldout["repaired"],
        "AFR": heldout["afr"],
        "per 1k tokens": heldout["gain_per_1k_tokens"],
    }


def accuracies(change: dict[str, Any], when: str) -> Cells:
    """Accuracies of both sides and views before or after a round, and unreadable answers."""
    found: Cells = {}
    for side, name in (("mine", "mined"), ("heldout", "held out")):
        found[name] = change[side]["likelihood"][when]
        found[f"{name}, written"] = change[side]["written"][when]
    return {**found, "unreadable": change["heldout"][f"parse_fail_{when}"]}


def tasks(line: dict[str, Any], index: int) -> float | None:
    """Mean score of the stream's own tasks in that row of the matrix; None where none was measured there."""
    scores = [score for score in line["matrix"]["R"][index] if score is not None]
    return sum(scores) / len(scores) if scores else None


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Rows as Markdown; columns that no row fills are left out."""
    columns = [column for column in COLUMNS if any(cells.get(column) for cells in found.values())]
    text = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, cells in found.items():
        text.append(f"| {name} | {' | '.join(cell(cells.get(column, [])) for column in columns)} |")
    return "\n".join(text)


if __name__ == "__main__":
    main()
