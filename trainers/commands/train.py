"""``jedi-env train``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from jedi_env.config_json import to_json
from jedi_env.device import resolve_device
from jedi_env.errors import UsageError, nearest
from trainers.config import TrainConfig
from trainers.presets import PRESETS


@dataclass(frozen=True)
class Train:
    """Train world model and agent on the real game; the same command resumes.

    Every field of the preset is a flag too, to be written after the game, for example ``--fit-agent.batch 64`` or
    ``--world-model.switching 0``; ``--dry-run`` prints them all.

    Attributes:
        game: one of the 26 games (see ``jedi-env list``) or the id of a Gymnasium environment with image observations.
        preset: paper (JEDI at its published size), diamond (the pixel baseline), tiny (learns on two CPU cores), demo.
        seed: of everything random in the run.
        run_dir: where the run lives; default runs/<game>-<preset>-<seed>.
        device: auto, cpu, cuda, cuda:1, mps.
        dry_run: print the resolved configuration as JSON and stop.
    """

    game: Positional[str]
    preset: str = "tiny"
    seed: int = 0
    run_dir: Path | None = None
    device: str = "auto"
    dry_run: bool = False

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
        run_dir = self.run_dir or Path("runs") / f"{self.game}-{self.preset}-{self.seed}".lower().replace("/", "-")
        if self.dry_run:
            print(json.dumps({"game": self.game, "run_dir": str(run_dir), "config": to_json(config)}, indent=1))
            return
        from trainers.train import train

        checkpoint = train(config, self.game, self.seed, run_dir, resolve_device(self.device))
        print(f"Checkpoint: {checkpoint}")
        scores = run_dir / "scores.json"
        if scores.exists():
            print(f"Scores:     {scores}")
