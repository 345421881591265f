"""The conductor at a gate, with training and measuring made up: who is asked, who becomes a parent, what is kept."""

import pytest
from planning import three_stages
from watchers import Quiet

from clray import conductor
from clray.lineage import verdicts
from clray.lineage.gate import Decision
from clray.lineage.generation import Generation
from clray.outcome import line_outcome
from clray.planner import make_plan
from clray.spec import loading


class Ledgerless:
    """A recorder that only remembers what it was to write down."""

    def __init__(self):
        self.judged = []

    def record(self, line, made):
        pass

    def judge(self, line, planned, verdict):
        self.judged.append((line.name, planned.stage.name, str(verdict.decision)))


GATED = """
method: {replay: {kind: random, share: 0.1}}
gate: {max_forgetting: 0.1, on_fail: raise_replay}
controls:
  rejecting: {gate: {max_forgetting: 0.1}}
  ending: {gate: {max_forgetting: 0.1, on_fail: stop}}
  hopeless: {gate: {max_forgetting: 0.0, on_fail: raise_replay, retries: 1}}
"""


@pytest.fixture
def stream(tiny_model, tmp_path):
    """Three stages; the second one forgets the first by 0.4 bits per byte, and by less the more it replays."""
    return three_stages(tiny_model, tmp_path, GATED, tasks="xyz")


def built(plan, line, planned, session, watch):
    """A generation that was trained on nothing."""
    made = Generation(
        key=planned.key,
        parent=planned.parent,
        index=planned.index,
        stage_name=planned.stage.name,
        base=planned.key,
        stage=planned.recipe.resolved,
        training={"tokens": 1000, "seconds": 2.0},
    )
    plan.store.commit(made)
    return made


def measured(plan, line, index, session, watch):
    """x: 3.0, then 1.0, then 1.0 + 0.4 * 0.1 / share of what y replays; y and z: 2.0 throughout."""
    key, share = line.keys[index], 1.0
    for planned in line.stages[:index]:
        if planned.stage.name == "y":
            share = planned.recipe.resolved["replay"]["share"]
    seen = "y" in [planned.stage.name for planned in line.stages[:index]]
    x = 3.0 if not index else 1.0 + (0.04 / share if seen else 0.0)
    for task in plan.tasks:
        value = x if task.task.name == "x" else 2.0
        cell = {"task": task.task.name, "scorer": "perplexity", "metrics": {"bits_per_byte": value, "perplexity": 1.0}}
        plan.store.write_score(key, task.digest, cell)


@pytest.fixture
def flow(stream, monkeypatch):
    """Follows all lines of the stream: their outcomes, what was said, what was recorded, what was built."""
    monkeypatch.setattr(conductor, "build", built)
    monkeypatch.setattr(conductor, "measure", measured)

    def run(watch=None):
        plan, recorder, watch, made = make_plan(stream), Ledgerless(), watch or Quiet(), set()
        lines = [conductor.follow(plan, line, None, recorder, watch, True, made) for line in plan.lines]
        return plan, [line_outcome(plan, line) for line in lines], watch.said, recorder.judged, made

    return run


def stages(outcome):
    return [made.stage_name for made in outcome.generations]


def test_more_replay_until_it_passes(flow):
    """Replay of 0.1 costs x 0.4, 0.2 costs 0.2, 0.4 costs 0.1, which the limit allows."""
    plan, [main, *_], said, judged, _ = flow()
    assert stages(main) == ["base", "x", "y", "z"]
    falls = [one.verdict.falls["forgetting"]["bits_per_byte"] for one in main.rejected]
    assert falls == pytest.approx([0.4, 0.2])
    passed = main.verdicts[main.generations[2].key]
    assert passed.falls["forgetting"]["bits_per_byte"] == pytest.approx(0.1) and passed.attempt == 2
    assert (passed.tokens_before, passed.seconds_before) == (2000, 4.0)
    assert {one.generation.parent for one in main.rejected} == {main.generations[1].key} == {main.generations[2].parent}
    assert main.generations[3].parent == main.generations[2].key
    text = next(text for text in said if "rejected by its gate" in text)
    assert text.startswith("stream · y: generation ") and text.endswith(
        "is rejected by its gate: tasks taught before are 0.4 bits_per_byte worse than their best, above the limit of "
        "0.1: trained again with 2 times the replay, try 2 of 3; this try cost 1,000 tokens, 2.0 s"
    )
    assert judged[:4] == [
        ("stream", "x", "accept"),
        ("stream", "y", "raise_replay"),
        ("stream", "y", "raise_replay"),
        ("stream", "y", "accept"),
    ]
    assert [key for key in plan.store.list("generations") if verdicts.status(plan.store, key) == verdicts.REJECTED]


def test_each_gate_does_what_it_says(flow):
    _, [main, rejecting, ending, hopeless], *_ = flow()
    first = main.rejected[0].generation.key
    assert stages(rejecting) == ["base", "x", "z"] and stages(ending) == ["base", "x"]
    assert rejecting.generations[2].parent == main.generations[1].key
    assert [[one.generation.key for one in line.rejected] for line in (rejecting, ending)] == [[first], [first]]
    assert stages(hopeless) == ["base", "x", "z"] and len(hopeless.rejected) == 2
    assert [str(one.verdict.decision) for one in hopeless.rejected] == ["raise_replay", "reject"]


def test_again_builds_and_asks_nothing(flow):
    plan, before, *_ = flow()
    kept = {key: verdicts.standing(plan.store, key) for key in plan.store.list("generations")}
    plan, after, said, _, made = flow()
    assert not made and not said and after == before
    assert {key: verdicts.standing(plan.store, key) for key in plan.store.list("generations")} == kept


def test_a_driver_that_is_killed_at_the_verdict_comes_to_the_same(flow):
    class Killing(Quiet):
        def say(self, text):
            if "try 3 of 3" in text:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow(Killing())
    plan, [main, *_], *_ = flow()
    assert stages(main) == ["base", "x", "y", "z"] and len(main.rejected) == 2
    plan.store.delete(verdicts.FOLDER)
    _, [again, *_], _, _, made = flow()
    assert again.verdicts == main.verdicts and again.rejected == main.rejected and not made


def test_the_last_word_of_a_line_counts(flow, stream, monkeypatch):
    plan, [main, *_], *_ = flow()
    first = main.rejected[0].generation.key
    loose = loading.loads(loading.to_yaml(stream), ["controls={}", "gate={max_forgetting: 9}"])
    other = make_plan(loose)
    line = conductor.follow(other, other.lines[0], None, Ledgerless(), Quiet(), True, set())
    assert line.keys[2] == first and not line.rejected
    assert {one["line"]: one["decision"] for one in verdicts.standing(plan.store, first)}["stream"] == Decision.ACCEPT
    flow()
    said = {one["line"]: one["decision"] for one in verdicts.standing(plan.store, first)}
    assert said["stream"] == Decision.RAISE_REPLAY
