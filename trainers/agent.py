"""The actor-critic: a policy and a value over observations of a dream, or of the real game encoded alike.

DIAMOND's network (arXiv 2405.12399, appendix A): a convolutional trunk, an optional LSTM, two linear heads that start
at zero. JEDI's (arXiv 2605.13013) reads the latent; its layout is not known, and the default is the one that fits the
stated 13.5M parameters. It does not know whether what it sees is real.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jedi_env.actions import Actions, as_actions
from jedi_env.models.blocks import init_lstm, plain_stages
from trainers.distributions import distribution_over


@dataclass(frozen=True)
class ActorCriticConfig:
    """The agent's network.

    Attributes:
        channels: width of each stage of the trunk.
        down: which stages end in a 2x2 max-pool.
        lstm_dim: size L of the memory; 0: no memory (then give it a stack of frames).
        frame_stack: how many of the last frames it sees at once (1 with an LSTM, as in the papers).
    """

    channels: tuple[int, ...] = (32, 32, 64, 64)
    down: tuple[bool, ...] = (False, False, False, True)
    lstm_dim: int = 512
    frame_stack: int = 1


class Opinion(NamedTuple):
    """What the agent thinks of observations.

    Attributes:
        logits: what the policy is made of, ``(B, size)``: see :mod:`trainers.distributions`.
        value: ``(B,)``.
        memory: hidden and cell state, ``(2, B, L)``.
    """

    logits: Tensor
    value: Tensor
    memory: Tensor


class ActorCritic(nn.Module):
    """Observations -> policy, value and the memory to carry on.

    Args:
        frame_shape: (C, H, W) of one frame.
        actions: the game's; a number is so many discrete ones.
        config: the rest.

    Attributes:
        actions: the game's.
        policy: the distribution over them that the logits make.
    """

    def __init__(self, frame_shape: tuple[int, int, int], actions: int | Actions, config: ActorCriticConfig) -> None:
        super().__init__()
        self.config = config
        self.actions = as_actions(actions)
        self.policy = distribution_over(self.actions)
        channels, height, width = frame_shape
        shrink = 2 ** sum(config.down)
        features = config.channels[-1] * (height // shrink) * (width // shrink)
        self.trunk = plain_stages(channels * config.frame_stack, config.channels, config.down)
        self.lstm = nn.LSTMCell(features, config.lstm_dim) if config.lstm_dim else None
        size = config.lstm_dim or features
        self.actor, self.critic = nn.Linear(size, self.policy.size), nn.Linear(size, 1)
        for head in (self.actor, self.critic):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        if self.lstm is not None:
            init_lstm(self.lstm)

    def initial(self, batch: int, device: torch.device | str) -> Tensor:
        """Return the memory ``(2, B, L)`` before anything was seen."""
        return torch.zeros(2, batch, self.config.lstm_dim, device=device)

    def forward(self, observation: Tensor, memory: Tensor) -> Opinion:
        """Return what the agent thinks of ``observation`` (float ``(B, stack*C, H, W)``)."""
        x = self._features(observation)
        if self.lstm is not None:
            memory = self._remember(self.lstm, x, memory)
            x = memory[0]
        return Opinion(self.actor(x).float(), self.critic(x).float().squeeze(1), memory)

    @torch.no_grad()
    def memory_before_newest(self, frames: Tensor) -> Tensor:
        """Return the memory ``(2, B, L)`` of a context ``frames`` (B, K, C, H, W) but its newest, which it sees next.

        As it would be in play; empty without an LSTM.
        """
        memory, stack = self.initial(len(frames), frames.device), self.config.frame_stack
        if self.lstm is not None and frames.shape[1] > stack:
            seen = [frames[:, newest - stack : newest].flatten(1, 2) for newest in range(stack, frames.shape[1])]
            for x in self._features(torch.cat(seen)).chunk(len(seen)):  # only the LSTM has to go step by step
                memory = self._remember(self.lstm, x, memory)
        return memory

    def _features(self, observation: Tensor) -> Tensor:
        x: Tensor = self.trunk(observation.contiguous(memory_format=torch.channels_last))
        return x.flatten(1)

    @staticmethod
    def _remember(lstm: nn.LSTMCell, x: Tensor, memory: Tensor) -> Tensor:
        return torch.stack(lstm(x, (memory[0], memory[1]))).float()
