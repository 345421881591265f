"""A pull of trained weights towards a centre: L2 to the parent, and elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from clray.errors import ModelError
from clray.train.context import Context
from clray.train.extra import Extra


@dataclass
class Held:
    """This rank's piece of a trained weight, flattened: where it lies, its centre, and how stiff each entry is."""

    parameter: Any
    piece: slice
    centre: torch.Tensor
    stiffness: torch.Tensor | None

    def now(self) -> torch.Tensor:
        """The piece as it is now (n), in fp32; under ZeRO-3 it lies on this rank, also where the weight does not."""
        size = self.centre.numel()
        here = getattr(self.parameter, "ds_tensor", None)
        flat = self.parameter.detach().flatten()[self.piece] if here is None else here.detach().flatten()[:size]
        return flat.to(self.centre.device, torch.float32)

    def pull(self) -> torch.Tensor:
        """Gradient (n) of half the weighed squared distance from the centre, in fp32."""
        apart = self.now() - self.centre
        return apart if self.stiffness is None else apart * self.stiffness


class Anchor(Extra):
    """weight / 2 * sum F (theta - centre)^2 over the trained weights, F = 1 without a `fisher`.

    Made before there is an engine, at the weights that the stage begins with: they are the centre, but for weights that
    `centre` names. Each rank keeps and pulls one piece of each weight, the one that it has under ZeRO-3, times the
    number of ranks, whose mean DeepSpeed takes: memory is that of one copy of the trained weights (two with Fisher)
    over all ranks, at any ZeRO stage. The gradient is added to that of a weight when the backward pass has it whole,
    once an optimiser step, so no graph is kept. In bf16 weights are seen as the forward pass sees them.
    """

    def __init__(
        self,
        model: Any,
        weight: float,
        context: Context,
        fisher: Mapping[str, torch.Tensor] | None = None,
        centre: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._scale, self._waiting = weight * context.world, set[str]()
        self._value: torch.Tensor = torch.zeros((), device=context.device)
        self._held: dict[str, Held] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                size = -(-parameter.numel() // context.world)
                piece = slice(size * context.rank, min(size * (context.rank + 1), parameter.numel()))
                cut = _cutter(piece, context.device)
                start = cut((centre or {}).get(name, parameter.detach()))
                self._held[name] = Held(parameter, piece, start, None if fisher is None else cut(fisher[name]))
                parameter.register_hook(self._adding(name))

    def begin(self, step: int, steps: int) -> None:
        """Takes the penalty at the weights before the step. ModelError where the step before left a weight out."""
        if self._waiting:
            raise ModelError(
                f"{min(self._waiting)} took no gradient in an optimiser step, so nothing can hold it; leave it out of "
                "what is trained (adapter.targets, adapter.freeze), or give the stage method.regulariser none"
            )
        self._waiting = set(self._held)
        parts = [torch.dot(held.pull(), held.now() - held.centre) for held in self._held.values()]
        self._value = 0.5 * self._scale * torch.stack(parts).sum()

    def term(self, like: torch.Tensor) -> torch.Tensor:
        """This rank's share of the penalty, times the number of ranks, in fp32; its gradient goes another way."""
        return self._value.to(like.device)

    def _adding(self, name: str) -> Any:
        """The hook of a weight's gradient, which adds the pull once a step."""

        def add(gradient: torch.Tensor) -> torch.Tensor | None:
            if name not in self._waiting:
                return None
            self._waiting.remove(name)
            held = self._held[name]
            pulled = gradient.clone(memory_format=torch.contiguous_format)
            pulled.view(-1)[held.piece] += (self._scale * held.pull()).to(gradient)
            return pulled

        return add


def _cutter(piece: slice, device: torch.device) -> Any:
    """A function that copies the piece of a tensor, in fp32."""
    return lambda tensor: tensor.flatten()[piece].to(device, torch.float32, copy=True)
