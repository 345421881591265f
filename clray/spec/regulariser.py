"""What holds a stage near what the model was before it, by a term of its loss."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from clray.spec.strict import Strict


class NoRegulariser(Strict):
    """Adds nothing to the task loss."""

    kind: Literal["none"] = "none"


class L2Regulariser(Strict):
    """weight / 2 * squared distance of the trained weights from where the stage began, at which the model computes what
    its parent does (L2-SP, Li et al., arXiv 1802.01483)."""

    kind: Literal["l2"] = "l2"
    weight: float = Field(
        0.01,
        gt=0,
        description="lambda; half of it multiplies the squared distance, which is summed over all trained weights: the "
        "penalty (nats, beside the mean loss of a target) grows with their number. A scale to search in powers of ten, "
        "and no value that fits every model",
    )


class EwcRegulariser(Strict):
    """weight / 2 * sum F (theta - theta*)^2: weights that earlier stages were sure of move less (elastic weight
    consolidation, Kirkpatrick et al., arXiv 1612.00796).

    The first stage has nothing to hold, and counts as one without regulariser.
    """

    kind: Literal["ewc"] = "ewc"
    weight: float = Field(
        1.0,
        gt=0,
        description="lambda; the Fisher is that of the mean loss of a target, so 1 weighs each earlier stage as if it "
        "had as many targets as this one (online: before decay). Lambdas of papers go with other scales of the Fisher; "
        "search it in powers of ten",
    )
    fisher: Literal["online", "per_task"] = Field(
        "online",
        description="online: one running Fisher around the parent's weights (Schwarz et al., arXiv 1805.06370); "
        "per_task: the sum of one penalty a stage, each around the weights after that stage",
    )
    decay: float | None = Field(
        None, gt=0, le=1, description="online: what the running Fisher is multiplied by before a stage's own is added"
    )
    samples: int = Field(256, ge=1, description="examples of each stage that its Fisher is measured on")

    @model_validator(mode="before")
    @classmethod
    def _decay_fits(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("fisher") != "per_task":
            return {"decay": 1.0, **value}
        if isinstance(value, dict) and value.get("decay") is not None:
            raise ValueError("decay is that of one running Fisher; give fisher: online, or leave decay out")
        return value


class LwfRegulariser(Strict):
    """weight * T^2 * mean KL(parent || model) over all targets, current and replayed (learning without forgetting, Li &
    Hoiem, arXiv 1606.09282; T as in Hinton et al., arXiv 1503.02531)."""

    kind: Literal["lwf"] = "lwf"
    weight: float = Field(
        1.0,
        gt=0,
        description="weight of the divergence: at 1 and T = 1 a nat of it counts as much as a nat of the mean loss",
    )
    temperature: float = Field(2.0, gt=0, description="T: both models' logits are divided by it")
    top_k: int = Field(
        64, ge=1, description="tokens of the parent's prediction that are kept; all others count as one more token"
    )


class DerRegulariser(Strict):
    """weight * mean distance between the model's logits at replayed targets and those of the generation that had just
    learnt them (dark experience replay, DER++, Buzzega et al., arXiv 2004.07211).

    Its other term, the labels of replayed rows, is replay itself. A stage without a past counts as one without.
    """

    kind: Literal["der"] = "der"
    weight: float = Field(
        0.5,
        gt=0,
        description="alpha; the mean is over all targets of a batch, of which those replayed are a share: half the "
        "replay halves the term. mse is in squared logits, whose size is the model's own; kl in nats",
    )
    loss: Literal["mse", "kl"] = Field("mse", description="squared difference of the kept logits, or KL at T = 1")
    top_k: int = Field(64, ge=1, description="largest logits of each target that are kept")


Regulariser = Annotated[
    NoRegulariser | L2Regulariser | EwcRegulariser | LwfRegulariser | DerRegulariser, Field(discriminator="kind")
]
PREDICTING = frozenset({"pretrain", "instruct", "evolve"})
"""Kinds of stage whose examples are targets of next-token prediction."""
DISTILLING = frozenset({"lwf", "der"})
"""Kinds that need what an earlier generation predicts at the targets."""
