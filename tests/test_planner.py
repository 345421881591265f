"""What a stage goes on from is checked when it is planned: no worker, no Ray, nothing spent."""

import pytest
import torch
from planning import complaint, plan_of, three_stages
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM


@pytest.fixture
def stream(tiny_model, tmp_path):
    """Three stages of plain text on a model of two layers."""
    return three_stages(tiny_model, tmp_path)


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


def kept(line):
    return [stage.keeps_state for stage in line.stages]


def test_the_state_is_kept_for_whoever_carries_it_in_any_line(stream):
    plan = plan_of(stream, "stages.z.optimiser={state: carry}", "experts=true")
    assert kept(plan.lines[0]) == [False, True, True]
    assert [stage.recipe.carries for stage in plan.lines[0].stages] == [False, False, True]
    control = plan_of(stream, "controls={on: {stages.y.optimiser: {state: carry}}}", "experts=true")
    assert kept(control.lines[0]) == [True, False, False] and kept(control.lines[1]) == [True, True, True]
    assert control.lines[0].keys[1] == control.lines[1].keys[1] and kept(control.experts[0]) == [True]


def test_carrying_changes_no_key_of_a_first_stage_or_an_expert(stream):
    plain, carried = plan_of(stream, "experts=true"), plan_of(stream, "optimiser={state: carry}", "experts=true")
    same = [a == b for a, b in zip(plain.lines[0].keys, carried.lines[0].keys, strict=True)]
    assert same == [True, True, False, False]
    assert [line.keys for line in plain.experts] == [line.keys for line in carried.experts]
    assert plan_of(stream, "optimiser={state: reset}").lines[0].keys == plain.lines[0].keys


def test_state_that_the_parent_cannot_have_is_refused(stream):
    carry = "optimiser={state: carry}"
    assert "stage 'x': optimiser.state carry: it starts from the base model" in complaint(stream, f"stages.x.{carry}")
    assert "adapter lora_stack trains a new block" in complaint(stream, carry, "method.adapter={kind: lora_stack}")
    other = "stages.y.method={adapter: {kind: lora}}"
    text = complaint(stream, carry, other)
    assert "stage 'y'" in text and 'its parent trained adapter {"kind": "full"}' in text and "other weights" in text
    assert plan_of(stream, carry, other, "stages.y.optimiser={state: reset}", "stages.z.optimiser={state: reset}")
    expand = "method.adapter={kind: expansion, layers: 1}"
    assert [stage.recipe.carries for stage in plan_of(stream, carry, expand).lines[0].stages] == [False, True, True]


def test_phases_of_an_infinite_schedule_must_fit_where_all_of_them_are_gone_through(stream):
    long = "method.schedule={kind: infinite, warmup: 0.5, cooldown: 0.4, anneal: 0.2}"
    assert complaint(stream, long) == (
        "stage 'x': schedule infinite: warmup 0.5 + cooldown 0.4 + anneal 0.2 are 1.1 of the stage's steps, more than "
        "all of them; lower one"
    )
    release = "stages.z.method={schedule: {kind: infinite, anneal: 1.0}}"
    plan = plan_of(stream, "method.schedule={kind: infinite}", release)
    assert plan.lines[0].stages[2].recipe.resolved["schedule"]["begins"] == "constant"


def test_an_expert_goes_through_all_phases_that_its_stage_may_skip(stream):
    release = "stages.z.method={schedule: {kind: infinite, anneal: 1.0}}"
    assert complaint(stream, "method.schedule={kind: infinite}", release, "experts=true") == (
        "stage 'z', trained alone as an expert: schedule infinite: warmup 0.03 + cooldown 0.5 + anneal 1 are 1.53 of "
        "the stage's steps, more than all of them; lower one, or leave experts out"
    )


def test_layers_that_cannot_be_added_to_are_refused_by_the_first_stage_that_would(stream, tiny_model, tmp_path):
    folder = tmp_path / "experts"
    torch.manual_seed(0)
    MixtralForCausalLM(
        MixtralConfig(
            vocab_size=400,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=2,
            max_position_embeddings=128,
        )
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    model = f"model={{base: {folder}}}"
    assert plan_of(stream, model, "stages.y.method={adapter: {kind: full, freeze: {layers: 1}}}").missing
    text = complaint(stream, model, "stages.y.method={adapter: {kind: expansion, layers: 1}}")
    assert text.startswith("stage 'y': adapter expansion does not fit MixtralForCausalLM: a layer has no linear output")
