"""The method of a stage: four independent choices, and the optimiser that carries them out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Base of every specification: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class FullAdapter(Strict):
    """Trains every weight of the model."""

    kind: Literal["full"] = "full"


class LoraAdapter(Strict):
    """One low-rank adapter, trained on from stage to stage (Hu et al., arXiv 2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(8, ge=1, description="rank r of the low-rank update")
    alpha: float = Field(16.0, gt=0, description="scale: the update is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="module names that get an adapter, or 'all-linear'"
    )


class NoReplay(Strict):
    """Shows nothing of the past again."""

    kind: Literal["none"] = "none"


class Budget(Strict):
    """How much of the past is shown again: a share of the mixture, or rows for each past stage."""

    share: float | None = Field(
        None, gt=0, lt=1, description="replayed share of the whole mixture, in the unit of `of`"
    )
    of: Literal["examples", "tokens"] = Field("examples", description="unit in which `share` is counted")
    rows_per_past_task: int | None = Field(
        None, ge=1, description="examples drawn from each earlier stage, instead of a share"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Any:
        if (self.share is None) == (self.rows_per_past_task is None):
            raise ValueError("give exactly one of 'share' (say 0.1) and 'rows_per_past_task' (say 200)")
        return self


class RandomReplay(Budget):
    """Draws uniformly from all earlier examples together: a long stage is replayed more."""

    kind: Literal["random"] = "random"


class BalancedReplay(Budget):
    """Gives each earlier stage the same quota, as far as its examples reach."""

    kind: Literal["balanced"] = "balanced"


class NoRegulariser(Strict):
    """Adds nothing to the task loss."""

    kind: Literal["none"] = "none"


class Schedule(Strict):
    """Learning-rate schedule of one stage, restarted at each stage."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the stage's steps with rising learning rate")
    final: float = Field(
        0.1, ge=0, le=1, description="learning rate at the end, as a share of the peak (cosine, linear)"
    )


Adapter = Annotated[FullAdapter | LoraAdapter, Field(discriminator="kind")]
Replay = Annotated[NoReplay | RandomReplay | BalancedReplay, Field(discriminator="kind")]


class Method(Strict):
    """The composition of four independent choices: adapter x replay x regulariser x schedule."""

    adapter: Adapter = FullAdapter()
    replay: Replay = NoReplay()
    regulariser: NoRegulariser = NoRegulariser()
    schedule: Schedule = Schedule()


class Optimiser(Strict):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101). Its state starts afresh at each stage."""

    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="decoupled; matrices only, never biases or norms")
    clip: float = Field(1.0, ge=0, description="largest global gradient norm; 0 turns clipping off")


class Batch(Strict):
    """What one optimiser step sees, over all workers and accumulation."""

    size: int = Field(16, ge=1, description="in the unit of `unit`")
    unit: Literal["sequences", "tokens"] = "sequences"

    def sequences(self, sequence_length: int) -> int:
        """The batch in packed sequences; a size in tokens is rounded down, to at least one sequence."""
        return self.size if self.unit == "sequences" else max(1, self.size // sequence_length)
