"""What is to hold a stage is checked when it is planned: no worker, no Ray, nothing spent."""

import pytest
from planning import complaint, plan_of, three_stages

REPLAY = "method.replay={kind: random, share: 0.5}"


@pytest.fixture
def stream(tiny_model, tmp_path):
    """Three stages of plain text on a model of two layers."""
    return three_stages(tiny_model, tmp_path)


def held(kind, **more):
    return "method.regulariser={kind: " + kind + "".join(f", {name}: {value}" for name, value in more.items()) + "}"


def test_streams_that_differ_in_what_is_held_share_what_comes_before(stream):
    plain = plan_of(stream, REPLAY, "experts=true")
    for kind in ("ewc", "der"):
        other = plan_of(stream, REPLAY, held(kind), "experts=true")
        same = [a == b for a, b in zip(plain.lines[0].keys, other.lines[0].keys, strict=True)]
        assert same == [True, True, False, False]
        assert [line.keys for line in other.experts] == [line.keys for line in plain.experts]
    assert plan_of(stream, held("none"), REPLAY, "experts=true").lines[0].keys == plain.lines[0].keys


def test_teachers_of_replayed_rows_are_the_generations_that_learnt_them(stream):
    stages = plan_of(stream, REPLAY, held("der")).lines[0].stages
    keys = [stage.key for stage in stages]
    assert [list(stage.teachers) for stage in stages] == [[], keys[:1], keys[:2]]
    assert not any(stage.teachers for stage in plan_of(stream, REPLAY, held("lwf")).lines[0].stages)


def test_every_adapter_takes_l2_and_lwf(stream):
    for kind in ("full", "lora", "lora_stack", "olora", "expansion, layers: 1"):
        for regulariser in ("l2", "lwf"):
            assert plan_of(stream, f"method.adapter={{kind: {kind}}}", held(regulariser)).missing


def test_ewc_needs_a_parent_that_trained_the_same_weights(stream):
    for kind in ("full", "lora", "expansion, layers: 1"):
        assert plan_of(stream, f"method.adapter={{kind: {kind}}}", held("ewc")).missing
    assert "adapter olora trains a new block in each" in complaint(stream, "method.adapter={kind: olora}", held("ewc"))
    text = complaint(stream, "stages.y.method={adapter: {kind: lora}}", held("ewc"))
    assert text.startswith("stage 'y': regulariser ewc holds weights that earlier stages trained: its parent trained")
    assert "give both the same adapter, or this stage regulariser none, l2 or lwf" in text


def test_der_needs_replay(stream):
    assert complaint(stream, held("der")) == (
        "stage 'y': regulariser der holds replayed rows, and replay is none; give the stage method.replay (say "
        "random), or regulariser lwf"
    )


def test_more_tokens_than_the_vocabulary_has_are_refused(stream):
    assert "keeps the top_k 367 tokens of a prediction, and the model's vocabulary has 366; give at most that" in (
        complaint(stream, held("lwf", top_k=367))
    )
    assert plan_of(stream, held("lwf", top_k=366)).missing


def test_what_cannot_be_merged_is_refused(stream):
    assert "adapter lora_stack adds a block" in complaint(stream, "merge={}", "method.adapter={kind: lora_stack}")
    expand = "method.adapter={kind: expansion, layers: 1}"
    assert "stage 'x': merge: it trains a model of 3 layers, and is to be merged with one of 2" in (
        complaint(stream, "merge={}", expand)
    )
    assert plan_of(stream, "stages.y.merge={}", expand).missing
    assert "with one of 2" in complaint(stream, "stages.y.merge={method: ties}", expand)
    lora = "stages.z.method={adapter: {kind: lora}}"
    assert plan_of(stream, "stages.z.merge={}", lora).missing
    text = complaint(stream, "stages.z.merge={with: base}", lora)
    assert text.startswith("stage 'z': merge: its LoRA stands on weights that an earlier stage trained")
    assert plan_of(stream, "merge={with: base}", "method.adapter={kind: lora}").missing


def test_a_merge_is_part_of_the_key(stream):
    plain, merged = plan_of(stream), plan_of(stream, "stages.z.merge={weight: 0.5}")
    same = [a == b for a, b in zip(plain.lines[0].keys, merged.lines[0].keys, strict=True)]
    assert same == [True, True, True, False]
