"""What changed from one generation to another: settings, data, scores, answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clray.history.archive import Archive
from clray.history.examples import compared, shown
from clray.history.flips import flips
from clray.history.log import MARK
from clray.history.paired import Difference, difference
from clray.lineage.finding import ancestry
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.spec.task import METRICS

FLIPS = 3


@dataclass(frozen=True, kw_only=True)
class TaskChange:
    """A task that both generations were measured on."""

    task: str
    digest: str
    difference: Difference
    flips: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Diff:
    """From `before` to `after`.

    `relation` says how they stand to each other; `settings` dotted field -> (before, after) of the resolved stages;
    `sources` what came in and went out; `examples` distinct examples by origin; `unmeasured` tasks of one alone.
    """

    before: Generation
    after: Generation
    relation: str
    settings: dict[str, tuple[Any, Any]]
    sources: dict[str, list[str]]
    examples: dict[str, Any]
    replayed: dict[str, tuple[int, int]]
    tasks: list[TaskChange]
    unmeasured: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "before": self.before.key,
            "after": self.after.key,
            "relation": self.relation,
            "settings": {name: {"before": old, "after": new} for name, (old, new) in self.settings.items()},
            "sources": self.sources,
            "examples": self.examples,
            "rows_shown": {name: {"before": old, "after": new} for name, (old, new) in self.replayed.items()},
            "tasks": [
                {"task": each.task, "digest": each.digest, **each.difference.to_dict(), "flips": each.flips}
                for each in self.tasks
            ],
            "unmeasured": self.unmeasured,
        }


def diff(archive: Archive, first: str, second: str, most: int = FLIPS) -> Diff:
    """What changed from generation `first` to `second`; of each task the first `most` answers that turned each way."""
    store, before, after = archive.store, archive.find(first), archive.find(second)
    old, new = shown(store, before), shown(store, after)
    tasks, alone = _tasks(store, before, after, most)
    return Diff(
        before=before,
        after=after,
        relation=_relation(store, before, after),
        settings=dict(_settings(before.stage, after.stage)),
        sources=_sources(before, after),
        examples={"own": compared(old.own, new.own), "replayed": compared(old.replayed, new.replayed)},
        replayed=_rows(before, after),
        tasks=tasks,
        unmeasured=alone,
    )


def results_of(store: Store, key: str, task: str) -> list[dict[str, Any]] | None:
    """What the generation answered to each example of the task; None where it was not measured on it."""
    found: list[dict[str, Any]] | None = store.read_json(f"outputs/{key}/{task}.json")
    return found


def _relation(store: Store, before: Generation, after: Generation) -> str:
    lines = [[made.key for made in ancestry(store, each)] for each in (before, after)]
    together = sum(1 for a, b in zip(*lines, strict=False) if a == b)
    ways = [len(line) - together for line in lines]
    if not together:
        return "they come from different base models"
    if ways == [0, 0]:
        return "they are the same generation"
    if 0 in ways:
        word = "after" if not ways[0] else "before"
        return f"the second is {max(ways)} generation{'s' * (max(ways) > 1)} {word} the first"
    fork = store.generation(lines[0][together - 1])
    assert fork is not None, "the ancestry was just read"
    return f"they part after {fork.stage_name} {fork.short}, {ways[0]} and {ways[1]} generations ago"


def _settings(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Dotted field -> values, of the fields that differ; None where one has no such field."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}):
            yield from _settings(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    elif before != after:
        yield path, (before, after)


def _sources(before: Generation, after: Generation) -> dict[str, list[str]]:
    """Files and builtin texts that came in and went out, by content."""
    old, new = _contents(before), _contents(after)
    return {
        "in": [name for mark, name in new.items() if mark not in old],
        "out": [name for mark, name in old.items() if mark not in new],
    }


def _contents(made: Generation) -> dict[str, str]:
    """Digest of each file or text -> its name."""
    found = {}
    for source in made.data.get("sources", []):
        for file in source.get("files", ()):
            found[file["sha256"]] = f"{file['name']} ({file['sha256'][:10]})"
        mark = source.get("sha256") or source.get("fingerprint")
        if mark:
            found[mark] = f"{source['source']}/{source['split']} ({mark[:10]})"
    return found


def _rows(before: Generation, after: Generation) -> dict[str, tuple[int, int]]:
    """Rows shown of each origin, by its stage's name."""
    old, new = ({o["stage"]: o["rows"] for o in made.data.get("origins", [])} for made in (before, after))
    return {name: (old.get(name, 0), new.get(name, 0)) for name in {**old, **new}}


def _metric(cell: dict[str, Any]) -> str:
    """The metric that is compared: the scorer's own, or what a suite's cell was scored by."""
    return str(cell["score"]) if cell["scorer"] == "suite" else METRICS[cell["scorer"]][0]


def _tasks(store: Store, before: Generation, after: Generation, most: int) -> tuple[list[TaskChange], list[str]]:
    names = [{name.removesuffix(".json") for name in store.list(f"scores/{g.key}")} for g in (before, after)]
    tokenizer = str(ancestry(store, after)[0].training.get("tokenizer_digest", ""))
    found, alone = [], []
    for digest in sorted(names[0] | names[1]):
        cell = store.score(after.key, digest) or store.score(before.key, digest)
        old, new = (results_of(store, made.key, digest) for made in (before, after))
        assert cell is not None, "its name was just listed"
        if old is None or new is None:
            alone.append(f"{cell['task']} ({digest[:MARK]})")
            continue
        found.append(
            TaskChange(
                task=cell["task"],
                digest=digest,
                difference=difference(_metric(cell), old, new),
                flips=flips(store, tokenizer, digest, cell["scorer"], old, new, most),
            )
        )
    return sorted(found, key=lambda each: (each.task, each.digest)), sorted(alone)
