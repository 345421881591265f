"""What each stage did to each group of probes, and what each line cost: tables for REPRODUCE.md from runs over seeds.

    python benchmarks/seeds.py jobs/lifecycle.yaml --seeds 0 1 2 --out lifecycle.jsonl
    python benchmarks/stage_effects.py lifecycle.jsonl

A step is the score after a stage minus that before it, over tasks of the group that the stage does not teach itself; a
delta is the last generation against the base model. Above 0 is better, whatever the metric. Time (with what
regularisers ask of earlier generations) and memory are those of training; time is a ratio to the first line of the same
seed. Mean and sample standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clray.evaluation.matrix import ScoreMatrix
from clray.evaluation.probes import effects

Found = dict[tuple[str, str], list[float]]


def main() -> None:
    """Prints the tables of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="what seeds.py --out wrote")
    runs = [json.loads(line) for line in parser.parse_args().runs.read_text().splitlines()]
    found, costs = measured(runs)
    for group in dict.fromkeys(group for group, _, _ in found):
        print(f"**{group}**\n")
        print(table("stage", {key[1:]: values for key, values in found.items() if key[0] == group}))
    print(table("line", costs))


def measured(runs: list[dict[str, Any]]) -> tuple[dict[tuple[str, str, str], list[float]], Found]:
    """Values over seeds: by group, stage and line the step, and the delta as stage "since base"; by line and kind the
    cost."""
    found, costs = defaultdict[tuple[str, str, str], list[float]](list), defaultdict[tuple[str, str], list[float]](list)
    for run in runs:
        first = seconds(run["lines"][0])
        for line in run["lines"]:
            matrix = ScoreMatrix.from_dict(line["matrix"])
            for effect in effects(matrix):
                steps = list(zip(matrix.stages, effect.steps, strict=True))[1:]
                for stage, value in (*steps, ("since base", effect.deltas[-1])):
                    found[f"{effect.group}, {effect.metric}", stage, line["name"]] += [] if value is None else [value]
            costs[line["name"], "training time, ratio"].append(seconds(line) / first)
            peaks = [made["training"]["peak_host_bytes"] for made in line["generations"] if made["parent"]]
            costs[line["name"], "peak memory of the worker, MB"].append(max(peaks) / 1e6)
    return found, costs


def seconds(line: dict[str, Any]) -> float:
    """What a line's stages took to train, and to ask earlier generations what holds them."""
    stages = [made["training"] for made in line["generations"] if made["parent"]]
    return sum(stage["seconds"] + stage.get("holding_seconds", 0.0) for stage in stages)


def table(first: str, found: Found) -> str:
    """Markdown: a row for each first part of the keys, a column for each last part."""
    columns = list(dict.fromkeys(column for _, column in found))
    lines = ["| " + " | ".join((first, *columns)) + " |", "|---|" + "---:|" * len(columns)]
    for row in dict.fromkeys(row for row, _ in found):
        lines.append("| " + " | ".join((row, *(spread(found.get((row, column), [])) for column in columns))) + " |")
    return "\n".join(lines) + "\n"


def spread(values: Iterable[float]) -> str:
    """Mean and sample standard deviation; a dash for nothing."""
    known = list(values)
    if not known:
        return "–"
    figures = 0 if max(map(abs, known)) >= 100 else 3
    around = f" ± {statistics.stdev(known):.{figures}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{figures}f}{around}"


if __name__ == "__main__":
    main()
