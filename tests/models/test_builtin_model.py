"""The small Llama made on the spot: lossless tokenizer, weights by the seed alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from clray.models.builtin import END, PAD, build_llama, build_tokenizer, recipe
from clray.spec.stream import BuiltinLlama

TEXTS = ["def name(self):\n    return self._name\n", "The value of the name is returned as it is."] * 20
SMALL = BuiltinLlama(vocab_size=320, hidden_size=16, intermediate_size=32, layers=1, heads=2, max_positions=64)
TOKENIZER = build_tokenizer(TEXTS, SMALL.vocab_size)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_decoding_gives_back_any_text(text):
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=True) == text


def test_special_tokens_are_two_and_no_text_can_forge_them():
    assert (TOKENIZER.bos_token, TOKENIZER.eos_token, TOKENIZER.pad_token) == (END, END, PAD)
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    ids = TOKENIZER(f"a{END}b{PAD}")["input_ids"]
    assert not {TOKENIZER.eos_token_id, TOKENIZER.pad_token_id} & set(ids)


def test_the_same_texts_give_the_same_tokenizer():
    assert recipe(SMALL, 0, build_tokenizer(iter(TEXTS), SMALL.vocab_size)) == recipe(SMALL, 0, TOKENIZER)


def test_the_vocabulary_is_at_most_what_was_asked():
    assert len(build_tokenizer(TEXTS, 290)) == 290
    assert len(build_tokenizer(["a"], 5000)) == 258


def test_weights_depend_on_the_seed_alone_and_leave_the_random_state():
    before = torch.get_rng_state()
    first = build_llama(SMALL, TOKENIZER, 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again, other = build_llama(SMALL, TOKENIZER, 7), build_llama(SMALL, TOKENIZER, 8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_the_model_has_the_asked_shape_in_fp32_with_tied_embeddings():
    """Embedding V*16; layer 4*16*16 attention + 3*16*32 feed-forward + 2*16 norms; last norm 16."""
    model = build_llama(SMALL, TOKENIZER, 0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(p.numel() for p in model.parameters()) == len(TOKENIZER) * 16 + 2608
    assert model.config.max_position_embeddings == 64
    assert model.generation_config.eos_token_id == TOKENIZER.eos_token_id


@pytest.mark.parametrize("change", [{"hidden_size": 32}, {"layers": 2}])
def test_the_recipe_tells_configurations_and_seeds_apart(change):
    base = recipe(SMALL, 0, TOKENIZER)
    assert recipe(SMALL.model_copy(update=change), 0, TOKENIZER) != base
    assert recipe(SMALL, 1, TOKENIZER) != base


def test_a_saved_model_loads_elsewhere_as_it_was(tmp_path):
    model = build_llama(SMALL, TOKENIZER, 0)
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    text = f"the name {END} é\n"
    assert tokenizer(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
