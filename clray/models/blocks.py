"""Stacks of LoRA blocks in a Hugging Face causal language model: put in, read out, merged, exported.

One file serves three kinds of adapter: blocks that are summed, blocks with O-LoRA's penalty (arXiv 2310.14152), blocks
under SAPT's shared attention (arXiv 2401.08295). The model stays what it is: its linear modules are replaced in place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from clray.errors import ModelError
from clray.models.attention import SharedAttention
from clray.models.block_export import CENTRE, KEYS, PHI, block_as_peft, block_tensors, merged, replace
from clray.models.block_linear import BlockLinear, BlockShape
from clray.models.routing import Routing, after_forward, before_forward

__all__ = [
    "BlockLinear",
    "BlockShape",
    "LoraBlocks",
    "Routing",
    "SharedAttention",
    "attach",
    "block_as_peft",
    "block_tensors",
    "merged",
]

Targets = Literal["all-linear"] | Sequence[str]


class LoraBlocks(nn.Module):
    """What a model's blocks have in common, as its submodule `lora_blocks`.

    `shapes` are those of all blocks, oldest first, `new` whether the last of them is trained. The modules with the
    blocks are `layers` by their path in the model, held without being submodules a second time. `want_penalty` makes
    each forward pass leave what `penalty` sums. `memory` holds pooled prompts (n, d) and recorded attention (T_i) of
    each earlier task, `beginning` at most one such pair: the new task's before it is trained.
    """

    def __init__(
        self,
        shapes: Sequence[BlockShape],
        new: bool,
        targets: Targets,
        layers: Mapping[str, BlockLinear],
        routing: Routing,
        attention: SharedAttention | None,
    ) -> None:
        super().__init__()
        self.shapes, self.new = list(shapes), new
        self.targets = targets if targets == "all-linear" else tuple(targets)
        self.layers, self.routing = dict(layers), routing
        self.attention = attention
        self.memory: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.beginning: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.want_penalty = False
        self.checkpointed: list[nn.Module] = []
        self.hooks: list[Any] = []

    def penalty(self, kind: Literal["absolute", "frobenius"]) -> torch.Tensor:
        """O-LoRA's overlap of the new block with the old ones in the last forward pass, summed over modules, in fp32.

        |A_old A_new^T|, as sum of absolute values (the paper's code) or of squares (the squared Frobenius norm); 0
        without old blocks. It does not depend on the batch: once an optimiser step is enough. RuntimeError where
        `want_penalty` was not set before that pass.
        """
        first = next(iter(self.layers.values())).old_A
        if not self.new or not len(first):
            return torch.zeros((), device=first.device)
        found = self.routing.state.overlaps
        if found.keys() != self.layers.keys():
            raise RuntimeError("the penalty needs a forward pass of the whole model with want_penalty set before it")
        terms = [found[path].abs() if kind == "absolute" else found[path].square() for path in self.layers]
        return torch.stack([term.sum().to(first.device) for term in terms]).sum()


def attach(
    model: Any,
    targets: Targets,
    old: Sequence[BlockShape],
    new: BlockShape | None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    *,
    attention: bool,
    dropout: float = 0.0,
    detach_old: bool = False,
    query_rank: int = 100,
    generator: torch.Generator | None = None,
) -> LoraBlocks:
    """Puts LoRA blocks into the model's target modules, in place, and returns what they have in common.

    The model's own weights take no gradient any more; with `new` its block does, and with `attention` the query
    projection and the new key. `old` are the shapes of the blocks in `tensors`, which `block_tensors` returned: they
    come back bit for bit in the precision they were saved in. Blocks have the precision of the modules they stand
    beside. New weights follow from torch.manual_seed, or from the generator. Raises ModelError where a target fits no
    linear module, or the tensors do not fit the model and the shapes.
    """
    if hasattr(model, "lora_blocks"):
        raise ModelError("the model has LoRA blocks already; merge them first, or load it again")
    if not old and new is None:
        raise ModelError("no LoRA block to attach: give an old one, a new one, or both")
    found, shapes = _targeted(model, targets), [*old, *([new] if new else [])]
    tensors = {} if tensors is None else tensors
    _check_names(found, tensors, bool(old), attention)
    model.requires_grad_(False)
    routing = Routing([shape.rank for shape in shapes], [shape.scale for shape in shapes], attention)
    layers = {}
    for path, base in found.items():
        layers[path] = layer = BlockLinear(
            base, path, old, new, routing, dropout=dropout, detach_old=detach_old, generator=generator
        )
        if old:
            _load(layer.old_A, f"{path}.A", tensors)
            _load(layer.old_B, f"{path}.B", tensors)
        replace(model, path, layer)
    shared = _attention(model, tensors, len(old), new is not None, query_rank, generator) if attention else None
    blocks = LoraBlocks(shapes, new is not None, targets, layers, routing, shared)
    model.lora_blocks = blocks
    blocks.checkpointed = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    blocks.hooks = [
        model.register_forward_pre_hook(before_forward, with_kwargs=True),
        model.register_forward_hook(after_forward),
    ]
    return blocks


def _targeted(model: Any, targets: Targets) -> dict[str, Any]:
    """The target modules by path: a target is a module's name, or the end of its path; never the output embedding."""
    head = model.get_output_embeddings()
    linear = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    if targets == "all-linear":
        return linear
    fits = {target: {path for path in linear if f".{path}".endswith(f".{target}")} for target in targets}
    unfit = [target for target in targets if not fits[target]]
    if unfit or not fits:
        raise ModelError(
            f"adapter.targets {json.dumps(unfit)} fits no module of the model; its linear modules are "
            f"{', '.join(sorted({path.split('.')[-1] for path in linear}))}"
        )
    return {path: module for path, module in linear.items() if any(path in paths for paths in fits.values())}


def _check_names(found: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], old: bool, attention: bool) -> None:
    """Raises ModelError where a tensor is missing, or there is one that nothing would take."""
    wanted = {f"{path}.{letter}" for path in found for letter in "AB"} if old else set()
    wanted |= {KEYS, *(f"attention.{name}" for name in PHI)} if old and attention else set()
    known = wanted | ({f"attention.{name}" for name in CENTRE} if old and attention else set())
    for what, names in (("lacks", wanted - tensors.keys()), ("has, for nothing here,", tensors.keys() - known)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"the file of LoRA blocks {what} {min(names)}{more}: it belongs to another model or adapter"
            )


@torch.no_grad()
def _load(into: torch.Tensor, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    if tensors[name].shape != into.shape:
        raise ModelError(
            f"the file of LoRA blocks has {name} of shape {tuple(tensors[name].shape)}, but the model and the blocks' "
            f"ranks want {tuple(into.shape)}"
        )
    into.copy_(tensors[name])


def _attention(
    model: Any,
    tensors: Mapping[str, torch.Tensor],
    num_old: int,
    trained: bool,
    query_rank: int,
    generator: torch.Generator | None,
) -> SharedAttention:
    """The attention with what the tensors hold of it, on the device of the input embeddings."""
    table = model.get_input_embeddings().weight
    rank = len(tensors["attention.down"]) if num_old else query_rank
    shared = SharedAttention(table.shape[1], num_old, trained=trained, query_rank=rank, generator=generator)
    if num_old:
        _load(shared.old_keys, KEYS, tensors)
        for name in (*PHI, *(name for name in CENTRE if f"attention.{name}" in tensors)):
            _load(getattr(shared, name), f"attention.{name}", tensors)
    return shared.to(table.device)
