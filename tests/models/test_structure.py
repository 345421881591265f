"""Models that cannot be expanded are refused from their configuration, without weights."""

import pytest
from block_models import FAMILIES, LLAMA
from transformers import MixtralConfig

from clray.errors import ModelError
from clray.models.structure import check_layers


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_models_fit(family, tmp_path):
    FAMILIES[family][0].save_pretrained(tmp_path)
    check_layers(tmp_path, False, True)


def test_mixtures_of_experts_can_be_frozen_but_not_expanded(tmp_path):
    MixtralConfig(**LLAMA, num_local_experts=2).save_pretrained(tmp_path)
    check_layers(tmp_path, False, False)
    with pytest.raises(ModelError, match="does not fit MixtralForCausalLM: a layer has no linear output"):
        check_layers(tmp_path, False, True)
