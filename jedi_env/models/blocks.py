"""Building blocks of the networks: convolutions, (adaptive) group norm, attention, embeddings.

The layers are those of DIAMOND (arXiv 2405.12399, appendix A and its public code), which JEDI keeps: groups of 32
channels, AdaGN conditioning, zero-initialised last layers. Nothing here knows of noise levels, time or games.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP_SIZE = 32  # channels a group of a GroupNorm, as in DIAMOND
NORM_EPS = 1e-5
HEAD_CHANNELS = 8  # channels an attention head, as in DIAMOND
# Up to here attention is computed as it is written: heads of 8 channels are too thin for the fused kernels to win, and
# the matrix of weights is small.
FEW_POSITIONS = 256


def num_groups(channels: int) -> int:
    """Return how many groups a GroupNorm over ``channels`` has (at least one)."""
    return max(1, channels // GROUP_SIZE)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size (or halves it with ``stride=2``)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a convolution that mixes channels only."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm with the project's group size."""
    return nn.GroupNorm(num_groups(channels), channels, eps=NORM_EPS)


class AdaGroupNorm(nn.Module):
    """Group normalisation whose scale and shift are a linear function of a condition vector (AdaGN)."""

    def __init__(self, channels: int, cond_channels: int) -> None:
        super().__init__()
        self.groups = num_groups(channels)
        self.linear = nn.Linear(cond_channels, 2 * channels)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Normalise ``x`` (B C H W) and modulate it by ``cond`` (B D)."""
        scale, shift = self.linear(cond)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, F.group_norm(x, self.groups, eps=NORM_EPS), 1 + scale)


class SelfAttention(nn.Module):
    """Self-attention over the positions of a frame, added to the *normalised* frame; starts as the norm alone.

    A residual block would add to the frame itself. DIAMOND's public code adds to what its norm returns, and so its
    published weights mean this.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_CHANNELS)
        self.norm = group_norm(channels)
        self.qkv = conv1x1(channels, 3 * channels)
        self.out = conv1x1(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]  # a Conv2d with bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised ``x`` (B C H W) plus what its positions tell each other."""
        b, c, h, w = x.shape
        x = self.norm(x)
        qkv = self.qkv(x).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(dim=1)
        if h * w <= FEW_POSITIONS:
            y = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.out(y.transpose(-1, -2).reshape(b, c, h, w))
        return out


class ResBlock(nn.Module):
    """Two AdaGN-SiLU-convolution layers around a skip, then optional attention; the second layer starts at zero."""

    def __init__(self, in_channels: int, out_channels: int, cond_channels: int, attention: bool) -> None:
        super().__init__()
        self.skip = conv1x1(in_channels, out_channels) if in_channels != out_channels else nn.Identity()
        self.norm1 = AdaGroupNorm(in_channels, cond_channels)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = AdaGroupNorm(out_channels, cond_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.attention = SelfAttention(out_channels) if attention else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Return the block's output (B C' H W) for ``x`` (B C H W) under ``cond`` (B D)."""
        y = self.conv1(F.silu(self.norm1(x, cond)))
        y = self.conv2(F.silu(self.norm2(y, cond)))
        out: Tensor = self.attention(self.skip(x) + y)
        return out


class PlainResBlock(nn.Module):
    """One GroupNorm-SiLU-convolution layer around a skip, unconditioned: what encoders and policies are made of."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = group_norm(in_channels)
        self.conv = conv3x3(in_channels, out_channels)
        self.skip = conv1x1(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output (B C' H W) for ``x`` (B C H W)."""
        out: Tensor = self.skip(x) + self.conv(F.silu(self.norm(x)))
        return out


def plain_stages(in_channels: int, channels: Sequence[int], down: Sequence[bool]) -> nn.Sequential:
    """Return a convolution and one :class:`PlainResBlock` a stage, each followed by a 2x2 max-pool where ``down``."""
    layers: list[nn.Module] = [conv3x3(in_channels, channels[0])]
    for before, after, pool in zip((channels[0], *channels[:-1]), channels, down, strict=True):
        layers.append(PlainResBlock(before, after))
        if pool:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class FourierFeatures(nn.Module):
    """Random Fourier features of a scalar: the embedding of the noise level."""

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(1, channels // 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, channels) of ``x`` (B,)."""
        angle = 2 * math.pi * x[:, None] * self.weight  # no matrix product, which autocast would round
        return torch.cat((angle.cos(), angle.sin()), dim=-1)


def init_lstm(lstm: nn.LSTM | nn.LSTMCell) -> None:
    """Initialise an LSTM: Xavier inputs, orthogonal recurrence, zero biases but a forget gate that starts open."""
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):
                quarter = parameter.shape[0] // 4
                with torch.no_grad():
                    parameter[quarter : 2 * quarter].fill_(1.0)
