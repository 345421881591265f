"""Align stages through the whole of clray: references asked once, preferences replayed and measured, reproduced."""

from pathlib import Path

import pytest
from watchers import Quiet

from clray import conductor
from clray.data.manifest import Manifest, read_parts
from clray.errors import SpecError
from clray.evaluation.references import ReferenceSpec
from clray.history.archive import Archive
from clray.history.reproduce import reproduce
from clray.history.verify import verify
from clray.planner import make_plan
from clray.spec import loading
from texts import texts, write_lines

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def stream(tiny_model, tmp_path_factory, ray_cluster):
    folder = tmp_path_factory.mktemp("align")
    found = texts(60, most=8)
    rows = [{"instruction": "say a word of", "input": t, "output": t.split()[1]} for t in found]
    write_lines(folder / "rows.jsonl", rows)
    for name, place in (("first", 0), ("last", -1)):
        pairs = [{"prompt": f"{name}: {t}", "chosen": t.split()[place], "rejected": "never"} for t in found]
        write_lines(folder / f"{name}.jsonl", pairs)
    return loading.loads(f"""
name: aligned
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 128
batch: {{size: 8}}
optimiser: {{learning_rate: 3e-3}}
evaluation: {{shard_rows: 4}}
method: {{replay: {{kind: balanced, share: 0.25}}}}
stages:
  - {{name: rows, kind: instruct, data: {folder}/rows.jsonl}}
  - {{name: first, kind: align, data: {folder}/first.jsonl, length: {{epochs: 3}}}}
  - {{name: last, kind: align, length: {{epochs: 3}}, data: {folder}/last.jsonl, align: {{likelihood: 0.1}}}}
tasks:
  - {{name: first, scorer: preference, data: {folder}/first.jsonl, limit: 20}}
  - {{name: last, scorer: preference, data: {folder}/last.jsonl, normalise: tokens, limit: 20}}
controls:
  bolder: {{stages.first.align: {{beta: 0.5}}}}
""")


@pytest.fixture(scope="module")
def run(stream):
    watch = Quiet()
    return conductor.run(stream, watch), watch


def test_preferences_are_learnt_and_measured(run):
    outcome, _ = run
    R = outcome.matrix.R
    assert len(R) == 4 and all(cell is not None for row in R for cell in row)
    assert R[2][0] > 0.9 and R[3][1] > 0.9
    assert outcome.matrix.learned_rows == [2, 3] and set(outcome.matrix.units) == {"accuracy"}
    for row, task in ((2, 0), (3, 1)):
        before, after = (
            outcome.plan.store.score(outcome.line.generations[n].key, outcome.plan.tasks[task].digest)["metrics"]
            for n in (row - 1, row)
        )
        assert set(after) == {"accuracy", "margin", "n"} and after["margin"] > max(0.0, before["margin"])


def test_earlier_preferences_are_replayed_and_text_is_not(run):
    outcome, watch = run
    first, last = outcome.line.generations[2:]
    assert first.stage["replay"]["kind"] == "none" and not first.receipt["draws"]
    assert [(o["stage"], o["rows"]) for o in last.data["origins"]] == [("last", 60), ("first", 20)]
    assert any("replays preference pairs alone: rows cannot stand in its loss" in text for text in watch.said)


def test_the_parent_is_asked_once_about_the_same_pairs(run):
    """Stream and control train the same pairs on the same parent with another beta: one set of log-probabilities."""
    outcome, watch = run
    made = [line.generations[2] for line in outcome.lines]
    assert made[0].key != made[1].key and made[0].receipt["references"] == made[1].receipt["references"]
    asked = [(done, of) for stage, task, done, of in watch.measured if "log-probabilities for first" in (stage, task)]
    assert len(asked) == len(set(asked)) > 1
    store, one = outcome.plan.store, made[0]
    spec = ReferenceSpec(generation=one.parent, mixture=one.data["digest"], precision="fp32")
    assert one.receipt["references"] == {"generation": one.parent, "folder": spec.folder}
    manifest = Manifest.load(store, spec.folder)
    log_probs = read_parts(store, manifest)["log_probs"].to_pylist()
    assert len(manifest.parts) > 1 and len(log_probs) == one.data["rows"] and sum(map(len, log_probs)) == 120
    assert outcome.line.curves[one.key][0]["reward_margin"] == pytest.approx(0.0, abs=1e-4)


def test_the_same_stream_again_trains_nothing(run, stream):
    watch = Quiet()
    again = conductor.run(stream, watch)
    assert not again.built and "nothing to train" in watch.said[0]


def test_an_align_generation_is_verified_and_made_again(run, tmp_path):
    outcome, _ = run
    archive, made = Archive(outcome.plan.store.root), outcome.line.generations[3]
    assert not verify(archive, made.key).problems
    found = reproduce(archive, made.key, tmp_path / "scratch", lambda text: None)
    assert found.same and found.loss_apart == 0 and found.shards == "same"


def test_what_cannot_be_mixed_is_refused_while_planning(stream):
    for stage, message in (("first", "compares pairs"), ("last", "compares pairs")):
        changed = [f"stages.{stage}.method={{replay: {{kind: random, rows: 5}}}}"]
        if stage == "last":
            changed.append("order=[rows, last, first]")
        with pytest.raises(SpecError, match=message):
            make_plan(loading.loads(loading.to_yaml(stream), changed))
    with pytest.raises(SpecError, match=r"replay inscl .* random or balanced"):
        make_plan(loading.loads(loading.to_yaml(stream), ["method.replay={kind: inscl, share: 0.1}"]))
    pseudo = "{kind: sapt, targets: [q_proj], reflection: {source: pseudo}}"
    with pytest.raises(SpecError, match="a generator writes inputs of instruction records"):
        make_plan(loading.loads(loading.to_yaml(stream), [f"method.adapter={pseudo}"]))


def test_the_report_shows_margin_and_log_probabilities(run):
    page = Path(run[0].plan.store.path(f"{run[0].plan.folder}/report.html")).read_text()
    assert "Reward margin of preference pairs" in page and "Chosen answers" in page
