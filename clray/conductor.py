"""run(stream): the one place where the order of events stands."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from clray import gating, recording
from clray.data.manifest import Manifest
from clray.errors import NothingToLearn
from clray.evaluation import tasks as examples
from clray.evolving import judging, mining
from clray.lineage import collected, lease, verdicts
from clray.lineage.clock import now
from clray.lineage.gate import Verdict
from clray.lineage.generation import Generation
from clray.outcome import Outcome, expert_scores, line_outcome, score_matrix
from clray.planned import Line, Plan, PlannedStage, generation_of
from clray.planner import check_space, make_plan
from clray.preparation import PreparedStage, order_of, prepare_stage
from clray.recording import Recorder
from clray.session import Session, session_for
from clray.spec.recipe import describe
from clray.spec.stream import Stream
from clray.summary import arithmetic
from clray.train import checkpoint
from clray.train.order import Progress


class Watcher(Protocol):
    """Whoever looks on while a stream runs."""

    def say(self, text: str) -> None:
        """Something happened."""

    def training(self, line: str, stage: str, progress: Progress) -> None:
        """A stage trains."""

    def measuring(self, stage: str, task: str, done: int, of: int) -> None:
        """A generation is measured."""


class Scribe(Protocol):
    """Whoever writes down which generations there are."""

    def record(self, line: Line, made: Generation) -> None:
        """The line has come to the generation."""

    def judge(self, line: Line, planned: PlannedStage, verdict: Verdict) -> None:
        """The gate has decided on the stage's generation."""


def run(stream: Stream, watch: Watcher, wait: bool = True, label: str = "", session: Session | None = None) -> Outcome:
    """The outcome of the stream and its controls: generations, score matrices and metrics.

    What is in the store already is taken, not made again: the same stream trains nothing, an edited stage
    rebuilds from there on as a branch, and a run that was killed goes on at its last checkpoint. A generation
    that another driver builds is waited for; without `wait` that is a StorageError. `label` names a combination of a
    benchmark, whose report has a folder of its own. A `session` is used and left open; without one it has its own.
    """
    started = time.monotonic()
    plan = make_plan(stream, label)
    built: set[str] = set()
    with session_for(plan, watch.say, session) as session, Recorder(plan, watch.say) as recorder:
        checkpoint.sweep(plan.store)
        prepare(plan, session, watch)
        recorder.open()
        for line in plan.chains:
            line = follow(plan, line, session, recorder, watch, wait, built)
            recorder.score(line_outcome(plan, line), line)
        for line in plan.lines if plan.experts else ():
            recorder.score(line_outcome(plan, line), line)
        outcome = look(stream, built, time.monotonic() - started, recorder.versions, label)
        recorder.publish(outcome)
    return outcome


def follow(
    plan: Plan, line: Line, session: Session, recorder: Scribe, watch: Watcher, wait: bool, built: set[str]
) -> Line:
    """Makes, measures and judges the line's generations one after the other; the line as it has become: without rounds
    of a stage that ended early, without what was rejected, with further tries."""
    recorder.record(line, line.base.generation)
    measure(plan, line, 0, session, watch)
    for planned in line.rejected:
        stand_by(plan, line, planned, recorder)
    index = 0
    while index < len(line.stages):
        planned = line.stages[index]
        with lease.hold(plan.store, planned.key, planned.stage.name, watch.say, wait):
            generation = plan.store.generation(planned.key)
            if generation is None or (planned.key in plan.lost and collected.note(plan.store, planned.key)):
                generation = build(plan, line, planned, session, watch)
                built.add(generation.key)
            recorder.record(line, generation)
        measure(plan, line, planned.index, session, watch)
        line = judge(plan, line, planned, session, watch)
        line = hold_to_gate(plan, line, planned, recorder, watch)
        line = look_ahead(plan, line, planned, session, watch, wait)
        index += planned.key in line.keys
    return line


def evaluate(stream: Stream, watch: Watcher) -> Outcome:
    """The outcome of measuring the stream's generations that are there, on every task. Trains nothing."""
    started = time.monotonic()
    plan = make_plan(stream)
    with Session(plan, watch.say) as session, Recorder(plan, watch.say) as recorder:
        recorder.open()
        for line in plan.chains:
            for index, key in enumerate(line.keys):
                generation = plan.store.generation(key)
                if generation is not None:
                    recorder.record(line, generation)
                    measure(plan, line, index, session, watch)
            recorder.score(line_outcome(plan, line), line)
        return look(stream, seconds=time.monotonic() - started, versions=recorder.versions)


def look(
    stream: Stream,
    built: Iterable[str] = (),
    seconds: float = 0.0,
    versions: dict[str, str] | None = None,
    label: str = "",
) -> Outcome:
    """The outcome as far as it is in the store; starts and makes nothing."""
    plan = make_plan(stream, label)
    return Outcome(
        plan=plan,
        lines=tuple(line_outcome(plan, line) for line in plan.lines),
        experts=expert_scores(plan),
        built=frozenset(built),
        created=now(),
        seconds=seconds,
        versions=versions or {},
    )


def prepare(plan: Plan, session: Session, watch: Watcher) -> None:
    """Checks and prepares all data that is still wanted, before anything is trained."""
    if not plan.missing and not plan.missing_cells:
        watch.say("every generation and score is in the store: nothing to train, nothing to measure")
        return
    check_space(plan)
    session.connect()
    if plan.missing:
        session.group.start()
    missing = {stage.key for stage in plan.missing}
    for line in plan.chains:
        for planned in line.stages:
            if planned.key in missing and planned.key not in session.prepared:
                if planned.round:
                    mining.ready(planned.round, plan.store)
                session.prepared[planned.key] = prepare_stage(planned, plan.store, line)
                watch.say(arithmetic(line, session.prepared[planned.key]))
                for sentence in (*describe(planned.recipe, planned.parent_stage), *session.prepared[planned.key].notes):
                    watch.say(f"{line.name} · {planned.stage.name}: {sentence}")
    for task in plan.tasks:
        examples.prepare(task, plan.store)
    if plan.missing_cells:
        session.start_scoring()  # not before: preparing needs CPUs too


def build(plan: Plan, line: Line, planned: PlannedStage, session: Session, watch: Watcher) -> Generation:
    """Trains the stage and commits the generation."""
    if planned.round and mining.mined(planned.round, plan.store) is None:
        session.make_room_for_scoring()
        mining.mine(planned.round, plan.store, session.pool, watch.say, examining(planned, watch))
    prepared = session.prepared.get(planned.key)
    if prepared is None or prepared.provisional:
        prepared = prepare_stage(planned, plan.store, line)
        for sentence in (arithmetic(line, prepared), *prepared.notes):
            watch.say(sentence)
    if planned.pseudo and plan.store.read_json(planned.pseudo.path) is None:
        session.make_room_for_scoring()
        session.pool.imagine(planned.pseudo, plan.store, most=prepared.mixture.own.rows)
    refer(plan, planned, prepared, session, watch)
    session.make_room_for_training()
    result = session.group.train(
        order_of(prepared, line, plan.store),
        lambda progress: watch.training(line.name, planned.stage.name, progress),
        lambda text: watch.say(f"{line.name} · {planned.stage.name}: {text}"),
    )
    generation = recording.generation(line, planned, prepared, result)
    former = plan.store.generation(planned.key)
    if former is not None and former.same_bits(generation.files):
        generation = replace(former, files=generation.files)
        watch.say(f"{line.name} · {planned.stage.name}: weights made again, to the same bits")
    else:
        if former is not None:
            watch.say(f"{line.name} · {planned.stage.name}: weights made again, and not to the same bits as before")
        plan.store.write_json(f"generations/{planned.key}/curve.json", result.curve)
    plan.store.commit(generation)
    collected.unmark(plan.store, planned.key)
    checkpoint.clear(plan.store, planned.key)
    watch.say(
        f"{line.name} · {planned.stage.name}: generation {generation.short}, "
        f"{result.training['tokens_per_second']:,.0f} tokens/s, {result.training['seconds']:.0f} s"
    )
    return generation


def refer(plan: Plan, planned: PlannedStage, prepared: PreparedStage, session: Session, watch: Watcher) -> None:
    """Has the parent score the pairs of an align stage, where it has not done so for these pairs before."""
    wanted, store = prepared.references, plan.store
    if wanted is None or Manifest.take(store, wanted.folder):
        return
    what = f"log-probabilities for {planned.stage.name}"
    with lease.hold(store, wanted.digest, what, watch.say):
        if Manifest.take(store, wanted.folder) is None:
            session.make_room_for_scoring()
            session.pool.refer(wanted, store, lambda done, of: watch.measuring(planned.stage.name, what, done, of))


def judge(plan: Plan, line: Line, planned: PlannedStage, session: Session, watch: Watcher) -> Line:
    """Examines what a round of an evolve stage made; the line without its further rounds, where the stage ends here."""
    asked = planned.round
    if asked is None or line.role != "chain" or not asked.round.is_judged:
        return line
    stop = asked.round.stop
    judgement = judging.judgement_of(planned.key, plan.store, stop, asked.exam.digest)
    if judgement is None:
        session.connect()
        session.make_room_for_scoring()
        earlier = [judging.judgement_of(one.key, plan.store, stop) for one in line.rounds_before(planned)]
        judgement = judging.judge(
            asked, planned.key, [one for one in earlier if one], plan.store, session.pool, examining(planned, watch)
        )
        watch.say(f"{line.name} · {planned.stage.name}: {judging.said(judgement)}")
    if not judgement["stop"] or planned.index == len(line.stages):
        return line
    return planned_again(plan, line)


def hold_to_gate(plan: Plan, line: Line, planned: PlannedStage, recorder: Scribe, watch: Watcher) -> Line:
    """Decides whether the measured generation becomes a parent; where not, the line as it goes on without it."""
    asked = planned.gate
    if asked is None or line.role != "chain":
        return line
    verdict = gating.verdict_of(asked, planned.key, plan.store)
    if verdict is None:
        made, tries = generation_of(plan, planned.key), line.tries_before(planned)
        before = [gating.verdict_of(one.gate, one.key, plan.store) for one in tries]
        matrix = score_matrix(plan, line).upto(planned.index)
        verdict = gating.judge(asked, made, matrix, [one for one in before if one])
        watch.say(f"{line.name} · {planned.stage.name}: generation {made.short} is {gating.said(verdict)}")
    recorder.judge(line, planned, verdict)
    verdicts.keep(plan.store, planned.key, asked.question, asked.stream, asked.line, verdict)
    if verdict.accepted:
        return line
    onward = planned_again(plan, line)
    assert planned.key not in onward.keys, "a rejected generation is no parent"
    return onward


def look_ahead(plan: Plan, line: Line, planned: PlannedStage, session: Session, watch: Watcher, wait: bool) -> Line:
    """Mines the set of the evolve stage's next round; the line without that round, where there is nothing to learn."""
    onward = line.round_after(planned)
    if onward is None or onward.round is None or plan.store.generation(onward.key):
        return line
    if mining.mined(onward.round, plan.store):
        return line
    session.connect()
    session.make_room_for_scoring()
    try:
        with lease.hold(plan.store, onward.key, onward.stage.name, watch.say, wait):
            mining.mine(onward.round, plan.store, session.pool, watch.say, examining(onward, watch))
    except NothingToLearn as nothing:
        judging.end(planned.key, str(nothing), plan.store)
        watch.say(f"{line.name} · {planned.stage.name}: no further round: {nothing}")
        return planned_again(plan, line)
    return line


def planned_again(plan: Plan, line: Line) -> Line:
    """The line as it goes on by what was judged in the meantime."""
    return next(one for one in make_plan(plan.stream, plan.label).lines if one.name == line.name)


def stand_by(plan: Plan, line: Line, planned: PlannedStage, recorder: Scribe) -> None:
    """Records again what an earlier run rejected, so that it is the last word on it, whatever was said in between."""
    asked, generation = planned.gate, plan.store.generation(planned.key)
    verdict = gating.verdict_of(asked, planned.key, plan.store)
    if asked and verdict and generation:
        recorder.record(line, generation)
        recorder.judge(line, planned, verdict)
        verdicts.keep(plan.store, planned.key, asked.question, asked.stream, asked.line, verdict)


def examining(planned: PlannedStage, watch: Watcher) -> mining.Watch:
    """Says how far an exam is."""
    return lambda done, of: watch.measuring(planned.stage.name, "exam", done, of)


def measure(plan: Plan, line: Line, index: int, session: Session, watch: Watcher) -> None:
    """Scores generation `index` of the line on every task that is wanted and that it has no score for yet."""
    key = line.keys[index]
    wanted = [task for task in plan.tasks_of(line, index) if plan.store.score(key, task.digest) is None]
    if wanted:
        name = line.stages[index - 1].stage.name if index else "base"
        session.connect()
        session.make_room_for_scoring()
        cells = [(task, examples.prepare(task, plan.store)) for task in wanted]
        session.pool.measure(key, cells, plan.store, lambda task, done, of: watch.measuring(name, task, done, of))
