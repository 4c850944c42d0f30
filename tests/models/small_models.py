"""Small world models with lively weights, play to learn from, and what listens to the denoising loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from jedi_env.models.denoiser import DenoiserConfig
from jedi_env.models.encoder import LatentEncoderConfig, PixelEncoderConfig
from jedi_env.models.reward_end import RewardEndConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.share import Share
from jedi_env.types import Segment

A, B, K = 4, 3, 4
TINY = WorldModelConfig(
    encoder=LatentEncoderConfig(channels=(8, 4), down=(True, False), patch=8),
    denoiser=DenoiserConfig(channels=(16,), middle_attention=False, cond_channels=16),
    reward_end=RewardEndConfig(
        channels=(8,), depths=(1,), attention=(False,), down=(False,), cond_channels=8, lstm_dim=8
    ),
)
DIAMOND = WorldModelConfig(
    encoder=PixelEncoderConfig(),
    denoiser=DenoiserConfig(channels=(64,) * 4, depths=(2,) * 4, attention=(False,) * 4),
    reward_end=RewardEndConfig(down=(False, True, True, True)),
    switching=1.0,
)


class Scripted:
    """A noise that says what it is told to."""

    def __init__(self, uniforms: Sequence[Tensor], normal: Tensor) -> None:
        self.uniforms, self.start = iter(uniforms), normal

    def uniform(self) -> Tensor:
        return next(self.uniforms)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return self.start


class Always:
    """A noise that always says the same."""

    def uniform(self) -> Tensor:
        return torch.full((B,), 0.5)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.ones(B, *shape)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lively(config: WorldModelConfig, actions: int = A) -> WorldModel:
    """A model with no layer zero, as some are at the start, and latents far apart."""
    model, g = WorldModel(actions, config), generator(1)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(1.5 * torch.randn(parameter.shape, generator=g) / math.sqrt(fan))
    return model


def play(transitions: int, seed: int = 0, batch: int = B) -> Segment:
    g = generator(seed)
    blocks = torch.randint(256, (batch, transitions + 1, 8, 8, 3), generator=g, dtype=torch.uint8)
    return Segment(
        pixels=blocks.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3),
        actions=torch.randint(A, (batch, transitions), generator=g),
        rewards=torch.randint(-1, 2, (batch, transitions), generator=g).float(),
        terminated=torch.rand(batch, transitions, generator=g) < 0.5,
        mask=torch.ones(batch, transitions, dtype=torch.bool),
    )


def noise(batch: int = B, count: int = 0) -> LaneNoise:
    return LaneNoise(lane_keys(range(batch)), torch.full((batch,), count))


def learning(module: nn.Module) -> set[bool]:
    """Whether its parameters got any gradient: {True}, {False}, or both."""
    return {parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters()}


class Spy:
    """Records, for every step, what ``Denoiser.loss`` is given and what it returns; and how many steps at once."""

    def __init__(self, model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.contexts: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.actions: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.estimates: list[Tensor] = []
        self.at_once: list[int] = []
        original = model.denoiser.loss

        def loss(
            target: Tensor, context: Tensor, actions: Tensor, mask: Tensor, g: torch.Generator, share: Share
        ) -> tuple[Tensor, Tensor]:
            result = original(target, context, actions, mask, g, share)
            for record, value in zip(
                (self.contexts, self.targets, self.actions, self.masks, self.estimates),
                (context, target, actions, mask, result[1]),
                strict=True,
            ):
                record.extend(value.unbind(dim=1))
            self.at_once.append(target.shape[1])
            return result

        monkeypatch.setattr(model.denoiser, "loss", loss)
