"""A generation as a plain Hugging Face folder, for whoever has no clray."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from clray.errors import ModelError, StorageError, UserError
from clray.lineage.finding import ancestry, by_key, listed
from clray.lineage.generation import Generation
from clray.lineage.store import Store, file_digest
from clray.spec.stream import Stream

NOTE = "clray.json"
Precision = Literal["fp32", "bf16"]


def export(
    storage: str,
    generation: Generation | str,
    out: str | Path,
    *,
    adapter: bool = False,
    task: str | int | None = None,
    precision: Precision | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
) -> Path:
    """The folder `out` with the generation, which `transformers` or `peft` loads without clray.

    Merged (the default): a complete model and its tokenizer, in `precision`, else in that of the weights in the
    storage. LoRA blocks that each prompt selects from stay apart, and the folder holds the code that selects: it is
    loaded with `trust_remote_code=True`. With `task`, a stage or the number of its block from 1, they are merged for
    that task alone. With `adapter`: the PEFT adapter as it was trained, or each block as one; the model below lies in
    `base/`, unless that is a model of the hub, which is then named instead. `clray.json` says where the generation
    comes from. `generation` is one, or a key, or the beginning of a key. Raises UserError where there is no such
    generation or task, or where `out` is not empty; with `force` a former export is replaced. The folder is whole or
    not there.
    """
    from transformers.utils import logging

    store = Store(storage)
    made = generation if isinstance(generation, Generation) else by_key(store, generation)
    if adapter and made.complete:
        raise ModelError(f"generation {made.short} has complete weights and no adapter; export it merged")
    if adapter and task is not None:
        raise UserError("--task merges the blocks and --adapter keeps them apart; give one of them")
    if adapter and precision:
        raise UserError("an adapter is exported in the precision it was trained in; leave --precision out, or merge")
    target = _target(Path(out), force)
    logging.disable_progress_bar()
    with _whole(target) as folder:
        if adapter:
            facts = _adapter(store, made, folder, target, trust_remote_code)
        else:
            facts = _model(store, made, folder, task, precision, trust_remote_code)
        _note(store, made, folder, facts)
    return target


def find(stream: Stream, wanted: str) -> Generation:
    """The generation of the stream that `wanted` names: the beginning of a key, a stage, an index, or `newest`.

    Stage, index and `newest` are looked up in the stream itself, not in its controls. UserError where it is not
    there, with what is.
    """
    from clray.planner import make_plan

    store = Store(stream.storage)
    names = {stage.name for stage in stream.sequence} | {"base"}
    known = wanted in names or wanted == "newest" or (wanted.isdigit() and int(wanted) <= len(stream.sequence))
    if not known:
        return by_key(store, wanted)
    line = make_plan(stream).lines[0]
    keys, numbers = line.keys, {"base": 0} | {planned.stage.name: planned.index for planned in line.stages}
    there = [made for key in keys if (made := store.generation(key))]
    if wanted == "newest":
        return there[-1]
    number = numbers.get(wanted, int(wanted) if wanted.isdigit() else len(keys))
    found = store.generation(keys[number]) if number < len(keys) else None
    if found is None:
        raise ModelError(
            f"generation '{wanted}' of stream '{stream.name}' is not built yet; there are {listed(there)}. "
            "Run the stream first: clray run"
        )
    return found


def _model(
    store: Store,
    made: Generation,
    folder: Path,
    task: str | int | None,
    precision: Precision | None,
    trust_remote_code: bool,
) -> dict[str, Any]:
    """Writes a complete model and its tokenizer to `folder`: merged, merged for one task, or one that selects."""
    from clray.models.loading import copy_tokenizer, load_model, whole_weights
    from clray.models.stack_export import model_of_task, recorded_weights, selects, write_selecting

    stored = _stored_precision(store, made)
    written = precision or (stored if stored in ("fp32", "bf16") else "fp32")
    if task is None and selects(made):
        return write_selecting(store, made, folder, written, trust_remote_code)
    facts: dict[str, Any] = {"form": "merged", "precision": written}
    if task is not None:
        stage, weights = recorded_weights(store, made, task)
        facts |= {"form": "merged-for-task", "task": stage, "weights": weights}
        _save(store, made, model_of_task(store, made, weights, trust_remote_code), folder, written)
    elif made.complete and precision in (None, stored):
        facts["precision"] = stored
        shutil.copytree(whole_weights(store, made), folder, dirs_exist_ok=True)
    else:
        _save(store, made, load_model(store, made.key, "fp32", trust_remote_code=trust_remote_code), folder, written)
    copy_tokenizer(store, made.key, folder)
    return facts


def _save(store: Store, made: Generation, model: Any, folder: Path, precision: str) -> None:
    """Saves the merged model. Adapters are merged in fp32 and rounded once."""
    from clray.models.loading import DTYPES

    model.to(DTYPES[precision]).save_pretrained(folder)
    for code in store.weights(_bottom(store, made).key).glob("*.py"):
        shutil.copyfile(code, folder / code.name)


def _adapter(store: Store, made: Generation, folder: Path, target: Path, trust_remote_code: bool) -> dict[str, Any]:
    """Writes the adapter to `folder`, and the model below it to `folder/base` where the hub does not have it.

    Of a stack, each block is an adapter in a folder of its own.
    """
    from clray.models.loading import copy_tokenizer, require, whole_weights
    from clray.models.stack_export import write_blocks
    from clray.models.stack_kinds import is_stack

    below = require(store, made.base)
    facts: dict[str, Any] = {"form": "adapter"}
    if is_stack(made.adapter):
        adapters = write_blocks(store, made, folder, trust_remote_code)
        facts = {"form": "adapters", "blocks": [each.relative_to(folder).as_posix() for each in adapters]}
    else:
        adapters = [folder]
        shutil.copytree(whole_weights(store, made), folder, dirs_exist_ok=True)
    copy_tokenizer(store, made.key, folder)
    revision = below.training.get("revision")  # only a model of the hub has one
    if revision:
        base = {"base_model_name_or_path": below.training["source"], "revision": revision}
    else:
        _model(store, below, folder / "base", None, None, trust_remote_code)
        base = {"base_model_name_or_path": str(target.absolute() / "base"), "revision": None}
    for config in (each / "adapter_config.json" for each in adapters):
        config.write_text(json.dumps(json.loads(config.read_text()) | base, indent=2, sort_keys=True))
    return {**facts, "base": {"key": below.key, "model": below.training["source"] if revision else "base"}}


def _bottom(store: Store, made: Generation) -> Generation:
    """The complete generation below all adapters."""
    from clray.models.loading import require

    while not made.complete:
        made = require(store, made.base)
    return made


def _stored_precision(store: Store, made: Generation) -> str:
    """The precision of the complete weights below, as their configuration names it."""
    settings = json.loads((store.weights(_bottom(store, made).key) / "config.json").read_text())
    name = str(settings.get("dtype") or settings.get("torch_dtype") or "float32")
    return {"bfloat16": "bf16", "float32": "fp32"}.get(name, name)


def _note(store: Store, made: Generation, folder: Path, facts: dict[str, Any]) -> None:
    """Writes where the generation comes from, and the digest of each file beside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    value = {
        "clray": metadata.version("clray"),
        "key": made.key,
        **facts,
        "lineage": [
            {"key": each.key, "index": each.index, "stage": each.stage_name, "kind": each.stage.get("kind")}
            for each in reversed(ancestry(store, made))
        ],
        "files": {path.relative_to(folder).as_posix(): file_digest(path) for path in files},
    }
    (folder / NOTE).write_text(json.dumps(value, indent=1, sort_keys=True))


def _target(out: Path, force: bool) -> Path:
    """The folder to write; UserError where something is there that may not be replaced."""
    out = out.expanduser()
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return out
    if not force:
        raise StorageError(f"'{out}' is there and not empty; give another --out, or --force to replace a former export")
    if not (out / NOTE).is_file():
        raise StorageError(
            f"'{out}' holds no {NOTE}, so it is no former export and is not replaced; give another --out"
        )
    return out


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when all is written, and is gone when something fails."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"'{target}' cannot be written: {error}. Give another --out") from error
    try:
        yield partial
        if target.exists():
            former = target.with_name(f"{partial.name}.old")
            os.rename(target, former)
            os.rename(partial, target)
            shutil.rmtree(former)
        else:
            os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
