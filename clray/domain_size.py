"""Whether there is enough text of a domain to train a whole model on it, said before anything is spent."""

from __future__ import annotations

from typing import Any

BYTES_A_TOKEN = 4
BYTES_A_WEIGHT = 100e6 / 7e9


def small_domain(shape: dict[str, int], recipe: dict[str, Any], tokens: int) -> str | None:
    """A warning where a pretrain stage trains the weights of the whole model on too little text; else None.

    Yildiz et al. (arXiv 2402.17400, TMLR 2025) see Llama2-7B gain from a domain only above 75 to 100 MB of text, and
    get worse over the stream. That 100 MB at 7B weights scale with the weights of the model is our own extrapolation,
    as is the rule of thumb of 4 bytes a token. `tokens` are those of the stage's own text; for
    `shape` see cost.model_shape.
    """
    if recipe["kind"] != "pretrain" or recipe["adapter"]["kind"] != "full":
        return None
    found, wanted = tokens * BYTES_A_TOKEN, shape["parameters"] * BYTES_A_WEIGHT
    if found >= wanted:
        return None
    return (
        f"about {_size(found)} of text are little for training all of {shape['parameters'] / 1e6:,.4g}M weights: a "
        f"domain below about {_size(wanted)} may leave them worse (100 MB at 7B: Yildiz et al. 2402.17400; scaled by "
        "us). Prefer an adapter (method.adapter lora) and replay of earlier text (method.replay)"
    )


def _size(count: float) -> str:
    """Bytes for people: 12 kB, 3.4 MB, 1,200 MB."""
    return f"{count / 1e3:,.3g} kB" if count < 1e6 else f"{count / 1e6:,.4g} MB"
