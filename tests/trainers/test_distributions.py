"""The two kinds of policies, against torch's own distributions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.actions import BoxActions, DiscreteActions
from jedi_env.errors import RunError
from trainers.distributions import Categorical, Gaussian, distribution_over

WHEEL = BoxActions((-1.0, 0.0, 2.0), (1.0, 0.5, 8.0))
CATEGORICAL, GAUSSIAN = Categorical(DiscreteActions(3)), Gaussian(WHEEL)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers_of(mean, std):
    """What the network must say for these, one of each for every number of an action."""
    spread = torch.logit((torch.tensor(std) - 0.1) / 0.9) - 2
    return torch.cat((torch.atanh(torch.tensor(mean)), spread))


def test_the_kind_follows_from_the_actions():
    assert isinstance(distribution_over(DiscreteActions(3)), Categorical)
    assert isinstance(distribution_over(WHEEL), Gaussian)
    assert (CATEGORICAL.size, GAUSSIAN.size) == (3, 6)


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_a_gaussians_density_and_entropy_are_torchs(numbers, drawn):
    numbers, drawn = torch.tensor(numbers), torch.tensor(drawn)
    mean, std = numbers[:3].tanh(), 0.1 + 0.9 * torch.sigmoid(numbers[3:] + 2)
    torchs = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    assert GAUSSIAN.log_prob(numbers, drawn).item() == pytest.approx(torchs.log_prob(drawn).item(), rel=1e-4, abs=1e-4)
    assert GAUSSIAN.entropy(numbers).item() == pytest.approx(torchs.entropy().item(), rel=1e-4, abs=1e-4)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.integers(0, 2))
def test_a_categoricals_are_torchs(numbers, drawn):
    numbers, drawn = torch.tensor(numbers), torch.tensor(drawn)
    torchs = torch.distributions.Categorical(logits=numbers)
    assert CATEGORICAL.log_prob(numbers, drawn).item() == pytest.approx(torchs.log_prob(drawn).item(), abs=1e-5)
    assert CATEGORICAL.entropy(numbers).item() == pytest.approx(torchs.entropy().item(), abs=1e-5)


def test_any_leading_axes():
    numbers, drawn = torch.randn(2, 5, 6, generator=generator()), torch.randn(2, 5, 3, generator=generator(1))
    assert GAUSSIAN.log_prob(numbers, drawn).shape == GAUSSIAN.entropy(numbers).shape == (2, 5)
    assert GAUSSIAN.log_prob(numbers, drawn)[1, 3] == GAUSSIAN.log_prob(numbers[1, 3], drawn[1, 3])


def test_a_gaussian_draws_with_its_mean_and_deviation():
    numbers = numbers_of([0.5, -0.9, 0.0], [0.2, 0.5, 0.9]).expand(20_000, -1)
    drawn = GAUSSIAN.draw(numbers, generator()).double()
    assert drawn.mean(dim=0).tolist() == pytest.approx([0.5, -0.9, 0.0], abs=0.02)
    assert drawn.std(dim=0).tolist() == pytest.approx([0.2, 0.5, 0.9], rel=0.03)
    assert torch.equal(GAUSSIAN.draw(numbers, generator(3)), GAUSSIAN.draw(numbers, generator(3)))


def test_it_never_ceases_to_explore_and_begins_wide():
    narrowest = torch.tensor([0.0, 0.0, 0.0, -99.0, -99.0, -99.0])
    assert GAUSSIAN.entropy(narrowest).item() == pytest.approx(
        3 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.1))
    )
    begins = GAUSSIAN.draw(torch.zeros(20_000, 6), generator()).double()
    assert begins.std(dim=0).tolist() == pytest.approx([0.89] * 3, abs=0.02)


def test_what_was_drawn_becomes_actions_between_the_bounds():
    drawn = torch.tensor([[0.0, -1.0, 1.0], [-9.0, 9.0, 0.5]])
    assert GAUSSIAN.actions(drawn).tolist() == [[0.0, 0.0, 8.0], [-1.0, 0.5, 6.5]]
    assert WHEEL.allow(GAUSSIAN.actions(GAUSSIAN.draw(torch.randn(500, 6, generator=generator()), generator())))
    assert CATEGORICAL.actions(torch.tensor([2, 0])).tolist() == [2, 0]


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_is_the_chance_of_a_uniformly_random_vector(epsilon):
    numbers = numbers_of([0.9, 0.9, 0.9], [0.1 + 1e-4] * 3).expand(8000, -1)  # so a draw below zero is a random one
    drawn = GAUSSIAN.draw(numbers, generator(), epsilon)
    below = (drawn < 0).double()
    assert below.mean(dim=0).tolist() == pytest.approx([epsilon / 2] * 3, abs=0.02)
    assert below.all(dim=1).double().mean().item() == pytest.approx(
        epsilon / 8, abs=0.02
    )  # the numbers are independent
    if epsilon == 1:
        assert drawn.double().std(dim=0).tolist() == pytest.approx([3**-0.5] * 3, abs=0.02)


@pytest.mark.parametrize("policy", [CATEGORICAL, GAUSSIAN])
def test_a_policy_that_is_not_finite(policy):
    with pytest.raises(RunError, match="not finite: begin another run"):
        policy.draw(torch.full((2, policy.size), np.nan), generator())


def test_actions_are_drawn_with_the_policys_chances():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(6000, -1)
    drawn = CATEGORICAL.draw(logits, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=3) / 6000
    assert shares.tolist() == pytest.approx(logits[0].softmax(0).tolist(), abs=0.02)


@pytest.mark.parametrize(("epsilon", "expected"), [(0.0, [0, 0, 1]), (0.3, [0.1, 0.1, 0.8]), (1.0, [1 / 3] * 3)])
def test_epsilon_is_the_chance_of_a_uniformly_random_action(epsilon, expected):
    logits = torch.tensor([[-50.0, -50.0, 50.0]]).expand(6000, -1)
    drawn = CATEGORICAL.draw(logits, torch.Generator().manual_seed(0), epsilon)
    assert (torch.bincount(drawn, minlength=3) / 6000).tolist() == pytest.approx(expected, abs=0.02)
