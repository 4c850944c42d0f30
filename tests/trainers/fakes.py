"""A real game small enough to reason about, networks small enough to train in a blink, and a dream that is a bandit."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from jedi_env.models.decoder import DecoderConfig
from jedi_env.models.denoiser import DenoiserConfig
from jedi_env.models.encoder import LatentEncoderConfig
from jedi_env.models.reward_end import RewardEndConfig
from jedi_env.models.sampler import SamplerConfig
from jedi_env.models.world_model import WorldModelConfig
from trainers.agent import ActorCriticConfig
from trainers.config import CollectConfig, EvaluateConfig, TrainConfig
from trainers.fit_agent import FitAgentConfig
from trainers.fit_world_model import FitWorldModelConfig
from trainers.optim import OptimConfig
from trainers.replay import Sampling

TOY = "ToyGame-v0"
ACTIONS = 3


class ToyGame(gym.Env):
    """A walker on a ring of six places; place 5 pays 5, place 2 costs a life, and so does nothing else.

    A game starts with three lives and ends when they are gone, or is cut off after ``limit`` steps. A seed and the
    actions since determine everything. The first pixel tells it all: (place, lives, steps).
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    PLACES, PAYS, HURTS, LIVES = 6, 5, 2, 3

    def __init__(self, limit=40, render_mode=None):
        self.observation_space = Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = Discrete(ACTIONS)
        self.render_mode = render_mode
        self.limit = limit
        self.seeds = []  # of the games that were begun
        self.over = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.place, self.lives, self.steps, self.over = int(self.np_random.integers(0, 2)), self.LIVES, 0, False
        return self.look(), {"lives": self.lives}

    def step(self, action):
        assert not self.over, "a step after the end of the game"
        wind = int(self.np_random.random() < 0.3)
        self.place = (self.place + int(action) - 1 + wind) % self.PLACES
        self.steps += 1
        hurt = self.place == self.HURTS
        self.lives -= hurt
        self.place += hurt  # and it is pushed on
        terminated, truncated = self.lives == 0, self.steps >= self.limit
        self.over = terminated or truncated
        reward = 5.0 if self.place == self.PAYS else 0.0
        return self.look(), reward, terminated, truncated, {"lives": self.lives}

    def look(self):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[10:20, 10 * self.place : 10 * self.place + 10] = 200
        pixels[0, 0] = self.place, self.lives, self.steps
        return pixels


gym.register(TOY, ToyGame)


MICRO_MODEL = WorldModelConfig(
    encoder=LatentEncoderConfig(channels=(4, 2), down=(False, False), patch=16, standardise=True, centre=True),
    denoiser=DenoiserConfig(channels=(8,), middle_attention=False, cond_channels=8, context_noise=0.1),
    sampler=SamplerConfig(steps=1),
    reward_end=RewardEndConfig(
        channels=(4,),
        depths=(1,),
        attention=(False,),
        down=(False,),
        middle_attention=False,
        cond_channels=4,
        lstm_dim=8,
        frame_stack=2,
        frame_noise=0.1,
    ),
    context_length=2,
)

MICRO = TrainConfig(
    world_model=MICRO_MODEL,
    decoder=DecoderConfig(channels=4, blocks=1),
    agent=ActorCriticConfig(channels=(4,), down=(False,), lstm_dim=8, frame_stack=1),
    collect=CollectConfig(total_steps=90, first_steps=50, first_steps_limit=60, first_rewards=1, steps=20, epsilon=0.1),
    fit_world_model=FitWorldModelConfig(
        first_updates=4,
        updates=3,
        batch=4,
        denoising_steps=2,
        reward_end_length=3,
        denoiser=OptimConfig(lr=1e-3, warmup=3),
        reward_end=OptimConfig(lr=1e-3, max_grad_norm=100.0),
        sampling=Sampling(age_weights=(0.5, 0.5), event_fraction=0.2),
        decoder_every=2,
    ),
    fit_agent=FitAgentConfig(first_updates=2, updates=3, batch=4, horizon=5, contexts=8),
    evaluate=EvaluateConfig(every=2, episodes=2, final_episodes=3),
    final_epochs=1,
    bank=6,
)

# On a real game: everything as few times as it can be, and short evaluations are not to be had.
MICRO_BREAKOUT = replace(
    MICRO,
    collect=replace(MICRO.collect, total_steps=80, first_steps=60, first_steps_limit=60),
    evaluate=EvaluateConfig(every=0, episodes=0, final_episodes=1),
    final_epochs=0,
)


def random_weights(module, seed=0, scale=0.3):
    """Give every parameter a random value: many layers start at zero, and then nothing could be told apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module
