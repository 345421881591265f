"""A stage with frozen parts: they keep their bits, at every ZeRO stage, and a stage that is left goes on as it was."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from clray.train.checkpoint import Checkpoints, clear
from clray.train.order import StageLeft

pytestmark = pytest.mark.ray
FREEZE = "method.adapter={kind: full, freeze: {embeddings: true, layers: 1}}"


def tensors(store, key):
    return load_file(store.weights(key) / "model.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_what_is_frozen_keeps_its_bits_and_a_left_stage_goes_on(train, alone, zero, precision):
    how = [FREEZE, f"compute.zero_stage={zero}", f"compute.precision={precision}"]
    order, whole, store = train(0, how)
    before, after = tensors(store, order.parent), tensors(store, order.key)
    same = {name for name in after if torch.equal(after[name], before[name].to(after[name].dtype))}
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"} <= same
    assert not any(name.startswith("model.layers.1.") and name.endswith("proj.weight") for name in same)
    assert whole.base == order.key
    asked = []
    leaving = dataclasses.replace(alone, leave=lambda: asked.append(1) or len(asked) >= 3)
    with pytest.raises(StageLeft):
        train(0, how, leaving)
    saved = Checkpoints(store, order.key, 2, print).newest(order.mixture).tensors(store)
    assert saved and not any("embed_tokens" in name or "layers.0." in name for name in saved)
    _, again, _ = train(0, how)
    clear(store, order.key)
    assert again.files == whole.files
