"""A decoder probe: latent -> pixels, for people to look at.

It is trained on detached latents and feeds no gradient back: JEDI has no reconstruction loss (arXiv 2605.13013), and
what this decoder cannot draw, the latent does not clearly hold. Two ablations of the paper let its loss teach the
encoder after all: :meth:`Decoder.reconstruction_loss`. It is no part of the world model's state or of any policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jedi_env.models.blocks import PlainResBlock, conv3x3


@dataclass(frozen=True)
class DecoderConfig:
    """The probe's size.

    Attributes:
        channels: width at the latent's resolution.
        blocks: residual blocks at that resolution.
        motion_weight: how many times more a pixel counts whose colour is far from the mean image: a ball is 4 pixels
            of 4096.
    """

    channels: int = 96
    blocks: int = 3
    motion_weight: float = 20.0


class Decoder(nn.Module):
    """Frame (B C H W) -> pixels (uint8 B 64 64 3).

    Args:
        frame_shape: (C, H, W) of a latent frame.
        config: the rest.
    """

    mean_image: Tensor

    def __init__(self, frame_shape: tuple[int, int, int], config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, height, _ = frame_shape
        factor = 64 // height
        self.layers = nn.Sequential(
            conv3x3(channels, config.channels),
            *(PlainResBlock(config.channels, config.channels) for _ in range(config.blocks)),
            nn.SiLU(),
            conv3x3(config.channels, 3 * factor**2),
            nn.PixelShuffle(factor),
        )
        self.register_buffer("mean_image", torch.zeros(3, 64, 64))

    def forward(self, frames: Tensor) -> Tensor:
        """Return the image (float B 3 64 64, about [0, 1]) behind ``frames``; no gradient reaches them."""
        return self._draw(frames.detach())

    def decode(self, frames: Tensor) -> Tensor:
        """Return the pixels (uint8 B 64 64 3) behind ``frames`` (B C H W)."""
        image: Tensor = self(frames)
        return image.clamp(0, 1).mul(255).round().to(torch.uint8).movedim(-3, -1)

    @torch.no_grad()
    def set_mean_image(self, pixels: Tensor) -> None:
        """Start from the mean of ``pixels`` (uint8 B 64 64 3), so that only what differs needs learning."""
        self.mean_image.copy_(pixels.float().mean(dim=0).movedim(-1, -3) / 255)

    def loss(self, frames: Tensor, pixels: Tensor) -> Tensor:
        """Return the weighted squared error of the image against ``pixels`` (uint8 B 64 64 3)."""
        return self._error(self(frames), pixels)

    def reconstruction_loss(self, frames: Tensor, pixels: Tensor) -> Tensor:
        """Return the same number as :meth:`loss`, with a gradient that reaches ``frames``: for the ablations."""
        return self._error(self._draw(frames), pixels)

    def _draw(self, frames: Tensor) -> Tensor:
        out: Tensor = self.layers(frames.contiguous(memory_format=torch.channels_last))
        return out.float() + self.mean_image

    def _error(self, drawn: Tensor, pixels: Tensor) -> Tensor:
        image = pixels.movedim(-1, -3).float() / 255
        unusual = (image - self.mean_image).abs().amax(dim=1, keepdim=True).clamp(max=1)
        weight = 1 + self.config.motion_weight * unusual
        return (weight * F.mse_loss(drawn, image, reduction="none")).mean()
