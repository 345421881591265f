"""Plausible outcomes for the report's tests: invented numbers in the shape that a run leaves behind."""

from __future__ import annotations

import hashlib
import math
import random
from typing import Any

Outcome = dict[str, Any]


def make_outcome(
    tasks: dict[str, str] | None = None, controls: tuple[str, ...] = ("no-replay",), probe: str | None = None
) -> Outcome:
    """An outcome whose stream teaches `tasks` (name -> metric) one a stage; `controls` forget more."""
    tasks = tasks or {
        "wiki-2024": "bits_per_byte",
        "dbpedia": "accuracy",
        "agnews": "accuracy",
        "code-docs": "bits_per_byte",
    }
    lines = [
        _line(name, tasks, probe, keep=0.94 if n == 0 else 0.62 / n) for n, name in enumerate(("stream", *controls))
    ]
    _share_prefix(lines)
    return {
        "stream": {
            "name": "newsroom",
            "seed": 7,
            "description": "A small Llama follows a newsroom for a year: fresh encyclopaedia text first, "
            "then two classification desks, then the documentation of its own code.",
            "spec_yaml": "name: newsroom\nseed: 7\nstages:\n"
            + "".join(f"  - name: {task}\n    kind: instruct\n    data: data/{task}/*.jsonl\n" for task in tasks),
        },
        "created": "2026-03-14T09:26:53+00:00",
        "seconds": 754.2,
        "environment": {"python": "3.11.9", "device": "cpu", "packages": {"torch": "2.8.0", "ray": "2.56.0"}},
        "lines": lines,
    }


def _share_prefix(lines: list[Outcome]) -> None:
    """Replay changes nothing before the second stage, so controls share generations 0 and 1."""
    for line in lines[1:]:
        shared = lines[0]["generations"][:2]
        line["generations"][:2] = [{**g, "built": False} for g in shared]
        line["matrix"]["generations"][:2] = [g["key"] for g in shared]
        line["matrix"]["R"][:2] = lines[0]["matrix"]["R"][:2]
        if len(line["generations"]) > 2:
            line["generations"][2]["parent"] = shared[-1]["key"]


def _line(name: str, tasks: dict[str, str], probe: str | None, keep: float) -> Outcome:
    rng = random.Random(f"{name}-{keep}")
    stages = ["base", *tasks]
    measured = {**tasks, **({probe: "accuracy"} if probe else {})}
    learned = {task: (stages.index(task) if task in tasks else None) for task in measured}
    scores = [
        [_score(rng, metric, learned[t], row, keep) for t, metric in measured.items()] for row in range(len(stages))
    ]
    generations = [_generation(rng, name, index, stages, keep) for index in range(len(stages))]
    matrix = {
        "tasks": list(measured),
        "metrics": measured,
        "learned_at": learned,
        "stages": stages,
        "generations": [g["key"] for g in generations],
        "R": scores,
    }
    return {"name": name, "matrix": matrix, "metrics": _metrics(matrix), "generations": generations}


def _score(rng: random.Random, metric: str, taught: int | None, row: int, keep: float) -> float:
    low, high = (3.4, 1.3) if metric == "bits_per_byte" else (0.08, 0.86)
    if taught is None:
        share = 0.3 * keep ** (0.4 * row)
    else:
        share = 0.04 * row if row < taught else keep ** (row - taught)
    return round(low + (high - low) * share + rng.uniform(-0.02, 0.02), 4)


def _metrics(matrix: Outcome) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for metric in dict.fromkeys(matrix["metrics"].values()):
        columns = [(n, matrix["learned_at"][t]) for n, t in enumerate(matrix["tasks"])
                   if matrix["metrics"][t] == metric and matrix["learned_at"][t] is not None]  # fmt: skip
        if not columns:
            continue
        last, sign = matrix["R"][-1], -1 if metric == "bits_per_byte" else 1
        moves = [sign * (last[n] - matrix["R"][at][n]) for n, at in columns]
        found[metric] = {
            "average_performance": sum(last[n] for n, _ in columns) / len(columns),
            "forgetting_max": sum(max(0.0, -m) for m in moves) / len(moves),
            "bwt": sum(moves) / len(moves),
            "plasticity": sum(matrix["R"][at][n] for n, at in columns) / len(columns),
            "forward_transfer": 0.012,
        }
    return found


def _generation(rng: random.Random, line: str, index: int, stages: list[str], keep: float) -> Outcome:
    def key(n: int) -> str:
        return hashlib.sha256(f"{line}-{n}-{stages[n]}".encode()).hexdigest()[:32]

    name = stages[index]
    record = {
        "key": key(index), "parent": key(index - 1) if index else None, "index": index, "stage_name": name,
        "base": key(index), "adapter": None, "stage": {"kind": "pretrain" if index % 3 == 1 else "instruct"},
        "inheritance": {}, "data": {}, "receipt": {}, "training": {}, "environment": {}, "files": {},
        "created": "2026-03-14T09:26:53+00:00", "curve": [], "version": str(index + 1), "built": True,
    }  # fmt: skip
    if not index:
        return {**record, "stage": {}}
    steps, start = 300, 4.2 - 0.1 * index
    curve = [
        {"step": n, "loss": 1.4 + (start - 1.4) * math.exp(-n / 60) + rng.gauss(0, 0.09), "tokens": n * 4096,
         "learning_rate": 3e-4, "tokens_per_second": 18_400.0}
        for n in range(1, steps + 1)
    ]  # fmt: skip
    replayed = [
        {"stage": s, "rows": 120, "tokens": 90_000 + 30_000 * n, "targets": 9_000}
        for n, s in enumerate(stages[1:index])
    ]
    own = {"stage": name, "rows": 4_000, "tokens": 1_000_000 + 70_000 * index, "targets": 310_000}
    first, last = curve[0]["loss"], curve[-1]["loss"]
    return {
        **record,
        "curve": curve,
        "data": {"digest": key(index)[::-1], "origins": [own, *(replayed if keep > 0.9 else [])]},
        "inheritance": {
            "optimiser.learning_rate": [3e-4 / index, "stage" if index > 1 else "stream"],
            "optimiser.weight_decay": [0.0, "default"],
            "adapter": [{"kind": "lora", "rank": 8, "alpha": 16.0}, "stream" if index == 1 else "inherited"],
            "replay": [{"kind": "balanced", "share": 0.1, "rows_per_past_task": None}, "stream"],
            "batch": [16, "inherited" if index > 1 else "default"],
        },
        "training": {"steps": steps, "tokens": steps * 4096, "seconds": 66.8, "tokens_per_second": 18_400.0,
                     "flops": 3.1e15, "first_loss": first, "last_loss": last},
    }  # fmt: skip
