"""The conditional U-Net over one frame: DIAMOND's layout; JEDI's is the same with a single level.

Each level has ``depth`` residual blocks on the way down and ``depth + 1`` on the way up, where every block also
sees the output of its twin; two blocks sit in the middle. Levels after the first halve the resolution.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jedi_env.models.blocks import ResBlock, conv3x3


class Downsample(nn.Module):
    """Halve height and width by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels, stride=2)
        nn.init.orthogonal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B C H/2 W/2)."""
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Double height and width by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B C 2H 2W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class UNet(nn.Module):
    """A U-Net of conditioned residual blocks.

    Args:
        channels: width of each level, from full resolution down.
        depths: residual blocks of each level.
        attention: whether each level's blocks attend.
        middle_attention: whether the two blocks in the middle attend.
        cond_channels: size D of the condition vector.
    """

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        attention: Sequence[bool],
        middle_attention: bool,
        cond_channels: int,
    ) -> None:
        super().__init__()
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        self.downsamples, self.upsamples = nn.ModuleList(), nn.ModuleList()
        for level, (width, depth, attend) in enumerate(zip(channels, depths, attention, strict=True)):
            before = channels[max(0, level - 1)]
            down = [(before if i == 0 else width, width) for i in range(depth)]
            up = [(2 * width, width)] * depth + [(before + width, before)]
            self.down_blocks.append(nn.ModuleList(ResBlock(a, b, cond_channels, attend) for a, b in down))
            self.up_blocks.insert(0, nn.ModuleList(ResBlock(a, b, cond_channels, attend) for a, b in up))
            self.downsamples.append(Downsample(before) if level > 0 else nn.Identity())
            # On the way up, level i enters through the resampling that leaves level i + 1.
            self.upsamples.insert(0, Upsample(width) if level < len(channels) - 1 else nn.Identity())
        self.middle = nn.ModuleList(
            ResBlock(channels[-1], channels[-1], cond_channels, middle_attention) for _ in range(2)
        )

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Return features (B C0 H W) for ``x`` (B C0 H W) under ``cond`` (B D); H and W divisible by 2^(levels-1)."""
        skips: list[list[Tensor]] = []
        for downsample, blocks in zip(self.downsamples, self.down_blocks, strict=True):
            x = downsample(x)
            outputs = [x]
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList
                x = block(x, cond)
                outputs.append(x)
            skips.append(outputs)
        for block in self.middle:
            x = block(x, cond)
        for upsample, blocks in zip(self.upsamples, self.up_blocks, strict=True):
            x = upsample(x)
            twins = skips.pop()
            for block in blocks:  # type: ignore[attr-defined]
                x = block(torch.cat((x, twins.pop()), dim=1), cond)
        return x
