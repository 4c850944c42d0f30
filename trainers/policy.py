"""A policy on the real game: pixels in, actions out. The agent's own, or a random one.

It holds what the agent needs to remember between steps (the stack of encoded frames, the LSTM's memory), lane by lane.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jedi_env.actions import Actions, as_actions
from jedi_env.models.world_model import WorldModel
from trainers.agent import ActorCritic

Pixels = npt.NDArray[np.uint8]


class Policy(Protocol):
    """Chooses actions from pixels."""

    def act(self, pixels: Pixels, first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Return actions of the game, one a lane: ``(B,)`` or ``(B, A)``.

        Args:
            pixels: uint8 ``(B, 64, 64, 3)``.
            first: bool ``(B,)``, the lane's episode has just begun.
        """
        ...


class RandomPolicy:
    """Uniformly random actions.

    Args:
        actions: the game's; a number is so many discrete ones.
        rng: draws them.
    """

    def __init__(self, actions: int | Actions, rng: np.random.Generator) -> None:
        self.actions = as_actions(actions)
        self.rng = rng

    def act(self, pixels: Pixels, first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Return uniformly random actions."""
        return self.actions.uniform(self.rng, len(pixels))


class AgentPolicy:
    """The agent, looking at the real game through the world model's encoder.

    Args:
        world_model: its encoder is used, in evaluation mode.
        agent: the actor-critic.
        generator: draws actions, on the agent's device.
        epsilon: chance of a random action.
    """

    def __init__(
        self, world_model: WorldModel, agent: ActorCritic, generator: torch.Generator, epsilon: float = 0.0
    ) -> None:
        self.world_model = world_model.eval()
        self.agent = agent.eval()
        self.generator = generator
        self.epsilon = epsilon
        self._frames: Tensor | None = None
        self._memory: Tensor | None = None

    @torch.no_grad()
    def act(self, pixels: Pixels, first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        """Return actions drawn from the agent's policy."""
        device = self.generator.device
        stack = self.agent.config.frame_stack
        frame = self.world_model.encode(torch.from_numpy(pixels).to(device))[:, None]
        fresh = torch.from_numpy(first).to(device)
        repeated = frame.expand(-1, stack, -1, -1, -1)
        if self._frames is None or self._memory is None:
            self._frames, self._memory = repeated, self.agent.initial(len(pixels), device)
        self._frames = torch.where(
            fresh[:, None, None, None, None], repeated, torch.cat((self._frames[:, 1:], frame), dim=1)
        )
        self._memory = torch.where(fresh[None, :, None], 0.0, self._memory)
        opinion = self.agent(self._frames.flatten(1, 2), self._memory)
        self._memory = opinion.memory
        policy = self.agent.policy
        actions: npt.NDArray[Any] = (
            policy.actions(policy.draw(opinion.logits, self.generator, self.epsilon)).cpu().numpy()
        )
        return actions
