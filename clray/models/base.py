"""Generation 0: the base model, found, checked, digested and put into the store."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clray.cost import model_shape
from clray.errors import ModelError
from clray.lineage.generation import Generation
from clray.lineage.key import digest, root_key
from clray.lineage.store import Store
from clray.spec.stream import Model, Stream

TOKENIZER_FILES = ("tokenizer", "special_tokens_map", "vocab", "merges", "added_tokens", "chat_template", "spiece")
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class Base:
    """The base model of a stream: its generation, and the digest and folder of its tokenizer."""

    generation: Generation
    tokenizer_digest: str
    max_positions: int | None


def prepare_base(stream: Stream, store: Store, created: str) -> Base:
    """The stream's base model as committed generation 0.

    Raises ModelError where the model is not found, has no safetensors weights, or its tokenizer cannot end a
    sequence. Nothing that comes with the model is executed unless `trust_remote_code` says so.
    """
    known = store.read_json(_note(stream, store)) if stream.model.base.startswith("builtin:") else None
    if known and (generation := store.generation(known["key"])):
        return _described(generation)
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="clray-base-") as scratch:
        builtin = stream.model.base.startswith("builtin:")
        folder = _builtin(stream, Path(scratch)) if builtin else local_folder(stream.model.base, stream.model.revision)
        generation = commit_base(folder, stream.model, store, created)
    if stream.model.base.startswith("builtin:"):
        store.write_json(_note(stream, store), {"key": generation.key})
    return _described(generation)


def _described(generation: Generation) -> Base:
    return Base(generation, generation.training["tokenizer_digest"], generation.training["max_positions"])


def _note(stream: Stream, store: Store) -> str:
    """Where the key of the builtin model of these settings is remembered."""
    from clray.data import builtin
    from clray.models import builtin as maker

    code = [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in (builtin, maker)]
    shape = stream.model.builtin.model_dump(mode="json")
    return f"builtin/{digest([stream.model.base, shape, stream.seed, platform.python_version(), code])}.json"


def _builtin(stream: Stream, scratch: Path) -> Path:
    """A folder with the small Llama and its byte-level BPE tokenizer, made on the spot."""
    from clray.data import builtin
    from clray.models.builtin import build_llama, build_tokenizer

    if stream.model.base != "builtin:llama":
        raise ModelError(f"base model '{stream.model.base}' is not known; the builtin one is builtin:llama")
    texts = [
        record["text"] for name in ("docs", "docstrings", "code") for record in builtin.records(name, "train")[:2000]
    ]
    tokenizer = build_tokenizer(texts, stream.model.builtin.vocab_size)
    build_llama(stream.model.builtin, tokenizer, stream.seed).save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    return scratch


def local_folder(name: str, revision: str | None, what: str = "base model") -> Path:
    """The local folder of a Hugging Face folder or id; `what` is its name in errors."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{what} '{name}' is not a folder; the working directory is {Path.cwd()}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"{what} '{name}' is neither a folder nor to be had from the hub "
            f"({type(error).__name__}); check the name and the network, or give a local folder"
        ) from error


def commit_base(folder: Path, model: Model, store: Store, created: str) -> Generation:
    """The Hugging Face model in the folder as committed generation 0; ModelError where it cannot be one."""
    from transformers import AutoConfig

    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").exists():
        raise ModelError(f"base model '{folder}' has no config.json; give a Hugging Face model folder")
    if not weights:
        raise ModelError(
            f"base model '{folder}' has no *.safetensors weights (clray unpickles nothing); convert them "
            "with save_pretrained(..., safe_serialization=True)"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    except (ValueError, OSError) as error:
        raise ModelError(f"base model '{folder}': {error}") from error
    tokenizer_digest = _keep_tokenizer(folder, model, store)
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix != ".bin"]
    digests = {path.name: _sha256(path) for path in files}
    shaping = {name: value for name, value in digests.items() if name.endswith((".safetensors", ".json", ".py"))}
    key = root_key({"files": shaping, "tokenizer": tokenizer_digest})
    known = store.generation(key)
    if known:
        return known
    for path in files:
        place(path, store, f"generations/{key}/weights/{path.name}")
    generation = Generation(
        key=key,
        parent=None,
        index=0,
        stage_name="base",
        base=key,
        created=created,
        training={
            "source": model.base,
            "revision": _revision(folder, model),
            "tokenizer_digest": tokenizer_digest,
            "max_positions": getattr(config, "max_position_embeddings", None),
            "shape": model_shape(config, count_parameters(weights)),
        },
        files={f"weights/{name}": value for name, value in digests.items()},
    )
    store.commit(generation)
    return generation


def _revision(folder: Path, model: Model) -> str | None:
    """The commit of a model that came from the hub; None for a folder and for a builtin one."""
    return folder.name if folder.parent.name == "snapshots" and not Path(model.base).expanduser().is_dir() else None


def _keep_tokenizer(folder: Path, model: Model, store: Store) -> str:
    """Checks the tokenizer, keeps its files under their digest, and returns it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.trust_remote_code)
    except Exception as error:
        raise ModelError(f"base model '{folder}': its tokenizer cannot be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"base model '{folder}': its tokenizer has no eos_token, so no answer could ever end; name one "
            "in tokenizer_config.json"
        )
    names = sorted(p.name for p in folder.iterdir() if p.name.startswith(TOKENIZER_FILES) or p.name == "config.json")
    mark = digest({name: _sha256(folder / name) for name in names})
    for name in names:
        if not store.exists(f"tokenizers/{mark}/{name}"):
            store.write_bytes(f"tokenizers/{mark}/{name}", (folder / name).read_bytes())
    return mark


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def place(path: Path, store: Store, relative: str) -> None:
    """Copies the file into the store; a hard link would let an edit of the original change history."""
    if store.local:
        target = Path(store.path(relative))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, f"{target}.tmp")
        os.replace(f"{target}.tmp", target)
    else:
        store.write_bytes(relative, path.read_bytes())


def count_parameters(weights: list[Path]) -> int:
    """Number of weights in the safetensors files, read from their headers alone."""
    total = 0
    for path in weights:
        with path.open("rb") as stream:
            header: dict[str, Any] = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for extent in tensor["shape"]:
                    size *= extent
                total += size
    return total
