"""A stage's own value wins over the stream's, that over its parent generation's, that over the default."""

from clray.spec import loading
from clray.spec.recipe import describe, resolve

TEXT = """
name: a
batch: {size: 1000, unit: tokens}
stages:
  - {name: x, kind: pretrain, data: builtin:docs, optimiser: {learning_rate: 1e-3}, sequence_length: 128}
  - {name: y, kind: pretrain, data: builtin:docs}
  - {name: z, kind: pretrain, data: builtin:docs, optimiser: {learning_rate: 5e-4}}
"""


def chain():
    stream = loading.loads(TEXT)
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
