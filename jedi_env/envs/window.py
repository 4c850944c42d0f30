"""How dreams and real games look and which keys play them; and a window that shows pictures, ``render_mode="human"``.

pygame is imported when the first picture is shown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jedi_env.errors import UsageError

RENDER_SCALE = 4  # screen pixels a game pixel
RENDER_FPS = 15
KEYS = {"UP": "w", "DOWN": "s", "LEFT": "a", "RIGHT": "d", "FIRE": " "}
UNSEEN = ("offscreen", "dummy")  # what SDL draws on where nobody looks


class Window:
    """One window a process (pygame has no more, so several share it), at most ``fps`` pictures a second.

    Args:
        fps: pictures a second, at most.
        title: what stands above the pictures; may be changed at any time.
    """

    def __init__(self, fps: int, title: str = "a dream") -> None:
        self.fps = fps
        self.title = title
        self._screen: Any = None
        self._clock: Any = None

    def check(self) -> None:
        """See that pictures can be shown here, before anything is done whose picture could not be.

        Raises:
            UsageError: pygame is not installed, or there is no screen.
        """
        try:
            import pygame
        except ImportError as error:
            raise UsageError("render_mode='human' needs pygame: pip install 'jedi-env[play]'.") from error
        try:
            pygame.display.init()
        except pygame.error as error:
            raise UsageError(f"There is no screen for a window ({error}): pictures need none.") from error
        if pygame.display.get_driver() in UNSEEN and "SDL_VIDEODRIVER" not in os.environ:  # SDL's last resort
            pygame.display.quit()
            self._screen = None
            raise UsageError("There is no screen for a window: pictures need none (rgb_array, --record).")

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Show ``picture``, uint8 ``(height, width, 3)``, and wait until the next one is due.

        Raises:
            UsageError: as of :meth:`check`.
        """
        self.check()
        import pygame

        size, there = picture.shape[1::-1], pygame.display.get_surface()
        if there is None or there is not self._screen or there.get_size() != size:  # another one may have had it
            try:
                self._screen = pygame.display.set_mode(size)
            except pygame.error as error:
                raise UsageError(f"There is no screen for a window ({error}): pictures need none.") from error
            self._clock = self._clock or pygame.time.Clock()
        pygame.display.set_caption(self.title)
        self._screen.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self.fps)

    def close(self) -> None:
        """Close the window, if there is one; where others share it, it comes back with their next picture."""
        if self._screen is not None:
            import pygame

            if self._screen is pygame.display.get_surface():
                pygame.display.quit()
            self._screen = self._clock = None


def enlarge(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``pixels`` (..., height, width, 3) enlarged by :data:`RENDER_SCALE` with no smoothing."""
    return pixels.repeat(RENDER_SCALE, axis=-3).repeat(RENDER_SCALE, axis=-2)


def joystick_keys(meanings: Sequence[str]) -> dict[tuple[str, ...], int]:
    """Return which of :data:`KEYS` give which action, by the actions' names as ALE spells them; no key is a no-op."""
    return {
        tuple(key for part, key in KEYS.items() if part in meaning): action
        for action, meaning in enumerate(meanings)
        if meaning != "NOOP"
    }


def tile(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``pictures`` (n, height, width, 3) side by side in one, row by row, about as many rows as columns."""
    n, height, width, depth = pictures.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    grid = np.zeros((rows * columns, height, width, depth), np.uint8)
    grid[:n] = pictures
    return grid.reshape(rows, columns, height, width, depth).swapaxes(1, 2).reshape(rows * height, -1, depth)
