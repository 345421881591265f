"""How long something trains."""

from __future__ import annotations

from pydantic import Field, model_validator

from clray.spec.strict import Strict


class Length(Strict):
    """How long a stage trains: exactly one of tokens, steps or epochs."""

    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Length:
        if sum(value is not None for value in (self.epochs, self.steps, self.tokens)) != 1:
            raise ValueError("give exactly one of 'epochs', 'steps' and 'tokens'")
        return self
