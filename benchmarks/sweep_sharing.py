"""A sweep with shared generations beside the same sweep without: wall time and number of stage trainings.

    cd "$DATA" && python PATH/TO/benchmarks/sweep_sharing.py PATH/TO/jobs/sweep_replay_rank.yaml --out FOLDER

Both run one trial at a time (`--at-once` for more with sharing), each in a storage of its own below FOLDER, on the same
actor, training group and scoring actors from trial to trial. Without sharing, what a trial has trained and measured is
deleted when it has ended; prepared data stay in both. Values of all trials must be the same. FOLDER/sharing.json keeps
the numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clray.console_sweep import SweepTable
from clray.lineage.store import Store
from clray.search.driver import run
from clray.search.journal import Entry
from clray.search.result import SweepResult
from clray.spec import sweep_loading


class Counting(SweepTable):
    """A watcher that counts what is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.built = 0

    def reported(self, entry: Entry) -> None:
        """Counts what the stage took."""
        self.built += entry.last["built"] if entry.reports else 0
        super().reported(entry)


class Forgetting(Counting):
    """A watcher that deletes what a trial has made when it has ended."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def reported(self, entry: Entry) -> None:
        """Deletes generations and scores of an ended trial."""
        super().reported(entry)
        for key in entry.last["keys"] if entry.ended and entry.reports else ():
            for folder in ("generations", "scores", "outputs"):
                self._store.delete(f"{folder}/{key}")


def main() -> None:
    """Runs both, or goes on with them, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at-once", type=int, default=1, help="trials at one time, with sharing")
    asked = parser.parse_args()
    found = {}
    for name, at_once in (("with sharing", asked.at_once), ("without", 1)):
        storage = asked.out.absolute() / name.replace(" ", "-")
        sweep = sweep_loading.load(asked.sweep, [*asked.overrides, f"stream.storage={storage}", f"at_once={at_once}"])
        with Forgetting(Store(str(storage))) if name == "without" else Counting() as watch:
            started = time.monotonic()
            result = run(sweep, watch)
        found[name] = {"seconds": round(time.monotonic() - started, 1), "trainings": watch.built, **summary(result)}
    same = found["with sharing"]["values"] == found["without"]["values"]
    asked.out.joinpath("sharing.json").write_text(json.dumps({"same_values": same, **found}, indent=1))
    show(found, same)


def summary(result: SweepResult) -> dict[str, Any]:
    """Trials, stages and the values of all trials by number, without what a clock decides."""
    timed = [number for number, one in enumerate(result.plan.sweep.objectives) if "seconds" in one.text]
    values = {
        str(entry.number): [value for n, value in enumerate(score.values) if n not in timed]
        for entry, score in zip(result.entries, result.scores, strict=True)
        if score is not None
    }
    stages = sum(entry.stage for entry in result.entries)
    return {"trials": len(result.entries), "stages": stages, "values": dict(sorted(values.items()))}


def show(found: dict[str, dict[str, Any]], same: bool) -> None:
    """Prints a Markdown table."""
    heads: Sequence[str] = ("", "trials", "stages reported", "stage trainings", "wall time, s")
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for name, row in found.items():
        print(f"| {name} | {row['trials']} | {row['stages']} | {row['trainings']} | {row['seconds']:,.0f} |")
    print(f"\nvalues of all trials are {'the same' if same else 'NOT the same'} in both")


if __name__ == "__main__":
    main()
