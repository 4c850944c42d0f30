"""What the reward model says of a reward: its sign, or its size whatever the scale.

Signs are what both papers learn on Atari (arXiv 2405.12399, 2605.13013). For rewards of any size it is DreamerV3's
two-hot cross-entropy over bins that are evenly spaced in symlog (arXiv 2301.04104). A head has no parameters: it reads
logits. Whether the episode ended is not its business.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIGNS = 3  # -1, 0, 1

# From -22,025 to 22,025, the first step beside zero 0.28. DreamerV3 takes 255 bins to 4.9e8; the mean over the bins is
# what a dream pays, and a chance of 1e-6 that a small model leaves at such an end would be worth more than any reward.
SYMLOG_LIMIT = 10.0
SYMLOG_BINS = 81


def symlog(x: Tensor) -> Tensor:
    """Return ``sign(x) ln(1 + |x|)``."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Return the inverse of :func:`symlog`."""
    return x.sign() * x.abs().expm1()


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """Return weights ``(..., N)`` on the two ``bins`` (N, ascending) around each ``x``; their mean over the bins is x.

    Beyond the bins all the weight is on the last one.
    """
    x = x.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, x.contiguous()).clamp(min=1)
    low, high = bins[above - 1], bins[above]
    share = (x - low) / (high - low)
    weights = torch.zeros(*x.shape, len(bins), dtype=x.dtype, device=x.device)
    weights.scatter_(-1, (above - 1)[..., None], (1 - share)[..., None])
    return weights.scatter_(-1, above[..., None], share[..., None])


class RewardHead(Protocol):
    """How logits ``(..., size)`` speak of rewards ``(...)``."""

    size: int

    def learned(self, rewards: Tensor) -> Tensor:
        """Return what is learned of ``rewards``: they are what a perfect dream pays."""
        ...

    def scale(self, returns: NDArray[np.float64]) -> float:
        """Return the size of a game's ``returns`` (sums of learned rewards), for an agent to divide rewards by."""
        ...

    def classes(self, rewards: Tensor) -> Tensor:
        """Return each reward's sign as a class: 0 below zero, 1 zero, 2 above."""
        ...

    def class_probs(self, logits: Tensor) -> Tensor:
        """Return the probabilities ``(..., 3)`` of these classes."""
        ...

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Return a reward a lane; ``uniform`` (in [0, 1)) is there to draw it by."""
        ...

    def errors(self, logits: Tensor, rewards: Tensor) -> Tensor:
        """Return the cross-entropy of every reward."""
        ...


class SignHead:
    """The sign of a reward: a class of three. A dream draws it."""

    size = SIGNS

    def learned(self, rewards: Tensor) -> Tensor:
        """Return the signs."""
        return rewards.sign()

    def scale(self, returns: NDArray[np.float64]) -> float:
        """Return 1: so the papers have it."""
        return 1.0

    def classes(self, rewards: Tensor) -> Tensor:
        """Return the sign + 1."""
        return rewards.sign().long() + 1

    def class_probs(self, logits: Tensor) -> Tensor:
        """Return their softmax."""
        return logits.softmax(dim=-1)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Return a sign, by inverse transform sampling."""
        probs = self.class_probs(logits)
        return (uniform[..., None] >= probs.cumsum(dim=-1)[..., : SIGNS - 1]).sum(dim=-1).float() - 1

    def errors(self, logits: Tensor, rewards: Tensor) -> Tensor:
        """Return the cross-entropy of the signs."""
        flat = torch.nn.functional.cross_entropy(
            logits.flatten(0, -2), self.classes(rewards).flatten(), reduction="none"
        )
        return flat.reshape(rewards.shape)


class SymlogHead:
    """The reward itself, a distribution over bins. A dream pays its mean.

    The mean is taken of the rewards, not of their symlogs: where it is not certain whether something pays 100 or
    nothing, the dream pays what the game pays on average, and the agent does not learn to think less of it.
    """

    size = SYMLOG_BINS

    def learned(self, rewards: Tensor) -> Tensor:
        """Return the rewards, as far as the bins reach."""
        bins = self._bins(rewards)
        return rewards.clamp(bins[0], bins[-1])

    def scale(self, returns: NDArray[np.float64]) -> float:
        """Return the root of their mean square; 1 if all are zero."""
        return float(np.sqrt(np.mean(np.square(returns)))) or 1.0

    def classes(self, rewards: Tensor) -> Tensor:
        """Return the sign + 1 of rewards of which the bin next to them is not zero's: 0.14 or more."""
        nearest = self._bins(rewards)[SYMLOG_BINS // 2 + 1] / 2
        return (rewards.sign() * (rewards.abs() >= nearest)).long() + 1

    def class_probs(self, logits: Tensor) -> Tensor:
        """Return the probabilities of all bins below zero, of zero, and of all above."""
        below, zero, above = logits.softmax(dim=-1).split((SYMLOG_BINS // 2, 1, SYMLOG_BINS // 2), dim=-1)
        return torch.cat((below.sum(dim=-1, keepdim=True), zero, above.sum(dim=-1, keepdim=True)), dim=-1)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Return the mean reward; nothing is drawn."""
        return (logits.softmax(dim=-1) * self._bins(logits)).sum(dim=-1)

    def errors(self, logits: Tensor, rewards: Tensor) -> Tensor:
        """Return the cross-entropy of the two-hot rewards."""
        return -(two_hot(rewards.float(), self._bins(rewards)) * logits.log_softmax(dim=-1)).sum(dim=-1)

    def _bins(self, like: Tensor) -> Tensor:
        return symexp(torch.linspace(-SYMLOG_LIMIT, SYMLOG_LIMIT, SYMLOG_BINS, dtype=torch.float32, device=like.device))
