"""Regularisers and merges in the recipe: only where they are asked for, and only where there is something to hold."""

import pytest

from clray.errors import SpecError
from clray.lineage.key import digest
from clray.spec import loading
from clray.spec.recipe import alone, resolve

TEXT = """
name: a
stages: [{name: x, kind: pretrain, data: builtin:docs}, {name: y, kind: instruct, data: builtin:docs}]
"""


def chain(*overrides):
    stream = loading.loads(TEXT, overrides)
    parent, recipes = {}, []
    for number, stage in enumerate(stream.stages):
        recipes.append(resolve(stream, stage, parent, first=not number))
        parent = recipes[-1].resolved
    return recipes


def test_a_first_stage_has_nothing_to_hold_of_earlier_ones_but_has_a_parent():
    for kind, first in (("ewc", "none"), ("der", "none"), ("lwf", "lwf"), ("l2", "l2")):
        kinds = [each.resolved["regulariser"]["kind"] for each in chain(f"method.regulariser={{kind: {kind}}}")]
        assert kinds == [first, kind]


def test_a_regulariser_is_inherited_and_an_expert_has_none():
    recipes = chain("stages.x.method={regulariser: {kind: l2, weight: 0.5}}")
    assert recipes[1].inheritance["regulariser"] == ({"kind": "l2", "weight": 0.5}, "inherited")
    assert alone(recipes[1]).resolved["regulariser"] == {"kind": "none"}


def test_only_settings_that_a_kind_has_are_in_the_recipe():
    online, each = (chain(f"method.regulariser={{kind: ewc{more}}}")[1] for more in ("", ", fisher: per_task"))
    assert online.resolved["regulariser"] == {
        "kind": "ewc",
        "weight": 1.0,
        "fisher": "online",
        "decay": 1.0,
        "samples": 256,
    }
    assert each.resolved["regulariser"] == {"kind": "ewc", "weight": 1.0, "fisher": "per_task", "samples": 256}


def test_a_merge_stands_in_the_recipe_only_where_it_is_asked_for():
    plain, merged = chain(), chain("merge={weight: 0.3}", "stages.y.merge=null")
    assert digest(plain[1].resolved) == digest(merged[1].resolved)
    assert merged[0].resolved["merge"] == {"with": "parent", "weight": 0.3, "method": "linear"}
    assert "merge" not in alone(merged[0]).resolved
    ties = chain("stages.y.merge={with: base, method: ties}")
    assert ties[1].resolved["merge"] == {"with": "base", "weight": 0.5, "method": "ties", "density": 0.5}
    assert "merge" not in ties[0].resolved


def test_a_stream_with_a_merge_comes_back_from_its_own_text():
    stream = loading.loads(TEXT, ["merge={with: base}"])
    assert loading.loads(loading.to_yaml(stream)) == stream


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("method.regulariser={kind: ewk}", "did you mean 'ewc'"),
        ("method.regulariser={kind: l2, weigth: 1}", "did you mean 'weight'"),
        ("method.regulariser={kind: ewc, fisher: per_task, decay: 0.5}", "decay is that of one running Fisher"),
        ("merge={density: 0.2}", "density thins out task vectors; give method: ties or dare_ties"),
        ("merge={weight: 0}", "greater than 0"),
    ],
)
def test_what_does_not_fit_is_named(override, complaint):
    with pytest.raises(SpecError, match=complaint):
        loading.loads(TEXT, [override])
