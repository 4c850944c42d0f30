"""How a set of frames is spread over its dimensions: the effective rank, and the covariance penalty of the loss.

Both are statistics of any frames, encoded or dreamed; which frames, and what weight, is their callers'.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def effective_rank(frames: Tensor) -> Tensor:
    """Return how many dimensions the latents ``(N, C, H, W)`` really use.

    The exponential of the entropy of the covariance's normalised eigenvalues (Roy and Vetterli 2007): from 1
    (collapsed) to ``min(N - 1, C H W)``.
    """
    x = frames.flatten(1).float()
    eigenvalues = torch.linalg.svdvals(x - x.mean(dim=0)).square()
    p = eigenvalues / eigenvalues.sum().clamp(min=1e-12)
    entropy: Tensor = torch.special.entr(p).sum()
    return entropy.exp()


def covariance_penalty(frames: Tensor) -> Tensor:
    """Return the mean squared off-diagonal covariance a latent element of ``frames`` (N, C, H, W).

    VICReg's covariance term (Bardes et al. 2022, arXiv 2105.04906), by the Gram matrix, which for N samples much fewer
    than elements is nearly free.
    """
    x = frames.flatten(1)
    x = x - x.mean(dim=0)
    n, elements = x.shape
    gram = F.linear(x, x) / (n - 1)
    variances = x.square().sum(dim=0) / (n - 1)
    return (gram.square().sum() - variances.square().sum()) / elements
