"""Models beside the stream's own (encoders, taggers): kept in the store, so that keys and workers know them."""

from __future__ import annotations

import copy
import functools
import hashlib
from pathlib import Path
from typing import Any

from clray.errors import ModelError
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.models.base import local_folder
from clray.spec.endpoint import identity as asked_for

SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")


def keep_models(replay: dict[str, Any], store: Store) -> dict[str, Any]:
    """The replay choice with each model folder or id replaced by the digest under which the store keeps it."""
    kept = copy.deepcopy(replay)
    for part in ("encoder", "tagger"):
        if kept[part]["kind"] in ("huggingface", "sentence-transformers", "model"):
            kept[part]["model"] = keep_model(
                kept[part]["model"], kept[part].pop("revision", None), f"{part}.model", store
            )
    return kept


def identity(replay: dict[str, Any]) -> dict[str, Any]:
    """What of the (kept) replay choice can change the draw: everything but addresses and patience."""
    if replay["kind"] != "inscl":
        return replay
    return {**replay, "tagger": asked_for(replay["tagger"])}


@functools.lru_cache(maxsize=8)
def keep_model(name: str, revision: str | None, field: str, store: Store) -> str:
    """Digest of the files of the model folder or id, which then lie in `models/<digest>/` of the store."""
    folder = local_folder(name, revision, field)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in SUFFIXES]
    if not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(f"{field} '{name}' has no *.safetensors weights (clray unpickles nothing); convert them")
    names = {str(path.relative_to(folder)): _sha256(path) for path in files}
    mark = digest(names)
    for path in files:
        place = f"models/{mark}/{path.relative_to(folder)}"
        if not store.exists(place):
            store.write_bytes(place, path.read_bytes())
    return mark


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
