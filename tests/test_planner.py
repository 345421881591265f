"""What a stage goes on from is checked when it is planned: no worker, no Ray, nothing spent."""

import pytest

from clray.errors import SpecError
from clray.planner import make_plan
from clray.spec import loading
from texts import texts, write_lines


@pytest.fixture
def stream(tiny_model, tmp_path):
    """Three stages of plain text on a model of two layers."""
    for seed, name in enumerate("xyz"):
        write_lines(tmp_path / f"{name}.jsonl", [{"text": t} for t in texts(5, seed=seed)])
    stages = "\n".join(f"  - {{name: {n}, kind: pretrain, data: {tmp_path}/{n}.jsonl}}" for n in "xyz")
    return loading.loads(f"""
name: planned
model: {{base: {tiny_model}}}
storage: {tmp_path}/store
sequence_length: 64
stages:
{stages}
""")


def plan_of(stream, *overrides):
    return make_plan(loading.loads(loading.to_yaml(stream), overrides))


def complaint(stream, *overrides):
    with pytest.raises(SpecError) as found:
        plan_of(stream, *overrides)
    return str(found.value)


def test_more_frozen_layers_than_there_are_is_refused(stream):
    freeze = "method.adapter={{kind: full, freeze: {{layers: {}}}}}"
    assert complaint(stream, freeze.format(3)) == (
        "stage 'x': adapter.freeze.layers 3 is more than the 2 layers of the model; give at most 2"
    )
    assert plan_of(stream, freeze.format(2)).missing
    assert "nothing would be frozen" in complaint(stream, freeze.format(0))


def test_experts_begin_an_infinite_schedule_of_their_own(stream):
    plan = plan_of(stream, "method.schedule={kind: infinite}", "experts=true")
    chain, alone = plan.lines[0].stages, [line.stages[0] for line in plan.experts]
    assert [stage.recipe.resolved["schedule"].get("begins") for stage in chain] == [None, "constant", "constant"]
    assert not any("begins" in stage.recipe.resolved["schedule"] for stage in alone)
    assert alone[0].key == chain[0].key


def layers(plan):
    return [stage.shape["layers"] for stage in plan.lines[0].stages]


def test_an_expansion_adds_its_layers_once_and_another_one_its_own(stream):
    expand = "method.adapter={kind: expansion, layers: 2}"
    assert layers(plan_of(stream, expand)) == [4, 4, 4]
    other = "stages.y.method={adapter: {kind: expansion, layers: 1}}"
    plan = plan_of(stream, expand, other, "experts=true")
    assert layers(plan) == [4, 5, 7]
    assert [line.stages[0].shape["layers"] for line in plan.experts] == [4, 3, 4]
    freeze = "stages.z.method={adapter: {kind: full, freeze: {layers: 4}}}"
    assert layers(plan_of(stream, expand, freeze)) == [4, 4, 4]


def test_more_new_layers_than_there_are_to_stand_on_is_refused(stream):
    assert complaint(stream, "method.adapter={kind: expansion, layers: 3}") == (
        "stage 'x': adapter expansion of 3 layers, one on every 1, takes 3 layers to stand on, and the model has 2; "
        "give at most 2"
    )
    assert "give at most 1 or a smaller 'every'" in complaint(
        stream, "method.adapter={kind: expansion, layers: 2, every: 2}"
    )
