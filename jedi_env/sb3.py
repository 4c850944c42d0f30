"""The Stable-Baselines3 face: native Gymnasium vector environments as SB3 ``VecEnv``.

:func:`as_vec_env` bridges any of them, in every autoreset mode, with work only for the lanes whose episode ended;
:func:`make_dream` and :func:`make_real` make the two that belong together; :class:`LatentCnn` reads latents. This is
the only file of the package that imports ``stable_baselines3``. It translates: no environment and no agent is here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from torch import Tensor, nn

from jedi_env.arguments import check_info_keys, check_seed
from jedi_env.checkpoint import as_folder
from jedi_env.envs import real
from jedi_env.errors import UsageError, nearest
from jedi_env.folder import current
from jedi_env.games import GAMES

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv, VecMonitor
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
except ImportError as error:
    raise ImportError("jedi_env.sb3 needs Stable-Baselines3: pip install 'jedi-env[sb3]'.") from error

if TYPE_CHECKING:
    import torch

    from jedi_env.checkpoint import Checkpoint

Observation = NDArray[Any] | dict[str, NDArray[Any]]  # of one lane, or of all

_ARRAY_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def make_dream(
    game_or_checkpoint: str | os.PathLike[str] | Checkpoint,
    n_envs: int = 1,
    *,
    seed: int | None = None,
    obs_type: Literal["latent", "rgb"] = "latent",
    frame_stack: int = 4,
    horizon: int | Literal["checkpoint"] | None = "checkpoint",
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    compile: bool | Literal["auto"] = "auto",
    sampler_steps: int | None = None,
    info_keys: Sequence[str] = (),
    render_mode: str | None = None,
) -> VecEnv:
    """Return ``n_envs`` dreams of one world model, with a ``VecMonitor`` around them.

    Observations are float32 ``(frame_stack*C, H, W)`` latents, or with ``obs_type="rgb"`` uint8 images
    ``(64, 64, 3*frame_stack)``, which SB3 transposes by itself. Rewards are the signs -1, 0 and 1, or of any size
    if the model learned that.

    Args:
        game_or_checkpoint: one of :data:`jedi_env.GAMES`, whose dream is looked up; or a checkpoint: its folder,
            ``"hub://owner/repo[@revision]"``, or one already loaded. A folder with the name of a game is ``"./Pong"``.
        n_envs: number of dreams; they are imagined together.
        seed: dream i starts on the stream of ``seed + i``; an algorithm with a ``seed`` sets its own.
        obs_type: ``"latent"`` or ``"rgb"``.
        frame_stack: frames in an observation, newest last.
        horizon: steps until a dream is truncated; ``"checkpoint"``: as it recommends; None: no limit.
        device: where to dream; ``"auto"``: the fastest there is.
        dtype: precision of the world model; ``"auto"``: what is fast on the device.
        compile: whether to compile the world model; ``"auto"``: if that pays.
        sampler_steps: denoising steps a frame; None: as the checkpoint recommends.
        info_keys: which of ``"reward_probs"`` and ``"termination_prob"`` to put into every dream's info.
        render_mode: None or ``"rgb_array"``.

    Raises:
        UsageError: neither a game nor a checkpoint, no dream of that game, or a wrong argument.
        CheckpointError: the checkpoint is missing or damaged.
        RunError: so many dreams do not fit into the memory.
    """
    check_seed(seed)
    game = game_or_checkpoint if isinstance(game_or_checkpoint, str) and game_or_checkpoint in GAMES else None
    if (
        game is None
        and isinstance(game_or_checkpoint, str)
        and not game_or_checkpoint.startswith("hub://")
        and not current(as_folder(game_or_checkpoint)).exists()
    ):
        raise UsageError(
            f"{game_or_checkpoint!r} is neither an Atari100k game nor a checkpoint folder."
            f"{nearest(game_or_checkpoint, GAMES)} Write a game as ALE spells it ({', '.join(GAMES)}), "
            "an existing folder, or 'hub://owner/repo'."
        )
    env = gymnasium.make_vec(
        f"JEDIDream-{game}-v0" if game else "JEDIDream-v0",
        num_envs=n_envs,
        checkpoint=None if game else game_or_checkpoint,
        obs_type=obs_type,
        frame_stack=frame_stack,
        horizon=horizon,
        device=device,
        dtype=dtype,
        compile=compile,
        sampler_steps=sampler_steps,
        autoreset_mode=AutoresetMode.SAME_STEP,
        info_keys=info_keys,
        render_mode=render_mode,
    )
    return _monitored(env, seed, info_keys)


def make_real(
    game_or_env_id: str,
    n_envs: int = 1,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    *,
    seed: int | None = None,
    obs_type: Literal["latent", "rgb"] = "latent",
    frame_stack: int = 4,
    life_loss: bool = False,
    sticky: float = 0.0,
    frame_skip: int | tuple[int, int] = 4,
    device: str = "auto",
    render_mode: str | None = None,
) -> VecEnv:
    """Return ``n_envs`` lanes of the real game with the spaces of :func:`make_dream`, and a ``VecMonitor`` around them.

    Rewards are the game's own, unclipped, so that the monitor's returns are scores.

    Args:
        game_or_env_id: as for :func:`jedi_env.make_real`, which does the work.
        n_envs: number of games.
        checkpoint: whose encoder makes the latents; None: looked up as the dream of that game. ``"rgb"`` needs none.
        seed: game i plays by ``seed + i``; an algorithm with a ``seed`` sets its own.
        obs_type: ``"latent"`` or ``"rgb"``.
        frame_stack: frames in an observation, newest last.
        life_loss: a lost life ends the episode (but not the game).
        sticky: chance that the emulator repeats the last action at a frame.
        frame_skip: emulator frames a step, or the least and the most.
        device: where the encoder runs.
        render_mode: None or ``"rgb_array"``.

    Raises:
        UsageError: a wrong argument.
        CheckpointError: the encoder is missing or damaged.
    """
    check_seed(seed)
    env = real.make_real(
        game_or_env_id,
        n_envs,
        checkpoint,
        obs_type,
        frame_stack,
        life_loss=life_loss,
        sticky=sticky,
        frame_skip=frame_skip,
        autoreset_mode=AutoresetMode.SAME_STEP,
        device=device,
        render_mode=render_mode,
    )
    return _monitored(env, seed, ())


def _monitored(env: VectorEnv[Any, Any, Any], seed: int | None, info_keys: Sequence[str]) -> VecEnv:
    vec_env = VecMonitor(as_vec_env(env, info_keys=info_keys))
    if seed is not None:
        vec_env.seed(seed)
    return vec_env


def as_vec_env(env: VectorEnv[Any, Any, Any], *, info_keys: Sequence[str] = ()) -> VecEnv:
    """Bridge a native Gymnasium ``VectorEnv`` to SB3, without a Python loop over the lanes that go on.

    In mode SAME_STEP it is passed through. In the modes NEXT_STEP and DISABLED, lanes are reset by mask at once when
    they end, so SB3 sees the same episodes, transition for transition, as through ``DummyVecEnv``.

    A lane's info is ``{}`` unless its episode ended (``terminal_observation``, ``TimeLimit.truncated``) or a key was
    asked for. For episode statistics wrap it in SB3's ``VecMonitor``: in the modes that need masked resets, Gymnasium's
    ``RecordEpisodeStatistics`` around a ``SyncVectorEnv`` forgets all lanes when one is reset.

    Args:
        env: with NumPy observations; ``jedi_env.check_vector_env`` tells whether it keeps its contract.
        info_keys: which keys of the environment's info to hand on; each costs a loop over the lanes that have it.

    Raises:
        UsageError: not a ``VectorEnv``, spaces that SB3 does not have, no autoreset mode, or no tuple of keys; later,
            when an environment does not keep the mode it declares.
    """
    if not isinstance(env, VectorEnv):
        raise UsageError(
            f"as_vec_env bridges a gymnasium.vector.VectorEnv, not {type(env).__name__}: make one with "
            "gymnasium.make_vec(id, num_envs=...). SB3 takes its own VecEnv, or a gymnasium.Env, without a bridge."
        )
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise UsageError(
            f"{env} declares no autoreset mode (metadata['autoreset_mode'] is {mode!r}), so nobody knows what it does "
            "when an episode ends: let it set self.metadata = {..., 'autoreset_mode': AutoresetMode.SAME_STEP} (or "
            "NEXT_STEP, or DISABLED)."
        )
    observation_space = env.single_observation_space
    parts = observation_space.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    if not all(isinstance(part, _ARRAY_SPACES) for part in parts):
        raise UsageError(
            f"SB3 has no observations like {observation_space}: it takes Box, Discrete, MultiDiscrete and MultiBinary, "
            "and a flat Dict of these."
        )
    if not isinstance(env.single_action_space, _ARRAY_SPACES):
        raise UsageError(
            f"SB3 has no actions like {env.single_action_space}: it takes Box, Discrete, MultiDiscrete and MultiBinary."
        )
    check_info_keys(info_keys, "episode")
    return _Bridge(env, mode, tuple(info_keys))


class _Bridge(VecEnv):
    """What :func:`as_vec_env` returns; ``env`` is the environment inside."""

    def __init__(self, env: VectorEnv[Any, Any, Any], mode: AutoresetMode, info_keys: tuple[str, ...]) -> None:
        self.env = env
        self.spec = env.spec
        self._mode = mode
        self._info_keys = info_keys
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = {**env.metadata, **self.metadata}

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed lane i with ``seed + i`` at the next reset; it is used once, even if that reset fails.

        Raises:
            UsageError: no whole number of at least 0, and not None.
        """
        return super().seed(check_seed(seed))

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Pass ``options`` to the next reset, once, even if it fails; a list must say the same for all lanes."""
        if isinstance(options, list) and not all(data_equivalence(one, options[0], exact=True) for one in options):
            raise UsageError("A VectorEnv takes one dict of reset options for all lanes: pass a dict, not a list.")
        super().set_options(options)

    def reset(self) -> Observation:
        """Begin all episodes; the infos are in ``reset_infos``."""
        try:
            observation, info = self.env.reset(seed=self._seeds[0], options=self._options[0] or None)
        finally:
            self._reset_seeds()
            self._reset_options()
        for part in observation.values() if isinstance(observation, dict) else (observation,):
            if not isinstance(part, np.ndarray):
                raise UsageError(
                    f"SB3 wants NumPy observations, but these are {type(part).__module__}.{type(part).__name__}: make "
                    "the environment with NumPy output (in this package output='numpy')."
                )
        self.reset_infos = [self._lane_info(info, lane) for lane in range(self.num_envs)]
        return _copy(observation)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep ``actions`` for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all lanes; those that end come back at the start of their next episode."""
        observation, rewards, terminated, truncated, info = self.env.step(self._actions)
        dones = np.logical_or(terminated, truncated)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._hand_on(info, range(self.num_envs), infos)
        result = _copy(observation)
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            if self._mode is AutoresetMode.SAME_STEP:
                finals, begun = [self._final(info, lane) for lane in ended], info
                self._hand_on(info.get("final_info", {}), ended, infos)
            else:
                finals = [_lanes(result, lane) for lane in ended]
                result, begun = self._restart(result, dones)
            for lane, final in zip(ended, finals, strict=True):
                infos[lane]["terminal_observation"] = final
                infos[lane]["TimeLimit.truncated"] = bool(truncated[lane] and not terminated[lane])
                self.reset_infos[lane] = self._lane_info(begun, lane)
        return result, np.array(rewards, dtype=np.float32), dones, infos

    def _restart(self, observation: Observation, dones: NDArray[np.bool_]) -> tuple[Observation, dict[str, Any]]:
        """Reset the lanes that ended and no other."""
        begun, info = self.env.reset(options={"reset_mask": dones.copy()})
        result = _copy(begun)
        if not data_equivalence(_lanes(observation, ~dones), _lanes(result, ~dones), exact=True):
            raise UsageError(
                f"{self.env} did not keep to reset(options={{'reset_mask': ...}}): lanes outside the mask were reset "
                f"too, or their observations changed. In mode {self._mode.name} a bridge needs that option: make the "
                "environment with autoreset_mode=SAME_STEP, or with gymnasium.make_vec(..., vectorization_mode='sync')."
            )
        return result, info

    def _final(self, info: dict[str, Any], lane: int) -> Observation:
        """Return the final observation of a lane, from an array of all lanes' or from an object array."""
        finals = info.get("final_obs")
        final: Observation | None = None
        if isinstance(finals, dict):
            final = {key: value[lane] for key, value in finals.items()}
        elif finals is not None:
            final = finals[lane]
        if final is None:
            raise UsageError(
                f"{self.env} declares autoreset mode SAME_STEP and lane {lane} ended, but infos['final_obs'] does not "
                "have its final observation: jedi_env.check_vector_env tells what else is wrong with it."
            )
        return _copy(final)

    def _hand_on(self, info: dict[str, Any], lanes: Iterable[int], infos: list[dict[str, Any]]) -> None:
        wanted = {key: info[key] for name in self._info_keys for key in (name, f"_{name}") if key in info}
        if wanted:
            for lane in lanes:
                infos[lane].update(self._lane_info(wanted, lane))

    def _lane_info(self, info: dict[str, Any], lane: int) -> dict[str, Any]:
        """Return what ``info`` says of one lane: of ``key`` if there is no mask ``_key``, or if the mask says so."""
        lane_info: dict[str, Any] = {}
        for key, value in info.items():
            is_mask = key.startswith("_") and key[1:] in info
            mask = info.get(f"_{key}")
            if is_mask or key in ("final_obs", "final_info") or (mask is not None and not mask[lane]):
                continue
            if isinstance(value, dict):
                lane_info[key] = self._lane_info(value, lane)
            elif isinstance(value, np.ndarray) and value.shape[:1] == (self.num_envs,):
                lane_info[key] = deepcopy(value[lane])  # a row may be a view
            else:  # Gymnasium has no such thing, but some environments do: it is everyone's
                lane_info[key] = deepcopy(value)
        return lane_info

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Return every lane's picture, if the render mode is ``"rgb_array"``."""
        frames = self.env.render() if self.render_mode == "rgb_array" else None
        if frames is None:
            warnings.warn(
                f"There are no images: the render mode is {self.render_mode!r}, not 'rgb_array'.", stacklevel=2
            )
            return [None] * self.num_envs
        return [np.asarray(frame) for frame in frames]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the lanes: of their own environments, if there are such, else of the ``VectorEnv``.

        An array of the latter with one entry a lane is taken apart; anything else is every lane's.
        """
        lanes = list(self._get_indices(indices))
        base = self.env.unwrapped
        if isinstance(base, SyncVectorEnv):
            return [base.envs[lane].get_wrapper_attr(attr_name) for lane in lanes]
        if isinstance(base, AsyncVectorEnv):
            values = list(base.get_attr(attr_name))
        else:
            values = self._each(getattr(self._owner(attr_name), attr_name))
        return [values[lane] for lane in lanes]

    def set_attr(self, attr_name: str, value: object, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the lanes' own environments, if there are such, else of the ``VectorEnv``.

        Raises:
            UsageError: some lanes were named, but they cannot be told apart.
        """
        base = self.env.unwrapped
        if isinstance(base, SyncVectorEnv):
            for lane in self._get_indices(indices):
                setattr(base.envs[lane], attr_name, value)
            return
        self._want_all(f"set {attr_name!r}", indices)
        if isinstance(base, AsyncVectorEnv):
            base.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(self._owner(attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: object, indices: VecEnvIndices = None, **method_kwargs: object
    ) -> list[Any]:
        """Call a method of the lanes' own environments, if there are such, else of the ``VectorEnv``, once.

        What the latter returns is given to the lanes as by :meth:`get_attr`.

        Raises:
            UsageError: some lanes were named, but they cannot be told apart.
        """
        base = self.env.unwrapped
        if isinstance(base, SyncVectorEnv):
            methods = [base.envs[lane].get_wrapper_attr(method_name) for lane in self._get_indices(indices)]
            return [method(*method_args, **method_kwargs) for method in methods]
        self._want_all(f"call {method_name!r}", indices)
        if isinstance(base, AsyncVectorEnv):
            return list(base.call(method_name, *method_args, **method_kwargs))
        return self._each(getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs))

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return False for every lane: no SB3 wrapper, such as ``Monitor``, writes into its info."""
        return [False for _ in self._get_indices(indices)]

    def _owner(self, name: str) -> VectorEnv[Any, Any, Any]:
        """Return the outermost wrapper with that attribute, or the environment inside them all."""
        env = self.env
        while isinstance(env, VectorWrapper) and not hasattr(env, name):
            env = env.env
        return env

    def _each(self, value: object) -> list[Any]:
        is_batch = isinstance(value, np.ndarray) and value.shape[:1] == (self.num_envs,)
        return list(value) if is_batch else [value] * self.num_envs  # type: ignore[call-overload]

    def _want_all(self, what: str, indices: VecEnvIndices) -> None:
        lanes = sorted(set(self._get_indices(indices)))
        if lanes != list(range(self.num_envs)):
            raise UsageError(
                f"{type(self.env.unwrapped).__name__} can only {what} for all {self.num_envs} lanes together, and not "
                f"for {lanes}: leave indices out."
            )


class LatentCnn(BaseFeaturesExtractor):
    """Reads stacked latents ``(stack*C, H, W)``: a convolution, a 2x2 pool, one residual block and a linear layer.

    Use it as ``policy_kwargs={"features_extractor_class": LatentCnn}`` with ``"MlpPolicy"``. ``NatureCNN`` is for
    images: its strides leave nothing of an 8x8 latent.

    Args:
        observation_space: a float Box ``(channels, height, width)``, at least 2x2.
        features_dim: length of the feature vector.
        width: channels of the convolutions.

    Raises:
        UsageError: another space.
    """

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int = 256, width: int = 32) -> None:
        shape = observation_space.shape
        is_float = observation_space.dtype is not None and observation_space.dtype.kind == "f"
        if shape is None or len(shape) != 3 or min(shape[1:]) < 2 or not is_float:
            raise UsageError(
                f"LatentCnn reads a float Box (channels, height, width) of at least 2x2, not {observation_space}: "
                "use obs_type='latent', or 'CnnPolicy' for images."
            )
        super().__init__(observation_space, features_dim)
        channels, rows, columns = shape
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.MaxPool2d(2))
        self.block = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * (rows // 2) * (columns // 2), features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Return features ``(B, features_dim)`` of float latents ``(B, C, H, W)``."""
        hidden = self.stem(observations)
        features: Tensor = self.head(hidden + self.block(hidden))
        return features


def _copy(observation: Observation) -> Observation:
    if isinstance(observation, dict):
        return {key: np.array(value) for key, value in observation.items()}
    return np.array(observation)


def _lanes(observation: Observation, index: int | NDArray[np.bool_]) -> Observation:
    """Return a copy of one lane, or of those of a mask."""
    if isinstance(observation, dict):
        return {key: np.array(value[index]) for key, value in observation.items()}
    return np.array(observation[index])
