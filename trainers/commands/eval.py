"""``jedi-env eval``."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tyro.conf import Positional

from jedi_env.arguments import check_flags
from jedi_env.device import resolve_device
from trainers.commands.common import open_dream


@dataclass(frozen=True)
class Eval:
    """Score the native agent of a run or a checkpoint on full real games.

    Attributes:
        path: a run directory, a checkpoint folder, a game with a dream on this machine, or hub://owner/repo.
        episodes: full games, each counted (Atari100k: 100).
        seed: of the agent's draws.
        device: auto, cpu, cuda, cuda:1, mps.
        json: print JSON: one return an episode, and all that says how they came about.
    """

    path: Positional[str]
    episodes: int = 100
    seed: int = 0
    device: str = "auto"
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Score."""
        from trainers.evaluate import record_of, score_checkpoint

        check_flags(("--episodes", self.episodes, 1), ("--seed", self.seed, 0))
        checkpoint = open_dream(self.path, resolve_device(self.device))
        score = score_checkpoint(checkpoint, self.episodes, self.seed)
        if self.json:
            print(json.dumps(record_of(score, checkpoint, self.seed)))
            return
        print(f"{score.game}: {score.mean:.2f} +- {score.std:.2f} over {len(score.returns)} real games")
