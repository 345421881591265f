"""The DeepSpeed engine of a stage, and its weights as Hugging Face files."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from clray.models import stacks
from clray.train import state
from clray.train.extra import Both, make_extra
from clray.train.holding import Holding
from clray.train.objective import TargetLoss
from clray.train.order import StageOrder
from clray.train.preference import PreferenceLoss

SHARED_MEMORY = "deepspeed_shm_comm"
"""DeepSpeed's all-reduce between CPU ranks of one node, which it compiles at its first start on a machine. Left
out: that takes minutes, needs a C++ compiler, and a worker that is killed meanwhile leaves a lock on which every
later one waits for ever. Gloo reduces instead."""


def deepspeed_config(order: StageOrder, world: int) -> dict[str, Any]:
    """The DeepSpeed configuration of the order for `world` ranks."""
    compute = order.compute
    micro = compute["micro_batch"]
    offload = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    zero: dict[str, Any] = {"stage": compute["zero_stage"]}
    if compute["offload"] == "cpu" and compute["zero_stage"] >= 1:
        zero["offload_optimizer"] = offload
        if compute["zero_stage"] == 3:
            zero["offload_param"] = offload
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation(order, world),
        "gradient_clipping": order.recipe["optimiser"]["clip"],
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": order.recipe["precision"] == "bf16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def accumulation(order: StageOrder, world: int) -> int:
    """Micro-batches of each rank in one optimiser step; the last may be short or empty."""
    per_round = order.compute["micro_batch"] * world
    return -(-int(order.recipe["batch"]) // per_round)


def build_engine(model: Any, order: StageOrder, world: int, holding: Holding | None = None) -> Any:
    """The DeepSpeed engine around the model's loss, with what holds it, and AdamW over the trainable weights.

    The learning rate is set before each step by the loop, and 0 until then.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed = _deepspeed()
    deepspeed.utils.logger.setLevel("ERROR")
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY] = False
    if order.compute["gradient_checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    optimiser, extra = order.recipe["optimiser"], make_extra(model, order.recipe["adapter"], order.seed)
    preference = PreferenceLoss(order.recipe["align"]) if order.references else None
    if holding and holding.anchor:
        extra = Both(extra, holding.anchor)
    distil = holding.distil if holding else None
    engine, *_ = deepspeed.initialize(
        model=TargetLoss(model, order.compute["compile"], extra, order.parts, distil, preference),
        optimizer=torch.optim.AdamW(
            _groups(model, optimiser["weight_decay"]),
            lr=0.0,
            betas=(optimiser["beta1"], optimiser["beta2"]),
            eps=optimiser["epsilon"],
        ),
        config=deepspeed_config(order, world),
        dist_init_required=False,
    )
    state.reset_steps(engine, 0)
    return engine


def _deepspeed() -> Any:
    """The module, with MLflow hidden meanwhile: its autotuner would import it, 75 MiB and a second for each worker."""
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
    finally:
        if hidden:
            del sys.modules["mlflow"]
    return deepspeed


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable weights: matrices with decay, biases and norms without."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def save_weights(engine: Any, folder: Path, rank: int, base: str | None, memory: stacks.Memory, table: str) -> None:
    """Writes the trained model (or only its adapter) to `folder` on rank 0; every rank must call it.

    Under ZeRO-3 the weights lie in pieces on all ranks and are gathered first. `memory` and `table` go with LoRA
    blocks: what is remembered of the task, and the digest of the embedding table.
    """
    model = engine.module.model
    gathered = _gather(engine, model)
    if rank:
        return
    if hasattr(model, "lora_blocks"):
        stacks.save(model, folder, gathered, table, memory)
        return
    model.save_pretrained(folder, safe_serialization=True, **({"state_dict": gathered} if gathered else {}))
    if base is not None:
        note = folder / "adapter_config.json"
        config = json.loads(note.read_text())
        config["base_model_name_or_path"] = base
        note.write_text(json.dumps(config, indent=2, sort_keys=True))
        (folder / "README.md").unlink(missing_ok=True)


def _gather(engine: Any, model: Any) -> dict[str, torch.Tensor] | None:
    if engine.zero_optimization_stage() < 3:
        return None
    import deepspeed

    whole = not (hasattr(model, "peft_config") or hasattr(model, "lora_blocks"))
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad or whole}
    state = {}
    for name, parameter in wanted.items():
        with deepspeed.zero.GatheredParameters([parameter]):
            state[name] = parameter.detach().cpu().clone()
    return state
