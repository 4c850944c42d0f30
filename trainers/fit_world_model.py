"""Fit the world model to the replay: n gradient steps of ``WorldModel.loss`` (Algorithm 1 of arXiv 2605.13013).

The papers update the denoiser (with the encoder) and the reward/termination model in turn. Here one update serves both:
the two losses share no parameters but the encoder's, so on the same data the sum has the same gradients, and every
frame is encoded once, unless the reward/termination model reads segments of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from jedi_env.models.decoder import Decoder
from jedi_env.models.spread import effective_rank
from jedi_env.models.world_model import WorldModel
from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.types import Segment
from trainers import distributed
from trainers.frozen_frames import FrozenFrames
from trainers.optim import Optim, OptimConfig
from trainers.replay import Replay, Sampling


@dataclass(frozen=True)
class FitWorldModelConfig:
    """How the world model learns.

    Attributes:
        first_updates: updates in the first epoch (10,000 in DIAMOND's code; not known for JEDI).
        updates: updates in every other epoch (400 in DIAMOND's code; not known for JEDI).
        batch: segments an update (32 in DIAMOND; 32 or 64 in JEDI).
        denoising_steps: frames predicted in a row from each segment, with the model's own estimates as context
            (DIAMOND: 2).
        reward_end_length: transitions that the reward/termination model reads in a row, from segments of its own
            (DIAMOND: 18, between 19 frames). 0: it reads the denoiser's segments, and each frame is encoded once for
            both. With ``reward_end_switching`` only until the encoder is frozen.
        encoder_lr_factor: the encoder's learning rate relative to the denoiser's (0.3 in JEDI).
        denoiser, reward_end: their optimisers.
        sampling: which parts of the replay are drawn more often.
        decoder_every: every so many updates the decoder probe takes one of its own. 0: there is none.
        freeze_encoder_after: updates after which the encoder is frozen for good; 0: never (the paper). A moving latent
            makes the policy's input move, and on a small budget that costs more than it brings.
        reward_end_switching: chance that the reward/termination model reads a dreamed segment, real but for its last
            ``dreamed_steps`` frames, drawn once a batch when the encoder is frozen (never, if the run ends before).
            Above 0 its segments are its own from then on, and ``event_fraction`` does not apply to them. 0 in both
            papers: what the dream draws otherwise than the game is then never read before the agent depends on it.
        dreamed_steps: frames of such a segment that are dreamed in a row, with the actions really taken; where
            ``reward_end.sees_next`` is off the last of them would not be read, and stays real.
        precision_bf16: bfloat16 arithmetic in the networks (on CUDA, float16 in the LSTM: cuDNN has no other there).
    """

    first_updates: int = 10_000
    updates: int = 400
    batch: int = 32
    denoising_steps: int = 2
    reward_end_length: int = 18
    encoder_lr_factor: float = 0.3
    denoiser: OptimConfig = field(default_factory=OptimConfig)
    reward_end: OptimConfig = field(default_factory=lambda: OptimConfig(max_grad_norm=100.0))
    sampling: Sampling = field(default_factory=Sampling)
    decoder_every: int = 4
    # ours
    freeze_encoder_after: int = 0
    reward_end_switching: float = 0.0
    dreamed_steps: int = 8
    precision_bf16: bool = False


def make_optim(world_model: WorldModel, config: FitWorldModelConfig) -> Optim:
    """Return the optimiser of the world model's three parts."""
    encoder = replace(config.denoiser, lr=config.denoiser.lr * config.encoder_lr_factor)
    return Optim(
        {
            "encoder": (world_model.encoder, encoder),
            "denoiser": (world_model.denoiser, config.denoiser),
            "reward_end": (world_model.reward_end, config.reward_end),
        }
    )


def fit_world_model(
    world_model: WorldModel,
    optim: Optim,
    replay: Replay,
    config: FitWorldModelConfig,
    updates: int,
    rng: np.random.Generator,
    generator: torch.Generator,
    decoder: Decoder | None = None,
    decoder_optim: Optim | None = None,
    frozen: FrozenFrames | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Update the world model ``updates`` times, yielding what to log of each.

    Args:
        world_model: left in evaluation mode, calibrated.
        optim: from :func:`make_optim`.
        replay: real play.
        config: the settings.
        updates: how many.
        rng: draws segments.
        generator: draws noise, on the model's device.
        decoder: a probe to train beside it, on detached frames.
        decoder_optim: the probe's.
        frozen: the replay's frames, kept from an earlier call; None: encoded anew once the encoder is frozen.
    """
    device = generator.device
    frozen = frozen or FrozenFrames(world_model, replay, device)
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision_bf16)
    length = world_model.context_length + config.denoising_steps - 1
    share = distributed.share(config.batch, "fit_world_model.batch")
    uniformly = replace(config.sampling, event_fraction=0.0)
    decoder_every = 1 if world_model.config.needs_decoder else config.decoder_every  # who teaches must keep learning

    def draw(length: int, sampling: Sampling = config.sampling) -> tuple[Tensor, Segment]:
        rows, mask = replay.draw(config.batch, length, sampling, rng)
        rows, mask = rows[share.span], mask[share.span]
        segment = replay.segment(rows, mask).to(device)
        frames = world_model.encode(segment.pixels, share) if world_model.encoder.training else frozen.take(rows)
        return frames, segment

    def draw_to_read(frames: Tensor, segment: Segment) -> tuple[Tensor, Segment]:
        """Draw what the reward/termination model reads beside the denoiser's segments, or else those."""
        if world_model.encoder.training or not config.reward_end_switching:
            return draw(config.reward_end_length) if config.reward_end_length else (frames, segment)
        frames, segment = draw(world_model.context_length + config.dreamed_steps - 1, uniformly)
        if rng.random() < config.reward_end_switching:
            keys = lane_keys(rng.integers(2**63, size=config.batch)[share.span].tolist(), device)
            noise = LaneNoise(keys, torch.zeros_like(keys))
            read = frames.shape[1] - (not world_model.config.reward_end.sees_next)  # who foresees reads no last frame
            frames = torch.cat((world_model.dreamed(frames[:, :read], segment, noise), frames[:, read:]), dim=1)
        return frames, segment

    world_model.train()
    if 0 < config.freeze_encoder_after <= optim.updates:  # in an earlier epoch, whose statistics stay
        world_model.encoder.eval().requires_grad_(False)
    for _ in range(updates):
        with autocast:
            frames, segment = draw(length)
            sequence = draw_to_read(frames, segment)
        with autocast:  # anew, since before pytorch#165068 it kept the casts of a dream, which have no gradients
            losses = world_model.loss(frames, segment, generator, sequence, share)
        norms = optim.step(losses.total)
        world_model.update_target()
        probe = {}
        if decoder is not None and decoder_optim is not None and (optim.updates - 1) % decoder_every == 0:
            with autocast:
                drawing = share.part(decoder.loss(frames.flatten(0, 1), segment.pixels.flatten(0, 1)))
            decoder_optim.step(drawing)
            probe = {"loss_decoder": drawing}
        if optim.updates == config.freeze_encoder_after:
            calibrate(world_model, replay, rng, device)
            world_model.encoder.eval().requires_grad_(False)
        logged = {"loss_denoising": losses.denoising, "loss_reward": losses.reward, "loss_end": losses.end}
        if world_model.config.needs_decoder:
            logged["loss_reconstruction"] = losses.reconstruction
        if world_model.config.covariance_weight > 0:
            logged["covariance"] = share.part(losses.covariance)  # every process has that of the whole batch
        yield {**distributed.totals({**logged, **probe}), **norms}
    if world_model.encoder.training:
        calibrate(world_model, replay, rng, device)
    world_model.eval()


@torch.no_grad()
def calibrate(world_model: WorldModel, replay: Replay, rng: np.random.Generator, device: torch.device) -> None:
    """Measure the latents' statistics on 1,500 observations: those with which evaluation mode standardises."""
    pixels, _ = replay.contexts(1500, 1, Sampling(()), rng)
    world_model.encoder.calibrate(pixels[:, 0].to(device))


@torch.no_grad()
def latent_health(
    world_model: WorldModel, replay: Replay, rng: np.random.Generator, device: torch.device
) -> dict[str, float]:
    """Return the spread of the latents over the data: how a collapse shows.

    ``latent_std`` is the mean over elements of their standard deviation; ``latent_rank`` the effective rank of 512
    latents.
    """
    pixels, _ = replay.contexts(512, 1, Sampling(()), rng)
    world_model.eval()
    frames = world_model.encode(pixels[:, 0].to(device))
    return {"latent_std": frames.std(dim=0).mean().item(), "latent_rank": effective_rank(frames).item()}
