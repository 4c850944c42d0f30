"""The denoiser: EDM preconditioning, the noise it learns from, and *the denoising loss*.

``D(z; sigma) = c_skip z + c_out F(c_in z, c_noise, context)``, with the coefficients of Karras et al. 2022 (arXiv
2206.00364, table 1) and, where offset noise is used, DIAMOND's effective noise level (arXiv 2405.12399 and its public
code). The same for latents and images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jedi_env.actions import Actions, as_actions
from jedi_env.errors import UsageError
from jedi_env.models.blocks import FourierFeatures, conv3x3, group_norm
from jedi_env.models.unet import UNet
from jedi_env.share import WHOLE, Share


@dataclass(frozen=True)
class DenoiserConfig:
    """The denoiser; defaults are JEDI's where the paper says, else DIAMOND's.

    Attributes:
        channels, depths, attention: of each U-Net level. One level of 160 channels and one block is JEDI's (4.33M
            parameters).
        middle_attention: self-attention in the two middle blocks.
        cond_channels: size of the vector made of noise level and actions; the K actions share it equally.
        sigma_data: standard deviation of the data that the preconditioning assumes. Not given by the paper: DIAMOND's.
        mean_log_sigma, std_log_sigma: the training noise levels are log-normal (the paper); the two values are
            DIAMOND's.
        sigma_low, sigma_high: the training noise levels are cut off here (DIAMOND's).
        offset_noise: standard deviation of noise common to a whole channel. Not given by the paper: DIAMOND's.
        diffusion: learn to denoise. False: predict the next frame in one pass by mean squared error, an ablation of the
            paper. That is denoising at ``sigma_high`` alone, and with nothing of the target in the input.
        context_noise: standard deviation of noise on the context in training, in units of ``sigma_data``. 0 in both
            papers; some makes a small model robust against its own errors.
    """

    channels: tuple[int, ...] = (160,)
    depths: tuple[int, ...] = (1,)
    attention: tuple[bool, ...] = (False,)
    middle_attention: bool = True
    cond_channels: int = 256
    sigma_data: float = 0.5
    mean_log_sigma: float = -0.4
    std_log_sigma: float = 1.2
    sigma_low: float = 2e-3
    sigma_high: float = 20.0
    offset_noise: float = 0.3
    diffusion: bool = True
    # ours
    context_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_low <= self.sigma_high:
            raise UsageError(
                f"sigma_low is {self.sigma_low} and sigma_high is {self.sigma_high}: write numbers above 0, the lower "
                "no more than the higher."
            )


class Coefficients(NamedTuple):
    """The functions of the noise level that precondition the network: ``(B, 1, 1, 1)``, but ``noise`` ``(B,)``."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


class Conditioning(NamedTuple):
    """What the context contributes to every denoising step of one frame, computed once.

    Attributes:
        features: the input convolution of the context frames, ``(B, C0, H, W)``.
        actions: the embedding of the K actions, ``(B, D)``.
    """

    features: Tensor
    actions: Tensor


class Denoiser(nn.Module):
    """Predicts a clean frame from a noisy one, the K frames before it and the K actions between.

    Args:
        frame_channels: C of a frame.
        context_length: K.
        actions: the game's; a number is so many discrete ones.
        config: the rest.
    """

    def __init__(
        self, frame_channels: int, context_length: int, actions: int | Actions, config: DenoiserConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.context_channels = frame_channels * context_length
        width, cond = config.channels[0], config.cond_channels
        share = math.lcm(2, context_length)  # half of it cosines, half sines; and the actions' embeddings side by side
        if cond % share:
            raise UsageError(
                f"cond_channels={cond} does not fit context_length={context_length}: it must be even, and the actions "
                f"share it equally. Write a multiple of {share}."
            )
        self.noise_features = FourierFeatures(cond)
        self.action_embedding = as_actions(actions).embedding(cond // context_length)
        self.condition_mlp = nn.Sequential(nn.Linear(cond, cond), nn.SiLU(), nn.Linear(cond, cond))
        self.conv_in = conv3x3(self.context_channels + frame_channels, width)
        self.unet = UNet(config.channels, config.depths, config.attention, config.middle_attention, cond)
        self.norm_out = group_norm(width)
        self.conv_out = conv3x3(width, frame_channels)
        nn.init.zeros_(self.conv_out.weight)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the preconditioning at noise levels ``sigma`` (B,)."""
        data = self.config.sigma_data
        sigma = (sigma.square() + self.config.offset_noise**2).sqrt()  # all the noise there is
        total = (sigma.square() + data**2).sqrt()
        skip, out, into = (data / total).square(), sigma * data / total, 1 / total
        skip, out, into = (c[:, None, None, None] for c in (skip, out, into))
        return Coefficients(skip, out, into, sigma.log() / 4)

    def condition(self, context: Tensor, actions: Tensor) -> Conditioning:
        """Digest the context: frames ``(B, K, C, H, W)`` and actions ``(B, K)`` or ``(B, K, A)``."""
        weight = self.conv_in.weight[:, : self.context_channels]
        x = (context.flatten(1, 2) / self.config.sigma_data).contiguous(memory_format=torch.channels_last)
        return Conditioning(
            features=F.conv2d(x, weight, self.conv_in.bias, padding=1),
            actions=self.action_embedding(actions).flatten(1),
        )

    def forward(self, scaled: Tensor, noise: Tensor, given: Conditioning) -> Tensor:
        """Return the raw network F of a scaled noisy frame (B C H W) at ``noise`` (B,)."""
        cond = self.condition_mlp(self.noise_features(noise) + given.actions)
        scaled = scaled.contiguous(memory_format=torch.channels_last)  # and so is all that follows
        x = F.conv2d(scaled, self.conv_in.weight[:, self.context_channels :], padding=1) + given.features
        x = self.unet(x, cond)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out.float()

    def denoise(self, noisy: Tensor, sigma: Tensor, given: Conditioning) -> Tensor:
        """Return the estimate D (unclamped) of the clean frame behind ``noisy`` (B C H W) at ``sigma`` (B,)."""
        c = self.coefficients(sigma)
        output: Tensor = self(c.into * noisy, c.noise, given)
        return c.skip * noisy + c.out * output

    def loss(
        self,
        target: Tensor,
        context: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: torch.Generator,
        share: Share = WHOLE,
    ) -> tuple[Tensor, Tensor]:
        """Return the denoising loss (eq. 8 of arXiv 2605.13013) and the detached estimates of the targets.

        ``E || F(c_in sg(z + sigma eps), Z) - (sg(z) - c_skip sg(z + sigma eps)) / c_out ||^2``. Target and noised input
        carry no gradient; the context does: what an encoder learns here, it learns through the context alone. It is the
        mean over steps of each step's mean over the lanes that count (0 where none does).

        Args:
            target: the true next frames of T steps, ``(B, T, C, H, W)``.
            context: the K frames before each, ``(B, T, K, C, H, W)``.
            actions: the K actions, ``(B, T, K)`` or ``(B, T, K, A)``.
            mask: bool ``(B, T)``, which lanes count in which step.
            generator: source of noise levels and noise.
            share: of the batch, if these lanes are not all of it; the loss is then its part.
        """
        target = target.detach()
        if self.config.diffusion:
            sigma = self._draw_sigma(target.shape[:2], generator, share)
            noisy = target + sigma[:, :, None, None, None] * share.normal(target.shape, generator)
            if self.config.offset_noise > 0:
                noisy = noisy + self.config.offset_noise * share.normal((*target.shape[:3], 1, 1), generator)
            noisy, sigma = noisy.flatten(0, 1), sigma.flatten()
        else:
            noisy, sigma = self.blank(target.flatten(0, 1))
        if self.config.context_noise > 0:
            level = self.config.context_noise * self.config.sigma_data
            context = context + level * share.normal(context.shape, generator)

        c = self.coefficients(sigma)
        output = self(c.into * noisy, c.noise, self.condition(context.flatten(0, 1), actions.flatten(0, 1)))
        error = (output - (target.flatten(0, 1) - c.skip * noisy) / c.out).square().mean(dim=(1, 2, 3))
        counted = error.reshape(mask.shape) * mask
        loss = (counted.sum(dim=0) / share.total(mask.sum(dim=0)).clamp(min=1)).mean()
        return loss, (c.skip * noisy + c.out * output).detach().reshape(target.shape)

    def blank(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fixed input of a prediction in one pass: zeros ``(B, C, H, W)`` at a noise level ``(B,)``."""
        return torch.zeros_like(like), torch.full(
            (len(like),), self.config.sigma_high, dtype=torch.float32, device=like.device
        )

    def _draw_sigma(self, shape: torch.Size, generator: torch.Generator, share: Share) -> Tensor:
        cfg = self.config
        log_sigma = cfg.mean_log_sigma + cfg.std_log_sigma * share.normal(shape, generator)
        return log_sigma.exp().clamp(cfg.sigma_low, cfg.sigma_high)
