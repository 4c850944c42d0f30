"""One Atari game, and many lanes of it, with the Atari100k preprocessing (Machado et al. 2018; Kaiser et al. 2020).

64x64 RGB, frame skip 4 with the maximum over the last two frames, up to 30 no-ops at a start, minimal actions, no
sticky actions, raw rewards, no button pressed for the agent: :class:`AtariProtocol`. ``ale_py``'s C++ preprocessing
does it, without OpenCV, and this is the only file that imports ``ale_py``. It knows neither dreams nor other games.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from jedi_env.arguments import check_names, check_seed, check_whole, is_whole
from jedi_env.envs.encode import Action, Pixels
from jedi_env.envs.pixels import SIZE, AreaResize, PixelsVectorEnv
from jedi_env.envs.window import enlarge, joystick_keys
from jedi_env.errors import UsageError, nearest
from jedi_env.games import GAMES

if TYPE_CHECKING:
    from ale_py import ALEVectorInterface

SCREEN = (210, 160)  # what the console shows, in all 26 games
EMULATOR_FPS = 60
_RENDER_MODES = (None, "rgb_array")


@dataclass(frozen=True)
class AtariProtocol:
    """How a game is played; a score means nothing without it. The defaults are those of the Atari100k benchmark.

    Attributes:
        frame_skip: emulator frames a step; the pixels are the maximum over the last two. A pair: drawn uniformly from
            the least to the most at every step.
        noop_max: an episode starts with 0 to this many no-ops, drawn uniformly.
        sticky: chance that the emulator repeats the last action in place of the given one, at every frame.
        life_loss: a lost life ends the episode (``terminated``), and the reset after it goes on with the same game.
        max_frames: emulator frames, not counting the no-ops, after which a game is truncated.
        full_action_space: all 18 actions rather than those that the game uses.
        size: height and width of the pixels; None: the console's own 210 x 160.
    """

    frame_skip: int | tuple[int, int] = 4
    noop_max: int = 30
    sticky: float = 0.0
    life_loss: bool = False
    max_frames: int = 108_000
    full_action_space: bool = False
    size: int | None = SIZE

    def __post_init__(self) -> None:
        skips = self.frame_skip if isinstance(self.frame_skip, tuple) else (self.frame_skip,)
        if len(skips) not in (1, 2) or not all(is_whole(skip, 1) for skip in skips) or skips[0] > skips[-1]:
            raise UsageError(
                f"frame_skip is {self.frame_skip!r}; write a whole number of at least 1, or a pair (least, most)."
            )
        least, most = int(skips[0]), int(skips[-1])  # they may be NumPy's
        object.__setattr__(self, "frame_skip", least if least == most else (least, most))
        check_whole("noop_max", self.noop_max, 0)
        check_whole("max_frames", self.max_frames)
        if self.size is not None:
            check_whole("size", self.size)
        for name in ("life_loss", "full_action_space"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise UsageError(f"{name} is {getattr(self, name)!r}; write True or False.")
        sticky: object = self.sticky
        is_number = isinstance(sticky, int | float | np.number) and not isinstance(sticky, bool)
        if not is_number or not 0 <= self.sticky <= 1:
            raise UsageError(
                f"sticky is {self.sticky!r}, but it is a chance: write a number from 0 to 1 (0.25 is usual)."
            )

    @property
    def frame_skips(self) -> tuple[int, int]:
        """The least and the most emulator frames a step."""
        return (self.frame_skip, self.frame_skip) if isinstance(self.frame_skip, int) else self.frame_skip


class AtariGame(gymnasium.Env[Pixels, Action]):
    """One game under a protocol; observations are pixels, uint8 ``(size, size, 3)``.

    Where ``size`` is None they are ``(210, 160, 3)``. A seed and the actions since determine every frame. A seeded
    ``reset`` boots the console anew (about 0.1 s here); an unseeded one is 20 times faster and continues the seed's
    stream of no-op counts. Under ``life_loss`` an unseeded ``reset`` right after a lost life shows the same pixels
    again and the game goes on; a seeded one starts a new game. ``info`` has ``lives``, ``frame_number``,
    ``episode_frame_number`` and ``game_over``, which tells the end of a game from the end of a life.

    Args:
        game: one of :data:`jedi_env.GAMES`.
        protocol: how to play it.
        render_mode: None or ``"rgb_array"``: the pixels enlarged (the preprocessing keeps no larger picture).

    Raises:
        UsageError: ale-py is not installed; a wrong argument or action; a step after the end of an episode.
    """

    def __init__(self, game: str, protocol: AtariProtocol | None = None, render_mode: str | None = None) -> None:
        _check_render_mode(render_mode)
        self.protocol = protocol or AtariProtocol()
        least, most = self.protocol.frame_skips
        if least != most:
            raise UsageError(f"An AtariGame has one frame_skip, not {least} to {most}: make it with make_pixels().")
        self.render_mode = render_mode
        self.metadata = {
            "render_modes": [mode for mode in _RENDER_MODES if mode],
            "render_fps": EMULATOR_FPS // least,
        }
        self._ale: ALEVectorInterface | None = _emulator(game, self.protocol)
        self._meanings: list[str] = [action.name for action in self._ale.get_action_set()]
        self.observation_space = Box(0, 255, (*_picture(self.protocol), 3), np.uint8)
        self.action_space = Discrete(len(self._meanings))
        self._pixels: Pixels | None = None
        self._info: dict[str, Any] = {}
        self._sent = False
        self._life_lost = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Pixels, dict[str, Any]]:
        """Start a game, or go on with it after a lost life; there are no options."""
        ale = self._open()
        seed = check_seed(seed)
        check_names(options, ())
        super().reset(seed=seed)
        if self._sent:  # an interrupted step: take its result away, or every later one would be a step late
            ale.recv()
            self._sent = False
        if seed is None and self._life_lost and self._pixels is not None:
            self._life_lost = False
            return self._pixels.copy(), dict(self._info)
        self._life_lost = False
        # The emulator takes 31-bit seeds, and -1 to continue its stream.
        pixels, info = ale.reset(np.array([0]), np.array([-1 if seed is None else seed % 2**31]))
        return self._show(pixels, info, game_over=False)

    def step(self, action: int) -> tuple[Pixels, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play one step of ``frame_skip`` emulator frames; the reward is the game's own, unclipped."""
        if not self._sent:
            self.send(check_actions(action, (), len(self._meanings)).item())
        before = int(self._info["lives"])
        pixels, rewards, terminated, truncated, info = self._open().recv()
        self._sent = False
        game_over = bool(terminated[0] or truncated[0])
        lives = int(info["lives"][0])
        self._life_lost = self.protocol.life_loss and not game_over and life_lost(before, lives)
        observation, shown = self._show(pixels, info, game_over)
        return observation, float(rewards[0]), bool(terminated[0]) or self._life_lost, bool(truncated[0]), shown

    def send(self, action: int) -> None:
        """Start a step in the emulator's own thread; the next :meth:`step` waits for it (its action is not read)."""
        ale = self._open()
        if self._pixels is None:
            raise UsageError("step() before reset(): call reset() first.")
        if self._info["game_over"] or self._life_lost:
            raise UsageError("step() after the end of the episode: call reset() first.")
        ale.send(np.array([action]), np.ones(1, dtype=np.float32))
        self._sent = True

    def render(self) -> Pixels | None:
        """Return the pixels, enlarged; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._pixels is None:
            raise UsageError("render() before reset(): call reset() first.")
        return enlarge(self._pixels)

    def close(self) -> None:
        """End the emulator and its thread; may be called twice."""
        self._ale = None

    def get_action_meanings(self) -> list[str]:
        """Return the name of every action, such as ``["NOOP", "FIRE", "RIGHT", "LEFT"]``."""
        return list(self._meanings)

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Return which keys (w a s d and space) give which action, for ``gymnasium.utils.play``; no key is a no-op."""
        return joystick_keys(self._meanings)

    def _open(self) -> ALEVectorInterface:
        if self._ale is None:
            raise UsageError("This environment is closed: make a new one.")
        return self._ale

    def _show(self, pixels: NDArray[Any], info: dict[str, Any], game_over: bool) -> tuple[Pixels, dict[str, Any]]:
        latest: Pixels = pixels[0, 0]  # one lane, a stack of one
        self._pixels = latest
        self._info = {key: int(info[key][0]) for key in ("lives", "frame_number", "episode_frame_number")}
        self._info["game_over"] = game_over
        return latest.copy(), dict(self._info)


class RandomSkip(gymnasium.Wrapper[Pixels, Action, Pixels, Action], gymnasium.utils.RecordConstructorArgs):
    """Repeats every action for a number of frames drawn uniformly at each step: JEDI's stochastic Atari.

    The pixels are the maximum over the last two frames. The draws follow from the seed of the last seeded ``reset``.

    Args:
        env: a game whose steps are single frames.
        least: the fewest frames.
        most: the most.
    """

    def __init__(self, env: gymnasium.Env[Pixels, Action], least: int, most: int) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, least=least, most=most)
        gymnasium.Wrapper.__init__(self, env)
        self.least, self.most = least, most

    def step(self, action: Action) -> tuple[Pixels, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play 'least' to 'most' frames, or up to the end of the episode; the reward is their sum."""
        total, frames = 0.0, []
        for _ in range(self.np_random.integers(self.least, self.most, endpoint=True)):
            pixels, reward, terminated, truncated, info = self.env.step(action)
            frames.append(pixels)
            total += float(reward)
            if terminated or truncated:
                break
        return np.maximum.reduce(frames[-2:]), total, terminated, truncated, info


def atari_game(game: str, protocol: AtariProtocol, render_mode: str | None = None) -> gymnasium.Env[Pixels, Action]:
    """Return one game under any protocol, also one whose frame skip is drawn; as :class:`AtariGame`."""
    least, most = protocol.frame_skips
    if least == most:
        return AtariGame(game, protocol, render_mode)
    frames = AtariGame(game, replace(protocol, frame_skip=1, size=None), render_mode)
    return AreaResize(RandomSkip(frames, least, most), protocol.size or SIZE)


class AtariVectorGame(PixelsVectorEnv):
    """Many lanes of one Atari game, each emulated in a thread of its own.

    Args:
        game: one of :data:`jedi_env.GAMES`.
        num_envs: number of lanes.
        protocol: how to play it.
        autoreset_mode: one of Gymnasium's three.
        render_mode: None or ``"rgb_array"``.
    """

    envs: list[AtariGame]  # type: ignore[assignment]

    def __init__(
        self,
        game: str,
        num_envs: int,
        protocol: AtariProtocol | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
    ) -> None:
        games = [AtariGame(game, protocol, render_mode) for _ in range(num_envs)]
        super().__init__(games, autoreset_mode, options=())
        self.protocol = self.envs[0].protocol

    def step(
        self, actions: ArrayLike
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play one step in every lane, all at the same time.

        Raises:
            UsageError: actions that are not one int a lane in range; or as :meth:`PixelsVectorEnv.step`.
        """
        ended = self._check_ready()
        checked = check_actions(actions, (self.num_envs,), len(self.envs[0].get_action_meanings()))
        for env, action, resets in zip(self.envs, checked.tolist(), ended, strict=True):
            if not resets:
                env.send(action)
        return super().step(checked)

    def get_action_meanings(self) -> list[str]:
        """Return the name of every action of a lane."""
        return self.envs[0].get_action_meanings()


def check_actions(actions: ArrayLike, shape: tuple[int, ...], number: int) -> NDArray[np.integer[Any]]:
    """Return ``actions`` as an integer array of ``shape``, each in ``range(number)``, or raise :class:`UsageError`.

    The emulator must never see another action: its thread would stop, and the caller would wait for ever.
    """
    array = np.asarray(actions)
    if array.shape != shape or array.dtype.kind not in "iu" or bool(((array < 0) | (array >= number)).any()):
        wanted = f"an integer array of shape {shape}, each" if shape else "an integer"
        raise UsageError(f"The action is {actions!r}, but it must be {wanted} from 0 to {number - 1}.")
    return array


def life_lost(before: int, lives: int) -> bool:
    """Return whether a step cost a life, by the lives left before and after it."""
    # Some games show no life left for a while before they are over: only then is the game's own sign the end.
    return 0 < lives < before


def _emulator(game: str, protocol: AtariProtocol) -> ALEVectorInterface:
    """Return ``ale_py``'s preprocessing of one lane; a thread of its own runs it."""
    try:
        from ale_py import ALEVectorInterface, roms
    except ImportError as error:
        raise UsageError("Playing a real Atari game needs ale-py: pip install 'jedi-env[atari]'.") from error
    rom = roms.get_rom_path(re.sub(r"(?<!^)(?=[A-Z])", "_", game).lower())
    if rom is None:
        raise UsageError(f"ale-py has no ROM of {game!r}.{nearest(game, GAMES)}")
    height, width = _picture(protocol)
    return ALEVectorInterface(
        rom_path=rom,
        num_envs=1,
        frame_skip=protocol.frame_skips[0],
        stack_num=1,
        img_height=height,
        img_width=width,
        grayscale=False,
        maxpool=True,
        noop_max=protocol.noop_max + 1,  # ale_py draws from range(noop_max)
        use_fire_reset=False,
        # ale_py's own episodic_life restarts the game at a lost life, and its life_loss_info hides when it is over.
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        max_episode_steps=protocol.max_frames,
        repeat_action_probability=protocol.sticky,
        full_action_space=protocol.full_action_space,
        batch_size=1,
        num_threads=1,
        thread_affinity_offset=-1,
        autoreset_mode=AutoresetMode.NEXT_STEP.value,  # it never comes to that: AtariGame wants a reset first
    )


def _picture(protocol: AtariProtocol) -> tuple[int, int]:
    return SCREEN if protocol.size is None else (protocol.size, protocol.size)


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in _RENDER_MODES:
        raise UsageError(
            f"render_mode is {render_mode!r}, but a real game has None and 'rgb_array' (to play it yourself, give an "
            "'rgb_array' environment to gymnasium.utils.play.play)."
        )
