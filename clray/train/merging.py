"""The weights of a stage merged with those of an earlier generation, file by file as they were written.

So it does not depend on the engine: workers and ZeRO stage change nothing, and names are those of the folder. Only one
tensor is in memory at a time.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from clray.lineage.finding import ancestry
from clray.lineage.generation import Generation
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.models.loading import load_model, whole_weights
from clray.spec.adapter import COMPLETE

Tensors = dict[str, Any]
"""Name -> the open file that holds the tensor."""


def merge(folder: Path, recipe: dict[str, Any], store: Store, parent: Generation, seed: int) -> None:
    """Replaces the weights in the folder by those merged as the recipe says."""
    settings, root = recipe["merge"], ancestry(store, parent)[0]
    low_rank, linearly = recipe["adapter"]["kind"] not in COMPLETE, settings["method"] == "linear"
    other = parent if settings["with"] == "parent" else root
    with ExitStack() as stack:
        past: Tensors = {}
        base: Tensors = {}
        if low_rank and other.adapter == recipe["adapter"]:
            past = stack.enter_context(opened(whole_weights(store, other)))
        elif not low_rank and (linearly or other.key != root.key):
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="clray-merge-"))
            past = stack.enter_context(opened(_complete(store, other, recipe["precision"], Path(scratch))))
        if not low_rank and not linearly:
            base = stack.enter_context(opened(whole_weights(store, root)))
        for file in sorted(folder.glob("*.safetensors")):
            rewrite(file, settings, past, base, low_rank, seed)


def rewrite(file: Path, settings: dict[str, Any], other: Tensors, base: Tensors, low_rank: bool, seed: int) -> None:
    """Writes the file again with merged tensors, in the precision that they have.

    `base` are the weights that task vectors are counted from, `other` those that are merged with; what is in neither
    counts as 0, as a low-rank update does where there is none yet.
    """
    merged = {}
    with safe_open(file, framework="pt") as trained:
        metadata = trained.metadata()
        for name in trained.keys():  # noqa: SIM118
            own = trained.get_tensor(name)
            new, past = own.float(), other[name].get_tensor(name).float() if name in other else None
            if settings["method"] == "linear":
                new = _linear(name, new, past, settings["weight"])
            else:
                zero = base[name].get_tensor(name).float() if name in base else torch.zeros_like(new)
                vectors = [*([] if past is None else [past - zero]), new - zero]
                new = zero + by_vectors(vectors, settings, low_rank, int(digest([seed, name], 15), 16))
            merged[name] = new.to(own.dtype).clone()  # the file's own tensors lie in the file
    save_file(merged, file, metadata=metadata)


def linear(trained: torch.Tensor, other: torch.Tensor, weight: float) -> torch.Tensor:
    """other + weight * (trained - other)."""
    return other + weight * (trained - other)


def by_vectors(vectors: list[torch.Tensor], settings: dict[str, Any], low_rank: bool, seed: int) -> torch.Tensor:
    """TIES or DARE of the task vectors, the trained one last, by PEFT's own functions; what is dropped by chance
    follows from the seed.

    One vector alone is thinned out and weighed by `weight`. Of two, each that stays alone counts twice its share, as
    the mean is over those that stay. Factors of a low-rank update get square roots, as in PEFT's add_weighted_adapter.
    """
    from peft.utils import merge_utils

    weight = settings["weight"]
    shares = [2 * (1 - weight), 2 * weight] if len(vectors) == 2 else [weight]
    weights = torch.tensor([math.sqrt(share) if low_rank else share for share in shares])
    function = merge_utils.ties if settings["method"] == "ties" else merge_utils.dare_ties
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that density 1 thins out nothing
        torch.manual_seed(seed)
        merged: torch.Tensor = function(vectors, weights, settings["density"])
    return merged


@contextmanager
def opened(folder: Path) -> Iterator[Tensors]:
    """The tensors of the folder's safetensors files, by name."""
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in sorted(folder.glob("*.safetensors"))]
        yield {name: file for file in files for name in file.keys()}  # noqa: SIM118


def _linear(name: str, own: torch.Tensor, other: torch.Tensor | None, weight: float) -> torch.Tensor:
    """One tensor interpolated; where the other generation has no update yet, the product B A is weighed by weighing
    B."""
    if other is not None:
        return linear(own, other, weight)
    return weight * own if ".lora_B." in name else own


def _complete(store: Store, generation: Generation, precision: str, scratch: Path) -> Path:
    """Folder with the generation's complete weights, adapters merged."""
    if generation.complete:
        return whole_weights(store, generation)
    load_model(store, generation.key, precision).save_pretrained(scratch)
    return scratch
