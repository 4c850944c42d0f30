"""What the actions of a game are: so many to choose from, or a vector between bounds.

The one place that knows the difference. Everywhere else actions are the game's own, as tensors of :attr:`dtype` and
``(..., *shape)``; only an embedding rescales them. It knows nothing of policies or of what an action does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor, nn

from jedi_env.errors import UsageError

Numbers: TypeAlias = NDArray[Any] | Tensor

_WIDEST = float(np.finfo(np.float32).max)
_ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class DiscreteActions:
    """The whole numbers from 0 on.

    Attributes:
        size: how many.
    """

    size: int

    shape = ()  # of one action
    dtype, array_dtype = torch.int64, np.int64
    kinds = "iu"  # NumPy's kinds of numbers that are taken
    blank = 0  # stands where nothing is done

    @property
    def count(self) -> int:
        """How many there are to choose from; 0: a continuum."""
        return self.size

    @property
    def space(self) -> gymnasium.Space[Any]:
        """Gymnasium's space of them."""
        return Discrete(self.size)

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        return f"from 0 to {self.size - 1}"

    def wanted(self, lanes: tuple[int, ...]) -> str:
        """Return in words what to give: an action, or one for each of ``lanes``."""
        return f"{f'one int a lane, shape {lanes},' if lanes else 'an int'} {self.range}"

    def allow(self, actions: Numbers) -> bool:
        """Return whether all are in the range."""
        return bool(((actions >= 0) & (actions < self.size)).all())

    def inside(self, actions: Tensor) -> Tensor:
        """Return the actions: a whole number is not nearly in the range."""
        return actions

    def uniform(self, rng: np.random.Generator, number: int) -> NDArray[Any]:
        """Draw ``number`` actions uniformly."""
        return rng.integers(0, self.size, size=number)

    def embedding(self, width: int) -> nn.Module:
        """Return what turns actions (...) into vectors ``(..., width)``."""
        return nn.Embedding(self.size, width)


@dataclass(frozen=True)
class BoxActions:
    """Vectors of numbers, each between bounds of its own; float32.

    Attributes:
        low, high: the bounds.

    Raises:
        UsageError: a bound is not finite, or nothing is between two of them.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    dtype, array_dtype = torch.float32, np.float32
    kinds = "iuf"
    count = 0

    def __post_init__(self) -> None:
        bounds = [*zip(self.low, self.high, strict=False)]
        ordered = all(low < high and high - low <= _WIDEST for low, high in bounds)
        if not bounds or len(self.low) != len(self.high) or not ordered:
            raise UsageError(
                f"Actions are bounded by {_shown(self.low)} and {_shown(self.high)}, but each of the numbers needs a "
                "finite low below a finite high."
            )

    @property
    def size(self) -> int:
        """How many numbers an action has."""
        return len(self.low)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action."""
        return (len(self.low),)

    @property
    def blank(self) -> tuple[float, ...]:
        """What stands where nothing is done: zeros, or the bounds next to them."""
        return tuple(min(max(0.0, low), high) for low, high in zip(self.low, self.high, strict=True))

    @property
    def space(self) -> gymnasium.Space[Any]:
        """Gymnasium's space of them."""
        low, high = self._arrays()
        return Box(low, high, dtype=np.float32)

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        return f"from {_shown(self.low)} to {_shown(self.high)}"

    def wanted(self, lanes: tuple[int, ...]) -> str:
        """Return in words what to give: an action, or one for each of ``lanes``."""
        what = f"one vector a lane, shape {(*lanes, *self.shape)}," if lanes else f"a vector, shape {self.shape},"
        return f"{what} {self.range}"

    def allow(self, actions: Numbers) -> bool:
        """Return whether all are in the range, up to what float32 rounds; NaN is not.

        Whoever rescales [-1, 1] to the bounds, as Stable-Baselines3 does, may end a hair beyond them: see
        :meth:`inside`.
        """
        if isinstance(actions, Tensor):
            actions = actions.detach().cpu().numpy()
        low, high = np.array((self.low, self.high))
        slack = _ROUNDING * np.maximum(np.maximum(abs(low), abs(high)), high - low)
        return bool(((actions >= low - slack) & (actions <= high + slack)).all())

    def inside(self, actions: Tensor) -> Tensor:
        """Return the nearest actions in the range."""
        return actions.clamp(*self._bounds(actions))

    def uniform(self, rng: np.random.Generator, number: int) -> NDArray[Any]:
        """Draw ``number`` actions uniformly."""
        drawn: NDArray[Any] = rng.uniform(self.low, self.high, (number, self.size)).astype(np.float32)
        return drawn

    def embedding(self, width: int) -> nn.Module:
        """Return what turns actions ``(..., A)`` into vectors ``(..., width)``."""
        return _BoxEmbedding(self, width)

    def to_unit(self, actions: Tensor) -> Tensor:
        """Return ``actions`` rescaled: -1 is the lower bound and 1 the upper one."""
        low, high = self._bounds(actions)
        return (actions - low) / (high - low) * 2 - 1

    def from_unit(self, scaled: Tensor) -> Tensor:
        """Return the actions that :meth:`to_unit` makes ``scaled``; what is beyond the bounds is brought back."""
        low, high = self._bounds(scaled)
        return self.inside(low + (scaled + 1) / 2 * (high - low))

    def _arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self.low, np.float32), np.array(self.high, np.float32)

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        # Made anew, so that no part of a model has to carry them; and sent without waiting for the device.
        low, high = torch.tensor((self.low, self.high)).to(like.device, non_blocking=True)
        return low, high


Actions: TypeAlias = DiscreteActions | BoxActions


class _BoxEmbedding(nn.Linear):
    """A linear layer on rescaled actions."""

    def __init__(self, actions: BoxActions, width: int) -> None:
        super().__init__(actions.size, width)
        self._actions = actions

    def forward(self, actions: Tensor) -> Tensor:
        return super().forward(self._actions.to_unit(actions))


def as_actions(actions: int | Actions) -> Actions:
    """Return ``actions``; a number is so many discrete ones."""
    return DiscreteActions(actions) if isinstance(actions, int) else actions


def blanks(actions: Actions, *lanes: int) -> Tensor:
    """Return ``(*lanes, *shape)`` actions that stand where nothing is done."""
    return torch.tensor(actions.blank, dtype=actions.dtype).expand(*lanes, *actions.shape).clone()


def actions_of(space: gymnasium.Space[Any], game: str) -> Actions:
    """Return the actions of ``game``, whose action space is ``space``.

    Raises:
        UsageError: a world model has no actions like these.
    """
    if isinstance(space, Discrete) and space.start == 0:
        return DiscreteActions(int(space.n))
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) == 1:
        if space.is_bounded():
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
            low = np.where(low < space.low, np.nextafter(low, high), low)  # rounding led out
            high = np.where(high > space.high, np.nextafter(high, low), high)
            return BoxActions(tuple(low.tolist()), tuple(high.tolist()))
        raise UsageError(
            f"{game!r} has the action space {space}, without finite bounds: give it some with "
            "gymnasium.wrappers.RescaleAction or ClipAction, and register that."
        )
    raise UsageError(
        f"{game!r} has the action space {space}; a world model takes Discrete actions from 0, or a bounded Box of "
        "floats with one axis. Make it one with gymnasium.wrappers.TransformAction, and register that."
    )


def _shown(bounds: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{bound:g}' for bound in bounds)}]"
