"""The two measures of how frames are spread, against spectra that are known and a slow definition."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jedi_env.models.spread import covariance_penalty, effective_rank


def spectrum(singular_values: list[float], n: int = 24) -> Tensor:
    """Centred samples (n, 4, 2, 3) whose singular values are known."""
    g = torch.Generator().manual_seed(0)
    basis = torch.randn(n, len(singular_values), generator=g, dtype=torch.float64)
    left = torch.linalg.qr(basis - basis.mean(dim=0))[0]
    right = torch.linalg.qr(torch.randn(24, len(singular_values), generator=g, dtype=torch.float64))[0]
    return (left * torch.tensor(singular_values, dtype=torch.float64) @ right.T).reshape(n, 4, 2, 3)


@pytest.mark.parametrize("dimensions", [1, 2, 7, 23])
def test_the_rank_of_equal_directions_is_their_number(dimensions):
    assert effective_rank(spectrum([2.0] * dimensions)).item() == pytest.approx(dimensions, rel=1e-3)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8), st.floats(0.1, 10), st.floats(-3, 3))
def test_the_rank_is_the_entropy_of_the_spectrum_wherever_it_lies(values, scale, shift):
    total = sum(v**2 for v in values)
    entropy = -sum(v**2 / total * math.log(v**2 / total) for v in values)
    frames = scale * spectrum(values) + shift
    assert effective_rank(frames).item() == pytest.approx(math.exp(entropy), rel=2e-2)


def test_a_collapsed_latent_has_rank_one():
    assert effective_rank(torch.full((10, 2, 3, 3), 0.7)).item() == pytest.approx(1)
    assert effective_rank(spectrum([1.0, 1e-4])).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("n", [4, 40])
def test_the_covariance_penalty_is_its_slow_definition(n):
    """With fewer and with more samples than the 18 elements; value and gradient."""
    frames = torch.randn(n, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fast, slow = frames.clone().requires_grad_(), frames.clone().requires_grad_()
    covariance = torch.cov(slow.flatten(1).T)
    elements = len(covariance)
    expected = sum(covariance[i, j] ** 2 for i in range(elements) for j in range(elements) if i != j) / elements
    got = covariance_penalty(fast)
    torch.testing.assert_close(got, expected)
    got.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad)


def test_uncorrelated_elements_are_not_penalised():
    hadamard = torch.tensor([[1.0]])
    for _ in range(3):
        hadamard = torch.cat((torch.cat((hadamard, hadamard), 1), torch.cat((hadamard, -hadamard), 1)))
    frames = hadamard[:, 1:].reshape(8, 7, 1, 1)
    assert covariance_penalty(frames).item() == pytest.approx(0, abs=1e-6)
    assert covariance_penalty(frames[:, [0, 0]]).item() == pytest.approx((8 / 7) ** 2)  # twins: two entries of 8/7
