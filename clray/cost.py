"""What a stage costs: FLOPs, time and memory, from the shape of the model. Estimates, printed before spending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clray.spec.adapter import COMPLETE
from clray.spec.stream import Compute

CPU_FLOPS_PER_SECOND = 3e10
GPU_FLOPS_PER_SECOND = 3e14


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Tokens and targets that a stage trains on, its FLOPs, seconds, and bytes on each device."""

    tokens: int
    targets: int
    flops: float
    seconds: float
    bytes_per_device: float


def model_shape(config: Any, parameters: int) -> dict[str, int]:
    """Numbers of a Hugging Face config that the cost depends on."""
    text = config.get_text_config()
    return {
        "parameters": parameters,
        "hidden": int(text.hidden_size),
        "layers": int(text.num_hidden_layers),
        "vocabulary": int(text.vocab_size),
        "tied": int(bool(getattr(text, "tie_word_embeddings", False))),
    }


def grown(shape: dict[str, int], layers: int) -> dict[str, int]:
    """The shape of the model with so many layers more, each of the mean size."""
    more = _body(shape) * layers // shape["layers"]
    return {**shape, "layers": shape["layers"] + layers, "parameters": shape["parameters"] + more}


def flops(shape: dict[str, int], tokens: int, targets: int, sequence_length: int, adapter: dict[str, Any]) -> float:
    """FLOPs of forward and backward over the tokens.

    6 a weight and token that is trained, 4 that is frozen (no weight gradient), 2 where no gradient passes below it
    either: frozen layers above frozen embeddings. The embedding look-up is not counted, and the projection at target
    positions alone; causal attention adds 6 * layers * width * length a token (Chowdhery et al., arXiv 2204.02311,
    appendix B, halved by the mask).
    """
    embedding, body, frozen = _embedding(shape), _body(shape), _frozen(adapter)
    body_factor = embedding_factor = 6.0 if adapter["kind"] == "full" else 4.0
    if adapter["kind"] == "expansion":
        body_factor += 2 * adapter["layers"] / shape["layers"]
    if frozen["embeddings"] and shape["tied"]:
        embedding_factor = 4.0
    saved = (4 if frozen["embeddings"] else 2) * body * frozen["layers"] / shape["layers"]
    return (
        (body_factor * body - saved) * tokens
        + embedding_factor * embedding * targets
        + 6.0 * shape["layers"] * shape["hidden"] * sequence_length * tokens
    )


def trained_parameters(shape: dict[str, int], adapter: dict[str, Any]) -> int:
    """Weights that are trained: all that are not frozen, those of new layers, or those of a LoRA on all linear modules
    of Llama-shaped blocks; roughly."""
    if adapter["kind"] == "full":
        frozen = _frozen(adapter)
        kept = _body(shape) * frozen["layers"] // shape["layers"] + frozen["embeddings"] * _embedding(shape)
        return shape["parameters"] - int(kept)
    if adapter["kind"] == "expansion":
        return _body(shape) * adapter["layers"] // shape["layers"]
    return int(shape["layers"] * adapter["rank"] * shape["hidden"] * 20)


def _embedding(shape: dict[str, int]) -> int:
    """Weights of the embedding table."""
    return shape["vocabulary"] * shape["hidden"]


def _body(shape: dict[str, int]) -> int:
    """Weights without the embeddings."""
    return shape["parameters"] - _embedding(shape) * (1 if shape["tied"] else 2)


def _frozen(adapter: dict[str, Any]) -> dict[str, Any]:
    """What full training leaves as it is."""
    return adapter.get("freeze") or {"embeddings": False, "layers": 0}


@dataclass(frozen=True)
class SavedBytes:
    """Bytes that a stage leaves behind, and that one of its checkpoints takes while it runs."""

    weights: float
    checkpoint: float


def saved_bytes(shape: dict[str, int], recipe: dict[str, Any], keeps_state: bool = False) -> SavedBytes:
    """What a stage writes: its weights or adapter, with the moments where they are kept; in a checkpoint fp32 weights
    and two moments of all that is trained."""
    trained = trained_parameters(shape, recipe["adapter"])
    written = shape["parameters"] if recipe["adapter"]["kind"] in COMPLETE else trained
    weights = (4 if recipe["precision"] == "fp32" else 2) * written + 8 * trained * keeps_state
    return SavedBytes(weights=weights, checkpoint=12 * trained)


def memory(shape: dict[str, int], recipe: dict[str, Any], compute: Compute) -> float:
    """Bytes on each device: weights, gradients and AdamW's two moments, parted by ZeRO, and activations.

    16 bytes a trained weight in fp32 and in bf16 with an fp32 master copy alike; a frozen one takes its own. Where
    weights are held, their centre and its stiffness are parted among the ranks at any ZeRO stage.
    """
    trained = trained_parameters(shape, recipe["adapter"])
    width = 4 if recipe["precision"] == "fp32" else 2
    ranks = compute.workers.min
    weights = width * shape["parameters"] / (ranks if compute.zero_stage == 3 else 1)
    gradients = width * trained / (ranks if compute.zero_stage >= 2 else 1)
    moments = (8 if recipe["precision"] == "fp32" else 12) * trained / (ranks if compute.zero_stage >= 1 else 1)
    kept = 0 if compute.offload == "cpu" and compute.zero_stage >= 1 else moments
    held = {"l2": 4, "ewc": 8}.get(recipe["regulariser"]["kind"], 0) * trained / ranks
    layers = 2 if compute.gradient_checkpointing else 16 * shape["layers"]
    activations = width * compute.micro_batch * recipe["sequence_length"] * shape["hidden"] * layers
    return weights + gradients + kept + held + activations


def estimate(
    *,
    shape: dict[str, int],
    recipe: dict[str, Any],
    compute: Compute,
    tokens: int,
    targets: int,
    speeds: Sequence[float],
) -> Cost:
    """The cost of a stage; `speeds` are FLOP/s that earlier generations of the store reached, oldest first."""
    amount = flops(shape, tokens, targets, recipe["sequence_length"], recipe["adapter"])
    guess = (GPU_FLOPS_PER_SECOND if compute.gpus_per_worker else CPU_FLOPS_PER_SECOND) * compute.workers.max
    speed = next((s for s in reversed(speeds) if s), guess)
    return Cost(
        tokens=tokens,
        targets=targets,
        flops=amount,
        seconds=amount / speed,
        bytes_per_device=memory(shape, recipe, compute),
    )
