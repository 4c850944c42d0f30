"""The pictures of a fidelity report: its curves over the horizon, and a strip of reality, latent and dream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jedi_env.models.world_model import WorldModel
from jedi_env.types import Segment
from trainers.fidelity import FidelityReport
from trainers.pictures import SCALE, save_strip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRIP_LANES, STRIP_STEPS = 4, 15


def save_plot(report: FidelityReport, path: Path) -> None:
    """Save four panels: frame errors, what the probe reads, rewards and ends, spread and rank."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(2, 2)
    _errors(panels[0, 0], report)
    _probes(panels[0, 1], report)
    _events(panels[1, 0], report)
    _spread(panels[1, 1], report)
    for panel in panels.flat:
        panel.set_xlabel("horizon: dreamed steps")
        panel.set_xlim(0, report.horizons[-1])
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0] and panel.get_legend() is None:
            panel.legend(fontsize=8)
    paid = "; ".join(f"{row.policy}: {row.dream.mean:+.2f} dreamed, {row.real.mean:+.2f} real" for row in report.watch)
    at_least = "at least " if report.trusted_horizon == report.horizons[-1] else ""
    figure.suptitle(
        f"{report.setup['game']}: the dream beats copying for {at_least}{report.trusted_horizon} steps\n"
        f"reward in windows of {report.horizons[-1]} steps: {paid}",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def save_sample(world_model: WorldModel, segment: Segment, path: Path, seed: int = 0, scale: int = SCALE) -> bool:
    """Save a strip of a few lanes that last; return False, and save none, where nothing draws the frames."""
    if world_model.decoder is None:
        return False
    context = world_model.context_length - 1
    length = min(context + STRIP_STEPS, segment.actions.shape[1])
    lasting = segment.mask[:, context:length].sum(dim=1)
    order = (-lasting).argsort(stable=True)[:STRIP_LANES].sort().values
    few = segment[order].to(next(world_model.parameters()).device)
    shown = Segment(
        few.pixels[:, : length + 1],
        few.actions[:, :length],
        few.rewards[:, :length],
        few.terminated[:, :length],
        few.mask[:, :length],
    )
    save_strip(world_model, shown, path, seed, scale)
    return True


def _line(axes: Axes, steps: Sequence[int], values: Sequence[float | None], label: str, **style: object) -> None:
    """Draw a curve, with gaps where there is no value."""
    axes.plot(steps, [np.nan if value is None else value for value in values], label=label, **style)  # type: ignore[arg-type]


def _errors(axes: Axes, report: FidelityReport) -> None:
    rows = report.frames
    for name, ratios, colour in (
        ("copying the last frame", [row.against_copy for row in rows], "tab:blue"),
        ("a random other frame", [row.against_random for row in rows], "tab:grey"),
    ):
        known = [(row.horizon, ratio) for row, ratio in zip(rows, ratios, strict=True) if ratio is not None]
        steps = [k for k, _ in known]
        axes.plot(steps, [ratio.value for _, ratio in known], "o-", ms=3, color=colour, label=f"over that of {name}")
        axes.fill_between(
            steps, [ratio.low for _, ratio in known], [ratio.high for _, ratio in known], color=colour, alpha=0.2
        )
    axes.axhline(1, color="black", lw=0.8)
    axes.axvline(report.trusted_horizon, color="tab:green", ls="--", lw=1.2, label="beats copying up to here")
    axes.set_ylim(bottom=0)
    axes.set_title("squared error of the dreamed frame (95% interval)", fontsize=10)


def _probes(axes: Axes, report: FidelityReport) -> None:
    names = list(dict.fromkeys(row.name for row in report.probes))
    for i, name in enumerate(names):
        rows = [row for row in report.probes if row.name == name]
        steps = [row.horizon for row in rows]
        _line(axes, steps, [row.r2 for row in rows], name, color=f"C{i}", marker="o", ms=3)
        _line(axes, steps, [row.r2_encoded for row in rows], "_", color=f"C{i}", ls=":")
    axes.set_ylim(-0.25, 1.02)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_title("R2 of a linear probe: dreamed frames (dotted: encoded real ones)", fontsize=10)
    if report.probes_left_out is not None:
        axes.text(0.5, 0.5, f"no probe:\n{report.probes_left_out}", ha="center", transform=axes.transAxes, wrap=True)


def _events(axes: Axes, report: FidelityReport) -> None:
    steps = [row.horizon for row in report.events]
    rewards, ends = [row.reward for row in report.events], [row.end for row in report.events]
    for name, tables, event, quiet, colour in (
        ("reward +1", rewards, 2, 1, "tab:orange"),
        ("reward -1", rewards, 0, 1, "tab:purple"),
        ("end", ends, 1, 0, "tab:red"),
    ):
        if any(sum(table.counts[event]) for table in tables):
            came, not_came = (
                [None if (shown := table.probabilities[real]) is None else shown[event] for table in tables]
                for real in (event, quiet)
            )
            _line(axes, steps, came, f"{name}, where it came", color=colour, marker="o", ms=3)
            _line(axes, steps, not_came, f"{name}, where nothing came", color=colour, ls=":")
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("mean probability of events (0: read from real frames)", fontsize=10)


def _spread(axes: Axes, report: FidelityReport) -> None:
    steps = [row.horizon for row in report.spread]
    _line(axes, steps, [row.rank_real for row in report.spread], "effective rank, real", color="tab:blue", ls=":")
    _line(axes, steps, [row.rank_dreamed for row in report.spread], "effective rank, dreamed", color="tab:blue")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("effective rank")
    axes.legend(fontsize=8, loc="lower left")
    axes.set_title("do the dreamed frames differ as real ones do?", fontsize=10)
    other = axes.twinx()
    _line(other, steps, [row.std_real for row in report.spread], "std, real", color="tab:brown", ls=":")
    _line(other, steps, [row.std_dreamed for row in report.spread], "std, dreamed", color="tab:brown")
    other.set_ylim(bottom=0)
    other.set_ylabel("standard deviation over the lanes")
    other.legend(fontsize=8, loc="lower right")
