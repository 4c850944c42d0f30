"""``jedi-env dream``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from jedi_env.arguments import check_flags
from jedi_env.errors import UsageError
from jedi_env.folder import check_writable
from trainers.commands.common import open_dream


@dataclass(frozen=True)
class Dream:
    """Train a Stable-Baselines3 algorithm inside a dream, then play its policy on the real game.

    Attributes:
        dream: a game with a dream on this machine (see ``jedi-env list``), a checkpoint folder, a run directory, or
            hub://owner/repo.
        algo: PPO, A2C; DQN for discrete actions; SAC, TD3 for a Box of them; with sb3-contrib also RecurrentPPO, TRPO,
            ARS; QRDQN for discrete actions; TQC for a Box.
        steps: dream steps to learn from.
        lanes: dreams side by side.
        horizon: dream steps an episode; default: the checkpoint's recommendation.
        seed: of algorithm and dreams.
        episodes: full real games to score it on; 0: none.
        save: where to save the policy (Stable-Baselines3's zip).
        json: print JSON.
    """

    dream: Positional[str]
    algo: str = "PPO"
    steps: int = 200_000
    lanes: int = 64
    horizon: int | None = None
    seed: int = 0
    episodes: int = 30
    save: Path | None = None
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Train in the dream, score on reality."""
        from trainers.log import progress
        from trainers.sb3 import learn, make_algorithm, score_on_reality

        check_flags(("--steps", self.steps, 1), ("--lanes", self.lanes, 1), ("--episodes", self.episodes, 0))
        check_flags(("--seed", self.seed, 0))
        checkpoint = open_dream(self.dream)
        if self.episodes and checkpoint.game is None:
            raise UsageError("This dream names no real game to play: write --episodes 0.")
        if self.save is not None and not self.save.parent.is_dir():  # before the work, not after it
            raise UsageError(f"--save is {self.save}, but there is no folder {self.save.parent}: make it first.")
        if self.save is not None:
            check_writable(self.save.parent)
        model = make_algorithm(self.algo, checkpoint, self.lanes, self.seed, self.horizon)
        dreamed = learn(model, self.steps, f"{self.algo} in the dream").final
        if self.save is not None:
            model.save(self.save)
        result: dict[str, Any] = {"algo": self.algo, "imagined_steps": model.num_timesteps, "dream_return": dreamed}
        shown = "none ended" if dreamed is None else f"{dreamed:.2f}"
        told = f"{self.algo}: {model.num_timesteps} dream steps, return of a dream episode {shown}"
        if self.episodes and checkpoint.game is not None:
            with progress(None, self.episodes, "real games") as bar:
                score = score_on_reality(model, checkpoint.game, checkpoint, self.episodes, bar.update)
            result["real"] = score.to_json()
            told += f"\n{score.game}: {score.mean:.2f} +- {score.std:.2f} over {self.episodes} real games"
        told += "" if self.save is not None else "\nThe policy was not saved: --save ppo.zip does that."
        print(json.dumps(result) if self.json else told)
