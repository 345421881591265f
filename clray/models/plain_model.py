"""LoRA blocks put into a Hugging Face model as it is built: what an exported model has beside clray's own code.

`plain_code` copies this, and all that it needs, into the one file with which an exported folder loads without clray.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from clray.models.attention import SharedAttention
from clray.models.block_linear import BlockLinear, BlockShape
from clray.models.blocks import LoraBlocks
from clray.models.routing import Routing, after_forward, before_forward, routed


def put_in(model: Any, note: dict[str, Any]) -> None:
    """Puts empty LoRA blocks under a shared attention into the model, whose weights are loaded afterwards.

    `note` is `lora_blocks` of the model's configuration: the blocks' `shapes` oldest first, the `modules` that they
    stand beside, by path, and the `query_rank` of the attention, which stays in fp32 in any precision of the model.
    """
    shapes = [BlockShape(shape["rank"], shape["alpha"]) for shape in note["shapes"]]
    routing = Routing([shape.rank for shape in shapes], [shape.scale for shape in shapes], True)
    layers = {}
    for path in note["modules"]:
        parent, _, leaf = path.rpartition(".")
        layers[path] = BlockLinear(model.get_submodule(path), path, shapes, None, routing)
        setattr(model.get_submodule(parent), leaf, layers[path])
    size = model.get_input_embeddings().weight.shape[1]
    attention = SharedAttention(size, len(shapes), trained=False, query_rank=note["query_rank"])
    model.lora_blocks = LoraBlocks(shapes, False, note["modules"], layers, routing, attention)
    model.lora_blocks.checkpointed = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
    model._keep_in_fp32_modules_strict = {*(model._keep_in_fp32_modules_strict or ()), "lora_blocks.attention"}
    model.register_forward_pre_hook(before_forward, with_kwargs=True)
    model.register_forward_hook(after_forward)


def prompted(model: Any, given: dict[str, Any]) -> AbstractContextManager[None]:
    """A context in which `generate`, called with `given`, selects once, by the prompt, however it then proceeds.

    Without an attention mask the prompt is what transformers takes for it, and known to the first call with a cache.
    ValueError where there is neither.
    """
    mask = given.get("attention_mask")
    if mask is not None:
        return routed(model, mask)
    settings = given.get("generation_config") or model.generation_config
    if given.get("use_cache", settings.use_cache) is False:
        raise ValueError("generation without a cache needs an attention_mask: it says what the prompt is")
    return nullcontext()
