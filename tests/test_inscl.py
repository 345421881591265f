"""InsCL in a real stream: embeddings on Ray Data, distances as tasks, receipts, experts, orders, sparse measuring."""

import json

import pytest
from watchers import Quiet

from clray import conductor
from clray.errors import SpecError
from clray.planner import make_plan
from clray.spec import loading
from texts import texts, write_lines

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ASKS = {
    "first": ["Say the first word of the text.", "Which word stands at the beginning?"],
    "last": ["Say the last word of the text.", "Which word stands at the end?"],
    "count": ["Count the words of the text.", "How many words are there?", "Give the number of words."],
}
ANSWERS = {"first": lambda t: t.split()[0], "last": lambda t: t.split()[-1], "count": lambda t: str(len(t.split()))}


@pytest.fixture(scope="module")
def stream(tiny_model, tmp_path_factory, ray_cluster):
    folder = tmp_path_factory.mktemp("inscl")
    for seed, (name, asks) in enumerate(ASKS.items()):
        rows = [
            {"instruction": asks[n % len(asks)], "input": text, "output": ANSWERS[name](text)}
            for n, text in enumerate(texts(60, most=12, seed=seed))
        ]
        write_lines(folder / f"{name}.jsonl", rows)
    stages = "\n".join(f"  - {{name: {n}, kind: instruct, data: {folder}/{n}.jsonl}}" for n in ASKS)
    tasks = "\n".join(
        f"  - {{name: {n}, scorer: generate, metric: rouge_l, max_new_tokens: 4, limit: 8, data: {folder}/{n}.jsonl}}"
        for n in ASKS
    )
    return loading.loads(f"""
name: by-instruction
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 8}}
optimiser: {{learning_rate: 3e-3}}
experts: true
evaluation: {{every: 3}}
method: {{replay: {{kind: inscl, rows_per_past_task: 10}}}}
stages:
{stages}
tasks:
{tasks}
controls:
  by-parent: {{method.replay.encoder: {{kind: generation, of: parent}}}}
""")


@pytest.fixture(scope="module")
def outcome(stream):
    watch = Quiet()
    made = conductor.run(stream, watch)
    return made, watch.said


def draws(line, index):
    return line.generations[index].receipt["draws"]


def test_receipts_tell_distances_quotas_and_instructions(outcome):
    last = draws(outcome[0].line, 3)
    assert [d["stage"] for d in last] == ["first", "last"] and sum(d["rows"] for d in last) == 20
    assert all(d["distance"] > 0 and d["solver"] == "exact" for d in last)
    if last[0]["distance"] > last[1]["distance"]:
        assert last[0]["rows"] >= last[1]["rows"]
    shown = last[0]["instructions"]
    assert sum(i["rows"] for i in shown) == last[0]["rows"]
    assert {i["text"] for i in shown} == set(ASKS["first"])
    assert all(i["tags"] and i["insinfo"] >= 0 for i in shown)


def test_the_draw_is_the_same_again(outcome, stream):
    from clray.preparation import prepare_stage

    plan = make_plan(stream)
    line = plan.lines[0]
    again = prepare_stage(line.stages[2], plan.store, line)
    assert [d.receipt() for d in again.draws] == draws(outcome[0].line, 3)


def test_the_quotas_and_their_spread_are_said(outcome):
    assert any("InsCL quotas" in text and "spread" in text for text in outcome[1])


def test_an_encoder_of_the_parent_is_asked_once_the_parent_is_there(outcome):
    made, said = outcome
    assert any("replay is drawn when the parent is trained" in text for text in said)
    base, parent = (draws(line, 3) for line in made.lines)
    assert sum(d["rows"] for d in parent) == 20
    assert [d["distance"] for d in base] != [d["distance"] for d in parent]


def test_experts_give_relative_gain_its_scale(outcome):
    made = outcome[0]
    assert set(made.experts) == set(ASKS)
    singles, matrix = made.experts, made.matrix
    if all(singles[n] > 0 for n in ("first", "last")):
        wanted = 50 * sum(matrix.R[3][i] / singles[n] for i, n in enumerate(("first", "last")))
        assert made.line.metrics["rouge_l"]["relative_gain"] == pytest.approx(wanted)
    assert made.plan.experts[0].stages[0].key == made.line.generations[1].key, "nothing is trained twice"


def test_only_what_is_wanted_is_measured(outcome):
    matrix = outcome[0].matrix
    assert [[cell is not None for cell in row] for row in matrix.R] == [
        [True, True, True],
        [True, False, False],
        [False, True, False],
        [True, True, True],
    ]
    assert outcome[0].plan.missing_cells == []


def test_a_second_run_trains_and_measures_nothing(outcome, stream):
    watch = Quiet()
    assert conductor.run(stream, watch).built == frozenset()
    assert any("nothing to train" in text for text in watch.said)


def test_an_order_permutes_the_stages(stream):
    value = loading.dump(stream)
    reverse = loading.validate({**value, "order": "reverse"})
    assert [stage.name for stage in reverse.sequence] == ["count", "last", "first"]
    assert make_plan(reverse).lines[0].learned_at("first") == 3
    keys = [
        make_plan(loading.validate({**value, "order": list(order)})).lines[0].keys
        for order in (ASKS, ["last", "first", "count"])
    ]
    assert keys[0] == make_plan(stream).lines[0].keys and keys[0][1] != keys[1][1]
    shuffled = {
        tuple(s.name for s in loading.validate({**value, "order": "random", "seed": n}).sequence) for n in range(9)
    }
    assert len(shuffled) > 2
    with pytest.raises(SpecError, match="name each stage once"):
        loading.validate({**value, "order": ["first", "last"]})


def test_plain_text_has_no_instructions_to_weigh(stream, tmp_path):
    value = json.loads(json.dumps(loading.dump(stream)))
    write_lines(tmp_path / "text.jsonl", [{"text": "red green"}])
    value["stages"][0] |= {"kind": "pretrain", "data": [{"source": f"{tmp_path}/text.jsonl"}]}
    with pytest.raises(SpecError, match="'first' has plain text"):
        make_plan(loading.validate(value))
