"""The shared attention and its reflection beside formulas written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clray.models.attention import (
    SharedAttention,
    centre_on,
    initialise_key,
    mean_query,
    pooled_prompts,
    reflection,
)


def made(size=8, num_old=2, trained=True, query_rank=5):
    attention = SharedAttention(
        size, num_old, trained=trained, query_rank=query_rank, generator=torch.Generator().manual_seed(1)
    )
    random = torch.Generator().manual_seed(2)
    attention.old_keys.copy_(torch.randn(num_old, size, generator=random))
    for parameter in (attention.down, attention.up, attention.norm_weight, attention.norm_bias):
        parameter.data.copy_(torch.randn(parameter.shape, generator=random))
    return attention


def test_weights_are_the_softmax_of_key_times_query_over_sqrt_d():
    """q = LN(silu(up (down e))); one SiLU, behind both maps, as in the paper's code."""
    attention, pooled = made(), torch.randn(3, 8, generator=torch.Generator().manual_seed(3))
    hidden = pooled @ attention.down.T @ attention.up.T
    hidden = hidden * torch.sigmoid(hidden)
    mean, variance = hidden.mean(-1, keepdim=True), hidden.var(-1, unbiased=False, keepdim=True)
    query = (hidden - mean) / (variance + 1e-5).sqrt() * attention.norm_weight + attention.norm_bias
    z = query @ torch.cat([attention.old_keys, attention.key]).T / math.sqrt(8)
    torch.testing.assert_close(attention(pooled, "query"), query)
    torch.testing.assert_close(attention.logits(pooled), z)
    torch.testing.assert_close(attention(pooled), z.exp() / z.exp().sum(-1, keepdim=True))


def test_only_phi_and_the_new_key_are_trained():
    names = [name for name, p in made().named_parameters() if p.requires_grad]
    assert sorted(names) == ["down", "key", "norm_bias", "norm_weight", "up"]
    frozen = made(trained=False)
    assert not any(p.requires_grad for p in frozen.parameters()) and frozen.key is None
    assert frozen(torch.zeros(1, 8)).shape == (1, 2)
    fresh = SharedAttention(1000, 0, trained=True)
    assert fresh.key.abs().max() <= 1 and fresh.key.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.1)


def test_it_stays_fp32_inside_and_old_keys_keep_their_bits_when_the_model_is_cast():
    attention, pooled = made(), torch.randn(3, 8).bfloat16()
    keys = attention.old_keys.clone()
    attention.bfloat16()
    assert attention.down.dtype == torch.bfloat16 and torch.equal(attention.old_keys, keys)
    assert attention(pooled).dtype == torch.float32
    attention.double()
    assert torch.equal(attention.old_keys, keys)


def test_the_maximum_sees_the_prompt_of_its_own_segment_alone():
    """Row 0: segments 0 (tokens 1, 5 | answer 9), 1 (no prompt: 7), padding (8). Row 1: one segment (3, 2 | 4 4 4)."""
    one = torch.tensor([[1.0, 5.0, 9.0, 7.0, 8.0], [3.0, 2.0, 4.0, 4.0, 4.0]])
    embedding = torch.stack([one, -one], -1).requires_grad_()
    prompt = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
    segments = torch.tensor([[0, 0, 0, 1, -1], [0, 0, 0, 0, 0]])
    pooled, index = pooled_prompts(embedding, prompt, segments)
    each = pooled[index]
    assert each[0].tolist() == [[5, -1]] * 3 + [[0, 0]] * 2 and each[1].tolist() == [[3, -2]] * 5
    assert not pooled.requires_grad
    pooled, index = pooled_prompts(embedding, prompt)
    assert pooled.tolist() == [[5, -1], [3, -2]] and index.tolist() == [[0] * 5, [1] * 5]
    pooled, _ = pooled_prompts(embedding.bfloat16(), prompt & False)
    assert pooled.dtype == torch.float32 and pooled.tolist() == [[0, 0], [0, 0]]


rows_of = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3)


@given(rows_of, st.integers(0, 2), st.integers(0, 99))
def test_pooling_packed_rows_is_pooling_each_document_alone(rows, spare, seed):
    random = torch.Generator().manual_seed(seed)
    length = max(sum(row) for row in rows) + spare
    embedding = torch.randn(len(rows), length, 3, generator=random)
    prompt = torch.rand(len(rows), length, generator=random) < 0.6
    segments = torch.full((len(rows), length), -1)
    for row, sizes in enumerate(rows):
        for number, (start, size) in enumerate(zip([sum(sizes[:k]) for k in range(len(sizes))], sizes, strict=True)):
            segments[row, start : start + size] = number
    prompt &= segments >= 0
    pooled, index = pooled_prompts(embedding, prompt, segments)
    for row, sizes in enumerate(rows):
        start = 0
        for size in sizes:
            inside = slice(start, start + size)
            alone, _ = pooled_prompts(embedding[row, inside][None], prompt[row, inside][None])
            assert torch.equal(pooled[index[row, inside]], alone.expand(size, 3))
            start += size


def kl(target, logits):
    """sum p ln(p / q) over the entries with p > 0, row by row."""
    q = logits.softmax(-1)
    return sum(p * (math.log(p) - q[:, k].log()) for k, p in enumerate(target) if p > 0)


def test_reflection_is_the_mean_over_tasks_of_the_mean_kl():
    """Task 0 was recorded with one block, task 1 with two, one of its weights 0; there are three blocks now."""
    attention, random = made(), torch.Generator().manual_seed(4)
    pooled = [torch.randn(4, 8, generator=random), torch.randn(3, 8, generator=random)]
    memory = [(pooled[0], torch.tensor([1.0])), (pooled[1], torch.tensor([0.0, 1.0]))]
    rows = [torch.tensor([2, 0]), torch.tensor([1])]
    found = reflection(attention, memory, rows)
    z = [attention.logits(pooled[0][[2, 0]]), attention.logits(pooled[1][[1]])]
    torch.testing.assert_close(found, (kl([1.0, 0.0, 0.0], z[0]).mean() + kl([0.0, 1.0, 0.0], z[1]).mean()) / 2)
    found.backward()
    grads = {name: p.grad.abs().sum() > 0 for name, p in attention.named_parameters()}
    assert all(grads.values()) and len(grads) == 5 and not attention.old_keys.requires_grad


def test_reflection_of_a_soft_target_and_its_zero():
    """KL is 0 where the recorded attention is what the attention says now, and positive elsewhere."""
    attention, pooled = made(trained=False), torch.randn(1, 8, generator=torch.Generator().manual_seed(5))
    now = attention(pooled)[0]
    assert reflection(attention, [(pooled, now)], [torch.tensor([0])]).abs() < 1e-6
    other = torch.tensor([0.25, 0.75])
    got = reflection(attention, [(pooled, other)], [torch.tensor([0])])
    torch.testing.assert_close(got, kl(other.tolist(), attention.logits(pooled))[0])


def test_reflection_without_rows_or_tasks_is_zero_and_finite():
    attention = made()
    pooled = torch.randn(2, 8)
    none = torch.empty(0, dtype=torch.long)
    empty = reflection(attention, [(pooled, torch.tensor([1.0]))], [none])
    empty.backward()
    assert empty == 0 and all(p.grad is not None and not p.grad.any() for p in attention.parameters())
    assert reflection(attention, [], []) == 0
    half = reflection(attention, [(pooled, torch.tensor([1.0]))] * 2, [torch.tensor([0, 1]), none])
    whole = reflection(attention, [(pooled, torch.tensor([1.0]))], [torch.tensor([0, 1])])
    torch.testing.assert_close(half * 2, whole)
    far = made()
    far.key.data.fill_(1e6)
    assert reflection(far, [(pooled, torch.tensor([1.0, 0.0]))], [torch.tensor([0, 1])]).isfinite()


def test_a_key_at_the_mean_query_opens_the_new_gate():
    attention, pooled = made(size=64), torch.randn(20, 64, generator=torch.Generator().manual_seed(6))
    before = attention(pooled)[:, -1].mean()
    initialise_key(attention, pooled)
    torch.testing.assert_close(attention.key[0], attention(pooled, "query").mean(0))
    torch.testing.assert_close(mean_query(attention, pooled), attention.key[0].detach())
    assert attention.key.requires_grad and attention(pooled)[:, -1].mean() > max(before, 1 / 3)


def alike(tasks=3, rows=20, size=64):
    """Pooled prompts of tasks that have far more in common than not, as maxima over long prompts do."""
    random = torch.Generator().manual_seed(7)
    common = 10 * torch.randn(size, generator=random)
    return [
        common + torch.randn(size, generator=random) * 0.15 + torch.randn(rows, size, generator=random) * 0.1
        for _ in range(tasks)
    ]


def test_centring_is_the_mean_of_the_tasks_and_the_unit_their_spread():
    attention = made(num_old=1)
    tasks = [torch.randn(5, 8) + 3, torch.randn(2, 8) - 1]
    centre_on(attention, tasks)
    centre = (tasks[0].mean(0) + tasks[1].mean(0)) / 2
    torch.testing.assert_close(attention.centre, centre)
    squares = [((task - centre) ** 2).mean() for task in tasks]
    torch.testing.assert_close(attention.scale, ((squares[0] + squares[1]) / 2).sqrt()[None])
    plain = made(num_old=1)
    torch.testing.assert_close(
        attention(tasks[0], "query"), plain((tasks[0] - centre) / attention.scale, "query").detach()
    )
    torch.testing.assert_close(attention.old_keys[0], mean_query(attention, tasks[0]))
    attention.bfloat16()
    assert attention.centre.dtype == attention.scale.dtype == torch.float32


def test_identical_prompts_have_a_centre_and_finite_queries():
    attention = made(num_old=0)
    centre_on(attention, [torch.ones(3, 8)])
    assert attention.scale == 1 and attention(torch.ones(3, 8), "query").isfinite().all()


@pytest.mark.parametrize(("centred", "least", "most"), [(True, 0.7, 1.0), (False, 0.0, 0.4)])
def test_tasks_that_are_nearly_alike_are_told_apart_once_centred(centred, least, most):
    """Keys at mean queries, nothing trained: the mean weight of a task's own block."""
    tasks, keys, attention = alike(), [], None
    for number in range(1, 4):
        attention = SharedAttention(64, number - 1, trained=True, generator=torch.Generator().manual_seed(0))
        attention.old_keys.copy_(torch.stack(keys) if keys else attention.old_keys)
        if centred:
            centre_on(attention, tasks[:number])
        initialise_key(attention, tasks[number - 1])
        keys = [*attention.old_keys, attention.key[0].detach()]
    own = torch.stack([attention(task)[:, i].mean() for i, task in enumerate(tasks)])
    assert least <= own.mean() <= most
