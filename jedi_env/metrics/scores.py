"""Human-normalised scores of the 26 Atari100k games, their aggregates with intervals, and the published scores.

A raw score is one seed's mean episode return in the game's own points. A *run* is one seed in one game. The
human-normalised score is HNS = (score - random) / (human - random). Mean, median, interquartile mean and optimality gap
are those of Agarwal et al. 2021 (arXiv 2108.13264), Har-HNS is equation 10 of arXiv 2605.13013, and the two halves are
those of arXiv 2505.19698. Sym-HNS, which 2505.19698v3 reports, is not here: its formula was not found.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from jedi_env.arguments import check_whole
from jedi_env.errors import UsageError, nearest
from jedi_env.games import GAMES, check_game

Floats = NDArray[np.float64]
Scores = Mapping[str, Sequence[float] | NDArray[np.floating] | NDArray[np.integer]]

HAR_OFFSET = 0.1  # arXiv 2605.13013 eq. 10: keeps a game at the random score from deciding the harmonic mean alone
COVERAGE = 0.95
BLOCK = 2**20  # resampled scores held in memory at once


def _rows(table: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file in ``data/``."""
    with files("jedi_env.metrics").joinpath("data", table).open(encoding="utf-8") as file:
        yield from csv.DictReader(file)


# eloialonso/iris@24326aaaa2 results/data/RANDOM.json and HUMAN.json, equal to arXiv 2405.12399 Table 1
RANDOM_SCORES: Mapping[str, float] = MappingProxyType({r["game"]: float(r["random"]) for r in _rows("references.csv")})
HUMAN_SCORES: Mapping[str, float] = MappingProxyType({r["game"]: float(r["human"]) for r in _rows("references.csv")})

# The rule of arXiv 2505.19698: the HNS of IRIS, TWM, DreamerV3 and STORM, averaged, exceeds 0.75. The names are that
# rule applied to arXiv 2405.12399 Table 1, which gives the paper's 13 and 13; the paper's own lists were not found.
AGENT_OPTIMAL: tuple[str, ...] = (
    "Assault",
    "Boxing",
    "Breakout",
    "CrazyClimber",
    "Freeway",
    "Gopher",
    "Jamesbond",
    "Kangaroo",
    "Krull",
    "KungFuMaster",
    "Pong",
    "RoadRunner",
    "UpNDown",
)
HUMAN_OPTIMAL: tuple[str, ...] = tuple(game for game in GAMES if game not in AGENT_OPTIMAL)


@dataclass(frozen=True)
class Interval:
    """A number and its 95% bootstrap interval, ``low <= value <= high``; all three NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Aggregate:
    """What :func:`aggregate` says of an agent; every number is in units of HNS unless it says otherwise.

    Attributes:
        mean: over the games' mean HNS.
        median: over the games' mean HNS.
        iqm: interquartile mean: all runs of all games, without the lowest and the highest quarter.
        optimality_gap: mean over all runs of how far each is below human, ``1 - min(HNS, 1)``; lower is better.
        har_hns: harmonic mean of the games' mean HNS + 0.1; the 0.1 stays in the result. NaN where a game's mean HNS is
            not above -0.1, far worse than random play: it is not defined there.
        agent_optimal: mean over the games of :data:`AGENT_OPTIMAL` among ``games``; NaN if there are none.
        human_optimal: the same for :data:`HUMAN_OPTIMAL`.
        ratio: ``agent_optimal / human_optimal``, no unit; NaN unless ``human_optimal`` is positive.
        superhuman: number of games whose mean HNS exceeds 1.
        games: the games aggregated, in the order of :data:`jedi_env.GAMES`.
        seeds: runs a game. With one there is nothing to resample: the intervals have no width and say nothing.
        resamples: how many bootstrap samples the intervals come from.
        seed: of the bootstrap.
    """

    mean: Interval
    median: Interval
    iqm: Interval
    optimality_gap: Interval
    har_hns: Interval
    agent_optimal: Interval
    human_optimal: Interval
    ratio: Interval
    superhuman: Interval
    games: tuple[str, ...]
    seeds: int
    resamples: int
    seed: int


def human_normalized(scores: Scores) -> dict[str, Floats]:
    """Return the human-normalised score of each seed, 0 for random play and 1 for a human, in the order given.

    Args:
        scores: the raw score of each seed, by game; any of the 26 games, any number of seeds.

    Raises:
        UsageError: an unknown game, a game without seeds, or a score that is not a finite number.
    """
    if not isinstance(scores, Mapping) or not scores:
        raise UsageError(
            f"Scores are a mapping from game to the raw score of each seed, such as {{'Pong': [14.6, 20.1]}}; "
            f"got {scores!r:.80}."
        )
    return {
        check_game(game): (_raw(game, values) - RANDOM_SCORES[game]) / (HUMAN_SCORES[game] - RANDOM_SCORES[game])
        for game, values in scores.items()
    }


def aggregate(
    scores: Scores, *, seed: int = 0, games: Iterable[str] | None = None, resamples: int = 10_000
) -> Aggregate:
    """Aggregate raw scores as the Atari100k literature does, each number with a 95% interval.

    The intervals are percentiles of a stratified bootstrap: every resample draws, within each game, as many seeds as
    there are, with replacement; all numbers come from the same resamples. A percentile interval of a biased statistic
    can miss the statistic itself; it is then widened to reach it. Neither the order of the games nor that of the seeds
    matters.

    Args:
        scores: the raw score of each seed, by game; the same number of seeds for every game.
        seed: of the bootstrap; the same seed gives the same intervals.
        games: aggregate these games only; the result names them. By default all 26, and none may be missing.
        resamples: bootstrap samples.

    Raises:
        UsageError: whatever :func:`human_normalized` refuses; a missing game; games with different numbers of seeds.
    """
    seed, resamples = check_whole("seed", seed, 0), check_whole("resamples", resamples)
    normalized = human_normalized(scores)
    chosen = _chosen(games)
    _check_complete(chosen, normalized, explicit=games is not None)
    # Sorted, so that neither the order of the seeds nor that of the games reaches the generator.
    hns = np.stack([np.sort(normalized[game]) for game in chosen])

    halves = (np.isin(chosen, AGENT_OPTIMAL), np.isin(chosen, HUMAN_OPTIMAL))
    point = _statistics(hns[None], *halves)
    if (hns.mean(1) <= -HAR_OFFSET).any():
        point["har_hns"] = np.array([np.nan])
    drawn = _bootstrap(hns, halves, seed, resamples)
    return Aggregate(
        **{name: _interval(float(value[0]), drawn[name]) for name, value in point.items()},
        games=chosen,
        seeds=hns.shape[1],
        resamples=resamples,
        seed=seed,
    )


def _raw(game: str, values: Sequence[float] | NDArray[np.floating] | NDArray[np.integer]) -> Floats:
    """Return a game's scores as float64 ``(seeds,)``, or say what is wrong with them."""
    try:
        array = np.asarray(values)
    except ValueError:  # a ragged list
        array = np.empty((0, 0))
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iuf":
        raise UsageError(
            f"{game} needs a list with the raw score of each seed, at least one, such as [14.6, 20.1]; "
            f"got {values!r:.80}."
        )
    finite = np.isfinite(array)
    if not finite.all():
        first = int(np.argmin(finite))
        raise UsageError(
            f"Every score must be a finite number, but {game}'s score number {first + 1} of {array.size} is "
            f"{array[first]}. Leave out seeds and games that have no score."
        )
    return array.astype(np.float64)


def _chosen(games: Iterable[str] | None) -> tuple[str, ...]:
    """Return the games to aggregate, in the order of :data:`GAMES`."""
    if games is None:
        return GAMES
    wanted = {check_game(game) for game in ([games] if isinstance(games, str) else games)}
    if not wanted:
        raise UsageError("games= is empty; name at least one game, or leave it out for all 26.")
    return tuple(game for game in GAMES if game in wanted)


def _check_complete(chosen: tuple[str, ...], normalized: Mapping[str, Floats], *, explicit: bool) -> None:
    """Refuse missing games and unequal numbers of seeds."""
    missing = [game for game in chosen if game not in normalized]
    if missing:
        advice = (
            "Add their scores, or leave them out of games=."
            if explicit
            else "Published aggregates are over all 26 games. To aggregate fewer, name them: games=tuple(scores)."
        )
        raise UsageError(f"{len(missing)} of {len(chosen)} games have no scores: {', '.join(missing)}. {advice}")
    by_seeds: dict[int, list[str]] = {}
    for game in chosen:
        by_seeds.setdefault(normalized[game].size, []).append(game)
    if len(by_seeds) > 1:
        counts = "; ".join(f"{seeds} in {', '.join(names)}" for seeds, names in sorted(by_seeds.items()))
        raise UsageError(
            f"Every game must have the same number of seeds, because the interquartile mean and the optimality gap are "
            f"over runs and would weigh the games unequally; got {counts}. Give the missing seeds, or name the games "
            f"to aggregate in games=."
        )


def _statistics(hns: Floats, agent: NDArray[np.bool_], human: NDArray[np.bool_]) -> dict[str, Floats]:
    """Return every statistic of ``hns`` (resamples, games, seeds), each ``(resamples,)``, given the halves' masks."""
    game = hns.mean(2)
    runs = np.sort(hns.reshape(len(hns), -1), axis=1)
    cut = runs.shape[1] // 4
    above = game + HAR_OFFSET
    defined = (above > 0).all(1)  # a resample can be below where its game is not: there Har-HNS takes its limit, 0
    agent_mean, human_mean = _half(game, agent), _half(game, human)
    # In the resamples where the human half is not positive the agent half is as far ahead as can be.
    ratio = np.where(human_mean > 0, agent_mean / np.where(human_mean > 0, human_mean, 1), np.inf)
    return {
        "mean": game.mean(1),
        "median": np.median(game, axis=1),
        "iqm": runs[:, cut : runs.shape[1] - cut].mean(1),
        "optimality_gap": (1 - np.minimum(runs, 1)).mean(1),
        "har_hns": np.where(defined, 1 / (1 / np.where(defined[:, None], above, 1)).mean(1), 0),
        "agent_optimal": agent_mean,
        "human_optimal": human_mean,
        "ratio": np.where(np.isnan(agent_mean + human_mean), np.nan, ratio),
        "superhuman": (game > 1).sum(1).astype(np.float64),
    }


def _half(game: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Return the mean over the games in ``mask``, NaN if there are none."""
    return game[:, mask].mean(1) if mask.any() else np.full(len(game), np.nan)


def _bootstrap(
    hns: Floats, halves: tuple[NDArray[np.bool_], NDArray[np.bool_]], seed: int, resamples: int
) -> dict[str, Floats]:
    """Return the statistics of ``resamples`` stratified resamples of ``hns`` (games, seeds)."""
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // hns.size)
    drawn = []
    for start in range(0, resamples, block):
        shape = (min(block, resamples - start), *hns.shape)
        picks = rng.integers(hns.shape[1], size=shape)
        drawn.append(_statistics(np.take_along_axis(hns[None], picks, axis=2), *halves))
    return {name: np.concatenate([part[name] for part in drawn]) for name in drawn[0]}


def _interval(value: float, drawn: Floats) -> Interval:
    """Return the percentile interval of ``drawn``, widened to reach ``value``."""
    if not np.isfinite(value):
        return Interval(np.nan, np.nan, np.nan)
    tail = (1 - COVERAGE) / 2
    # Order statistics rather than interpolation: a count stays a count, and an infinite ratio stays one.
    low = float(np.quantile(drawn, tail, method="lower"))
    high = float(np.quantile(drawn, 1 - tail, method="higher"))
    return Interval(value, min(low, value), max(high, value))


@dataclass(frozen=True)
class Published:
    """The published raw scores of one method.

    Attributes:
        method: its name; a suffix tells apart sets of scores of the same method.
        scores: raw score by game; fewer than 26 games where no more are known.
        source: where ``scores`` are from.
        seed_scores: raw score of each seed by game; empty where they were not published.
        seed_source: where ``seed_scores`` are from, ``""`` if there are none.
    """

    method: str
    scores: Mapping[str, float]
    source: str
    seed_scores: Mapping[str, tuple[float, ...]]
    seed_source: str


@cache
def published() -> Mapping[str, Published]:
    """Return the published raw scores that ship with the package, by method."""
    scores: dict[str, dict[str, float]] = {}
    for row in _rows("scores.csv"):
        scores.setdefault(row["method"], {})[row["game"]] = float(row["score"])
    seeds: dict[str, dict[str, tuple[float, ...]]] = {}
    for row in _rows("seed_scores.csv"):
        games = seeds.setdefault(row["method"], {})
        games[row["game"]] = (*games.get(row["game"], ()), float(row["score"]))
    return MappingProxyType(
        {
            row["method"]: Published(
                method=row["method"],
                scores=MappingProxyType(scores[row["method"]]),
                source=row["scores"],
                seed_scores=MappingProxyType(seeds.get(row["method"], {})),
                seed_source=row["seed_scores"],
            )
            for row in _rows("sources.csv")
        }
    )


def published_methods() -> tuple[str, ...]:
    """Return the names of the methods in :func:`published`."""
    return tuple(published())


def published_scores(method: str) -> dict[str, float]:
    """Return a method's published raw scores by game; :func:`published` has their source.

    Raises:
        UsageError: no such method.
    """
    return dict(_published(method, published_methods()).scores)


def published_seed_scores(method: str) -> dict[str, list[float]]:
    """Return a method's published raw score of each seed by game: what :func:`aggregate` takes.

    Raises:
        UsageError: no such method, or its scores were published without their seeds.
    """
    with_seeds = tuple(name for name, record in published().items() if record.seed_scores)
    record = _published(method, with_seeds)
    return {game: list(values) for game, values in record.seed_scores.items()}


def _published(method: str, allowed: tuple[str, ...]) -> Published:
    """Return the record of a method among ``allowed``."""
    if method in allowed:
        return published()[method]
    wrong = f"No scores by seed of {method!r} ship here." if method in published() else f"Unknown method {method!r}."
    raise UsageError(f"{wrong}{nearest(method, allowed)} There are: {', '.join(allowed)}.")
