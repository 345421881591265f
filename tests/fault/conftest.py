"""What the fault tests share: nodes, a stream that checkpoints often, and the table of RELIABILITY.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from looking import Look
from nodes import Driver, Nodes
from tables import keep
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
    """Adds a row to the table of faults, which is kept when all tests are done."""
    yield lambda *row: ROWS.append(row)
    keep("faults", ("what happened", "what came of it", "time lost", "final weights or losses"), ROWS)
