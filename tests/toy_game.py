"""A foreign game with images, and equality to the last bit, for the tests of real games."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box


def same(a: Any, b: Any) -> bool:
    """Equal all the way down, dtypes included."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        if not isinstance(b, np.ndarray) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return all(map(same, a, b)) if a.dtype == object else bool((a == b).all())
    return type(a) is type(b) and a == b


class Toy(gymnasium.Env[np.ndarray, np.ndarray]):
    """A foreign environment with images and continuous actions; an episode lasts ``5 + round(10 a[0])`` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, height: int = 100, width: int = 72, channels: int = 3, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, (height, width, channels), np.uint8)
        self.action_space = Box(-1, 1, (2,), np.float32)

    def _image(self) -> np.ndarray:
        return self.np_random.integers(0, 256, self.observation_space.shape, dtype=np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.left = 5
        return self._image(), {}

    def step(self, action: np.ndarray) -> Any:
        self.left -= 1 + (action[0] > 0)
        return self._image(), float(action[1]), self.left <= 0, False, {}

    def render(self) -> np.ndarray:
        return np.zeros((100, 72, 3), np.uint8)
