"""An instance's weights and logits are those it has alone: whatever the padding, packing, neighbours and cache."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from block_models import FAMILIES, NEW, OLD, bare, ids_of, old_tensors, stacked
from transformers import DynamicCache, GenerationConfig

from clray.models import masks
from clray.models.attention import pooled_prompts, reflection
from clray.models.blocks import attach, block_tensors
from clray.models.projection import projected_at
from clray.models.routing import routed

LENGTHS = (9, 4, 6)
GREEDY = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 0}


def prompts():
    """Three prompts that are routed differently, and the weights of each."""
    return [ids_of(1, length, seed)[0] for seed, length in enumerate(LENGTHS, start=20)]


def alone(model, ids):
    """The logits (L, V) and weights (T) of one instance."""
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    return logits, model.lora_blocks.routing.weights[0, 0]


def batch(rows, left):
    """Padded ids, mask and positions."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def test_prompts_of_the_tests_are_routed_differently():
    weights = torch.stack([alone(stacked(attention=True), row)[1] for row in prompts()])
    assert (weights[0] - weights[1]).abs().max() > 0.05 and (weights[1] - weights[2]).abs().max() > 0.05


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_neighbours_change_neither_weights_nor_logits(family, left):
    model = stacked(family, attention=True)
    ids, mask, positions = batch(prompts(), left)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=positions).logits
    weights = model.lora_blocks.routing.weights
    for i, row in enumerate(prompts()):
        expected, expected_weights = alone(model, row)
        torch.testing.assert_close(weights[i, 0], expected_weights, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logits[i, mask[i].bool()], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_are_routed_one_by_one(family):
    """Two rows of two documents and one; in each the first half is the prompt. Nothing sees what follows it."""
    model = stacked(family, attention=True)
    docs, rows = prompts(), [np.array([9, 4]), np.array([6])]
    ids, prompt = torch.zeros(2, 15, dtype=torch.long), torch.zeros(2, 15, dtype=torch.bool)
    places = [(0, slice(0, 9)), (0, slice(9, 13)), (1, slice(0, 6))]
    for doc, (row, place) in zip(docs, places, strict=True):
        ids[row, place] = doc
        prompt[row, place.start : place.start + len(doc) // 2] = True
    segments = masks.segment_ids(rows, 15)
    apart = masks.packed_inputs(model, segments, masks.bounds(rows, 15), 9)
    with torch.no_grad(), routed(model, prompt, segments):
        logits = model(ids, position_ids=masks.positions(rows, 15), use_cache=False, **apart).logits
        weights = model.lora_blocks.routing.weights
    assert model.lora_blocks.routing.weights is None
    for doc, (row, place) in zip(docs, places, strict=True):
        half = torch.arange(len(doc)) < len(doc) // 2
        with torch.no_grad(), routed(model, half[None]):
            expected = model(doc[None]).logits[0]
            expected_weights = model.lora_blocks.routing.weights[0]
        torch.testing.assert_close(weights[row, place], expected_weights.expand(len(doc), 3), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logits[row, place], expected, rtol=1e-3, atol=1e-4)


def written(model, rows, **how):
    """The new tokens of each row, generated together behind padding on the left."""
    ids, mask, _ = batch(rows, left=True)
    settings = GenerationConfig(**{**GREEDY, **how})
    return model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[:, ids.shape[1] :]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_is_that_of_each_prompt_alone_without_one(family, beams):
    model = stacked(family, attention=True)
    together = written(model, prompts(), num_beams=beams)
    for row, found in zip(prompts(), together, strict=True):
        with routed(model, torch.ones(1, len(row), dtype=torch.bool)):
            expected = written(model, [row], num_beams=beams, use_cache=False)[0]
            weights = model.lora_blocks.routing.weights[0, 0]
        assert found.tolist() == expected.tolist()
        torch.testing.assert_close(weights, alone(model, row)[1], rtol=1e-5, atol=1e-6)


def test_generation_is_greedy_decoding_step_by_step():
    """The weights of the prompt, at each step, under a plain loop over growing rows."""
    model, row = stacked(attention=True), prompts()[0]
    grown = row[None]
    for _ in range(6):
        prompt = torch.arange(grown.shape[1])[None] < len(row)
        with torch.no_grad(), routed(model, prompt):
            grown = torch.cat([grown, model(grown).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert written(model, [row])[0].tolist() == grown[0, len(row) :].tolist()
    assert written(model, [row]).tolist() != written(bare(), [row]).tolist()


def test_an_explicit_prompt_takes_precedence_in_generation_too():
    model, row = stacked(attention=True), prompts()[0]
    half = (torch.arange(len(row)) < 3)[None]
    with routed(model, half):
        written(model, [row])
        weights = model.lora_blocks.routing.weights[0, 0]
    torch.testing.assert_close(weights, alone(model, row[:3])[1])


def test_two_caches_in_turn_keep_their_own_weights():
    model, (first, second, _) = stacked(attention=True), prompts()
    follow = torch.tensor([[7, 8]])
    with torch.no_grad():
        caches = [model(row[None], use_cache=True).past_key_values for row in (first, second)]
        steps = [model(follow, past_key_values=cache).logits for cache in caches]
        for row, step in zip((first, second), steps, strict=True):
            with routed(model, (torch.arange(len(row) + 2) < len(row))[None]):
                whole = model(torch.cat([row[None], follow], 1)).logits[:, -2:]
            torch.testing.assert_close(step, whole, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="not filled by this model"):
        model(follow, past_key_values=copy.deepcopy(caches[0]))
    with pytest.raises(ValueError, match="do not go on"):
        model(follow.expand(2, 2), past_key_values=caches[0])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_ids_masks_and_caches_may_be_given_by_position_or_as_embeddings(family):
    model, row = stacked(family, attention=True), prompts()[0][None]
    expected, weights = alone(model, row[0])
    mask = torch.ones_like(row)
    with torch.no_grad():
        given = (row, None, mask) if family == "gpt2" else (row, mask)
        assert torch.equal(model(*given).logits[0], expected)
        embedded = model(inputs_embeds=model.get_input_embeddings()(row), past_key_values=DynamicCache()).logits[0]
    torch.testing.assert_close(embedded, expected)
    assert torch.equal(model.lora_blocks.routing.weights[0, 0], weights)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_phi_and_the_key_are_those_of_the_formula(checkpointing):
    """Two forward passes of other prompts before one backward pass; their contexts have ended by then."""
    model = stacked(attention=True).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(name.startswith("lora_blocks.attention.") for name in trained) == 5
    total = 0.0
    for row in prompts():
        with routed(model, (torch.arange(len(row)) < 3)[None]):
            total = total + model(row[None]).logits.square().mean()
    total.backward()
    assert model.lora_blocks.routing.weights is None
    other = stacked(attention=True)
    attention, routing = other.lora_blocks.attention, other.lora_blocks.routing
    expected = 0.0
    for row in prompts():
        pooled = other.get_input_embeddings()(row[:3]).detach().max(0).values
        routing.begin(attention(pooled[None])[:, None], False)
        expected = expected + other.lm_head(other.model(row[None]).last_hidden_state).square().mean()
    expected.backward()
    torch.testing.assert_close(total, expected)
    for name, parameter in other.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(trained[name].grad, parameter.grad, rtol=1e-4, atol=1e-5, msg=name)
            assert parameter.grad.abs().max() > 1e-6, name


class Objective(torch.nn.Module):
    """Language loss, reflection on one old task and O-LoRA's penalty: all that a stage may add up."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        blocks = self.model.lora_blocks
        with routed(self.model, (torch.arange(ids.shape[1]) < 4).expand_as(ids)):
            loss = self.model(ids, labels=ids, use_cache=False).loss
        memory = [(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0.9, 0.1]))]
        return loss + reflection(blocks.attention, memory, [torch.tensor([0])]) + 0.01 * blocks.penalty("absolute")


@pytest.mark.slow
def test_every_zero_stage_trains_the_blocks_like_plain_pytorch(tmp_path):
    """Three steps of SGD in fp32, layers checkpointed in DeepSpeed's runs; what is saved is gathered by name."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    found = {}
    for stage in (None, 0, 1, 2, 3):
        model = stacked(attention=True).train()
        model.lora_blocks.want_penalty = True
        if stage is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        objective, optimiser = Objective(model), torch.optim.SGD(trained.values(), lr=0.05)
        engine = objective
        if stage is not None:
            zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
            config = {"train_batch_size": 2, "zero_optimization": zero, "gradient_clipping": 0.0}
            config["zero_allow_untested_optimizer"] = True
            engine, *_ = deepspeed.initialize(
                model=objective, optimizer=optimiser, config=config, dist_init_required=False
            )
        losses = []
        for seed in range(3):
            loss = engine(ids_of(2, 8, seed))
            losses.append(loss.item())
            if stage is None:
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            else:
                engine.backward(loss)
                engine.step()
        gathered = {n: p.detach() if not stage else safe_get_full_fp32_param(p) for n, p in trained.items()}
        found[stage] = losses, block_tensors(model, gathered)
        if stage == 3:
            with pytest.raises(RuntimeError, match="lies in pieces"):
                block_tensors(model)
        if stage is not None:
            engine.destroy()
    start = block_tensors(stacked(attention=True))
    assert any((found[None][1][name] - start[name]).abs().max() > 1e-3 for name in start)
    for stage in (0, 1, 2, 3):
        assert found[stage][0] == pytest.approx(found[None][0], rel=1e-5)
        for name, expected in found[None][1].items():
            torch.testing.assert_close(found[stage][1][name], expected, rtol=1e-4, atol=1e-6)


def test_inference_and_training_take_turns():
    """Nothing that inference mode made is left where training would meet it."""
    model = stacked(attention=True)
    with torch.inference_mode():
        model(ids_of())
    model.train()(ids_of()).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_projection_at_targets_sees_the_same_model():
    model, ids = stacked(attention=True), ids_of()
    with torch.no_grad():
        whole = model(ids).logits
        with projected_at(model, torch.tensor([3, 12])):
            some = model(ids).logits
    torch.testing.assert_close(some, whole.flatten(0, 1)[[3, 12]])


def test_a_model_without_attention_is_left_alone():
    ids = ids_of()
    for model in (bare(), stacked()):
        with torch.no_grad():
            plain = model(ids).logits
            with routed(model, torch.zeros_like(ids).bool()):
                assert torch.equal(model(ids).logits, plain)


def test_what_cannot_be_routed_is_refused():
    model, ids = stacked(attention=True), ids_of()
    with pytest.raises(ValueError, match=r"call the model inside `routed"):
        model(ids, attention_mask=torch.zeros(2, 1, 9, 9))
    with (
        pytest.raises(ValueError, match=r"prompts of shape \(2, 5\) for tokens \(2, 9\)"),
        routed(model, ids[:, :5] > 0),
    ):
        model(ids)
    with pytest.raises(RuntimeError, match="call the whole model"):
        stacked(attention=True).model(ids)


def test_routing_is_copied_and_pickled_without_its_weights():
    model = stacked(attention=True)
    model(ids_of())
    for other in (copy.deepcopy(model.lora_blocks.routing), pickle.loads(pickle.dumps(model.lora_blocks.routing))):
        assert other.weights is None and (other.ranks, other.scales) == ((4, 2, 3), (2.0, 3.0, 2.0))


def test_the_empty_prompt_weighs_all_blocks_alike():
    """Plain text has no prompt: zeros are pooled, whose query is the norm's bias; all keys at zero make it uniform."""
    tensors = old_tensors(attention=True)
    tensors["attention.norm_bias"].zero_()
    model = bare()
    attach(model, FAMILIES["llama"][1], OLD, NEW, tensors, attention=True)
    with torch.no_grad(), routed(model, torch.zeros(2, 9).bool()):
        model(ids_of())
        torch.testing.assert_close(model.lora_blocks.routing.weights, torch.full((2, 1, 3), 1 / 3))
    pooled, _ = pooled_prompts(torch.randn(1, 4, 32), torch.zeros(1, 4))
    assert not pooled.any()
