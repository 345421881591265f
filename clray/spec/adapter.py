"""What of the model a stage trains: all of it, one adapter, or a block of its own beside earlier ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clray.spec.length import Length
from clray.spec.strict import Strict


class Freeze(Strict):
    """Parts of the model that keep what they know, and are not trained."""

    embeddings: bool = Field(
        False, description="embedding tables, of tokens and of positions; the output embedding where it is the same one"
    )
    layers: int = Field(0, ge=0, description="transformer layers, counted from the bottom")

    @model_validator(mode="after")
    def _something(self) -> Freeze:
        if not (self.embeddings or self.layers):
            raise ValueError("nothing would be frozen; give layers: N or embeddings: true, or leave 'freeze' out")
        return self


class FullAdapter(Strict):
    """Trains every weight of the model, but for what is frozen."""

    kind: Literal["full"] = "full"
    freeze: Freeze | None = Field(None, description="parts that are not trained; default: none")


class ExpansionAdapter(Strict):
    """New transformer layers between the old ones, which alone are trained (block expansion: LLaMA Pro, Wu et al.,
    arXiv 2401.02415).

    A new layer is a copy of the one below it whose attention and MLP add nothing at first, so that the stage begins
    with exactly what its parent computes. The generation is a complete model with more layers. A stage whose parent was
    made by the same expansion goes on training its new layers and adds none, as with `lora`; one with another number
    of layers adds its own.
    """

    kind: Literal["expansion"] = "expansion"
    layers: int = Field(ge=1, description="new layers, spread evenly: the last one stands on top")
    every: int | None = Field(
        None, ge=1, description="old layers between two new ones, counted from the top; default: spread over them all"
    )


class LowRank(Strict):
    """Shape of a low-rank update."""

    rank: int = Field(8, ge=1, description="rank r of the low-rank update")
    alpha: float = Field(16.0, gt=0, description="scale: the update is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="module names that get an adapter, or 'all-linear'"
    )


class LoraAdapter(LowRank):
    """One low-rank adapter, trained on from stage to stage (Hu et al., arXiv 2106.09685)."""

    kind: Literal["lora"] = "lora"


class Stack(LowRank):
    """A new low-rank block for each stage, beside the frozen ones of earlier stages."""

    detach_old: bool = Field(
        False, description="no gradient through earlier blocks to the layers below them: less memory, not exact"
    )


class LoraStackAdapter(Stack):
    """A new block a stage, all of them summed (IncLoRA)."""

    kind: Literal["lora_stack"] = "lora_stack"


class OLoraAdapter(Stack):
    """A new block a stage, kept orthogonal to earlier ones (O-LoRA, Wang et al., arXiv 2310.14152)."""

    kind: Literal["olora"] = "olora"
    penalty: Literal["absolute", "frobenius"] = Field(
        "absolute",
        description="size of A_old A_new^T, summed over layers: of its entries (as in O-LoRA's code) or squares",
    )
    weight: float = Field(0.5, ge=0, description="weight of the penalty beside the mean loss (lambda_1)")


class Generator(LowRank):
    """A LoRA on the base model for each task, trained alone to write the task's inputs (SAPT, pseudo-samples).

    Beside the paper's: what it writes are instruction and input, each ended by the end-of-sequence token, where there
    three added tokens mark them, and no answer, which is not used there either.
    """

    rank: int = Field(8, ge=1, description="rank r of the low-rank update")
    alpha: float = Field(32.0, gt=0, description="scale: the update is multiplied by alpha / rank")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout on the adapter's input")
    length: Length = Length(steps=5000)
    learning_rate: float = Field(1e-3, gt=0, description="constant learning rate")
    batch: int = Field(16, ge=1, description="packed sequences in one optimiser step")
    top_k: int = Field(20, ge=1, description="tokens that a sample's next token is drawn from")
    repetition_penalty: float = Field(
        1.0, ge=1, description="2.5 in the paper; small vocabularies need tokens again, so 1 (none) here"
    )


class Reflection(Strict):
    """Attentive reflection: earlier tasks' inputs keep the attention that they had (SAPT, section 3.3)."""

    source: Literal["rows", "pseudo"] = Field(
        "rows", description="remembered prompts are of the task's own rows, or written by a generator trained on them"
    )
    generator: Generator | None = Field(None, description="how pseudo-samples are written, where they are wanted")
    weight: float = Field(0.5, ge=0, description="weight of the mean KL divergence beside the mean loss; 0: none")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the stage's steps over which the weight rises")
    prompts: int = Field(64, ge=1, description="prompts of each task that are remembered, as pooled vectors")
    batch: int = Field(16, ge=1, description="of these, how many of each earlier task are looked at in one step")
    own: bool = Field(
        True,
        description="the new task's own prompts count as one more task, with the attention that they begin with: "
        "without it (the paper) what keeps earlier prompts off the new block keeps the new ones off as well",
    )

    @model_validator(mode="before")
    @classmethod
    def _generator_fits(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("source") == "pseudo":
            return {"generator": {}, **value}
        if isinstance(value, dict) and value.get("generator") is not None:
            raise ValueError("a generator writes pseudo-samples; give source: pseudo as well, or leave it out")
        return value


class SaptAdapter(Stack):
    """A block a task, and one shared attention over them that learns and selects (SAPT, arXiv 2401.08295)."""

    kind: Literal["sapt"] = "sapt"
    rank: int = Field(4, ge=1, description="rank r of the low-rank update")
    alpha: float = Field(32.0, gt=0, description="scale: the update is multiplied by alpha / rank")
    query_rank: int = Field(100, ge=1, description="width of the bottleneck of the query projection")
    key_init: Literal["mean_query", "uniform"] = Field(
        "mean_query", description="where a new block's key begins: at the mean query of its task, or U(-1, 1)"
    )
    centre: bool = Field(
        True,
        description="queries see prompts relative to the mean of all tasks and in units of their spread; without it "
        "(the paper) queries of long prompts are all alike",
    )
    reflection: Reflection = Reflection()


Adapter = Annotated[
    FullAdapter | ExpansionAdapter | LoraAdapter | LoraStackAdapter | OLoraAdapter | SaptAdapter,
    Field(discriminator="kind"),
]
STACKS = frozenset({"lora_stack", "olora", "sapt"})
COMPLETE = frozenset({"full", "expansion"})
"""Kinds whose generation is a whole model, with nothing below it."""
