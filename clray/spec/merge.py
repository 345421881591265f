"""What a stage's weights are merged with, once they are trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from clray.spec.strict import Strict


class Merge(Strict):
    """The trained weights are merged with those of an earlier generation; the result is the stage's generation.

    linear: other + weight * (trained - other) (WiSE-FT, Wortsman et al., arXiv 2109.01903). ties and dare_ties merge
    what both have learnt since generation 0, as task vectors (Yadav et al., arXiv 2306.01708; Yu et al., arXiv
    2311.03099), and weigh them 2 * (1 - weight) and 2 * weight, so that 0.5 is the papers' equal weights.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    with_: Literal["parent", "base"] = Field(
        "parent", alias="with", description="the other generation: the stage's parent, or generation 0"
    )
    weight: float = Field(0.5, gt=0, le=1, description="share of what the stage has learnt; linear: 1 is as trained")
    method: Literal["linear", "ties", "dare_ties"] = "linear"
    density: float | None = Field(
        None,
        gt=0,
        le=1,
        description="ties: share of each task vector's entries that is kept, the largest; dare_ties: kept by chance "
        "and made larger by as much; default 0.5",
    )

    @model_validator(mode="before")
    @classmethod
    def _density_fits(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("method", "linear") != "linear":
            return {"density": 0.5, **value}
        if isinstance(value, dict) and value.get("density") is not None:
            raise ValueError("density thins out task vectors; give method: ties or dare_ties, or leave it out")
        return value

    @property
    def settings(self) -> dict[str, Any]:
        """What of it changes the result, for keys."""
        return self.model_dump(mode="json", exclude_none=True)
