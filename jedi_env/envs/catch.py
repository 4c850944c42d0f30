"""Catch: a small real game with known rules, to learn in minutes what takes hours on Atari.

A ball falls, drifting and bouncing off the walls; the paddle must be under it. After an idea of Mnih et al. (2014,
arXiv 1406.6247), larger and in colour. It is not a benchmark, and it knows nothing of dreams.
"""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from jedi_env.arguments import check_seed
from jedi_env.envs.pixels import SIZE
from jedi_env.envs.window import RENDER_FPS, Window, enlarge
from jedi_env.errors import UsageError

BALL = 5  # pixels, a square
FALL = 3  # pixels a step
DRIFTS = (-2, -1, 0, 1, 2)  # pixels a step, equally likely; it turns round at a wall
FIRST_ROW = 1  # the ball's topmost row when it appears
PADDLE_WIDTH, PADDLE_HEIGHT = 12, 4
PADDLE_SPEED = 4  # pixels a step: any ball can be reached from anywhere
GOAL = 20  # catches that end an episode

LANDING_ROW = SIZE - PADDLE_HEIGHT - BALL  # it lies upon the paddle
PADDLE_COLUMNS, BALL_COLUMNS = SIZE - PADDLE_WIDTH, SIZE - BALL  # the greatest of their leftmost columns

BACKGROUND, BALL_COLOUR, PADDLE_COLOUR = (16, 16, 48), (255, 192, 32), (64, 224, 160)

MEANINGS = ("NOOP", "LEFT", "RIGHT")
MOVES = {0: 0, 1: -PADDLE_SPEED, 2: PADDLE_SPEED}  # no sequence: -1 is no action

Pixels = NDArray[np.uint8]


class CatchEnv(gymnasium.Env[Pixels, np.int64]):
    """One game of Catch; made by ``gym.make("JEDICatch-v0")``.

    Observations are pixels, uint8 ``(64, 64, 3)``. Actions: 0 stay, 1 left, 2 right. The reward is 1 in the step in
    which the ball lands on the paddle; the ball is shown there, and in the next step a new one appears at the top. The
    episode ends (``terminated``) when a ball lands beside the paddle, or with the 20th catch. A ball takes 18 steps to
    fall. A seed and the actions since determine everything.

    Args:
        render_mode: None, ``"rgb_array"`` (uint8 ``(256, 256, 3)``) or ``"human"`` (needs the ``[play]`` extra).

    Raises:
        UsageError: a wrong render mode, seed or action; a step before the first reset or after the end.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise UsageError(f"render_mode is {render_mode!r}. Write None or one of {tuple(modes)}.")
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = Discrete(len(MEANINGS))
        self._background = np.full((SIZE, SIZE, 3), BACKGROUND, np.uint8)
        self._window = Window(RENDER_FPS, "Catch")
        self._over = True
        self._begun = False
        self._catches = self._paddle = self._ball = self._row = self._drift = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Pixels, dict[str, Any]]:
        """Start a game with the paddle in the middle; no options are used."""
        super().reset(seed=check_seed(seed))
        self._over, self._begun = False, True
        self._catches = 0
        self._paddle = PADDLE_COLUMNS // 2
        self._drop()
        return self._show(), {}

    def step(self, action: SupportsIndex) -> tuple[Pixels, float, bool, bool, dict[str, Any]]:
        """Play one step: first the paddle moves, then the ball."""
        if self._over:
            raise UsageError(f"step() {'after the end of the episode' if self._begun else 'before reset()'}: reset().")
        try:
            move = MOVES[operator.index(action)]
        except (TypeError, KeyError) as error:
            raise UsageError(f"The action is {action!r}, but it must be 0 (stay), 1 (left) or 2 (right).") from error
        self._paddle = min(max(self._paddle + move, 0), PADDLE_COLUMNS)
        if self._row == LANDING_ROW:  # it was caught, or the game would be over
            self._drop()
        else:
            self._fall()
        reward = 0.0
        if self._row == LANDING_ROW:
            if -BALL < self._ball - self._paddle < PADDLE_WIDTH:  # they share a column
                self._catches += 1
                reward = 1.0
            self._over = reward == 0 or self._catches == GOAL
        return self._show(), reward, self._over, False, {}

    def render(self) -> Pixels | None:
        """Return the picture, enlarged with no smoothing, or show it in a window, as ``render_mode`` says."""
        if self.render_mode is None:
            return None
        if not self._begun:
            raise UsageError("render() before reset(): call reset() first.")
        picture = enlarge(self._draw())
        if self.render_mode == "rgb_array":
            return picture
        self._window.show(picture)
        return None

    def close(self) -> None:
        """Close the window, if there is one; may be called twice."""
        self._window.close()

    def get_action_meanings(self) -> list[str]:
        """Return the names of the actions, as ALE spells them."""
        return list(MEANINGS)

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Return which keys (a and d) give which action, for ``gymnasium.utils.play``; no key stays."""
        return {("a",): 1, ("d",): 2}

    def _drop(self) -> None:
        """Let a new ball appear at the top."""
        self._row = FIRST_ROW
        self._ball = int(self.np_random.integers(BALL_COLUMNS + 1))
        self._drift = DRIFTS[self.np_random.integers(len(DRIFTS))]

    def _fall(self) -> None:
        self._row += FALL
        self._ball += self._drift
        if self._ball < 0:
            self._ball, self._drift = -self._ball, -self._drift
        elif self._ball > BALL_COLUMNS:
            self._ball, self._drift = 2 * BALL_COLUMNS - self._ball, -self._drift

    def _show(self) -> Pixels:
        if self.render_mode == "human":
            self.render()
        return self._draw()

    def _draw(self) -> Pixels:
        pixels = self._background.copy()
        pixels[self._row : self._row + BALL, self._ball : self._ball + BALL] = BALL_COLOUR
        pixels[SIZE - PADDLE_HEIGHT :, self._paddle : self._paddle + PADDLE_WIDTH] = PADDLE_COLOUR
        return pixels
