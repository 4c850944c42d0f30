"""The two encoders: pixels -> frame, and the clamp that puts an imagined frame back onto the valid set.

``LatentEncoder`` is JEDI's (arXiv 2605.13013, section 3): a small convolutional net whose output is bounded by
``3 tanh(z/3)``.
``PixelEncoder`` is DIAMOND's: the rescaled image itself. This file is the only place where pixels are scaled, and the
only one that knows which of the two papers a model follows. It is not the agent's network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from jedi_env.errors import UsageError
from jedi_env.models.blocks import PlainResBlock, conv3x3
from jedi_env.share import WHOLE, Share

PIXELS_SHAPE = (64, 64, 3)


@dataclass(frozen=True)
class LatentEncoderConfig:
    """JEDI's encoder; the defaults are the paper's where it says, and the fields below the line are our options.

    Attributes:
        channels: width of each stage; the last is the number of latent channels.
        down: which stages halve the resolution (64 -> 8 with three).
        bound: half the range of a latent: z is in [-bound, bound].
        clamp: keep latents and the denoiser's estimates in that range. False: an ablation of the paper.
        clamp_estimate: bound the denoiser's estimate by tanh, as the paper does. False: cut it off at the bound
            instead, which leaves values inside the range as they are (tanh shrinks them at every step).
        patch: side of the pixel patches that the stem turns into channels before the first stage. 1 is the paper;
            4 costs 13 times less on a CPU, where the stages at full resolution dominate an update.
        lossless_pool: halve by moving 2x2 neighbours into channels rather than by max-pooling, which may drop a ball.
        centre: subtract the mean image of the data, so that a static background does not fill the latent.
        standardise: scale every latent element to unit variance over the data; without it small encoders collapse.
        scale: the standard deviation after ``standardise`` (match the denoiser's ``sigma_data``).
    """

    channels: tuple[int, ...] = (32, 32, 32, 16)
    down: tuple[bool, ...] = (True, True, True, False)
    bound: float = 3.0
    clamp: bool = True
    # ours
    clamp_estimate: bool = True
    patch: int = 1
    lossless_pool: bool = False
    centre: bool = False
    standardise: bool = False
    scale: float = 0.5

    def __post_init__(self) -> None:
        for name in ("bound", "scale"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UsageError(f"The encoder's {name} is {value}: write a number above 0.")


@dataclass(frozen=True)
class PixelEncoderConfig:
    """DIAMOND's frame: the image in [-1, 1]; nothing to learn.

    Attributes:
        quantise: round an imagined frame to the 256 levels that a real one has.
    """

    quantise: bool = True


def _standard_deviation_floor() -> float:
    # Raw latents of a young encoder move by about 0.01: a floor near that would silently shrink them.
    return 1e-3


class LatentEncoder(nn.Module):
    """Pixels -> bounded latent frame of shape ``frame_shape`` (16, 8, 8 by default)."""

    inverse = None  # nothing draws a latent but a probe that was trained to
    mean_image: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: LatentEncoderConfig) -> None:
        super().__init__()
        self.config = config
        height, width, depth = PIXELS_SHAPE
        side = height // config.patch // 2 ** sum(config.down)
        self.frame_shape = (config.channels[-1], side, side)
        self.bound = config.bound if config.clamp else math.inf
        before = config.channels[0]
        layers: list[nn.Module] = [conv3x3(depth * config.patch**2, before)]
        for channels, down in zip(config.channels, config.down, strict=True):
            layers.append(PlainResBlock(before, channels))
            before = channels
            if down and config.lossless_pool:
                layers.append(nn.PixelUnshuffle(2))
                before = 4 * channels
            elif down:
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.register_buffer("mean_image", torch.zeros(depth, height, width))
        self.register_buffer("latent_mean", torch.zeros(self.frame_shape))
        self.register_buffer("latent_std", torch.ones(self.frame_shape))

    def forward(self, pixels: Tensor, share: Share = WHOLE) -> Tensor:
        """Return frames (B C H W) in [-bound, bound] of ``pixels`` (uint8 B 64 64 3).

        In training mode with ``standardise`` the statistics are the batch's; in evaluation mode those of
        :meth:`calibrate`, so that one frame's latent never depends on its neighbours.
        """
        z = self._features(pixels)
        if self.config.standardise:
            if self.training:
                std, mean = share.std_mean(z)
            else:
                std, mean = self.latent_std, self.latent_mean
            z = (z - mean) / (std + _standard_deviation_floor()) * self.config.scale
        return self.config.bound * torch.tanh(z / self.config.bound) if self.config.clamp else z

    def clamp(self, frame: Tensor) -> Tensor:
        """Put an imagined frame back into the range of latents."""
        bound = self.config.bound
        if not self.config.clamp:
            return frame
        return bound * torch.tanh(frame / bound) if self.config.clamp_estimate else frame.clamp(-bound, bound)

    def _features(self, pixels: Tensor) -> Tensor:
        x = _patches(pixels, self.config.patch).to(self.mean_image.dtype).div(255)
        if self.config.centre:
            x = x - _patches(self.mean_image.movedim(0, -1)[None], self.config.patch)
        out: Tensor = self.layers(x)
        return out.float()

    @torch.no_grad()
    def set_mean_image(self, pixels: Tensor) -> None:
        """Take the mean image of ``pixels`` (uint8 B 64 64 3) as what ``centre`` subtracts."""
        self.mean_image.copy_(pixels.float().mean(dim=0).movedim(-1, -3) / 255)

    @torch.no_grad()
    def calibrate(self, pixels: Tensor, chunk: int = 256) -> None:
        """Measure the latent statistics on ``pixels`` (uint8 B 64 64 3): what evaluation mode standardises with."""
        features = torch.cat([self._features(pixels[i : i + chunk]) for i in range(0, len(pixels), chunk)])
        std, mean = torch.std_mean(features, dim=0, correction=0)
        self.latent_std.copy_(std)
        self.latent_mean.copy_(mean)


class PixelEncoder(nn.Module):
    """Pixels -> the image as a frame in [-1, 1], and back."""

    def __init__(self, config: PixelEncoderConfig) -> None:
        super().__init__()
        self.config = config
        height, width, depth = PIXELS_SHAPE
        self.frame_shape = (depth, height, width)
        self.bound = 1.0

    def forward(self, pixels: Tensor, share: Share = WHOLE) -> Tensor:
        """Return frames (B 3 64 64) of ``pixels`` (uint8 B 64 64 3)."""
        return pixels.movedim(-1, -3).float().div(255).mul(2).sub(1)

    def clamp(self, frame: Tensor) -> Tensor:
        """Cut off at [-1, 1] and round down to one of 256 levels, as DIAMOND does."""
        frame = frame.clamp(-1, 1)
        return frame.add(1).mul(127.5).floor().div(127.5).sub(1) if self.config.quantise else frame

    @property
    def inverse(self) -> Self:
        """What draws a frame: this encoder itself."""
        return self

    def decode(self, frame: Tensor) -> Tensor:
        """Return the pixels (uint8 B 64 64 3) that a frame (B 3 64 64) shows."""
        return frame.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).movedim(-3, -1)

    def set_mean_image(self, pixels: Tensor) -> None:
        """Do nothing: an image is its own frame."""

    def calibrate(self, pixels: Tensor) -> None:
        """Do nothing: an image is its own frame."""


def _patches(image: Tensor, side: int) -> Tensor:
    """Return ``image`` (B H W C) with its ``side`` x ``side`` patches in the channels: (B, C side^2, H/side, W/side).

    Rearranged while the pixels are still bytes, and into channels-last memory, which is what convolutions like.
    """
    b, h, w, c = image.shape
    x = image.reshape(b, h // side, side, w // side, side, c).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(b, h // side, w // side, c * side**2).movedim(-1, 1)


Encoder = LatentEncoder | PixelEncoder
EncoderConfig = LatentEncoderConfig | PixelEncoderConfig


def make_encoder(config: EncoderConfig) -> Encoder:
    """Return the encoder that ``config`` describes."""
    return LatentEncoder(config) if isinstance(config, LatentEncoderConfig) else PixelEncoder(config)
