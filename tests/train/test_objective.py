"""The loss over packed rows is the sum over their documents alone, whatever the attention.

The CUDA kernels of FlashAttention are stood in for by plain PyTorch; all code of transformers and PyTorch above
them is the real one.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import peft
import pytest
import torch
import varlen_reference
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    modeling_flash_attention_utils,
)
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

from clray.data.batches import Sequence
from clray.errors import ModelError
from clray.models import masks, varlen
from clray.train.engine import build_engine
from clray.train.objective import TargetLoss, collate
from clray.train.order import StageOrder

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MIXED = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "mistral with a window of 5": MistralConfig(**SHAPE, sliding_window=5),
    "qwen2 with a window in one layer": Qwen2Config(**SHAPE, **MIXED, use_sliding_window=True),
    "gemma3 with a window in one layer": Gemma3TextConfig(**SHAPE, **MIXED, head_dim=8),
}
FLASH = "flash_reference"
PACKED = [[5, 9, 3], [12], [2, 2, 7]]
FULL = [[17], [17]]


def sequences(rows, seed=0):
    """Rows of documents of these lengths with random tokens; every token but a document's first is a target."""
    generator, found = np.random.default_rng(seed), []
    for lengths in rows:
        targets = np.ones(sum(lengths), dtype=bool)
        targets[np.cumsum([0, *lengths[:-1]])] = False
        ids = generator.integers(3, 60, sum(lengths))
        found.append(Sequence(ids, targets, np.array(lengths), np.zeros(len(lengths))))
    return found


def batch_of(rows):
    return collate(sequences(rows), np.arange(len(rows)), len(rows))


def alone(rows):
    """Each document of the rows as a batch of its own."""
    for sequence in sequences(rows):
        starts = np.cumsum([0, *sequence.segments])
        for start, stop in itertools.pairwise(starts):
            ids, targets = sequence.ids[start:stop], sequence.targets[start:stop]
            yield collate([Sequence(ids, targets, np.array([stop - start]), np.zeros(1))], np.arange(1), 1)


@pytest.fixture(autouse=True)
def reference_kernels(monkeypatch):
    """FlashAttention's functions in plain PyTorch, below transformers' own code and below PyTorch's varlen_attn."""
    monkeypatch.setattr(varlen, "missing", lambda: None)
    flash = modeling_flash_attention_utils
    reference = varlen_reference.flash_attn_varlen_func
    monkeypatch.setattr(flash, "_loaded_implementation", FLASH)
    monkeypatch.setattr(flash, "_flash_fn", varlen_reference.flash_attn_func)
    monkeypatch.setattr(flash, "_flash_varlen_fn", reference)
    monkeypatch.setattr(flash, "_flash_with_kvcache_fn", None)
    monkeypatch.setattr(flash, "_process_flash_kwargs_fn", flash._lazy_define_process_function(reference))
    monkeypatch.setattr(flash, "_process_with_kvcache_kwargs_fn", dict)
    monkeypatch.setitem(AttentionInterface._global_mapping, FLASH, flash_attention_forward)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, FLASH, flash_attention_mask)


@pytest.fixture(scope="module", autouse=True)
def varlen_on_the_cpu():
    """CPU kernels for the two operators below torch.nn.attention.varlen.varlen_attn, forward and backward."""
    from torch.nn.attention import varlen as torch_varlen

    def forward(q, k, v, cu_q, cu_k, max_q, max_k, is_causal, scale, window, gqa, *rest):
        assert is_causal == (list(window) == [-1, 0]) and gqa == (q.shape[1] != k.shape[1]) and not any(rest)
        assert max_q == max_k == int(cu_q.diff().max()) and torch.equal(cu_q, cu_k)
        assert window[1] == 0, "attention must be causal"
        output = varlen_reference.attend(q, k, v, cu_q, scale, window[0])
        return output, torch.zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)

    def backward(grad, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, causal, state, scale, window):
        return varlen_reference.attend_backward(grad, q, k, v, cu_q, scale, window[0])

    torch_varlen._varlen_attn.register_kernel("cpu")(forward)
    torch_varlen._varlen_attn_backward.register_kernel("cpu")(backward)


def model_of(config, attention, dtype=torch.float32):
    """The model of the configuration with that attention; the same weights each time."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention)
    return model.to(dtype)


def losses_alone(config):
    """Summed loss over all documents, one by one, through the model without any mask of ours (eager)."""
    model = model_of(config, "eager").eval()
    with torch.no_grad():
        return sum(float(TargetLoss(model)(batch)) for batch in alone(PACKED))


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("attention", ["eager", "sdpa", FLASH])
def test_packed_documents_have_the_losses_they_have_alone(name, attention):
    loss = TargetLoss(model_of(CONFIGS[name], attention).eval())
    assert float(loss(batch_of(PACKED)).detach()) == pytest.approx(losses_alone(CONFIGS[name]), rel=1e-5)


@pytest.mark.parametrize("rows", [PACKED, FULL], ids=["packed", "full"])
@pytest.mark.parametrize("attention", ["sdpa", FLASH, varlen.NAME])
def test_losses_and_gradients_equal_those_of_eager_attention(attention, rows):
    """Weights in fp64; softmax and cross-entropy are fp32 in transformers and in clray."""
    found = {}
    for kind in ("eager", attention):
        model = model_of(CONFIGS["llama"], kind, torch.float64).train()
        loss = TargetLoss(model)(batch_of(rows))
        loss.backward()
        found[kind] = (loss.item(), {name: p.grad for name, p in model.named_parameters()})
    (expected, gradients), (got, same) = found["eager"], found[attention]
    assert got == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            same[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_token_of_one_document_changes_nothing_in_another():
    for attention in ("eager", "sdpa", FLASH, varlen.NAME):
        model = model_of(CONFIGS["llama"], attention, torch.float64).eval()
        batch = batch_of(PACKED)
        first, other = batch.ids.clone(), batch.ids.clone()
        other[0, 5:14] = 7
        kept = torch.ones(3, 17, dtype=torch.bool)
        kept[0, 5:14] = False
        with torch.no_grad():
            apart = masks.packed_inputs(model, batch.segments, batch.bounds, batch.longest)
            before, after = (
                model(ids, position_ids=batch.positions, use_cache=False, **apart).logits[kept]
                for ids in (first, other)
            )
        assert torch.equal(before, after), attention


def test_full_rows_reach_sdpa_without_a_mask(monkeypatch):
    """So that PyTorch takes its flash kernel; packed rows bring theirs."""
    seen = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **options):
        seen.append((options["attn_mask"] is None, options["is_causal"]))
        return real(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    loss = TargetLoss(model_of(CONFIGS["llama"], "sdpa"))
    loss(batch_of(FULL))
    loss(batch_of(PACKED))
    assert seen == [(True, True)] * 2 + [(False, False)] * 2


@pytest.mark.parametrize("attention", ["sdpa", FLASH, varlen.NAME])
def test_lora_and_gradient_checkpointing_hand_the_bounds_on(attention):
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    found = {}
    for kind, checkpointing in (("eager", False), (attention, True)):
        torch.manual_seed(1)
        model = peft.get_peft_model(model_of(CONFIGS["llama"], kind, torch.float64), config).double().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        loss = TargetLoss(model)(batch_of(PACKED))
        loss.backward()
        found[kind] = (loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert found[attention][0] == pytest.approx(found["eager"][0], rel=1e-6)
    for name, gradient in found["eager"][1].items():
        torch.testing.assert_close(
            found[attention][1][name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("attention", [FLASH, varlen.NAME])
def test_zero_3_hands_the_bounds_on(attention, alone):
    """Two optimiser steps in bf16: the losses of ZeRO 0 with the dense mask."""
    found = {}
    for kind, stage in (("sdpa", 0), (attention, 3)):
        compute = {"micro_batch": 3, "zero_stage": stage, "offload": "none", "gradient_checkpointing": False}
        compute["compile"] = False
        optimiser = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.0}
        recipe = {"batch": 3, "precision": "bf16", "adapter": {"kind": "full"}, "optimiser": {**optimiser, "clip": 1.0}}
        order = StageOrder(storage="", key="", parent="", mixture="", recipe=recipe, seed=0, compute=compute)
        engine = build_engine(model_of(CONFIGS["llama"], kind, torch.bfloat16), order, 1)
        found[kind] = []
        for _ in range(3):
            for group in engine.optimizer.param_groups:
                group["lr"] = 1e-2
            loss = engine(batch_of(PACKED))
            engine.backward(loss / 37)
            engine.step()
            found[kind].append(float(loss.detach()))
        engine.destroy()
    assert found[attention] == pytest.approx(found["sdpa"], rel=5e-3)
    assert found["sdpa"][2] < found["sdpa"][0] - 1, "nothing was learnt, so nothing was compared"


@pytest.mark.slow
def test_compiled_layers_have_the_same_losses_and_gradients():
    """Packed rows of two lengths: one compilation of a layer serves both layers of the model."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = {}
    for compiled in (False, True):
        model = model_of(CONFIGS["llama"], "sdpa").train()
        loss, sums = TargetLoss(model, compiled), []
        names = [name for name, _ in loss.named_parameters()]
        for rows in (PACKED, [[6, 5, 5], [2, 14], [16]]):
            summed = loss(batch_of(rows))
            summed.backward()
            sums.append(float(summed.detach()))
        found[compiled] = (sums, [p.grad for p in model.parameters()], names)
    (expected, gradients, names), (got, same, same_names) = found[False], found[True]
    assert got == pytest.approx(expected, rel=1e-5) and names == same_names
    for gradient, other in zip(gradients, same, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-4)
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


def test_varlen_without_bounds_is_sdpa_so_that_evaluation_works():
    ids = torch.arange(3, 13).reshape(2, 5)
    padded = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        for mask in (None, padded):
            expected, got = (
                model_of(CONFIGS["llama"], name).eval()(ids, attention_mask=mask).logits[:, -1]
                for name in ("sdpa", varlen.NAME)
            )
            assert torch.equal(expected, got)


def test_varlen_refuses_what_its_kernel_does_not_do():
    with pytest.raises(ModelError, match=r"'varlen' does not go with precision fp32; say attention: auto"):
        TargetLoss(model_of(CONFIGS["llama"], varlen.NAME))(batch_of(PACKED))
    dropping = LlamaConfig(**SHAPE, attention_dropout=0.1)
    with pytest.raises(ModelError, match=r"does not go with attention dropout"):
        TargetLoss(model_of(dropping, varlen.NAME, torch.bfloat16).train())(batch_of(PACKED))
    capped = Gemma2Config(**SHAPE, head_dim=8, attn_logit_softcapping=50.0)
    with pytest.raises(ModelError, match=r"does not go with softcap; say attention: eager"):
        TargetLoss(model_of(capped, varlen.NAME, torch.bfloat16))(batch_of(PACKED))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_varlen_is_refused_where_there_is_no_gpu(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ModelError, match=r"'varlen' cannot be used: there is no CUDA device; say attention: auto"):
        TargetLoss(model_of(CONFIGS["llama"], varlen.NAME))


def test_old_architectures_keep_their_additive_mask():
    config = GPTNeoConfig(
        vocab_size=60, hidden_size=32, max_position_embeddings=64, num_layers=1, num_heads=2,
        attention_types=[[["global"], 1]],
    )  # fmt: skip
    loss = TargetLoss(model_of(config, "eager").eval())
    assert float(loss(batch_of(PACKED)).detach()) == pytest.approx(losses_alone(config), rel=1e-5)


def test_a_micro_batch_moves_whole():
    batch = batch_of(PACKED)
    moved = batch.to(torch.device("meta"))
    assert all(value.device.type == "meta" for value in vars(moved).values() if isinstance(value, torch.Tensor))
    assert moved.longest == batch.longest == 12


def test_no_rows_give_a_loss_of_nothing_with_a_gradient():
    model = model_of(CONFIGS["llama"], "sdpa")
    loss = TargetLoss(model)(collate(sequences(PACKED), np.empty(0, dtype=np.int64), 2))
    loss.backward()
    assert loss.item() == 0.0 and all(float(p.grad.abs().sum()) == 0.0 for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(varlen.missing() is not None, reason=str(varlen.missing()))
def test_varlen_kernels_agree_with_the_dense_mask_on_a_gpu():
    """bf16, head size 64, grouped heads: losses to 1 %, gradients by their direction."""
    config = LlamaConfig(**{**SHAPE, "hidden_size": 256, "num_hidden_layers": 4})
    found = {}
    for kind in ("sdpa", varlen.NAME):
        model = model_of(config, kind, torch.bfloat16).cuda().train()
        loss = TargetLoss(model)(batch_of(PACKED).to(torch.device("cuda")))
        loss.backward()
        found[kind] = (loss.item(), torch.cat([p.grad.float().flatten() for p in model.parameters()]))
    assert found[varlen.NAME][0] == pytest.approx(found["sdpa"][0], rel=1e-2)
    assert torch.nn.functional.cosine_similarity(found["sdpa"][1], found[varlen.NAME][1], dim=0) > 0.99
