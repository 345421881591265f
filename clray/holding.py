"""What is to hold a stage near earlier generations, and what its weights are merged with, checked while planning."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from clray.errors import SpecError
from clray.models.stack_kinds import is_stack
from clray.spec.adapter import COMPLETE
from clray.spec.recipe import Recipe
from clray.spec.regulariser import DISTILLING, PREDICTING
from clray.spec.stream import Stage

Earlier = tuple[Stage, dict[str, Any], dict[str, int]]
"""A stage before on the line, its resolved recipe, and the shape of the model that it trained."""


def check(
    stage: Stage, recipe: Recipe, shape: dict[str, int], earlier: Sequence[Earlier], base_shape: dict[str, int]
) -> None:
    """Raises SpecError where the stage's regulariser finds nothing to hold, or its weights cannot be merged as asked.

    `shape` is that of the model it trains, `base_shape` that of generation 0.
    """
    kind, why = recipe.resolved["regulariser"]["kind"], ""
    if kind in DISTILLING:
        why = _no_predictions(stage, recipe, shape)
    elif kind == "ewc":
        why = _no_fisher(recipe.resolved["adapter"], earlier)
    if why:
        raise SpecError(f"stage '{stage.name}': regulariser {kind} {why}")
    if recipe.resolved.get("merge"):
        layers = [each["layers"] for each in (base_shape, *(shape for _, _, shape in earlier), shape)]
        why = _not_merged(recipe, [resolved["adapter"] for _, resolved, _ in earlier], layers)
    if why:
        raise SpecError(f"stage '{stage.name}': merge: {why}")


def _no_predictions(stage: Stage, recipe: Recipe, shape: dict[str, int]) -> str:
    """Why predictions of an earlier generation cannot hold the stage; empty where they can."""
    regulariser = recipe.resolved["regulariser"]
    if stage.kind not in PREDICTING:
        return (
            f"holds predictions at the targets of text, and a stage of kind {stage.kind} has none; give it "
            "method.regulariser l2 or none"
        )
    if regulariser["top_k"] > shape["vocabulary"]:
        return (
            f"keeps the top_k {regulariser['top_k']} tokens of a prediction, and the model's vocabulary has "
            f"{shape['vocabulary']}; give at most that"
        )
    if regulariser["kind"] == "der" and not recipe.replays:
        return "holds replayed rows, and replay is none; give the stage method.replay (say random), or regulariser lwf"
    return ""


def _no_fisher(adapter: dict[str, Any], earlier: Sequence[Earlier]) -> str:
    """Why the parent has no Fisher of the weights that are trained with this adapter; empty where it has one."""
    before = earlier[-1][1]["adapter"]
    same = itertools.takewhile(lambda each: each[1]["adapter"] == adapter, reversed(earlier))
    if is_stack(adapter):
        return (
            f"holds weights that earlier stages trained, and adapter {adapter['kind']} trains a new block in each, and "
            "freezes those before; give it regulariser none, l2 or lwf"
        )
    if before != adapter:
        return (
            f"holds weights that earlier stages trained: its parent trained adapter {json.dumps(before)} "
            f"and it trains {json.dumps(adapter)}, which are other weights; give both the same adapter, or this stage "
            "regulariser none, l2 or lwf"
        )
    if not any(stage.kind in PREDICTING for stage, _, _ in same):
        return (
            "holds what targets of text taught, and no stage before it that trained these weights has any; give it "
            "regulariser l2"
        )
    return ""


def _not_merged(recipe: Recipe, adapters: Sequence[dict[str, Any]], layers: Sequence[int]) -> str:
    """Why the stage's weights cannot be merged as asked; empty where they can. `adapters` are those of the stages
    before, `layers` the numbers of layers of generation 0 and of what each stage trains, this one's last."""
    merge, adapter = recipe.resolved["merge"], recipe.resolved["adapter"]
    if is_stack(adapter):
        return (
            f"adapter {adapter['kind']} adds a block and leaves the weights before it as they are, so there is nothing "
            "to merge; leave it out for this stage (merge: null)"
        )
    if adapter["kind"] in COMPLETE:
        read = {-2 if merge["with"] == "parent" else 0} | ({0} if merge["method"] != "linear" else set())
        other = next((layers[number] for number in sorted(read) if layers[number] != layers[-1]), None)
        if other is not None:
            return (
                f"it trains a model of {layers[-1]} layers, and is to be merged with one of {other}; merge only stages "
                "of the same expansion, linearly with the parent (merge: null for this one)"
            )
    elif merge["with"] == "base" and any(before != adapter for before in adapters):
        return (
            "its LoRA stands on weights that an earlier stage trained, so it cannot take them back to the base; give "
            "merge.with parent, or train the same adapter from the first stage on"
        )
    return ""
