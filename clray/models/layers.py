"""The transformer layers of any causal language model, and which parts of it train."""

from __future__ import annotations

from typing import Any

from torch import nn

from clray.errors import ModelError


def decoder_layers(model: Any) -> tuple[str, nn.ModuleList]:
    """The model's transformer layers, bottom first, and the path of their list in it.

    They are the longest list of modules that lies in no other list (the experts of a layer do), which holds for every
    architecture of Transformers without its name being known. Raises ModelError where that list has another length than
    the configuration says.
    """
    lists = {path: module for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outermost = {path: found for path, found in lists.items() if not any(path.startswith(f"{o}.") for o in lists)}
    path = max(outermost, key=lambda name: len(outermost[name]), default="")
    found, wanted = len(outermost[path]) if path else 0, model.config.get_text_config().num_hidden_layers
    if found != wanted:
        raise ModelError(
            f"the transformer layers of {type(model).__name__} are not found: its configuration has {wanted}, its "
            f"longest list of modules {found}; leave adapter.freeze out, or give another adapter"
        )
    return path, outermost[path]


def freeze(model: Any, wanted: dict[str, Any]) -> None:
    """Takes the bottom layers and the embedding tables that are `wanted` (see spec Freeze) out of training, in place.

    Raises ModelError where the model has fewer layers.
    """
    if wanted["embeddings"]:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.requires_grad_(False)
    if not wanted["layers"]:
        return
    _, layers = decoder_layers(model)
    if wanted["layers"] > len(layers):
        raise ModelError(f"adapter.freeze.layers {wanted['layers']} is more than the {len(layers)} layers of the model")
    for layer in layers[: wanted["layers"]]:
        layer.requires_grad_(False)
