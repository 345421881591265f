"""What all tests share: a quiet environment, a tiny model and tokenizer, a store, one Ray cluster."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

from servers import needs_postgres, served
from texts import texts

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("RAY_ADDRESS", None)
settings.register_profile("clray", deadline=None)  # a busy machine is no failure
settings.load_profile("clray")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama with random weights and a byte-level BPE tokenizer."""
    from clray.models.builtin import build_llama, build_tokenizer
    from clray.spec.stream import BuiltinLlama

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = build_tokenizer(texts(400, seed=1), 400)
    shape = BuiltinLlama(vocab_size=400, hidden_size=32, intermediate_size=64, layers=2, heads=2, max_positions=128)
    build_llama(shape, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real tasks, corpora and models; skips where it is absent."""
    folder = os.environ.get("CLRAY_DATA_DIR", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data is absent: set CLRAY_DATA_DIR to its folder")
    return Path(folder)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def tracking_server(request):
    """URI of a real MLflow server on loopback: one over SQLite, one over PostgreSQL, each started once."""
    if request.param == "postgresql":
        needs_postgres()
    with served("serve.sh" if request.param == "sqlite" else "serve-postgres.sh") as uri:
        yield uri


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray cluster of this test session alone, with a temporary folder of its own."""
    import ray

    from clray.ray_session import quiet, start_local

    quiet()
    with tempfile.TemporaryDirectory(prefix="clray-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        start_local(6, _temp_dir=folder)
        yield
        ray.shutdown()
