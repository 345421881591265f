"""What frozen parts save, worked by hand."""

import pytest

from clray.cost import flops, grown, saved_bytes, trained_parameters

SHAPE = {"parameters": 1000, "hidden": 10, "layers": 4, "vocabulary": 20, "tied": 1}
"""200 embeddings, tied, and 4 layers of 200 weights each."""


def full(**freeze):
    return {"kind": "full"} | ({"freeze": {"embeddings": False, "layers": 0} | freeze} if freeze else {})


@pytest.mark.parametrize(
    ("adapter", "trained", "weights"),
    [
        (full(), 1000, 6 * 800 + 6 * 200),
        (full(layers=1), 800, 6 * 600 + 4 * 200 + 6 * 200),
        (full(embeddings=True), 800, 6 * 800 + 4 * 200),
        (full(layers=1, embeddings=True), 600, 6 * 600 + 2 * 200 + 4 * 200),
    ],
)
def test_frozen_weights_take_no_gradient_and_below_them_none_passes(adapter, trained, weights):
    """Attention: 6 * 4 layers * 10 wide * length 1."""
    assert trained_parameters(SHAPE, adapter) == trained
    assert flops(SHAPE, 1, 1, 1, adapter) == weights + 240


def test_new_layers_alone_are_trained_and_the_whole_model_is_written():
    """2 new layers of 200 on 4: gradients of inputs everywhere, of weights in the new ones; 6 layers of attention."""
    shape, adapter = grown(SHAPE, 2), {"kind": "expansion", "layers": 2}
    assert (shape["layers"], shape["parameters"], trained_parameters(shape, adapter)) == (6, 1400, 400)
    assert flops(shape, 1, 1, 1, adapter) == pytest.approx(4 * 1200 + 2 * 400 + 4 * 200 + 360)
    assert saved_bytes(shape, {"adapter": adapter, "precision": "bf16"}).weights == 2 * 1400
