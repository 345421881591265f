"""The pull towards a centre: its value and gradient are those of the written-out penalty, on any number of ranks."""

import pytest
import torch

from clray.errors import ModelError
from clray.train.anchor import Anchor
from clray.train.context import Context


def context(rank=0, world=1):
    return Context(rank=rank, world=world, device=torch.device("cpu"), report=lambda progress: None)


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))


def moved(made):
    """The model a step away from where it began."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.linspace(-0.3, 0.4, parameter.numel()).view_as(parameter)
    return made


def gradients(made, extra=0.0):
    made.zero_grad()
    (made(torch.ones(2, 3)).sum() + extra).backward()
    return {name: parameter.grad.clone() for name, parameter in made.named_parameters()}


def penalty(made, start, weight, fisher=None):
    apart = (((p - start[n]) ** 2 * (fisher[n] if fisher else 1)).sum() for n, p in made.named_parameters())
    return 0.5 * weight * sum(apart)


def test_l2_by_hand():
    """One weight goes from 1 to 3: 0.5 / 2 * 4 = 1, and its gradient is the loss's 1 plus 0.5 * 2."""
    made = torch.nn.Linear(1, 1, bias=False)
    made.weight.data.fill_(1.0)
    anchor = Anchor(made, 0.5, context())
    made.weight.data.fill_(3.0)
    anchor.begin(1, 2)
    made(torch.ones(1, 1)).sum().backward()
    assert anchor.term(torch.zeros(1)).item() == 1.0 and made.weight.grad.item() == 2.0


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("stiff", [False, True])
def test_the_mean_over_ranks_is_the_penalty(world, stiff):
    reference = model()
    start = {name: p.detach().clone() for name, p in reference.named_parameters()}
    fisher = {name: torch.rand_like(p) for name, p in start.items()} if stiff else None
    expected = penalty(moved(reference), start, 0.7, fisher)
    wanted = gradients(reference, expected)
    terms, found = [], []
    for rank in range(world):
        made = model()
        anchor = Anchor(made, 0.7, context(rank, world), fisher)
        moved(made)
        anchor.begin(3, 9)
        terms.append(anchor.term(torch.zeros(1)))
        found.append(gradients(made))
    assert torch.stack(terms).mean().item() == pytest.approx(expected.item(), rel=1e-5)
    for name, value in wanted.items():
        assert torch.allclose(torch.stack([each[name] for each in found]).mean(0), value, atol=1e-6)


def test_a_centre_of_its_own():
    made = torch.nn.Linear(1, 1, bias=False)
    made.weight.data.fill_(1.0)
    anchor = Anchor(made, 2.0, context(), {"weight": torch.tensor([[3.0]])}, {"weight": torch.tensor([[0.0]])})
    anchor.begin(0, 1)
    assert anchor.term(torch.zeros(1)).item() == 3.0


def test_it_pulls_once_a_step_whatever_the_micro_batches():
    made = model()
    anchor = Anchor(made, 0.7, context())
    plain = gradients(moved(made))
    anchor.begin(0, 2)
    first, second = gradients(made), gradients(made)
    assert all(torch.equal(second[name], plain[name]) for name in plain)
    assert any(not torch.equal(first[name], plain[name]) for name in plain)


def test_a_weight_without_gradient_is_named():
    made = model()
    anchor = Anchor(made, 0.7, context())
    anchor.begin(0, 2)
    with pytest.raises(ModelError, match=r"0\.bias took no gradient"):
        anchor.begin(1, 2)
