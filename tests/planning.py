"""Streams that are only planned: three small stages, and what the planner makes of them."""

from __future__ import annotations

import pytest

from clray.errors import SpecError
from clray.planner import make_plan
from clray.spec import loading
from texts import texts, write_lines


def three_stages(model, folder, more="", tasks=""):
    """A stream of stages x, y and z of plain text, with a perplexity task for each letter of `tasks`, on the text of
    that name. `more` are further lines of the spec."""
    for seed, name in enumerate(dict.fromkeys(f"xyz{tasks}")):
        write_lines(folder / f"{name}.jsonl", [{"text": t} for t in texts(5, seed=seed)])
    stages = "\n".join(f"  - {{name: {n}, kind: pretrain, data: {folder}/{n}.jsonl}}" for n in "xyz")
    measured = "\n".join(f"  - {{name: {n}, scorer: perplexity, data: {folder}/{n}.jsonl}}" for n in tasks)
    return loading.loads(f"""
name: planned
model: {{base: {model}}}
storage: {folder}/store
sequence_length: 64
{more}
stages:
{stages}
{f"tasks:{chr(10)}{measured}" if tasks else ""}
""")


def plan_of(stream, *overrides):
    """The plan of the stream with the overrides."""
    return make_plan(loading.loads(loading.to_yaml(stream), overrides))


def complaint(stream, *overrides):
    """What the planner says against the stream with the overrides."""
    with pytest.raises(SpecError) as found:
        plan_of(stream, *overrides)
    return str(found.value)
