"""Distances from a teacher of whose prediction the largest few are known, by hand and against the whole divergence."""

import pytest
import torch

from clray.train import distil
from clray.train.distil import Distillation, distillation, divergence

TEACHER = torch.tensor([[1 / 2, 1 / 4, 1 / 4]]).log()
STUDENT = torch.tensor([[1 / 4, 3 / 8, 3 / 8]]).log()
FORWARD = 0.143841
"""KL(teacher || student) = 1/2 ln 2 + 2 * 1/4 ln 2/3 = 0.346574 - 0.202733."""
BACKWARD = 0.130812
"""KL(student || teacher) = 1/4 ln 1/2 + 2 * 3/8 ln 3/2 = -0.173287 + 0.304099: what swapped arguments would give."""


def distance(kept, student, teacher):
    return float(kept.sum(student, *kept.known(teacher)))


def test_the_teacher_comes_first():
    assert divergence(TEACHER, STUDENT).item() == pytest.approx(FORWARD, abs=1e-6)
    assert divergence(STUDENT, TEACHER).item() == pytest.approx(BACKWARD, abs=1e-6)
    for top_k in (1, 2, 3):
        assert distance(Distillation(1.0, top_k), STUDENT, TEACHER) == pytest.approx(FORWARD, abs=1e-6)


def test_it_is_torchs_own_divergence_with_the_students_logarithm_first():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(student, -1), torch.softmax(teacher, -1), reduction="batchmean"
    )
    assert distance(Distillation(1.0, 7), student, teacher) / 5 == pytest.approx(float(expected), rel=1e-5)


def test_the_temperature_divides_logits_and_its_square_multiplies():
    """Logits twice the logarithms, at T = 2, are the probabilities above: 4 * KL; the weight comes on top."""
    assert distance(Distillation(0.5, 2, 2.0), 2 * STUDENT, 2 * TEACHER) == pytest.approx(2 * FORWARD, abs=1e-5)


def test_fewer_tokens_say_less_and_never_more():
    torch.manual_seed(1)
    student, teacher = torch.randn(20, 30), 3 * torch.randn(20, 30)
    found = [distance(Distillation(1.0, top_k), student, teacher) for top_k in (1, 5, 29, 30)]
    assert found[0] < found[1] < found[2] == pytest.approx(found[3], rel=1e-5)


def test_squared_logits_by_hand():
    """Kept are the teacher's 3 and 2; the student has 1 and 2 there: (4 + 0) / 2, times the weight."""
    kept = Distillation(0.5, 2, squared=True)
    ids, values = kept.known(torch.tensor([[3.0, 2.0, 0.0]]))
    assert ids.tolist() == [[0, 1]] and values.tolist() == [[3.0, 2.0, 0.0]]
    assert float(kept.sum(torch.tensor([[1.0, 2.0, 9.0]]), ids, values)) == 1.0


@pytest.mark.parametrize("squared", [True, False])
def test_targets_without_a_teacher_count_nothing_and_get_no_gradient(squared):
    kept = Distillation(1.0, 2, squared=squared)
    torch.manual_seed(2)
    teacher, student = torch.randn(3, 5), torch.randn(3, 5, requires_grad=True)
    ids, values = kept.known(teacher)
    ids[1], values[1] = -1, 0.0
    kept.sum(student, ids, values).backward()
    assert student.grad[1].abs().sum() == 0 and student.grad[0].abs().sum() > 0
    alone = distance(kept, student.detach()[[0, 2]], teacher[[0, 2]])
    assert float(kept.sum(student.detach(), ids, values)) == pytest.approx(alone, rel=1e-6)


def test_some_positions_at_a_time_give_the_same_sum_and_gradient(monkeypatch):
    torch.manual_seed(3)
    teacher, student = torch.randn(11, 9), torch.randn(11, 9)
    found = []
    for elements in (1 << 20, 18):
        monkeypatch.setattr(distil, "ELEMENTS_AT_ONCE", elements)
        kept, logits = Distillation(1.0, 4, 2.0), student.clone().requires_grad_()
        total = kept.sum(logits, *kept.known(teacher))
        total.backward()
        found.append((total.detach(), logits.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-6) and torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_a_teacher_that_is_certain_leaves_everything_finite():
    kept, student = Distillation(1.0, 1), torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    total = kept.sum(student, *kept.known(torch.tensor([[-300.0, 300.0, 0.0]])))
    total.backward()
    assert total.item() == pytest.approx(200.0) and student.grad.isfinite().all()


def test_settings_of_the_recipe():
    lwf = {"kind": "lwf", "weight": 0.3, "temperature": 2.0, "top_k": 8}
    assert distillation(lwf) == Distillation(0.3, 8, 2.0)
    der = {"kind": "der", "weight": 0.3, "loss": "mse", "top_k": 8}
    assert distillation(der) == Distillation(0.3, 8, squared=True)
    assert distillation({**der, "loss": "kl"}) == Distillation(0.3, 8)
