"""Resolves a stage: its own values, else the stream's, else its parent generation's, else the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from clray.spec.adapter import LoraAdapter
from clray.spec.method import Batch, Method, Optimiser
from clray.spec.regulariser import NoRegulariser
from clray.spec.replay import NoReplay
from clray.spec.schedule import Schedule
from clray.spec.stream import Stage, Stream

Origin = tuple[Any, str]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything of a stage that changes the result, and where each value came from.

    `resolved` goes into the generation's key. `inheritance` maps each hyper-parameter to its value and
    "stage", "stream", "inherited" (from the parent generation), "default", or "gate" (raised by it).
    """

    resolved: dict[str, Any]
    inheritance: dict[str, Origin]

    @property
    def replays(self) -> bool:
        """Whether earlier examples may be shown again."""
        return bool(self.resolved["replay"]["kind"] != "none")

    @property
    def carries(self) -> bool:
        """Whether it goes on with the optimiser's state of its parent generation."""
        return bool(self.resolved["optimiser"].get("state") == "carry")

    @property
    def keeps(self) -> bool:
        """Whether it leaves the optimiser's state to whatever may follow: it was said to carry, even as the first."""
        return bool(self.inheritance.get("optimiser.state", ("reset", ""))[0] == "carry")


def resolve(stream: Stream, stage: Stage, parent: dict[str, Any], first: bool = False) -> Recipe:
    """The recipe of `stage` on top of a parent whose resolved stage is `parent` (empty for generation 0).

    A `first` stage has no past that it could replay, so its replay counts as none, as does a regulariser of what is
    replayed (der) or, without a parent, of what was taught (ewc). Streams that differ only in them share it.
    """
    origins: dict[str, Origin] = {}
    optimiser = {
        name: _pick(f"optimiser.{name}", stage.optimiser, stream.optimiser, parent.get("optimiser", {}), name, origins)
        for name in Optimiser.model_fields
    }
    before = {**parent, **({"schedule": _continued(parent["schedule"], None)} if parent else {})}
    method = {name: _pick(name, stage.method, stream.method, before, name, origins) for name in Method.model_fields}
    if first:
        method["replay"] = NoReplay().model_dump(mode="json")
    if {"der": first, "ewc": not parent}.get(method["regulariser"]["kind"]):
        method["regulariser"] = NoRegulariser().model_dump(mode="json")
    method["schedule"] = _continued(method["schedule"], parent.get("schedule"))
    length = _pick("sequence_length", stage, stream, parent, "sequence_length", origins)
    merge = stage.merge if "merge" in stage.model_fields_set else stream.merge
    return Recipe(
        resolved={
            "kind": stage.kind,
            "length": stage.length.model_dump(exclude_none=True),
            "sequence_length": length,
            "batch": _batch(stage, stream, parent, length, origins),
            "optimiser": _optimiser(optimiser, carry=bool(parent)),
            "precision": stream.compute.precision,
            **method,
            **({"evolve": stage.evolve.settings} if stage.evolve else {}),
            **({"align": _pick("align", stage, stream, parent, "align", origins)} if stage.kind == "align" else {}),
            **({"merge": merge.settings} if merge else {}),
        },
        inheritance=origins,
    )


def alone(recipe: Recipe) -> Recipe:
    """The recipe of the same stage on top of the base model, without a past: nothing replayed, held or gone on with."""
    resolved = {name: value for name, value in recipe.resolved.items() if name != "merge"}
    changes = {
        "replay": NoReplay().model_dump(mode="json"),
        "regulariser": NoRegulariser().model_dump(mode="json"),
        "schedule": _continued(resolved["schedule"], None),
        "optimiser": _optimiser(resolved["optimiser"], carry=False),
    }
    return Recipe(resolved={**resolved, **changes}, inheritance=recipe.inheritance)


def generator_recipe(recipe: Recipe) -> Recipe | None:
    """The recipe of the generator that writes the stage's pseudo-samples (SAPT); None where it wants none."""
    wanted = recipe.resolved["adapter"].get("reflection", {}).get("generator")
    if wanted is None:
        return None
    adapter = LoraAdapter(**{name: wanted[name] for name in ("rank", "alpha", "dropout", "targets")})
    method = Method(adapter=adapter, schedule=Schedule(kind="constant", warmup=0.0))
    resolved = {
        "kind": "generator",
        "length": wanted["length"],
        "sequence_length": recipe.resolved["sequence_length"],
        "batch": wanted["batch"],
        "optimiser": _optimiser(Optimiser(learning_rate=wanted["learning_rate"]).model_dump(mode="json"), carry=False),
        "precision": recipe.resolved["precision"],
        **method.model_dump(mode="json", exclude_none=True),
    }
    return Recipe(resolved=resolved, inheritance={})


def _optimiser(settings: dict[str, Any], carry: bool) -> dict[str, Any]:
    """The optimiser's settings; `state` stands in them only where there is one to `carry`, and it is wanted."""
    carried = carry and settings.get("state") == "carry"
    return {name: value for name, value in settings.items() if name != "state" or carried}


def _continued(schedule: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """The schedule as a stage uses it whose parent's was `before`: an infinite one that was not annealed is gone on
    with, and `begins` at its constant rate."""
    plain = {name: value for name, value in schedule.items() if name != "begins"}
    held = before is not None and before["kind"] == "infinite" and not before["anneal"]
    return {**plain, "begins": "constant"} if held and plain["kind"] == "infinite" else plain


def _batch(stage: Stage, stream: Stream, parent: dict[str, Any], length: int, origins: dict[str, Origin]) -> int:
    """The global batch in sequences."""
    for level, name in ((stage, "stage"), (stream, "stream")):
        if "batch" in level.model_fields_set:
            value, origin = level.batch.sequences(length), name
            break
    else:
        default = Batch().sequences(length)
        value = parent.get("batch", default)
        origin = "default" if value == default else "inherited"
    origins["batch"] = (value, origin)
    return value


def _pick(
    label: str, stage: BaseModel, stream: BaseModel, parent: dict[str, Any], name: str, origins: dict[str, Origin]
) -> Any:
    default = _plain(type(stage).model_fields[name].default)
    if name in stage.model_fields_set:
        value, origin = _plain(getattr(stage, name)), "stage"
    elif name in stream.model_fields_set:
        value, origin = _plain(getattr(stream, name)), "stream"
    elif parent.get(name, default) != default:
        value, origin = parent[name], "inherited"
    else:
        value, origin = default, "default"
    origins[label] = (value, origin)
    return value


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_none=True) if isinstance(value, BaseModel) else value


def describe(recipe: Recipe, parent: dict[str, Any]) -> list[str]:
    """One line a hyper-parameter that is inherited from the parent generation or overrides it."""
    before = {f"optimiser.{name}": value for name, value in parent.get("optimiser", {}).items()} | parent
    if "schedule" in before:
        before["schedule"] = _continued(before["schedule"], None)
    lines = []
    for name, (value, origin) in recipe.inheritance.items():
        if origin == "inherited":
            lines.append(f"inherited {name} = {_short(value)}")
        elif name in before and before[name] != value:
            lines.append(f"overrides {name}: {_short(before[name])} -> {_short(value)} ({origin})")
    if recipe.resolved["schedule"].get("begins") == "constant":
        lines.append("schedule infinite goes on at its constant rate: no warm-up")
    if recipe.carries:
        lines.append("AdamW goes on with the moments and the count of steps of the parent generation")
    return lines


def _short(value: Any) -> str:
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
