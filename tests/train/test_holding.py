"""Held and merged stages: as written out in plain PyTorch, under ZeRO 0-3, in other micro-batches, left and gone on."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file

from clray.data.batches import PackedShards, plan_batches
from clray.data.manifest import Manifest
from clray.models.loading import load_model, require, trainable_model
from clray.preparation import order_of, prepare_stage
from clray.train.objective import TargetLoss, collate
from clray.train.order import StageLeft
from clray.train.schedule import learning_rate

pytestmark = pytest.mark.ray
REPLAY = "method.replay={kind: random, share: 0.4}"
SECOND = {
    "l2": "{kind: l2, weight: 20.0}",
    "ewc": "{kind: ewc, weight: 300.0, samples: 12}",
    "per_task": "{kind: ewc, weight: 300.0, samples: 12, fisher: per_task}",
    "lwf": "{kind: lwf, weight: 2.0, top_k: 366}",
    "der": "{kind: der, weight: 0.5, top_k: 366}",
}
"""With top_k the whole vocabulary of 366."""


def held(kind):
    return f"stages.rows.method={{regulariser: {SECOND[kind]}}}"


def losses(result):
    return [point["loss"] for point in result.curve]


def penalties(result):
    return [point.get("extra_loss", 0.0) for point in result.curve]


def weights(store, key, name="model"):
    return load_file(store.weights(key) / f"{name}.safetensors")


@pytest.fixture(scope="module")
def first(train_line, tmp_path_factory):
    """Stores with the first generation and the data of the second, by adapter."""
    known = {}

    def made(adapter):
        if adapter not in known:
            known[adapter] = tmp_path_factory.mktemp("first")
            plan, _ = train_line(known[adapter], [REPLAY, f"method.adapter={adapter}"], last=0)
            prepare_stage(plan.lines[0].stages[1], plan.store, plan.lines[0])
        return known[adapter]

    return made


@pytest.fixture
def second(first, tmp_path, train_line):
    """Trains the second stage on a copy of the first generation; returns the plan and the stage's result."""

    def run(*overrides, adapter="{kind: full}", name=None, **how):
        folder = tmp_path / (name or str(len(list(tmp_path.iterdir()))))
        if not folder.exists():
            shutil.copytree(first(adapter), folder)
        plan, results = train_line(folder, [REPLAY, f"method.adapter={adapter}", *overrides], **how)
        return plan, results[-1]

    return run


def plain_pytorch(plan, kind):
    """Losses and penalties of the second stage in plain PyTorch, its penalty written out with all there is to know: the
    parent's whole predictions, or the Fisher of the first stage's examples one by one."""
    line, store = plan.lines[0], plan.store
    planned = line.stages[1]
    order = order_of(prepare_stage(planned, store, line), line, store)
    manifest = Manifest.load(store, f"mixtures/{order.mixture}")
    shards = PackedShards(store, manifest)
    steps = plan_batches(order.recipe["length"], len(shards), manifest.tokens, order.recipe["batch"], order.seed)
    recipe, parent = order.recipe, require(store, order.parent)
    torch.manual_seed(order.seed)
    model, teacher = (trainable_model(store, parent, recipe["adapter"], "fp32", "auto", False)[0] for _ in range(2))
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    fisher = {name: torch.ones_like(p) for name, p in start.items()}
    if kind in ("ewc", "per_task"):
        (file,) = store.fetch(f"generations/{parent.key}/ewc").glob("*/fisher.safetensors")
        fisher = load_file(file)
    loss_of, taught_by = TargetLoss(model), TargetLoss(teacher)
    trained = [p for p in model.parameters() if p.requires_grad]
    logits = {}
    for which in (loss_of, taught_by):
        which.model.get_output_embeddings().register_forward_hook(
            lambda module, given, out, which=which: logits.__setitem__(which, out)
        )
    groups = [[p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]]
    optimiser = torch.optim.AdamW(
        [{"params": g, "weight_decay": d} for g, d in zip(groups, (0.1, 0.0), strict=True) if g], betas=(0.9, 0.95)
    )
    settings, found = recipe["regulariser"], []
    for step in range(steps.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps.steps, 1e-3, recipe["schedule"])
        batch = collate(shards, steps.rows(step), steps.size)
        loss = loss_of(batch) / len(batch.labels)
        if kind in ("lwf", "der"):
            with torch.no_grad():
                taught_by(batch)
            student, known = logits[loss_of], logits[taught_by]
            if kind == "lwf":
                probabilities = torch.softmax(known / 2, -1)
                log = torch.log_softmax(student / 2, -1)
                apart = 4 * torch.nn.functional.kl_div(log, probabilities, reduction="sum") / len(batch.labels)
            else:
                apart = (student - known).square().mean(1)[batch.origins > 0].sum() / len(batch.labels)
            penalty = settings["weight"] * apart
        else:
            named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            penalty = settings["weight"] / 2 * sum((fisher[n] * (p - start[n]) ** 2).sum() for n, p in named)
        (loss + penalty).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        found.append((loss.item(), penalty.item()))
    return found


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [
        ("l2", "{kind: full}"),
        ("ewc", "{kind: full}"),
        ("per_task", "{kind: lora, rank: 4}"),
        ("lwf", "{kind: full}"),
        ("der", "{kind: lora, rank: 4}"),
    ],
)
def test_a_held_stage_is_what_is_written_out_in_plain_pytorch(second, kind, adapter):
    plan, result = second(held(kind), adapter=adapter)
    expected = plain_pytorch(plan, kind)
    assert losses(result) == pytest.approx([loss for loss, _ in expected], rel=2e-4)
    assert penalties(result) == pytest.approx([penalty for _, penalty in expected], rel=2e-3, abs=1e-6)
    assert max(penalty for _, penalty in expected) > 1e-4


@pytest.mark.parametrize("kind", ["ewc", "lwf"])
def test_zero_stages_and_micro_batches_train_the_same(second, kind):
    reference = second(held(kind))[1]
    for how in ("compute.zero_stage=1", "compute.zero_stage=2", "compute.zero_stage=3", "compute.micro_batch=3"):
        result = second(held(kind), how)[1]
        assert losses(result) == pytest.approx(losses(reference), rel=1e-4), how
        assert penalties(result) == pytest.approx(penalties(reference), rel=2e-3, abs=1e-6), how


@pytest.mark.parametrize(("kind", "zero"), [("ewc", 3), ("l2", 2), ("lwf", 3), ("der", 0)])
def test_a_left_stage_goes_on_to_the_same_bits(second, alone, kind, zero):
    how = (held(kind), f"compute.zero_stage={zero}", "compute.micro_batch=4")
    whole = second(*how)[1]
    asked = []
    leaving = dataclasses.replace(alone, leave=lambda: asked.append(1) or len(asked) >= 2)
    with pytest.raises(StageLeft):
        second(*how, name="left", context=leaving)
    again = second(*how, name="left")[1]
    assert penalties(again) == penalties(whole) and again.files == whole.files


def test_predictions_are_kept_by_content_and_used_again(second):
    plan, result = second(held("lwf"), name="store")
    (kept,) = plan.store.list("logits")
    heavier = held("lwf").replace("weight: 2.0", "weight: 3.0")
    _, other = second(heavier, name="store")
    assert plan.store.list("logits") == [kept] and other.key != result.key
    assert other.training["holding_seconds"] > 0


@pytest.mark.parametrize("adapter", ["{kind: full}", "{kind: lora, rank: 4}"], ids=["full", "lora"])
def test_a_linear_merge_lies_between_parent_and_trained(second, adapter):
    name = "model" if "full" in adapter else "adapter_model"
    trained, _ = second(adapter=adapter)
    merged, result = second("stages.rows.merge={weight: 0.25}", "compute.zero_stage=3", adapter=adapter)
    (parent, alone), both = (stage.key for stage in trained.lines[0].stages), merged.lines[0].stages[1].key
    then, now, found = (
        weights(plan.store, key, name) for plan, key in ((trained, parent), (trained, alone), (merged, both))
    )
    for key, value in found.items():
        assert torch.allclose(value, then[key] + 0.25 * (now[key] - then[key]), atol=2e-5)
    assert result.training["steps"] and load_model(merged.store, both) is not None


def test_merges_by_task_vectors_and_with_the_base(second):
    plan, _ = second("stages.rows.merge={method: dare_ties, density: 0.3}")
    again, _ = second("stages.rows.merge={method: dare_ties, density: 0.3}")
    base, _ = second("stages.rows.merge={with: base, method: ties, density: 0.3}")
    keys = [each.lines[0].stages[1].key for each in (plan, again, base)]
    found = [weights(each.store, key) for each, key in zip((plan, again, base), keys, strict=True)]
    root = weights(base.store, base.lines[0].base.generation.key)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    name = "model.layers.0.mlp.up_proj.weight"
    changed = (found[2][name] != root[name]).float().mean()
    assert 0.25 < changed < 0.31


def test_a_full_stage_is_merged_with_a_parent_that_is_an_adapter(second):
    how = "stages.rows.method={adapter: {kind: full}}", "stages.rows.merge={weight: 0.001}"
    plan, _ = second(*how, adapter="{kind: lora, rank: 4}")
    parent, merged = (load_model(plan.store, stage.key).state_dict() for stage in plan.lines[0].stages)
    assert max((merged[name] - parent[name]).abs().max() for name in parent) < 1e-4
