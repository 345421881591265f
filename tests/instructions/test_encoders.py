"""Embeddings of instructions: means over real tokens, whatever else is in the batch."""

import numpy as np
import pytest
import torch

from clray.errors import ModelError
from clray.instructions import encoders, kept
from clray.instructions.encoders import make_encoder
from clray.lineage.store import Store
from clray.models.base import prepare_base
from clray.spec import loading
from texts import texts


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(str(tmp_path_factory.mktemp("encoders")))


@pytest.fixture(scope="module")
def spec(tiny_model, store):
    """The tests' tiny model as any Hugging Face encoder."""
    return {"kind": "huggingface", "model": kept.keep_model(str(tiny_model), None, "encoder.model", store)}


def test_a_vector_is_the_mean_of_the_last_hidden_states(spec, store, tiny_model):
    from transformers import AutoModel, AutoTokenizer

    text = texts(1, seed=3)[0]
    ids = AutoTokenizer.from_pretrained(tiny_model)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tiny_model)(input_ids=ids).last_hidden_state[0]
    assert np.allclose(make_encoder(spec, store)([text])[0], hidden.mean(0).numpy(), atol=1e-5)


def test_the_batch_changes_no_vector(spec, store, monkeypatch):
    encode = make_encoder(spec, store)
    many = [*texts(12, seed=4), "", "x"]
    alone = np.stack([encode([text])[0] for text in many])
    assert np.allclose(encode(many), alone, atol=1e-5)
    monkeypatch.setattr(encoders, "BATCH_TOKENS", 40)
    assert np.allclose(encode(many), alone, atol=1e-5)


def test_long_texts_are_cut_at_the_models_positions(spec, store):
    assert make_encoder(spec, store)(["red green blue " * 500]).shape == (1, 32)


def test_a_generation_of_the_stream_is_an_encoder_of_the_same_vectors(tiny_model, tmp_path, spec, store):
    stream = loading.loads(f"""
name: s
model: {{base: {tiny_model}}}
storage: {tmp_path}
stages: [{{name: a, kind: pretrain, data: builtin:docs}}]
""")
    here = Store(str(tmp_path))
    key = prepare_base(stream, here, "2026-01-01").generation.key
    some = texts(5, seed=5)
    found = make_encoder({"kind": "generation", "key": key}, here)(some)
    assert np.allclose(found, make_encoder(spec, store)(some), atol=1e-5)


def test_a_model_is_kept_under_the_digest_of_its_files(tiny_model, tmp_path):
    store = Store(str(tmp_path))
    replay = {
        "kind": "inscl",
        "encoder": {"kind": "huggingface", "model": str(tiny_model), "revision": None},
        "tagger": {"kind": "endpoint", "url": "http://host/v1", "model": "m", "most": 8, "key_env": "K"}
        | {"timeout_seconds": 1.0, "retries": 2},
    }
    found = kept.keep_models(replay, store)
    assert store.exists(f"models/{found['encoder']['model']}/model.safetensors")
    assert str(tiny_model) not in str(found) and replay["encoder"]["model"] == str(tiny_model)
    assert kept.identity(found)["tagger"] == {"kind": "endpoint", "model": "m", "most": 8}


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"encoder.model './none' is not a folder"):
        kept.keep_model("./none", None, "encoder.model", Store(str(tmp_path)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        kept.keep_model(str(tmp_path / "empty"), None, "tagger.model", Store(str(tmp_path)))


def test_sentence_transformers_say_how_to_get_them(tmp_path, spec, store):
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        with pytest.raises(ModelError, match=r"clray\[sentences\]"):
            make_encoder({"kind": "sentence-transformers", "model": spec["model"]}, store)
    else:
        found = make_encoder({"kind": "sentence-transformers", "model": spec["model"]}, store)(["one", "two"])
        assert found.shape[0] == 2 and found.dtype == np.float32
