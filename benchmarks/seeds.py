"""Runs a stream over seeds and variants, and prints each line's metrics as mean and spread: tables for REPRODUCE.md.

    python benchmarks/seeds.py jobs/inscl_superni.yaml --seeds 0 1 2 --metrics relative_gain average_performance \\
        --variant curriculum: --variant difficult:order=reverse --set storage=/tmp/store

A variant is NAME:OVERRIDE;OVERRIDE. What is in the storage is taken, so a run that was stopped goes on. Spread is the
sample standard deviation over seeds. Run it in the folder that the stream's relative paths start from.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from typing import Any

Key = tuple[str, str, str, str]


def main() -> None:
    """Runs everything, and prints the table after each run as far as it is filled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variant", action="append", help="NAME:OVERRIDE;OVERRIDE (default: one without overrides)")
    parser.add_argument("--metrics", nargs="+", help="default: all")
    parser.add_argument("--out", help="also writes all values there, as JSON lines")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of all runs")
    asked = parser.parse_args()
    values: dict[Key, list[float]] = defaultdict(list)
    for seed in asked.seeds:
        for variant in asked.variant or ["stream:"]:
            name, _, own = variant.partition(":")
            outcome = run(asked.stream, [*asked.set, *filter(None, own.split(";")), f"seed={seed}"])
            if asked.out:
                with open(asked.out, "a", encoding="utf-8") as out:
                    out.write(json.dumps({"variant": name, "seed": seed, "lines": outcome["lines"]}) + "\n")
            for line in outcome["lines"]:
                for unit, metrics in line["metrics"].items():
                    for metric, value in metrics.items():
                        if asked.metrics is None or metric in asked.metrics:
                            values[name, line["name"], unit, metric].append(value)
            print(table(values), flush=True)


def run(stream: str, overrides: list[str]) -> dict[str, Any]:
    """The outcome of one run, in a process of its own; its progress goes to standard error."""
    command = [sys.executable, "-m", "clray", "run", stream, *overrides, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def table(values: dict[Key, list[float]]) -> str:
    """Rows of line and metric, a column for each variant, as Markdown."""
    variants = list(dict.fromkeys(key[0] for key in values))
    rows = list(dict.fromkeys(key[1:] for key in values))
    text = [f"| line | score | metric | {' | '.join(variants)} |", "|---" * (3 + len(variants)) + "|"]
    for row in rows:
        cells = [cell(values[variant, *row]) for variant in variants]
        text.append(f"| {' | '.join(row)} | {' | '.join(cells)} |")
    return "\n".join(text)


def cell(values: list[float]) -> str:
    """Mean ± sample standard deviation, and of how many; a dash where there is none."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread} ({len(values)})"


if __name__ == "__main__":
    main()
