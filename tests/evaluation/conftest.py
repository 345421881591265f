"""Tiny random models, a tokenizer made on the spot, and the small chat model of the data bundle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)

VOCABULARY = 96
POSITIONS = 64
SHARED = {"vocab_size": VOCABULARY, "hidden_size": 32, "max_position_embeddings": POSITIONS}
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
GPT2 = {"vocab_size": VOCABULARY, "n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4}
NEO = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 16}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SHARED, **HEADS),
    "gpt2": lambda: GPT2Config(**GPT2, bos_token_id=1, eos_token_id=2),
    "gpt_neo": lambda: GPTNeoConfig(**SHARED, **NEO, bos_token_id=1, eos_token_id=2),
    "mistral": lambda: MistralConfig(**SHARED, **HEADS, sliding_window=12),
}


def random_model(name: str):
    """A random model whose predictions differ enough from token to token for orders to be stable."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]())
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(10)
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def any_model(request):
    """Each of the tiny architectures: rotary, learned positions, local attention, sliding window."""
    return random_model(request.param)


@pytest.fixture(scope="module")
def build():
    """Makes a tiny random model of that architecture, for a test that trains it."""
    return random_model


@pytest.fixture(scope="module")
def llama():
    return random_model("llama")


@pytest.fixture(scope="module")
def words():
    """A tokenizer of VOCABULARY words w0.. with padding 0, start 1 and end 2."""
    vocabulary = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w3", pad_token="w0", bos_token="w1", eos_token="w2"
    )


@pytest.fixture(scope="session")
def chat_model():
    """Model and tokenizer of TinyStories-Instruct-3M-chat from the bundle at CLRAY_DATA_DIR."""
    root = os.environ.get("CLRAY_DATA_DIR")
    folder = Path(root or ".") / "models" / "TinyStories-Instruct-3M-chat"
    if not root or not folder.is_dir():
        pytest.skip("CLRAY_DATA_DIR does not name a data bundle with models/TinyStories-Instruct-3M-chat")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
