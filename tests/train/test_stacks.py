"""Stages that add a LoRA block each: under ZeRO 0-3, left and gone on, with penalty, attention and reflection."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from clray import recording
from clray.errors import ModelError, SpecError
from clray.models import stacks
from clray.models.attention import initialise_key, reflection
from clray.models.loading import load_model, trainable_model
from clray.planner import make_plan
from clray.preparation import order_of, prepare_stage
from clray.spec import loading
from clray.train.loop import train_stage
from clray.train.order import StageLeft
from texts import texts, write_lines

pytestmark = pytest.mark.ray

TARGETS = "targets: [q_proj, v_proj]"
SAPT = f"{{kind: sapt, {TARGETS}, reflection: {{prompts: 20, batch: 4}}}}"
OLORA = f"{{kind: olora, rank: 4, {TARGETS}}}"
SUM = f"{{kind: lora_stack, rank: 4, {TARGETS}}}"


@pytest.fixture(scope="module")
def three(tiny_model, tmp_path_factory, ray_cluster):
    """Three instruct stages over generated text."""
    folder = tmp_path_factory.mktemp("stacks")
    asks = {"first": lambda t: t[0], "last": lambda t: t[-1], "second": lambda t: t[1]}
    for seed, (name, answer) in enumerate(asks.items()):
        rows = [
            {"instruction": f"{name} word of the text", "input": t, "output": answer(t.split())}
            for t in texts(40, most=20, seed=seed)
        ]
        write_lines(folder / f"{name}.jsonl", rows)
    stages = "\n".join(f"  - {{name: {n}, kind: instruct, data: {folder}/{n}.jsonl}}" for n in asks)
    return loading.loads(f"""
name: stacked
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 8}}
compute: {{micro_batch: 4}}
optimiser: {{learning_rate: 1e-2}}
stages:
{stages}
""")


@pytest.fixture(scope="module")
def chain(three, alone, tmp_path_factory):
    """Trains stages 0..last in a store of its own; returns (order, result) of the last stage that it trained, and the
    plan. What was asked before is not trained again; with `storage`, what is there is taken."""
    known = {}

    def run(adapter, last=2, overrides=(), context=alone, storage=None):
        asked = (adapter, last, tuple(overrides))
        if storage is None and asked in known:
            return known[asked]
        where = storage or tmp_path_factory.mktemp("chain")
        stream = loading.loads(loading.to_yaml(three), [f"method.adapter={adapter}", f"storage={where}", *overrides])
        plan = make_plan(stream)
        line, made = plan.lines[0], None
        for planned in line.stages[: last + 1]:
            if plan.store.generation(planned.key):
                continue
            prepared = prepare_stage(planned, plan.store, line)
            order = order_of(prepared, line, plan.store)
            result = train_stage(order, context)
            plan.store.commit(recording.generation(line, planned, prepared, result))
            made = order, result
        if storage is None:
            known[asked] = made, plan
        return made, plan

    return run


@pytest.fixture
def last_stage(chain, tmp_path):
    """Trains the third stage alone with overrides, on a copy of the first two generations."""

    def run(adapter, overrides=(), **how):
        if not (tmp_path / "store").exists():
            _, plan = chain(adapter, last=1)
            shutil.copytree(plan.store.root, tmp_path / "store")
        for left in (tmp_path / "store" / "generations").iterdir():
            if json.loads((left / "generation.json").read_text())["index"] == 3:
                shutil.rmtree(left)
        return chain(adapter, overrides=overrides, storage=tmp_path / "store", **how)

    return run


def saved(plan, number):
    return stacks.read(plan.store.weights(plan.lines[0].stages[number].key))


def losses(result):
    return [point["loss"] for point in result.curve]


@pytest.mark.parametrize("adapter", [SUM, OLORA, SAPT], ids=["sum", "olora", "sapt"])
def test_each_stage_adds_a_block_and_leaves_the_earlier_ones_as_they_are(chain, adapter):
    (_, result), plan = chain(adapter)
    first, third = saved(plan, 0), saved(plan, 2)
    assert [len(s.shapes) for s in (first, third)] == [1, 3]
    rank = first.shapes[0].rank
    for name, tensor in first.tensors.items():
        if name.endswith(".A"):
            assert torch.equal(third.tensors[name][:rank], tensor)
        if name.endswith(".B"):
            assert torch.equal(third.tensors[name][:, :rank], tensor) and tensor.abs().sum() > 0
    assert result.base == plan.lines[0].base.generation.key
    assert losses(result)[-1] < losses(result)[0]


def test_generations_of_summed_blocks_load_merged_and_equal_their_sum(chain, alone):
    _, plan = chain(SUM, last=1)
    key = plan.lines[0].stages[1].key
    model = load_model(plan.store, key)
    assert not hasattr(model, "lora_blocks")
    base = load_model(plan.store, plan.lines[0].base.generation.key)
    stack = saved(plan, 1)
    path = next(name for name in stack.tensors if name.endswith(".A"))[:-2]
    update = 4.0 * stack.tensors[f"{path}.B"] @ stack.tensors[f"{path}.A"]
    found = model.get_submodule(path).weight - base.get_submodule(path).weight
    assert torch.allclose(found, update, atol=1e-5)


@pytest.mark.parametrize("adapter", [OLORA, SAPT], ids=["olora", "sapt"])
def test_zero_stages_train_the_same(chain, last_stage, adapter):
    (_, plain), reference = chain(adapter)
    assert any(point.get("extra_loss", 0) > 0 for point in plain.curve)
    for zero in (1, 2, 3):
        (_, result), plan = last_stage(adapter, [f"compute.zero_stage={zero}"])
        assert losses(result) == pytest.approx(losses(plain), rel=1e-4)
        for name, tensor in saved(reference, 2).tensors.items():
            assert torch.allclose(saved(plan, 2).tensors[name], tensor, atol=2e-3), (zero, name)


def test_the_micro_batch_changes_no_extra_term(last_stage):
    (_, whole), _ = last_stage(SAPT, ["compute.micro_batch=8"])
    (_, parts), _ = last_stage(SAPT, ["compute.micro_batch=2"])
    assert [p["extra_loss"] for p in parts.curve] == pytest.approx([p["extra_loss"] for p in whole.curve], rel=1e-3)
    assert [p["newest_block_weight"] for p in parts.curve] == pytest.approx(
        [p["newest_block_weight"] for p in whole.curve], rel=1e-3
    )


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_left_stage_goes_on_to_the_same_bits(last_stage, alone, zero):
    how = [f"compute.zero_stage={zero}"]
    (_, whole), _ = last_stage(SAPT, how)
    asked = []
    leaving = dataclasses.replace(alone, leave=lambda: asked.append(1) or len(asked) >= 2)
    with pytest.raises(StageLeft):
        last_stage(SAPT, how, context=leaving)
    (_, again), _ = last_stage(SAPT, how)
    assert losses(again) == losses(whole)
    assert again.files["weights/blocks.safetensors"] == whole.files["weights/blocks.safetensors"]


def test_reflection_keeps_the_attention_of_earlier_tasks(last_stage):
    """With reflection, earlier tasks' prompts stay nearer to their recorded attention than without."""

    def divergence(weight):
        adapter = SAPT.replace("reflection: {", f"reflection: {{weight: {weight}, warmup: 0.0, ")
        method = f"stages.second.method={{adapter: {adapter}}}"
        (_, result), plan = last_stage(SAPT, [method, "stages.second.length={epochs: 4}"])
        model = load_model(plan.store, plan.lines[0].stages[2].key)
        memory = saved(plan, 2).memory[:2]
        return float(reflection(model.lora_blocks.attention, memory, [torch.arange(20)] * 2)), result

    (kept, result), (lost, _) = divergence(1.0), divergence(0.0)
    assert kept < lost
    assert kept < result.curve[0]["extra_loss"]


def test_memory_grows_by_one_task_a_stage_and_records_its_attention(chain):
    _, plan = chain(SAPT)
    memory = saved(plan, 2).memory
    assert [len(attention) for _, attention in memory] == [1, 2, 3]
    assert all(attention.sum() == pytest.approx(1.0, abs=1e-5) for _, attention in memory)
    assert all(pooled.shape == (20, 32) for pooled, _ in memory)


def test_the_new_key_begins_at_the_mean_query(chain, alone):
    _, plan = chain(SAPT, last=0)
    parent = plan.store.generation(plan.lines[0].stages[0].key)
    recipe = plan.lines[0].stages[1].recipe.resolved
    model, _ = trainable_model(plan.store, parent, recipe["adapter"], "fp32", "auto", False)
    attention = model.lora_blocks.attention
    pooled = torch.randn(7, 32)
    initialise_key(attention, pooled)
    assert torch.allclose(attention.key[0], attention(pooled, "query").mean(0), atol=1e-6)


def test_blocks_are_refused_on_another_embedding_table(chain, tmp_path):
    _, plan = chain(SAPT, last=0)
    base = load_model(plan.store, plan.lines[0].base.generation.key)
    with torch.no_grad():
        base.get_input_embeddings().weight[5] += 0.5
    with pytest.raises(ModelError, match="another embedding table"):
        stacks.put_on(base, saved(plan, 0))


def test_one_file_and_one_note_hold_everything(chain):
    _, plan = chain(SAPT, last=1)
    folder = plan.store.weights(plan.lines[0].stages[1].key)
    note = json.loads((folder / stacks.NOTE).read_text())
    assert note["remembered"] == 2 and note["attention"] and len(note["shapes"]) == 2
    tensors = load_file(folder / stacks.FILE)
    assert tensors["attention.keys"].shape == (2, 32)
    save_file(tensors, folder.parent / "copy.safetensors")


def test_a_full_stage_goes_on_from_summed_blocks_and_not_from_attended_ones(chain):
    (_, result), _ = chain(SUM, last=2, overrides=["stages.second.method={adapter: {kind: full}}"])
    assert losses(result)
    with pytest.raises(SpecError, match="cannot be merged"):
        chain(SAPT, overrides=["stages.second.method={adapter: {kind: full}}"])


def test_plain_text_has_no_prompt_to_select_by(chain, tmp_path):
    write_lines(tmp_path / "text.jsonl", [{"text": t} for t in texts(5)])
    change = [f"stages.first.data={tmp_path}/text.jsonl", "stages.first.kind=pretrain"]
    with pytest.raises(SpecError, match="plain text has none"):
        chain(SAPT, overrides=change)
