"""The share of a batch that one process has, and what of a loss its other shares must know.

The losses of the parts of a batch do not add up to the loss of the batch wherever it divides by a count, standardises
by the batch's statistics, or compares its samples; and noise that is drawn for a part is not that of the whole. Those
few places ask a :class:`Share`. It knows of no processes: what several of them agree on is in ``trainers``.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Share:
    """All of the batch, where there is one process; those of several override every method.

    The gradients of all shares' losses add up to the gradient of the whole batch's.

    Attributes:
        span: which of the batch's samples are this share's.
    """

    span = slice(None)

    def normal(self, shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
        """Return standard normal noise of ``shape`` (B ...): a sample's is the same whatever share it is in."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def padded(self, x: Tensor) -> Tensor:
        """Return ``x`` (B ...) as rows of the whole batch, zeros in the others: to draw from as if it were there."""
        return x

    def part(self, mean: Tensor) -> Tensor:
        """Return what a mean over this share's samples adds to the mean over all."""
        return mean

    def total(self, x: Tensor) -> Tensor:
        """Return ``x`` summed over the shares; it has no gradient."""
        return x.detach()

    def std_mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return standard deviation (by N) and mean of ``x`` (N ...) over all shares' rows, with gradient."""
        return torch.std_mean(x, dim=0, correction=0)

    def gathered(self, x: Tensor) -> Tensor:
        """Return all shares' rows of ``x`` (N ...); only this share's own have gradient."""
        return x


WHOLE = Share()
