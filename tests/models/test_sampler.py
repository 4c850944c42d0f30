"""The sampler on problems whose answer is known: Gaussian data (the ODE in closed form) and a finite set of points."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jedi_env.errors import UsageError
from jedi_env.models.sampler import SamplerConfig, as_levels, karras_sigmas, sample

MEAN, SPREAD = 0.7, 0.4  # of the Gaussian data


def gaussian_denoiser(x: Tensor, sigma: float) -> Tensor:
    """The best guess of a clean number drawn from N(MEAN, SPREAD^2)."""
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def exact(start: Tensor, sigma: float) -> Tensor:
    """Where the ODE takes ``start``: (x - mean) / sqrt(spread^2 + sigma^2) never changes along it."""
    return MEAN + (start - MEAN) * SPREAD / math.sqrt(SPREAD**2 + sigma**2)


def draws(size: int, seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(size, 1, 1, 1, generator=generator, dtype=torch.float64)


@given(st.integers(1, 60), st.floats(1e-4, 1.0), st.floats(1.1, 1e4), st.floats(1.0, 12.0))
def test_a_schedule_falls_from_its_maximum_to_nothing(steps, low, ratio, rho):
    sigmas = karras_sigmas(steps, low, low * ratio, rho)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(low * ratio)
    assert sigmas[-1] == 0.0
    assert all(later < earlier for earlier, later in pairwise(sigmas))
    if steps > 1:
        assert sigmas[-2] == pytest.approx(low)


def test_rho_one_is_even_steps_and_more_gathers_them_at_the_bottom():
    even, bent = karras_sigmas(5, 1.0, 5.0, 1.0), karras_sigmas(5, 1.0, 5.0, 7.0)
    assert even == pytest.approx([5, 4, 3, 2, 1, 0])
    assert all(b < e for b, e in zip(bent[1:-2], even[1:-2], strict=True))


@pytest.mark.parametrize(("order", "expected"), [(1, 1.0), (2, 2.0)])
def test_many_steps_converge_at_the_solver_s_order(order, expected):
    """Halving the steps' size halves Euler's error and quarters Heun's."""
    start = 5.0 * torch.linspace(-2, 2, 41, dtype=torch.float64).reshape(-1, 1, 1, 1)
    errors = []
    for steps in (32, 64, 128, 256):
        got = sample(gaussian_denoiser, start, karras_sigmas(steps, 1e-4, 5.0, 7.0), order)
        errors.append((got - exact(start, 5.0)).abs().max().item())
    measured = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert measured == pytest.approx([expected] * 3, abs=0.15)
    assert errors[-1] < 0.02


def test_one_step_is_the_denoiser_s_guess():
    start = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    got = sample(gaussian_denoiser, start, karras_sigmas(1, 2e-3, 5.0, 7.0))
    torch.testing.assert_close(got, gaussian_denoiser(start, 5.0))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_step_is_the_estimate_to_the_bit(steps, order):
    """What rounding adds would lead beyond the bound of the frames."""
    start = 5 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    bound = 3 * start.sign()
    got = sample(lambda x, sigma: bound, start, karras_sigmas(steps, 0.5, 5.0, 7.0), order)
    assert torch.equal(got, bound)


@pytest.mark.parametrize("order", [1, 2])
def test_an_ideal_denoiser_of_points_lands_on_a_point(order):
    """The best guess given a finite data set is its softmax-weighted mean; the ODE ends on one of its members."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(12, 2, 3, 3, generator=generator, dtype=torch.float64)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        distance = torch.cdist(x.flatten(1), data.flatten(1)).square()
        return (-distance / (2 * sigma**2)).softmax(dim=1).mm(data.flatten(1)).reshape(x.shape)

    start = 5.0 * torch.randn(64, 2, 3, 3, generator=generator, dtype=torch.float64)
    ends = sample(denoise, start, karras_sigmas(40, 2e-3, 5.0, 7.0), order)
    distance, which = torch.cdist(ends.flatten(1), data.flatten(1)).min(dim=1)
    assert distance.max() < 1e-3
    assert len(which.unique()) > 6  # not one favourite


@pytest.mark.parametrize(
    ("order", "churn", "expected"),
    [
        (1, 0.0, [5.0, 2.0, 1.0]),
        (2, 0.0, [5.0, 2.0, 2.0, 1.0, 1.0]),  # Heun looks ahead, but not at level 0
        (1, 0.3, [5.5, 2.2, 1.1]),
        (2, 0.3, [5.5, 2.0, 2.2, 1.0, 1.1]),
        (1, 99.0, [5 * 2**0.5, 2 * 2**0.5, 2**0.5]),  # algorithm 2 of Karras et al. caps it
    ],
)
def test_the_levels_that_the_denoiser_is_asked_about(order, churn, expected):
    levels = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        levels.append(sigma)
        return gaussian_denoiser(x, sigma)

    sample(denoise, torch.ones(1, 1, 1, 1), [5.0, 2.0, 1.0, 0.0], order, churn, draws(1))
    assert levels == pytest.approx(expected)


@pytest.mark.parametrize(("order", "steps"), [(1, 1000), (2, 100)])
def test_churn_keeps_the_distribution(order, steps):
    """Noise added and removed again leaves samples of the data's distribution: only the right amount does."""
    size, draw = 20_000, draws(20_000)
    start = MEAN + math.sqrt(SPREAD**2 + 25) * draw()
    got = sample(gaussian_denoiser, start, karras_sigmas(steps, 2e-3, 5.0, 7.0), order, churn=40.0, draw=draw)
    correlation = torch.corrcoef(torch.stack((start.flatten(), got.flatten())))[0, 1]
    assert got.mean() == pytest.approx(MEAN, abs=4 * SPREAD / math.sqrt(size))
    assert got.std() == pytest.approx(SPREAD, rel=0.025)
    assert abs(correlation) < 0.1  # and forgets where it began


def test_without_churn_nothing_is_drawn_and_with_it_once_a_step():
    sigmas, start = karras_sigmas(5, 2e-3, 5.0, 7.0), torch.ones(2, 1, 1, 1, dtype=torch.float64)
    source, drawn = draws(2), []

    def draw() -> Tensor:
        drawn.append(source())
        return drawn[-1]

    still = sample(gaussian_denoiser, start, sigmas, draw=draw)
    assert not drawn
    assert torch.equal(still, sample(gaussian_denoiser, start, sigmas))
    assert not torch.isclose(still, sample(gaussian_denoiser, start, sigmas, churn=1.0, draw=draw)).any()
    assert len(drawn) == 5


def test_churn_without_a_source_of_noise_is_refused():
    with pytest.raises(UsageError, match="draw="):
        sample(gaussian_denoiser, torch.ones(1, 1, 1, 1), [5.0, 0.0], churn=1.0)


@pytest.mark.parametrize("levels", [(5.0, 2e-3), (0.0, 1.0), (-1.0, 1.0), (1.0, math.nan), (math.nan, 1.0)])
def test_a_schedule_that_does_not_fall_is_refused(levels):
    with pytest.raises(UsageError, match=r"sigma_min is .*the minimum no more than the maximum"):
        SamplerConfig(sigma_min=levels[0], sigma_max=levels[1])
    assert SamplerConfig(sigma_min=1.0, sigma_max=1.0).sigma_max == 1.0


@pytest.mark.parametrize("std", [-1.0, math.nan])
def test_a_start_without_a_deviation_is_refused(std):
    with pytest.raises(UsageError, match=r"start_std is .*write a number from 0"):
        SamplerConfig(start_std=std)


def test_the_start_is_left_alone():
    start = torch.ones(1, 1, 1, 1)
    sample(gaussian_denoiser, start, karras_sigmas(3, 2e-3, 5.0, 7.0), churn=1.0, draw=draws(1))
    assert start.item() == 1.0


def test_levels_are_one_float_a_lane():
    levels = as_levels(2.5, torch.zeros(3, 1, 2, 2, dtype=torch.float64))
    assert levels.dtype == torch.float32
    assert levels.tolist() == [2.5, 2.5, 2.5]
