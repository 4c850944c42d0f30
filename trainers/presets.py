"""Presets: the two papers at their own size, and small ones that learn on two CPU cores.

``PAPER`` is JEDI (arXiv 2605.13013), ``DIAMOND`` the pixel baseline (arXiv 2405.12399). ``TINY`` departs from the paper
where a small model on a small budget was seen to need it; each departure is an option that the dataclasses explain, and
setting it back is one flag.
"""

from __future__ import annotations

from dataclasses import replace

from jedi_env import diamond
from jedi_env.config_json import from_json
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


def for_any_game(config: TrainConfig) -> TrainConfig:
    """Return the settings for a game whose rewards are not the signs that the papers make of Atari's."""
    world_model = config.world_model
    return replace(config, world_model=replace(world_model, reward_end=replace(world_model.reward_end, symlog=True)))


PAPER = TrainConfig(fit_agent=FitAgentConfig(contexts=8_192))

DIAMOND = TrainConfig(
    world_model=diamond.WORLD_MODEL,
    agent=from_json(ActorCriticConfig, diamond.AGENT, "diamond.AGENT"),
    fit_world_model=FitWorldModelConfig(decoder_every=0),
    fit_agent=FitAgentConfig(contexts=8_192),
)

TINY = TrainConfig(
    world_model=WorldModelConfig(
        encoder=LatentEncoderConfig(
            channels=(32, 48, 16),
            down=(True, False, False),
            patch=4,
            lossless_pool=True,
            clamp_estimate=False,
            centre=True,
            standardise=True,
            scale=0.5,
        ),
        denoiser=DenoiserConfig(
            channels=(48,),
            middle_attention=False,
            cond_channels=128,
            mean_log_sigma=1.5,  # at DIAMOND's -0.4 most noise levels still show what is to be foreseen
            std_log_sigma=1.0,
            offset_noise=0.0,
            context_noise=0.3,
        ),
        sampler=SamplerConfig(steps=1, sigma_min=0.5, sigma_max=5.0, start_std=5.0),
        reward_end=RewardEndConfig(
            channels=(32, 32),
            depths=(1, 1),
            attention=(False, False),
            down=(False, True),
            middle_attention=False,
            cond_channels=64,
            lstm_dim=128,
            sees_next=False,
            shortcut=True,
            frame_stack=4,
            frame_noise=0.3,
        ),
        covariance_weight=1e-2,
    ),
    agent=ActorCriticConfig(channels=(32, 32), down=(False, True), lstm_dim=0, frame_stack=4),
    collect=CollectConfig(total_steps=60_000, first_steps=20_000, first_steps_limit=20_000, steps=5_000, epsilon=0.02),
    fit_world_model=FitWorldModelConfig(
        first_updates=4_500,
        updates=400,
        batch=32,
        denoising_steps=4,
        reward_end_length=0,
        denoiser=OptimConfig(lr=8e-4, lr_decay=True),
        reward_end=OptimConfig(lr=8e-4, lr_decay=True),
        sampling=Sampling(age_weights=(), event_fraction=0.3),
        freeze_encoder_after=2_000,
        reward_end_switching=0.5,
        precision_bf16=True,
    ),
    fit_agent=FitAgentConfig(
        first_updates=200,
        updates=150,
        batch=32,
        optim=OptimConfig(lr=4e-4, weight_decay=0.0),
        normalise_advantages=True,
        passes=3,
        entropy_weight=0.01,
    ),
    evaluate=EvaluateConfig(every=3, episodes=16, final_episodes=40),
    final_epochs=0,
    bank=256,
)

DEMO = replace(
    TINY,
    collect=replace(TINY.collect, total_steps=25_000, first_steps=25_000, first_steps_limit=25_000),
    fit_world_model=replace(TINY.fit_world_model, first_updates=2_400, freeze_encoder_after=1_200),
    fit_agent=replace(TINY.fit_agent, first_updates=0),
    evaluate=EvaluateConfig(every=0, episodes=0, final_episodes=0),
)

# JEDI's stochastic Atari: the frame skip is drawn anew at every step, and the sampler adds noise back.
STOCHASTIC = replace(
    PAPER,
    world_model=replace(PAPER.world_model, sampler=replace(PAPER.world_model.sampler, churn=1.0)),
    frame_skip=(2, 6),
)

# JEDI's networks on one large GPU that is lent for minutes at a time (docs/gpu.md): large batches, learning rates
# raised by about the root of that, a fifth of the paper's samples in a twentieth of the world model's updates and an
# eightieth of the agent's, and short epochs, the first too, because a command ends between two. Scoring is the
# command's.
GPU = replace(
    PAPER,
    collect=replace(PAPER.collect, steps=500),
    fit_world_model=replace(
        PAPER.fit_world_model,
        first_updates=600,
        updates=100,
        batch=128,
        denoiser=OptimConfig(lr=2e-4),
        reward_end=OptimConfig(lr=2e-4, max_grad_norm=100.0),
        precision_bf16=True,
    ),
    fit_agent=replace(
        PAPER.fit_agent,
        first_updates=60,
        updates=25,
        batch=512,
        optim=OptimConfig(lr=4e-4, weight_decay=0.0, max_grad_norm=100.0),
    ),
    evaluate=EvaluateConfig(every=0, episodes=0, final_episodes=0),
    final_epochs=10,
)

PRESETS: dict[str, TrainConfig] = {
    "paper": PAPER,
    "stochastic": STOCHASTIC,
    "diamond": DIAMOND,
    "gpu": GPU,
    "tiny": TINY,
    "demo": DEMO,
}
