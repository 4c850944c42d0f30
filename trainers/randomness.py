"""Where a run's randomness comes from: a pure function of (seed, epoch, purpose).

So a resumed run draws what an uninterrupted one does, and no phase shifts another's numbers.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What is drawn; each has a stream of its own. Never renumber: runs under way depend on it."""

    INIT = 0
    COLLECT = 1
    WORLD_MODEL = 2
    AGENT = 3
    EVALUATE = 4
    CONTEXTS = 5


def numpy_rng(seed: int, epoch: int, purpose: Purpose) -> np.random.Generator:
    """Return the NumPy generator of one purpose in one epoch."""
    return np.random.default_rng((seed, epoch, int(purpose)))


def torch_rng(seed: int, epoch: int, purpose: Purpose, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the torch generator of one purpose in one epoch, on ``device``."""
    state = np.random.SeedSequence((seed, epoch, int(purpose))).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
