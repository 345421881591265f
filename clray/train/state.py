"""The training state of an engine by name: fp32 weights and AdamW's moments, whatever workers and ZeRO stage.

DeepSpeed keeps it whole (ZeRO 0), in flat pieces on each rank (1, 2) or parameter by parameter in pieces (3).
Read through this file, every trained weight is one tensor `NAME`, with `NAME/exp_avg` and `NAME/exp_avg_sq`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch

from clray.train.objective import collate

WEIGHT = ""
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)
"""The fp32 master of a weight, and AdamW's first and second moment of its gradient."""


def trained(engine: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """The trained parameters with their names in the model, in a fixed order."""
    return [(name, p) for name, p in engine.module.model.named_parameters() if p.requires_grad]


def entry(name: str, kind: str) -> str:
    """Name of a tensor in a checkpoint."""
    return f"{name}/{kind}" if kind else name


def reset_steps(engine: Any, step: int) -> None:
    """Sets AdamW's count of steps, from which its bias correction follows.

    DeepSpeed's bf16 optimiser takes a step over zero gradients when it is made, and counts it.
    """
    for state in engine.basic_optimizer.state.values():
        state["step"].fill_(float(step))


def read(engine: Any, rank: int, world: int, kinds: tuple[str, ...] = KINDS) -> dict[str, torch.Tensor]:
    """This rank's share of the state, on the CPU: every `world`-th weight, whole. Every rank must call it."""
    whole, share = _reader(engine), {}
    for number, (name, parameter) in enumerate(trained(engine)):
        for kind in kinds:
            tensor = whole(parameter, kind)
            if number % world == rank:
                share[entry(name, kind)] = tensor.detach().float().cpu().clone().view(_shape(parameter))
    return share


def load_weights(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Gives the model, which no engine holds yet, the weights of a checkpoint, in its own precision."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[name])


def restore(engine: Any, tensors: Mapping[str, torch.Tensor], step: int, kinds: tuple[str, ...] = KINDS) -> None:
    """Puts the state that was read after `step` optimiser steps into the engine. Every rank must call it."""
    _step_over_nothing(engine)
    write = _writer(engine)
    with torch.no_grad():
        for name, parameter in trained(engine):
            for kind in kinds:
                write(parameter, kind, tensors[entry(name, kind)])
    reset_steps(engine, step)


def _step_over_nothing(engine: Any) -> None:
    """One optimiser step without targets at learning rate 0: changes no weight, and makes AdamW's state be there."""
    for group in engine.optimizer.param_groups:
        group["lr"] = 0.0
    nothing = collate(cast(Any, None), np.empty(0, dtype=np.int64), 1).to(engine.device)
    for _ in range(engine.gradient_accumulation_steps()):
        engine.backward(engine(nothing) + engine.module.term * 0.0)
        engine.step()


def _shape(parameter: Any) -> torch.Size:
    return parameter.ds_shape if hasattr(parameter, "ds_shape") else parameter.shape


def _masters(engine: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each trained parameter with the fp32 tensor that AdamW updates, where both are whole (ZeRO 0)."""
    wrapper = engine.optimizer
    if wrapper is engine.basic_optimizer:
        yield from ((p, p) for group in wrapper.param_groups for p in group["params"])
    else:
        for low, high in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True):
            yield from zip(low, high, strict=True)


def _link(engine: Any) -> None:
    """Lets DeepSpeed find the moments of ZeRO 1 and 2; it links them itself, but too early for all groups but one."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state as link

    if engine.zero_optimization_stage() in (1, 2):
        wrapper = engine.optimizer
        for low, flat in zip(wrapper.bit16_groups, wrapper.single_partition_of_fp32_groups, strict=True):
            link(low, flat, engine.basic_optimizer.state)


def _reader(engine: Any) -> Callable[[Any, str], torch.Tensor]:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    _link(engine)
    if engine.zero_optimization_stage():
        return lambda p, kind: safe_get_full_optimizer_state(p, kind) if kind else safe_get_full_fp32_param(p)
    masters, state = {id(low): high for low, high in _masters(engine)}, engine.basic_optimizer.state
    return lambda p, kind: state[masters[id(p)]][kind] if kind else masters[id(p)]


def _writer(engine: Any) -> Callable[[Any, str, torch.Tensor], None]:
    from deepspeed import utils

    _link(engine)
    match engine.zero_optimization_stage():
        case 0:
            masters, state = {id(low): high for low, high in _masters(engine)}, engine.basic_optimizer.state

            def write(p: Any, kind: str, value: torch.Tensor) -> None:
                (state[masters[id(p)]][kind] if kind else masters[id(p)]).copy_(value)
        case 3:

            def write(p: Any, kind: str, value: torch.Tensor) -> None:
                piece = _piece(p, value)
                if kind:
                    utils.safe_set_local_optimizer_state(p, piece, kind)
                else:
                    utils.safe_set_local_fp32_param(p, piece)
        case _:

            def write(p: Any, kind: str, value: torch.Tensor) -> None:
                if kind:
                    utils.safe_set_full_optimizer_state(p, value.to(p.device), kind)
                else:
                    utils.safe_set_full_fp32_param(p, value.to(p.device))

    return write


def _piece(parameter: Any, value: torch.Tensor) -> torch.Tensor:
    """This rank's piece of a ZeRO-3 parameter; the last one is padded with zeros."""
    size = parameter.ds_tensor.numel()
    start = size * torch.distributed.get_rank()
    piece = value.flatten()[start : start + size]
    return torch.nn.functional.pad(piece, (0, size - piece.numel())).to(parameter.ds_tensor.device)
