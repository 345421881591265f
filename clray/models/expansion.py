"""Block expansion: new layers in a model that goes on computing what it did (LLaMA Pro, arXiv 2401.02415)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from clray.errors import ModelError
from clray.models.layers import decoder_layers

PROBE = 8
"""Tokens that the expanded model is compared with its parent on."""


def layout(there: int, new: int, every: int | None) -> list[tuple[int, bool]]:
    """Each layer of the expanded model, bottom first: which of the `there` old ones it is taken from, and whether it is
    new.

    A new layer stands on every `there / new`-th old one, as in the paper, or on every `every`-th from the top.
    """
    below = [there - (new - 1 - i) * every if every else (i + 1) * there // new for i in range(new)]
    return [layer for old in range(there) for layer in [(old, False), *[(old, True)] * below.count(old + 1)]]


def expand(model: Any, adapter: dict[str, Any]) -> Any:
    """A model with the adapter's new layers that computes exactly what `model` does, in its precision.

    It is built from its own configuration, as whoever loads it later will do, so that layer numbers (of the KV cache)
    and kinds of layers are right. Raises ModelError where the architecture is not one whose layers add the last linear
    map of their attention and of their MLP to what comes from below: mixtures of experts, for example.
    """
    path, layers = decoder_layers(model)
    plan = layout(len(layers), adapter["layers"], adapter.get("every"))
    grown, info = type(model).from_pretrained(
        None,
        config=_config(model.config, plan),
        state_dict=_weights(model.state_dict(), path, plan, output_projections(layers[0])),
        dtype=model.dtype,
        attn_implementation=model.config._attn_implementation,
        output_loading_info=True,
    )
    grown.generation_config = model.generation_config
    lost = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if lost or not _same(model, grown):
        raise unfit(model, f"{lost[0]} has no place" if lost else "with new layers it does not compute what it did")
    return grown


def unfit(model: Any, why: str) -> ModelError:
    """The error for a model that cannot be expanded."""
    return ModelError(f"adapter expansion does not fit {type(model).__name__}: {why}; give another adapter (say lora)")


def train_new_layers(model: Any, adapter: dict[str, Any]) -> Any:
    """The expanded model, of which only the adapter's new layers take a gradient."""
    _, layers = decoder_layers(model)
    model.requires_grad_(False)
    plan = layout(len(layers) - adapter["layers"], adapter["layers"], adapter.get("every"))
    for layer, (_, new) in zip(layers, plan, strict=True):
        layer.requires_grad_(new)
    return model


def output_projections(layer: nn.Module) -> list[str]:
    """Paths of the linear modules through which a transformer layer adds to what comes from below.

    They are the last one of each part that has any (attention, MLP); linear modules that stand in the layer itself are
    one part together.
    """
    last = {}
    for path, module in layer.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            last[path.partition(".")[0] if "." in path else ""] = path
    return list(last.values())


def _weights(
    state: dict[str, torch.Tensor], path: str, plan: list[tuple[int, bool]], outputs: list[str]
) -> dict[str, torch.Tensor]:
    """The weights of the expanded model by name; a new layer's are its own copies, its outputs zero."""
    found = {name: tensor for name, tensor in state.items() if not name.startswith(f"{path}.")}
    for number, (old, new) in enumerate(plan):
        prefix = f"{path}.{old}."
        for name, tensor in state.items():
            if not name.startswith(prefix):
                continue
            inside = name.removeprefix(prefix)
            silent = new and inside.rpartition(".")[0] in outputs
            taken = torch.zeros_like(tensor) if silent else tensor.clone() if new else tensor
            found[f"{path}.{number}.{inside}"] = taken
    return found


def _config(config: Any, plan: list[tuple[int, bool]]) -> Any:
    """The configuration with as many layers as the plan has, and one entry for each in lists that have one a layer."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    there = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if "layer" in name and isinstance(value, list | tuple) and len(value) == there:
            setattr(text, name, [value[old] for old, _ in plan])
    if getattr(text, "attention_types", None):  # GPT-Neo writes its list of layers as runs of patterns
        text.attention_types = [[list(text.attention_layers), 1]]
    text.num_hidden_layers = len(plan)
    return config


@torch.no_grad()
def _same(model: Any, grown: Any) -> bool:
    """Whether both models give the same bits for a few tokens, on the CPU."""
    ids = torch.arange(PROBE)[None] % model.get_input_embeddings().weight.shape[0]
    kinds = [each.config._attn_implementation for each in (model, grown)]
    logits = []
    for each, kind in zip((model, grown), kinds, strict=True):
        if kind not in ("eager", "sdpa"):
            each.set_attn_implementation("eager")
        logits.append(each.eval()(ids, use_cache=False).logits)
        if kind not in ("eager", "sdpa"):
            each.set_attn_implementation(kind)
    return torch.equal(*logits)
