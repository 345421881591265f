"""The small Llama that is made on the spot, and its byte-level BPE tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from clray.spec.stream import BuiltinLlama

END, PAD = "<|endoftext|>", "<|pad|>"


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens, trained on the texts.

    Decoding gives back any text unchanged, since all 256 bytes are tokens and nothing is normalised
    (Radford et al., 2019). <|endoftext|> starts and ends sequences; <|pad|> is a token of its own, so that
    padding is never taken for an end; a text that spells one out is read as plain characters. Same texts in
    the same order, same tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(END, special=True), AddedToken(PAD, special=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def build_llama(config: BuiltinLlama, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama in fp32 on the CPU with tied embeddings and random weights that the seed alone decides.

    The global random state is left as it was. Its vocabulary is the tokenizer's, which is smaller than
    `config.vocab_size` where the texts have no more merges.
    """
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: LlamaForCausalLM = LlamaForCausalLM(shape)
    return model


def recipe(config: BuiltinLlama, seed: int, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What the weights of `build_llama` depend on, as plain values for a content key."""
    content = tokenizer.backend_tokenizer.to_str().encode()
    return {
        "base": "builtin:llama",
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "tokenizer_sha256": hashlib.sha256(content).hexdigest(),
    }
