"""The real game under the name of its dream, as Gymnasium environments: pixels, or observed as in the dream.

An Atari100k game with the benchmark's preprocessing (:class:`jedi_env.envs.atari.AtariProtocol`), or any other
Gymnasium id that shows images. It is not the dream; :func:`make_real` only gives the real game the dream's spaces.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, overload

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from jedi_env.arguments import check_whole
from jedi_env.envs.atari import AtariProtocol, AtariVectorGame, atari_game
from jedi_env.envs.encode import (
    Action,
    CheckpointLike,
    EncodedEnv,
    EncodedVectorEnv,
    Frames,
    Observation,
    Pixels,
    latent_frames,
    pixel_frames,
)
from jedi_env.envs.pixels import SIZE, AreaResize, PixelsVectorEnv
from jedi_env.errors import UsageError, nearest
from jedi_env.games import GAMES

if TYPE_CHECKING:
    from jedi_env.checkpoint import Checkpoint

_OBS_TYPES = ("latent", "rgb")

Path = str | os.PathLike[str]


def make_pixels(
    game_or_env_id: str,
    *,
    life_loss: bool = False,
    sticky: float = 0.0,
    noop_max: int = 30,
    max_frames: int = 108_000,
    frame_skip: int | tuple[int, int] = 4,
    render_mode: str | None = None,
) -> gymnasium.Env[Pixels, Action]:
    """Return one real game whose observations are pixels, uint8 ``(64, 64, 3)``.

    Args:
        game_or_env_id: one of :data:`jedi_env.GAMES`, or any Gymnasium id (also ``"module:id"``) whose observations are
            uint8 images ``(H, W, 3)``, or grey ones; those are resized.
        life_loss: a lost life ends the episode but not the game; Atari games only, as the next four.
        sticky: chance that the emulator repeats the last action at a frame.
        noop_max: most no-ops that a game starts with.
        max_frames: emulator frames after which a game is truncated.
        frame_skip: emulator frames a step; a pair: drawn uniformly from the least to the most at every step.
        render_mode: None or ``"rgb_array"``.

    Raises:
        UsageError: an unknown name, observations that are no images, or a wrong argument.
    """
    _check_name(game_or_env_id)
    protocol = AtariProtocol(frame_skip, noop_max, sticky, life_loss, max_frames)
    if game_or_env_id in GAMES:
        return atari_game(game_or_env_id, protocol, render_mode)
    return _make_other(game_or_env_id, protocol, render_mode)


def make_pixels_vec(
    game_or_env_id: str,
    num_envs: int,
    *,
    life_loss: bool = False,
    sticky: float = 0.0,
    noop_max: int = 30,
    max_frames: int = 108_000,
    frame_skip: int | tuple[int, int] = 4,
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    render_mode: str | None = None,
) -> PixelsVectorEnv:
    """Return ``num_envs`` lanes of a real game whose observations are pixels, uint8 ``(num_envs, 64, 64, 3)``.

    ``info`` is laid out as in Gymnasium's ``SyncVectorEnv``: a mask ``_key`` for every ``key``, and in mode SAME_STEP
    ``final_obs`` (an object array) and ``final_info`` for the lanes that ended. Rewards are float64 and raw.

    Args:
        game_or_env_id: as in :func:`make_pixels`.
        num_envs: number of lanes.
        life_loss: a lost life ends the episode but not the game; Atari games only, as the next four.
        sticky: chance that the emulator repeats the last action at a frame.
        noop_max: most no-ops that a game starts with.
        max_frames: emulator frames after which a game is truncated.
        frame_skip: emulator frames a step; a pair: drawn uniformly from the least to the most at every step.
        autoreset_mode: one of Gymnasium's three, or its value (``"SameStep"``, ``"NextStep"``, ``"Disabled"``).
        render_mode: None or ``"rgb_array"``.

    Raises:
        UsageError: as :func:`make_pixels`, or a wrong number of lanes or mode.
    """
    _check_name(game_or_env_id)
    protocol = AtariProtocol(frame_skip, noop_max, sticky, life_loss, max_frames)
    mode = _check_mode(autoreset_mode)
    check_whole("num_envs", num_envs)
    if game_or_env_id not in GAMES:
        return PixelsVectorEnv([_make_other(game_or_env_id, protocol, render_mode) for _ in range(num_envs)], mode)
    least, most = protocol.frame_skips
    if least == most:
        return AtariVectorGame(game_or_env_id, num_envs, protocol, mode, render_mode)
    games = [atari_game(game_or_env_id, protocol, render_mode) for _ in range(num_envs)]
    return PixelsVectorEnv(games, mode, options=())


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
    frame_skip: int | tuple[int, int] = 4,
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
    frame_skip: int | tuple[int, int] = 4,
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
    frame_skip: int | tuple[int, int] = 4,
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
        life_loss: a lost life ends the episode but not the game; Atari games only, as the next two.
        sticky: chance that the emulator repeats the last action at a frame.
        frame_skip: emulator frames a step; a pair: drawn uniformly from the least to the most at every step. A dream
            of the preset ``stochastic`` was trained under ``(2, 6)``.
        autoreset_mode: one of Gymnasium's three (vector only).
        device: where the encoder runs, a copy if the given one is elsewhere; ``"auto"``: CUDA, else MPS, else the CPU.
        render_mode: None or ``"rgb_array"``.

    Raises:
        UsageError: a wrong argument; see :func:`make_pixels`.
        CheckpointError: the encoder is missing or damaged.
    """
    if obs_type not in _OBS_TYPES:
        raise UsageError(
            f"obs_type is {obs_type!r}, but it must be 'latent' or 'rgb'.{nearest(str(obs_type), _OBS_TYPES)}"
        )
    check_whole("frame_stack", frame_stack)
    if num_envs is None:
        env = make_pixels(
            game_or_env_id, life_loss=life_loss, sticky=sticky, frame_skip=frame_skip, render_mode=render_mode
        )
        try:
            frames = _frames(game_or_env_id, env.action_space, checkpoint, obs_type, frame_stack, device)
            single = EncodedEnv(env, frames, frame_stack)
            if obs_type == "latent":
                single.action_space = _dreamed(single.action_space, game_or_env_id)
            return single
        except Exception:
            env.close()
            raise
    lanes = make_pixels_vec(
        game_or_env_id,
        num_envs,
        life_loss=life_loss,
        sticky=sticky,
        frame_skip=frame_skip,
        autoreset_mode=autoreset_mode,
        render_mode=render_mode,
    )
    try:
        frames = _frames(game_or_env_id, lanes.single_action_space, checkpoint, obs_type, frame_stack, device)
        many = EncodedVectorEnv(lanes, frames, frame_stack)
        if obs_type == "latent":
            many.single_action_space = _dreamed(many.single_action_space, game_or_env_id)
            many.action_space = batch_space(many.single_action_space, num_envs)
        return many
    except Exception:
        lanes.close()
        raise


def _frames(
    game: str,
    space: gymnasium.Space[Any],
    checkpoint: CheckpointLike | Path | None,
    obs_type: str,
    frame_stack: int,
    device: str,
) -> Frames:
    if obs_type == "rgb":
        return pixel_frames(SIZE)
    from jedi_env.device import resolve_device

    place = resolve_device(device)
    from jedi_env.checkpoint import Checkpoint
    from jedi_env.find import find_checkpoint

    if isinstance(checkpoint, Checkpoint) or not isinstance(checkpoint, CheckpointLike):
        checkpoint = find_checkpoint(game, checkpoint, place)
        _check_actions(game, space, checkpoint)
    model = checkpoint.to(place).world_model  # a copy if it is elsewhere: others may share the one that was given
    if frame_stack > model.context_length:
        raise UsageError(
            f"frame_stack is {frame_stack}, but the dream remembers {model.context_length} frames: "
            f"write a number from 1 to {model.context_length}."
        )
    return latent_frames(model, place)


def _check_actions(game: str, space: gymnasium.Space[Any], checkpoint: Checkpoint) -> None:
    """Raise :class:`UsageError` unless the dream was trained under the game's actions: a policy of it plays here."""
    from jedi_env.actions import actions_of

    real, dreamed = actions_of(space, game), checkpoint.world_model.actions
    if real != dreamed:
        raise UsageError(
            f"{game!r} has the actions {real.space}, and the dream has {dreamed.space}: it is of another game "
            f"({checkpoint.game or 'which one, it does not say'}). Name the checkpoint= of a dream of this one."
        )


def _dreamed(space: gymnasium.Space[Any], game: str) -> gymnasium.Space[Any]:
    """Return the dream's action space for a game's: the same, but that a Box is of float32."""
    from jedi_env.actions import actions_of

    return actions_of(space, game).space if isinstance(space, Box) and space.dtype == np.float64 else space


def _make_other(env_id: str, protocol: AtariProtocol, render_mode: str | None) -> gymnasium.Env[Pixels, Action]:
    try:
        env = gymnasium.make(env_id, render_mode=render_mode)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UsageError(
            f"{env_id!r} is neither an Atari100k game nor an id that Gymnasium can make ({error})."
            f"{nearest(env_id, GAMES)} The games are spelled as in ALE: {', '.join(GAMES)}. The id of another package "
            "names it: 'ale_py:ALE/Breakout-v5'."
        ) from error
    if protocol != AtariProtocol():
        env.close()
        raise UsageError(
            "life_loss, sticky, noop_max, max_frames and frame_skip are for the Atari100k games: "
            f"leave them out for {env_id!r}."
        )
    try:
        return AreaResize(env)
    except UsageError:
        env.close()
        raise


def _check_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        values = [one.value for one in AutoresetMode]
        raise UsageError(
            f"autoreset_mode is {mode!r}, but it must be a gymnasium.vector.AutoresetMode or one of {values}."
            f"{nearest(str(mode), values)}"
        ) from error


def _check_name(game_or_env_id: object) -> None:
    if not isinstance(game_or_env_id, str):
        raise UsageError(
            f"The game is {game_or_env_id!r}: write one of jedi_env.GAMES, such as 'Breakout', or a Gymnasium id."
        )
