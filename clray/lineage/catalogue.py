"""All generations of a store in brief, with their scores: read once, then kept on this machine until they change.

A store of ten thousand generations holds several times as many small files. What was read of them is kept in the
cache folder with the time of the last change of each folder, and only what changed is read again. Nothing is
written to the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pyarrow import fs
from pydantic_core import from_json

from clray.lineage import collected, verdicts
from clray.lineage.store import Store, cache_folder
from clray.spec.task import METRICS

VERSION = 3
SETTLED_SECONDS = 2.0
"""A folder that changed less long ago is read again next time: clocks of file systems are coarse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One generation in brief.

    `adapter` is the kind of adapter its weights are, "" where they are complete; `status` what gates said of it (see
    lineage.verdicts), "" where none was asked; `joules` the energy that was counted, 0 where none was; `scores` task
    digest -> [task, metric, score]; `gone` that its weights were collected.
    """

    key: str
    parent: str | None
    index: int
    stage: str
    kind: str
    base: str
    adapter: str
    stream: str
    status: str
    created: str
    tokens: int
    seconds: float
    flops: float
    joules: float = 0.0
    scores: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    gone: bool = False

    @property
    def short(self) -> str:
        """First ten digits of the key."""
        return self.key[:10]


def entries(store: Store) -> list[Entry]:
    """All committed generations in brief, oldest first."""
    place = cache_folder() / "lineage" / f"{hashlib.sha256(store.root.encode()).hexdigest()[:16]}.json"
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        read = from_json(place.read_bytes())
        known = read["entries"] if read["version"] == VERSION else {}
    found, settled, changed = {}, {}, False
    gone, now = collected.all_of(store), time.time_ns()
    for key, stamp in _stamps(store):
        old = known.get(key)
        if old is None or old[0] != stamp:
            plain, changed = _read(store, key, *stamp[1:]), True
        else:
            plain = old[1]
        if plain is not None:
            found[key] = plain
            if max(stamp) < now - SETTLED_SECONDS * 1e9:
                settled[key] = [stamp, plain]
    if changed or len(settled) < len(known):
        with contextlib.suppress(OSError):  # it is a cache: without it the next look takes longer
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps({"version": VERSION, "entries": settled}, separators=(",", ":")))
    made = [_entry(plain, plain["key"] in gone) for plain in found.values()]
    return sorted(made, key=lambda entry: (entry.created, entry.index))


def _entry(plain: dict[str, Any], gone: bool) -> Entry:
    scores = {task: (name, metric, score) for task, (name, metric, score) in plain["scores"].items()}
    return Entry(**{**plain, "scores": scores, "gone": gone})


def _stamps(store: Store) -> Iterator[tuple[str, list[int]]]:
    """Key of each generation's folder, with the time of the last change of its record, its scores and its verdicts."""
    scores, judged = _changed(store, "scores"), _changed(store, verdicts.FOLDER)
    for key, changed in _changed(store, "generations", deep=False).items():
        yield key, [changed, scores.get(key, 0), judged.get(key, 0)]


def _changed(store: Store, folder: str, deep: bool = True) -> dict[str, int]:
    """Name of each folder in `folder` -> when it was last changed. An object store knows that of files alone: there
    the newest file counts, or nothing where looking so `deep` is not wanted."""
    found: dict[str, int] = {}
    if store.local:
        with contextlib.suppress(FileNotFoundError), os.scandir(store.path(folder)) as inside:
            for entry in inside:
                with contextlib.suppress(FileNotFoundError):  # it was taken away just now
                    found[entry.name] = entry.stat().st_mtime_ns
        return found
    selector = fs.FileSelector(store.path(folder), allow_not_found=True, recursive=deep)
    start = len(store.path(folder)) + 1
    for info in store.fs.get_file_info(selector):
        name = info.path[start:].partition("/")[0]
        found[name] = max(found.get(name, 0), info.mtime_ns or 0)
    return found


def _read(store: Store, key: str, scored: int, judged: int) -> dict[str, Any] | None:
    """The entry of the generation as plain values; None where it is not committed. Where it was never `scored` or
    `judged` nothing is looked for."""
    record = store.read_json(f"generations/{key}/generation.json")
    if record is None:
        return None
    stage, training = record.get("stage") or {}, record.get("training") or {}
    return {
        "key": record["key"],
        "parent": record["parent"],
        "index": record["index"],
        "stage": record["stage_name"],
        "kind": stage.get("kind", ""),
        "base": record["base"],
        "adapter": (record.get("adapter") or {}).get("kind", ""),
        "stream": (record.get("run") or {}).get("stream", ""),
        "status": verdicts.status(store, key) if judged else "",
        "created": record.get("created", ""),
        "tokens": training.get("tokens", 0),
        "seconds": training.get("seconds", 0.0),
        "flops": training.get("flops", 0.0),
        "joules": training.get("cpu_joules", 0.0) + training.get("gpu_joules", 0.0),
        "scores": dict(_scores(store, key)) if scored else {},
    }


def _scores(store: Store, key: str) -> Iterator[tuple[str, tuple[str, str, float]]]:
    for name in store.list(f"scores/{key}"):
        cell = store.read_json(f"scores/{key}/{name}") if name.endswith(".json") else None
        if cell:
            metric = cell.get("score", METRICS[cell["scorer"]][0])
            yield name.removesuffix(".json"), (cell["task"], metric, cell["metrics"][metric])
