"""``jedi-env fidelity``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from jedi_env.games import GAMES
from trainers.commands.common import open_dream

if TYPE_CHECKING:
    from trainers.fidelity import FidelityReport


@dataclass(frozen=True)
class Fidelity:
    """Measure how far a dream can be trusted: real and dreamed play side by side, on games that no training saw.

    Writes fidelity.json, fidelity.png and strip.png, and stores the report in the checkpoint, where it sets the
    recommended horizon if there is none yet.

    Attributes:
        dream: a run directory or checkpoint folder, or a game with a dream on this machine, or hub://owner/repo.
        horizon: the longest horizon measured, in dreamed steps.
        segments: starting points drawn uniformly; as many again around rewards and ends.
        steps: held-out real steps that they are drawn from.
        probe_steps: real steps of other games that the probe of ALE's RAM is fitted on.
        probes: read ALE's RAM from the latents, where its layout is known.
        on_policy: play with the checkpoint's own agent rather than with random actions.
        sampler_steps: denoising steps a frame; default: the checkpoint's. Never stored.
        order: 1 Euler, 2 Heun; default: the checkpoint's. Never stored.
        seed: of games, actions, starting points, noise and bootstrap.
        out: folder for what it writes; default: fidelity beside the checkpoint, or runs/fidelity-<game>.
        store: write the report into the checkpoint, if it was named by its folder.
        set_horizon: recommend the measured horizon even where the checkpoint recommends another one.
        device: auto, cpu, cuda, cuda:1, mps.
        json: print JSON.
    """

    dream: Positional[str]
    horizon: int = 30
    segments: int = 256
    steps: int = 3_000
    probe_steps: int = 20_000
    probes: bool = True
    on_policy: bool = False
    sampler_steps: int | None = None
    order: int | None = None
    seed: int = 0
    out: Path | None = None
    store: bool = True
    set_horizon: bool = False
    device: str = "auto"
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Measure, draw, store, tell."""
        from jedi_env.config_json import to_json
        from jedi_env.device import resolve_device
        from jedi_env.folder import check_can_be_put_aside, check_writable
        from trainers.fidelity import FidelityConfig, fidelity, store, with_sampler
        from trainers.fidelity_plot import save_plot, save_sample

        config = FidelityConfig(
            self.horizon, self.segments, self.steps, self.probe_steps, self.probes, self.on_policy, self.seed
        )
        device = resolve_device(self.device)
        folder = self._folder()
        measured = with_sampler(
            open_dream(self.dream if folder is None else str(folder)).to(device), self.sampler_steps, self.order
        )
        stored = self._why_not_stored(folder)
        if stored is None and folder is not None:
            check_can_be_put_aside(folder.resolve())  # before the work, not after it
        name = str(measured.game).lower().replace("/", "-")
        out = self.out or (
            Path("runs") / f"fidelity-{name}" if folder is None else folder.resolve().parent / "fidelity"
        )
        check_writable(out)
        report, segments = fidelity(measured, config)

        out.mkdir(parents=True, exist_ok=True)
        written = [out / "fidelity.json", out / "fidelity.png"]
        written[0].write_text(json.dumps(to_json(report), indent=1))
        save_plot(report, written[1])
        if save_sample(measured.world_model, segments, out / "strip.png", self.seed):
            written.append(out / "strip.png")
        if stored is None and folder is not None:
            horizon = store(report, measured, folder, set_horizon=self.set_horizon)
            stored = f"Stored in {folder}, which recommends a horizon of {horizon}."
            if horizon and horizon > report.trusted_horizon:
                stored += f" Trust it for no more than {report.trusted_horizon} steps all the same."
        if self.json:
            print(json.dumps(to_json(report)))
            return
        print(summary(report))
        print(stored)
        print(f"Written: {', '.join(str(path) for path in written)}")

    def _folder(self) -> Path | None:
        """Return the checkpoint's folder if it or its run was named, as :func:`open_dream` reads the name."""
        path = Path(self.dream)
        if (path / "checkpoint").is_dir():
            return path / "checkpoint"
        return path if path.is_dir() and self.dream not in GAMES else None

    def _why_not_stored(self, folder: Path | None) -> str | None:
        if not self.store:
            return "Not stored."
        if self.sampler_steps is not None or self.order is not None:
            return "Not stored: the sampler is not the checkpoint's."
        if folder is None:
            return "Not stored: name the checkpoint by its folder to store the report in it."
        return None


def summary(report: FidelityReport) -> str:
    """Return the report in a screenful."""

    def show(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    names = list(dict.fromkeys(row.name for row in report.probes))
    read = {(row.name, row.horizon): row for row in report.probes}
    errors = {row.horizon: row for row in report.frames}
    header = ["steps", "lanes", "error/copy (95%)", "/random", "+1 recall", "end recall", "rank real/dream"]
    lines = [header + [f"{name} R2 (err)" for name in names]]
    for spread, events in zip(report.spread, report.events, strict=True):
        k = spread.horizon
        frame = errors.get(k)
        copy = None if frame is None else frame.against_copy
        random = None if frame is None else frame.against_random
        row = [
            str(k),
            str(spread.lanes),
            "-" if copy is None else f"{copy.value:.2f} ({copy.low:.2f}-{copy.high:.2f})",
            show(None if random is None else random.value),
            f"{show(events.reward.recall[2])} of {sum(events.reward.counts[2])}",
            f"{show(events.end.recall[1])} of {sum(events.end.counts[1])}",
            f"{show(spread.rank_real, 0)}/{show(spread.rank_dreamed, 0)}",
        ]
        lines.append(row + [f"{show(read[name, k].r2)} ({show(read[name, k].error, 1)})" for name in names])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    told = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    if report.probes_left_out is not None:
        told.append(f"No probe: {report.probes_left_out}.")
    for paid in report.watch:
        told.append(
            f"Reward in {paid.windows} windows of up to {report.horizons[-1]} steps, {paid.policy} actions: "
            f"{paid.dream.mean:+.3f} +- {show(paid.dream.standard_error, 3)} in the dream, "
            f"{paid.real.mean:+.3f} +- {show(paid.real.standard_error, 3)} in reality; "
            f"{paid.dream.ends:.0%} of the dreams end, {paid.real.ends:.0%} of the real windows."
        )
    at_least = "at least " if report.trusted_horizon == report.horizons[-1] else ""
    told.append(f"The dream beats copying for {at_least}{report.trusted_horizon} steps.")
    return "\n".join(told)
