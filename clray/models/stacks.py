"""The LoRA blocks of a generation: one safetensors file and one JSON, read back onto the model below.

`blocks.safetensors` holds all blocks, the shared attention, and what attentive reflection remembers of each task:
`memory.I.pooled` (n, d) and `memory.I.attention` (T_I). `blocks.json` holds their shapes and the digest of the
embedding table, without which pooled prompts and keys mean nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from clray.errors import ModelError
from clray.lineage.generation import Generation
from clray.models.blocks import BlockShape, attach, block_tensors, merged
from clray.models.stack_kinds import goes_on

FILE, NOTE = "blocks.safetensors", "blocks.json"
MEMORY = "memory."
Memory = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Stack:
    """Blocks as they were saved: shapes oldest first, tensors by name, and what is remembered of each task."""

    shapes: tuple[BlockShape, ...]
    targets: Any
    attended: bool
    table: str
    tensors: dict[str, torch.Tensor]
    memory: Memory


def read(folder: Path) -> Stack:
    """The blocks in the folder."""
    note = json.loads((folder / NOTE).read_text())
    tensors = load_file(folder / FILE)
    memory = [
        (tensors.pop(f"{MEMORY}{i}.pooled"), tensors.pop(f"{MEMORY}{i}.attention")) for i in range(note["remembered"])
    ]
    return Stack(
        shapes=tuple(BlockShape(**shape) for shape in note["shapes"]),
        targets=note["targets"],
        attended=note["attention"],
        table=note["embedding_table"],
        tensors=tensors,
        memory=memory,
    )


def put_on(model: Any, stack: Stack) -> Any:
    """The model with the blocks: merged where they are summed, beside its modules where an attention weighs them.

    ModelError where the blocks were trained on another embedding table.
    """
    _check_table(model, stack)
    attach(model, stack.targets, stack.shapes, None, stack.tensors, attention=stack.attended)
    if stack.attended:
        model.lora_blocks.memory = stack.memory
    else:
        merged(model, [1.0] * len(stack.shapes))
        model.requires_grad_(True)
    return model


def add_block(model: Any, stack: Stack | None, adapter: dict[str, Any]) -> Any:
    """The model with the earlier blocks of `stack`, frozen, and a new one of the adapter's shape, to be trained."""
    if stack:
        _check_table(model, stack)
    attach(
        model,
        adapter["targets"],
        stack.shapes if stack else (),
        BlockShape(adapter["rank"], adapter["alpha"]),
        stack.tensors if stack else None,
        attention=adapter["kind"] == "sapt",
        dropout=adapter["dropout"],
        detach_old=adapter["detach_old"],
        query_rank=adapter.get("query_rank", 100),
    )
    model.lora_blocks.memory = stack.memory if stack else []
    return model


def save(model: Any, folder: Path, gathered: dict[str, torch.Tensor] | None, table: str, new: Memory) -> None:
    """Writes the blocks of the model to the folder, with what is to be remembered of the new task."""
    blocks = model.lora_blocks
    tensors = block_tensors(model, gathered)
    memory = [*blocks.memory, *new]
    for i, (pooled, attention) in enumerate(memory):
        tensors[f"{MEMORY}{i}.pooled"] = pooled.cpu().contiguous()
        tensors[f"{MEMORY}{i}.attention"] = attention.cpu().contiguous()
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    note = {
        "shapes": [{"rank": shape.rank, "alpha": shape.alpha} for shape in blocks.shapes],
        "targets": blocks.targets if isinstance(blocks.targets, str) else list(blocks.targets),
        "attention": blocks.attention is not None,
        "embedding_table": table,
        "remembered": len(memory),
    }
    (folder / NOTE).write_text(json.dumps(note, indent=2, sort_keys=True))


def table_digest(model: Any) -> str:
    """SHA-256 of the model's input embedding table, rounded to bf16, so that it is the same in either precision."""
    table = model.get_input_embeddings().weight.detach().cpu().to(torch.bfloat16).contiguous()
    return hashlib.sha256(table.view(torch.uint8).numpy().tobytes()).hexdigest()


def _check_table(model: Any, stack: Stack) -> None:
    if stack.attended and stack.table != table_digest(model):
        raise ModelError(
            "the blocks were trained on another embedding table: their attention reads prompts through it, and would "
            "select at random here. Put them on the base model that they were trained on"
        )


def of_parent(parent: Generation, adapter: dict[str, Any], folder: Path) -> Stack | None:
    """The blocks of the parent that a stage with `adapter` goes on from; None where it starts a stack of its own."""
    return read(folder) if goes_on(parent.adapter, adapter) else None
