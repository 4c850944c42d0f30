"""What a linear probe reads of the game's own numbers (after Anand et al. 2019, arXiv 1906.08226).

It is fitted on encoded real frames and then read from dreamed ones too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jedi_env.errors import UsageError
from jedi_env.metrics.side_by_side import SideBySide

FOLDS = 5  # of the probe's groups: its penalty is chosen by cross-validation
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-8, 7))  # relative to inputs of unit variance


@dataclass(frozen=True)
class Probe:
    """Linear readings of V numbers from a frame.

    Attributes:
        names: of the numbers.
        weights: float ``(D, V)``, of the flattened frame.
        biases: float ``(V,)``.
        penalties: the ridge penalty that each number's validation chose.
    """

    names: tuple[str, ...]
    weights: Tensor
    biases: Tensor
    penalties: tuple[float, ...]

    def read(self, frames: Tensor) -> Tensor:
        """Return the readings ``(..., V)``, float64, of ``frames`` (..., C, H, W)."""
        return frames.flatten(-3).to(self.weights) @ self.weights + self.biases


@dataclass(frozen=True)
class ProbeReading:
    """What a linear probe, fitted on other episodes' encoded frames, reads of one number at one horizon.

    Attributes:
        name: of the number.
        horizon: k.
        lanes: in which the number is there at frame k.
        r2: of the reading from the dreamed frame; None if the number does not vary.
        error: its mean absolute error, in units of the number. All errors are None without lanes.
        r2_encoded, error_encoded: the same from the encoded real frame of the same lanes: what the latent holds.
        error_still: of the reading from the last frame of the context: as if nothing moved.
    """

    name: str
    horizon: int
    lanes: int
    r2: float | None
    error: float | None
    r2_encoded: float | None
    error_encoded: float | None
    error_still: float | None


@torch.no_grad()
def fit_probe(names: Sequence[str], frames: Tensor, numbers: Tensor, groups: Tensor) -> Probe:
    """Fit a linear probe by ridge regression in closed form.

    Inputs are standardised. The penalty of each number is the one with the least squared error on frames of groups that
    it was not fitted on, over :data:`FOLDS` folds of neighbouring groups; then everything is fitted with it. (One
    fixed part of the groups to choose on was seen to choose ten times too little, where it lacked a rare screen.)

    Args:
        names: of the V numbers.
        frames: ``(N, C, H, W)``, encoded.
        numbers: float ``(N, V)``; NaN: not there, and the frame is left out for that number.
        groups: int64 ``(N,)``: frames of one group (a game) are never on both sides of the validation.

    Raises:
        UsageError: a number is there in fewer than two groups.
    """
    x, y = frames.flatten(1).double().cpu(), numbers.double().cpu()
    groups = groups.cpu()
    weights = torch.zeros(x.shape[1], len(names), dtype=torch.float64)
    biases, penalties = torch.zeros(len(names), dtype=torch.float64), [0.0] * len(names)
    present = ~y.isnan()
    for together in _equal_columns(present):  # numbers that share their frames share the decompositions
        rows = present[:, together[0]]
        apart = torch.unique(groups[rows])
        if len(apart) < 2:
            raise UsageError(
                f"{names[together[0]]} is there in {len(apart)} groups of the probe's play, but two are needed, to fit "
                "and to choose the penalty on: give more play."
            )
        inputs, targets, member = x[rows], y[rows][:, together], groups[rows]
        errors = torch.zeros(len(PENALTIES), len(together), dtype=torch.float64)
        for held in apart.tensor_split(min(FOLDS, len(apart))):
            validates = torch.isin(member, held)
            for i, (w, b) in enumerate(_ridge(inputs[~validates], targets[~validates], PENALTIES)):
                errors[i] += (inputs[validates] @ w + b - targets[validates]).square().sum(dim=0)
        best = errors.argmin(dim=0).tolist()
        final = _ridge(inputs, targets, PENALTIES)
        for column, (number, choice) in enumerate(zip(together, best, strict=True)):
            weights[:, number], biases[number] = final[choice][0][:, column], final[choice][1][column]
            penalties[number] = PENALTIES[choice]
    return Probe(tuple(names), weights, biases, tuple(penalties))


def probe_readings(
    sides: SideBySide, probe: Probe, numbers: Tensor, horizons: Sequence[int]
) -> tuple[ProbeReading, ...]:
    """Return what ``probe`` reads of every number at each of ``horizons``.

    Args:
        sides: real and dreamed play of episodes that the probe was not fitted on.
        probe: from :func:`fit_probe`.
        numbers: float ``(B, H+1, V)``, the truth at frames 0 to H; NaN: not there.
        horizons: which to read at.
    """
    start, _ = sides.at(0)
    still = probe.read(start.cpu())
    rows: dict[str, list[ProbeReading]] = {name: [] for name in probe.names}
    for k in horizons:
        real, dreamed = (probe.read(frames.cpu()) for frames in sides.at(k))
        for v, name in enumerate(probe.names):
            truth = numbers[:, k, v].double().cpu()
            there = sides.valid[:, k].cpu() & ~truth.isnan()
            y = truth[there]
            r2, error = _goodness(dreamed[there, v], y)
            r2_encoded, error_encoded = _goodness(real[there, v], y)
            _, error_still = _goodness(still[there, v], y)
            rows[name].append(ProbeReading(name, k, len(y), r2, error, r2_encoded, error_encoded, error_still))
    return tuple(row for name in probe.names for row in rows[name])


def _goodness(reading: Tensor, truth: Tensor) -> tuple[float | None, float | None]:
    """Return R2 and mean absolute error of ``reading`` (N,)."""
    if len(truth) == 0:
        return None, None
    varies = float((truth - truth.mean()).square().sum())
    missed = float((reading - truth).square().sum())
    return (1 - missed / varies if varies else None), float((reading - truth).abs().mean())


def _equal_columns(present: Tensor) -> list[list[int]]:
    """Return the columns of the bool matrix, those that are equal together."""
    alike: dict[bytes, list[int]] = {}
    for column in range(present.shape[1]):
        alike.setdefault(present[:, column].numpy().tobytes(), []).append(column)
    return list(alike.values())


def _ridge(x: Tensor, y: Tensor, penalties: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Return weights ``(D, V)`` and biases ``(V,)`` for each penalty, from one eigendecomposition.

    The least of ``mean |standardised x @ w + b - y|^2 + penalty |w|^2``; by the Gram matrix of the rows where they are
    fewer than the columns.
    """
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)  # an element that never changes says nothing
    z, centre = (x - mean) / deviation, y.mean(dim=0)
    n, d = z.shape
    if n >= d:
        values, vectors = torch.linalg.eigh(z.T @ z / n)
        shared, back = vectors.T @ (z.T @ (y - centre) / n), vectors
    else:
        values, vectors = torch.linalg.eigh(z @ z.T / n)
        shared, back = vectors.T @ (y - centre) / n, z.T @ vectors
    fitted = []
    for penalty in penalties:
        weights = back @ (shared / (values.clamp(min=0) + penalty)[:, None]) / deviation[:, None]
        fitted.append((weights, centre - mean @ weights))
    return fitted
