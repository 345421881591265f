"""The evolve stage as it is written: what it takes, and how its rounds unroll."""

import pytest

from clray.errors import SpecError
from clray.spec import loading

STREAM = """
name: evolving
stages:
  - name: science
    kind: evolve
    evolve: {questions: q.jsonl, knowledge: {sources: k.jsonl}}
  - {name: after, kind: pretrain, data: t.txt}
"""


def sequence(*overrides):
    return loading.loads(STREAM, overrides).sequence


def test_one_round_is_the_stage_by_its_own_name():
    (first, after) = sequence()
    assert (first.name, first.evolve.of, first.evolve.number, after.name) == ("science", "science", 1, "after")


def test_rounds_are_numbered_and_teach_what_the_stage_teaches():
    parts = sequence("stages.science.evolve.rounds=3")
    assert [part.name for part in parts] == ["science.1", "science.2", "science.3", "after"]
    assert {part.teaches for part in parts[:3]} == {("science",)}
    assert parts[0].evolve.settings == parts[1].evolve.settings


def test_cpt_then_cit_is_two_stages_a_round():
    parts = sequence("stages.science.evolve.rounds=2", "stages.science.evolve.control=cpt_then_cit")
    assert [part.name for part in parts[:4]] == ["science.1.cpt", "science.1.cit", "science.2.cpt", "science.2.cit"]
    assert [part.evolve.control for part in parts[:2]] == ["cpt_only", "cit_only"]


def test_what_a_round_trains_on_does_not_depend_on_paths_rounds_or_the_stop_rule():
    one, other = (
        sequence(),
        sequence("stages.science.evolve.stop={delta: 0.1}", "stages.science.evolve.questions=x.jsonl"),
    )
    assert one[0].evolve.settings == other[0].evolve.settings
    assert sequence("stages.science.evolve.loss=0.9")[0].evolve.settings != one[0].evolve.settings


JUDGE = "{url: 'http://127.0.0.1:1/v1', model: m}"


def test_a_judge_and_where_an_endpoint_is_change_no_round_and_the_model_that_names_points_does():
    def settings(by):
        return sequence(f"stages.science.evolve.points.by={by}")[0].evolve.settings

    plain = sequence()[0].evolve.settings
    assert sequence(f"stages.science.evolve.exam.judge={JUDGE}")[0].evolve.settings == plain
    one = settings("{kind: endpoint, url: 'http://127.0.0.1:1/v1', model: m}")
    assert settings("{kind: endpoint, url: 'https://x/v1', model: m, key_env: K, retries: 9}") == one != plain
    assert settings("{kind: endpoint, url: 'http://127.0.0.1:1/v1', model: n}") != one
    assert one["points"]["by"] == {"kind": "endpoint", "model": "m"}
    assert settings("{kind: model, model: some/folder}")["points"]["by"] == {"kind": "model", "max_new_tokens": 256}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.science.data=x.jsonl", "takes 'evolve'"),
        ("stages.science.kind=pretrain", "takes 'data'"),
        ("stages.after.kind=evolve", "takes 'evolve'"),
        ("stages.science.evolve.shares={review: 0.6, general: 0.5}", "leave nothing for the mistakes"),
        ("stages.science.evolve.heldout=0", "heldout"),
        ("stages.science.evolve.control=all", "control"),
        ("stages.science.evolve.knowledge={}", "sources"),
        ("stages.science.evolve.exam.judge={model: m}", "url"),
        ("stages.science.evolve.exam.judge={url: 'http://me:secret@host/v1', model: m}", "without user, password"),
        ("stages.science.evolve.points={kind: question, by: {kind: model, model: x}}", "'by' names phrases"),
    ],
)
def test_what_does_not_fit_is_said(override, said):
    with pytest.raises(SpecError, match=said):
        loading.loads(STREAM, [override])
