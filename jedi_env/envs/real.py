"""The real game with the Atari100k preprocessing, as Gymnasium environments (Machado et al. 2018; Kaiser et al. 2020).

64x64 RGB, frame skip 4 with the maximum over the last two frames, up to 30 no-ops at a start, minimal actions, no
sticky actions, raw rewards, no button pressed for the agent: :class:`AtariProtocol`. ``ale_py``'s C++ preprocessing
does it, without OpenCV. Any other Gymnasium id that shows images works too. This is the only file that imports
``ale_py``. It is not the dream; :func:`make_real` only gives the real game the dream's spaces.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, overload

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import ArrayLike, NDArray

from jedi_env.envs.encode import (
    Action,
    CheckpointLike,
    EncodedEnv,
    EncodedVectorEnv,
    Frames,
    Observation,
    Pixels,
    Seeds,
    latent_frames,
    pixel_frames,
)
from jedi_env.errors import UsageError, nearest
from jedi_env.games import GAMES

if TYPE_CHECKING:
    from ale_py import ALEVectorInterface

SIZE = 64
RENDER_SCALE = 4
EMULATOR_FPS = 60
_KEYS = {"UP": "w", "DOWN": "s", "LEFT": "a", "RIGHT": "d", "FIRE": " "}
_OBS_TYPES = ("latent", "rgb")
_RENDER_MODES = (None, "rgb_array")

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class AtariProtocol:
    """How a game is played; a score means nothing without it. The defaults are those of the Atari100k benchmark.

    Attributes:
        frame_skip: emulator frames a step; the pixels are the maximum over the last two.
        noop_max: an episode starts with 0 to this many no-ops, drawn uniformly.
        sticky: chance that the emulator repeats the last action in place of the given one, at every frame.
        life_loss: a lost life ends the episode (``terminated``), and the reset after it goes on with the same game.
        max_frames: emulator frames, not counting the no-ops, after which a game is truncated.
        full_action_space: all 18 actions rather than those that the game uses.
        size: height and width of the pixels.
    """

    frame_skip: int = 4
    noop_max: int = 30
    sticky: float = 0.0
    life_loss: bool = False
    max_frames: int = 108_000
    full_action_space: bool = False
    size: int = SIZE

    def __post_init__(self) -> None:
        for name, least in (("frame_skip", 1), ("noop_max", 0), ("max_frames", 1), ("size", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; write a whole number of at least {least}.")
        if not 0 <= self.sticky <= 1:
            raise UsageError(
                f"sticky is {self.sticky}, but it is a chance: write a number from 0 to 1 (0.25 is usual)."
            )


class AtariGame(gymnasium.Env[Pixels, Action]):
    """One game under a protocol; observations are pixels, uint8 ``(size, size, 3)``.

    A seed and the actions since determine every frame. A seeded ``reset`` boots the console anew (about 0.1 s here); an
    unseeded one is 20 times faster and continues the seed's stream of no-op counts. Under ``life_loss`` an unseeded
    ``reset`` right after a lost life shows the same pixels again and the game goes on; a seeded one starts a new game.
    ``info`` has ``lives``, ``frame_number``, ``episode_frame_number`` and ``game_over``, which tells the end of a game
    from the end of a life.

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
        self.render_mode = render_mode
        self.metadata = {
            "render_modes": [mode for mode in _RENDER_MODES if mode],
            "render_fps": EMULATOR_FPS // self.protocol.frame_skip,
        }
        self._ale: ALEVectorInterface | None = _emulator(game, self.protocol)
        self._meanings: list[str] = [action.name for action in self._ale.get_action_set()]
        self.observation_space = Box(0, 255, (self.protocol.size, self.protocol.size, 3), np.uint8)
        self.action_space = Discrete(len(self._meanings))
        self._pixels: Pixels | None = None
        self._info: dict[str, Any] = {}
        self._sent = False
        self._life_lost = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Pixels, dict[str, Any]]:
        """Start a game, or go on with it after a lost life; no options are used."""
        ale = self._open()
        seed = _check_seed(seed)
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
        # Some games show no life left for a while before they are over: only then is the game's own sign the end.
        self._life_lost = self.protocol.life_loss and not game_over and 0 < lives < before
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
        """Return the pixels, enlarged by :data:`RENDER_SCALE` with no smoothing; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._pixels is None:
            raise UsageError("render() before reset(): call reset() first.")
        return self._pixels.repeat(RENDER_SCALE, axis=0).repeat(RENDER_SCALE, axis=1)

    def close(self) -> None:
        """End the emulator and its thread; may be called twice."""
        self._ale = None

    def get_action_meanings(self) -> list[str]:
        """Return the name of every action, such as ``["NOOP", "FIRE", "RIGHT", "LEFT"]``."""
        return list(self._meanings)

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Return which keys (w a s d and space) give which action, for ``gymnasium.utils.play``; no key is a no-op."""
        return {
            tuple(key for part, key in _KEYS.items() if part in meaning): action
            for action, meaning in enumerate(self._meanings)
            if meaning != "NOOP"
        }

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


class AreaResize(gymnasium.ObservationWrapper[Pixels, Action, Pixels], gymnasium.utils.RecordConstructorArgs):
    """Resizes the images of any environment to ``(size, size, 3)``: each new pixel is the mean of the area it covers.

    Args:
        env: its observations are uint8 ``(H, W, 3)``.
        size: the new height and width.

    Raises:
        UsageError: the observations are something else.
    """

    def __init__(self, env: gymnasium.Env[Pixels, Action], size: int = SIZE) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, size=size)  # for env.spec
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if space.dtype != np.uint8 or space.shape is None or len(space.shape) != 3 or space.shape[2] != 3:
            raise UsageError(
                f"{env} has observations {space}, but a real game must show uint8 images (height, width, 3): "
                "take another id, or write a wrapper that returns such images and register that."
            )
        self.observation_space = Box(0, 255, (size, size, 3), np.uint8)
        self._rows, self._columns = (_area_weights(length, size) for length in space.shape[:2])

    def observation(self, observation: Pixels) -> Pixels:
        """Return the resized image; an image that has the size already is copied."""
        if observation.shape == self.observation_space.shape:
            return observation.copy()
        mean = np.einsum("yh,hwc,xw->yxc", self._rows, observation, self._columns, optimize=True)
        resized: Pixels = np.rint(mean).astype(np.uint8)
        return resized


class PixelsVectorEnv(SyncVectorEnv):
    """Many games at once: Gymnasium's ``SyncVectorEnv`` in all its autoreset modes, with its traps closed.

    A wrong call is refused before any lane has moved, and the caller's ``options`` are left as they are.
    """

    def __init__(self, games: Sequence[gymnasium.Env[Pixels, Action]], autoreset_mode: AutoresetMode) -> None:
        super().__init__([partial(_same, game) for game in games], autoreset_mode=autoreset_mode)
        self._ended: NDArray[np.bool_] | None = None  # None until the first reset

    def reset(
        self,
        *,
        seed: Seeds = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset every lane, or those that ``options["reset_mask"]`` (bool, one a lane) names.

        Args:
            seed: an int gives lane i ``seed + i``; or one seed a lane.
            options: not changed.

        Raises:
            UsageError: a wrong mask or seed.
        """
        seeds = self._check_seeds(seed)
        options = dict(options or {})
        mask = self._check_mask(options["reset_mask"]) if "reset_mask" in options else None
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
            UsageError: before the first reset; or a lane has ended and was not reset in mode DISABLED.
        """
        self._check_ready()
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

    def _check_seeds(self, seed: Seeds) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [_check_seed(int(seed) + lane) for lane in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise UsageError(f"{len(seed)} seeds for {self.num_envs} lanes: give one int, or one seed a lane.")
        return [_check_seed(one) for one in seed]

    def _check_mask(self, mask: object) -> NDArray[np.bool_]:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise UsageError(f"reset_mask is {mask!r}, but it must be a numpy bool array of shape ({self.num_envs},).")
        if not mask.any():
            raise UsageError("reset_mask names no lane: leave the call out, or set at least one True.")
        if self._ended is None and not mask.all():
            raise UsageError("The first reset must be of every lane: leave reset_mask out.")
        return mask


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
        super().__init__([AtariGame(game, protocol, render_mode) for _ in range(num_envs)], autoreset_mode)
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


def make_pixels(
    game_or_env_id: str,
    *,
    life_loss: bool = False,
    sticky: float = 0.0,
    noop_max: int = 30,
    max_frames: int = 108_000,
    render_mode: str | None = None,
) -> gymnasium.Env[Pixels, Action]:
    """Return one real game whose observations are pixels, uint8 ``(64, 64, 3)``.

    Args:
        game_or_env_id: one of :data:`jedi_env.GAMES`, or any Gymnasium id (also ``"module:id"``) whose observations are
            uint8 images ``(H, W, 3)``; those are resized.
        life_loss: a lost life ends the episode but not the game; Atari games only, as the next three.
        sticky: chance that the emulator repeats the last action at a frame.
        noop_max: most no-ops that a game starts with.
        max_frames: emulator frames after which a game is truncated.
        render_mode: None or ``"rgb_array"``.

    Raises:
        UsageError: an unknown name, observations that are no images, or a wrong argument.
    """
    protocol = AtariProtocol(life_loss=life_loss, sticky=sticky, noop_max=noop_max, max_frames=max_frames)
    if game_or_env_id in GAMES:
        return AtariGame(game_or_env_id, protocol, render_mode)
    return _make_other(game_or_env_id, protocol, render_mode)


def make_pixels_vec(
    game_or_env_id: str,
    num_envs: int,
    *,
    life_loss: bool = False,
    sticky: float = 0.0,
    noop_max: int = 30,
    max_frames: int = 108_000,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    render_mode: str | None = None,
) -> PixelsVectorEnv:
    """Return ``num_envs`` lanes of a real game whose observations are pixels, uint8 ``(num_envs, 64, 64, 3)``.

    ``info`` is laid out as in Gymnasium's ``SyncVectorEnv``: a mask ``_key`` for every ``key``, and in mode SAME_STEP
    ``final_obs`` (an object array) and ``final_info`` for the lanes that ended. Rewards are float64 and raw.

    Args:
        game_or_env_id: as in :func:`make_pixels`.
        num_envs: number of lanes.
        life_loss: a lost life ends the episode but not the game; Atari games only, as the next three.
        sticky: chance that the emulator repeats the last action at a frame.
        noop_max: most no-ops that a game starts with.
        max_frames: emulator frames after which a game is truncated.
        autoreset_mode: one of Gymnasium's three, or its value (``"SameStep"``, ``"NextStep"``, ``"Disabled"``).
        render_mode: None or ``"rgb_array"``.

    Raises:
        UsageError: as :func:`make_pixels`, or a wrong number of lanes or mode.
    """
    protocol = AtariProtocol(life_loss=life_loss, sticky=sticky, noop_max=noop_max, max_frames=max_frames)
    mode = _check_mode(autoreset_mode)
    _check_positive("num_envs", num_envs)
    if game_or_env_id in GAMES:
        return AtariVectorGame(game_or_env_id, num_envs, protocol, mode, render_mode)
    games = [_make_other(game_or_env_id, protocol, render_mode) for _ in range(num_envs)]
    return PixelsVectorEnv(games, mode)


@overload
def make_real(
    game_or_env_id: str,
    num_envs: None = None,
    checkpoint: CheckpointLike | Path | None = None,
    obs_type: Literal["latent", "rgb"] = "latent",
    frame_stack: int = 4,
    *,
    life_loss: bool = False,
    sticky: float = 0.0,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    device: str = "auto",
    render_mode: str | None = None,
) -> gymnasium.Env[Observation, Action]: ...


@overload
def make_real(
    game_or_env_id: str,
    num_envs: int,
    checkpoint: CheckpointLike | Path | None = None,
    obs_type: Literal["latent", "rgb"] = "latent",
    frame_stack: int = 4,
    *,
    life_loss: bool = False,
    sticky: float = 0.0,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    device: str = "auto",
    render_mode: str | None = None,
) -> VectorEnv[Observation, Action, NDArray[Any]]: ...


def make_real(
    game_or_env_id: str,
    num_envs: int | None = None,
    checkpoint: CheckpointLike | Path | None = None,
    obs_type: Literal["latent", "rgb"] = "latent",
    frame_stack: int = 4,
    *,
    life_loss: bool = False,
    sticky: float = 0.0,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    device: str = "auto",
    render_mode: str | None = None,
) -> gymnasium.Env[Observation, Action] | VectorEnv[Observation, Action, NDArray[Any]]:
    """Return the real game with the spaces of its dream, so that a policy trained in the dream runs here unchanged.

    Args:
        game_or_env_id: as in :func:`make_pixels`.
        num_envs: None for a ``gymnasium.Env``; a number of lanes for a ``VectorEnv``.
        checkpoint: a loaded checkpoint or where to find one; None: looked up as the dream of that game is. Not read
            if ``obs_type`` is ``"rgb"``.
        obs_type: ``"latent"``: float32 ``(frame_stack * C, H, W)``, what the checkpoint's encoder makes of the pixels.
            ``"rgb"``: uint8 ``(64, 64, 3 * frame_stack)``; needs no checkpoint and no torch.
        frame_stack: frames in an observation, newest last; the first frame of an episode fills it.
        life_loss: a lost life ends the episode but not the game; Atari games only, as ``sticky``.
        sticky: chance that the emulator repeats the last action at a frame.
        autoreset_mode: one of Gymnasium's three (vector only).
        device: where the encoder runs and is moved to; ``"auto"``: CUDA, else MPS, else the CPU.
        render_mode: None or ``"rgb_array"``.

    Raises:
        UsageError: a wrong argument; see :func:`make_pixels`.
        CheckpointError: the encoder is missing or damaged.
    """
    if obs_type not in _OBS_TYPES:
        raise UsageError(f"obs_type is {obs_type!r}, but it must be 'latent' or 'rgb'.{nearest(obs_type, _OBS_TYPES)}")
    _check_positive("frame_stack", frame_stack)
    if num_envs is None:
        env = make_pixels(game_or_env_id, life_loss=life_loss, sticky=sticky, render_mode=render_mode)
        try:
            return EncodedEnv(env, _frames(game_or_env_id, checkpoint, obs_type, frame_stack, device), frame_stack)
        except Exception:
            env.close()
            raise
    lanes = make_pixels_vec(
        game_or_env_id,
        num_envs,
        life_loss=life_loss,
        sticky=sticky,
        autoreset_mode=autoreset_mode,
        render_mode=render_mode,
    )
    try:
        return EncodedVectorEnv(lanes, _frames(game_or_env_id, checkpoint, obs_type, frame_stack, device), frame_stack)
    except Exception:
        lanes.close()
        raise


def check_actions(actions: ArrayLike, shape: tuple[int, ...], number: int) -> NDArray[np.integer[Any]]:
    """Return ``actions`` as an integer array of ``shape``, each in ``range(number)``, or raise :class:`UsageError`.

    The emulator must never see another action: its thread would stop, and the caller would wait for ever.
    """
    array = np.asarray(actions)
    if array.shape != shape or array.dtype.kind not in "iu" or bool(((array < 0) | (array >= number)).any()):
        wanted = f"an integer array of shape {shape}, each" if shape else "an integer"
        raise UsageError(f"The action is {actions!r}, but it must be {wanted} from 0 to {number - 1}.")
    return array


def _frames(
    game: str,
    checkpoint: CheckpointLike | Path | None,
    obs_type: str,
    frame_stack: int,
    device: str,
) -> Frames:
    if obs_type == "rgb":
        return pixel_frames(SIZE)
    if checkpoint is None or isinstance(checkpoint, str | os.PathLike):
        from jedi_env.checkpoint import find_checkpoint

        checkpoint = find_checkpoint(game, checkpoint)
    model = checkpoint.world_model
    if frame_stack > model.context_length:
        raise UsageError(
            f"frame_stack is {frame_stack}, but the dream remembers {model.context_length} frames: "
            f"write a number from 1 to {model.context_length}."
        )
    return latent_frames(model, device)


def _emulator(game: str, protocol: AtariProtocol) -> ALEVectorInterface:
    """Return ``ale_py``'s preprocessing of one lane; a thread of its own runs it."""
    try:
        from ale_py import ALEVectorInterface, roms
    except ImportError as error:
        raise UsageError("Playing a real Atari game needs ale-py: pip install 'jedi-env[atari]'.") from error
    rom = roms.get_rom_path(re.sub(r"(?<!^)(?=[A-Z])", "_", game).lower())
    if rom is None:
        raise UsageError(f"ale-py has no ROM of {game!r}.{nearest(game, GAMES)}")
    return ALEVectorInterface(
        rom_path=rom,
        num_envs=1,
        frame_skip=protocol.frame_skip,
        stack_num=1,
        img_height=protocol.size,
        img_width=protocol.size,
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


def _make_other(env_id: str, protocol: AtariProtocol, render_mode: str | None) -> gymnasium.Env[Pixels, Action]:
    try:
        env = gymnasium.make(env_id, render_mode=render_mode)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UsageError(
            f"{env_id!r} is neither an Atari100k game nor an id that Gymnasium can make ({error})."
            f"{nearest(env_id, GAMES)} The games are spelled as in ALE: {', '.join(GAMES)}."
        ) from error
    if protocol != AtariProtocol():
        env.close()
        raise UsageError(
            f"life_loss, sticky, noop_max and max_frames are for the Atari100k games: leave them out for {env_id!r}."
        )
    try:
        return AreaResize(env)
    except UsageError:
        env.close()
        raise


def _area_weights(old: int, new: int) -> NDArray[np.float64]:
    """Return ``(new, old)`` rows that sum to 1: how much of each new cell every old cell covers."""
    edges = np.arange(new + 1) * (old / new)
    cells = np.arange(old)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights: NDArray[np.float64] = overlap.clip(min=0) * (new / old)
    return weights


def _same(game: gymnasium.Env[Pixels, Action]) -> gymnasium.Env[Pixels, Action]:
    return game


def _check_seed(seed: int | np.integer[Any] | None) -> int | None:
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"The seed is {seed!r}, but it must be a whole number of at least 0, or None.")
    return int(seed)


def _check_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        values = [one.value for one in AutoresetMode]
        raise UsageError(
            f"autoreset_mode is {mode!r}, but it must be a gymnasium.vector.AutoresetMode or one of {values}."
            f"{nearest(str(mode), values)}"
        ) from error


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode not in _RENDER_MODES:
        raise UsageError(
            f"render_mode is {render_mode!r}, but a real game has None and 'rgb_array' (to play it yourself, give an "
            "'rgb_array' environment to gymnasium.utils.play.play)."
        )


def _check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}, but it must be a whole number of at least 1.")
