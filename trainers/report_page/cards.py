"""A card a run: the strip with its fidelity, and the demonstration's Stable-Baselines3 policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jedi_env.metrics import HUMAN_SCORES, Interval
from trainers.fidelity import Returns
from trainers.report import Gathered
from trainers.report_page import svg
from trainers.report_page.pictures import data_uri, strip_of
from trainers.report_tables import RESAMPLES
from trainers.run_files import FIDELITY_PLOT, Run


def strip_cards(gathered: Gathered, draw: bool, warnings: list[str]) -> list[dict[str, Any]]:
    """Return a card a run with a strip or a fidelity report; one run a method and game is drawn if it left none."""
    cards = []
    drawn: set[tuple[str, str]] = {(run.method, run.game) for run in gathered.runs if run.picture is not None}
    for run in gathered.runs:
        key = (run.method, run.game)
        strip, fault = strip_of(run, draw and key not in drawn)
        if fault is not None:
            warnings.append(fault)
        if strip is not None:
            drawn.add(key)
        plot = run.path / FIDELITY_PLOT
        if strip is not None or run.fidelity is not None:
            cards.append(
                {
                    "run": run,
                    "strip": strip,
                    "fidelity": None if run.fidelity is None else _fidelity(run),
                    "plot": data_uri(plot) if plot.is_file() else None,
                }
            )
    return cards


def _fidelity(run: Run) -> dict[str, Any]:
    report = run.fidelity
    assert report is not None  # the caller looked
    known = [(row.horizon, row.against_copy) for row in report.frames if row.against_copy is not None]
    chart = svg.chart(
        [svg.Line(0, [(k, ratio.value) for k, ratio in known], "error of the dreamed frame over that of copying")],
        [svg.Band(0, [(k, ratio.low, ratio.high) for k, ratio in known])],
        [svg.Reference("as good as copying:", 1.0)],
        x_label="dreamed steps",
        label=f"{run.game}: squared error of the dreamed frame over that of copying the last one",
        from_zero=True,
    )
    watched = [
        {
            "policy": row.policy,
            "svg": svg.forest(
                [
                    svg.ForestRow("real", None, _within(row.real)),
                    svg.ForestRow("dreamed", 0, _within(row.dream)),
                ],
                label=f"{run.game}: what a window of play pays the {row.policy} policy",
                bars=True,
                best=None,
            ),
        }
        for row in report.watch
    ]
    longest = report.horizons[-1]
    at_least = "at least " if report.trusted_horizon == longest else ""
    return {"chart": chart, "watch": watched, "trusted": f"{at_least}{report.trusted_horizon}", "longest": longest}


def _within(paid: Returns) -> Interval:
    half = 1.96 * (paid.standard_error or 0.0)  # unknown: the mean alone is drawn
    return Interval(paid.mean, paid.mean - half, paid.mean + half)


def demo_card(run: Run) -> dict[str, Any]:
    """Return the card of a Stable-Baselines3 policy that learned in the run's dream, which the run must have."""
    demo = run.demo
    assert demo is not None  # the caller looked
    rows = [
        svg.ForestRow("random", None, _bootstrap(demo.random)),
        svg.ForestRow("PPO in the dream", 0, _bootstrap(demo.agent)),
    ]
    told = f"{run.game}: return of real games, random and trained in the dream"
    return {
        "run": run,
        "demo": demo,
        "episodes": len(demo.agent),
        "svg": svg.forest(rows, label=told, bars=True, best=None),
        "best_game": max(demo.agent),
        "human": HUMAN_SCORES.get(run.game),
        "minutes": sum(demo.seconds.values()) / 60,
    }


def _bootstrap(returns: Sequence[float]) -> Interval:
    """Return the mean of episodes with a 95% percentile bootstrap over them."""
    values = np.asarray(returns, np.float64)
    drawn = values[np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(values.mean()), min(float(low), float(values.mean())), max(float(high), float(values.mean())))
