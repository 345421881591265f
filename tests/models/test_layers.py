"""Transformer layers are found in every family without its name, and what is frozen takes no gradient."""

import pytest
from block_models import FAMILIES, bare

from clray.errors import ModelError
from clray.models.layers import decoder_layers, freeze

PATHS = {"gpt_neox": "gpt_neox.layers", "gpt_neo": "transformer.h", "gpt2": "transformer.h"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_are_found(family):
    path, layers = decoder_layers(bare(family))
    assert path == PATHS.get(family, "model.layers") and len(layers) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_are_the_bottom_layers_and_all_embedding_tables(family):
    model = bare(family)
    freeze(model, {"layers": 1, "embeddings": True})
    path, _ = decoder_layers(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith(f"{path}.0.") for name in trained)
    assert any(name.startswith(f"{path}.1.") for name in trained)
    assert not model.get_input_embeddings().weight.requires_grad
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight.requires_grad is not tied
    assert not any("wpe" in name for name in trained)


def test_frozen_layers_alone_leave_the_embeddings_in_training():
    model = bare()
    freeze(model, {"layers": 2, "embeddings": False})
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    }


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(ModelError, match="layers 3 is more than the 2 layers"):
        freeze(bare(), {"layers": 3, "embeddings": False})


def test_a_list_of_another_length_than_the_configuration_says_is_no_list_of_layers():
    model = bare()
    model.config.num_hidden_layers = 3
    with pytest.raises(ModelError, match="its configuration has 3, its longest list of modules 2"):
        decoder_layers(model)
