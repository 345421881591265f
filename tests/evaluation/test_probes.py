"""What stages did to groups of probes, worked by hand."""

import pytest

from clray.evaluation.matrix import ScoreMatrix
from clray.evaluation.metrics import continual_metrics
from clray.evaluation.probes import by_kind, effects, with_row

MATRIX = ScoreMatrix(
    tasks=("law", "quiz", "trivia", "safe"),
    metrics={"law": "bits_per_byte", "quiz": "accuracy", "trivia": "accuracy", "safe": "accuracy"},
    learned_at={"law": 1, "quiz": 2, "trivia": None, "safe": None},
    generations=("k0", "k1", "k2"),
    stages=("base", "law", "quiz"),
    R=((2.0, 0.2, 0.5, 0.4), (1.0, 0.3, 0.3, 0.5), (1.5, 0.9, 0.4, 0.1)),
    groups={"law": "knowledge", "quiz": "general", "safe": "safety"},
)


def test_deltas_are_against_the_base_and_named_after_trace():
    """general: quiz and trivia (a probe without a group), ((0.9-0.2) + (0.4-0.5))/2 = 0.3; safety 0.1-0.4 = -0.3;
    knowledge in bits per byte, turned: -(1.5-2.0) = 0.5."""
    found = continual_metrics(MATRIX)
    assert found["accuracy"]["general_ability_delta"] == pytest.approx(0.3)
    assert found["accuracy"]["safety_delta"] == pytest.approx(-0.3)
    assert found["bits_per_byte"]["knowledge_delta"] == pytest.approx(0.5)
    assert "safety_delta" not in found["bits_per_byte"]


def test_steps_leave_out_what_the_stage_itself_teaches():
    """general, row 1: ((0.3-0.2) + (0.3-0.5))/2 = -0.05; row 2, without quiz: 0.4-0.3 = 0.1. knowledge, row 1: its
    one task is taught there, so nothing; row 2: -(1.5-1.0) = -0.5."""
    found = {effect.group: effect for effect in effects(MATRIX)}
    assert found["general"].steps == (None, pytest.approx(-0.05), pytest.approx(0.1))
    assert found["general"].deltas == (0.0, pytest.approx(-0.05), pytest.approx(0.3))
    assert found["knowledge"].steps == (None, None, pytest.approx(-0.5))
    assert found["safety"].steps == (None, pytest.approx(0.1), pytest.approx(-0.4))
    assert found["general"].tasks == ("quiz", "trivia")


def test_kinds_of_stages_have_the_mean_of_their_steps():
    safety = effects(MATRIX)[-1]
    assert by_kind(safety, ["", "pretrain", "instruct"]) == {
        "pretrain": pytest.approx(0.1),
        "instruct": pytest.approx(-0.4),
    }
    assert by_kind(safety, ["", "pretrain", "pretrain"]) == {"pretrain": pytest.approx(-0.15)}


def test_a_rejected_generation_stands_on_the_row_before():
    """safety, in place of row 2: 0.0 - 0.5 = -0.5; a task that was not measured leaves its group undefined."""
    tried = with_row(MATRIX, 2, "k2b", "quiz", {"law": 1.2, "quiz": 0.9, "safe": 0.0})
    found = {effect.group: effect for effect in effects(tried)}
    assert tried.generations == ("k0", "k1", "k2b") and found["safety"].steps[2] == pytest.approx(-0.5)
    assert found["general"].steps[2] is None and found["knowledge"].steps[2] == pytest.approx(-0.2)
