"""Batch k is a pure function of the plan, and the ranks share it out without loss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clray.data.batches import BatchPlan, plan_batches


def seen(plan: BatchPlan, world: int, micro: int) -> list[list[int]]:
    return [
        sorted(int(r) for rank in range(world) for rows in plan.micro_batches(step, rank, world, micro) for r in rows)
        for step in range(plan.steps)
    ]


@given(st.integers(1, 40), st.integers(1, 12), st.floats(0.3, 3), st.integers(1, 4), st.integers(1, 5))
def test_every_number_of_workers_sees_the_same_batches(rows, size, epochs, world, micro):
    plan = plan_batches({"epochs": epochs}, rows, rows * 10, size, seed=3)
    assert seen(plan, world, micro) == seen(plan, 1, size)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_whole_epochs_see_each_row_equally_often(rows, size, epochs):
    plan = plan_batches({"epochs": epochs}, rows, rows, size, seed=0)
    counts = np.bincount(np.concatenate([plan.rows(step) for step in range(plan.steps)]), minlength=rows)
    assert counts.tolist() == [epochs] * rows


def test_every_rank_has_the_same_number_of_micro_batches():
    plan = plan_batches({"epochs": 1}, 10, 10, 8, seed=0)
    assert [len(list(plan.micro_batches(1, rank, 2, 2))) for rank in (0, 1)] == [2, 2]


def test_epochs_differ_and_depend_on_the_seed():
    plan = plan_batches({"epochs": 2}, 30, 30, 30, seed=0)
    assert plan.rows(0).tolist() != plan.rows(1).tolist()
    assert plan.rows(0).tolist() != plan_batches({"epochs": 2}, 30, 30, 30, seed=1).rows(0).tolist()


@pytest.mark.parametrize(("length", "steps"), [({"steps": 7}, 7), ({"epochs": 2}, 25), ({"tokens": 5000}, 13)])
def test_length_in_steps_epochs_or_tokens(length, steps):
    """100 rows of 100 tokens, batch 8: 200 rows are 25 steps; 5,000 tokens are 50 rows of 100, so 7 steps... of 4."""
    size = 4 if "tokens" in length else 8
    assert plan_batches(length, 100, 10000, size, seed=0).steps == steps
