"""What the fault tests share: nodes, a stream that checkpoints often, and the table of RELIABILITY.md."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from looking import Look
from nodes import Driver, Nodes
from texts import texts, write_lines

STREAM = """
name: fault
model: {{base: {model}}}
storage: {folder}/store
tracking: sqlite:///{folder}/mlflow.db
sequence_length: 64
batch: {{size: 8}}
compute: {{micro_batch: 1, checkpoint: {{every_steps: 5, keep: 3}}}}
evaluation: {{shard_rows: 8}}
optimiser: {{learning_rate: 1e-3}}
stages:
  - {{name: text, kind: pretrain, data: {folder}/text.jsonl, length: {{steps: {steps}}}}}
tasks:
  - {{name: text, scorer: perplexity, data: {folder}/text.jsonl, limit: 24}}
  - {{name: first, scorer: generate, max_new_tokens: 8, data: {folder}/rows.jsonl, limit: 64}}
"""

HEAD = """# Reliability

Made by `CLRAY_RELIABILITY=RELIABILITY.md pytest -m fault tests/fault` on {day}: {cores} {machine} cores, CPU training
(gloo), a head and two worker nodes as separate `ray start` processes on one machine. Checkpoints every 5 steps of a
120-step stage. Time lost runs from the fault until training is further than before it; starting driver and training
group again is in it (imports alone are 10-15 s on two busy cores).

"""

ROWS: list[tuple[str, ...]] = []


@pytest.fixture(scope="session")
def nodes():
    """A cluster of a head without CPUs and two worker nodes of three CPUs each."""
    cluster = Nodes()
    try:
        cluster.add(3)
        cluster.add(3)
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def write_stream(tiny_model):
    """Writes the stream and its data into a folder; returns the stream's path."""

    def write(folder: Path, steps: int = 120) -> Path:
        found = texts(80, most=60)
        write_lines(folder / "text.jsonl", [{"text": t} for t in found])
        rows = [{"instruction": "x", "input": " ".join(t.split()[:9]), "output": t.split()[0]} for t in found]
        write_lines(folder / "rows.jsonl", rows)
        path = folder / "stream.yaml"
        path.write_text(STREAM.format(model=tiny_model, folder=folder, steps=steps))
        return path

    return write


@pytest.fixture(scope="session")
def reference(nodes, write_stream, tmp_path_factory):
    """The same stream, undisturbed."""
    folder = tmp_path_factory.mktemp("reference")
    Driver(nodes.address, write_stream(folder)).finish()
    return Look(folder)


@pytest.fixture(scope="session", autouse=True)
def reliability():
    """Writes the table to the file named by CLRAY_RELIABILITY when all tests are done."""
    yield lambda *row: ROWS.append(row)
    path = os.environ.get("CLRAY_RELIABILITY")
    if path and ROWS:
        lines = ["| what happened | what came of it | time lost | final weights or losses |", "|---|---|---|---|"]
        lines += ["| " + " | ".join(row) + " |" for row in ROWS]
        head = HEAD.format(day=datetime.date.today(), cores=os.cpu_count(), machine=platform.machine())
        Path(path).write_text(head + "\n".join(lines) + "\n")
