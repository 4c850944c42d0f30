"""Noise schedule and ODE solver of the diffusion (Karras et al. 2022, arXiv 2206.00364), as pure functions.

Nothing here knows a network: ``denoise(x, sigma)`` may be any function, also an ideal denoiser computed from data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from jedi_env.errors import UsageError


@dataclass(frozen=True)
class SamplerConfig:
    """How a frame is drawn.

    Attributes:
        steps: denoising steps a frame (3 in both papers).
        sigma_min, sigma_max, rho: the schedule (eq. 5 of Karras et al.); DIAMOND's values, JEDI's are not known. It
            falls, so the minimum is no more than the maximum.
        order: 1 for Euler, 2 for Heun.
        churn: how much noise is added back at each step (algorithm 2 of Karras et al.; 0: deterministic given the
            start).
        start_std: standard deviation of the noise that a frame begins as. DIAMOND's is 1, whatever ``sigma_max`` is;
            Karras et al. begin at ``sigma_max``, as in training: then a frame is one of those that may come, else
            nearly their mean.
    """

    steps: int = 3
    sigma_min: float = 2e-3
    sigma_max: float = 5.0
    rho: float = 7.0
    order: int = 1
    churn: float = 0.0
    start_std: float = 1.0

    def __post_init__(self) -> None:
        if not self.start_std >= 0:
            raise UsageError(f"start_std is {self.start_std}: write a number from 0, such as 1 or sigma_max.")
        if not 0 < self.sigma_min <= self.sigma_max:
            raise UsageError(
                f"sigma_min is {self.sigma_min} and sigma_max is {self.sigma_max}: write numbers above 0, the minimum "
                "no more than the maximum."
            )


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Return the ``steps + 1`` noise levels of a schedule, from ``sigma_max`` down to ``sigma_min`` and 0 (eq. 5)."""
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    ramp = [i / (steps - 1) if steps > 1 else 0.0 for i in range(steps)]
    return [(high + t * (low - high)) ** rho for t in ramp] + [0.0]


def sample(
    denoise: Callable[[Tensor, float], Tensor],
    start: Tensor,
    sigmas: list[float],
    order: int = 1,
    churn: float = 0.0,
    draw: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Solve the probability-flow ODE from ``start`` down the noise levels (algorithm 2 of Karras et al.).

    Args:
        denoise: ``(x, sigma) -> estimate of the clean frame``.
        start: where to begin, ``(B, C, H, W)``; see ``SamplerConfig.start_std``.
        sigmas: from :func:`karras_sigmas`; the last is 0.
        order: 1 for Euler, 2 for Heun.
        churn: noise added back, spread over the steps; needs ``draw``.
        draw: gives standard normal noise of the shape of ``start`` at every call.

    Returns:
        The clean frame ``(B, C, H, W)``.
    """
    if churn > 0 and draw is None:
        raise UsageError(f"churn={churn} adds noise back: give draw=, or churn=0.")
    x = start
    gamma = min(churn / (len(sigmas) - 1), 2**0.5 - 1)
    for sigma, next_sigma in pairwise(sigmas):
        level = sigma * (1 + gamma)
        if draw is not None and gamma > 0:
            x = x + draw() * (level**2 - sigma**2) ** 0.5
        estimate = denoise(x, level)
        if next_sigma == 0:  # the step leads to the estimate: to the bit, so that a frame stays within its bound
            return estimate
        slope = (x - estimate) / level
        ahead = x + slope * (next_sigma - level)
        if order == 2:
            slope_ahead = (ahead - denoise(ahead, next_sigma)) / next_sigma
            ahead = x + (slope + slope_ahead) / 2 * (next_sigma - level)
        x = ahead
    return x


def as_levels(sigma: float, like: Tensor) -> Tensor:
    """Return the noise level as a float32 tensor ``(B,)`` beside ``like`` (B, ...)."""
    return torch.full((len(like),), sigma, dtype=torch.float32, device=like.device)
