"""What measuring a stream of many domains costs: cells of dense and sparse matrices, and their time in a small run.

    python benchmarks/evaluation_cost.py DATA/corpora DATA/models/stories260K [--domains 12 40 159] [--run 8]

Cells are those of `clray plan`, counted by the planner. Dense measures every domain on every generation: N (N + 1).
Sparse (`evaluation: {every: k, window: w}`) measures all of them on the base model, on every k-th generation and on
the last, and between those the last w domains: about N * N / k + N * w. The small run trains next to nothing, twice,
each time in a storage of its own, and times the measuring alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from m2d2_plan import write

from clray import conductor
from clray.planner import make_plan
from clray.spec import loading
from clray.spec.stream import Stream

CPU = ("compute={micro_batch: 8}", "sequence_length=256", "batch={size: 8}", "order=given")
DENSE = {"every": 1, "window": 1}
SPARSE = {"every": 10, "window": 5}
SPARSE_RUN = {"every": 4, "window": 2}


class Silent:
    """A watcher that says nothing."""

    def say(self, *_: object) -> None:
        """Nothing."""

    training = measuring = say


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("model", type=Path, help="folder of the base model")
    parser.add_argument("--domains", type=int, nargs="*", default=[12, 40, 159])
    parser.add_argument("--run", type=int, default=8, help="domains of the small run; 0: none")
    parser.add_argument("--paragraphs", type=int, default=300, help="paragraphs of 400 characters in each test set")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("| domains | cells, dense | cells, sparse (every 10, window 5) | sparse / dense |\n|---|---|---|---|")
        for count in asked.domains:
            dense, sparse = (cells(asked, Path(folder), count, how) for how in (DENSE, SPARSE))
            print(f"| {count} | {dense:,} | {sparse:,} | {sparse / dense:.2f} |", flush=True)
        if asked.run:
            print("\n| measuring | cells | seconds | seconds a cell |\n|---|---|---|---|")
            for name, how in (("dense", DENSE), ("sparse (every 4, window 2)", SPARSE_RUN)):
                number, seconds = measured(asked, Path(folder), name, how)
                print(f"| {name} | {number} | {seconds:.1f} | {seconds / number:.2f} |", flush=True)


def stream_of(asked: Any, folder: Path, domains: int, how: dict[str, int], storage: Path) -> Stream:
    """A stream of so many domains of some hundred tokens, measured so."""
    file = write(asked.corpora, folder / f"text-{domains}", domains, 500.0 * domains, test_paragraphs=asked.paragraphs)
    text = file.read_text(encoding="utf-8").replace("data: domain", f"data: {file.parent}/domain")
    evaluation = f"evaluation={{every: {how['every']}, window: {how['window']}, batch_tokens: 8192}}"
    return loading.loads(text, [*CPU, f"model={{base: {asked.model.absolute()}}}", evaluation, f"storage={storage}"])


def cells(asked: Any, folder: Path, domains: int, how: dict[str, int]) -> int:
    """The cells that the plan of such a stream has."""
    return len(make_plan(stream_of(asked, folder, domains, how, folder / "store")).cells)


def measured(asked: Any, folder: Path, name: str, how: dict[str, int]) -> tuple[int, float]:
    """Cells, and the seconds that measuring them took in a run, without the base model's, which start the actors."""
    stream = stream_of(asked, folder, asked.run, how, folder / f"store-{name[:6]}")
    number, seconds, plain = 0, 0.0, conductor.measure

    def timed(plan: Any, line: Any, index: int, session: Any, watch: Any) -> None:
        nonlocal number, seconds
        started = time.monotonic()
        plain(plan, line, index, session, watch)
        if index:
            number, seconds = number + len(plan.tasks_of(line, index)), seconds + time.monotonic() - started

    conductor.measure = timed
    try:
        conductor.run(stream, Silent())
    finally:
        conductor.measure = plain
    return number, seconds


if __name__ == "__main__":
    main()
