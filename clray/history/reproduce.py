"""A generation made again from its record alone, in a storage folder of its own, and compared with what it was.

The record names the parent, the resolved stage, the seed, the record sets and the row numbers of every replay draw;
the storage holds those sets and the stream's file. From them the mixture is packed again and the stage is trained
again. Sources, similarity, InsInfo and distances are not asked: what they decided stands in the record.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import fs

from clray.data import mixture
from clray.data.manifest import Manifest
from clray.errors import StorageError, UserError
from clray.history.archive import Archive
from clray.lineage import collected, notes
from clray.lineage.environment import environment
from clray.lineage.finding import ancestry
from clray.lineage.generation import ADAPTER_CONFIG, Generation
from clray.lineage.store import Store
from clray.ray_session import connect
from clray.replay.draw import Draw
from clray.spec import loading
from clray.spec.stream import Compute, Stream, Workers
from clray.train.group import TrainingGroup
from clray.train.order import StageOrder, StageResult

PLACE = "same, but for the path of the model below"
"""What is said of a PEFT adapter's configuration, which names a folder."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How what was made again compares with the record.

    `files` says of each file "same", PLACE or "other"; `loss_apart` is the largest relative difference of the losses of
    a step (None where the record's curve is gone); `also` are generations that had to be made again before, as their
    weights were collected; `environment` what is other than it was: name -> (then, now).
    """

    made: Generation
    files: dict[str, str]
    shards: str
    loss_apart: float | None
    also: list[str]
    environment: dict[str, tuple[Any, Any]]
    seconds: float
    restored: bool

    @property
    def same(self) -> bool:
        """Whether every file has the same bits, as far as it holds no path."""
        return "other" not in self.files.values()

    def within(self, tolerance: float) -> bool:
        """Whether it is the same generation: in its bits, or in its losses within the tolerance."""
        return self.same or (self.loss_apart is not None and self.loss_apart <= tolerance)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain = {name: value for name, value in asdict(self).items() if name != "made"}
        return {"key": self.made.key, "stage_name": self.made.stage_name, "same": self.same, **plain}


def reproduce(
    archive: Archive,
    wanted: str,
    scratch: str | Path,
    say: Callable[[str], None],
    restore: bool = False,
    stream: Stream | None = None,
) -> Reproduction:
    """How the generation comes out when it is made again in the folder `scratch`.

    With `restore`, weights that were collected or damaged are put back where they came out as the record says;
    StorageError where they did not. `stream` says with what to train where the store does not know (records of older
    versions). UserError for a generation that was not trained here.
    """
    started, made = time.monotonic(), archive.find(wanted)
    bench = _Bench(archive.store, Store(str(scratch)), say, stream)
    result = bench.build(made)
    files = _compared(made, result)
    curve = archive.store.read_json(f"generations/{made.key}/curve.json")
    found = Reproduction(
        made=made,
        files=files,
        shards=bench.shards[made.key],
        loss_apart=_apart(curve, result.curve) if curve else None,
        also=[key for key in bench.shards if key != made.key],
        environment=_environment_apart(made.environment),
        seconds=time.monotonic() - started,
        restored=restore,
    )
    if restore:
        _restore(archive.store, bench.scratch, found)
    return found


class _Bench:
    """A storage folder in which generations of another are made again: what they need is linked or made there."""

    def __init__(self, store: Store, scratch: Store, say: Callable[[str], None], stream: Stream | None) -> None:
        self.store = store
        self.scratch = scratch
        self.shards: dict[str, str] = {}
        self._say = say
        self._stream = stream

    def build(self, made: Generation) -> StageResult:
        """Trains the generation in the scratch folder, after all that it stands on is there."""
        if made.parent is None or made.stage.get("kind") == "adopted":
            raise UserError(
                f"generation {made.short} ({made.stage_name}) was not trained here, so it cannot be made again; "
                "'clray verify' compares its files with their digests"
            )
        stream = self._stream_of(made)
        line = ancestry(self.store, made)
        for above in line[:-1]:
            self._provide_record(above)
        self._link(f"tokenizers/{line[0].training['tokenizer_digest']}")
        self._provide_weights(line[-2])
        teachers = set(made.receipt.get("teachers", ())) | ({line[0].key} if "merge" in made.stage else set())
        for above in line[:-2]:
            if above.key in teachers:
                self._provide_weights(above)
        pseudo = made.receipt.get("pseudo", {}).get("file", "")
        if pseudo:
            self.scratch.write_json(pseudo, self._need(self.store.read_json(pseudo), pseudo, made))
        references = _references(made)
        if references:
            self._need(Manifest.load(self.store, references), references, made)
            self._link(references)
        connect(stream.model_copy(update={"compute": _compute(stream, made)}))
        packed = self._pack(made)
        self._say(f"{made.stage_name}: trains {made.short} again on {packed.rows:,} rows of {made.parent[:10]}")
        group = TrainingGroup(_compute(stream, made), self.scratch)
        try:
            result = group.train(self._order(made, packed, stream), lambda progress: None, self._say)
        finally:
            group.release()
        self.scratch.write_json(f"generations/{made.key}/curve.json", result.curve)
        self.scratch.commit(replace(made, files=result.files, base=result.base))
        return result

    def _stream_of(self, made: Generation) -> Stream:
        if self._stream is not None:
            return self._stream
        spec = notes.spec_of(self.store, made.run["stream"], made.run["spec"]) if made.run.get("spec") else None
        if spec is None:
            raise StorageError(
                f"generation {made.short} was recorded without the stream's file, by an older clray; give the file "
                "with --stream FILE: it says with which workers and devices to train"
            )
        return loading.loads(spec, name=f"streams/{made.run['stream']}/{made.run['spec']}.json")

    def _provide_record(self, made: Generation) -> None:
        if self.scratch.generation(made.key) is None:
            self.scratch.commit(made)

    def _provide_weights(self, made: Generation) -> None:
        """Links the weights of the generation and of those below it; makes again what was collected."""
        if not self.scratch.files(f"generations/{made.key}/weights"):
            if made.parent is not None and collected.note(self.store, made.key):
                self._say(f"{made.stage_name}: the weights of {made.short} were collected, so it is made again first")
                self.build(made)
            else:
                for folder in ("weights", "optimiser", "ewc"):
                    if self.store.files(f"generations/{made.key}/{folder}"):
                        self._link(f"generations/{made.key}/{folder}")
        if not made.complete:
            below = self._need(self.store.generation(made.base), f"generations/{made.base}", made)
            self._provide_record(below)
            self._provide_weights(below)

    def _pack(self, made: Generation) -> Manifest:
        """The mixture of the record, packed again from its record sets; says whether its shards came out the same."""
        own, *past = [self._records(digest, made) for digest in made.data["records"]]
        indexes = [mixture.index_of(self.scratch, "", manifest) for manifest in past]
        draws = tuple(
            Draw(replace(index, name=d["stage"]), np.asarray(d["row_numbers"], dtype=np.int64), d["asked"], d["unit"])
            for index, d in zip(indexes, made.receipt["draws"], strict=True)
        )
        spec = mixture.MixtureSpec(
            stage=made.stage_name,
            own=own,
            past=tuple(past),
            draws=draws,
            sequence_length=made.stage["sequence_length"],
        )
        packed, before = mixture.prepare(spec, self.scratch), Manifest.load(self.store, f"mixtures/{spec.digest}")
        if packed.digest != made.data["digest"]:
            raise StorageError(
                f"the data of generation {made.short} is {made.data['digest'][:10]} by its record, but its record sets "
                f"and draws make {packed.digest[:10]}: one of them was altered. See: clray verify {made.short}"
            )
        same = before is not None and [p.sha256 for p in before.parts] == [p.sha256 for p in packed.parts]
        self.shards[made.key] = "same" if same else "other" if before else "gone"
        return packed

    def _records(self, digest: str, made: Generation) -> Manifest:
        folder = f"records/{digest}"
        manifest: Manifest = self._need(Manifest.load(self.store, folder), folder, made)
        if manifest.damaged(self.store):
            raise StorageError(
                f"storage '{self.store.root}': {folder} is damaged; delete it, and clray run makes it again"
            )
        self._link(folder)
        return manifest

    def _order(self, made: Generation, packed: Manifest, stream: Stream) -> StageOrder:
        assert made.parent is not None, "roots are refused before"
        return StageOrder(
            storage=self.scratch.root,
            key=made.key,
            parent=made.parent,
            mixture=packed.digest,
            recipe=made.stage,
            seed=made.receipt["seed"],
            compute=_compute(stream, made).model_dump(mode="json"),
            attention=stream.model.attention,
            trust_remote_code=stream.model.trust_remote_code,
            pseudo=made.receipt.get("pseudo", {}).get("file", ""),
            keep_state=bool(made.files_below("optimiser")),
            teachers=tuple(made.receipt.get("teachers", ())),
            references=_references(made),
        )

    def _link(self, folder: str) -> None:
        """The store's folder in the scratch folder: a link on a disk, a copy of what lies in an object store."""
        target = Path(self.scratch.path(folder))
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.store.local:
            os.symlink(self.store.path(folder), target)
        else:
            target.mkdir()
            fs.copy_files(self.store.path(folder), str(target), source_filesystem=self.store.fs)

    def _need(self, found: Any, place: str, made: Generation) -> Any:
        if found is None:
            raise StorageError(
                f"storage '{self.store.root}': {place} is gone, and generation {made.short} cannot be made again from "
                "its record without it; run its stream again"
            )
        return found


def _references(made: Generation) -> str:
    """The folder of what the parent thought of the pairs of an align stage; "" for any other."""
    return str(made.receipt.get("references", {}).get("folder", ""))


def _compute(stream: Stream, made: Generation) -> Compute:
    """What the stream trains with, on as many workers and threads as there were: sums are rounded by their order."""
    there: dict[str, Any] = {}
    if "workers" in made.training:
        there["workers"] = Workers(min=made.training["workers"], max=made.training["workers"])
    if "threads" in made.training and not stream.compute.gpus_per_worker:
        there["threads"] = made.training["threads"]
    return stream.compute.model_copy(update=there)


def _compared(made: Generation, result: StageResult) -> dict[str, str]:
    """Of each file of the record and of the result, whether it is the "same" or an "other"."""
    return {name: _word(made, result, name) for name in sorted({*made.files, *result.files})}


def _word(made: Generation, result: StageResult, name: str) -> str:
    if made.files.get(name) == result.files.get(name):
        return "same"
    return PLACE if name == ADAPTER_CONFIG and name in result.files else "other"


def _apart(before: list[dict[str, float]], after: list[dict[str, float]]) -> float:
    """The largest relative difference of the losses of a step; infinite where the steps are not as many."""
    if len(before) != len(after):
        return float("inf")
    return max(abs(a["loss"] - b["loss"]) / max(abs(b["loss"]), 1e-12) for a, b in zip(after, before, strict=True))


def _environment_apart(before: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    now = environment()
    flat = [{**each, **each.get("packages", {})} for each in (before, now)]
    names = [name for name in flat[1] if name != "packages" and flat[0].get(name) != flat[1][name]]
    return {name: (flat[0].get(name), flat[1][name]) for name in names}


def _restore(store: Store, scratch: Store, found: Reproduction) -> None:
    """Puts the files where the record says they are. Paths in them name the store, not the scratch folder."""
    made, files = found.made, {}
    if not found.same:
        other = ", ".join(name for name, word in found.files.items() if word == "other")
        raise StorageError(
            f"generation {made.short} came out with other bits than its record has ({other}), so nothing is put back; "
            "clray run makes it again with a new record, where a stage needs it"
        )
    for name in made.files:
        place = f"generations/{made.key}/{name}"
        content = scratch.read_bytes(place).replace(scratch.root.encode(), store.root.encode())
        store.write_bytes(place, content)
        files[name] = hashlib.sha256(content).hexdigest()
    store.commit(replace(made, files=files))
    collected.unmark(store, made.key)
