"""ALE's RAM beside real play: where a game keeps its objects, and a second emulator that is asked for it.

The addresses are published facts: the annotations of Anand et al. 2019 (arXiv 1906.08226,
mila-iqia/atari-representation-learning@1a941160), only positions on the screen, and only those that were compared here
with the object's colour on 900 screens of random play (correlation at least .94; see ``docs/fidelity.md``). It knows
nothing of models; what plays the game and makes the pixels is :mod:`jedi_env.envs.real`, which has no RAM to give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from jedi_env.envs.pixels import AreaResize
from jedi_env.errors import RunError, UsageError

Bytes = npt.NDArray[np.uint8]
CHECK_EVERY = 16  # steps between two comparisons of the two emulators' pictures
TOLERANCE = 2  # of 255, what rounding may differ


@dataclass(frozen=True)
class Place:
    """A byte of RAM that is an object's place.

    Attributes:
        byte: its address, 0 to 127. One unit is one pixel of ALE's 160x210 screen.
        shown: address of a byte that is 0 while the object is not on the screen; None: it always is.
        last: the largest value of that byte (places grow downwards) at which the object counts as on the screen.
    """

    byte: int
    shown: int | None = None
    last: int = 255


PLACES: Mapping[str, Mapping[str, Place]] = MappingProxyType(
    {
        "Boxing": {"player_x": Place(32), "player_y": Place(34), "enemy_x": Place(33), "enemy_y": Place(35)},
        "Breakout": {  # a lost ball goes on falling where nothing is drawn
            "ball_x": Place(99, shown=101, last=185),
            "ball_y": Place(101, shown=101, last=185),
            "player_x": Place(72),
        },
        "Freeway": {"player_y": Place(14)},
        "Frostbite": {"player_x": Place(102), "player_y": Place(100)},
        "MsPacman": {"player_x": Place(10), "player_y": Place(16)},
        "Pong": {
            "ball_x": Place(49, shown=54),
            "ball_y": Place(54, shown=54),
            "player_y": Place(51),
            "enemy_y": Place(50, shown=50),
        },
        "Qbert": {"player_x": Place(43, shown=43)},
        "Seaquest": {"player_x": Place(70), "player_y": Place(97)},
    }
)


def numbers(game: str, ram: Bytes) -> npt.NDArray[np.float32]:
    """Return the places ``(..., V)`` that ``ram`` (uint8 ``(..., 128)``) holds, in the order of :data:`PLACES`.

    NaN: the object is not on the screen.
    """
    columns = []
    for place in PLACES[game].values():
        value = ram[..., place.byte].astype(np.float32)
        if place.shown is not None:
            shown = ram[..., place.shown]
            value[(shown == 0) | (shown > place.last)] = np.nan
        columns.append(value)
    return np.stack(columns, axis=-1)


class Twin:
    """A second emulator of one game, which plays again what was played and is asked for its RAM.

    Without sticky actions a game is determined by its no-ops and actions. That the twin really plays the same game is
    checked all along, by the rewards and, every :data:`CHECK_EVERY` steps, the picture.

    Args:
        game: one of the 26 games.
        frame_skip: emulator frames a step.

    Raises:
        UsageError: ale-py is not installed.
    """

    def __init__(self, game: str, frame_skip: int = 4) -> None:
        try:
            # By its Gymnasium id, which names the module that registers it.
            self._env = gymnasium.make(
                f"ale_py:ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=False
            ).unwrapped
        except (gymnasium.error.Error, ModuleNotFoundError) as error:
            raise UsageError(f"Reading {game}'s RAM needs ale-py: pip install 'jedi-env[atari]' ({error}).") from error
        self._ale: Any = self._env.ale  # type: ignore[attr-defined]  # what the id makes is an AtariEnv
        self._actions = self._ale.getMinimalActionSet()
        self._resize = AreaResize(self._env)
        self.game, self.frame_skip = game, frame_skip

    def close(self) -> None:
        """End the emulator."""
        self._env.close()

    def play(
        self, noops: int, actions: Sequence[int], rewards: Sequence[float], pixels: npt.NDArray[np.uint8]
    ) -> Bytes:
        """Return the RAM ``(n+1, 128)`` before and after each of n ``actions``.

        Args:
            noops: emulator frames without action after the console was switched on.
            actions: indices into the minimal action set, a step each.
            rewards: what they brought, to compare.
            pixels: uint8 ``(n+1, 64, 64, 3)``, what was seen, to compare.

        Raises:
            RunError: the twin played another game.
        """
        self._env.reset(seed=0)
        for _ in range(noops):
            self._ale.act(0)
        ram = np.empty((len(actions) + 1, 128), np.uint8)
        ram[0] = self._ale.getRAM()
        for t, action in enumerate(actions):
            got, screens = 0.0, []
            for _ in range(self.frame_skip):
                got += self._ale.act(self._actions[action])
                if self._ale.game_over():
                    break
                if t % CHECK_EVERY == 0:
                    screens.append(self._ale.getScreenRGB())
            ram[t + 1] = self._ale.getRAM()
            whole = len(screens) == self.frame_skip
            if got != rewards[t] or (whole and self._differs(screens[-2:], pixels[t + 1])):
                raise RunError(
                    f"The emulator that is asked for {self.game}'s RAM plays another game than the recorded one "
                    f"from step {t} on: leave the probe out (--no-probes)."
                )
        return ram

    def _differs(self, screens: Sequence[Bytes], pixels: Bytes) -> bool:
        """Return whether ``pixels`` are not the maximum over ``screens``, resized."""
        resized = self._resize.observation(np.maximum.reduce(screens)).astype(np.int64)
        return bool(np.abs(resized - pixels).max() > TOLERANCE)
