"""The world model: encode, begin, advance, loss. The only file that sees all the parts.

JEDI (arXiv 2605.13013) and DIAMOND (arXiv 2405.12399) are the same computation on a ``C x H x W`` frame; they differ in
the encoder. Which loss teaches the encoder is decided in visible lines of ``loss`` and ``_denoising_loss``; the paper's
ablations of it are flags there. This file knows nothing of environments, horizons or agents.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from jedi_env.errors import UsageError
from jedi_env.models.decoder import Decoder
from jedi_env.models.denoiser import Denoiser, DenoiserConfig
from jedi_env.models.encoder import (
    Encoder,
    EncoderConfig,
    LatentEncoderConfig,
    PixelEncoder,
    covariance_penalty,
    make_encoder,
)
from jedi_env.models.reward_end import RewardEnd, RewardEndConfig
from jedi_env.models.sampler import SamplerConfig, as_levels, karras_sigmas, sample
from jedi_env.types import Context, ModelState, Prediction, Segment


@dataclass(frozen=True)
class WorldModelConfig:
    """A world model.

    Attributes:
        encoder: JEDI's latent or DIAMOND's pixels.
        denoiser, sampler, reward_end: the parts.
        context_length: K, how many frames and actions the next frame depends on (4 in both papers).
        switching: chance that the next context is the denoised frame rather than the encoded one, drawn once a batch.
            JEDI: 0.5 (random switching). DIAMOND: 1. 0: never.
        encoder_learns_from_denoising: whether the denoising loss reaches the encoder, through the context (JEDI). False
            is an ablation of the paper.
        encoder_learns_from_reconstruction: whether the decoder's loss reaches the encoder too. An ablation of the
            paper.
        separate_autoencoder: the encoder learns from reconstruction and from nothing else. An ablation of the paper.
        target_ema: the denoiser's targets come from a second encoder, which follows the first as an exponential moving
            average with this decay. An ablation of the paper; 0: there is none.
        covariance_weight: weight of a penalty on correlated latent elements. 0 in the paper, which names the missing
            regulariser; small models lose the rank of their latents without it.
    """

    encoder: EncoderConfig = field(default_factory=LatentEncoderConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    reward_end: RewardEndConfig = field(default_factory=RewardEndConfig)
    context_length: int = 4
    switching: float = 0.5
    encoder_learns_from_denoising: bool = True
    encoder_learns_from_reconstruction: bool = False
    separate_autoencoder: bool = False
    target_ema: float = 0.0
    # ours
    covariance_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.target_ema < 1:
            raise UsageError(f"target_ema is {self.target_ema}: write a number from 0 (no target encoder) to below 1.")

    @property
    def needs_decoder(self) -> bool:
        """Whether a decoder must be there to learn from."""
        return self.encoder_learns_from_reconstruction or self.separate_autoencoder


class Noise(Protocol):
    """A source of randomness with one stream a lane; every call draws anew."""

    def uniform(self) -> Tensor:
        """Return one number in [0, 1) a lane, ``(B,)``."""
        ...

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal noise ``(B, *shape)``."""
        ...


@dataclass(frozen=True)
class Losses:
    """The scalar losses of a batch, and their sum to descend.

    Attributes:
        denoising: eq. 8 of arXiv 2605.13013, mean over the autoregressive steps.
        reward, end: the two cross-entropies of eq. 9.
        reconstruction: the decoder's, where it teaches the encoder; else 0.
        covariance: the optional penalty, unweighted.
        total: the weighted sum.
    """

    denoising: Tensor
    reward: Tensor
    end: Tensor
    reconstruction: Tensor
    covariance: Tensor
    total: Tensor


class WorldModel(nn.Module):
    """An encoder, a denoiser and a reward/termination model.

    Args:
        num_actions: number of discrete actions of the game.
        config: everything that is not a fact of the game.

    Attributes:
        frame_shape: (C, H, W).
        bound: frames lie in [-bound, bound].
        context_length: K.
        target_encoder: the one that makes the denoiser's targets, where it is not the encoder itself.
        decoder: what turns frames into pixels for people; None until a probe is attached (a pixel model needs none).
    """

    target_encoder: Encoder | None

    def __init__(self, num_actions: int, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        self.num_actions = num_actions
        self.encoder: Encoder = make_encoder(config.encoder)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False) if config.target_ema else None
        self.frame_shape: tuple[int, int, int] = self.encoder.frame_shape
        self.bound = self.encoder.bound
        self.context_length = config.context_length
        self.denoiser = Denoiser(self.frame_shape[0], config.context_length, num_actions, config.denoiser)
        self.reward_end = RewardEnd(self.frame_shape, num_actions, config.reward_end)
        self._decoder: list[Decoder] = []  # in a list: a probe is no part of the model's parameters

    @property
    def decoder(self) -> Decoder | PixelEncoder | None:
        """What draws frames for people, if there is anything."""
        return self._decoder[0] if self._decoder else self.encoder.inverse

    def attach_decoder(self, decoder: Decoder) -> None:
        """Let ``decoder`` draw this model's frames."""
        self._decoder = [decoder]

    def encode(self, pixels: Tensor) -> Tensor:
        """Return frames ``(..., C, H, W)`` of ``pixels`` (uint8 ``(..., 64, 64, 3)``)."""
        return self._encode(self.encoder, pixels)

    @torch.no_grad()
    def update_target(self) -> None:
        """Let the target encoder follow the encoder; to be called after every update of the weights."""
        if self.target_encoder is not None:
            for slow, fast in zip(self.target_encoder.parameters(), self.encoder.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.config.target_ema)
            for theirs, ours in zip(self.target_encoder.buffers(), self.encoder.buffers(), strict=True):
                theirs.copy_(ours)

    @torch.no_grad()
    def begin(self, context: Context) -> ModelState:
        """Return the state after living through ``context``."""
        memory = self.reward_end.initial(len(context), context.frames.device)
        if self.context_length > 1:
            before, after = context.frames[:, :-1], context.frames[:, 1:]
            _, memory = self.reward_end(before, context.actions, after, memory)
        return ModelState(context.frames, context.actions, memory[0].float(), memory[1].float())

    @torch.no_grad()
    def advance(
        self, state: ModelState, actions: Tensor, noise: Noise, steps: int | None = None
    ) -> tuple[ModelState, Prediction]:
        """Imagine what ``actions`` (B,) lead to.

        Args:
            state: from :meth:`begin` or an earlier call.
            actions: int64 ``(B,)``.
            noise: one stream a lane.
            steps: denoising steps; None: as the sampler's config says. A model without diffusion takes one pass.
        """
        sampler = self.config.sampler
        all_actions = torch.cat((state.actions, actions[:, None]), dim=1)
        given = self.denoiser.condition(state.frames, all_actions)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return self.encoder.clamp(self.denoiser.denoise(x, as_levels(sigma, x), given))

        if self.denoiser.config.diffusion:
            sigmas = karras_sigmas(steps or sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho)
            start = noise.normal(self.frame_shape)
            frame = sample(
                denoise, start, sigmas, sampler.order, sampler.churn, draw=lambda: noise.normal(self.frame_shape)
            )
        else:
            blank, level = self.denoiser.blank(state.frames[:, -1])
            frame = self.encoder.clamp(self.denoiser.denoise(blank, level, given))

        logits, memory = self.reward_end(
            state.frames[:, -1:], actions[:, None], frame[:, None], (state.hidden, state.cell)
        )
        reward_probs, end_probs = logits.reward[:, 0].softmax(dim=-1), logits.end[:, 0].softmax(dim=-1)
        # Inverse transform sampling of the two categorical outcomes, one uniform number each.
        reward = (noise.uniform()[:, None] >= reward_probs.cumsum(dim=-1)[:, :2]).sum(dim=-1).float() - 1
        terminated = noise.uniform() < end_probs[:, 1]
        next_state = ModelState(
            frames=torch.cat((state.frames[:, 1:], frame[:, None]), dim=1),
            actions=all_actions[:, 1:],
            hidden=memory[0].float(),
            cell=memory[1].float(),
        )
        return next_state, Prediction(reward, terminated, reward_probs, end_probs[:, 1])

    def loss(
        self,
        frames: Tensor,
        segment: Segment,
        generator: torch.Generator,
        sequence: tuple[Tensor, Segment] | None = None,
    ) -> Losses:
        """Return the joint loss of a batch of real play.

        The segment's length sets the number of autoregressive denoising steps: T - K + 1 (JEDI and DIAMOND: 2).

        Args:
            frames: ``encode(segment.pixels)``, ``(B, T+1, C, H, W)``; its graph is how the encoder learns.
            segment: the transitions.
            generator: on the frames' device.
            sequence: frames and transitions for the reward/termination model; None: the same.

        Raises:
            UsageError: reconstruction shall teach the encoder, and no decoder is attached.
        """
        sequence = sequence or (frames, segment)
        reconstruction = self._reconstruction_loss(frames, segment)
        if self.config.separate_autoencoder:  # nothing below teaches the encoder
            frames, sequence = frames.detach(), (sequence[0].detach(), sequence[1])
        denoising = self._denoising_loss(frames, segment, generator)
        reward, end = self._reward_end_loss(*sequence)
        covariance = denoising.new_zeros(())
        if self.config.covariance_weight > 0:
            covariance = covariance_penalty(frames.flatten(0, 1))
        total = denoising + reward + end + reconstruction + self.config.covariance_weight * covariance
        return Losses(denoising, reward, end, reconstruction, covariance, total)

    def _denoising_loss(self, frames: Tensor, segment: Segment, generator: torch.Generator) -> Tensor:
        k = self.context_length
        context = frames if self.config.encoder_learns_from_denoising else frames.detach()
        targets = self._targets(frames, segment)
        window = list(context.unbind(dim=1))  # what is fed as context, changed as the model's estimates replace frames
        feed_estimate = _coin(self.config.switching, generator)  # once a batch of trajectories
        losses = []
        for t in range(k, frames.shape[1]):
            loss, estimate = self.denoiser.loss(
                targets[:, t],
                torch.stack(window[t - k : t], dim=1),
                segment.actions[:, t - k : t],
                segment.mask[:, t - 1],
                generator,
            )
            losses.append(loss)
            if feed_estimate:  # where nothing really happened there is nothing to estimate: the repeated frame stays
                happened = segment.mask[:, t - 1, None, None, None]
                window[t] = torch.where(happened, self.encoder.clamp(estimate), window[t])
        return torch.stack(losses).mean()

    def _targets(self, frames: Tensor, segment: Segment) -> Tensor:
        """Return what the denoiser learns to predict, ``(B, T+1, C, H, W)``; no gradient ever reaches it."""
        if self.target_encoder is None:
            return frames
        with torch.no_grad():
            return self._encode(self.target_encoder, segment.pixels)

    def _reconstruction_loss(self, frames: Tensor, segment: Segment) -> Tensor:
        if not self.config.needs_decoder:
            return frames.new_zeros(())
        if not self._decoder:
            raise UsageError(
                "The encoder shall learn from reconstruction, but there is no decoder: call attach_decoder() first."
            )
        return self._decoder[0].reconstruction_loss(frames.flatten(0, 1), segment.pixels.flatten(0, 1))

    def _encode(self, encoder: Encoder, pixels: Tensor) -> Tensor:
        lead = pixels.shape[:-3]
        frames: Tensor = encoder(pixels.reshape(-1, *pixels.shape[-3:]))
        return frames.reshape(*lead, *self.frame_shape)

    def _reward_end_loss(self, frames: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        memory = self.reward_end.initial(len(frames), frames.device)
        logits, _ = self.reward_end(frames[:, :-1], segment.actions, frames[:, 1:], memory)
        return self.reward_end.loss(logits, segment.rewards, segment.terminated, segment.mask)


def _coin(chance: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), device=generator.device, generator=generator) < chance)
