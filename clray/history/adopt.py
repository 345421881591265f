"""An existing Hugging Face model or PEFT adapter becomes a generation: a root, or a child of one that is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clray.errors import ModelError
from clray.history.registering import ADOPTED, check, register, tracked_at
from clray.history.verify import adopted_key
from clray.lineage.clock import now
from clray.lineage.environment import environment
from clray.lineage.finding import ancestry, by_key
from clray.lineage.generation import Generation
from clray.lineage.store import Store, file_digest
from clray.models.base import commit_base, local_folder, place
from clray.spec.stream import Model

ADAPTER, CONFIG = "adapter_config.json", "config.json"


def adopt(
    storage: str,
    path: str,
    *,
    parent: str | None = None,
    name: str = "adopted",
    stream: str | None = None,
    tracking: str | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = print,
) -> Generation:
    """The generation that the folder `path` became; the same one, and nothing new, where it is there already.

    A complete model without a parent is a root, with the key that a stream over it gives it. With `parent` (the
    beginning of a key) it is a child; an adapter without one stands on the model that its configuration names, which
    becomes a root. MLflow registers it under `stream`: the one that made the parent, "adopted" where none did.

    Raises ModelError where the folder holds no safetensors, or does not fit what it shall stand on, and StorageError
    where MLflow does not answer, before anything is written; one that goes away later is told by `clray deliver`.
    """
    store, folder = Store(storage), Path(path).expanduser()
    store.check_writable()
    above = by_key(store, parent) if parent else None
    stream = stream or (above.run.get("stream") if above else None) or ADOPTED
    uri = tracked_at(store, tracking)
    check(uri, stream)
    if not folder.is_dir():
        raise ModelError(f"'{path}' is not a folder; the working directory is {Path.cwd()}")
    adapter = _lora(folder) if (folder / ADAPTER).is_file() else None
    model = Model(base=str(path), trust_remote_code=trust_remote_code)
    if adapter is None and above is None:
        made = commit_base(folder, model, store, now())
    else:
        made = _child(store, folder, above or _base_of(folder, model, store), adapter, name)
    register(store, uri, stream, made, say)
    return made


def _base_of(folder: Path, model: Model, store: Store) -> Generation:
    """The model that the adapter's configuration names, as generation 0."""
    named = json.loads((folder / ADAPTER).read_text()).get("base_model_name_or_path") or ""
    if not named:
        raise ModelError(f"'{folder}' names no base model in {ADAPTER}; give the generation it stands on: --parent KEY")
    below = model.model_copy(update={"base": named})
    return commit_base(local_folder(named, None), below, store, now())


def _child(store: Store, folder: Path, parent: Generation, adapter: dict[str, Any] | None, name: str) -> Generation:
    """The folder as a child of `parent`, committed."""
    paths = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix not in (".bin", ".pt", ".pth")]
    if not any(p.suffix == ".safetensors" for p in paths):
        raise ModelError(
            f"'{folder}' has no *.safetensors weights (clray unpickles nothing); save it again "
            "with safe_serialization=True"
        )
    if adapter is None:
        _check_complete(store, folder, parent)
    else:
        _check_adapter(store, folder, parent)
    files = {f"weights/{p.name}": file_digest(p) for p in paths}
    key = adopted_key(parent.key, files)
    known = store.generation(key)
    if known:
        return known
    for p in paths:
        place(p, store, f"generations/{key}/weights/{p.name}")
    made = Generation(
        key=key,
        parent=parent.key,
        index=parent.index + 1,
        stage_name=name,
        base=key if adapter is None else parent.key,
        adapter=adapter,
        stage={"kind": "adopted", "adapter": adapter or {"kind": "full"}},
        environment=environment(),
        files=files,
        created=now(),
    )
    store.commit(made)
    return made


def _lora(folder: Path) -> dict[str, Any]:
    """The adapter's kind and shape as its configuration says; ModelError where it is no LoRA."""
    config = json.loads((folder / ADAPTER).read_text())
    if config.get("peft_type") != "LORA":
        raise ModelError(
            f"'{folder}' is a PEFT adapter of type {config.get('peft_type')}; LORA alone can be adopted. Merge it into "
            "its model and adopt that"
        )
    targets = config.get("target_modules")
    return {
        "kind": "lora",
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "dropout": config.get("lora_dropout", 0.0),
        "targets": sorted(targets) if isinstance(targets, list) else targets,
    }


def _check_complete(store: Store, folder: Path, parent: Generation) -> None:
    if not (folder / CONFIG).is_file():
        raise ModelError(f"'{folder}' has neither {CONFIG} nor {ADAPTER}; give a Hugging Face model or a PEFT adapter")
    mark = ancestry(store, parent)[0].training["tokenizer_digest"]
    kept, own = f"tokenizers/{mark}/tokenizer.json", folder / "tokenizer.json"
    if own.is_file() and store.exists(kept) and store.sha256(kept) != file_digest(own):
        raise ModelError(
            f"'{folder}' has another tokenizer than {parent.stage_name} {parent.short}, so their scores would not "
            "compare; adopt it as a root of its own, without --parent"
        )


def _check_adapter(store: Store, folder: Path, parent: Generation) -> None:
    """Raises ModelError where the adapter changes a weight that the parent does not have, or of another shape."""
    if not parent.complete:
        raise ModelError(
            f"generation {parent.short} is an adapter itself, and an adapter stands on complete weights; give the one "
            f"below it, --parent {parent.base[:10]}, or merge first: clray export"
        )
    below = _shapes(store.weights(parent.key))
    tensors = _shapes(folder)
    for tensor, shape in tensors.items():
        module, side, _ = tensor.partition(".lora_")
        weight = f"{module.removeprefix('base_model.model.')}.weight"
        if side and _suffix(weight, below) is None:
            raise ModelError(
                f"'{folder}' changes {weight}, which {parent.stage_name} {parent.short} does not have; give the "
                "generation that the adapter was trained on: --parent KEY"
            )
        extent = shape[0] if tensor.endswith("lora_B.weight") else shape[-1]
        if side and extent not in below[_suffix(weight, below) or ""]:
            raise ModelError(
                f"'{folder}' fits no weight like {weight} of {parent.stage_name} {parent.short}: {tensor} is "
                f"{tuple(shape)}, the weight {tuple(below[_suffix(weight, below) or ''])}; give another --parent"
            )


def _suffix(weight: str, below: dict[str, list[int]]) -> str | None:
    """The name of the weight as the model's files have it: with or without the prefix of the whole model."""
    return next((name for name in (weight, weight.removeprefix("model."), f"model.{weight}") if name in below), None)


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Name -> shape of all tensors of the folder's safetensors files, read from their headers alone."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        found.update({name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"})
    return found
