"""An expanded model computes what its parent did, and is a plain model of more layers for whoever loads it."""

import pytest
import torch
from block_models import COMMON, FAMILIES, LLAMA, bare, ids_of
from transformers import AutoModelForCausalLM, Gemma2Config, MixtralConfig, OPTConfig

from clray.errors import ModelError
from clray.models.expansion import expand, layout, output_projections, train_new_layers
from clray.models.layers import decoder_layers

ONE = {"kind": "expansion", "layers": 1}
TWO = {"kind": "expansion", "layers": 2}


def new_of(*asked):
    return [number for number, (_, new) in enumerate(layout(*asked)) if new]


def test_new_layers_stand_on_every_fourth_as_in_the_paper():
    """LLaMA2-7B, 32 layers and 8 new ones: 4 old, 1 new, 8 times."""
    assert new_of(32, 8, None) == [4, 9, 14, 19, 24, 29, 34, 39]
    assert layout(3, 2, None) == [(0, False), (0, True), (1, False), (2, False), (2, True)]


def test_with_every_they_are_counted_from_the_top():
    assert new_of(32, 2, 4) == [28, 33] and new_of(6, 3, 1) == [4, 6, 8]
    assert layout(32, 8, 4) == layout(32, 8, None)


@pytest.mark.parametrize("adapter", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_expanded_model_gives_the_same_bits(family, dtype, adapter):
    model, ids = bare(family, dtype), ids_of(length=40)
    grown = expand(model, adapter)
    assert grown.dtype == dtype and grown.config._attn_implementation == model.config._attn_implementation
    assert len(decoder_layers(grown)[1]) == grown.config.num_hidden_layers == 2 + adapter["layers"]
    with torch.no_grad():
        assert torch.equal(grown(ids).logits, model(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_of_a_layer_has_one_output(family):
    _, layers = decoder_layers(bare(family))
    outputs = output_projections(layers[0])
    assert len(outputs) == 2
    assert all(path.endswith(("o_proj", "down_proj", "dense", "h_to_h", "out_proj", "c_proj")) for path in outputs)
    assert not any("h_to_4h" in path for path in outputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_expansion_is_loaded_by_anyone_and_generates_with_its_cache(family, tmp_path):
    """New layers that do something: saved, loaded without clray, logits equal; with cache and without the same text."""
    grown = train_new_layers(expand(bare(family), TWO), TWO)
    random = torch.Generator().manual_seed(1)
    for parameter in grown.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    grown.save_pretrained(tmp_path)
    loaded, ids = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), ids_of(length=20)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, grown(ids).logits)
        assert not torch.allclose(grown(ids).logits, bare(family)(ids).logits, atol=1e-2)
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(loaded.generate(ids, use_cache=True, **how), loaded.generate(ids, use_cache=False, **how))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_new_layers_alone_train_and_begin_as_copies_that_add_nothing(family):
    model = bare(family)
    grown = train_new_layers(expand(model, TWO), TWO)
    path, layers = decoder_layers(grown)
    trained = {name for name, p in grown.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in grown.named_parameters() if name.startswith((f"{path}.1.", f"{path}.3."))}
    for new, old in ((layers[1], layers[0]), (layers[3], layers[2])):
        outputs, below = output_projections(new), dict(old.named_parameters())
        for name, parameter in new.named_parameters():
            silent = name.rpartition(".")[0] in outputs
            assert torch.equal(parameter, torch.zeros_like(parameter) if silent else below[name])
            assert parameter.data_ptr() != below[name].data_ptr()


def test_lists_with_an_entry_a_layer_grow_with_the_layers():
    neo = expand(bare("gpt_neo"), TWO).config
    assert neo.attention_layers == ["global", "global", "local", "local"]
    assert neo.attention_types == [[neo.attention_layers, 1]]
    torch.manual_seed(0)
    sliding = Gemma2Config(**{**LLAMA, "pad_token_id": 0}, head_dim=8, sliding_window=4)
    kinds = expand(AutoModelForCausalLM.from_config(sliding).eval(), ONE).config.layer_types
    assert kinds == [*sliding.layer_types, sliding.layer_types[-1]]


def test_layers_whose_linear_modules_stand_bare_are_expanded_too():
    """OPT has fc1 and fc2 in the layer itself; only fc2 is an output."""
    torch.manual_seed(0)
    opt = OPTConfig(
        **COMMON, num_hidden_layers=2, ffn_dim=48, num_attention_heads=2, word_embed_proj_dim=32, dropout=0.0
    )
    model = AutoModelForCausalLM.from_config(opt).eval()
    assert output_projections(decoder_layers(model)[1][0]) == ["self_attn.out_proj", "fc2"]
    with torch.no_grad():
        assert torch.equal(expand(model, TWO)(ids_of()).logits, model(ids_of()).logits)


def test_mixtures_of_experts_are_refused():
    torch.manual_seed(0)
    mixture = MixtralConfig(**LLAMA, num_local_experts=2)
    model = AutoModelForCausalLM.from_config(mixture).eval()
    with pytest.raises(ModelError, match="does not fit MixtralForCausalLM"):
        expand(model, ONE)
