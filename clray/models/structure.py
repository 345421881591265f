"""Whether a model's transformer layers can be told apart and added to, from its configuration alone."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.lru_cache(maxsize=16)
def check_layers(folder: Path, trust_remote_code: bool, expanding: bool) -> None:
    """Raises ModelError where the transformer layers of the model in the folder are not found, or (`expanding`) have no
    linear outputs of attention and MLP that could be silenced; loads no weights.

    What is right by structure and still would not compute what it did is found when the layers are there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from clray.models.expansion import output_projections, unfit
    from clray.models.layers import decoder_layers

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    _, layers = decoder_layers(model)
    if expanding and any(len(output_projections(layer)) < 2 for layer in layers):
        raise unfit(model, "a layer has no linear output of attention and of MLP")
