"""CarRacing as a driver has it: a wheel and one pedal, four frames a decision, and no waiting in the grass.

    jedi-env train --env racing:PedalCarRacing-v0

in this folder, with ``pip install "gymnasium[box2d]"``. All that a game of one's own may need: one wrapper, registered.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

FRAMES = 4
PATIENCE = 100  # frames, two seconds of the game


class Pedal(gymnasium.Wrapper):
    """Drives CarRacing by (wheel, pedal), both in [-1, 1]: gas above 0, brake below.

    Random actions of the original press gas and brake at once. A decision lasts four frames, and an episode is
    truncated after two seconds without a new tile of the track: beside it there is nothing to learn.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        """Wrap ``env``, CarRacing with continuous actions."""
        super().__init__(env)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self._waited = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a race."""
        self._waited = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drive for four frames; the reward is their sum."""
        wheel, pedal = action
        total = 0.0
        for _ in range(FRAMES):
            driven = np.array([wheel, max(pedal, 0.0), max(-pedal, 0.0)], np.float32)
            observation, reward, terminated, truncated, info = self.env.step(driven)
            total += float(reward)
            self._waited = 0 if reward > 0 else self._waited + 1
            truncated = truncated or self._waited >= PATIENCE
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def make(render_mode: str | None = None) -> gymnasium.Env:
    """Return the game."""
    return Pedal(gymnasium.make("CarRacing-v3", render_mode=render_mode))


gymnasium.register("PedalCarRacing-v0", entry_point=make)
