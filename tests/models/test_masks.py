"""What keeps packed documents apart, in numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)

from clray.errors import ModelError
from clray.models import masks
from clray.models.varlen import NAME as VARLEN

ROWS = [np.array([2, 1]), np.array([4])]
LLAMA = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}


def made(config, attention="sdpa"):
    model = AutoModelForCausalLM.from_config(config)
    model.config._attn_implementation_internal = attention
    return model


def inputs(model, rows, length):
    return masks.packed_inputs(model, masks.segment_ids(rows, length), masks.bounds(rows, length), longest=4)


def test_segments_positions_and_bounds_of_two_rows():
    """Row 0: segments of 2 and 1, then one padding position; row 1: one of 4, full."""
    assert masks.segment_ids(ROWS, 4).tolist() == [[0, 0, 1, -1], [0, 0, 0, 0]]
    assert masks.positions(ROWS, 4).tolist() == [[0, 1, 0, 0], [0, 1, 2, 3]]
    bounds = masks.bounds(ROWS, 4)
    assert bounds.tolist() == [0, 2, 3, 4, 8]
    assert bounds.dtype == torch.int32


rows_of = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=4)


@given(rows_of, st.integers(0, 3))
def test_bounds_and_segment_ids_say_the_same(rows, spare):
    """A bound stands exactly where the flattened segment number, or the row, changes."""
    length = max(sum(row) for row in rows) + spare
    arrays = [np.array(row) for row in rows]
    ids = masks.segment_ids(arrays, length) + 1000 * torch.arange(len(rows))[:, None]
    changes = (ids.flatten().diff() != 0).nonzero().flatten() + 1
    assert masks.bounds(arrays, length).tolist() == [0, *changes.tolist(), length * len(rows)]


def test_the_dense_mask_shows_a_token_itself_and_what_is_before_it_in_its_segment():
    seen = masks.block_causal(masks.segment_ids(ROWS, 4), torch.float32)[:, 0] == 0
    assert seen.int().tolist() == [
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
    ]


def test_a_window_of_two_shows_a_token_itself_and_the_one_before():
    seen = masks.block_causal(masks.segment_ids(ROWS, 4), torch.bfloat16, window=2)[:, 0] == 0
    assert seen.int().tolist() == [
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]],
    ]


def test_sdpa_takes_no_mask_only_where_each_row_is_one_full_segment():
    model = made(LlamaConfig(**LLAMA))
    assert inputs(model, [np.array([4]), np.array([4])], 4) == {"attention_mask": None}
    assert inputs(model, ROWS, 4)["attention_mask"].shape == (2, 1, 4, 4)
    assert inputs(model, [np.array([3]), np.array([4])], 4)["attention_mask"] is not None
    assert inputs(made(LlamaConfig(**LLAMA), "eager"), [np.array([4])], 4)["attention_mask"] is not None


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", VARLEN])
def test_flash_attention_takes_bounds_and_no_mask(name):
    given = inputs(made(LlamaConfig(**LLAMA), name), ROWS, 4)
    assert given.pop("attention_mask") is None
    assert {k: v if isinstance(v, int) else v.tolist() for k, v in given.items()} == {
        "cu_seq_lens_q": [0, 2, 3, 4, 8],
        "cu_seq_lens_k": [0, 2, 3, 4, 8],
        "max_length_q": 4,
        "max_length_k": 4,
    }


def test_a_window_shorter_than_the_row_makes_a_mask_for_each_kind_of_layer():
    window = {"sliding_window": 3, "use_sliding_window": True}
    every = made(MistralConfig(**LLAMA, sliding_window=3))
    assert torch.equal(
        inputs(every, ROWS, 4)["attention_mask"], masks.block_causal(masks.segment_ids(ROWS, 4), torch.float32, 3)
    )
    some = made(Qwen2Config(**LLAMA, **window, layer_types=["full_attention", "sliding_attention"]))
    mask = inputs(some, ROWS, 4)["attention_mask"]
    assert torch.equal(mask["full_attention"], masks.block_causal(masks.segment_ids(ROWS, 4), torch.float32))
    assert torch.equal(mask["sliding_attention"], masks.block_causal(masks.segment_ids(ROWS, 4), torch.float32, 3))
    short = [np.array([2, 1]), np.array([3])]
    assert isinstance(inputs(some, short, 3)["attention_mask"], torch.Tensor)


def test_a_model_with_a_state_along_the_row_is_refused():
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(
        ModelError, match=r"MambaForCausalLM has layers of the kind linear_attention, in which .* see the one before"
    ):
        masks.check_packing(model)


def test_flash_attention_is_refused_where_the_model_does_not_hand_bounds_on():
    shape = {"vocab_size": 50, "hidden_size": 16, "max_position_embeddings": 32}
    config = GPTNeoConfig(**shape, num_layers=1, num_heads=2, attention_types=[[["local"], 1]])
    masks.check_packing(made(config, "eager"))
    with pytest.raises(ModelError, match=r"GPTNeoForCausalLM does not hand the bounds.*say attention: auto"):
        masks.check_packing(made(config, "flash_attention_2"))
