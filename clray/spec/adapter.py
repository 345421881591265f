"""What of the model a stage trains: all of it, or an adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clray.spec.strict import Strict


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


Adapter = Annotated[FullAdapter | LoraAdapter, Field(discriminator="kind")]
