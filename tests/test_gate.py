"""A stream made to forget, before its gate: rejected, trained again with more replay, ended; killed and run again."""

import pytest
from mlflow import MlflowClient
from watchers import Quiet

from clray import conductor
from clray.errors import UserError
from clray.history import promotion
from clray.history.archive import Archive
from clray.history.garbage import reasons_to_keep
from clray.history.log import log
from clray.lineage import verdicts
from clray.lineage.gate import Decision
from clray.lineage.ledger import Ledger, default_tracking
from clray.planner import make_plan
from clray.spec import loading
from texts import WORDS, texts, write_lines

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LIMIT = 0.15


class Killed(Exception):
    """What a driver dies of here."""


class Killing(Quiet):
    """Kills the driver when it is told of the first rejection, before the verdict is kept."""

    def say(self, text):
        super().say(text)
        if "rejected by its gate" in text:
            raise Killed


@pytest.fixture(scope="module")
def stream(tiny_model, tmp_path_factory, ray_cluster):
    folder = tmp_path_factory.mktemp("gate")
    turned = {word: word[::-1].upper() for word in WORDS}
    old = texts(60, seed=1, most=20)
    new = [" ".join(turned.get(word, word) for word in text.split()) for text in texts(60, seed=2, most=20)]
    for name, found in (("old", old), ("new", new), ("third", texts(20, seed=3))):
        write_lines(folder / f"{name}.jsonl", [{"text": text} for text in found])
    write_lines(folder / "probe.jsonl", [{"text": text} for text in texts(10, seed=4)])
    return loading.loads(f"""
name: gated
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 4}}
optimiser: {{learning_rate: 1e-2}}
method: {{replay: {{kind: random, share: 0.02, of: tokens}}}}
gate: {{max_forgetting: {LIMIT}, on_fail: raise_replay, retries: 2, raise_by: 5}}
stages:
  - {{name: old, kind: pretrain, data: {folder}/old.jsonl, length: {{epochs: 8}}}}
  - {{name: new, kind: pretrain, data: {folder}/new.jsonl, length: {{epochs: 8}}}}
  - {{name: third, kind: pretrain, data: {folder}/third.jsonl, gate: null}}
tasks:
  - {{name: old, scorer: perplexity, data: {folder}/old.jsonl, limit: 20}}
  - {{name: new, scorer: perplexity, data: {folder}/new.jsonl, limit: 20}}
  - {{name: probe, scorer: perplexity, data: {folder}/probe.jsonl, group: knowledge}}
controls:
  rejecting: {{gate: {{max_forgetting: {LIMIT}}}}}
  ending: {{gate: {{max_forgetting: {LIMIT}, on_fail: stop}}}}
""")


@pytest.fixture(scope="module")
def outcome(stream):
    """What the stream ended in, after its driver was killed at the first verdict."""
    with pytest.raises(Killed):
        conductor.run(stream, Killing())
    return conductor.run(stream, Quiet())


def test_the_stage_that_forgets_is_trained_again_until_it_passes(outcome):
    line = outcome.line
    assert [made.stage_name for made in line.generations] == ["base", "old", "new", "third"]
    tries = [*(one.verdict for one in line.rejected), line.verdicts[line.generations[2].key]]
    assert len(tries) > 1 and [one.attempt for one in tries] == list(range(len(tries)))
    assert [one.decision for one in tries] == [Decision.RAISE_REPLAY] * (len(tries) - 1) + [Decision.ACCEPT]
    falls = [one.falls["forgetting"]["bits_per_byte"] for one in tries]
    assert all(fall > LIMIT for fall in falls[:-1]) and falls[-1] <= LIMIT
    for one, attempt in zip(line.rejected, tries, strict=False):
        assert one.generation.parent == line.generations[1].key
        assert one.generation.stage["replay"]["share"] == pytest.approx(0.02 * 5**attempt.attempt)
        assert one.scores["old"] > line.matrix.R[1][0] + LIMIT
    assert tries[-1].tokens_before == sum(one.tokens for one in tries[:-1]) > 0
    assert line.generations[3].parent == line.generations[2].key


def test_a_rejected_generation_is_no_parent_and_its_task_is_not_taught(outcome):
    first = outcome.line.rejected[0].generation
    rejecting, ending = outcome.lines[1:]
    assert [made.stage_name for made in rejecting.generations] == ["base", "old", "third"]
    assert rejecting.generations[2].parent == rejecting.generations[1].key
    assert [made.stage_name for made in ending.generations] == ["base", "old"]
    for line, decision in ((rejecting, Decision.REJECT), (ending, Decision.STOP)):
        assert [one.generation.key for one in line.rejected] == [first.key], "it is the same generation in all lines"
        assert line.rejected[0].verdict.decision == decision
        assert line.matrix.learned_at["new"] == len(line.generations)
    assert set(rejecting.metrics["bits_per_byte"]) >= {"knowledge_delta", "forgetting_max"}


def test_the_lineage_shows_both(outcome, stream):
    archive = Archive(outcome.plan.store.root)
    status = {line.entry.key: line.entry.status for line in log(archive).lines}
    rejected, accepted = outcome.line.rejected[0].generation, outcome.line.generations[2]
    assert status[rejected.key] == verdicts.REJECTED and status[accepted.key] == verdicts.ACCEPTED
    assert status[outcome.line.generations[3].key] == ""
    client = MlflowClient(default_tracking(outcome.plan.store))
    rows = {row["key"]: row for row in Ledger(default_tracking(outcome.plan.store), "gated").generations()}
    tags = client.get_model_version("gated", rows[rejected.key]["version"]).tags
    assert tags["clray.gate"] in ("raise_replay", "reject", "stop") and "above the limit" in tags["clray.gate_why"]
    assert rows[rejected.key]["scores"]["old/bits_per_byte"] == outcome.line.rejected[0].scores["old"]
    assert rows[outcome.line.generations[3].key]["aliases"] == ["newest"]
    kept = reasons_to_keep(archive.entries, archive.names)
    assert rejected.key not in kept and outcome.line.generations[3].key in kept


def test_a_rejected_generation_is_not_promoted_but_by_force(outcome):
    rejected, archive = outcome.line.rejected[0].generation, Archive(outcome.plan.store.root)
    with pytest.raises(UserError, match=r"did not pass its gate: .*line 'stream' of stream 'gated'.*above the limit"):
        promotion.promote(archive, rejected.key, "champion", "why", "ann")
    assert promotion.promote(archive, rejected.key, "champion", "why", "ann", force=True).move.key == rejected.key


def test_the_same_stream_again_trains_measures_and_judges_nothing(outcome, stream):
    again = Quiet()
    found = conductor.run(stream, again)
    assert not found.built and found.matrix == outcome.matrix
    assert not [text for text in again.said if "gate" in text]
    assert found.line.rejected == outcome.line.rejected


def test_verdicts_that_were_lost_are_the_same_again(outcome, stream):
    store = outcome.plan.store
    store.delete(verdicts.FOLDER)
    assert [stage.stage.name for stage in make_plan(stream).lines[1].stages] == ["old", "new", "third"]
    found = conductor.run(stream, Quiet())
    assert not found.built
    for before, after in zip(outcome.lines, found.lines, strict=True):
        assert after.verdicts == before.verdicts and after.matrix == before.matrix


def test_a_looser_gate_accepts_what_a_stricter_one_rejected(outcome, stream):
    loose = loading.loads(loading.to_yaml(stream), ["controls={}", "gate={max_forgetting: 100}"])
    found = conductor.run(loose, Quiet())
    first = outcome.line.rejected[0].generation.key
    assert found.line.generations[2].key == first and not found.line.rejected
    said = verdicts.standing(outcome.plan.store, first)
    assert {one["line"]: one["decision"] for one in said} == {
        "stream": "accept",
        "rejecting": "reject",
        "ending": "stop",
    }
    assert conductor.run(stream, Quiet()).line.matrix == outcome.matrix
    assert {one["line"]: one["decision"] for one in verdicts.standing(outcome.plan.store, first)}["stream"] != "accept"
