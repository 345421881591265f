"""A stage's own value wins over the stream's, that over its parent generation's, that over the default."""

import pytest

from clray.lineage.key import digest
from clray.spec import loading
from clray.spec.recipe import alone, describe, generator_recipe, resolve

TEXT = """
name: a
batch: {size: 1000, unit: tokens}
stages:
  - {name: x, kind: pretrain, data: builtin:docs, optimiser: {learning_rate: 1e-3}, sequence_length: 128}
  - {name: y, kind: pretrain, data: builtin:docs}
  - {name: z, kind: pretrain, data: builtin:docs, optimiser: {learning_rate: 5e-4}}
"""


def chain(text=TEXT, overrides=()):
    stream = loading.loads(text, overrides)
    parent, recipes = {}, []
    for stage in stream.stages:
        recipes.append(resolve(stream, stage, parent))
        parent = recipes[-1].resolved
    return recipes


def test_silent_values_are_inherited_from_the_parent_generation():
    first, second, third = chain()
    assert first.inheritance["optimiser.learning_rate"] == (1e-3, "stage")
    assert second.inheritance["optimiser.learning_rate"] == (1e-3, "inherited")
    assert second.resolved["sequence_length"] == 128
    assert third.inheritance["optimiser.learning_rate"] == (5e-4, "stage")


def test_a_batch_in_tokens_becomes_sequences():
    assert chain()[0].resolved["batch"] == 1000 // 128


def test_what_is_inherited_or_overridden_is_said():
    first, second, third = chain()
    assert "inherited optimiser.learning_rate = 0.001" in describe(second, first.resolved)
    assert "overrides optimiser.learning_rate: 0.001 -> 0.0005 (stage)" in describe(third, second.resolved)


TWO = """
name: a
stages: [{name: x, kind: pretrain, data: builtin:docs}, {name: y, kind: instruct, data: builtin:docs}]
"""


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("method={}", "8d96f7466c382385d19cbbcb4161103f"),
        ("method.schedule={warmup: 0.1}", "8c3af3315111f5064670e37f5e3037e6"),
        ("method.schedule={kind: linear}", "f31bdf93c0e8982a1e76d014011c3c8a"),
        ("method.schedule={kind: constant, warmup: 0.0}", "41550be1adc2df486998dd819ff44195"),
        ("method.adapter={kind: lora, rank: 4, targets: [q_proj]}", "18ffa173a32459a48404f88888c0c29d"),
        ("method.adapter={kind: lora_stack}", "46c2531bd956ea67cce8ad6a1e93ca0f"),
        ("method.adapter={kind: olora}", "71c71de64730e6b38454b4e59b5f1514"),
        ("method.adapter={kind: sapt}", "8b145c57e3e3e1456c0624386e9a2a65"),
        ("method.adapter={kind: sapt, reflection: {source: pseudo}}", "092f0238634be2baf1453d332e1ae326"),
        ("optimiser={learning_rate: 1e-3, weight_decay: 0.1}", "7b4d5ceaf2c6fe3b1a790399fd249120"),
    ],
)
def test_choices_that_came_later_change_no_earlier_recipe(setting, expected):
    """Digests of both resolved stages, taken at commit ceebf26, before there was anything to continue from; those of
    sapt anew, when its default became to centre its queries and to reflect its own prompts."""
    assert digest([recipe.resolved for recipe in chain(TWO, [setting])]) == expected


def test_generators_of_pseudo_samples_keep_their_recipe():
    first, _ = chain(TWO, ["method.adapter={kind: sapt, reflection: {source: pseudo}}"])
    assert digest(generator_recipe(first).resolved) == "c31fb473edfaa66719fd0613313114f9"


def test_the_optimisers_state_is_carried_from_the_second_stage_on_and_inherited():
    recipes = chain(TEXT, ["stages.y.optimiser={state: carry}"])
    assert [recipe.resolved["optimiser"].get("state") for recipe in recipes] == [None, "carry", "carry"]
    assert recipes[2].inheritance["optimiser.state"] == ("carry", "inherited")
    assert any(line.startswith("AdamW goes on") for line in describe(recipes[2], recipes[1].resolved))
    assert "state" not in alone(recipes[1]).resolved["optimiser"]
    whole = chain(TEXT, ["optimiser={state: carry}"])
    assert [(recipe.carries, recipe.keeps) for recipe in whole] == [(False, True), (True, True), (True, True)]


INFINITE = """
name: a
method: {schedule: {kind: infinite, warmup: 0.1}}
stages:
  - {name: x, kind: pretrain, data: builtin:docs}
  - {name: y, kind: pretrain, data: builtin:docs}
  - {name: z, kind: pretrain, data: builtin:docs}
"""


def begins(recipes):
    return [recipe.resolved["schedule"].get("begins") for recipe in recipes]


def test_an_infinite_schedule_is_gone_on_with_at_its_constant_rate():
    first, second, third = recipes = chain(INFINITE)
    assert begins(recipes) == [None, "constant", "constant"]
    assert describe(second, first.resolved) == ["schedule infinite goes on at its constant rate: no warm-up"]
    assert describe(third, second.resolved) == describe(second, first.resolved)
    assert alone(second).resolved["schedule"] == first.resolved["schedule"]


def test_what_goes_on_from_an_annealed_or_another_schedule_warms_up():
    anneal = "stages.y.method={schedule: {kind: infinite, warmup: 0.1, anneal: 0.2}}"
    assert begins(chain(INFINITE, [anneal])) == [None, "constant", None]
    assert begins(chain(INFINITE, ["stages.y.method={schedule: {kind: cosine}}"])) == [None, None, None]


def test_a_schedule_is_inherited_without_where_it_began():
    text = TWO.replace("data: builtin:docs}", "data: builtin:docs, method: {schedule: {kind: infinite}}}", 1)
    first, second = chain(text)
    assert second.inheritance["schedule"] == (first.resolved["schedule"], "inherited")
    assert begins((first, second)) == [None, "constant"]
