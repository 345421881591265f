"""A sweep: a stream, the fields of it that are searched, and what the best one is."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from clray.spec.expression import Expression, constraint, expression
from clray.spec.stream import Stream
from clray.spec.strict import NAME, Strict
from clray.spec.task import Task

FIXED = re.compile(
    r"^(name|description|storage|tracking|evaluation|tasks|controls|grid|experts|compute(?!\.precision$))"
)


class Parameter(Strict):
    """What a searched field may be: values to choose from, or a range."""

    values: tuple[Any, ...] = Field((), description="values to choose from; a list alone stands for them")
    low: float | None = Field(None, description="lowest value of a range")
    high: float | None = Field(None, description="highest value of a range")
    scale: Literal["linear", "log"] = Field("linear", description="how a range is divided")
    whole: bool = Field(False, description="a range of whole numbers")

    @model_validator(mode="after")
    def _one_of_both(self) -> Parameter:
        if bool(self.values) == (self.low is not None or self.high is not None):
            raise ValueError("give values to choose from, or low and high of a range")
        if self.values:
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError(f"low {self.low} must be there and less than high {self.high}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm; raise it above 0, or give scale: linear")
        if self.whole and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError(f"low {self.low:g} and high {self.high:g} of whole numbers must be whole")
        return self


def _values(value: Any) -> Any:
    value = {"values": value} if isinstance(value, list | tuple) else value
    if isinstance(value, dict) and isinstance(value.get("values"), list):
        return {**value, "values": tuple(value["values"])}
    return value


class Search(Strict):
    """How settings are chosen: all combinations, at random, or by Optuna's TPE from what came before."""

    kind: Literal["grid", "random", "optuna"] = "grid"
    trials: int | None = Field(None, ge=1, description="how many trials; a grid has all its combinations")
    seed: int = Field(0, ge=0, lt=2**31)
    startup: int = Field(10, ge=1, description="optuna: random trials before the first that is proposed")

    @model_validator(mode="after")
    def _number(self) -> Search:
        if (self.kind == "grid") != (self.trials is None):
            raise ValueError(
                "a grid runs all its combinations: leave 'trials' out, or give kind random or optuna"
                if self.kind == "grid"
                else f"kind {self.kind} needs 'trials', the number of them"
            )
        return self


class Objective(Strict):
    """A metric, or arithmetic over metrics, to be made large or small."""

    maximise: str | None = None
    minimise: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Objective:
        if (self.maximise is None) == (self.minimise is None):
            raise ValueError("give exactly one of 'maximise' and 'minimise'")
        expression(self.text)
        return self

    @property
    def text(self) -> str:
        """The expression as it was written."""
        return self.maximise or self.minimise or ""

    @property
    def expression(self) -> Expression:
        """The expression."""
        return expression(self.text)

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.maximise is not None else -1


class Stopping(Strict):
    """Which trials end early, judged after each stage by the first objective on the tasks taught so far.

    `asha`: at rungs of stages a trial goes on where it is among the best 1/reduction that came there so far (Li et al.,
    arXiv 1810.05934). `median`: it goes on where its best value so far is no worse than the median of the others'
    running means (Golovin et al. 2017, Vizier).
    """

    kind: Literal["none", "asha", "median"] = "none"
    grace: int = Field(2, ge=1, description="stages that every trial trains: after one stage nothing can be forgotten")
    reduction: float = Field(2.0, gt=1, description="asha: one of so many goes on")
    least: int = Field(3, ge=1, description="median: fewest other trials that it is taken over")


class Fidelity(Strict):
    """Rungs: all trials run in little first, the best of them in more, and the last ones in full."""

    of: Literal["stages", "length"] = Field(
        "stages", description="what there is less of: the first stages alone, or a share of each stage's length"
    )
    shares: tuple[float, ...] = Field(min_length=1, description="rungs below the full stream, say [0.25, 0.5]")
    keep: float = Field(0.5, gt=0, lt=1, description="share of the trials of a rung that goes on to the next")

    @model_validator(mode="after")
    def _rising(self) -> Fidelity:
        if list(self.shares) != sorted(set(self.shares)) or not 0 < self.shares[0] <= self.shares[-1] < 1:
            raise ValueError(f"shares {list(self.shares)} must rise, each above 0 and below 1")
        return self


class Sweep(Strict):
    """A stream, the fields of it that are searched, and what the best one is."""

    name: str = Field(pattern=NAME)
    description: str = ""
    stream: Stream = Field(description="the stream, or the path of its file, relative to this one")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="dotted field -> value: what the sweep changes in the stream for all trials"
    )
    tasks: tuple[Task, ...] = Field(
        min_length=1, description="what trials are measured on instead of the stream's tasks: dev splits, never test"
    )
    space: dict[str, Annotated[Parameter, BeforeValidator(_values)]] = Field(
        min_length=1, description="dotted field of the stream -> values, or {low, high, scale, whole}"
    )
    search: Search = Search()
    objectives: tuple[Objective, ...] = Field(min_length=1, description="the first decides among equals")
    constraints: tuple[str, ...] = Field((), description="what the best must keep, say forgetting_max <= 0.03")
    stopping: Stopping = Stopping()
    fidelity: Fidelity | None = None
    retries: int = Field(1, ge=0, description="times a trial that failed is started again before it is recorded so")
    at_once: int | None = Field(
        None, ge=1, description="most trials at one time; default: as many as there is room for"
    )
    hours: float | None = Field(None, gt=0, description="after so long nothing more is begun; run it again to go on")

    @model_validator(mode="after")
    def _fits(self) -> Sweep:
        for field in (*self.space, *self.settings):
            if FIXED.match(field) and (field in self.space or field.partition(".")[0] in ("tasks", "controls", "grid")):
                raise ValueError(
                    f"'{field}' cannot be {'searched' if field in self.space else 'set'}: it does not belong to how a "
                    "model is trained"
                )
        ranges = [field for field, parameter in self.space.items() if not parameter.values]
        if self.search.kind == "grid" and ranges:
            raise ValueError(
                f"a grid cannot run over the range of '{ranges[0]}'; give values, or kind random or optuna"
            )
        for text in self.constraints:
            constraint(text)
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the stream at each rung; the last is 1."""
        return (*(self.fidelity.shares if self.fidelity else ()), 1.0)
