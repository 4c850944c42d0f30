"""How far a dream can be trusted: reality and the dream side by side, from the same contexts and actions.

Frame errors against two baselines, confusion of rewards and ends, what a linear probe reads of the game's own numbers
(after Anand et al. 2019, arXiv 1906.08226), spread and rank of the latents, and the horizon up to which the dream beats
a still picture. Pure computation: it knows a world model by the Protocols below, and nothing of emulators, agents,
files or pictures.

The *horizon* k counts dreamed steps: frame 0 is the last real one, which every dream starts from, and the transition k
leads to frame k. A frame counts only where the real episode lasted that long; its final frame counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jedi_env.errors import UsageError
from jedi_env.metrics.scores import COVERAGE, Interval
from jedi_env.models.encoder import effective_rank
from jedi_env.models.reward_end import RewardEndLogits
from jedi_env.models.reward_heads import RewardHead
from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.types import Context, ModelState, Prediction, Record, Segment

LEAST_LANES = 16  # with fewer real episodes left at a horizon, nothing there is called trusted
FOLDS = 5  # of the probe's groups: its penalty is chosen by cross-validation
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-8, 7))  # relative to inputs of unit variance


class Judge(Protocol):
    """The world model's reading of rewards and ends, in its form for whole sequences."""

    @property
    def reward_head(self) -> RewardHead:
        """What the logits of the reward mean."""
        ...

    def initial(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the memory before anything was seen."""
        ...

    def __call__(
        self, frames: Tensor, actions: Tensor, next_frames: Tensor, memory: tuple[Tensor, Tensor]
    ) -> tuple[RewardEndLogits, tuple[Tensor, Tensor]]:
        """Return the logits of T transitions, and the memory after them."""
        ...


class DreamModel(Protocol):
    """What is measured of a world model."""

    @property
    def context_length(self) -> int:
        """K."""
        ...

    @property
    def reward_end(self) -> Judge:
        """What reads rewards and ends."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the frames of ``pixels``."""
        ...

    def begin(self, context: Context) -> ModelState:
        """Return the state after living through ``context``."""
        ...

    def advance(self, state: ModelState, actions: Tensor, noise: LaneNoise) -> tuple[ModelState, Prediction]:
        """Imagine what ``actions`` (B,) lead to."""
        ...


@dataclass(frozen=True)
class SideBySide(Record):
    """Real and dreamed play from the same contexts under the same actions, for H steps.

    Attributes:
        real: float ``(B, K+H, C, H, W)``, encoded reality.
        dreamed: the same K frames of context, then the dream.
        valid: bool ``(B, H+1)``: reality has a frame k. Frame 0 always is.
        signs: int64 ``(B, H)``, the real reward's sign + 1, so an index into the probabilities; of a model that learns
            rewards of any size, what is nearly nothing counts as 0.
        ended: bool ``(B, H)``, the transition really ended the episode.
        dreamed_reward: float ``(B, H, 3)``, probabilities of the signs -1, 0, 1 in the dream.
        dreamed_end: float ``(B, H)``, the probability of an end in the dream.
        read_reward, read_end: the same, read from the encoded real frames by the sequence form.
    """

    real: Tensor
    dreamed: Tensor
    valid: Tensor
    signs: Tensor
    ended: Tensor
    dreamed_reward: Tensor
    dreamed_end: Tensor
    read_reward: Tensor
    read_end: Tensor

    @property
    def horizon(self) -> int:
        """H, the dreamed steps."""
        return self.signs.shape[1]

    def at(self, horizon: int) -> tuple[Tensor, Tensor]:
        """Return the real and the dreamed frames ``(B, C, H, W)`` at ``horizon``; not all are valid."""
        index = self.real.shape[1] - 1 - self.horizon + horizon
        return self.real[:, index], self.dreamed[:, index]


@dataclass(frozen=True)
class FrameErrors:
    """Squared error a frame element at one horizon.

    Attributes:
        horizon: k.
        lanes: real episodes that lasted so long.
        dream: of the dreamed frame; the other two are the baselines. All three None without lanes.
        copy: of the last frame of the context.
        random: of the last context frame of another segment, drawn at random.
        against_copy: ``dream / copy`` with its 95% interval; None where copying makes no error, or without lanes.
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
        horizon: the transition k of the dream; 0: read from real frames, all transitions of all lanes.
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


# Rolling


@torch.no_grad()
def side_by_side(model: DreamModel, segment: Segment, seed: int = 0) -> SideBySide:
    """Dream on from the first K observations of ``segment`` under its own actions.

    The dream does not stop where it says that it ends, so that every horizon is seen.

    Args:
        model: in evaluation mode, on the segment's device.
        segment: K-1 transitions of context, then those to dream; the context's may be padded.
        seed: lane i draws its noise from the stream ``seed + i``.

    Raises:
        UsageError: the segment is too short to dream one step.
    """
    k = model.context_length
    horizon = segment.actions.shape[1] - k + 1
    if horizon < 1:
        raise UsageError(f"The segment has {k - 1 + horizon} transitions: give at least {k}, which dream one step.")
    frames = model.encode(segment.pixels)
    head, memory = model.reward_end.reward_head, model.reward_end.initial(len(frames), frames.device)
    read, _ = model.reward_end(frames[:, :-1], segment.actions, frames[:, 1:], memory)

    state = model.begin(Context(frames[:, :k], segment.actions[:, : k - 1]))
    key = lane_keys(range(seed, seed + len(frames)), frames.device)
    dreamed = list(frames[:, :k].unbind(dim=1))
    predictions = []
    for t in range(k - 1, k - 1 + horizon):
        state, prediction = model.advance(state, segment.actions[:, t], LaneNoise(key, torch.full_like(key, t)))
        dreamed.append(state.frames[:, -1])
        predictions.append(prediction)

    happened = segment.mask[:, k - 1 :].long().cumprod(dim=1).bool()
    return SideBySide(
        real=frames,
        dreamed=torch.stack(dreamed, dim=1),
        valid=torch.cat((torch.ones_like(happened[:, :1]), happened), dim=1),
        signs=head.classes(segment.rewards[:, k - 1 :]),
        ended=segment.terminated[:, k - 1 :],
        dreamed_reward=torch.stack([prediction.reward_probs for prediction in predictions], dim=1),
        dreamed_end=torch.stack([prediction.termination_prob for prediction in predictions], dim=1),
        read_reward=head.class_probs(read.reward[:, k - 1 :]),
        read_end=read.end[:, k - 1 :].softmax(dim=-1)[..., 1],
    )


# Measuring


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

    Surely: the upper end of the 95% interval of ``dream / copy`` is below 1, with at least :data:`LEAST_LANES` lanes.
    0: not even one step.
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


def _squared_error(guess: Tensor, real: Tensor) -> Tensor:
    """Return the mean squared error of each lane, float64 ``(B,)`` on the CPU."""
    return (guess.double() - real.double()).square().flatten(1).mean(dim=1).cpu()


def _ratio(
    numerator: Tensor, denominator: Tensor, groups: Tensor, generator: torch.Generator, resamples: int
) -> Interval | None:
    """Return the ratio of the means and its percentile interval over resampled groups."""
    if float(denominator.sum()) == 0:
        return None
    _, member = torch.unique(groups, return_inverse=True)
    number = int(member.max()) + 1
    sums = torch.zeros(number, 2, dtype=torch.float64).index_add_(0, member, torch.stack((numerator, denominator), 1))
    drawn = sums[torch.randint(number, (resamples, number), generator=generator)].sum(dim=1)
    drawn = drawn[drawn[:, 1] > 0]
    value = float(numerator.sum() / denominator.sum())
    edges = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=torch.float64)
    low, high = torch.quantile(drawn[:, 0] / drawn[:, 1], edges).tolist()
    return Interval(value, min(low, value), max(high, value))


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


# Probing


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
