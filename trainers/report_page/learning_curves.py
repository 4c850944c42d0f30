"""The charts of a game: score by real steps, imagined steps or minutes, and dreamed beside real reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jedi_env.metrics import HUMAN_SCORES, RANDOM_SCORES
from trainers.report import Gathered
from trainers.report_page import svg
from trainers.report_tables import AXES, Curves, curves
from trainers.run_files import Point, Run

SOURCES = (
    ("score", "scored on full games", lambda run: tuple(evaluation.at for evaluation in run.evaluations)),
    ("play", "play in training", lambda run: run.play),
)


def default_source(runs: Sequence[Run]) -> str:
    """Return which curves are shown first: the scores, unless there is no more than a last one anywhere."""
    return "score" if any(len(run.evaluations) > 1 for run in runs) or not any(run.play for run in runs) else "play"


def curve_charts(game: str, gathered: Gathered, series: Mapping[str, int]) -> dict[str, Any]:
    """Return the learning curves of a game, by every source and axis."""
    runs = [run for run in gathered.runs if run.game == game]
    charts = []
    for source, told, points in SOURCES:
        for axis, (label, x) in AXES.items():
            found = curves(runs, points, x)
            references = [
                svg.Reference(name, scores[game])
                for name, scores in (("random", RANDOM_SCORES), ("human", HUMAN_SCORES))
                if game in scores
            ]
            drawn = _curve_chart(found, series, references, label, f"{game}: {told}, by {label}")
            charts.append({"source": source, "axis": axis, "svg": drawn})
    young = [run for run in runs if not run.finished]
    return {"game": game, "charts": charts, "runs": len(runs), "unfinished": len(young)}


def _curve_chart(
    found: Sequence[Curves], series: Mapping[str, int], references: Sequence[svg.Reference], x_label: str, label: str
) -> Markup:
    lines, bands = [], []
    for curve in found:
        colour = series[curve.method]
        for seed, points in curve.seeds.items():
            young = "" if curve.finished[seed] else ", unfinished"
            x, y = points[-1]
            title = f"{curve.method}, seed {seed}{young}: {svg.shown(y)} at {svg.shown(x)} {x_label}"
            single = len(curve.seeds) == 1 and curve.finished[seed]
            lines.append(
                svg.Line(
                    colour,
                    points,
                    title,
                    svg.Style.MEAN if single else svg.Style.UNFINISHED if young else svg.Style.SEED,
                )
            )
        if curve.mean:
            end = curve.mean[-1]
            title = (
                f"{curve.method}, mean of {len(curve.seeds)} seeds: {svg.shown(end.value)} "
                f"({svg.shown(end.low)} to {svg.shown(end.high)}) at {svg.shown(end.x)} {x_label}"
            )
            lines.append(svg.Line(colour, [(m.x, m.value) for m in curve.mean], title))
            bands.append(svg.Band(colour, [(m.x, m.low, m.high) for m in curve.mean]))
    return svg.chart(lines, bands, references, x_label=x_label, label=label)


def reward_charts(game: str, gathered: Gathered, series: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the charts of dreamed beside real reward, None if no run logged any."""
    dreaming = {run.method for run in gathered.runs if run.dream_reward}
    runs = [run for run in gathered.runs if run.game == game and run.method in dreaming]
    kinds: tuple[tuple[str, svg.Style, Callable[[Run], Sequence[Point]]], ...] = (
        ("real", svg.Style.MEAN, lambda run: run.real_reward),
        ("dream", svg.Style.DASHED, lambda run: run.dream_reward),
    )
    if not any(run.dream_reward for run in runs):
        return None
    charts = []
    for axis, (label, x) in AXES.items():
        lines = []
        for name, style, points in kinds:
            for curve in curves(runs, points, x):
                many = len(curve.seeds) > 1
                drawn = [(m.x, m.value) for m in curve.mean] if many else next(iter(curve.seeds.values()))
                if drawn:
                    title = (
                        f"{curve.method}, {name}: {svg.shown(drawn[-1][1])} a step at {svg.shown(drawn[-1][0])} {label}"
                    )
                    lines.append(svg.Line(series[curve.method], drawn, title, style))
        told = f"{game}: reward a step, real and dreamed, by {label}"
        charts.append({"axis": axis, "svg": svg.chart(lines, x_label=label, label=told, from_zero=True)})
    return {"game": game, "charts": charts, "not_logged": sorted({r.seed for r in runs if not r.real_reward})}
