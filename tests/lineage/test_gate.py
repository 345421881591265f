"""The gate's decision: pure, worked by hand."""

import pytest

from clray.lineage.gate import Decision, Verdict, decide
from clray.spec.gate import Gate

GATE = Gate.model_validate({"max_forgetting": 0.02, "max_delta_general": {"accuracy": 0.05}})


def gate(**settings):
    return Gate.model_validate({"max_forgetting": 0.02, **settings})


def test_within_all_limits_it_is_accepted():
    decision, why = decide(GATE, {"forgetting": {"accuracy": 0.02}, "delta general": {"accuracy": -0.1}})
    assert decision == Decision.ACCEPT
    assert why == (
        "tasks taught before are 0.02 accuracy worse than their best, within the limit of 0.02; "
        "general probes are no worse than the base model (accuracy), within the limit of 0.05"
    )


def test_beyond_a_limit_it_is_not_and_only_what_is_beyond_is_said():
    decision, why = decide(GATE, {"forgetting": {"accuracy": 0.01}, "delta general": {"accuracy": 0.06}})
    assert decision == Decision.REJECT
    assert why == (
        "general probes are 0.06 accuracy worse than the base model, above the limit of 0.05: "
        "the next stage goes on from the last accepted generation"
    )


def test_a_limit_by_metric_limits_no_other_metric():
    falls = {"forgetting": {"accuracy": 0.0}, "delta general": {"bits_per_byte": 9.0}}
    assert decide(GATE, falls)[0] == Decision.ACCEPT


def test_what_is_not_measured_yet_limits_nothing():
    assert decide(GATE, {}) == (Decision.ACCEPT, "nothing that the gate limits can be measured yet")


def test_rounding_is_no_fall():
    assert decide(gate(), {"forgetting": {"accuracy": 0.1 + 0.2 - 0.28}})[0] == Decision.ACCEPT


@pytest.mark.parametrize(
    ("settings", "attempt", "can_replay", "decision", "then"),
    [
        ({"on_fail": "stop"}, 0, True, Decision.STOP, "the line ends here"),
        (
            {"on_fail": "raise_replay"},
            0,
            True,
            Decision.RAISE_REPLAY,
            "trained again with 2 times the replay, try 2 of 3",
        ),
        (
            {"on_fail": "raise_replay"},
            1,
            True,
            Decision.RAISE_REPLAY,
            "trained again with 4 times the replay, try 3 of 3",
        ),
        ({"on_fail": "raise_replay"}, 2, True, Decision.REJECT, "try 3 of 3 was the last, and the next stage"),
        ({"on_fail": "raise_replay"}, 0, False, Decision.REJECT, "no earlier stage can be replayed more, and the next"),
    ],
)
def test_what_follows(settings, attempt, can_replay, decision, then):
    found, why = decide(gate(**settings), {"forgetting": {"accuracy": 0.5}}, attempt, can_replay)
    assert found == decision and then in why


def test_a_verdict_comes_back_from_its_plain_values():
    verdict = Verdict(decision=Decision.STOP, why="x", falls={"forgetting": {"accuracy": 0.5}}, attempt=1, tokens=7)
    assert Verdict.from_dict({**verdict.to_dict(), "judged": "today"}) == verdict and not verdict.accepted
