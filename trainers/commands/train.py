"""``jedi-env train``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from jedi_env.config_json import to_json
from jedi_env.device import resolve_device
from jedi_env.errors import UsageError, nearest
from jedi_env.games import GAMES
from trainers.commands.common import SIGNED, resolve_config, run_name
from trainers.config import TrainConfig

if TYPE_CHECKING:
    from trainers.estimate import Estimate

_HOURS_A_DAY, _DAYS_A_MONTH = 24, 30.4


@dataclass(frozen=True)
class Train:
    """Train world model and agent on the real game; the same command resumes.

    The game is one of the 26, or with --env an environment of your own (docs/your_game.md). Every field of the preset
    is a flag too, to be written after the game, for example ``--fit-agent.batch 64`` or ``--world-model.switching 0``;
    ``--dry-run`` prints them all.

    Attributes:
        game: one of the 26 games (see ``jedi-env list``), or JEDICatch-v0; rewards are learned by their sign.
        env: instead of a game, the id of a Gymnasium environment with image observations and Discrete or Box actions,
            such as CarRacing-v3, or my_module:MyGame-v0, which imports my_module first. Its rewards are learned
            whatever their size.
        preset: paper (JEDI at its published size), stochastic (JEDI with a random frame skip), diamond (the pixel
            baseline), gpu (JEDI with few large updates, for one large GPU), tiny (about an hour of one CPU
            thread), demo (what `make train-demo` trains).
        seed: of everything random in the run.
        run_dir: where the run lives; default runs/<game>-<preset>-<seed>.
        device: auto, cpu, cuda, cuda:1, mps.
        minutes: stop after the last epoch that is likely to fit into so many; the same command goes on.
        dry_run: print every setting with its source, and how long the run would take on this machine; make nothing.
        estimate: measure that time (a minute or two at paper size).
        json: with --dry-run, print JSON.
    """

    game: Positional[tuple[str, ...]] = ()
    env: str | None = None
    preset: str = "tiny"
    seed: int = 0
    run_dir: Path | None = None
    device: str = "auto"
    minutes: float | None = None
    dry_run: bool = False
    estimate: bool = True
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Train."""
        game = self._game(rest)
        config = resolve_config(self.preset, rest, "jedi-env train GAME", any_game=self.env is not None)
        run_dir = self.run_dir or Path("runs") / run_name(game, self.preset, self.seed)
        if self.dry_run:
            self._tell(game, config, run_dir)
            return
        from trainers.distributed import first, joined
        from trainers.time_limit import TimeLimit
        from trainers.train import train

        limit = None if self.minutes is None else TimeLimit(self.minutes)
        with joined(self.device) as device:
            checkpoint = train(config, game, self.seed, run_dir, device, limit)
            if not first():
                return
        if not checkpoint.exists():  # the time was up, and the loop has said so
            return
        print(f"Checkpoint: {checkpoint}")
        scores = run_dir / "scores.json"
        if scores.exists():
            print(f"Scores:     {scores}")

    def _game(self, settings: list[str]) -> str:
        """Return what is to be played, having seen that it is one thing, and what it is called for."""
        named = [*self.game, *([] if self.env is None else [self.env])]
        if len(named) == 1:
            if self.game and named[0] not in SIGNED:
                raise UsageError(
                    f"{named[0]!r} is none of the 26 games.{nearest(named[0], GAMES)} `jedi-env list` shows them. If "
                    f"it is an environment of your own, write `jedi-env train --env {named[0]}`."
                )
            return named[0]
        told = f"These are {len(named)} games: {', '.join(named)}." if named else "Which game?"
        if settings:
            told += " Settings of the preset come after the game."
        raise UsageError(
            f"{told} Write one of the 26 games (`jedi-env train Breakout`; `jedi-env list` shows them), or the id of "
            "an environment of your own (`jedi-env train --env CarRacing-v3`)."
        )

    def _tell(self, game: str, config: TrainConfig, run_dir: Path) -> None:
        """Print what a run would be."""
        from trainers.sources import settings_of, shown

        settings = settings_of(config)
        measured = self._measure(game, config) if self.estimate else None
        if self.json:
            told = {
                "game": game,
                "preset": self.preset,
                "run_dir": str(run_dir),
                "config": to_json(config),
                "sources": {setting.path: {**asdict(setting.source), "paper": setting.paper} for setting in settings},
                "estimate": None if measured is None else measured.to_json(),
            }
            print(json.dumps(told, indent=1))
            return
        print(f"{game}, preset {self.preset}, in {run_dir}\n")
        for setting in settings:
            print(f"{setting.path:50s} {shown(setting.value):24s} {setting.origin}")
        if measured is not None:
            print(_in_words(measured))

    def _measure(self, game: str, config: TrainConfig) -> Estimate:
        from trainers.estimate import estimate

        device = resolve_device(self.device)
        return estimate(config, game, device, lambda what: print(f"Measuring: {what} ...", file=sys.stderr))


def _in_words(measured: Estimate) -> str:
    parts = ", ".join(f"{name} {number:,}" for name, number in measured.parameters.items() if number)
    lines = [
        "",
        f"Parameters: {sum(measured.parameters.values()):,} ({parts})",
        f"Epochs:     {measured.epochs:,}",
        "",
        f"Measured on {measured.machine}, as busy as it is now (median of a few):",
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
