"""What an `align` stage minimises over preference pairs: direct preference optimisation (DPO) and its variants."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clray.spec.strict import Strict


class Align(Strict):
    """The loss of a preference pair, with the parent generation as reference (DPO, Rafailov et al., arXiv 2305.18290).

    With m = beta * (log-ratio of the chosen answer - that of the rejected one), where a log-ratio is log p of the model
    minus log p of the reference, a pair's loss is -(1 - s) * log sigmoid(m) - s * log sigmoid(-m), and beside it
    `likelihood` * -log p(chosen) / its tokens. The loss of a batch is the mean over its pairs.
    """

    loss: Literal["dpo", "length_normalised"] = Field(
        "dpo",
        description="length_normalised: each log-ratio is divided by its answer's tokens (Tulu 3, arXiv 2411.15124), "
        "so that long answers do not weigh more; it wants a larger beta, say 5",
    )
    beta: float = Field(0.1, gt=0, description="how much a log-ratio counts; the larger, the closer to the reference")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="s: share of the labels taken to be the wrong way round (conservative DPO)"
    )
    likelihood: float = Field(
        0.0,
        ge=0,
        description="weight of -log p of a chosen answer's mean token, against collapse: DPO alone is content when "
        "both answers become unlikely (as in Iterative RPO, arXiv 2404.19733)",
    )
