"""The diagonal Fisher: squares of single examples' gradients, never of a batch's; and how stages come together."""

import numpy as np
import pytest
import torch
from block_models import bare

from clray.data.batches import Sequence
from clray.lineage.generation import Generation
from clray.train.context import Context
from clray.train.fisher import diagonal, same_weights, split, together

ALONE = Context(rank=0, world=1, device=torch.device("cpu"), report=lambda progress: None)
ONLINE = {"fisher": "online", "decay": 0.5, "samples": 4}
PER_TASK = {"fisher": "per_task", "decay": None, "samples": 4}


@pytest.fixture(scope="module")
def model():
    return bare().requires_grad_(False).train()


def example(ids, first_target):
    targets = np.arange(len(ids)) >= first_target
    return Sequence(np.asarray(ids, np.int32), targets, np.asarray([len(ids)]), np.asarray([0]))


EXAMPLES = [example([1, 2, 3, 4, 5], 1), example([7, 8, 9], 2)]


def squares(model, one):
    """Squared gradient of the summed loss of one example, from the model's own loss with labels."""
    head = model.lm_head.weight.requires_grad_()
    ids = torch.from_numpy(one.ids.astype(np.int64))[None]
    labels = torch.where(torch.from_numpy(one.targets)[None], ids, -100)
    loss = model(ids, labels=labels).loss * int(one.targets.sum())
    return torch.autograd.grad(loss, head)[0] ** 2


def test_it_is_the_sum_over_examples_of_their_squared_gradients(model):
    model.lm_head.weight.requires_grad_()
    found, targets = diagonal(model, EXAMPLES, ALONE)
    assert targets == 5 and list(found) == ["lm_head.weight"]
    expected = sum(squares(model, one) for one in EXAMPLES) / 5
    assert torch.allclose(found["lm_head.weight"], expected, rtol=1e-4, atol=1e-9)


def test_an_example_seen_twice_says_what_it_says_once(model):
    """Squares of a batch's gradient would be twice as large: (2 g)^2 / 2 n."""
    model.lm_head.weight.requires_grad_()
    once, twice = (diagonal(model, EXAMPLES[:1] * times, ALONE)[0]["lm_head.weight"] for times in (1, 2))
    assert torch.allclose(once, twice, rtol=1e-5)


def test_a_packed_sequence_is_taken_apart():
    packed = Sequence(np.arange(5), np.array([False, True, False, True, True]), np.asarray([2, 3]), np.asarray([0, 1]))
    first, second = split(packed)
    assert first.ids.tolist() == [0, 1] and second.ids.tolist() == [2, 3, 4]
    assert second.targets.tolist() == [False, True, True] and second.origins.tolist() == [1]


def one(value):
    return {"w": torch.tensor([float(value)])}


def test_a_running_fisher_decays():
    first = together(None, one(2), one(0), ONLINE)
    assert together(first, one(3), one(4), ONLINE)["w"].item() == 0.5 * 2 + 3


def test_penalties_of_tasks_add_up_to_one():
    """F = 1 around 0 and F = 3 around 4 are F = 4 around 3, but for a constant of 1 * 3^2 + 3 * 1^2 = 12."""
    state = together(together(None, one(1), one(0), PER_TASK), one(3), one(4), PER_TASK)
    assert state["w"].item() == 4 and state["w/centre"].item() == 3
    for x in (-1.0, 1.0, 5.0):
        assert 1 * (x - 0) ** 2 + 3 * (x - 4) ** 2 == 4 * (x - 3) ** 2 + 12


def test_a_weight_that_no_task_was_sure_of_has_a_finite_centre():
    state = together(together(None, one(0), one(1), PER_TASK), one(0), one(2), PER_TASK)
    assert state["w"].item() == 0 and state["w/centre"].item() == 1


def test_stages_count_back_to_other_weights():
    lora, full = {"kind": "lora", "rank": 4}, {"kind": "full"}
    adapters = [None, lora, full, lora, lora]
    line = [
        Generation(key=str(n), parent=None, index=n, stage_name=str(n), base="0", stage={"adapter": a} if a else {})
        for n, a in enumerate(adapters)
    ]
    assert [made.key for made in same_weights(line, lora)] == ["3", "4"]
    assert [made.key for made in same_weights(line[:3], full)] == ["2"]
