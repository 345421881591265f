"""The evolve stage in a real stream: exam, mistakes, knowledge, set, training, judgement; its controls and its end."""

import json
import random
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from watchers import Quiet

from clray import conductor
from clray.corpus import corpus_stream, mine_corpus
from clray.errors import NothingToLearn, SpecError
from clray.evaluation.actors import ScoringPool
from clray.evolving import mining
from clray.mining.leak import HeldOut
from clray.planner import make_plan
from clray.preparation import prepare_stage
from clray.spec import loading
from texts import WORDS, texts, write_lines

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COLOURS, ANIMALS = ("red", "green", "blue", "white"), ("cat", "dog", "bird", "fish")
NAMES = [
    f"{first}{last}" for first in ("bo", "ka", "li", "mu", "ne", "su") for last in ("dan", "rik", "tos", "vel", "zan")
]


def facts():
    """Made-up facts: the colour of each one's animal."""
    chance = random.Random(3)
    return [(name, chance.choice(ANIMALS), chance.choice(COLOURS)) for name in NAMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("evolve")
    asked = [
        {
            "question": f"Which colour is the {animal} of the old {name} then?",
            "choices": list(COLOURS),
            "answer": colour,
            "subject": animal,
        }
        for name, animal, colour in facts()
    ]
    told = [
        {"title": name, "text": f"{text}. The {animal} of {name} is {colour}. It runs."}
        for (name, animal, colour), text in zip(facts(), texts(len(NAMES), seed=4, least=10, most=14), strict=True)
    ]
    leak = {"title": "leak", "text": " ".join(f"{row['question']} {row['answer']}" for row in asked[:15])}
    write_lines(place / "questions.jsonl", asked)
    write_lines(place / "knowledge.jsonl", [*told, leak])
    write_lines(place / "general.jsonl", [{"instruction": f"Say {word}.", "output": word} for word in WORDS])
    write_lines(place / "first.jsonl", [{"text": text} for text in texts(60, seed=5)])
    return place


@pytest.fixture(scope="module")
def stream(tiny_model, folder, ray_cluster):
    return loading.loads(f"""
name: evolving
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 128
batch: {{size: 4}}
optimiser: {{learning_rate: 3e-3}}
evaluation: {{shard_rows: 16}}
stages:
  - {{name: text, kind: pretrain, data: {folder}/first.jsonl, length: {{steps: 4}}}}
  - name: facts
    kind: evolve
    length: {{epochs: 2}}
    method: {{replay: {{kind: random, rows: 5}}}}
    evolve:
      questions: {folder}/questions.jsonl
      knowledge: {{sources: {folder}/knowledge.jsonl, tokens: 64, overlap: 8, top: 2}}
      general: {folder}/general.jsonl
      rounds: 2
      exam: {{samples: 2, max_new_tokens: 6}}
controls:
  format_only: {{stages.facts.evolve.control: format_only}}
  then: {{stages.facts.evolve.control: cpt_then_cit, stages.facts.evolve.rounds: 1}}
  random: {{stages.facts.evolve.control: random_documents, stages.facts.evolve.rounds: 1}}
  ended:
    stages.facts.evolve.stop: {{flips: 0.0, delta: 1.0}}
    stages.facts.evolve.mining.limit: 8
    stages.facts.evolve.rounds: 4
""")


@pytest.fixture(scope="module")
def outcome(stream):
    return conductor.run(stream, Quiet())


def manifest_of(outcome, line, number):
    planned = outcome.plan.lines[line].stages[number]
    return outcome.plan.store.read_json(f"{planned.round.folder}/manifest.json")


def rows_of(outcome, line, number, kind):
    planned = outcome.plan.lines[line].stages[number]
    return pq.read_table(outcome.plan.store.path(f"{planned.round.folder}/{kind}.parquet")).to_pylist()


def test_each_round_is_a_generation_that_mines_afresh(outcome):
    stages = [made.stage_name for made in outcome.line.generations]
    assert stages == ["base", "text", "facts.1", "facts.2"]
    first, second = outcome.line.generations[2:]
    assert second.parent == first.key
    assert first.receipt["round"]["examined"] == first.parent and second.receipt["round"]["examined"] == first.key
    assert first.receipt["round"]["set"] != second.receipt["round"]["set"]


def test_the_set_holds_passages_and_instructions_and_nothing_held_out(outcome):
    found = manifest_of(outcome, 0, 1)
    assert found["rows"]["cpt"] and found["rows"]["normative"] and found["rows"]["general"]
    assert sum(found["questions"].values()) + len(held_out(outcome)) == len(NAMES)
    apart = " ".join(question["text"] for question in held_out(outcome))
    for kind, count in found["rows"].items():
        for row in rows_of(outcome, 0, 1, kind) if count else ():
            assert row.get("question") not in {question["name"] for question in held_out(outcome)}
            assert not any(text in json.dumps(row) for text in apart.split("?") if text)
    assert found["leaking_passages"] >= 1


def held_out(outcome):
    spec = outcome.plan.lines[0].stages[1].round
    asked = outcome.plan.store.read_json(f"questions/{spec.questions.digest}.json")
    from clray.data.questions import load

    named = {one.text: one.name for one in load(outcome.plan.store, spec.questions.digest)}
    return [{**question, "name": named[question["text"]]} for question in asked if question["heldout"]]


def test_with_the_leak_filter_off_held_out_questions_stand_in_the_set(outcome, monkeypatch):
    """The same exam, mined once as it is and once with the filter off: what the filter is there for is seen."""
    store, spec = outcome.plan.store, outcome.plan.lines[0].stages[1].round
    examined = ScoringPool.__new__(ScoringPool)  # every answer is in the store: no actor is needed

    def told(seed):
        mined = replace(spec, seed=seed)
        manifest = mining.mine(mined, store, examined, lambda _: None, lambda *_: None)
        files = [store.path(f"{mined.folder}/{name}") for name in manifest["files"]]
        texts = [json.dumps(row) for file in files for row in pq.read_table(file).to_pylist()]
        store.delete(mined.folder)
        return [one["text"] for one in held_out(outcome) if any(one["text"] in text for text in texts)]

    assert told(98) == []
    monkeypatch.setattr(HeldOut, "leaks", lambda self, texts: {})
    assert told(99)


def test_passages_and_instructions_have_their_shares_of_the_loss(outcome, stream):
    line = make_plan(stream).lines[0]
    prepared = prepare_stage(line.stages[1], outcome.plan.store, line)
    targets = [origin["targets"] for origin in prepared.packed.provenance["origins"]]
    sums = {"cpt": 0.0, "cit": 0.0, "replay": 0.0}
    for (part, weight), count in zip(prepared.parts, targets, strict=True):
        sums[part] += weight * count
    assert sums["cpt"] == pytest.approx(sums["cit"]) and sums["replay"] == targets[-1] > 0
    assert sums["cpt"] + sums["cit"] == pytest.approx(sum(targets[:-1]))


def test_both_losses_are_logged(outcome):
    curve = outcome.line.curves[outcome.line.generations[2].key]
    for part in ("cpt", "cit", "replay"):
        assert any(point.get(f"loss_{part}", 0) > 0 for point in curve), part


def test_a_round_is_judged_on_the_same_questions_before_and_after(outcome):
    told = [made["evolved"] for made in outcome.to_dict()["lines"][0]["generations"]]
    assert told[:2] == [None, None]
    for number, round_ in enumerate(told[2:], 1):
        assert round_["round"] == number and round_["change"]["heldout"]["questions"] == len(held_out(outcome))
        change = round_["change"]["heldout"]["likelihood"]
        assert change["gain"] == pytest.approx(change["after"] - change["before"])
    assert told[3]["change"]["heldout"]["likelihood"]["before"] == told[2]["change"]["heldout"]["likelihood"]["after"]


def test_controls_take_other_sets_of_the_same_mistakes(outcome):
    whole, formed, random_ = (manifest_of(outcome, line, 1) for line in (0, 1, 3))
    assert whole["mistakes"] == formed["mistakes"] == random_["mistakes"]
    assert not formed["rows"]["cpt"] and not formed["rows"]["extractive"]
    assert random_["rows"]["cpt"] and abs(random_["tokens_read"] - whole["tokens_read"]) < 64
    given = {row["passage"] for row in rows_of(outcome, 0, 1, "cpt")}
    assert {row["passage"] for row in rows_of(outcome, 3, 1, "cpt")} != given


def test_cpt_then_cit_learns_both_halves_from_one_exam(outcome):
    line = outcome.lines[2]
    assert [made.stage_name for made in line.generations[2:]] == ["facts.cpt", "facts.cit"]
    first, second = (made.receipt["round"] for made in line.generations[2:])
    assert first["examined"] == second["examined"] and first["set"] != second["set"]


def test_the_first_half_of_a_round_is_not_judged(outcome, stream):
    """Not even where another line has made it as a round of its own, and ended there."""
    halves = ["controls={}", "stages.facts.evolve.control=cpt_then_cit"]
    rule = ["stages.facts.evolve.stop={flips: 0.0, delta: 1.0}"]
    two, store = loading.loads(loading.to_yaml(stream), [*halves, *rule]), outcome.plan.store
    place = f"evolved/{make_plan(two).lines[0].stages[1].key}.json"
    store.write_json(place, store.read_json(f"evolved/{outcome.lines[4].generations[-1].key}.json"))
    line = make_plan(two).lines[0]
    store.fs.delete_file(store.path(place))
    assert [one.stage.name for one in line.stages[1:]] == ["facts.1.cpt", "facts.1.cit", "facts.2.cpt", "facts.2.cit"]
    assert [one.stage.name for one in line.rounds_before(line.stages[4])] == ["facts.1.cit"]


def test_a_stage_ends_before_its_rounds_where_too_much_turned_wrong_or_nothing_is_gained(outcome, stream):
    made = [made.stage_name for made in outcome.lines[4].generations]
    assert made in (["base", "text", "facts.1"], ["base", "text", "facts.1", "facts.2"])
    last = outcome.to_dict()["lines"][4]["generations"][-1]["evolved"]
    assert last["stop"]
    assert [planned.stage.name for planned in make_plan(stream).lines[4].stages] == made[1:]


def test_the_same_stream_again_trains_and_asks_nothing(stream, outcome):
    store = outcome.plan.store
    exams = {key: store.list(f"exams/{key}") for key in store.list("exams")}
    again = Quiet()
    assert not conductor.run(stream, again).built
    assert {key: store.list(f"exams/{key}") for key in store.list("exams")} == exams
    assert not [text for text in again.said if text.startswith("mined")]


def test_a_set_that_was_lost_is_mined_again_to_the_same_digest(stream, outcome):
    store, planned = outcome.plan.store, outcome.plan.lines[0].stages[2]
    before = store.read_json(f"{planned.round.folder}/manifest.json")
    store.delete(planned.round.folder)
    store.delete(f"generations/{planned.key}")
    found = conductor.run(stream, Quiet())
    assert found.built == {planned.key}
    assert store.read_json(f"{planned.round.folder}/manifest.json") == before


def test_a_stage_ends_where_its_next_round_has_nothing_to_learn(stream, outcome, monkeypatch):
    """The third round finds nothing: the stream ends with two, and again when it is run again."""

    def mine(spec, *rest, real=mining.mine):
        if spec.round.number == 3:
            raise NothingToLearn("nothing was found")
        return real(spec, *rest)

    monkeypatch.setattr(mining, "mine", mine)
    three = loading.loads(loading.to_yaml(stream), ["controls={}", "stages.facts.evolve.rounds=3"])
    first, again = Quiet(), Quiet()
    assert not conductor.run(three, first).built
    assert any(text.endswith("facts.2: no further round: nothing was found") for text in first.said)
    assert not conductor.run(three, again).built and not any("no further" in text for text in again.said)
    line = conductor.look(three).line
    assert [made.stage_name for made in line.generations] == ["base", "text", "facts.1", "facts.2"]
    assert outcome.plan.store.read_json(f"evolved/{line.generations[-1].key}.json")["stop"] == "nothing was found"


def test_the_corpus_alone_is_the_set_that_a_round_trains_on(outcome, folder, tmp_path):
    key = outcome.line.generations[1].key
    settings = [
        "sequence_length=128",
        "evolve.knowledge.tokens=64",
        "evolve.knowledge.overlap=8",
        "evolve.knowledge.top=2",
        "evolve.exam={samples: 2, max_new_tokens: 6}",
        f"evolve.general={folder}/general.jsonl",
    ]
    asked = corpus_stream(f"{folder}/store", [f"{folder}/questions.jsonl"], [f"{folder}/knowledge.jsonl"], settings)
    manifest = mine_corpus(asked, key, tmp_path / "out", lambda _: None, lambda *_: None)
    assert manifest["files"] == manifest_of(outcome, 0, 1)["files"]
    for name in manifest["files"]:
        assert pq.read_table(tmp_path / "out" / name).num_rows == manifest["rows"][name.removesuffix(".parquet")]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    with pytest.raises(SpecError, match="holds something"):
        mine_corpus(asked, key, tmp_path / "out", lambda _: None, lambda *_: None)
