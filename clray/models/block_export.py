"""What comes out of a model with LoRA blocks: their tensors, a model with them folded in, one of them for PEFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from clray.errors import ModelError

KEYS = "attention.keys"
PHI = ("down", "up", "norm_weight", "norm_bias")
CENTRE = ("centre", "scale")
"""The tensors of an attention: its keys, the parameters of its query projection, where prompts are seen from."""


def block_tensors(model: Any, gathered: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """All that makes the model's blocks, on the CPU: `PATH.A` (R, in) and `PATH.B` (out, R) of each target module, all
    blocks one after another, and with attention `attention.keys` (T, d), `down`, `up`, `norm_weight`, `norm_bias`,
    `centre`, `scale`.

    `gathered` holds parameters by their name in the model, to be taken instead of the model's own: whole ones under
    ZeRO-3, or fp32 masters.
    """
    gathered, blocks = gathered or {}, model.lora_blocks

    def whole(name: str, own: torch.Tensor) -> torch.Tensor:
        found = gathered.get(name, own).detach()
        if found.shape != getattr(own, "ds_shape", own.shape):
            raise RuntimeError(f"{name} lies in pieces (ZeRO-3) or has another shape; hand it over gathered")
        return found.cpu()

    def joined(old: torch.Tensor, name: str, new: torch.Tensor | None, dim: int) -> torch.Tensor:
        parts = [old.cpu()] if new is None else [old.cpu(), whole(name, new)]
        return torch.cat(parts, dim).contiguous().clone()

    result = {}
    for path, layer in blocks.layers.items():
        result[f"{path}.A"] = joined(layer.old_A, f"{path}.A", layer.A, 0)
        result[f"{path}.B"] = joined(layer.old_B, f"{path}.B", layer.B, 1)
    if blocks.attention is not None:
        shared, inside = blocks.attention, "lora_blocks.attention"
        result[KEYS] = joined(shared.old_keys, f"{inside}.key", shared.key, 0)
        for name in PHI:
            result[f"attention.{name}"] = whole(f"{inside}.{name}", getattr(shared, name)).clone()
        result |= {f"attention.{name}": getattr(shared, name).cpu().clone() for name in CENTRE}
    return result


@torch.no_grad()
def merged(model: Any, weights: Sequence[float]) -> None:
    """Folds the blocks, each times its fixed weight, into the modules they stand beside, and takes them out.

    What is left is the model as it was before `attach`, with other weights. ModelError where there is not one weight a
    block.
    """
    blocks = model.lora_blocks
    if len(weights) != len(blocks.shapes):
        raise ModelError(f"{len(weights)} weights for {len(blocks.shapes)} blocks; give one a block, oldest first")
    tensors, parts = block_tensors(model), list(zip(weights, blocks.shapes, strict=True))
    factor_R = torch.tensor([weight * shape.scale for weight, shape in parts for _ in range(shape.rank)])
    for path, layer in blocks.layers.items():
        update = (tensors[f"{path}.B"].float() * factor_R) @ tensors[f"{path}.A"].float()
        own = layer.base.weight
        own.copy_(own.float() + (update.T if isinstance(layer.base, Conv1D) else update).to(own.device))
        replace(model, path, layer.base)
    for hook in blocks.hooks:
        hook.remove()
    del model.lora_blocks


def block_as_peft(model: Any, index: int, folder: str | Path) -> None:
    """Writes block `index`, counted from 0, the oldest, as a PEFT adapter: the block alone, at weight 1."""
    from peft import LoraConfig, TaskType
    from safetensors.torch import save_file

    blocks = model.lora_blocks
    if not 0 <= index < len(blocks.shapes):
        raise ModelError(f"there is no block {index}; the model has {len(blocks.shapes)}, counted from 0")
    ends = [0, *accumulate(shape.rank for shape in blocks.shapes)]
    ranks = slice(ends[index], ends[index + 1])
    state, tensors = {}, block_tensors(model)
    for path in blocks.layers:
        state[f"base_model.model.{path}.lora_A.weight"] = tensors[f"{path}.A"][ranks].contiguous()
        state[f"base_model.model.{path}.lora_B.weight"] = tensors[f"{path}.B"][:, ranks].contiguous()
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=getattr(model.config, "_name_or_path", "") or None,
        r=blocks.shapes[index].rank,
        lora_alpha=blocks.shapes[index].alpha,
        target_modules=sorted(blocks.layers),
        fan_in_fan_out=all(isinstance(layer.base, Conv1D) for layer in blocks.layers.values()),
        inference_mode=True,
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(state, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts the module at the path in the model."""
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
