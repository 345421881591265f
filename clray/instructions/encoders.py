"""Texts -> vectors: mean-pooled hidden states of a generation or any Hugging Face model; sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clray.errors import ModelError
from clray.lineage.store import Store

BATCH_TOKENS = 8192


def make_encoder(spec: dict[str, Any], store: Store) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """A function from n texts to (n, d) vectors. Models are read from the store: `key` of a generation, `model` of
    one that `keep_model` put there."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    match spec["kind"]:
        case "generation":
            from clray.models.loading import load_model, load_tokenizer, tokenizer_digest

            model = load_model(store, spec["key"]).base_model
            return _pooled(model, load_tokenizer(store, tokenizer_digest(store, spec["key"])), device)
        case "huggingface":
            from transformers import AutoModel, AutoTokenizer

            folder = store.fetch(f"models/{spec['model']}")
            model = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
            return _pooled(model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False), device)
        case _:
            return _sentences(str(store.fetch(f"models/{spec['model']}")), str(device))


def _pooled(model: Any, tokenizer: Any, device: Any) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Means of the last hidden states over the tokens of each text, which is cut at the model's positions."""
    import torch

    model = model.float().eval().to(device)
    limit = getattr(model.config, "max_position_embeddings", None) or 512

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        ids = [list(tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"])[:limit] for text in texts]
        ids = [found or [tokenizer.eos_token_id or 0] for found in ids]
        vectors: list[Any] = [None] * len(ids)
        for batch in _batches([len(found) for found in ids]):
            width = max(len(ids[i]) for i in batch)
            tokens = torch.zeros((len(batch), width), dtype=torch.long)
            mask = torch.zeros((len(batch), width), dtype=torch.long)
            for row, i in enumerate(batch):
                tokens[row, : len(ids[i])] = torch.tensor(ids[i])
                mask[row, : len(ids[i])] = 1
            with torch.no_grad():
                hidden = model(input_ids=tokens.to(device), attention_mask=mask.to(device)).last_hidden_state.float()
            weights = mask.to(device).unsqueeze(-1)
            means = (hidden * weights).sum(1) / weights.sum(1)
            for row, i in enumerate(batch):
                vectors[i] = means[row].cpu().numpy()
        return np.stack(vectors)

    return encode


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of texts, the long ones together, in batches of at most BATCH_TOKENS padded tokens."""
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches[-1] and lengths[batches[-1][0]] * (len(batches[-1]) + 1) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def _sentences(folder: str, device: str) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ModelError(
            "encoder.kind sentence-transformers needs the package: pip install 'clray[sentences]', or take "
            "encoder.kind huggingface, which pools means"
        ) from None
    model = SentenceTransformer(folder, device=device, trust_remote_code=False)
    return lambda texts: np.asarray(model.encode(list(texts), show_progress_bar=False), dtype=np.float32)
