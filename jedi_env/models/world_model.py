"""The world model: encode, begin, advance, loss. The only file that sees all the parts.

JEDI (arXiv 2605.13013) and DIAMOND (arXiv 2405.12399) are the same computation on a ``C x H x W`` frame; they differ in
the encoder. Which loss teaches the encoder is decided in visible lines of ``loss`` and ``denoising_loss``; the paper's
ablations of it are flags there. This file knows nothing of environments, horizons or agents.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from jedi_env.actions import Actions, as_actions
from jedi_env.errors import UsageError
from jedi_env.models.decoder import Decoder
from jedi_env.models.denoiser import Denoiser, DenoiserConfig
from jedi_env.models.encoder import (
    Encoder,
    EncoderConfig,
    LatentEncoderConfig,
    PixelEncoder,
    make_encoder,
)
from jedi_env.models.reward_end import RewardEnd, RewardEndConfig, RewardEndLogits, stacked
from jedi_env.models.sampler import SamplerConfig, as_levels, karras_sigmas, sample
from jedi_env.models.spread import covariance_penalty
from jedi_env.share import WHOLE, Share
from jedi_env.types import Context, ModelState, Prediction, Segment

# Elements of the denoiser's widest layer that a CPU's caches hold, a thread: measured flat from half to twice as many.
CACHED = 2**20


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
        stack, most = self.reward_end.frame_stack, max(1, self.context_length)
        if not 1 <= stack <= most:
            raise UsageError(
                f"reward_end.frame_stack is {stack}, but a dream remembers {self.context_length} frames "
                f"(context_length): write a number from 1 to {most}."
            )

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
        actions: the game's; a number is so many discrete ones.
        config: everything that is not a fact of the game.

    Attributes:
        actions: the game's.
        frame_shape: (C, H, W).
        bound: frames lie in [-bound, bound].
        context_length: K.
        target_encoder: the one that makes the denoiser's targets, where it is not the encoder itself.
        decoder: what turns frames into pixels for people; None until a probe is attached (a pixel model needs none).
    """

    target_encoder: Encoder | None

    def __init__(self, actions: int | Actions, config: WorldModelConfig) -> None:
        super().__init__()
        self.config = config
        self.actions = as_actions(actions)
        self.encoder: Encoder = make_encoder(config.encoder)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False) if config.target_ema else None
        self.frame_shape: tuple[int, int, int] = self.encoder.frame_shape
        self.bound = self.encoder.bound
        self.context_length = config.context_length
        self.denoiser = Denoiser(self.frame_shape[0], config.context_length, actions, config.denoiser)
        self.reward_end = RewardEnd(self.frame_shape, actions, config.reward_end)
        self._decoder: list[Decoder] = []  # in a list: a probe is no part of the model's parameters

    @property
    def num_actions(self) -> int:
        """How many actions there are; if they are vectors, of how many numbers."""
        return self.actions.size

    @property
    def decoder(self) -> Decoder | PixelEncoder | None:
        """What draws frames for people, if there is anything."""
        return self._decoder[0] if self._decoder else self.encoder.inverse

    def attach_decoder(self, decoder: Decoder) -> None:
        """Let ``decoder`` draw this model's frames."""
        self._decoder = [decoder]

    def encode(self, pixels: Tensor, share: Share = WHOLE) -> Tensor:
        """Return frames ``(..., C, H, W)`` of ``pixels`` (uint8 ``(..., 64, 64, 3)``), ``share`` of a batch."""
        return self._encode(self.encoder, pixels, share)

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
        if self.context_length > 1:
            _, memory = self.read(context.frames, context.actions)
        else:
            memory = self.reward_end.initial(len(context), context.frames.device)
        return ModelState(context.frames, context.actions, memory[0].float(), memory[1].float())

    @torch.no_grad()
    def advance(
        self, state: ModelState, actions: Tensor, noise: Noise, steps: int | None = None
    ) -> tuple[ModelState, Prediction]:
        """Imagine what ``actions`` lead to.

        Args:
            state: from :meth:`begin` or an earlier call.
            actions: int64 ``(B,)``, or float32 ``(B, A)``.
            noise: one stream a lane.
            steps: denoising steps; None: as the sampler's config says. A model without diffusion takes one pass.
        """
        all_actions = torch.cat((state.actions, actions[:, None]), dim=1)
        frame = self._imagine(state.frames, all_actions, noise, steps)
        newest = state.frames[:, None, -self.config.reward_end.frame_stack :].flatten(2, 3)
        logits, memory = self.reward_end(newest, actions[:, None], frame[:, None], (state.hidden, state.cell))
        reward_head, end_prob = self.reward_end.reward_head, logits.end[:, 0].softmax(dim=-1)[:, 1]
        # One uniform number for each of the two outcomes.
        reward = reward_head.draw(logits.reward[:, 0], noise.uniform())
        terminated = noise.uniform() < end_prob
        next_state = ModelState(
            frames=torch.cat((state.frames[:, 1:], frame[:, None]), dim=1),
            actions=all_actions[:, 1:],
            hidden=memory[0].float(),
            cell=memory[1].float(),
        )
        return next_state, Prediction(reward, terminated, reward_head.class_probs(logits.reward[:, 0]), end_prob)

    @torch.no_grad()
    def dreamed(self, frames: Tensor, segment: Segment, noise: Noise) -> Tensor:
        """Return ``frames`` of real play as the dream has them: imagined with the same actions, but the first K.

        Args:
            frames: ``(B, T+1, C, H, W)``, encoded.
            segment: what was done; where nothing happened, the real frame stays.
            noise: one stream a lane.
        """
        k, frames = self.context_length, frames.clone()
        for t in range(k, frames.shape[1]):
            frame = self._imagine(frames[:, t - k : t], segment.actions[:, t - k : t], noise)
            happened = segment.mask[:, t - 1, None, None, None]
            frames[:, t] = torch.where(happened, frame, frames[:, t])
        return frames

    def _imagine(self, frames: Tensor, actions: Tensor, noise: Noise, steps: int | None = None) -> Tensor:
        """Return what follows ``frames`` (B, K, C, H, W) and ``actions``, the newest included: ``(B, C, H, W)``."""
        sampler, pieces = self.config.sampler, self._pieces(frames)
        given = [self.denoiser.condition(frames[piece], actions[piece]) for piece in pieces]

        def estimate(x: Tensor, levels: Tensor) -> Tensor:
            parts = [
                self.denoiser.denoise(x[piece], levels[piece], known)
                for piece, known in zip(pieces, given, strict=True)
            ]
            return self.encoder.clamp(torch.cat(parts) if len(parts) > 1 else parts[0])

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return estimate(x, as_levels(sigma, x))

        if not self.denoiser.config.diffusion:
            return estimate(*self.denoiser.blank(frames[:, -1]))
        sigmas = karras_sigmas(steps or sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho)
        start = sampler.start_std * noise.normal(self.frame_shape)
        return sample(denoise, start, sigmas, sampler.order, sampler.churn, draw=lambda: noise.normal(self.frame_shape))

    def read(self, frames: Tensor, actions: Tensor) -> tuple[RewardEndLogits, tuple[Tensor, Tensor]]:
        """Return what the reward/termination model says of transitions in a row, and its memory of them.

        Args:
            frames: ``(B, T+1, C, H, W)``, lived through from the first.
            actions: ``(B, T)`` or ``(B, T, A)``, between them.
        """
        memory = self.reward_end.initial(len(frames), frames.device)
        before = stacked(frames[:, :-1], self.config.reward_end.frame_stack)
        return self.reward_end(before, actions, frames[:, 1:], memory)  # type: ignore[no-any-return]  # a Module

    def loss(
        self,
        frames: Tensor,
        segment: Segment,
        generator: torch.Generator,
        sequence: tuple[Tensor, Segment] | None = None,
        share: Share = WHOLE,
    ) -> Losses:
        """Return the joint loss of a batch of real play.

        The segment's length sets the number of autoregressive denoising steps: T - K + 1 (JEDI and DIAMOND: 2).

        Args:
            frames: ``encode(segment.pixels)``, ``(B, T+1, C, H, W)``; its graph is how the encoder learns.
            segment: the transitions.
            generator: on the frames' device.
            sequence: frames and transitions for the reward/termination model; None: the same.
            share: of the batch, if these lanes are not all of it; the losses are then its parts (but the covariance).

        Raises:
            UsageError: reconstruction shall teach the encoder, and no decoder is attached.
        """
        sequence = sequence or (frames, segment)
        reconstruction = share.part(self._reconstruction_loss(frames, segment))
        if self.config.separate_autoencoder:  # nothing below teaches the encoder
            frames, sequence = frames.detach(), (sequence[0].detach(), sequence[1])
        denoising = self.denoising_loss(frames, segment, generator, share)
        reward, end = self.reward_end_loss(*sequence, generator, share)
        covariance = denoising.new_zeros(())
        if self.config.covariance_weight > 0:
            covariance = covariance_penalty(share.gathered(frames.flatten(0, 1)))
        total = denoising + reward + end + reconstruction + self.config.covariance_weight * covariance
        return Losses(denoising, reward, end, reconstruction, covariance, total)

    def denoising_loss(
        self, frames: Tensor, segment: Segment, generator: torch.Generator, share: Share = WHOLE
    ) -> Tensor:
        """Return the denoiser's part of :meth:`loss`."""
        k = self.context_length
        context = frames if self.config.encoder_learns_from_denoising else frames.detach()
        targets, mask = self._targets(frames, segment, share)[:, k:], segment.mask[:, k - 1 :]
        actions = _windows(segment.actions, k)
        if not _coin(self.config.switching, generator):  # once a batch of trajectories
            loss, _ = self.denoiser.loss(targets, _windows(context[:, :-1], k), actions, mask, generator, share)
            return loss  # every context was known: all steps at once
        window, losses = context[:, :k], []
        steps = (x.split(1, dim=1) for x in (targets, actions, mask, context[:, k:]))
        for target, taken, happened, frame in zip(*steps, strict=True):
            loss, estimate = self.denoiser.loss(target, window[:, None], taken, happened, generator, share)
            losses.append(loss)
            # Where nothing really happened there is nothing to estimate: the repeated frame stays.
            newest = torch.where(happened[..., None, None, None], self.encoder.clamp(estimate), frame)
            window = torch.cat((window[:, 1:], newest), dim=1)
        return torch.stack(losses).mean()

    def _pieces(self, frames: Tensor) -> list[slice]:
        """Return which lanes of ``frames`` (B, ...) to denoise at once: on a CPU as many as its caches hold, else all.

        So memory does not grow with the lanes either. What is compiled stays whole: it would be compiled anew for every
        number of pieces.
        """
        if frames.device.type != "cpu" or torch.compiler.is_compiling():
            return [slice(None)]
        lanes, (_, height, width) = len(frames), self.frame_shape
        most = CACHED * torch.get_num_threads() // (self.config.denoiser.channels[0] * height * width)
        number = max(1, math.ceil(lanes / max(1, most)))
        size = max(1, math.ceil(lanes / number))  # pieces of about the same size
        return [slice(start, start + size) for start in range(0, lanes, size)] or [slice(None)]

    def _targets(self, frames: Tensor, segment: Segment, share: Share) -> Tensor:
        """Return what the denoiser learns to predict, ``(B, T+1, C, H, W)``; no gradient ever reaches it."""
        if self.target_encoder is None or not self.encoder.training:  # a frozen encoder has nothing to follow
            return frames
        with torch.no_grad():
            return self._encode(self.target_encoder, segment.pixels, share)

    def _reconstruction_loss(self, frames: Tensor, segment: Segment) -> Tensor:
        if not self.config.needs_decoder:
            return frames.new_zeros(())
        if not self._decoder:
            raise UsageError(
                "The encoder shall learn from reconstruction, but there is no decoder: call attach_decoder() first."
            )
        return self._decoder[0].reconstruction_loss(frames.flatten(0, 1), segment.pixels.flatten(0, 1))

    def _encode(self, encoder: Encoder, pixels: Tensor, share: Share) -> Tensor:
        lead = pixels.shape[:-3]
        frames: Tensor = encoder(pixels.reshape(-1, *pixels.shape[-3:]), share)
        return frames.reshape(*lead, *self.frame_shape)

    def reward_end_loss(
        self, frames: Tensor, segment: Segment, generator: torch.Generator, share: Share = WHOLE
    ) -> tuple[Tensor, Tensor]:
        """Return the two losses of the reward/termination model, its part of :meth:`loss`."""
        if self.config.reward_end.frame_noise > 0:
            frames = frames + self.config.reward_end.frame_noise * share.normal(frames.shape, generator)
        logits, _ = self.read(frames, segment.actions)
        return self.reward_end.loss(logits, segment.rewards, segment.terminated, segment.mask, share)


def _windows(x: Tensor, length: int) -> Tensor:
    """Return all runs of ``length`` in ``x`` (B, T, ...): ``(B, T - length + 1, length, ...)``."""
    return torch.stack([x[:, start : start + length] for start in range(x.shape[1] - length + 1)], dim=1)


def _coin(chance: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), device=generator.device, generator=generator) < chance)
