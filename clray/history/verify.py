"""Whether what lies on the storage is still what was written: weights, shards, tokenizers, scores, and the records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from clray.data.manifest import Manifest
from clray.evaluation.outcomes import aggregate
from clray.history.archive import Archive
from clray.lineage import collected
from clray.lineage.finding import ancestry
from clray.lineage.generation import Generation
from clray.lineage.key import RECIPE_VERSION, digest, generation_key, root_key
from clray.lineage.store import Store

SHAPING = (".safetensors", ".json", ".py")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is not what was written: where, what is wrong with it, and what mends it."""

    place: str
    what: str
    mend: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How many things of each kind were looked at, and what is wrong."""

    checked: dict[str, int]
    problems: list[Problem]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"checked": self.checked, "problems": [asdict(problem) for problem in self.problems]}


def verify(archive: Archive, wanted: str | None = None, watch: Callable[[str], None] = lambda text: None) -> Verdict:
    """What is wrong with the storage; with `wanted`, with all that this generation is made of. `watch` is told of each
    thing before it is read."""
    store = archive.store
    made = [archive.find(wanted)] if wanted else list(store.generations())
    looks: dict[str, list[tuple[str, Iterator[Problem]]]] = {
        "generations": [(f"generation {each.short}", _generation(store, each)) for each in _with_bases(store, made)],
        "records": [(name, _shards(store, name)) for name in _sets(store, made, "records", bool(wanted))],
        "mixtures": [(name, _shards(store, name)) for name in _sets(store, made, "mixtures", bool(wanted))],
        "tokenizers": [(f"tokenizer {mark[:10]}", _tokenizer(store, mark)) for mark in _tokenizers(store, made)],
        "scores": [(f"scores of {each.short}", _scores(store, each)) for each in made],
    }
    problems = []
    for some in looks.values():
        for name, found in some:
            watch(name)
            problems += list(found)
    return Verdict(checked={kind: len(some) for kind, some in looks.items()}, problems=problems)


def _with_bases(store: Store, made: list[Generation]) -> list[Generation]:
    """The generations, and the complete ones below those that are adapters."""
    found = {each.key: each for each in made}
    for each in made:
        while each.base not in found:
            below = store.generation(each.base)
            if below is None:
                break
            found[below.key] = each = below
    return list(found.values())


def _generation(store: Store, made: Generation) -> Iterator[Problem]:
    folder = f"generations/{made.key}"
    if not _key_fits(made):
        yield Problem(
            place=f"{folder}/generation.json",
            what="the key does not follow from the record: one of its fields was changed",
            mend="put back generation.json from the artifacts of the generation's run in MLflow",
        )
    if collected.note(store, made.key):
        return
    for name, sha256 in made.files.items():
        found = store.sha256(f"{folder}/{name}")
        if found != sha256:
            yield Problem(
                place=f"{folder}/{name}",
                what="altered since it was written" if found else "missing",
                mend=f"make it again: clray reproduce {made.short} --restore"
                if made.parent
                else f"delete {folder}, and run the stream again",
            )


def _key_fits(made: Generation) -> bool:
    """Whether the key is what the record's content makes it. Records of InsCL without `replay_kept` tell too little."""
    versions = range(1, RECIPE_VERSION + 1)
    if made.stage.get("kind") == "adopted":
        return made.key == adopted_key(made.parent, made.files)
    if made.parent is None:
        files = {name: mark for name, mark in made.files_below("weights").items() if name.endswith(SHAPING)}
        model = {"files": files, "tokenizer": made.training["tokenizer_digest"]}
        return made.key in [root_key(model, version) for version in versions]
    replay = made.receipt.get("replay_kept", made.stage["replay"])
    if replay["kind"] == "inscl" and "replay_kept" not in made.receipt:
        return True
    own, *past = made.data["records"]
    stage = {**made.stage, "replay": replay}
    return made.key in [generation_key(made.parent, stage, [own], past, made.receipt["seed"], v) for v in versions]


def adopted_key(parent: str | None, files: dict[str, str]) -> str:
    """Key of a generation that was not trained here: its parent and the content of its files."""
    return digest({"adopted": files, "parent": parent})


def _sets(store: Store, made: list[Generation], kind: str, alone: bool) -> list[str]:
    """Folders of that kind: all of the store, or those of the generations `alone`, as far as they are there."""
    if not alone:
        return [f"{kind}/{name}" for name in store.list(kind)]
    marks = {
        mark
        for each in made
        for mark in (each.data.get("records", []) if kind == "records" else [each.data.get("digest")])
        if mark
    }
    return [f"{kind}/{mark}" for mark in sorted(marks) if store.exists(f"{kind}/{mark}/manifest.json")]


def _shards(store: Store, folder: str) -> Iterator[Problem]:
    manifest = Manifest.load(store, folder)
    for part in manifest.parts if manifest else ():  # without its manifest it does not exist, and is made again
        found = store.sha256(f"{folder}/{part.name}")
        if found != part.sha256:
            yield Problem(
                place=f"{folder}/{part.name}",
                what="altered since it was written" if found else "missing",
                mend=f"delete {folder}: the next run makes it again where it is needed",
            )


def _tokenizers(store: Store, made: list[Generation]) -> list[str]:
    """Digests of the tokenizers that the generations' roots came with."""
    roots = [ancestry(store, made[0])[0]] if len(made) == 1 else [each for each in made if each.parent is None]
    return sorted({root.training["tokenizer_digest"] for root in roots})


def _tokenizer(store: Store, mark: str) -> Iterator[Problem]:
    folder = f"tokenizers/{mark}"
    if digest({name: store.sha256(f"{folder}/{name}") for name in store.list(folder)}) != mark:
        yield Problem(
            place=folder,
            what="a file is missing or altered since it was written",
            mend=f"delete {folder} and the generation 0 that it came with, and run the stream again",
        )


def _scores(store: Store, made: Generation) -> Iterator[Problem]:
    """Each score must follow from the answers beside it."""
    for name in store.list(f"scores/{made.key}"):
        place = f"scores/{made.key}/{name}"
        cell, results = store.read_json(place), store.read_json(f"outputs/{made.key}/{name}")
        mend = f"delete {place}: clray evaluate measures it again"
        if not results:
            yield Problem(place=f"outputs/{made.key}/{name}", what="missing", mend=mend)
            continue
        again = aggregate(cell["scorer"], results)
        if any(not math.isclose(again[metric], value, rel_tol=1e-9) for metric, value in cell["metrics"].items()):
            yield Problem(place=place, what="the score does not follow from the answers in outputs/", mend=mend)
