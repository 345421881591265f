"""Tiny random models of six families with LoRA blocks, for the tests of blocks, attention and routing."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoConfig, GPTNeoXConfig, LlamaConfig
from transformers import Qwen2Config as Qwen2
from transformers import Qwen3Config as Qwen3

from clray.models.blocks import BlockShape, attach

SIZE, VOCABULARY = 32, 61
COMMON = {"vocab_size": VOCABULARY, "hidden_size": SIZE, "max_position_embeddings": 64}
LLAMA = {
    **COMMON,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": None,
}
GPT2 = {
    "bos_token_id": None,
    "eos_token_id": None,
    "n_layer": 2,
    "n_head": 2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
FAMILIES = {
    "llama": (LlamaConfig(**LLAMA), ("q_proj", "v_proj")),
    "qwen2": (Qwen2(**LLAMA, tie_word_embeddings=True), ("q_proj", "v_proj", "down_proj")),
    "qwen3": (Qwen3(**LLAMA, head_dim=8), "all-linear"),
    "gpt_neox": (
        GPTNeoXConfig(**COMMON, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48),
        ("query_key_value",),
    ),
    "gpt_neo": (
        GPTNeoConfig(
            **COMMON,
            num_layers=2,
            num_heads=2,
            bos_token_id=None,
            eos_token_id=None,
            attention_types=[[["global", "local"], 1]],
            window_size=16,
        ),
        ("attn.attention.q_proj", "v_proj"),
    ),
    "gpt2": (GPT2Config(vocab_size=VOCABULARY, n_embd=SIZE, n_positions=64, **GPT2), "all-linear"),
}
OLD = [BlockShape(4, 8.0), BlockShape(2, 6.0)]
NEW = BlockShape(3, 6.0)


def bare(family: str = "llama", dtype: torch.dtype = torch.float32):
    """The family's model, always with the same weights, in evaluation mode without any dropout."""
    torch.manual_seed(5)
    config = FAMILIES[family][0]
    for name in ("attention_dropout", "embed_dropout", "resid_dropout", "hidden_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    config.initializer_range = 0.15
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def old_tensors(family: str = "llama", attention: bool = False, shapes=tuple(OLD)):
    """Tensors of random old blocks for the family's targets, and of an attention that tells prompts well apart."""
    model = bare(family)
    blocks = attach(model, FAMILIES[family][1], [], BlockShape(sum(s.rank for s in shapes), 1.0), attention=False)
    random = torch.Generator().manual_seed(11)
    tensors = {}
    for path, layer in blocks.layers.items():
        tensors[f"{path}.A"] = torch.randn(layer.A.shape, generator=random) * 0.3
        tensors[f"{path}.B"] = torch.randn(layer.B.shape, generator=random) * 0.3
    if attention:
        tensors["attention.keys"] = torch.randn(len(shapes), SIZE, generator=random) * 1.5
        down = torch.randn(10, SIZE, generator=random)
        tensors["attention.down"] = (down - down.mean(-1, keepdim=True)) * 2
        tensors["attention.up"] = torch.randn(SIZE, 10, generator=random) * 0.4
        tensors["attention.norm_weight"] = torch.rand(SIZE, generator=random) + 0.5
        tensors["attention.norm_bias"] = torch.randn(SIZE, generator=random) * 0.1
    return tensors


def stacked(family: str = "llama", attention: bool = False, new: BlockShape | None = NEW, dtype=torch.float32, **how):
    """The family's model with two old blocks and a new one, whose B is no longer zero."""
    model = bare(family, dtype)
    torch.manual_seed(7)
    attach(model, FAMILIES[family][1], OLD, new, old_tensors(family, attention), attention=attention, **how)
    random = torch.Generator().manual_seed(13)
    for layer in model.lora_blocks.layers.values():
        if layer.B is not None:
            layer.B.data.copy_(torch.randn(layer.B.shape, generator=random) * 0.3)
    if attention and new is not None:
        model.lora_blocks.attention.key.data.copy_(torch.randn(1, SIZE, generator=random) * 1.5)
    return model


def ids_of(rows: int = 2, length: int = 9, seed: int = 3) -> torch.Tensor:
    """Random token ids, none of them the padding 0."""
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
