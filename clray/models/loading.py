"""A generation's weights in memory: complete ones, or adapters on the complete ones below."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from clray.errors import ModelError, StorageError
from clray.lineage import collected
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.models import (
    expansion,
    layers,
    stacks,
    varlen,  # noqa: F401  (makes its name known to transformers)
)
from clray.models.stack_kinds import is_stack

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_tokenizer(store: Store, digest: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of that digest."""
    return AutoTokenizer.from_pretrained(store.fetch(f"tokenizers/{digest}"), trust_remote_code=trust_remote_code)


def load_model(
    store: Store, key: str, precision: str = "fp32", attention: str = "auto", trust_remote_code: bool = False
) -> PreTrainedModel:
    """The generation's model with its adapters merged, on the CPU, in the precision asked for.

    LoRA blocks under a shared attention cannot be merged: they stay in the model, which selects by itself. Raises
    ModelError where the generation or one below it is not in the store, StorageError where it is damaged.
    """
    generation = require(store, key)
    weights = whole_weights(store, generation)
    if generation.complete:
        options: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
        model = AutoModelForCausalLM.from_pretrained(
            weights,
            dtype=DTYPES[precision],
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            **options,
        )
        assert isinstance(model, PreTrainedModel)
        return model
    below = load_model(store, generation.base, precision, attention, trust_remote_code)
    if is_stack(generation.adapter):
        whole: PreTrainedModel = stacks.put_on(below, stacks.read(weights))
        return whole
    from peft import PeftModel

    merged: PreTrainedModel = PeftModel.from_pretrained(below, str(weights)).merge_and_unload()
    merged.requires_grad_(True)
    return merged


def require(store: Store, key: str) -> Generation:
    """The committed generation of that key; ModelError where there is none."""
    generation = store.generation(key)
    if generation is None:
        raise ModelError(f"generation {key[:10]} is not in storage '{store.root}'; run the stream that makes it")
    return generation


def whole_weights(store: Store, generation: Generation) -> Path:
    """Local folder with the generation's weights; StorageError where a file is not what was written."""
    gone = collected.note(store, generation.key)
    if gone:
        raise StorageError(
            f"generation {generation.short} ({generation.stage_name}) has no weights any more: clray gc removed them "
            f"on {gone['collected'][:10]}. Make them again from the record with 'clray reproduce {generation.short} "
            "--restore'; clray run does so by itself where a stage needs them."
        )
    digests = generation.files_below("weights")
    folder = f"generations/{generation.key}/weights"
    damaged = store.damaged(folder, digests)
    if damaged:
        raise StorageError(
            f"storage '{store.root}': {folder}/{damaged[0]} is missing or altered since it was written. Delete "
            f"generations/{generation.key} and run the same command again: the generation is then made again."
        )
    return store.weights(generation.key)


def tokenizer_digest(store: Store, key: str) -> str:
    """Digest of the generation's tokenizer, which is its root's."""
    generation = require(store, key)
    while generation.parent is not None:
        generation = require(store, generation.parent)
    return str(generation.training["tokenizer_digest"])


def copy_tokenizer(store: Store, key: str, folder: Path) -> None:
    """Puts the files of the generation's tokenizer into the folder, byte by byte: saved anew, they would hold traces of
    the environment (`local_files_only`)."""
    for file in store.fetch(f"tokenizers/{tokenizer_digest(store, key)}").iterdir():
        if file.name != "config.json":  # the model's own, which lies there for the tokenizer's sake
            shutil.copyfile(file, folder / file.name)


def trainable_model(
    store: Store, parent: Generation, adapter: dict[str, Any], precision: str, attention: str, trust_remote_code: bool
) -> tuple[Any, str | None]:
    """The model that a stage trains, and the key of the complete generation below its adapter (None: it is complete).

    A LoRA stage goes on with its parent's adapter where both have the same shape, an expansion with its parent's new
    layers, and a stack of blocks gets one more where parent and stage both have one; else the parent is merged and a
    new adapter starts on top of it. Frozen weights take no gradient.
    """
    options = (precision, attention, trust_remote_code)
    if adapter["kind"] == "full":
        model = load_model(store, parent.key, *options)
        if adapter.get("freeze"):
            layers.freeze(model, adapter["freeze"])
        return model, None
    if adapter["kind"] == "expansion":
        model = load_model(store, parent.key, *options)
        if parent.stage.get("adapter") != adapter:
            model = expansion.expand(model, adapter)
        return expansion.train_new_layers(model, adapter), None
    if is_stack(adapter):
        earlier = stacks.of_parent(parent, adapter, whole_weights(store, parent))
        bottom = parent.base if earlier else parent.key
        return stacks.add_block(load_model(store, bottom, *options), earlier, adapter), bottom
    from peft import LoraConfig, PeftModel, TaskType, get_peft_model

    if parent.adapter == adapter:
        below = load_model(store, parent.base, *options)
        adapter_folder = whole_weights(store, parent)
        return PeftModel.from_pretrained(below, str(adapter_folder), is_trainable=True), parent.base
    model = load_model(store, parent.key, *options)
    targets = adapter["targets"] if isinstance(adapter["targets"], str) else list(adapter["targets"])
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=adapter["rank"],
        lora_alpha=adapter["alpha"],
        lora_dropout=adapter["dropout"],
        target_modules=targets,
    )
    try:
        return get_peft_model(model, config), parent.key
    except ValueError as error:
        names = sorted(
            {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        )
        raise ModelError(
            f"adapter.targets {json.dumps(adapter['targets'])} fits no module of the model; its linear modules "
            f"are {', '.join(names)}"
        ) from error
