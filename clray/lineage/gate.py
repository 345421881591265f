"""The gate's decision on a generation: pure functions of what was measured and of the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from clray.spec.gate import EVERY, Gate

TOLERANCE = 1e-9
Falls = Mapping[str, Mapping[str, float]]
"""How far scores have fallen, by what is limited (see Gate.limits), then by metric: above 0 is a loss."""


class Decision(StrEnum):
    """What becomes of a generation that was measured."""

    ACCEPT = "accept"
    REJECT = "reject"
    RAISE_REPLAY = "raise_replay"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision and the sentence that says why.

    `falls` is what was measured, `attempt` which try of the stage it was (0 the first), `tokens` and `seconds` what its
    training cost; `tokens_before` and `seconds_before` what the rejected tries before it cost.
    """

    decision: Decision
    why: str
    falls: dict[str, dict[str, float]]
    attempt: int = 0
    tokens: int = 0
    seconds: float = 0.0
    tokens_before: int = 0
    seconds_before: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether the generation may become a parent."""
        return self.decision == Decision.ACCEPT

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "decision": str(self.decision)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_dict` made `values` of; what else stands there is left out."""
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{**known, "decision": Decision(values["decision"])})


def decide(gate: Gate, falls: Falls, attempt: int = 0, can_replay: bool = True) -> tuple[Decision, str]:
    """What becomes of a generation whose scores have fallen so far, and why, in one sentence.

    A limit on what cannot be measured yet (no task was taught before, say) limits nothing. `attempt` counts the tries
    of the stage from 0; without `can_replay` there is nothing that could be replayed more.
    """
    seen = [
        (what, metric, value, _limit(gate, what, metric)) for what, by in falls.items() for metric, value in by.items()
    ]
    judged = [(what, metric, value, limit) for what, metric, value, limit in seen if limit is not None]
    beyond = [_sentence(*one) for one in judged if one[2] > one[3] + TOLERANCE]
    if not beyond:
        within = "; ".join(_sentence(*one) for one in judged)
        return Decision.ACCEPT, within or "nothing that the gate limits can be measured yet"
    decision, then = _consequence(gate, attempt, can_replay)
    return decision, f"{'; '.join(beyond)}: {then}"


def _consequence(gate: Gate, attempt: int, can_replay: bool) -> tuple[Decision, str]:
    if gate.on_fail == "stop":
        return Decision.STOP, "the line ends here"
    onward = "the next stage goes on from the last accepted generation"
    if gate.on_fail == "reject":
        return Decision.REJECT, onward
    if not can_replay:
        return Decision.REJECT, f"no earlier stage can be replayed more, and {onward}"
    if attempt >= gate.retries:
        return Decision.REJECT, f"try {attempt + 1} of {gate.retries + 1} was the last, and {onward}"
    times = f"{gate.raise_by ** (attempt + 1):g} times the replay"
    return Decision.RAISE_REPLAY, f"trained again with {times}, try {attempt + 2} of {gate.retries + 1}"


def _limit(gate: Gate, what: str, metric: str) -> float | None:
    """The limit on what has fallen, for tasks of that metric; None where there is none."""
    limits = gate.limits.get(what, {})
    return limits.get(metric, limits.get(EVERY))


def _sentence(what: str, metric: str, value: float, limit: float) -> str:
    group = what.removeprefix("delta ")
    who = "tasks taught before" if group == what else f"{group} probes"
    since = "their best" if group == what else "the base model"
    moved = f"are {value:.4g} {metric} worse than {since}" if value > 0 else f"are no worse than {since} ({metric})"
    return f"{who} {moved}, {'above' if value > limit + TOLERANCE else 'within'} the limit of {limit:g}"
