"""What a stage takes over from its parent beside the weights, checked while planning: rate, moments, layers."""

from __future__ import annotations

import json
from typing import Any

from clray import cost
from clray.errors import ModelError, SpecError
from clray.lineage.store import Store
from clray.models.base import Base
from clray.models.stack_kinds import is_stack
from clray.models.structure import check_layers
from clray.spec.recipe import Recipe
from clray.spec.stream import Stage


def check_architecture(stage: Stage, recipe: Recipe, base: Base, trust_remote_code: bool, store: Store) -> None:
    """Raises SpecError where the stage has to tell the base model's transformer layers apart, or adds to them, and the
    architecture is not one of those where that can be done."""
    adapter = recipe.resolved["adapter"]
    expanding = adapter["kind"] == "expansion"
    if not (expanding or (adapter.get("freeze") or {}).get("layers")):
        return
    try:
        check_layers(store.weights(base.generation.key), trust_remote_code, expanding)
    except ModelError as error:
        raise SpecError(f"stage '{stage.name}': {error}") from None


def check_schedule(stage: Stage, recipe: Recipe, alone: bool = False) -> None:
    """Raises SpecError where the phases of an infinite schedule do not fit into a stage that has all of them: the first
    one that uses it, and each that is trained `alone`."""
    schedule = recipe.resolved["schedule"]
    if schedule["kind"] != "infinite" or schedule.get("begins") == "constant":
        return
    phases = {name: schedule[name] for name in ("warmup", "cooldown", "anneal")}
    if sum(phases.values()) > 1 + 1e-9:
        where, mend = (", trained alone as an expert", ", or leave experts out") if alone else ("", "")
        raise SpecError(
            f"stage '{stage.name}'{where}: schedule infinite: {' + '.join(f'{n} {v:g}' for n, v in phases.items())} "
            f"are {sum(phases.values()):g} of the stage's steps, more than all of them; lower one{mend}"
        )


def check_carried(stage: Stage, recipe: Recipe, parent_stage: dict[str, Any]) -> None:
    """Raises SpecError where the optimiser's state is to be carried and the parent cannot have it."""
    if not recipe.keeps:
        return
    adapter, before = recipe.resolved["adapter"], parent_stage.get("adapter")
    if before is None and recipe.inheritance["optimiser.state"][1] == "stage":
        why = "it starts from the base model, which has no optimiser state; say it for the stream, or for a later stage"
    elif is_stack(adapter):
        why = (
            f"adapter {adapter['kind']} trains a new block in each stage, which no optimiser has seen before; say reset"
        )
    elif before is not None and before != adapter:
        why = (
            f"its parent trained adapter {json.dumps(before)} and it trains {json.dumps(adapter)}, which are other "
            "weights; give both the same adapter, or this stage optimiser.state reset"
        )
    else:
        return
    raise SpecError(f"stage '{stage.name}': optimiser.state carry: {why}")


def grown(stage: Stage, recipe: Recipe, parent_stage: dict[str, Any], shape: dict[str, int]) -> dict[str, int]:
    """The shape of the model that the stage trains on top of a parent of `shape`, which an expansion adds layers to.

    Raises SpecError where more layers are to be frozen, or to be added to, than there are.
    """
    adapter, there = recipe.resolved["adapter"], shape["layers"]
    frozen = (adapter.get("freeze") or {}).get("layers", 0)
    if frozen > there:
        raise SpecError(
            f"stage '{stage.name}': adapter.freeze.layers {frozen} is more than the {there} layers of the model; give "
            f"at most {there}"
        )
    if adapter["kind"] != "expansion" or adapter == parent_stage.get("adapter"):
        return shape
    new, every = adapter["layers"], adapter.get("every", 1)
    if new * every > there:
        raise SpecError(
            f"stage '{stage.name}': adapter expansion of {new} layers, one on every {every}, takes {new * every} "
            f"layers to stand on, and the model has {there}; give at most {there // every}"
            + (" or a smaller 'every'" if every > 1 else "")
        )
    return cost.grown(shape, new)
