"""The planner follows verdicts: who becomes a parent, which tries there are, what they replay."""

import pytest
from planning import plan_of, three_stages

from clray import gating
from clray.errors import SpecError
from clray.lineage import verdicts
from clray.lineage.gate import Decision, Verdict
from clray.spec import loading
from clray.spec.recipe import resolve

RAISING = "gate={max_forgetting: 0.1, on_fail: raise_replay}"


@pytest.fixture
def stream(tiny_model, tmp_path):
    """Three stages of plain text, each with its task, and a probe."""
    gated = "method: {replay: {kind: random, share: 0.1}}\ngate: {max_forgetting: 0.1, max_delta_general: 0.2}"
    return three_stages(tiny_model, tmp_path, gated, tasks="xyzp")


def say(plan, planned, decision):
    """Keeps a verdict on the planned stage."""
    verdict = Verdict(decision=decision, why="made up", falls={})
    asked = planned.gate
    verdicts.keep(plan.store, planned.key, asked.question, asked.stream, asked.line, verdict)


def names(line):
    return [stage.stage.name for stage in line.stages]


def test_a_gate_changes_no_key(stream):
    assert plan_of(stream).lines[0].keys == plan_of(stream, "gate=null").lines[0].keys
    assert plan_of(stream, "gate=null").lines[0].stages[0].gate is None


def test_after_a_rejection_the_next_stage_stands_on_the_last_accepted_generation(stream):
    plan = plan_of(stream)
    x, y, z = plan.lines[0].stages
    say(plan, x, Decision.ACCEPT)
    say(plan, y, Decision.REJECT)
    line = plan_of(stream).lines[0]
    assert names(line) == ["x", "z"] and [one.key for one in line.rejected] == [y.key]
    assert line.stages[1].parent == x.key and line.stages[1].key != z.key and line.stages[1].index == 2
    assert [line.learned_at(task) for task in "xyzp"] == [1, 3, 2, None]
    assert [name for name, _ in line.stages[1].past] == ["x"], "what was rejected is not replayed"


def test_a_raised_replay_is_a_try_of_its_own_and_not_passed_on(stream):
    plan = plan_of(stream, RAISING)
    x, y, _ = plan.lines[0].stages
    say(plan, y, Decision.RAISE_REPLAY)
    again = plan_of(stream, RAISING).lines[0]
    tried = again.stages[1]
    assert names(again) == ["x", "y", "z"] and tried.parent == x.key and tried.key != y.key
    assert tried.recipe.resolved["replay"]["share"] == pytest.approx(0.2) and tried.gate.attempt == 1
    assert again.stages[2].recipe.resolved["replay"]["share"] == pytest.approx(0.1)
    assert again.tries_before(tried) == list(again.rejected)
    say(plan, tried, Decision.REJECT)
    assert names(plan_of(stream, RAISING).lines[0]) == ["x", "z"]


def test_a_line_that_is_stopped_has_no_further_stage(stream):
    plan = plan_of(stream)
    say(plan, plan.lines[0].stages[1], Decision.STOP)
    line = plan_of(stream).lines[0]
    assert names(line) == ["x"] and line.learned_at("z") == 2


def test_a_verdict_answers_its_own_question_alone(stream):
    """Another limit, another line, or another task that is limited asks anew; a task that nothing limits does not."""
    plan = plan_of(stream)
    asked = plan.lines[0].stages[1].gate.question

    def question(*overrides):
        return plan_of(stream, *overrides).lines[0].stages[1].gate.question

    assert question("gate.max_forgetting=0.3") != asked
    assert question("tasks.x.limit=2") != asked, "x was taught before"
    assert question("tasks.z.limit=2") == asked, "z is still to come"
    assert question("tasks.p.limit=2") != asked, "p is of the limited group"
    assert question("tasks.p.group=knowledge", "gate={max_forgetting: 0.1}") == question("gate={max_forgetting: 0.1}")
    control = plan_of(stream, "controls={same: {}}").lines[1].stages[1]
    assert control.key == plan.lines[0].stages[1].key and control.gate.question != asked


def test_a_gated_line_is_measured_on_everything(stream):
    plan = plan_of(stream, "evaluation.every=3", "stages.z.gate=null")
    assert plan.lines[0].measures("p", 1) and not plan_of(stream, "evaluation.every=3", "gate=null").lines[0].measures(
        "p", 1
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((RAISING, "method.replay={kind: none}"), "stage 'y': gate.on_fail raise_replay needs a replay to raise"),
        (
            (RAISING, "method.replay.share=0.3"),
            "a replay share of 0.3 raised 2 times by 2 would be 1.2 of the mixture, which must stay below 1",
        ),
    ],
)
def test_what_a_gate_cannot_do_is_refused_before_anything_is_spent(stream, overrides, said):
    with pytest.raises(SpecError, match=said):
        plan_of(stream, *overrides)


def test_rows_are_raised_too(stream):
    plan = plan_of(stream, RAISING, "method.replay={kind: balanced, rows: 3}", "gate.raise_by=1.5")
    say(plan, plan.lines[0].stages[1], Decision.RAISE_REPLAY)
    again = plan_of(stream, RAISING, "method.replay={kind: balanced, rows: 3}", "gate.raise_by=1.5").lines[0].stages[1]
    assert again.recipe.resolved["replay"]["rows"] == 4


def evolving(control="none"):
    return loading.loads(f"""
name: rounds
stages:
  - name: facts
    kind: evolve
    gate: {{max_forgetting: 0.1}}
    evolve: {{questions: q.jsonl, knowledge: {{sources: k.jsonl}}, rounds: 2, control: {control}}}
  - {{name: text, kind: pretrain, data: t.jsonl}}
""")


def test_further_rounds_are_not_tried_after_a_rejected_one():
    """The second round would learn from the same mistakes of the same parent again."""
    first, *waiting = [(stage, 0) for stage in evolving().sequence]
    assert [stage.name for stage, _ in gating.after(Decision.REJECT, *first, waiting)] == ["text"]
    again = gating.after(Decision.RAISE_REPLAY, *first, waiting)
    assert [(stage.name, tries) for stage, tries in again] == [("facts.1", 1), ("facts.2", 0), ("text", 0)]
    assert gating.after(Decision.STOP, *first, waiting) == []


def test_a_round_of_two_generations_has_no_gate():
    stream = evolving("cpt_then_cit")
    stage = stream.sequence[0]
    with pytest.raises(SpecError, match="stage 'facts': a gate judges whole rounds"):
        gating.check_gate(stage, stream.gate_of(stage), resolve(stream, stage, {}, first=True), first=True)
