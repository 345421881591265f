"""The first generation of an ancestry where a task broke; scores that are missing on the way are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clray.errors import UserError
from clray.evaluation import tasks as examples
from clray.evaluation.actors import ScoringPool
from clray.evaluation.tasks import TaskSpec
from clray.history.archive import Archive
from clray.history.blame import Task, task_of
from clray.lineage import notes
from clray.lineage.generation import Generation
from clray.planner import make_plan
from clray.ray_session import connect
from clray.spec import loading
from clray.spec.stream import Stream

Scores = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """Where the task broke: `broke` is the generation, `before` the one before it, which was still good; both None
    where it holds. `scores` are those of the line, the root first; `measured` the keys that were measured for this."""

    task: Task
    limit: float
    line: list[Generation]
    scores: list[float | None]
    broke: Generation | None
    before: Generation | None
    measured: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "task": self.task.name,
            "metric": self.task.metric,
            "limit": self.limit,
            "scores": [
                {"key": made.key, "stage": made.stage_name, "score": score}
                for made, score in zip(self.line, self.scores, strict=True)
            ],
            "broke": self.broke and self.broke.key,
            "before": self.before and self.before.key,
            "measured": self.measured,
        }


def bisect(
    archive: Archive,
    task: str,
    below: float | None,
    above: float | None,
    wanted: str | None,
    stream: Stream | None,
    say: Callable[[str], None],
) -> Bisection:
    """Where the task first fell `below` the limit on the way to generation `wanted`, or rose `above` it where less is
    better.

    `stream` says how the task is measured, where scores are missing and the store does not know its file. UserError
    where the limit does not go with the task's metric, or the task was never on the good side of it.
    """
    line = archive.line(wanted)
    found, store = task_of(archive, line, task), archive.store
    limit = _limit(found, below, above)
    cells = [store.score(made.key, found.digest) for made in line]
    scores = [None if cell is None else float(cell["metrics"][found.metric]) for cell in cells]
    lab = _Lab(archive, found, line, stream, say)
    try:
        broke = first_broken(scores, lambda score: score > limit if found.lower else score < limit, lab.measure)
    finally:
        lab.close()
    if broke is None and not any(_good(score, limit, found.lower) for score in scores):
        best = min(s for s in scores if s is not None) if found.lower else max(s for s in scores if s is not None)
        raise UserError(
            f"task '{found.name}' was never {'at or below' if found.lower else 'at or above'} {limit:g} on the way to "
            f"{line[-1].stage_name} {line[-1].short}; its best {found.metric} is {best:.4g}. Give another limit"
        )
    return Bisection(
        task=found,
        limit=limit,
        line=line,
        scores=scores,
        broke=None if broke is None else line[broke],
        before=None if broke is None else line[broke - 1],
        measured=lab.measured,
    )


def first_broken(
    scores: list[float | None], bad: Callable[[float], bool], measure: Callable[[int], float]
) -> int | None:
    """Number of the first score that is bad behind a good one; None where it never was good, or still is.

    `scores` are filled in as they are measured: the last one, then, where none is known to be good, one after the other
    from the newest back, then halves of the stretch between the last good and the first bad one.
    """

    def at(number: int) -> float:
        score = scores[number]
        if score is None:
            score = scores[number] = measure(number)
        return score

    last = len(scores) - 1
    at(last)
    known = [number for number, score in enumerate(scores) if score is not None]
    good = next((number for number in known if not bad(at(number))), None)
    if good is None:
        good = next((number for number in range(last, -1, -1) if not bad(at(number))), None)
    if good is None:
        return None
    fallen = next((n for n in range(good, last + 1) if scores[n] is not None and bad(at(n))), None)
    if fallen is None:
        return None
    good = max(n for n in range(good, fallen) if scores[n] is not None)
    while fallen - good > 1:
        middle = (good + fallen) // 2
        if bad(at(middle)):
            fallen = middle
        else:
            good = middle
    return fallen


def _limit(task: Task, below: float | None, above: float | None) -> float:
    wanted, other = (above, below) if task.lower else (below, above)
    if wanted is None or other is not None:
        side, word = ("--above", "less") if task.lower else ("--below", "more")
        raise UserError(
            f"task '{task.name}' is measured in {task.metric}, where {word} is better; give {side} LIMIT alone"
        )
    return wanted


def _good(score: float | None, limit: float, lower: bool) -> bool:
    return score is not None and (score <= limit if lower else score >= limit)


@dataclass
class _Lab:
    """Measures generations of the line on the task; starts Ray with the first."""

    archive: Archive
    task: Task
    line: list[Generation]
    stream: Stream | None
    say: Callable[[str], None]
    measured: list[str] = field(default_factory=list)
    _pool: ScoringPool | None = None
    _spec: TaskSpec | None = None

    def measure(self, number: int) -> float:
        """Score of generation `number` of the line, which is then in the store."""
        store, made = self.archive.store, self.line[number]
        if self._pool is None or self._spec is None:
            stream = self._stream()
            self._spec = self._find(stream)
            connect(stream)
            self._pool = ScoringPool(stream)
        self.say(f"measuring {made.stage_name} {made.short} on {self.task.name}")
        count = examples.prepare(self._spec, store)
        self._pool.measure(made.key, [(self._spec, count)], store, lambda task, done, of: None)
        self.measured.append(made.key)
        cell = store.score(made.key, self.task.digest)
        assert cell is not None, "it was just measured"
        return float(cell["metrics"][self.task.metric])

    def close(self) -> None:
        """Ends the scoring actors."""
        if self._pool is not None:
            self._pool.release()

    def _stream(self) -> Stream:
        """The stream by which the task is measured, with this storage."""
        if self.stream is not None:
            return self.stream.model_copy(update={"storage": self.archive.store.root})
        for made in reversed(self.line):
            spec = notes.spec_of(self.archive.store, made.run["stream"], made.run["spec"]) if made.run else None
            if spec:
                return loading.loads(spec, [f"storage={self.archive.store.root}"], name=f"stream {made.run['stream']}")
        raise UserError(
            f"{self.line[-1].stage_name} {self.line[-1].short} is not measured on '{self.task.name}', and no "
            "generation of its line says by which stream; give the stream's file with --stream FILE"
        )

    def _find(self, stream: Stream) -> TaskSpec:
        known = make_plan(stream).tasks
        found = next((spec for spec in known if spec.digest == self.task.digest), None)
        if found is None:
            raise UserError(
                f"stream '{stream.name}' does not measure task '{self.task.name}' as it was measured here (digest "
                f"{self.task.digest[:10]}): examples, scorer or lengths are others, or it has no such task; its tasks "
                f"are {', '.join(f'{spec.task.name} {spec.digest[:10]}' for spec in known)}"
            )
        return found
