"""How a forward pass gets the weights of its LoRA blocks: from each instance's prompt, once for all layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import Cache

from clray.models.attention import pooled_prompts


@dataclass
class Pass:
    """What the blocks know of one forward pass: their weights (B, 1 or L, T), the same as a factor for each rank
    (B, 1 or L, R), whether A_old A_new^T is wanted of each module, and those that modules have left."""

    weights: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    want_penalty: bool = False
    overlaps: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class Prompts:
    """What `routed` was told, and the weights that followed from it."""

    prompt_BL: torch.Tensor
    segments_BL: torch.Tensor | None = None
    weights: torch.Tensor | None = None


class Routing:
    """The weights of a model's blocks in the running forward pass; all its BlockLinears hold this one object.

    Without attention every block counts fully. No module and in no state dict; a copy, or what a pickle gives back, has
    the same blocks and starts without weights.
    """

    def __init__(self, ranks: Sequence[int], scales: Sequence[float], attended: bool) -> None:
        self.ranks, self.scales, self.attended = tuple(ranks), tuple(scales), attended
        self.state = Pass()
        self.prompts: Prompts | None = None
        self.kept: WeakKeyDictionary[Cache, torch.Tensor] = WeakKeyDictionary()
        self._constants: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def weights(self) -> torch.Tensor | None:
        """The weights (B, 1 or L, T) of the blocks in the running pass, oldest first; None: all ones."""
        return self.state.weights

    def begin(self, weights: torch.Tensor | None, want_penalty: bool) -> None:
        """Starts a forward pass with these weights."""
        self.state = Pass(weights, None if weights is None else self._by_rank(weights), want_penalty)

    def factor(self, x: torch.Tensor) -> torch.Tensor:
        """What multiplies the ranks of all blocks for the input x: weight * alpha / rank, (R) or (B, 1 or L, R), fp32.

        Raises RuntimeError where an attention should have weighed the blocks and has not.
        """
        if not self.attended:
            return self._constant(x.device)[0]
        if self.state.factor is None:
            raise RuntimeError("LoRA blocks under attention were called without weights: call the whole model")
        if x.ndim != 3:
            raise RuntimeError(f"LoRA blocks under attention take inputs (B, L, d), not of {x.ndim} dimensions")
        return self.state.factor.to(x.device)

    def _by_rank(self, weights_BLT: torch.Tensor) -> torch.Tensor:
        scale_R, owner_R = self._constant(weights_BLT.device)
        return weights_BLT.index_select(-1, owner_R) * scale_R

    def _constant(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """For each rank the scale and the number of its block; never inference tensors, as training meets them too."""
        if device not in self._constants:
            with torch.inference_mode(False):
                rank_T = torch.tensor(self.ranks, device=device)
                scale_T = torch.tensor(self.scales, dtype=torch.float32, device=device)
                owner_R = torch.arange(len(self.ranks), device=device).repeat_interleave(rank_T)
                self._constants[device] = scale_T[owner_R], owner_R
        return self._constants[device]

    def __reduce__(self) -> Any:
        return Routing, (self.ranks, self.scales, self.attended)


@contextmanager
def routed(model: Any, prompt_BL: torch.Tensor, segments_BL: torch.Tensor | None = None) -> Iterator[None]:
    """A context in which the model's forward pass weighs its blocks by these prompts.

    `prompt_BL` is true at prompt tokens; `segments_BL` numbers the instances of packed rows, whose weights then differ
    along the row. Does nothing for a model whose blocks no attention weighs. The weights are made when the model is
    called, with gradient where gradients are on, and stand in `model.lora_blocks.routing.weights` until the context
    ends. Calls with longer rows, or with a filled cache, go on with the prompts of the first, so that `generate` works
    inside, with and without a cache; where each row is repeated, as for beams, so is its prompt. ValueError where the
    prompts do not fit the batch.
    """
    blocks = getattr(model, "lora_blocks", None)
    if blocks is None or blocks.attention is None:
        yield
        return
    routing: Routing = blocks.routing
    outer, routing.prompts = routing.prompts, Prompts(prompt_BL, segments_BL)
    try:
        yield
    finally:
        routing.prompts = outer
        routing.state = replace(routing.state, weights=None, factor=None)


def before_forward(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The forward pre-hook of a model with blocks: gives each pass its weights.

    Outside `routed` a call without a cache, or with an empty one, is a prompt: all tokens of its 2-D attention mask. A
    call with a filled cache goes on with the weights of the call that began to fill it. Generation without a cache, or
    with a prompt that is read in chunks, therefore belongs inside `routed`.
    """
    blocks = model.lora_blocks
    routing: Routing = blocks.routing
    given = {**dict(zip(inspect.signature(model.forward).parameters, args, strict=False)), **kwargs} if args else kwargs
    weights = None if blocks.attention is None else _weights(model, blocks.attention, routing, given)
    routing.begin(weights, blocks.want_penalty)
    for module in blocks.checkpointed:
        function = getattr(module, CHECKPOINT, None)
        if function is not None and not isinstance(function, SamePass):
            setattr(module, CHECKPOINT, SamePass(function, routing))


def after_forward(model: Any, args: tuple[Any, ...], output: Any) -> None:
    """The forward hook of a model with blocks: remembers which weights the cache was filled under."""
    routing: Routing = model.lora_blocks.routing
    values = output.values() if hasattr(output, "values") else output if isinstance(output, tuple) else ()
    for cache in values:
        if isinstance(cache, Cache) and routing.weights is not None:
            routing.kept[cache] = routing.weights.detach()


def _weights(model: Any, attention: Any, routing: Routing, given: dict[str, Any]) -> torch.Tensor:
    tokens, cache, known = _tokens(given), given.get("past_key_values"), routing.prompts
    if cache is not None and cache.get_seq_length() > 0:
        return _continued(routing.kept.get(cache), tokens)
    if known is not None and known.weights is not None and tokens.shape[1] > known.prompt_BL.shape[1]:
        return _continued(known.weights, tokens)
    prompt_BL, segments_BL = (known.prompt_BL, known.segments_BL) if known else (_whole(given, tokens), None)
    if segments_BL is None and tokens.shape[0] > len(prompt_BL) > 0:  # beams: generation repeats each row
        prompt_BL = prompt_BL.repeat_interleave(tokens.shape[0] // len(prompt_BL), 0)
    if prompt_BL.shape != tokens.shape[:2]:
        raise ValueError(f"prompts of shape {tuple(prompt_BL.shape)} for tokens {tuple(tokens.shape[:2])}")
    with torch.no_grad():
        embedding_BLd = tokens if tokens.ndim == 3 else model.get_input_embeddings()(tokens)
    pooled_Nd, index_BL = pooled_prompts(embedding_BLd, prompt_BL, segments_BL)
    weights_NT: torch.Tensor = attention(pooled_Nd)
    weights = weights_NT[:, None] if segments_BL is None else weights_NT[index_BL]
    if known is not None:
        known.weights = weights
    return weights


def _tokens(given: dict[str, Any]) -> torch.Tensor:
    """The ids (B, L), or the embeddings (B, L, d) where those are given."""
    embeddings, ids = given.get("inputs_embeds"), given.get("input_ids")
    found = embeddings if embeddings is not None else ids
    if not isinstance(found, torch.Tensor):
        raise ValueError("a model with LoRA blocks needs input_ids or inputs_embeds to weigh its blocks by")
    return found


def _whole(given: dict[str, Any], tokens: torch.Tensor) -> torch.Tensor:
    mask = given.get("attention_mask")
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        raise ValueError(
            "which tokens are the prompt does not follow from an attention mask of more than two dimensions: "
            "call the model inside `routed(model, prompt_BL, segments_BL)`"
        )
    return mask.bool()


def _continued(weights: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor:
    """Weights of earlier calls for a further one of the same instances."""
    if weights is None:
        raise ValueError("the cache was not filled by this model, so the weights of its blocks are not known")
    if weights.shape[0] != tokens.shape[0] or weights.shape[1] != 1:
        raise ValueError(f"weights of shape {tuple(weights.shape)} do not go on for tokens {tuple(tokens.shape[:2])}")
    return weights


CHECKPOINT = "_gradient_checkpointing_func"
"""Where transformers keeps a layer's checkpointing function."""


class SamePass:
    """A checkpointing function under which a layer is computed again in the pass that it was first computed in.

    It is computed again in the backward pass, when `routed` has ended and other forward passes may have begun.
    """

    def __init__(self, checkpoint: Callable[..., Any], routing: Routing) -> None:
        self.checkpoint, self.routing = checkpoint, routing

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        routing, first, again = self.routing, self.routing.state, False

        def computed(*inputs: Any, **named: Any) -> Any:
            nonlocal again
            current = routing.state
            if again:
                routing.state = replace(first, overlaps={})
            again = True
            try:
                return function(*inputs, **named)
            finally:
                routing.state = current

        return self.checkpoint(computed, *args, **kwargs)
