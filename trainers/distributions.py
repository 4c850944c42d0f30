"""What an agent's numbers say of its actions: a categorical over discrete ones, or a diagonal Gaussian over vectors.

What is *drawn* is what a policy gradient needs, and :meth:`~Distribution.actions` makes the game's actions of it: the
same for a categorical; a Gaussian draws in units in which the bounds are -1 and 1, from beyond them too. It has no
parameters, and knows nothing of losses.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from jedi_env.actions import Actions, BoxActions, DiscreteActions
from jedi_env.errors import RunError

LEAST_STD, MOST_STD = 0.1, 1.0  # of a Gaussian, DreamerV3's (arXiv 2301.04104): it never ceases to explore
FIRST_STD = 2.0  # before the sigmoid, where the network says 0: a deviation of 0.89


class Distribution(Protocol):
    """How numbers ``(..., size)`` of the network make a policy."""

    size: int

    def draw(self, numbers: Tensor, generator: torch.Generator, epsilon: float = 0.0) -> Tensor:
        """Draw for every lane of ``numbers`` (B, size) from the policy, or uniformly with chance ``epsilon``."""
        ...

    def actions(self, drawn: Tensor) -> Tensor:
        """Return the game's actions."""
        ...

    def log_prob(self, numbers: Tensor, drawn: Tensor) -> Tensor:
        """Return the logarithm of the probability, or of its density, of what was drawn."""
        ...

    def entropy(self, numbers: Tensor) -> Tensor:
        """Return the entropy."""
        ...


class Categorical:
    """One of several actions, by its logit.

    Args:
        actions: the game's.
    """

    def __init__(self, actions: DiscreteActions) -> None:
        self.size = actions.size

    def draw(self, numbers: Tensor, generator: torch.Generator, epsilon: float = 0.0) -> Tensor:
        """Draw actions ``(B,)``."""
        probs = numbers.softmax(dim=-1)
        probs = (1 - epsilon) * probs + epsilon / probs.shape[-1]
        try:
            return torch.multinomial(probs, 1, generator=generator).squeeze(1)
        except RuntimeError as error:
            if numbers.isfinite().all():
                raise
            raise _not_finite() from error

    def actions(self, drawn: Tensor) -> Tensor:
        """Return them."""
        return drawn

    def log_prob(self, numbers: Tensor, drawn: Tensor) -> Tensor:
        """Return the log-probability ``(...)`` of actions."""
        log_prob: Tensor = self._policy(numbers).log_prob(drawn)
        return log_prob

    def entropy(self, numbers: Tensor) -> Tensor:
        """Return the entropy ``(...)``."""
        entropy: Tensor = self._policy(numbers).entropy()
        return entropy

    def _policy(self, numbers: Tensor) -> torch.distributions.Categorical:
        return torch.distributions.Categorical(logits=numbers, validate_args=False)


class Gaussian:
    """Vectors, each number by a mean and a deviation of its own.

    Args:
        actions: the game's.
    """

    def __init__(self, actions: BoxActions) -> None:
        self._actions = actions
        self.size = 2 * actions.size

    def draw(self, numbers: Tensor, generator: torch.Generator, epsilon: float = 0.0) -> Tensor:
        """Draw vectors ``(B, A)`` in units of the bounds."""
        if not numbers.isfinite().all():
            raise _not_finite()
        policy = self._policy(numbers)
        drawn = torch.normal(policy.mean, policy.stddev, generator=generator)
        if epsilon > 0:
            chances = torch.rand(len(drawn), 1 + drawn.shape[1], generator=generator, device=drawn.device)
            drawn = torch.where(chances[:, :1] < epsilon, 2 * chances[:, 1:] - 1, drawn)
        return drawn

    def actions(self, drawn: Tensor) -> Tensor:
        """Return the vectors between the bounds."""
        return self._actions.from_unit(drawn)

    def log_prob(self, numbers: Tensor, drawn: Tensor) -> Tensor:
        """Return the log-density ``(...)`` of what was drawn, in units of the bounds."""
        log_prob: Tensor = self._policy(numbers).log_prob(drawn)
        return log_prob.sum(dim=-1)

    def entropy(self, numbers: Tensor) -> Tensor:
        """Return the differential entropy ``(...)`` in these units: at most 1.42 a number, at least -0.88."""
        entropy: Tensor = self._policy(numbers).entropy()
        return entropy.sum(dim=-1)

    def _policy(self, numbers: Tensor) -> torch.distributions.Normal:
        mean, spread = numbers.chunk(2, dim=-1)
        std = LEAST_STD + (MOST_STD - LEAST_STD) * (spread + FIRST_STD).sigmoid()
        return torch.distributions.Normal(mean.tanh(), std, validate_args=False)


def distribution_over(actions: Actions) -> Distribution:
    """Return the distribution that suits the game's actions."""
    return Categorical(actions) if isinstance(actions, DiscreteActions) else Gaussian(actions)


def _not_finite() -> RunError:
    return RunError("The agent's policy is not finite: begin another run with a lower learning rate.")
