"""The numbers of a report: curves over the seeds, scores beside published ones, aggregates.

Made from what ``report.py`` read. Everything human-normalised is :mod:`jedi_env.metrics`: games that are missing and
seeds that not all games have are left out and named, and what it still refuses is told in its own sentence.
Nothing here knows of pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from jedi_env.errors import UsageError, nearest
from jedi_env.games import GAMES
from jedi_env.metrics import HUMAN_SCORES, RANDOM_SCORES, Aggregate, aggregate, human_normalized, published
from trainers.report import Gathered
from trainers.rules import ATARI_100K
from trainers.run_files import Evaluation, Point, Run

AGAINST = ("SimPLe", "TWM", "IRIS", "DreamerV3", "STORM", "DIAMOND", "JEDI")
AXES: dict[str, tuple[str, Callable[[Point], float]]] = {
    "real": ("real steps", attrgetter("real_steps")),
    "imagined": ("imagined steps", attrgetter("imagined_steps")),
    "minutes": ("minutes", attrgetter("minutes")),
}
POINTS = 80  # a line shows: more are averaged in bins along it
RESAMPLES = 2_000  # of a curve's interval
PROTOCOL_STEPS, PROTOCOL_EPISODES = 100_000, 100  # what Atari100k asks of a score

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """The mean over seeds at one place of a curve, and its 95% interval."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curves:
    """The learning curves of one method in one game.

    Attributes:
        method: its label.
        seeds: by seed, the (x, y) of its line; seeds without a point are not in it.
        finished: by seed.
        mean: over all those seeds, where all have been; empty with one seed.
    """

    method: str
    seeds: Mapping[int, tuple[tuple[float, float], ...]]
    finished: Mapping[int, bool]
    mean: tuple[Mean, ...]


@dataclass(frozen=True)
class Cell:
    """The scores of one of our methods in one game: by seed, the evaluation that counts."""

    by_seed: Mapping[int, Evaluation]

    @property
    def scores(self) -> list[float]:
        """Mean return of each seed, by seed."""
        return [evaluation.at.value for _, evaluation in sorted(self.by_seed.items())]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.scores))

    @property
    def partial(self) -> bool:
        """Whether a run of it is unfinished."""
        return not all(evaluation.final for evaluation in self.by_seed.values())


@dataclass(frozen=True)
class Row:
    """One game of the table.

    Attributes:
        game: its name.
        random, human: the reference scores, None outside the 26.
        published: raw score by method, where known.
        ours: by method, where scored.
        best: the names, in ``published`` and ``ours``, with the highest score.
    """

    game: str
    random: float | None
    human: float | None
    published: Mapping[str, float]
    ours: Mapping[str, Cell]
    best: frozenset[str]

    def hns(self, score: float) -> float | None:
        """Return the human-normalised score of a raw one, None outside the 26."""
        return float(human_normalized({self.game: [score]})[self.game][0]) if self.game in GAMES else None


@dataclass(frozen=True)
class Entry:
    """One method in a comparison of aggregates.

    Attributes:
        method: its name or label.
        ours: whether it is one of the report's.
        aggregate: over the comparison's games.
        by_run: whether it is known by seed. If not, what is defined over runs (IQM, optimality gap) is not known, and
            there are no intervals.
        note: what a reader must know of it.
    """

    method: str
    ours: bool
    aggregate: Aggregate
    by_run: bool
    note: str


@dataclass(frozen=True)
class Comparison:
    """Aggregates over one set of games.

    Attributes:
        games: the set; all 26 or it is named.
        missing: of the 26.
        entries: published methods, then ours.
        left_out: sentences about published methods without an aggregate over these games.
        refused: the same about ours: (label, sentence).
    """

    games: tuple[str, ...]
    missing: tuple[str, ...]
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]


def check_against(methods: Sequence[str]) -> tuple[str, ...]:
    """Return published methods, or refuse a name that is none.

    Raises:
        UsageError: no such published method.
    """
    for method in methods:
        if method not in published():
            known = ", ".join(published())
            raise UsageError(f"Unknown published method {method!r}.{nearest(method, published())} Known: {known}.")
    return tuple(dict.fromkeys(methods))


def games_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the games of ``runs``: the 26 in their order, then others by name."""
    names = {run.game for run in runs}
    return (*(game for game in GAMES if game in names), *sorted(names - set(GAMES)))


# Curves


def curves(
    runs: Sequence[Run], points: Callable[[Run], Sequence[Point]], x: Callable[[Point], float]
) -> tuple[Curves, ...]:
    """Return the curves of each method in one game.

    Args:
        runs: of the game.
        points: of a run, what is drawn.
        x: of a point, where it is drawn.
    """
    found = []
    for method in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == method]
        lines = {run.seed: line for run in mine if (line := _thinned(points(run), x))}
        if lines:
            finished = {run.seed: run.finished for run in mine if run.seed in lines}
            found.append(Curves(method, lines, finished, mean_curve(list(lines.values()))))
    return tuple(found)


def mean_curve(lines: Sequence[Sequence[tuple[float, float]]]) -> tuple[Mean, ...]:
    """Return the mean of lines, interpolated between their points, where all of them are; with a bootstrap interval.

    Args:
        lines: (x, y) of each seed, x ascending. Of a single line there is no mean.
    """
    if len(lines) < 2:
        return ()
    begin, end = max(line[0][0] for line in lines), min(line[-1][0] for line in lines)
    grid = np.unique([x for line in lines for x, _ in line if begin <= x <= end])
    if grid.size == 0:
        return ()
    values = np.stack([np.interp(grid, *np.asarray(line, np.float64).T) for line in lines])  # (seeds, x)
    picks = np.random.default_rng(0).integers(len(lines), size=(RESAMPLES, len(lines)))
    shares = np.stack([(picks == i).mean(1) for i in range(len(lines))], axis=1)  # (resamples, seeds)
    low, high = np.quantile(shares @ values, [0.025, 0.975], axis=0)
    middle = values.mean(0)
    return tuple(
        Mean(*(float(v) for v in column))
        for column in zip(grid, middle, np.minimum(low, middle), np.maximum(high, middle), strict=True)
    )


def _thinned(points: Sequence[Point], x: Callable[[Point], float]) -> tuple[tuple[float, float], ...]:
    """Return the (x, y) of a line, x ascending; if there are too many, weighted means of neighbours.

    Of points with the same x the last counts: in the final epochs no real step is added.
    """
    last = {x(point): (x(point), point.value, point.weight) for point in points if math.isfinite(x(point))}
    known = [last[at] for at in sorted(last)]
    size = -(-len(known) // POINTS) or 1
    line = []
    for chunk in (known[i : i + size] for i in range(0, len(known), size)):
        xs, ys, weights = np.asarray(chunk, np.float64).T
        line.append((float(np.average(xs, weights=weights)), float(np.average(ys, weights=weights))))
    return tuple(line)


# Scores


def score_table(gathered: Gathered, against: Sequence[str]) -> tuple[Row, ...]:
    """Return a row for every game with a score of ours, or with a run."""
    rows = []
    for game in games_of(gathered.runs):
        ours: dict[str, dict[int, Evaluation]] = {}
        for run in gathered.runs:
            if run.game == game and run.score is not None:
                ours.setdefault(run.method, {})[run.seed] = run.score
        cells = {method: Cell(by_seed) for method, by_seed in ours.items()}
        known = {method: published()[method].scores[game] for method in against if game in published()[method].scores}
        all_scores = known | {method: cell.mean for method, cell in cells.items()}
        top = max(all_scores.values(), default=math.nan)
        best = frozenset(method for method, score in all_scores.items() if score == top and len(all_scores) > 1)
        rows.append(Row(game, RANDOM_SCORES.get(game), HUMAN_SCORES.get(game), known, cells, best))
    return tuple(rows)


def protocol_notes(gathered: Gathered) -> tuple[str, ...]:
    """Return, for each of our methods, in what its scores are not the Atari100k protocol's."""
    notes = []
    for method in gathered.methods:
        scores = [r.score for r in gathered.runs if r.method == method.label and r.score and r.game in GAMES]
        games = [r.game for r in gathered.runs if r.method == method.label and r.score and r.game in GAMES]
        departs = []
        for name, asked, values in (
            ("real steps", PROTOCOL_STEPS, [int(score.at.real_steps) for score in scores]),
            ("episodes a score", PROTOCOL_EPISODES, [score.episodes for score in scores]),
        ):
            if values and set(values) != {asked}:
                many = f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"
                departs.append(f"{many} {name} (Atari100k: {asked:,})")
        other: dict[str, Any] = {}
        for score, game in zip(scores, games, strict=True):
            asked_of = ATARI_100K.record(game)
            other |= {k: v for k, v in score.protocol.items() if k in asked_of and v != asked_of[k]}
        departs += [f"{key} {value!r}" for key, value in sorted(other.items())]
        if departs:
            notes.append(f"{method.label}: {'; '.join(departs)}.")
    return tuple(notes)


# Aggregates


def comparisons(gathered: Gathered, against: Sequence[str]) -> tuple[Comparison, ...]:
    """Return aggregates of our methods beside the published ones, one comparison a set of games."""
    by_games: dict[tuple[str, ...], list[str]] = {}
    for method in gathered.methods:
        scored = [r for r in gathered.runs if r.method == method.label and r.score is not None and r.game in GAMES]
        if scored:
            by_games.setdefault(games_of(scored), []).append(method.label)
    return tuple(_comparison(gathered, games, ours, against) for games, ours in by_games.items())


def _comparison(gathered: Gathered, games: tuple[str, ...], ours: Sequence[str], against: Sequence[str]) -> Comparison:
    entries: list[Entry] = []
    left_out: list[str] = []
    refused: list[tuple[str, str]] = []
    for method in against:
        record = published()[method]
        missing = [game for game in games if game not in record.scores]
        if missing:
            left_out.append(f"{method} is published for {len(games) - len(missing)} of these {len(games)} games only.")
            continue
        by_run = all(game in record.seed_scores for game in games)
        scores = {game: record.seed_scores[game] if by_run else (record.scores[game],) for game in games}
        try:
            note = "" if by_run else "published without seeds"
            entries.append(Entry(method, False, aggregate(scores, games=games), by_run, note))
        except UsageError as error:
            left_out.append(f"{method}: {error}")
    for method in ours:
        mine = {
            game: {r.seed: r.score for r in gathered.runs if (r.method, r.game) == (method, game) and r.score}
            for game in games
        }
        shared = sorted(set.intersection(*(set(by_seed) for by_seed in mine.values())))
        everything = sorted(set().union(*mine.values()))
        notes = []
        if not shared:
            refused.append((method, "No seed was scored in all of its games, so there is no aggregate."))
            continue
        if shared != everything:
            notes.append(f"over seed {', '.join(map(str, shared))}, which all its games have")
        counted = [by_seed[seed] for by_seed in mine.values() for seed in shared]
        young = sum(not evaluation.final for evaluation in counted)
        if young:
            notes.append(f"{young} of {len(counted)} runs unfinished: their last score so far counts")
        if len(shared) == 1:
            notes.append("one seed: no interval")
        try:
            result = aggregate({game: [mine[game][seed].at.value for seed in shared] for game in games}, games=games)
        except UsageError as error:
            refused.append((method, f"No aggregate: {error}"))
            continue
        entries.append(Entry(method, True, result, True, "; ".join(notes)))
    missing_games = tuple(game for game in GAMES if game not in games)
    return Comparison(games, missing_games, tuple(entries), tuple(left_out), tuple(refused))
