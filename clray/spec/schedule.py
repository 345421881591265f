"""How the learning rate moves within a stage, and from one stage to the next."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from clray.spec.strict import Strict


class Schedule(Strict):
    """A schedule that each stage begins anew.

    `cosine` with a warm-up is the re-warming and re-decaying of continual pre-training (Gupta et al., arXiv
    2308.04014): the loss on old and new text rises first, then the new text is learnt better than at the low rate at
    which the stage before ended.
    """

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the stage's steps with rising learning rate")
    final: float = Field(
        0.1, ge=0, le=1, description="learning rate at the end, as a share of the peak (cosine, linear)"
    )


class InfiniteSchedule(Strict):
    """A schedule that goes on over any number of stages (Ibrahim et al., arXiv 2403.08763, infinite schedules).

    The first stage that uses it warms up to the peak and cools down, as half a cosine, to the constant rate. A stage
    whose parent generation was trained with it too, and not annealed, stays at its constant rate from its first step:
    nothing is re-warmed. A stage with `anneal` ends in an exponential fall from the constant rate to the final one, as
    is wanted of a generation that is released; what goes on from there warms up again, so anneal in a control, or in
    the last stage. The default shares are ours.
    """

    kind: Literal["infinite"] = "infinite"
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the first stage's steps with rising learning rate")
    cooldown: float = Field(
        0.5, ge=0, lt=1, description="share of the first stage's steps over which it falls from peak to constant rate"
    )
    constant: float = Field(0.5, gt=0, le=1, description="constant learning rate, as a share of the peak")
    anneal: float = Field(
        0.0, ge=0, le=1, description="share of the stage's steps, its last, that fall to the final rate; 0: none"
    )
    final: float = Field(0.1, gt=0, le=1, description="learning rate after annealing, as a share of the peak")

    @model_validator(mode="after")
    def _falls(self) -> InfiniteSchedule:
        if self.final > self.constant:
            raise ValueError(
                f"final {self.final:g} is more than constant {self.constant:g}, so that annealing would rise; lower it"
            )
        return self


def _cosine_if_unsaid(value: Any) -> Any:
    return {"kind": "cosine", **value} if isinstance(value, dict) else value


AnySchedule = Annotated[Schedule | InfiniteSchedule, Field(discriminator="kind"), BeforeValidator(_cosine_if_unsaid)]
