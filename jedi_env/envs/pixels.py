"""What any real game shows: pixels, uint8 ``(64, 64, 3)``, resized if need be, in one environment or in many lanes.

Not how a game is emulated or which one it is, and not what a world model makes of the pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from jedi_env.arguments import check_names, check_seed
from jedi_env.envs.encode import Action, Pixels, Seeds
from jedi_env.errors import UsageError

SIZE = 64


class AreaResize(gymnasium.ObservationWrapper[Pixels, Action, Pixels], gymnasium.utils.RecordConstructorArgs):
    """Resizes the images of any environment to ``(size, size, 3)``: each new pixel is the mean of the area it covers.

    Args:
        env: its observations are uint8 ``(H, W, 3)``, or grey: ``(H, W, 1)`` or ``(H, W)``.
        size: the new height and width.

    Raises:
        UsageError: the observations are something else.
    """

    def __init__(self, env: gymnasium.Env[Pixels, Action], size: int = SIZE) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, size=size)  # for env.spec
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        shape = space.shape or ()
        if space.dtype != np.uint8 or len(shape) < 2 or shape[2:] not in ((), (1,), (3,)):
            raise UsageError(
                f"{env} has observations {space}, but a real game must show uint8 images (height, width, 3), or grey "
                "ones. If it can be rendered, wrap it in gymnasium.wrappers.AddRenderObservation, which makes what it "
                "renders its observations, and register that (docs/your_game.md has the lines); or take another id."
            )
        self._shape = (size, size, 3)
        self.observation_space = Box(0, 255, self._shape, np.uint8)
        self._rows, self._columns = (_area_weights(length, size) for length in shape[:2])

    def observation(self, observation: Pixels) -> Pixels:
        """Return the resized image; an image that has the size already is copied."""
        image = observation if observation.ndim == 3 else observation[..., None]
        if image.shape[:2] != self._shape[:2]:
            mean = np.einsum("yh,hwc,xw->yxc", self._rows, image, self._columns, optimize=True)
            image = np.rint(mean).astype(np.uint8)
        return np.broadcast_to(image, self._shape).copy()


class PixelsVectorEnv(SyncVectorEnv):
    """Many games at once: Gymnasium's ``SyncVectorEnv`` in all its autoreset modes, with its traps closed.

    A wrong call is refused before any lane has moved, and the caller's ``options`` are left as they are.

    Args:
        games: the lanes.
        autoreset_mode: one of Gymnasium's three.
        options: the names of the reset options that the games take; None: any, they look themselves.
    """

    def __init__(
        self,
        games: Sequence[gymnasium.Env[Pixels, Action]],
        autoreset_mode: AutoresetMode,
        options: Collection[str] | None = None,
    ) -> None:
        super().__init__([partial(_same, game) for game in games], autoreset_mode=autoreset_mode)
        self._options = None if options is None else ("reset_mask", *options)
        self._ended: NDArray[np.bool_] | None = None  # None until the first reset

    def reset(
        self,
        *,
        seed: Seeds = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset every lane, or those that ``options["reset_mask"]`` (bool, one a lane; None: all) names.

        Args:
            seed: an int gives lane i ``seed + i``; or one seed a lane.
            options: not changed.

        Raises:
            UsageError: a wrong mask or seed, or an option that there is not.
        """
        seeds = self._check_seeds(seed)
        options = check_names(options, self._options)
        mask = options.pop("reset_mask", None)
        if mask is not None:
            options["reset_mask"] = self._check_mask(mask)
        observations, info = super().reset(seed=seeds, options=options)
        if mask is None or self._ended is None:
            self._ended = np.zeros(self.num_envs, dtype=np.bool_)
        else:
            self._ended = self._ended & ~mask
        return observations, info

    def step(
        self, actions: Action
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play one step in every lane.

        Raises:
            UsageError: wrong actions; before the first reset; or a lane has ended and was not reset in mode DISABLED.
        """
        self._check_ready()
        self._check_actions(actions)
        result = super().step(actions)
        self._ended = result[2] | result[3]
        return result

    def _check_ready(self) -> NDArray[np.bool_]:
        """Return which lanes ended in the last step, if a step is allowed at all."""
        if self.closed:
            raise UsageError("This environment is closed: make a new one.")
        if self._ended is None:
            raise UsageError("step() before reset(): call reset() first.")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise UsageError(
                f"Lanes {np.flatnonzero(self._ended).tolist()} have ended, and autoreset is disabled: "
                'call reset(options={"reset_mask": terminated | truncated}) first.'
            )
        return self._ended

    def _check_actions(self, actions: Action) -> None:
        """Refuse actions of a wrong shape, and of those that are counted what there is not; the rest the games say."""
        one, shape = self.single_action_space, self.action_space.shape
        if not isinstance(one, Discrete | Box):
            return
        given = np.asarray(actions)
        if given.shape != shape:
            raise UsageError(f"The actions have the shape {given.shape}: give {shape}, one action a lane.")
        if isinstance(one, Discrete) and not all(one.contains(action) for action in given):
            raise UsageError(
                f"The actions are {given.tolist()}: write whole numbers from {one.start} to {one.start + one.n - 1}."
            )

    def _check_seeds(self, seed: Seeds) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        given = seed.tolist() if isinstance(seed, np.ndarray) else seed
        if not isinstance(given, Sequence):  # one for all
            check_seed(given)
            return [int(given) + lane for lane in range(self.num_envs)]
        if len(given) != self.num_envs:
            raise UsageError(f"{len(given)} seeds for {self.num_envs} lanes: give one int, or one seed a lane.")
        return [check_seed(one) for one in given]

    def _check_mask(self, mask: object) -> NDArray[np.bool_]:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise UsageError(f"reset_mask is {mask!r}, but it must be a numpy bool array of shape ({self.num_envs},).")
        if not mask.any():
            raise UsageError("reset_mask names no lane: leave the call out, or set at least one True.")
        if self._ended is None and not mask.all():
            raise UsageError("The first reset must be of every lane: leave reset_mask out.")
        return mask


def _area_weights(old: int, new: int) -> NDArray[np.float64]:
    """Return ``(new, old)`` rows that sum to 1: how much of each new cell every old cell covers."""
    edges = np.arange(new + 1) * (old / new)
    cells = np.arange(old)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights: NDArray[np.float64] = overlap.clip(min=0) * (new / old)
    return weights


def _same(game: gymnasium.Env[Pixels, Action]) -> gymnasium.Env[Pixels, Action]:
    return game
