"""One noise stream a lane: counter-based random numbers, so that other lanes never change yours.

A ``torch.Generator`` hands out numbers in the order of asking, so a lane's noise would depend on how many lanes there
are and which of them were reset. Here a number is a pure function of (key of the lane, count of its steps, draw within
the step, element): SplitMix64 (Steele et al. 2014, doi 10.1145/2660193.2660195), computed for all lanes at once on the
model's device, with no state but two integers a lane.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number: SplitMix64's increment
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB
_DRAW = -2960836687545011639  # an odd constant that keeps the draws of one step apart


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign (torch has no unsigned 64-bit arithmetic)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """Return SplitMix64's scrambling of every int64 in ``z``."""
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def lane_keys(seeds: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return the stream key (int64) of each seed (taken modulo 2^64, no two of which share a stream).

    Equal seeds give equal streams wherever they stand.
    """
    wrapped = [(int(seed) + 2**63) % 2**64 - 2**63 for seed in seeds]
    return mix(torch.tensor(wrapped, dtype=torch.int64, device=device) + _GOLDEN)


class LaneNoise:
    """The noise of one step for all lanes; every call draws anew, the same calls give the same numbers.

    Args:
        key: int64 ``(B,)``, from :func:`lane_keys`.
        count: int64 ``(B,)``, which step of the lane's stream this is.
    """

    def __init__(self, key: Tensor, count: Tensor) -> None:
        self._place = mix(key + count * _GOLDEN)

    def _bits(self, size: int) -> Tensor:
        self._place = self._place + _DRAW  # as a tensor: it wraps around, and does not become a constant when compiled
        start = mix(self._place)
        steps = torch.arange(1, size + 1, device=start.device, dtype=torch.int64) * _GOLDEN
        return mix(start[:, None] + steps)

    def uniform(self) -> Tensor:
        """Return one float32 in [0, 1) a lane, ``(B,)``."""
        return _shift(self._bits(1)[:, 0], 40).float() * 2.0**-24

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal float32 noise ``(B, *shape)`` (Box-Muller, two numbers from 64 bits)."""
        size = math.prod(shape)
        bits = self._bits((size + 1) // 2)
        radius = (_shift(bits, 32).float() + 1.0).mul(2.0**-32).log().mul(-2.0).clamp(min=0.0).sqrt()
        angle = (bits & 0xFFFFFFFF).float() * (2.0 * math.pi * 2.0**-32)
        pairs = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)
        return pairs[:, :size].reshape(-1, *shape)
