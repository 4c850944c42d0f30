"""``jedi-env eval``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from jedi_env.checkpoint import Checkpoint
from jedi_env.device import resolve_device
from jedi_env.errors import UsageError
from trainers.commands.common import check_least


@dataclass(frozen=True)
class Eval:
    """Score the native agent of a run or a checkpoint on full real games.

    Attributes:
        path: a run directory or a checkpoint folder.
        episodes: full games, each counted (Atari100k: 100).
        seed: of the agent's draws.
        device: auto, cpu, cuda, cuda:1, mps.
        json: print JSON, one return an episode included.
    """

    path: Positional[Path]
    episodes: int = 100
    seed: int = 0
    device: str = "auto"
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Score."""
        from trainers.evaluate import score_checkpoint

        check_least(("--episodes", self.episodes, 1), ("--seed", self.seed, 0))
        device = resolve_device(self.device)
        folder = self.path / "checkpoint" if (self.path / "checkpoint").is_dir() else self.path
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}. Write a run directory or a checkpoint folder.")
        if (folder / "state").is_dir():
            raise UsageError(f"The run in {folder} has no checkpoint yet: let `jedi-env train` come to its end first.")
        score = score_checkpoint(Checkpoint.load(folder, device), self.episodes, self.seed)
        if self.json:
            print(json.dumps(score.to_json()))
            return
        print(f"{score.game}: {score.mean:.2f} +- {score.std:.2f} over {len(score.returns)} real games")
