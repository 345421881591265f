"""Stacked blocks beside plain formulas and PEFT's own adapters, in six families of models."""

from __future__ import annotations

import copy

import pytest
import torch
from block_models import FAMILIES, NEW, OLD, bare, ids_of, old_tensors, stacked
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from clray.errors import ModelError
from clray.models.block_linear import BlockLinear
from clray.models.blocks import BlockShape, Routing, attach, block_as_peft, block_tensors, merged

SHAPES = [*OLD, NEW]


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def parts(tensors, path, shapes=SHAPES):
    """(A, B, alpha / rank) of each block at the path."""
    ranks = [shape.rank for shape in shapes]
    pairs = zip(tensors[f"{path}.A"].split(ranks), tensors[f"{path}.B"].split(ranks, 1), strict=True)
    return [(a, b, shape.alpha / shape.rank) for (a, b), shape in zip(pairs, shapes, strict=True)]


class Reference(torch.nn.Module):
    """The sum over blocks, one after the other, with the gradient that autograd gives it."""

    def __init__(self, base, blocks, weights, detached=0):
        super().__init__()
        self.base, self.weights, self.detached = base, weights, detached
        self.A = torch.nn.ParameterList([torch.nn.Parameter(a.clone()) for a, _, _ in blocks])
        self.B = torch.nn.ParameterList([torch.nn.Parameter(b.clone()) for _, b, _ in blocks])
        self.scales = [scale for _, _, scale in blocks]

    def forward(self, x):
        y = self.base(x)
        for i, scale in enumerate(self.scales):
            seen = x.detach() if i < self.detached else x
            y = y + self.weights[:, i, None, None] * scale * linear(linear(seen, self.A[i]), self.B[i])
        return y


def referenced(family, weights, detached=0):
    """The family's model with `Reference` where `stacked` has BlockLinear."""
    model, tensors = bare(family), block_tensors(stacked(family))
    for path in {name[:-2] for name in tensors}:
        parent, _, leaf = path.rpartition(".")
        holder = model.get_submodule(parent)
        setattr(holder, leaf, Reference(getattr(holder, leaf), parts(tensors, path), weights, detached))
    return model


def peft_with_all(family, tensors, shapes):
    """PEFT's model with one adapter a block, all of them active."""
    model, targets = bare(family), FAMILIES[family][1]
    for i, shape in enumerate(shapes):
        config = LoraConfig(
            r=shape.rank,
            lora_alpha=shape.alpha,
            target_modules=targets if isinstance(targets, str) else list(targets),
            fan_in_fan_out=family == "gpt2",
        )
        model = get_peft_model(model, config, adapter_name="b0") if i == 0 else model
        if i:
            model.add_adapter(f"b{i}", config)
    model.base_model.set_adapter([f"b{i}" for i in range(len(shapes))])
    for path in {name[:-2] for name in tensors}:
        layer = model.base_model.model.get_submodule(path)
        for i, (a, b, _) in enumerate(parts(tensors, path, shapes)):
            layer.lora_A[f"b{i}"].weight.data.copy_(a)
            layer.lora_B[f"b{i}"].weight.data.copy_(b)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_three_blocks_are_the_sum_of_three_peft_adapters(family):
    model, ids = stacked(family), ids_of()
    expected = logits(peft_with_all(family, block_tensors(model), SHAPES), ids)
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits(bare(family), ids)).abs().max() > 0.05, "the blocks change nothing"


def test_one_block_alone_is_one_peft_adapter():
    shape = [BlockShape(4, 8.0)]
    tensors = old_tensors(shapes=shape)
    model = bare()
    attach(model, FAMILIES["llama"][1], shape, None, tensors, attention=False)
    expected = logits(peft_with_all("llama", tensors, shape), ids_of())
    torch.testing.assert_close(logits(model, ids_of()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_block_changes_nothing_until_it_is_trained(family):
    model = bare(family)
    attach(model, FAMILIES[family][1], [], NEW, attention=False)
    assert torch.equal(logits(model, ids_of()), logits(bare(family), ids_of()))


def gradients(model, ids, names):
    model.zero_grad()
    (model(ids).logits.float() ** 2).mean().backward()
    return {name: dict(model.named_parameters())[name].grad.clone() for name in names}


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_gradients_are_those_of_the_unstacked_sum(family, detach):
    """Of the new block in every layer, and of the weights: the first layer's come through the blocks above."""
    ids, model = ids_of(), stacked(family, detach_old=detach)
    weights = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]], requires_grad=True)
    routing = model.lora_blocks.routing
    routing.attended = True
    model.lora_blocks.attention = Fixed(weights)
    found = gradients(model, ids, [f"{path}.{x}" for path in model.lora_blocks.layers for x in "AB"])
    same_weights = weights.detach().clone().requires_grad_()
    other = referenced(family, same_weights, detached=2 if detach else 0)
    (other(ids).logits ** 2).mean().backward()
    for path in model.lora_blocks.layers:
        reference = other.get_submodule(path)
        for letter in "AB":
            expected = getattr(reference, letter)[2].grad
            torch.testing.assert_close(found[f"{path}.{letter}"], expected, rtol=1e-4, atol=1e-5)
            assert expected.abs().max() > 1e-4
    torch.testing.assert_close(weights.grad, same_weights.grad, rtol=1e-4, atol=1e-5)


class Fixed(torch.nn.Module):
    """An attention that gives row i of the batch the i-th row of its weights."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, pooled):
        return self.weights[: len(pooled)]


def test_old_blocks_take_no_gradient_but_pass_it_on():
    """Only A, B and nothing else is trained; detaching the old blocks changes the gradient of the lower layer alone."""
    found = {}
    for detach in (False, True):
        model = stacked(detach_old=detach)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        assert names == [f"{path}.{x}" for path in model.lora_blocks.layers for x in "AB"]
        assert not any(b.requires_grad for b in model.buffers())
        found[detach] = gradients(model, ids_of(), names)
    exact, cut = found[False], found[True]
    for name in exact:
        same = torch.allclose(exact[name], cut[name], rtol=1e-4, atol=1e-6)
        assert same == ("layers.1" in name), name


def test_gradient_checkpointing_gives_the_same_gradients():
    model = stacked()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    plain = gradients(model.train(), ids_of(), names)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    for name, gradient in gradients(model, ids_of(), names).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_blocks_give_the_same_bits(family, attention, tmp_path):
    """As all-old blocks, and with the last of them still the new one's shape."""
    model, ids = stacked(family, attention), ids_of()
    save_file(block_tensors(model), tmp_path / "blocks.safetensors")
    again = bare(family)
    tensors = load_file(tmp_path / "blocks.safetensors")
    attach(again, FAMILIES[family][1], SHAPES, None, tensors, attention=attention)
    assert torch.equal(logits(again, ids), logits(model, ids))
    saved_again = block_tensors(again)
    assert saved_again.keys() == tensors.keys() and all(torch.equal(saved_again[n], tensors[n]) for n in tensors)
    assert not any(p.requires_grad for p in again.parameters())


def test_gathered_parameters_are_saved_instead_of_the_models_own():
    model, path = stacked(attention=True), "model.layers.1.self_attn.v_proj"
    other = torch.full_like(model.get_submodule(path).A, 2.0)
    key = torch.full((1, 32), 3.0)
    saved = block_tensors(model, {f"{path}.A": other, "lora_blocks.attention.key": key})
    assert torch.equal(saved[f"{path}.A"][-3:], other) and torch.equal(saved["attention.keys"][-1:], key)
    assert torch.equal(saved[f"{path}.A"][:-3], model.get_submodule(path).old_A)
    with pytest.raises(RuntimeError, match=r"v_proj.A lies in pieces"):
        block_tensors(model, {f"{path}.A": torch.empty(0)})


def test_a_copy_is_independent_and_complete():
    model, ids = stacked(attention=True), ids_of()
    before = logits(model, ids)
    other = copy.deepcopy(model)
    blocks = other.lora_blocks
    assert blocks.routing is not model.lora_blocks.routing and blocks.routing.weights is None
    assert all(layer.routing is blocks.routing for layer in blocks.layers.values())
    assert all(layer is other.get_submodule(path) for path, layer in blocks.layers.items())
    assert torch.equal(logits(other, ids), before)
    for layer in blocks.layers.values():
        layer.B.data.zero_()
    assert torch.equal(logits(model, ids), before) and not torch.equal(logits(other, ids), before)
    assert not any("routing" in name for name in model.state_dict())
    merged(other, [1.0, 1.0, 1.0])
    assert not other._forward_pre_hooks and model._forward_pre_hooks


def test_bf16_is_near_fp32_and_keeps_scales_that_bf16_has_not():
    """2/3 is no bf16 number: as a factor it would be off by 1/512 of every output."""
    base = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
    layer = BlockLinear(base, "x", [BlockShape(24, 16.0)], None, Routing([24], [16 / 24], False))
    torch.manual_seed(0)
    layer.old_A.normal_(), layer.old_B.normal_()
    x = torch.randn(200, 64, dtype=torch.bfloat16)
    update = layer(x).float() - base(x).float()
    exact = linear(linear(x.float(), layer.old_A.float()), layer.old_B.float()) * (16 / 24)
    assert ((update * exact).sum() / (exact * exact).sum()).item() == pytest.approx(1, abs=5e-4)
    model = stacked(attention=True, dtype=torch.bfloat16)
    assert model.lora_blocks.attention.down.dtype == torch.float32
    assert {p.dtype for layer in model.lora_blocks.layers.values() for p in layer.parameters()} == {torch.bfloat16}
    got, expected = logits(model, ids_of()).float(), logits(stacked(attention=True), ids_of())
    assert (got - expected).abs().mean() < 0.03 * expected.abs().mean()


def test_penalties_are_the_written_formulas():
    model, ids = stacked(), ids_of()
    blocks = model.lora_blocks
    with pytest.raises(RuntimeError, match="want_penalty"):
        blocks.penalty("absolute")
    blocks.want_penalty = True
    model(ids)
    overlaps = [layer.old_A @ layer.A.T for layer in blocks.layers.values()]
    expected = {
        "absolute": sum(overlap.abs().sum() for overlap in overlaps),
        "frobenius": sum((overlap**2).sum() for overlap in overlaps),
    }
    for kind, value in expected.items():
        penalty = blocks.penalty(kind)
        torch.testing.assert_close(penalty, value)
        found = torch.autograd.grad(penalty, [layer.A for layer in blocks.layers.values()], retain_graph=True)
        wanted = torch.autograd.grad(value, [layer.A for layer in blocks.layers.values()], retain_graph=True)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
    alone = bare()
    only = attach(alone, ["q_proj"], [], NEW, attention=False)
    only.want_penalty = True
    alone(ids)
    assert only.penalty("absolute") == 0


def test_the_penalty_is_the_same_under_gradient_checkpointing():
    found = []
    for checkpointing in (False, True):
        model = stacked().train()
        model.lora_blocks.want_penalty = True
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        loss, penalty = model(ids_of()).logits.square().mean(), model.lora_blocks.penalty("absolute")
        (loss + penalty).backward()
        found.append([penalty.detach(), *(layer.A.grad for layer in model.lora_blocks.layers.values())])
        assert float(model.lora_blocks.penalty("absolute").detach()) == float(penalty.detach())
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_merging_with_fixed_weights_gives_the_same_model_without_blocks(family):
    model, ids, weights = stacked(family), ids_of(), torch.tensor([0.5, -0.2, 2.0])
    expected = logits(referenced(family, weights.expand(2, 3)), ids)
    merged(model, weights.tolist())
    assert not hasattr(model, "lora_blocks") and not any(isinstance(m, BlockLinear) for m in model.modules())
    assert model.state_dict().keys() == bare(family).state_dict().keys()
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_block_alone_is_a_peft_adapter(family, tmp_path):
    model, ids = stacked(family, attention=True), ids_of()
    for index in range(3):
        block_as_peft(model, index, tmp_path / str(index))
        loaded = PeftModel.from_pretrained(bare(family), str(tmp_path / str(index))).eval()
        weights = torch.zeros(2, 3)
        weights[:, index] = 1.0
        torch.testing.assert_close(logits(loaded, ids), logits(referenced(family, weights), ids), rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="there is no block 3; the model has 3"):
        block_as_peft(model, 3, tmp_path)


def test_targets_are_pefts_and_never_the_output_embedding():
    """v_proj is narrower than q_proj under grouped-query attention; Conv1D has its sizes the other way round."""
    model = stacked("llama")
    layer = model.lora_blocks.layers["model.layers.0.self_attn.v_proj"]
    assert (layer.in_features, layer.out_features) == (32, 16) and layer.B.shape == (16, 3)
    for family in ("qwen3", "gpt2"):
        peft = get_peft_model(bare(family), LoraConfig(target_modules="all-linear", fan_in_fan_out=family == "gpt2"))
        assert set(stacked(family).lora_blocks.layers) == set(peft.base_model.targeted_module_names)
    assert isinstance(stacked("gpt2").lora_blocks.layers["transformer.h.0.attn.c_attn"].base, Conv1D)


def test_what_does_not_fit_is_named():
    tensors, targets = old_tensors(), FAMILIES["llama"][1]
    linears = r"its linear modules are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(ModelError, match=rf'adapter.targets \["c_attn", "lm_head"\] fits no module .* {linears}'):
        attach(bare(), ["q_proj", "c_attn", "lm_head"], [], NEW, attention=False)
    with pytest.raises(ModelError, match=r"lacks attention.down and 4 more"):
        attach(bare(), targets, OLD, None, tensors, attention=True)
    with pytest.raises(ModelError, match=r"has, for nothing here, model.layers.0.self_attn.v_proj.A and 3 more"):
        attach(bare(), ["q_proj"], OLD, None, tensors, attention=False)
    with pytest.raises(ModelError, match=r"q_proj.A of shape \(6, 32\), but .* want \(5, 32\)"):
        attach(bare(), targets, [BlockShape(5, 1.0)], None, tensors, attention=False)
    with pytest.raises(ModelError, match="no LoRA block"):
        attach(bare(), targets, [], None, attention=False)
    with pytest.raises(ModelError, match="has LoRA blocks already"):
        attach(stacked(), targets, [], NEW, attention=False)
    with pytest.raises(ModelError, match="2 weights for 3 blocks"):
        merged(stacked(), [1.0, 1.0])


def test_new_weights_follow_from_the_seed():
    found = []
    for seed, generator in ((1, None), (1, None), (2, None), (9, 1), (8, 1)):
        model = bare()
        torch.manual_seed(seed)
        random = generator and torch.Generator().manual_seed(generator)
        attach(model, "all-linear", [], NEW, attention=True, generator=random)
        found.append(block_tensors(model))
    same = [all(torch.equal(found[a][name], found[b][name]) for name in found[0]) for a, b in ((0, 1), (0, 2), (3, 4))]
    assert same == [True, False, True]
    bound = (1 / 32) ** 0.5
    assert found[0]["model.layers.0.self_attn.q_proj.A"].abs().max() <= bound
    assert 0.5 < found[0]["attention.keys"].abs().max() <= 1
