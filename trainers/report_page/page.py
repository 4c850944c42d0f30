"""From records to the page: which chart and which table stands where. The numbers are ``report_tables.py``'s."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from jedi_env.games import GAMES
from jedi_env.metrics import AGENT_OPTIMAL, HUMAN_OPTIMAL, Aggregate, Interval, published
from trainers.report import Gathered, ago, progress_of
from trainers.report_page import svg
from trainers.report_page.cards import demo_card, strip_cards
from trainers.report_page.learning_curves import SOURCES, curve_charts, default_source, reward_charts
from trainers.report_page.pictures import ROWS
from trainers.report_tables import (
    AXES,
    RESAMPLES,
    Comparison,
    Entry,
    Row,
    comparisons,
    games_of,
    protocol_notes,
    score_table,
)
from trainers.run_files import Run

OPEN_LANES = 2  # of a strip, shown; the others unfold
UNKNOWN = Interval(math.nan, math.nan, math.nan)

# (field of Aggregate, heading, what it is, which is better, defined over runs)
AGGREGATES = (
    ("mean", "Mean HNS", "over the games' means", max, False),
    ("median", "Median HNS", "over the games' means", max, False),
    ("iqm", "IQM", "middle half of all runs", max, True),
    ("optimality_gap", "Optimality gap", "mean of 1 - min(HNS, 1), over runs; lower is better", min, True),
    ("har_hns", "Har-HNS", "harmonic mean of HNS + 0.1: no game can be bought with another", max, False),
    ("superhuman", "Superhuman games", "games with a mean HNS above 1", max, False),
)
COUNT = "superhuman"  # the aggregate that is a whole number
HALVES = (
    ("agent_optimal", "Agent-Optimal half", "mean HNS where agents do well", max),
    ("human_optimal", "Human-Optimal half", "mean HNS where people do better", max),
    ("ratio", "Ratio of the halves", "Agent-Optimal over Human-Optimal; near 1 is balanced", min),
    ("har_hns", "Har-HNS", "harmonic mean of HNS + 0.1", max),
)


@dataclass(frozen=True)
class Made:
    """How a report was made.

    Attributes:
        command: that made it.
        date: when.
        commit: of the code that made it, None outside its repository.
        machine: where.
        version: of jedi-env.
        draw: strips are drawn where a run left none.
    """

    command: str
    date: datetime
    commit: str | None
    machine: str
    version: str
    draw: bool


def render(gathered: Gathered, against: Sequence[str], made: Made) -> str:
    """Return the page.

    Args:
        gathered: the runs.
        against: published methods to compare with.
        made: how.
    """
    series = {method.label: i for i, method in enumerate(gathered.methods)}
    warnings = list(gathered.warnings)
    strips = strip_cards(gathered, made.draw, warnings)
    rows = score_table(gathered, against)
    compared = comparisons(gathered, against)
    finished = sum(run.finished for run in gathered.runs)
    page = _template().render(
        made=made,
        date=made.date.strftime("%Y-%m-%d %H:%M UTC"),
        runs=[_run_line(run, made.date) for run in gathered.runs],
        finished=finished,
        games=games_of(gathered.runs),
        seeds=sorted({run.seed for run in gathered.runs}),
        total_steps=sum(_real_steps(run) for run in gathered.runs),
        total_hours=sum(run.minutes for run in gathered.runs) / 60,
        methods=gathered.methods,
        series=series,
        colour=lambda label: series[label] % svg.COLOURS,
        warnings=warnings,
        headlines=[_headline(comparison) for comparison in compared],
        axes=[(name, label) for name, (label, _) in AXES.items()],
        curve_sources=[(name, label) for name, label, _ in SOURCES],
        default_source=default_source(gathered.runs),
        charts=[curve_charts(game, gathered, series) for game in games_of(gathered.runs)],
        watch=[chart for game in games_of(gathered.runs) if (chart := reward_charts(game, gathered, series))],
        rows=[_table_row(row) for row in rows if row.ours],
        against=[method for method in against if any(method in row.published for row in rows if row.ours)],
        scored=[m.label for m in gathered.methods if any(m.label in row.ours for row in rows)],
        notes=protocol_notes(gathered),
        comparisons=[_comparison(comparison, series) for comparison in compared],
        strips=strips,
        strip_rows=ROWS,
        open_lanes=OPEN_LANES,
        demos=[demo_card(run) for run in gathered.runs if run.demo is not None],
        sources=[published()[method] for method in against],
        all_games=len(GAMES),
        resamples=RESAMPLES,
    )
    return page + "\n"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("trainers.report_page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = svg.shown
    return environment.get_template("page.html.j2")


def summary(gathered: Gathered, against: Sequence[str], made: Made) -> dict[str, Any]:
    """Return the report's numbers as JSON."""
    return {
        "made": {**asdict(made), "date": made.date.isoformat()},
        "runs": [
            {
                "path": str(run.path),
                "game": run.game,
                "seed": run.seed,
                "method": run.method,
                "config_hash": run.config_hash,
                "finished": run.finished,
                "epochs": run.epochs,
                "epochs_planned": run.epochs_planned,
                "real_steps": _real_steps(run),
                "minutes": run.minutes,
                "score": None if run.score is None else run.score.at.value,
                "final": run.score is not None and run.score.final,
                "episodes": None if run.score is None else run.score.episodes,
                "trusted_horizon": None if run.fidelity is None else run.fidelity.trusted_horizon,
            }
            for run in gathered.runs
        ],
        "games": [
            {
                "game": row.game,
                "random": row.random,
                "human": row.human,
                "published": dict(row.published),
                "ours": {
                    method: {"mean": cell.mean, "hns": row.hns(cell.mean), "partial": cell.partial}
                    for method, cell in row.ours.items()
                },
                "best": sorted(row.best),
            }
            for row in score_table(gathered, against)
        ],
        "aggregates": [
            {
                "games": list(comparison.games),
                "missing": list(comparison.missing),
                "methods": {entry.method: _aggregate_json(entry) for entry in comparison.entries},
                "left_out": list(comparison.left_out),
                "refused": dict(comparison.refused),
            }
            for comparison in comparisons(gathered, against)
        ],
        "demos": [
            {"path": str(run.path), "game": run.game, "agent": list(run.demo.agent), "random": list(run.demo.random)}
            for run in gathered.runs
            if run.demo is not None
        ],
        "warnings": list(gathered.warnings),
    }


def _aggregate_json(entry: Entry) -> dict[str, Any]:
    numbers: dict[str, Any] = {"ours": entry.ours, "seeds": entry.aggregate.seeds, "note": entry.note}
    for field in dict.fromkeys([name for name, *_ in (*AGGREGATES, *HALVES)]):
        interval = _known(entry, field)
        values = (interval.value, interval.low, interval.high) if _has_interval(entry) else (interval.value,)
        numbers[field] = [value if math.isfinite(value) else None for value in values]
    return numbers


# The runs


def _real_steps(run: Run) -> int:
    points = (*run.play, *run.dream_reward, *run.real_reward, *(e.at for e in run.evaluations))
    return max((int(point.real_steps) for point in points), default=0)


def _run_line(run: Run, now: datetime) -> dict[str, Any]:
    return {
        "run": run,
        "status": "finished" if run.finished else "unfinished",
        "told": "" if run.finished else f"{progress_of(run)}; last wrote {ago(run.last_write, now)}",
        "real_steps": _real_steps(run),
        "commit": ", ".join(c[:7] + ("+" if c.endswith("+") else "") for c in run.commits) or svg.shown(math.nan),
        "machine": ", ".join(run.machines) or svg.shown(math.nan),
        "phases": ", ".join(f"{name.replace('_', ' ')} {value / 60:.1f} min" for name, value in run.seconds.items()),
    }


def _headline(comparison: Comparison) -> dict[str, Any]:
    """Return the tiles: the first of our methods."""
    ours = [entry for entry in comparison.entries if entry.ours]
    return {
        "games": comparison.games,
        "complete": not comparison.missing,
        "refused": comparison.refused,
        "entries": [
            {
                "method": entry.method,
                "note": entry.note,
                "tiles": [(title, _known(entry, field), _has_interval(entry)) for field, title, *_ in AGGREGATES[:5]],
            }
            for entry in ours
        ],
    }


# Tables


def _table_row(row: Row) -> dict[str, Any]:
    def cell(score: float | None) -> dict[str, Any]:
        return {"raw": score, "hns": None if score is None else row.hns(score)}

    half = "agent" if row.game in AGENT_OPTIMAL else "human" if row.game in HUMAN_OPTIMAL else ""
    ours = {}
    for method, found in row.ours.items():
        seeds = [
            {
                "seed": seed,
                **cell(evaluation.at.value),
                "episodes": evaluation.episodes,
                "steps": int(evaluation.at.real_steps),
                "final": evaluation.final,
            }
            for seed, evaluation in sorted(found.by_seed.items())
        ]
        ours[method] = {**cell(found.mean), "seeds": seeds, "partial": found.partial}
    return {
        "game": row.game,
        "half": half,
        "random": cell(row.random),
        "human": cell(row.human),
        "published": {method: cell(score) for method, score in row.published.items()},
        "ours": ours,
        "best": row.best,
    }


def _has_interval(entry: Entry) -> bool:
    return entry.by_run and entry.aggregate.seeds > 1


def _known(entry: Entry, field: str) -> Interval:
    over_runs = {name for name, _, _, _, by_run in AGGREGATES if by_run}
    if field in over_runs and not entry.by_run:
        return UNKNOWN
    interval: Interval = getattr(entry.aggregate, field)
    return interval


def _comparison(comparison: Comparison, series: Mapping[str, int]) -> dict[str, Any]:
    def chart(field: str, title: str, best: Callable[[Sequence[float]], float], bars: bool) -> Markup:
        rows = [
            svg.ForestRow(
                entry.method, series[entry.method] if entry.ours else None, _known(entry, field), _has_interval(entry)
            )
            for entry in comparison.entries
        ]
        return svg.forest(rows, label=f"{title} by method", bars=bars, best=best, whole=field == COUNT)

    def count(half: Sequence[str]) -> int:
        return len([game for game in comparison.games if game in half])

    first: Aggregate | None = comparison.entries[0].aggregate if comparison.entries else None
    return {
        "comparison": comparison,
        "complete": not comparison.missing,
        "entries": comparison.entries,
        "notes": [
            f"{', '.join(entry.method for entry in comparison.entries if entry.note == note)}: {note}."
            for note in dict.fromkeys(entry.note for entry in comparison.entries if entry.note)
        ],
        "aggregates": [
            {"title": title, "told": told, "svg": chart(field, title, best, bars=False)}
            for field, title, told, best, _ in AGGREGATES
        ],
        "halves": [
            {"title": title, "told": told, "svg": chart(field, title, best, bars=True)}
            for field, title, told, best in HALVES
            if any(math.isfinite(_known(entry, field).value) for entry in comparison.entries)
        ],
        "agent_games": count(AGENT_OPTIMAL),
        "human_games": count(HUMAN_OPTIMAL),
        "resamples": None if first is None else first.resamples,
        "table": [
            {
                "entry": entry,
                "cells": [(_known(entry, field), _has_interval(entry), field == COUNT) for field, _ in _all_fields()],
            }
            for entry in comparison.entries
        ],
        "columns": [title for _, title in _all_fields()],
    }


def _all_fields() -> tuple[tuple[str, str], ...]:
    seen = {field: title for field, title, *_ in (*AGGREGATES, *HALVES)}
    return tuple(seen.items())
