"""What MLflow is told, as plain values: names, parameters, metrics, data sets and words. Pure functions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clray.lineage.generation import Generation
from clray.lineage.mlflow_store import redact

MAX_VALUE = 6000
MAX_NAME = 250
COUNTS = frozenset({"n", "tokens", "bytes"})
"""What a task counts beside its scores: nothing that a chart over generations should show."""
CURVE = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "tokens_per_second": "train/tokens_per_second",
    "reward_margin": "train/reward_margin",
    "reward_accuracy": "train/reward_accuracy",
    "chosen_log_prob": "train/chosen_log_prob",
    "rejected_log_prob": "train/rejected_log_prob",
}
SUMMARY = (
    "tokens", "targets", "steps", "seconds", "flops", "tokens_per_second", "first_loss", "last_loss",
    "peak_host_bytes", "peak_device_bytes", "cpu_joules", "gpu_joules",
)  # fmt: skip

Point = tuple[str, float, int]
"""A metric's name, value and step."""


@dataclass(frozen=True)
class Data:
    """A data set that a generation was trained on; `context` is "training" or "replay"."""

    name: str
    digest: str
    context: str
    source: dict[str, Any]
    profile: dict[str, Any]


def params(value: Any, path: str = "") -> dict[str, str]:
    """Nested values as dotted names -> text within MLflow's limits; what is unset or empty is left out."""
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in params(inner, _join(path, str(name))).items()}
    if isinstance(value, list | tuple) and any(isinstance(item, dict | list | tuple) for item in value):
        return {k: v for n, inner in enumerate(value) for k, v in params(inner, _join(path, str(n))).items()}
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
    return {path: redact(text)[:MAX_VALUE]} if text else {}


def stream_params(resolved: dict[str, Any]) -> dict[str, str]:
    """Parameters of a stream: its own settings, and the names of stages, tasks and controls (their settings
    stand with each generation and in spec.yaml)."""
    names = {what: list(_names(resolved.get(what))) for what in ("stages", "tasks", "controls")}
    return params(
        {name: value for name, value in resolved.items() if name not in {*names, "name", "description"}} | names
    )


def stream_words(resolved: dict[str, Any]) -> str:
    """Description of a stream: its own, else the names of its stages, tasks and controls."""
    names = {what: ", ".join(_names(resolved.get(what))) for what in ("stages", "tasks", "controls")}
    return str(resolved.get("description") or " ".join(f"{w.capitalize()}: {n}." for w, n in names.items() if n))


def curve_points(curve: list[dict[str, float]]) -> list[Point]:
    """The training curve as metrics; step = optimiser step."""
    return [
        (name, float(point[field]), int(point["step"]))
        for point in curve
        for field, name in CURVE.items()
        if point.get(field) is not None
    ]


def summary_points(training: dict[str, Any]) -> list[Point]:
    """What the training came to, as metrics."""
    return [(name, float(training[name]), 0) for name in SUMMARY if training.get(name) is not None]


def score_points(row: dict[str, dict[str, Any]], continual: dict[str, dict[str, float]], index: int) -> list[Point]:
    """A row of the score matrix and the continual metrics up to it, as metrics; step = index of the generation."""
    scores = {
        f"score/{task}/{name}": value
        for task, values in row.items()
        for name, value in values.items()
        if name not in COUNTS
    }
    metrics = {
        f"continual/{unit}/{name}": value for unit, values in continual.items() for name, value in values.items()
    }
    return [
        (name, float(value), index)
        for name, value in (scores | metrics).items()
        if value is not None and math.isfinite(value)
    ]


def datasets(generation: Generation) -> list[Data]:
    """The mixture of a generation, its own records and the records of each earlier stage that was shown again."""
    data = generation.data
    if not data.get("digest"):
        return []
    found = [
        Data(
            f"{generation.stage_name} mixture",
            data["digest"],
            "training",
            {"path": f"mixtures/{data['digest']}"},
            {name: data[name] for name in ("rows", "tokens", "targets") if name in data},
        )
    ]
    origins, records = data.get("origins", []), data.get("records", [])
    for number, (origin, digest) in enumerate(zip(origins, records, strict=False)):
        if origin.get("rows"):
            source = {"path": f"records/{digest}"} | ({} if number else {"sources": data.get("sources", [])})
            found.append(
                Data(
                    origin["stage"],
                    digest,
                    "replay" if number else "training",
                    source,
                    {name: value for name, value in origin.items() if name != "stage"},
                )
            )
    return found


def run_name(generation: Generation) -> str:
    """Name of a generation's run: index, stage, and the first digits of the key."""
    return f"{generation.index} {generation.stage_name} {generation.short}"


def model_name(generation: Generation) -> str:
    """Name of a generation's logged model: as its run; MLflow takes no `/ : . % " '` in it."""
    return re.sub(r"[^\w-]", "-", run_name(generation))


def tags(generation: Generation, weights_uri: str, parent_version: str | None) -> dict[str, str]:
    """What a generation is found by, on its run, logged model and registered version alike."""
    found = {
        "clray.stage": generation.stage_name,
        "clray.index": generation.index,
        "clray.parent_version": parent_version,
        "clray.key": generation.key,
        "clray.parent": generation.parent,
        "clray.data_digest": generation.data.get("digest"),
        "clray.weights_uri": redact(weights_uri),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def words(generation: Generation, weights_uri: str, parent_version: str | None) -> str:
    """Description of a generation, in Markdown."""
    weights = f"Weights: `{redact(weights_uri)}`"
    if generation.parent is None:
        return f"Generation 0: the base model.\n\n{weights}"
    kind = f" ({generation.stage['kind']})" if generation.stage.get("kind") else ""
    parent = f"version {parent_version}" if parent_version else f"`{generation.parent[:10]}`"
    made = f"{generation.stage_name}{kind}: generation {generation.index}, on top of {parent}"
    training = generation.training
    if training.get("tokens"):
        made += (
            f", {training['tokens']:,} tokens in {training.get('seconds', 0):,.0f} s "
            f"({training.get('tokens_per_second', 0):,.0f} tokens/s)"
        )
    shown = ", ".join(f"{o['rows']:,} of {o['stage']}" for o in generation.data.get("origins", []) if o.get("rows"))
    return "\n\n".join(part for part in (f"{made}.", shown and f"Examples shown: {shown}.", weights) if part)


def judged_name(tags: dict[str, str], accepted: bool) -> str:
    """Name of the run of a generation with those tags that a gate judged: as before, or marked as rejected."""
    mark = "" if accepted else " (rejected)"
    return f"{tags['clray.index']} {tags['clray.stage']}{mark} {tags['clray.key'][:10]}"


def judged_words(words: str, why: str, accepted: bool) -> str:
    """The description with the gate's sentence in place of an earlier one: first where it rejects, else last."""
    starts = ("Rejected by its gate: ", "Accepted by its gate: ")
    rest = [part for part in words.split("\n\n") if part and not part.startswith(starts)]
    said = f"{starts[accepted]}{why}."
    return "\n\n".join([*rest, said] if accepted else [said, *rest])


def milliseconds(created: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 time."""
    return int(datetime.fromisoformat(created).timestamp() * 1000)


def _names(value: Any) -> Iterator[str]:
    for item in value or ():
        yield item["name"] if isinstance(item, dict) else str(item)


def _join(path: str, name: str) -> str:
    name = re.sub(r"[^\w\-.: ]", "_", name)
    return (f"{path}.{name}" if path else name)[:MAX_NAME]
