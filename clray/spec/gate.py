"""The gate of a stage: what its generation must keep to become the parent of the next, and what follows if it fails."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from clray.spec.strict import Strict

DELTA = "max_delta_"
EVERY = "every metric"


def _by_metric(value: Any) -> Any:
    return value if value is None or isinstance(value, dict) else {EVERY: value}


def _short(value: dict[str, float] | None) -> Any:
    return value[EVERY] if value and set(value) == {EVERY} else value


NUMBER: dict[str, Any] = {"type": "number", "minimum": 0}
Limit = Annotated[
    dict[str, Annotated[float, Field(ge=0)]],
    BeforeValidator(_by_metric),
    PlainSerializer(_short),
    WithJsonSchema({"anyOf": [NUMBER, {"type": "object", "additionalProperties": NUMBER}]}),
]
"""A number for tasks of every metric, or numbers by metric, in units of the score."""


class Gate(Strict):
    """Limits to what a stage may cost, and what is done with a generation that is beyond one.

    `max_delta_GROUP: 0.05` is short for `max_delta: {GROUP: 0.05}`. A limit is a number for tasks of every metric (of
    shares in [0, 1], bits per byte and so on alike), or numbers by metric: `{accuracy: 0.02, bits_per_byte: 0.1}`.
    """

    model_config = ConfigDict(
        json_schema_extra={"patternProperties": {f"^{DELTA}": {"anyOf": [NUMBER, {"type": "object"}]}}}
    )

    max_forgetting: Limit | None = Field(
        None,
        description="how far tasks taught before may have fallen from their best, on average (forgetting_max, F.Ra)",
    )
    max_delta: dict[str, Limit] = Field(
        default_factory=dict,
        description="by group of probes: how far it may have fallen below the base model, on average (TRACE's deltas)",
    )
    on_fail: Literal["reject", "raise_replay", "stop"] = Field(
        "reject",
        description="reject: the next stage goes on from the last accepted generation; raise_replay: the stage is "
        "trained again with more replay, and rejected after the last try; stop: the line ends",
    )
    retries: int = Field(2, ge=1, le=10, description="raise_replay: times that the stage is trained again at most")
    raise_by: float = Field(2.0, gt=1, description="raise_replay: factor of the replay's share or rows, each time")

    @model_validator(mode="before")
    @classmethod
    def _groups(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        short = {name: limit for name, limit in value.items() if name.startswith(DELTA) and name != DELTA}
        groups = {name.removeprefix(DELTA): limit for name, limit in short.items()}
        written = value.get("max_delta", {})
        if not groups or not isinstance(written, dict):
            return value
        twice = sorted(groups.keys() & written.keys())
        if twice:
            raise ValueError(f"max_delta_{twice[0]} and max_delta.{twice[0]} say the same; give one of them")
        rest = {name: limit for name, limit in value.items() if name not in short}
        return {**rest, "max_delta": {**written, **groups}}

    @model_validator(mode="after")
    def _retries(self) -> Gate:
        given = sorted({"retries", "raise_by"} & self.model_fields_set)
        if given and self.on_fail != "raise_replay":
            raise ValueError(f"'{given[0]}' is used by on_fail raise_replay alone; leave it out, or set that")
        return self

    @property
    def limits(self) -> dict[str, dict[str, float]]:
        """All limits by what they limit: "forgetting", or the name of a group of probes behind "delta "."""
        forgetting = {"forgetting": self.max_forgetting} if self.max_forgetting is not None else {}
        return {**forgetting, **{f"delta {group}": limit for group, limit in self.max_delta.items()}}

    @property
    def metrics(self) -> set[str]:
        """The metrics that limits name."""
        return {metric for limit in self.limits.values() for metric in limit} - {EVERY}
