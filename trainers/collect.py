"""Play the real game into the replay, one lane, resumable: the emulator is deterministic given a seed and the actions.

What a crash must not lose is therefore small: which game this is and the actions played in it so far. Playing them
again brings the emulator back to the same frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from jedi_env.envs.atari import life_lost
from jedi_env.errors import RunError
from trainers.faults import game_faults
from trainers.policy import Policy
from trainers.replay import Replay

# Observations that a policy with memory lives through again when an epoch's collection goes on in mid-episode.
BURN_IN = 16


@dataclass
class Progress:
    """Where the collector stands: all that resuming needs.

    Attributes:
        game: how many games were begun, less one; it seeds the game.
        actions: what was played in the game so far: numbers, or lists of them.
        score: the game's score so far, unclipped.
    """

    game: int = -1
    actions: list[Any] = field(default_factory=list)
    score: float = 0.0


class Collector:
    """Plays ``env`` into ``replay``.

    Args:
        env: a single real game with pixel observations and full games as episodes.
        replay: where the play is logged.
        life_loss: log a lost life as a termination.
        seed: of the run; each game's own seed derives from it.
        progress: where to go on.
    """

    def __init__(
        self,
        env: gym.Env[npt.NDArray[np.uint8], Any],
        replay: Replay,
        *,
        life_loss: bool,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        self.env = env
        self.replay = replay
        self.life_loss = life_loss
        self.seed = seed
        self.progress = progress or Progress()
        self._pixels: npt.NDArray[np.uint8] | None = None
        self._lives = 0
        self._recent: list[npt.NDArray[np.uint8]] = []  # observations of the episode under way, the last BURN_IN
        if self.progress.game >= 0:
            self._replay_game()

    def collect(self, steps: int, policy: Policy) -> Iterator[float | None]:
        """Play ``steps`` steps, yielding at each the score of a game that just ended, or None."""
        for pixels in self._recent[:-1]:
            policy.act(pixels[None], np.array([pixels is self._recent[0]]))
        for _ in range(steps):
            score = None
            if self._pixels is None:
                self._begin_game()
            first = np.array([len(self._recent) == 1])
            assert self._pixels is not None  # a game was begun
            action = policy.act(self._pixels[None], first)[0].tolist()
            before = self._pixels
            reward, ended, over = self._step(action)
            self.replay.append(before, action, reward, ended)
            self.progress.actions.append(action)
            self.progress.score += reward
            if ended or over:
                self.replay.end_episode(self._recent[-1])
                self._recent = self._recent[-1:]
            if over:
                score = self.progress.score
                self._pixels = None
            yield score

    def _begin_game(self) -> None:
        self.progress = Progress(self.progress.game + 1)
        self._reset()

    def _reset(self) -> None:
        seed = int(np.random.SeedSequence((self.seed, self.progress.game)).generate_state(1)[0] >> 1)
        with self._faults():
            self._pixels, info = self.env.reset(seed=seed)
        self._lives = info.get("lives", 0)
        self._recent = [self._pixels]

    def _step(self, action: int | list[float]) -> tuple[float, bool, bool]:
        """Return reward, whether the episode terminated as training counts it, and whether the game is over."""
        with self._faults():
            taken = np.asarray(action, self.env.action_space.dtype)[()]
            self._pixels, reward, terminated, truncated, info = self.env.step(taken)
        if not math.isfinite(reward):
            raise RunError(f"The game paid {reward} in step {len(self.progress.actions) + 1}: not a finite reward.")
        lives = info.get("lives", 0)
        lost = self.life_loss and life_lost(self._lives, lives)
        self._lives = lives
        self._recent = [*self._recent[1 - BURN_IN :], self._pixels]
        return float(reward), terminated or lost, terminated or truncated

    def _faults(self) -> AbstractContextManager[None]:
        return game_faults(
            f"in game {self.progress.game + 1} of the collection after {len(self.progress.actions)} steps"
        )

    def _replay_game(self) -> None:
        self._reset()
        over = False
        for action in self.progress.actions:
            _, ended, over = self._step(action)
            if ended or over:
                self._recent = self._recent[-1:]
        if over:
            self._pixels = None
