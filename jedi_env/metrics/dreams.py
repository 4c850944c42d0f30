"""How far a dream can be trusted: tables of what reality and the dream show side by side.

Frame errors against two baselines, confusion of rewards and ends, the readings of a probe, spread and rank of the
latents, and the horizon up to which the dream beats a still picture. Pure computation: it knows nothing of models,
emulators, agents, files or pictures. Horizons are those of :mod:`jedi_env.metrics.side_by_side`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jedi_env.errors import UsageError
from jedi_env.metrics.probe import Probe, ProbeReading, probe_readings
from jedi_env.metrics.scores import COVERAGE, Interval
from jedi_env.metrics.side_by_side import SideBySide
from jedi_env.models.spread import effective_rank

LEAST_LANES = 16  # with fewer real episodes left at a horizon, nothing there is called trusted


@dataclass(frozen=True)
class FrameErrors:
    """Squared error a frame element at one horizon.

    Attributes:
        horizon: k.
        lanes: real episodes that lasted so long.
        dream: of the dreamed frame; the other two are the baselines. All three None without lanes.
        copy: of the last frame of the context.
        random: of the last context frame of another segment, drawn at random.
        against_copy: ``dream / copy`` with its 95% interval; None where copying makes no error, or
            without lanes of two groups at least.
        against_random: ``dream / random``, likewise.
    """

    horizon: int
    lanes: int
    dream: float | None
    copy: float | None
    random: float | None
    against_copy: Interval | None
    against_random: Interval | None


@dataclass(frozen=True)
class Spread:
    """How much the frames at one horizon differ from lane to lane; None with fewer than two lanes.

    Attributes:
        horizon: k.
        lanes: how many; the rank is at most one less.
        std_real, std_dreamed: root of the mean variance of a frame element over the lanes.
        rank_real, rank_dreamed: effective rank.
    """

    horizon: int
    lanes: int
    std_real: float | None
    std_dreamed: float | None
    rank_real: float | None
    rank_dreamed: float | None


@dataclass(frozen=True)
class Confusion:
    """What was predicted where something really came; index 0, 1, 2 is the reward -1, 0, 1, or 0, 1 no end, end.

    Attributes:
        counts: ``counts[real][predicted]`` transitions; predicted is the likeliest class.
        probabilities: ``probabilities[real][predicted]``: mean probability, which is how often a dream, that draws,
            shows the class; None where no such transition was measured.
        recall: share of a real class that was predicted.
        precision: share of the predictions of a class that were right, *at the rates of the held-out play*.
        false_alarm: share of the other classes' transitions at which the class was predicted, at those rates too.
    """

    counts: tuple[tuple[int, ...], ...]
    probabilities: tuple[tuple[float, ...] | None, ...]
    recall: tuple[float | None, ...]
    precision: tuple[float | None, ...]
    false_alarm: tuple[float | None, ...]


@dataclass(frozen=True)
class Events:
    """Rewards and ends at one horizon, and their balance on the uniformly drawn lanes.

    Attributes:
        horizon: the transition k of the dream; 0: read from real frames, all transitions of all lanes. A reward model
            that does not see the next frame (``reward_end.sees_next``) reads the k - 1 dreamed before, and at 1 none.
        reward, end: the two confusions.
        real_reward: mean sign of the real rewards on the uniformly drawn lanes; the next three likewise.
        dreamed_reward: mean of what the dream is expected to pay there.
        real_end: share of transitions that ended the episode.
        dreamed_end: mean probability of an end.
    """

    horizon: int
    reward: Confusion
    end: Confusion
    real_reward: float | None
    dreamed_reward: float | None
    real_end: float | None
    dreamed_end: float | None


@dataclass(frozen=True)
class Measurement:
    """All that is measured of a dream on held-out play, a row a horizon.

    Attributes:
        trusted_horizon: see :func:`trusted_horizon`; the longest one measured is a lower bound.
        horizons: those measured, ascending, from 0.
        frames, spread, events: the tables.
        probes: a row a number and horizon; empty if no numbers were given.
    """

    trusted_horizon: int
    horizons: tuple[int, ...]
    frames: tuple[FrameErrors, ...]
    spread: tuple[Spread, ...]
    events: tuple[Events, ...]
    probes: tuple[ProbeReading, ...]


def measure(
    uniform: SideBySide,
    centred: SideBySide | None,
    *,
    horizons: Sequence[int],
    groups: Tensor,
    reward_rates: Sequence[float],
    end_rates: Sequence[float],
    probe: Probe | None = None,
    numbers: Tensor | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Measurement:
    """Return all tables.

    Args:
        uniform: lanes whose starts were drawn uniformly from held-out play.
        centred: lanes drawn around events; they only add to the rows of rewards and ends (never to those of "nothing
            happened", which must stay typical).
        horizons: which to measure; 0 is always measured.
        groups: int64 ``(B,)``: lanes of one group are not independent, so the bootstrap draws whole groups.
        reward_rates: how frequent the signs -1, 0, 1 are in held-out play.
        end_rates: how frequent no end and end are.
        probe: reads the numbers; None: there are none to read.
        numbers: float ``(B, H+1, V)``, what they really are at frames 0 to H of ``uniform``; NaN: not there.
        seed: of the bootstrap and of the random frames.
        resamples: of the bootstrap.

    Raises:
        UsageError: a horizon is out of range, there are fewer than two lanes, or a probe without numbers.
    """
    wanted = tuple(sorted({0, *horizons}))
    if wanted[0] < 0 or wanted[-1] > uniform.horizon:
        raise UsageError(f"The horizons are {wanted}, but must be from 0 to {uniform.horizon}, the steps dreamed.")
    frames = frame_errors(uniform, wanted[1:], groups, seed, resamples)
    readings: tuple[ProbeReading, ...] = ()
    if probe is not None:
        if numbers is None:
            raise UsageError("There is a probe, but nothing to compare its readings with: give numbers= too.")
        readings = probe_readings(uniform, probe, numbers, wanted)
    return Measurement(
        trusted_horizon=trusted_horizon(frames),
        horizons=wanted,
        frames=frames,
        spread=tuple(_spread(uniform, k) for k in wanted),
        events=tuple(_events(uniform, centred, k, reward_rates, end_rates) for k in wanted),
        probes=readings,
    )


def frame_errors(
    sides: SideBySide, horizons: Sequence[int], groups: Tensor, seed: int = 0, resamples: int = 1000
) -> tuple[FrameErrors, ...]:
    """Return the frame errors at each of ``horizons``, with intervals from a bootstrap over ``groups`` (B,).

    The ratio is of means over the lanes, not a mean of ratios, which a lane that stands still would rule.
    """
    if len(sides) < 2:
        raise UsageError("A random other segment is compared with: give at least two lanes.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(sides), generator=generator)
    other = torch.empty_like(order)
    other[order] = order.roll(1)  # one cycle: nobody is compared with themselves
    start, _ = sides.at(0)
    stranger = start[other.to(start.device)]
    rows = []
    for k in horizons:
        real, dreamed = sides.at(k)
        valid = sides.valid[:, k].cpu()
        errors = torch.stack([_squared_error(guess, real) for guess in (dreamed, start, stranger)], dim=1)[valid]
        dream, copy, random = errors.mean(dim=0).tolist() if len(errors) else (None, None, None)
        against_copy, against_random = (
            _ratio(errors[:, 0], errors[:, baseline], groups.cpu()[valid], generator, resamples) for baseline in (1, 2)
        )
        rows.append(FrameErrors(k, len(errors), dream, copy, random, against_copy, against_random))
    return tuple(rows)


def trusted_horizon(rows: Sequence[FrameErrors]) -> int:
    """Return the largest measured horizon up to which the dream surely beats copying at every measured one.

    Surely: the upper end of the 95% interval of ``dream / copy`` is below 1, with at least :data:`LEAST_LANES` lanes,
    of two groups at least. 0: not even one step.
    """
    trusted = 0
    for row in sorted(rows, key=lambda row: row.horizon):
        if row.horizon == 0:
            continue
        if row.lanes < LEAST_LANES or row.against_copy is None or row.against_copy.high >= 1:
            break
        trusted = row.horizon
    return trusted


def confusion(classes: Tensor, probs: Tensor, rates: Sequence[float]) -> Confusion:
    """Return how ``probs`` meet the real ``classes``, with precision and false alarm at the classes' ``rates``.

    Args:
        classes: int64 ``(N,)``; they need not occur at their rates.
        probs: float ``(N, L)``.
        rates: how frequent each class is where the dream will be used.
    """
    number = len(rates)
    predicted = probs.argmax(dim=-1)
    table = [[int(((classes == c) & (predicted == d)).sum()) for d in range(number)] for c in range(number)]
    chosen = [probs[classes == c].double() for c in range(number)]
    shares = [[n / sum(row) for n in row] if sum(row) else None for row in table]
    present = [(rate, share) for rate, share in zip(rates, shares, strict=True) if share is not None]
    recall, precision, false_alarm = [], [], []
    for d in range(number):
        mine = shares[d]
        others = [(rate, share) for rate, share in present if share is not mine]
        alarms, quiet = sum(rate * share[d] for rate, share in others), sum(rate for rate, _ in others)
        hits = None if mine is None else rates[d] * mine[d]
        recall.append(None if mine is None else mine[d])
        precision.append(None if hits is None or hits + alarms == 0 else hits / (hits + alarms))
        false_alarm.append(alarms / quiet if quiet else None)
    return Confusion(
        counts=tuple(tuple(row) for row in table),
        probabilities=tuple(tuple(row.mean(dim=0).tolist()) if len(row) else None for row in chosen),
        recall=tuple(recall),
        precision=tuple(precision),
        false_alarm=tuple(false_alarm),
    )


def clustered_error(values: Tensor, groups: Tensor) -> float | None:
    """Return the standard error of the mean of ``values`` (N,), where only ``groups`` (N,) are independent.

    The linearised variance of a mean over groups of unequal size, as for cluster sampling (Cochran, Sampling
    Techniques, 1977). None with fewer than two groups.
    """
    deviations = _group_sums(values - values.mean(), groups)
    number = len(deviations)
    if number < 2:
        return None
    return float((deviations.square().sum() * number / (number - 1)).sqrt()) / len(values)


def _squared_error(guess: Tensor, real: Tensor) -> Tensor:
    """Return the mean squared error of each lane, float64 ``(B,)`` on the CPU."""
    return (guess.double() - real.double()).square().flatten(1).mean(dim=1).cpu()


def _ratio(
    numerator: Tensor, denominator: Tensor, groups: Tensor, generator: torch.Generator, resamples: int
) -> Interval | None:
    """Return the ratio of the means and its percentile interval over resampled groups, of which one alone has none."""
    if float(denominator.sum()) == 0:
        return None
    sums = _group_sums(torch.stack((numerator, denominator), dim=1), groups)
    number = len(sums)
    if number < 2:
        return None
    drawn = sums[torch.randint(number, (resamples, number), generator=generator)].sum(dim=1)
    drawn = drawn[drawn[:, 1] > 0]
    value = float(numerator.sum() / denominator.sum())
    edges = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=torch.float64)
    low, high = torch.quantile(drawn[:, 0] / drawn[:, 1], edges).tolist()
    return Interval(value, min(low, value), max(high, value))


def _group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """Return the sums of ``values`` (N, ...) over each of the groups ``(N,)`` that occur."""
    names, member = torch.unique(groups, return_inverse=True)
    return values.new_zeros(len(names), *values.shape[1:]).index_add_(0, member, values)


def _spread(sides: SideBySide, k: int) -> Spread:
    valid = sides.valid[:, k]
    real, dreamed = (frames[valid] for frames in sides.at(k))
    if len(real) < 2:
        return Spread(k, len(real), None, None, None, None)
    deviations = [float(frames.double().var(dim=0).mean().sqrt()) for frames in (real, dreamed)]
    ranks = [float(effective_rank(frames)) for frames in (real, dreamed)]
    return Spread(k, len(real), *deviations, *ranks)


def _events(
    uniform: SideBySide,
    centred: SideBySide | None,
    k: int,
    reward_rates: Sequence[float],
    end_rates: Sequence[float],
) -> Events:
    signs, ended, reward, end = _transitions(uniform, k)
    rare_signs, rare_ended, rare_reward, rare_end = _transitions(uniform[:0] if centred is None else centred, k)
    paid, over = rare_signs != 1, rare_ended  # the rows that centred lanes may add to
    ends = torch.stack((1 - end, end), dim=1)
    rare_ends = torch.stack((1 - rare_end, rare_end), dim=1)
    some = len(signs) > 0
    return Events(
        horizon=k,
        reward=confusion(torch.cat((signs, rare_signs[paid])), torch.cat((reward, rare_reward[paid])), reward_rates),
        end=confusion(torch.cat((ended, rare_ended[over])).long(), torch.cat((ends, rare_ends[over])), end_rates),
        real_reward=float((signs - 1).double().mean()) if some else None,
        dreamed_reward=float((reward[:, 2] - reward[:, 0]).double().mean()) if some else None,
        real_end=float(ended.double().mean()) if some else None,
        dreamed_end=float(end.double().mean()) if some else None,
    )


def _transitions(sides: SideBySide, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sign, end and their predictions of all valid transitions k; 0: of every one, read from real frames."""
    if k == 0:
        valid = sides.valid[:, 1:]
        return sides.signs[valid], sides.ended[valid], sides.read_reward[valid], sides.read_end[valid]
    valid, t = sides.valid[:, k], k - 1
    return (
        sides.signs[valid, t],
        sides.ended[valid, t],
        sides.dreamed_reward[valid, t],
        sides.dreamed_end[valid, t],
    )
