"""How much memory a stage takes while its corpus grows: records, mixture and a few training steps, process by process.

    python benchmarks/memory.py DATA/corpora DATA/models/TinyStories-656K --megabytes 20 60 200 --formats jsonl parquet

For each size and format a corpus is resampled from the text of the folder (parts of two documents make one, so that
none stands twice), and two stages are prepared and trained for a few steps: the corpus, and a small domain that replays
a quarter of its tokens from it. Five times a second the memory of the driver and of every process of its Ray is added
up: the proportional share (PSS), so that what they share, the object store above all, counts once. File pages, which
the kernel takes back when it wants them, stand apart.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

MIB = 2**20
PHASES = ("records", "mixture", "training")
EVERY_SECONDS = 0.2
STEPS = 4


def main() -> None:
    """Prints a row for each format and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "corpora", type=Path, help="folder of folders with train.jsonl; or, as a child, the stream file"
    )
    parser.add_argument("model", type=Path, help="folder of the base model")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[20, 60, 200])
    parser.add_argument("--formats", nargs="+", default=["jsonl", "parquet"], choices=["jsonl", "parquet"])
    parser.add_argument("--folder", help="where corpora and stores are made, and removed; default: a temporary folder")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        work(asked.corpora)
        return
    texts = read_texts(asked.corpora)
    heads = " | ".join(f"{phase}: seconds, MiB" for phase in PHASES)
    print(f"| corpus | tokens | at rest, MiB | {heads} | file pages, MiB |")
    print("|---" * (4 + len(PHASES)) + "|")
    for form in asked.formats:
        for size in asked.megabytes:
            with tempfile.TemporaryDirectory(dir=asked.folder, prefix="clray-memory-") as folder:
                print(row(Path(folder), texts, asked.model.absolute(), size, form), flush=True)


def read_texts(corpora: Path) -> list[str]:
    """The documents of all corpora."""
    files = sorted(corpora.glob("*/train.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [row["text"] for row in rows if row.get("text")]


def documents(texts: list[str], megabytes: int) -> Iterator[str]:
    """Documents of so many megabytes in all, by a fixed seed."""
    rng, written = random.Random(megabytes), 0
    while written < megabytes * 10**6:
        first, second = rng.choice(texts), rng.choice(texts)
        text = first[: rng.randrange(1, len(first))] + " " + second[rng.randrange(len(second)) :]
        if text.strip():
            written += len(text.encode())
            yield text


def write_corpus(path: Path, texts: list[str], megabytes: int) -> None:
    """One file of documents, JSON lines or Parquet by its name."""
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents(texts, megabytes)
            )
        return
    found = list(documents(texts, megabytes))
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for start in range(0, len(found), 10_000):
            writer.write_table(pa.table({"text": found[start : start + 10_000]}))


def row(folder: Path, texts: list[str], model: Path, megabytes: int, form: str) -> str:
    """The row of one corpus, as Markdown."""
    write_corpus(folder / f"grown.{form}", texts, megabytes)
    write_corpus(folder / "small.jsonl", texts, 2)
    stream = folder / "stream.yaml"
    stream.write_text(f"""
name: memory
model: {{base: {model}}}
storage: {folder}/store
batch: {{size: 8}}
method: {{replay: {{kind: random, share: 0.25, of: tokens}}}}
stages:
  - {{name: grown, kind: pretrain, data: {folder}/grown.{form}, length: {{steps: {STEPS}}}}}
  - {{name: small, kind: pretrain, data: {folder}/small.jsonl, length: {{steps: {STEPS}}}}}
""")
    command = [sys.executable, __file__, "--child", str(stream), str(model)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    meter = Meter(child.pid)
    Thread(target=meter.run, daemon=True).start()
    assert child.stdout is not None
    tokens = ""
    for line in child.stdout:
        word, _, value = line.strip().partition(" ")
        tokens = value if word == "tokens" else tokens
        if word == "phase":
            meter.phase = value
    meter.phase = "end"
    if child.wait():
        raise SystemExit(f"the stream of {megabytes} MB ended with {child.returncode}")
    shutil.rmtree(folder / "store")
    cells = [f"{meter.seconds[phase]:.0f} s, {meter.own[phase] / MIB:,.0f}" for phase in PHASES]
    files = max(meter.files.values()) / MIB
    return f"| {megabytes} MB {form} | {tokens} | {meter.own['rest'] / MIB:,.0f} | {' | '.join(cells)} | {files:,.0f} |"


class Meter:
    """Peaks, in each phase, of the memory of a process and of all that it started."""

    def __init__(self, pid: int) -> None:
        self.phase = "start"
        self.own: dict[str, float] = defaultdict(float)
        self.files: dict[str, float] = defaultdict(float)
        self.seconds: dict[str, float] = defaultdict(float)
        self._root = psutil.Process(pid)

    def run(self) -> None:
        """Looks until the phase is `end`."""
        last = time.monotonic()
        while (phase := self.phase) != "end":
            own, files = self._look()
            self.own[phase], self.files[phase] = max(self.own[phase], own), max(self.files[phase], files)
            time.sleep(EVERY_SECONDS)
            now = time.monotonic()
            self.seconds[phase] += now - last
            last = now

    def _look(self) -> tuple[int, int]:
        """Bytes of anonymous and shared memory, and of file pages, by proportional share."""
        own = files = 0
        with suppress(psutil.Error):
            for process in [self._root, *self._root.children(recursive=True)]:
                with suppress(OSError, psutil.Error):
                    fields = dict(
                        line.split(":", 1)
                        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
                    )
                    own += sum(int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem")) * 1024
                    files += int(fields["Pss_File"].split()[0]) * 1024
        return own, files


def work(stream_file: Path) -> None:
    """Prepares and trains the stream, and tells the phase on standard output."""
    from clray import conductor
    from clray.data import records
    from clray.planner import make_plan
    from clray.preparation import prepare_stage
    from clray.ray_session import connect
    from clray.spec import loading

    class Silent:
        """A watcher that says nothing."""

        def say(self, *_: object) -> None:
            """Nothing."""

        training = measuring = say

    stream = loading.load(stream_file)
    plan = make_plan(stream)
    connect(stream)
    records.prepare(plan.lines[0].stages[1].own, plan.store)
    print("phase rest", flush=True)
    time.sleep(5)
    print("phase records", flush=True)
    tokens = records.prepare(plan.lines[0].stages[0].own, plan.store).tokens
    print("phase mixture", flush=True)
    for stage in plan.lines[0].stages:
        prepare_stage(stage, plan.store, plan.lines[0])
    print("phase training", flush=True)
    conductor.run(stream, Silent())
    print(f"tokens {tokens / 1e6:.1f} M", flush=True)


if __name__ == "__main__":
    main()
