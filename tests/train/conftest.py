"""A prepared stage on a tiny model, and a process group of one, so that the loop runs without Ray.

`CLRAY_TEST_DEVICE=cuda DS_ACCELERATOR=cuda pytest tests/train` trains on a GPU what is compared with the CPU otherwise.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from clray import recording
from clray.lineage.store import Store
from clray.planner import make_plan
from clray.preparation import order_of, prepare_stage
from clray.spec import loading
from clray.train.context import Context
from clray.train.loop import train_stage
from texts import texts, write_lines


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """A process group of one rank: gloo, or NCCL on a GPU."""
    device = torch.device(os.environ.get("CLRAY_TEST_DEVICE", "cpu"))
    if not torch.distributed.is_initialized():
        store = f"file://{tmp_path_factory.mktemp('group')}/store"
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", init_method=store, rank=0, world_size=1
        )
    return Context(rank=0, world=1, device=device, report=lambda progress: None)


@pytest.fixture(scope="session")
def stream(tiny_model, tmp_path_factory, ray_cluster):
    """A stream of a pretrain and an instruct stage over generated text, its store still empty."""
    folder = tmp_path_factory.mktemp("stream")
    found = texts(60, most=60)
    write_lines(folder / "text.jsonl", [{"text": t} for t in found])
    rows = [{"instruction": "first word", "input": t, "output": t.split()[0]} for t in found]
    write_lines(folder / "rows.jsonl", rows)
    return loading.loads(f"""
name: tiny
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
format: {{overlong: truncate}}
batch: {{size: 8}}
optimiser: {{learning_rate: 1e-3, clip: 1.0, weight_decay: 0.1}}
stages:
  - {{name: text, kind: pretrain, data: {folder}/text.jsonl, length: {{steps: 6}}}}
  - {{name: rows, kind: instruct, data: {folder}/rows.jsonl, length: {{epochs: 1}}}}
""")


@pytest.fixture(scope="session")
def train(stream, alone):
    """Trains one stage of the stream's first generation, with overrides; returns order and result."""

    def run(number=0, overrides=(), context=alone):
        changed = loading.loads(loading.to_yaml(stream), overrides)
        plan = make_plan(changed)
        planned = plan.lines[0].stages[number]
        prepared = prepare_stage(planned, plan.store, plan.lines[0])
        order = replace(order_of(prepared, plan.lines[0], plan.store), parent=plan.lines[0].base.generation.key)
        return order, train_stage(order, context), Store(plan.store.root)

    return run


@pytest.fixture(scope="session")
def train_line(stream, alone):
    """Trains the stages of the stream that are not in `storage` yet, with overrides, up to stage number `last`; returns
    the plan, and the results of what was trained."""

    def run(storage, overrides=(), last=1, context=alone):
        plan = make_plan(loading.loads(loading.to_yaml(stream), [f"storage={storage}", *overrides]))
        line, results = plan.lines[0], []
        for planned in line.stages[: last + 1]:
            if plan.store.generation(planned.key) is None:
                prepared = prepare_stage(planned, plan.store, line)
                results.append(train_stage(order_of(prepared, line, plan.store), context))
                plan.store.commit(recording.generation(line, planned, prepared, results[-1]))
        return plan, results

    return run
