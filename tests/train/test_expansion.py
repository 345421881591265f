"""Stages that add transformer layers: under ZeRO 0-3, left and gone on, gone on with in the next stage, exported."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from clray.exporting import export
from clray.models.loading import load_model
from clray.train.checkpoint import Checkpoints, clear
from clray.train.order import StageLeft

pytestmark = pytest.mark.ray
EXPAND = "method.adapter={kind: expansion, layers: 2}"
RENAMED = {"model.layers.0.": "model.layers.0.", "model.layers.1.": "model.layers.2."}
"""Where the parent's two layers stand in the expanded model of four."""


def tensors(store, key):
    return load_file(store.weights(key) / "model.safetensors")


def renamed(name):
    return next((name.replace(old, new, 1) for old, new in RENAMED.items() if name.startswith(old)), name)


def losses(result):
    return [point["loss"] for point in result.curve]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_old_layers_keep_their_bits_and_a_left_stage_goes_on(train, alone, zero, precision):
    how = [EXPAND, f"compute.zero_stage={zero}", f"compute.precision={precision}", "compute.micro_batch=4"]
    order, whole, store = train(0, how)
    before, after = tensors(store, order.parent), tensors(store, order.key)
    assert all(torch.equal(after[renamed(name)], old.to(after[renamed(name)].dtype)) for name, old in before.items())
    assert after["model.layers.3.mlp.down_proj.weight"].abs().sum() > 0
    assert whole.base == order.key and whole.training["trained_parameters"] < whole.training["parameters"] / 1.5
    asked = []
    leaving = dataclasses.replace(alone, leave=lambda: asked.append(1) or len(asked) >= 3)
    with pytest.raises(StageLeft):
        train(0, how, leaving)
    saved = Checkpoints(store, order.key, 2, print).newest(order.mixture).tensors(store)
    assert {name.split(".")[2] for name in saved} == {"1", "3"}
    _, again, _ = train(0, how)
    clear(store, order.key)
    assert again.files == whole.files


def test_every_zero_stage_trains_the_same(train):
    plain = losses(train(0, [EXPAND])[1])
    assert plain[-1] < plain[0]
    for zero in (1, 2, 3):
        assert losses(train(0, [EXPAND, f"compute.zero_stage={zero}"])[1]) == pytest.approx(plain, rel=1e-4)


def test_the_first_loss_is_the_parents_own(train):
    assert losses(train(0, [EXPAND])[1])[0] == losses(train(0)[1])[0]


def test_the_next_stage_goes_on_with_the_same_layers_and_another_number_adds_its_own(train_line, tmp_path):
    plan, _ = train_line(tmp_path, [EXPAND])
    first, second = (tensors(plan.store, stage.key) for stage in plan.lines[0].stages)
    assert first.keys() == second.keys()
    moved = {name.split(".")[2] for name in first if not torch.equal(first[name], second[name])}
    assert moved == {"1", "3"}
    more, _ = train_line(tmp_path, [EXPAND, "stages.rows.method={adapter: {kind: expansion, layers: 1}}"])
    assert more.lines[0].stages[0].key == plan.lines[0].stages[0].key
    grown = load_model(more.store, more.lines[0].stages[1].key)
    assert grown.config.num_hidden_layers == 5
    assert all(torch.equal(grown.state_dict()[name], first[name]) for name in first)


def test_an_exported_expansion_is_a_plain_model(train_line, tmp_path):
    plan, _ = train_line(tmp_path / "store", [EXPAND], last=0)
    made = plan.store.generation(plan.lines[0].stages[0].key)
    assert made.complete and made.stage["adapter"] == {"kind": "expansion", "layers": 2}
    shape = plan.lines[0].stages[0].shape
    assert shape["layers"] == 4 and shape["parameters"] == pytest.approx(made.training["parameters"], rel=0.01)
    model = AutoModelForCausalLM.from_pretrained(export(str(tmp_path / "store"), made, tmp_path / "out"))
    ours, ids = load_model(plan.store, made.key), torch.arange(12)[None]
    assert model.config.num_hidden_layers == 4
    with torch.no_grad():
        assert torch.equal(model(ids).logits, ours(ids).logits)


def test_an_adapter_stands_on_an_expanded_model(train_line, tmp_path):
    plan, results = train_line(tmp_path, [EXPAND, "stages.rows.method={adapter: {kind: lora, rank: 4}}"])
    first, second = plan.lines[0].stages
    assert results[1].base == first.key
    assert load_model(plan.store, second.key).config.num_hidden_layers == 4
