"""Pseudo-samples in a real stream: a generator a task, trained alone and asked on scoring actors."""

import json

import pytest
from watchers import Quiet

from clray import conductor
from clray.errors import SpecError
from clray.models import stacks
from clray.planner import make_plan
from clray.spec import loading
from texts import texts, write_lines

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ANSWERS = {"first": lambda words: words[0], "last": lambda words: words[-1]}


@pytest.fixture(scope="module")
def stream(tiny_model, tmp_path_factory, ray_cluster):
    folder = tmp_path_factory.mktemp("pseudo")
    for seed, (name, answer) in enumerate(ANSWERS.items()):
        rows = [
            {"instruction": f"{name} word", "input": text, "output": answer(text.split())}
            for text in texts(40, most=6, seed=seed)
        ]
        write_lines(folder / f"{name}.jsonl", rows)
    stages = "\n".join(f"  - {{name: {n}, kind: instruct, data: {folder}/{n}.jsonl}}" for n in ANSWERS)
    return loading.loads(f"""
name: imitated
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 8}}
optimiser: {{learning_rate: 1e-2}}
method:
  adapter:
    kind: sapt
    targets: [q_proj, v_proj]
    reflection: {{source: pseudo, prompts: 6, batch: 4, generator: {{length: {{steps: 40}}, learning_rate: 1e-2}}}}
stages:
{stages}
tasks:
  - {{name: first, scorer: generate, max_new_tokens: 4, limit: 4, data: {folder}/first.jsonl}}
controls:
  real: {{method.adapter.reflection: {{prompts: 6}}}}
""")


@pytest.fixture(scope="module")
def outcome(stream):
    return conductor.run(stream, Quiet())


def test_each_task_has_a_generator_trained_alone_and_measured_on_nothing(stream, outcome):
    plan = outcome.plan
    assert [line.name for line in plan.generators] == ["generator of first", "generator of last"]
    for line in plan.generators:
        made = plan.store.generation(line.keys[1])
        assert made.parent == line.base.generation.key and made.adapter["kind"] == "lora"
        assert made.training["last_loss"] < made.training["first_loss"]
        assert not [task for index in (0, 1) for task in plan.tasks_of(line, index)]


def test_what_is_remembered_is_written_by_the_generator(outcome):
    store, stages = outcome.plan.store, outcome.plan.lines[0].stages
    memory = stacks.read(store.weights(stages[1].key)).memory
    for planned, (pooled, attention) in zip(stages, memory, strict=True):
        kept = store.read_json(planned.pseudo.path)
        assert 1 <= len(kept["samples"]) <= 6 and len(pooled) == len(kept["prompts"]) == len(kept["samples"])
        assert len(attention) == planned.index
        receipt = store.generation(planned.key).receipt["pseudo"]
        assert receipt == {"generator": planned.generator.key, "asked": 6, "file": planned.pseudo.path}
    real = stacks.read(store.weights(outcome.plan.lines[1].stages[1].key)).memory
    assert [len(pooled) for pooled, _ in real] == [6, 6]


def test_the_same_stream_again_trains_and_writes_nothing(stream, outcome):
    store = outcome.plan.store
    before = {name: store.read_bytes(f"pseudo/{name}") for name in store.list("pseudo")}
    assert not conductor.run(stream, Quiet()).built
    assert {name: store.read_bytes(f"pseudo/{name}") for name in store.list("pseudo")} == before


def test_lost_samples_are_written_again_alike_before_a_stage_is_built(stream, outcome):
    store, planned = outcome.plan.store, outcome.plan.lines[0].stages[1]
    before = store.read_json(planned.pseudo.path)
    weights = store.generation(planned.key).files
    store.delete(planned.pseudo.path)
    store.delete(f"generations/{planned.key}")
    assert conductor.run(stream, Quiet()).built == {planned.key}
    assert store.read_json(planned.pseudo.path) == before
    assert store.generation(planned.key).files == weights


def test_a_generator_without_pseudo_samples_is_refused(stream):
    with pytest.raises(SpecError, match="source: pseudo"):
        loading.loads(loading.to_yaml(stream), ["method.adapter.reflection={generator: {rank: 4}}"])


def test_the_plan_lists_generators_first(stream, outcome):
    names = [line.name for line in make_plan(stream).chains]
    assert names[:4] == ["generator of first", "generator of last", "stream", "real"]
    json.dumps(outcome.to_dict())
