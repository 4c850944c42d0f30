"""``jedi-env train``."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import Positional

from jedi_env.config_json import to_json
from jedi_env.device import resolve_device
from jedi_env.errors import UsageError, nearest
from trainers.config import TrainConfig
from trainers.presets import PRESETS

if TYPE_CHECKING:
    from trainers.estimate import Estimate

_HOURS_A_DAY, _DAYS_A_MONTH = 24, 30.4


@dataclass(frozen=True)
class Train:
    """Train world model and agent on the real game; the same command resumes.

    Every field of the preset is a flag too, to be written after the game, for example ``--fit-agent.batch 64`` or
    ``--world-model.switching 0``; ``--dry-run`` prints them all.

    Attributes:
        game: one of the 26 games (see ``jedi-env list``) or the id of a Gymnasium environment with image observations.
        preset: paper (JEDI at its published size), stochastic (JEDI with a random frame skip), diamond (the pixel
            baseline), tiny (learns on two CPU cores), demo.
        seed: of everything random in the run.
        run_dir: where the run lives; default runs/<game>-<preset>-<seed>.
        device: auto, cpu, cuda, cuda:1, mps.
        dry_run: print every setting with its source, and how long the run would take on this machine; make nothing.
        estimate: measure that time (a minute or two at paper size).
        json: with --dry-run, print JSON.
    """

    game: Positional[str]
    preset: str = "tiny"
    seed: int = 0
    run_dir: Path | None = None
    device: str = "auto"
    dry_run: bool = False
    estimate: bool = True
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Train."""
        if self.preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise UsageError(f"Unknown preset {self.preset!r}.{nearest(self.preset, PRESETS)} Write one of: {known}.")
        config = tyro.cli(
            TrainConfig,
            prog="jedi-env train GAME",
            args=rest,
            default=PRESETS[self.preset],
            config=(tyro.conf.AvoidSubcommands,),  # which encoder it is, the preset says; so its fields are flags too
        )
        name = re.sub("[/:]", "-", f"{self.game}-{self.preset}-{self.seed}".lower())  # of an id such as module:space/id
        run_dir = self.run_dir or Path("runs") / name
        if self.dry_run:
            self._tell(config, run_dir)
            return
        from trainers.train import train

        checkpoint = train(config, self.game, self.seed, run_dir, resolve_device(self.device))
        print(f"Checkpoint: {checkpoint}")
        scores = run_dir / "scores.json"
        if scores.exists():
            print(f"Scores:     {scores}")

    def _tell(self, config: TrainConfig, run_dir: Path) -> None:
        """Print what a run would be."""
        from trainers.sources import settings_of, shown

        settings = settings_of(config)
        measured = self._measure(config) if self.estimate else None
        if self.json:
            told = {
                "game": self.game,
                "preset": self.preset,
                "run_dir": str(run_dir),
                "config": to_json(config),
                "sources": {setting.path: {**asdict(setting.source), "paper": setting.paper} for setting in settings},
                "estimate": None if measured is None else measured.to_json(),
            }
            print(json.dumps(told, indent=1))
            return
        print(f"{self.game}, preset {self.preset}, in {run_dir}\n")
        for setting in settings:
            print(f"{setting.path:50s} {shown(setting.value):24s} {setting.origin}")
        if measured is not None:
            print(_in_words(measured))

    def _measure(self, config: TrainConfig) -> Estimate:
        from trainers.estimate import estimate

        device = resolve_device(self.device)
        return estimate(config, self.game, device, lambda what: print(f"Measuring: {what} ...", file=sys.stderr))


def _in_words(measured: Estimate) -> str:
    parts = ", ".join(f"{name} {number:,}" for name, number in measured.parameters.items() if number)
    lines = [
        "",
        f"Parameters: {sum(measured.parameters.values()):,} ({parts})",
        f"Epochs:     {measured.epochs:,}",
        "",
        f"Measured on {measured.machine} (median of a few):",
    ]
    for cost in measured.costs:
        scaled = f", measured in a piece and multiplied by {cost.scaled:g}" if cost.scaled != 1 else ""
        lines.append(f"  {cost.name:34s} {cost.seconds:9.4f} s x {cost.times:>9,} = {cost.hours:10.1f} h{scaled}")
    lines.append(f"Estimated time on this machine: {_duration(measured.hours)}. Evaluation and saving are not counted.")
    return "\n".join(lines)


def _duration(hours: float) -> str:
    days = hours / _HOURS_A_DAY
    if days >= 2 * _DAYS_A_MONTH:
        return f"{hours:,.0f} hours, that is {days / _DAYS_A_MONTH:.0f} months: take a faster one"
    return f"{hours:,.1f} hours" + (f", that is {days:.0f} days" if days >= 2 else "")
