"""The vocabulary projection at chosen positions: the same logits and gradients, and no others."""

from __future__ import annotations

import peft
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2Model,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
)

from clray.errors import ModelError
from clray.models.projection import projected_at

SHAPE = {"vocab_size": 50, "hidden_size": 16, "max_position_embeddings": 32}
LLAMA = {
    **SHAPE,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**LLAMA),
    "tied llama": lambda: LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**LLAMA),
    "gpt_neox": lambda: GPTNeoXConfig(**SHAPE, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24),
    "gpt_neo": lambda: GPTNeoConfig(**SHAPE, num_layers=1, num_heads=2, attention_types=[[["local"], 1]]),
    "gpt2": lambda: GPT2Config(vocab_size=50, n_embd=16, n_positions=32, n_layer=1, n_head=2),
}
IDS = torch.arange(3, 13).reshape(2, 5)
INDEX = torch.tensor([9, 0, 4, 4])


@pytest.fixture(params=sorted(CONFIGS))
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[request.param]()).eval()


def test_logits_are_those_of_the_whole_projection(model):
    whole = model(IDS, use_cache=False).logits.flatten(0, 1)[INDEX]
    with projected_at(model, INDEX):
        part = model(IDS, use_cache=False).logits
    assert part.shape == (4, 50)
    torch.testing.assert_close(part, whole)
    assert model(IDS, use_cache=False).logits.shape == (2, 5, 50)


def test_gradients_are_those_of_the_whole_projection(model):
    def gradients(logits):
        model.zero_grad()
        logits.square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients(model(IDS, use_cache=False).logits.flatten(0, 1)[INDEX])
    with projected_at(model, INDEX):
        got = gradients(model(IDS, use_cache=False).logits)
    torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_an_adapter_and_a_trained_head_are_cut_too(model):
    names = {"gpt2": "c_attn", "gpt_neox": "query_key_value"}
    target = names.get(model.config.model_type, "q_proj")
    head = "embed_out" if model.config.model_type == "gpt_neox" else "lm_head"
    config = peft.LoraConfig(r=2, target_modules=[target], modules_to_save=[head], fan_in_fan_out=target == "c_attn")
    wrapped = peft.get_peft_model(model, config)
    with torch.inference_mode():
        whole = wrapped(input_ids=IDS, use_cache=False).logits.flatten(0, 1)[INDEX]
        with projected_at(wrapped, INDEX):
            torch.testing.assert_close(wrapped(input_ids=IDS, use_cache=False).logits, whole)


def test_the_hook_goes_when_the_body_fails(model):
    with pytest.raises(RuntimeError, match="stop"), projected_at(model, INDEX):
        raise RuntimeError("stop")
    assert model(IDS, use_cache=False).logits.shape == (2, 5, 50)


def test_a_model_without_a_head_is_refused():
    with (
        pytest.raises(ModelError, match="GPT2Model has no output embeddings"),
        projected_at(GPT2Model(CONFIGS["gpt2"]()), INDEX),
    ):
        pass
