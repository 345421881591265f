"""A stage that carries AdamW's state goes on as one long training would, at every ZeRO stage, and resumes so."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clray.data.batches import PackedShards, plan_batches
from clray.data.manifest import Manifest
from clray.errors import StorageError
from clray.models.loading import load_model
from clray.planner import make_plan
from clray.preparation import order_of, prepare_stage
from clray.spec import loading
from clray.train.carry import take
from clray.train.objective import TargetLoss, collate
from clray.train.order import StageLeft

pytestmark = pytest.mark.ray
CARRY = "optimiser={learning_rate: 1e-3, state: carry}"
RESET = "optimiser={learning_rate: 1e-3}"
CONSTANT = "method.schedule={kind: constant, warmup: 0.0}"
LORA = "method.adapter={kind: lora, rank: 4}"


def losses(result):
    return [point["loss"] for point in result.curve]


def moments(store, key):
    return load_file(store.fetch(f"generations/{key}/optimiser") / "moments-00000.safetensors")


def plain_pytorch(plan):
    """Losses of all stages in plain PyTorch: one AdamW over them all, at a constant rate."""
    line = plan.lines[0]
    model = load_model(plan.store, line.base.generation.key)
    loss_of, trained = TargetLoss(model), list(model.parameters())
    optimiser = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    found = []
    for planned in line.stages:
        order = order_of(prepare_stage(planned, plan.store, line), line, plan.store)
        manifest = Manifest.load(plan.store, f"mixtures/{order.mixture}")
        shards = PackedShards(plan.store, manifest)
        steps = plan_batches(order.recipe["length"], len(shards), manifest.tokens, order.recipe["batch"], order.seed)
        for step in range(steps.steps):
            batch = collate(shards, steps.rows(step), steps.size)
            loss = loss_of(batch) / len(batch.labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            found.append(loss.item())
    return found


@pytest.fixture(scope="module")
def one(train_line, tmp_path_factory):
    """A store with the first generation, and its optimiser's state."""
    folder = tmp_path_factory.mktemp("carry")
    train_line(folder, [CARRY, CONSTANT], last=0)
    return folder


@pytest.fixture
def second(one, tmp_path, train_line):
    """Trains the second stage on a copy of the first generation; returns the plan and the stage's result."""

    def run(overrides=(CARRY, CONSTANT), name="store", **how):
        shutil.copytree(one, tmp_path / name, dirs_exist_ok=True)
        plan, (result,) = train_line(tmp_path / name, overrides, **how)
        return plan, result

    return run


def test_two_stages_are_one_long_training(second):
    plan, result = second()
    expected = plain_pytorch(plan)
    assert losses(result) == pytest.approx(expected[-len(result.curve) :], rel=1e-4)
    _, afresh = second((RESET, CONSTANT), "reset")
    assert losses(afresh)[0] == losses(result)[0]
    assert max(abs(a - b) / b for a, b in zip(losses(afresh), losses(result), strict=True)) > 1e-3
    first, then = (plan.store.generation(stage.key) for stage in plan.lines[0].stages)
    assert first.training["optimiser_steps"] == 6
    assert then.training["optimiser_steps"] == 6 + len(result.curve)


@pytest.mark.parametrize(
    ("zero", "offload"), [(0, "none"), (1, "none"), (2, "none"), (3, "none"), (1, "cpu"), (2, "cpu"), (3, "cpu")]
)
def test_every_zero_stage_carries_the_same_and_a_left_stage_goes_on(second, alone, zero, offload):
    how = (CARRY, CONSTANT, f"compute.zero_stage={zero}", f"compute.offload={offload}")
    plain, result = second()[1], second(how, "whole")[1]
    assert losses(result) == pytest.approx(losses(plain), rel=1e-4)
    asked = []
    leaving = dataclasses.replace(alone, leave=lambda: asked.append(1) or len(asked) >= 2)
    with pytest.raises(StageLeft):
        second(how, "left", context=leaving)
    plan, again = second(how, "left")
    assert losses(again) == losses(result)
    assert again.files == result.files
    assert any(name.startswith("optimiser/") for name in again.files)
    assert np.isfinite([t.abs().max() for t in moments(plan.store, again.key).values()]).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_moments_are_there_by_name_whatever_the_precision(train_line, tmp_path, precision):
    how = [CARRY, LORA, f"compute.precision={precision}", "compute.zero_stage=2"]
    plan, results = train_line(tmp_path, how)
    for result in results:
        found = moments(plan.store, result.key)
        assert found and all("lora_" in name and name.endswith(("/exp_avg", "/exp_avg_sq")) for name in found)
    assert load_model(plan.store, results[1].key) is not None


def test_state_is_kept_only_where_it_is_wanted(train_line, tmp_path):
    plan, results = train_line(tmp_path, [RESET])
    assert not any(name.startswith("optimiser/") for result in results for name in result.files)
    assert not plan.store.list(f"generations/{results[0].key}/optimiser")


def test_a_generation_without_state_is_refused_before_anything_is_spent(train_line, stream, tmp_path):
    train_line(tmp_path, [RESET], last=0)
    plan = make_plan(loading.loads(loading.to_yaml(stream), [f"storage={tmp_path}", CARRY]))
    with pytest.raises(StorageError, match=r"\(text\) is there without its optimiser's state"):
        prepare_stage(plan.lines[0].stages[1], plan.store, plan.lines[0])


def test_damaged_moments_are_named(second):
    plan, _ = second()
    file = plan.store.fetch(f"generations/{plan.lines[0].stages[0].key}/optimiser") / "moments-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StorageError, match=r"moments-00000\.safetensors is missing or altered"):
        take(None, plan.store, plan.store.generation(plan.lines[0].stages[0].key), 6)
