"""Settings of trials: the grid multiplied out, drawn at random, or proposed by Optuna from what came before."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from clray.errors import SpecError
from clray.search.objectives import Score
from clray.spec import loading
from clray.spec.stream import Stream
from clray.spec.sweep import Parameter, Sweep

Settings = dict[str, Any]
TRIES = 1000
"""Draws after which a space of few values is held to be used up."""


def settings_of(sweep: Sweep) -> list[Settings]:
    """The settings of a sweep whose trials are known beforehand: all combinations of a grid, the first field outermost,
    or so many different ones at random. SpecError where the space has fewer."""
    space, count = sweep.space, sweep.search.trials
    if count is None:
        values = [parameter.values for parameter in space.values()]
        return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*values)]
    source = random.Random(sweep.search.seed)
    found: dict[str, Settings] = {}
    for _ in range(TRIES * count):
        settings = {field: drawn(parameter, source.random()) for field, parameter in space.items()}
        found.setdefault(json.dumps(settings, sort_keys=True), settings)
        if len(found) == count:
            return list(found.values())
    raise SpecError(
        f"sweep '{sweep.name}': {count} different trials are asked for, and the space has about {len(found)}; lower "
        "search.trials, or give kind: grid"
    )


def drawn(parameter: Parameter, at: float) -> Any:
    """The value of the parameter that lies `at` (0 to 1) of the way through it; four significant digits of a range."""
    if parameter.values:
        return parameter.values[min(len(parameter.values) - 1, int(at * len(parameter.values)))]
    assert parameter.low is not None and parameter.high is not None
    low, high = parameter.low, parameter.high
    if parameter.scale == "log":
        return _rounded(parameter, math.exp(math.log(low) + at * (math.log(high) - math.log(low))))
    return _rounded(parameter, low + at * (high - low))


def proposed(sweep: Sweep, history: Sequence[tuple[Settings, Score | None]], number: int) -> Settings:
    """The settings that Optuna's TPE proposes for trial `number` after `history`, the trials that ended, with their
    scores, None where one failed or was stopped.

    A pure function of its arguments, so that a sweep that was killed goes on as it would have (TPE: Bergstra et al.
    2011; of several objectives: Ozaki et al. 2022).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=sweep.search.seed + number, n_startup_trials=sweep.search.startup)
    ways = optuna.study.StudyDirection
    directions = [ways.MAXIMIZE if objective.sign > 0 else ways.MINIMIZE for objective in sweep.objectives]
    study = optuna.create_study(sampler=sampler, directions=directions)
    distributions = {field: _distribution(parameter) for field, parameter in sweep.space.items()}
    for settings, score in history:
        params = {field: _coded(sweep.space[field], value) for field, value in settings.items()}
        if score is None:
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.FAIL, params=params, distributions=distributions
                )
            )
            continue
        limits = {text: excess for text, excess in zip(sweep.constraints, score.excesses, strict=True)}
        study.add_trial(
            optuna.trial.create_trial(
                values=list(score.values), params=params, distributions=distributions, constraints=limits
            )
        )
    asked = study.ask(fixed_distributions=distributions).params
    return {field: _decoded(parameter, asked[field]) for field, parameter in sweep.space.items()}


def corners(sweep: Sweep) -> list[Settings]:
    """Settings that together hold every value to choose from and both ends of each range: if these fit, all do, as far
    as fields do not depend on each other."""
    ends = {
        field: list(parameter.values) or [parameter.low, parameter.high] for field, parameter in sweep.space.items()
    }
    ends = {f: [_rounded(sweep.space[f], v) for v in vs] if not sweep.space[f].values else vs for f, vs in ends.items()}
    first = {field: values[0] for field, values in ends.items()}
    return [first, *({**first, field: value} for field, values in ends.items() for value in values[1:])]


def stream_of(sweep: Sweep, settings: Mapping[str, Any], share: float = 1.0) -> Stream:
    """The stream of a trial with these settings, at a rung of so large a `share`. SpecError where it is none.

    It has the sweep's tasks in place of the stream's, and no controls. A rung of stages has the whole stream: that
    it ends earlier is the trial's own affair.
    """
    value = {name: field for name, field in loading.dump(sweep.stream).items() if name not in ("controls", "grid")}
    for field, setting in {**sweep.settings, **settings}.items():
        value = loading.assign(value, field, setting)
    value["tasks"] = [task.model_dump(mode="json", exclude_unset=True) for task in sweep.tasks]
    stream = loading.validate(value, f"{described(settings)} of sweep '{sweep.name}'")
    if share == 1.0 or sweep.fidelity is None or sweep.fidelity.of == "stages":
        return stream
    for number, stage in enumerate(stream.stages):
        value = loading.assign(
            value, f"stages.{number}.length", _shortened(stage.length.model_dump(exclude_none=True), share)
        )
    return loading.validate(value, f"{described(settings)} of sweep '{sweep.name}'")


def default_of(sweep: Sweep) -> Settings:
    """What the searched fields are in the stream itself, as settings that put a trial's stream back to it.

    A field may be unset there, or lie in a choice of another kind, so whole top-level fields are put back.
    """
    plain = loading.dump(sweep.stream)
    for field, setting in sweep.settings.items():
        plain = loading.assign(plain, field, setting)
    heads = dict.fromkeys(field.partition(".")[0] for field in sweep.space)
    return {head: plain[head] if head in plain else _default(head) for head in heads}


def described(settings: Mapping[str, Any]) -> str:
    """The settings in one line: `share 0.1, rank 8`."""
    return ", ".join(f"{last_part(field)} {shown(value)}" for field, value in settings.items())


def last_part(field: str) -> str:
    """The last part of a dotted field."""
    return field.rpartition(".")[2]


def shown(value: Any) -> str:
    """A setting for people: a path by its last part, a choice by its kind and what else it says."""
    if isinstance(value, str):
        return value.rstrip("/").rpartition("/")[2]
    if isinstance(value, dict) and "kind" in value:
        rest = [f"{name} {shown(part)}" for name, part in value.items() if name != "kind"]
        return " ".join([str(value["kind"]), *rest])
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, separators=(",", ":"))


def _default(head: str) -> Any:
    default = Stream.model_fields[head].get_default(call_default_factory=True)
    return default.model_dump(mode="json", exclude_unset=True) if hasattr(default, "model_dump") else default


def _rounded(parameter: Parameter, value: float) -> float | int:
    assert parameter.low is not None and parameter.high is not None
    if parameter.whole:
        return int(min(parameter.high, max(parameter.low, round(value))))
    return min(parameter.high, max(parameter.low, float(f"{value:.4g}")))


def _shortened(length: dict[str, Any], share: float) -> dict[str, Any]:
    [(unit, amount)] = length.items()
    return {unit: amount * share if unit == "epochs" else max(1, round(amount * share))}


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.values:
        return CategoricalDistribution(list(range(len(parameter.values))))
    assert parameter.low is not None and parameter.high is not None
    log = parameter.scale == "log"
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=log)
    return FloatDistribution(parameter.low, parameter.high, log=log)


def _coded(parameter: Parameter, value: Any) -> Any:
    return parameter.values.index(value) if parameter.values else value


def _decoded(parameter: Parameter, value: Any) -> Any:
    return parameter.values[value] if parameter.values else _rounded(parameter, value)
