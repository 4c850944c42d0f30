"""The dream as a native Gymnasium ``VectorEnv``: one batched model call a step, whatever the number of lanes.

Each lane has a noise stream of its own, so what the other lanes do never changes it. This file translates; the dream
itself is :class:`jedi_env.dream.Dream`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from jedi_env.arguments import check_whole
from jedi_env.device import enough_memory
from jedi_env.envs.face import (
    CheckpointArgument,
    Face,
    HorizonArgument,
    as_array,
    check_options,
    unnamed_seed,
)
from jedi_env.envs.window import RENDER_FPS, Window, tile
from jedi_env.errors import RunError, UsageError, nearest
from jedi_env.types import DreamState

OPTIONS = ("reset_mask", "contexts", "frames", "actions", "state")
RENDER_MODES = ("rgb_array", "human")
OUTPUTS = ("numpy", "torch")

Array = Any  # a NumPy array, or with output="torch" a tensor


class DreamVectorEnv(VectorEnv[Array, Array, Array]):
    """``num_envs`` dreams side by side; made by ``gym.make_vec("JEDIDream-v0", num_envs=..., checkpoint=...)``.

    Observations are ``(num_envs, *single_observation_space.shape)``, rewards float32 (in {-1, 0, 1}, or of any size if
    the model learned that), ends bool. With
    ``output="torch"`` all of them are tensors on the model's device, and no copies: an observation may share memory
    with the dream's state, so write to a clone of it, not to it.

    Args:
        num_envs: number of dreams.
        game: one of the 26 games, whose dream is looked up; None: ``checkpoint`` says which.
        checkpoint: a folder, ``hub://owner/repo[@revision]``, a loaded :class:`jedi_env.Checkpoint`, the name of one
            of the 26 games, or None: looked up by ``game``.
        obs_type: ``"latent"``: float32 ``(frame_stack*C, H, W)``; ``"rgb"``: uint8 ``(64, 64, 3*frame_stack)``.
        frame_stack: frames in an observation, newest last; 1 to the model's context length.
        horizon: steps until ``truncated``; ``"checkpoint"``: its recommendation, else 50; None: no limit.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        dtype: precision of the arithmetic: ``"auto"``, ``"float32"``, ``"bfloat16"``, ``"float16"``.
        compile: whether to compile the model; ``"auto"``: on CUDA, where there is a compiler.
        sampler_steps: denoising steps a frame; None: as the checkpoint says.
        autoreset_mode: one of Gymnasium's three, or its value (``"SameStep"``, ``"NextStep"``, ``"Disabled"``).
        output: ``"numpy"`` or ``"torch"``.
        info_keys: ``"reward_probs"`` (n, 3) and ``"termination_prob"`` (n,) to put into ``info``.
        render_mode: None, ``"rgb_array"`` or ``"human"`` (all lanes in one window; needs the ``[play]`` extra).

    Raises:
        UsageError: a wrong argument.
        CheckpointError: the checkpoint is missing or damaged.
        RunError: so many dreams do not fit into the memory; :meth:`reset` and :meth:`step` raise it too.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        game: str | None = None,
        checkpoint: CheckpointArgument = None,
        obs_type: str = "latent",
        frame_stack: int = 4,
        horizon: HorizonArgument = "checkpoint",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        compile: bool | Literal["auto"] = "auto",
        sampler_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        output: str = "numpy",
        info_keys: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        check_whole("num_envs", num_envs)
        self.autoreset_mode = _checked_mode(autoreset_mode)
        if output not in OUTPUTS:
            raise UsageError(f"output is {output!r}.{nearest(str(output), OUTPUTS)} Write 'numpy' or 'torch'.")
        self.face = Face(
            game=game,
            checkpoint=checkpoint,
            obs_type=obs_type,
            frame_stack=frame_stack,
            horizon=horizon,
            device=device,
            dtype=dtype,
            compile=compile,
            sampler_steps=sampler_steps,
            info_keys=info_keys,
        )
        self.face.check_render_mode(render_mode, RENDER_MODES)
        self.num_envs = int(num_envs)  # NumPy's integers are none to Gymnasium
        self.output = output
        self.render_mode = render_mode
        # Per instance: the base class has one dict for all vector environments of the process.
        self.metadata = {
            "autoreset_mode": self.autoreset_mode,
            "render_modes": list(RENDER_MODES),
            "render_fps": RENDER_FPS,
        }
        self.single_observation_space = self.face.observation_space
        self.single_action_space = self.face.action_space
        with self._enough_memory():
            self.observation_space = batch_space(self.single_observation_space, self.num_envs)
            self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._window = Window(RENDER_FPS)

    def reset(
        self, *, seed: int | Sequence[int] | NDArray[Any] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin a dream in every lane, or in some.

        Args:
            seed: an int gives lane i the stream of ``seed + i``; or one seed a lane. None: the streams go on (fresh
                ones at the first reset).
            options: ``reset_mask`` (bool ``(n,)``: only these lanes); at most one of ``contexts`` (an index into the
                bank, one a lane), ``frames`` with ``actions`` (dream on from real history: uint8 ``(K, 64, 64, 3)`` and
                the K-1 actions between them, for all lanes or with a leading lane axis; the last frames that the model
                remembers count) and ``state`` (from :meth:`clone_state`, which goes on with its own noise, or with a
                seed's: so forks of one dream part). What these say of lanes that the mask leaves out is ignored, but
                has to be there. Not changed.

        Raises:
            UsageError: a wrong seed or option; nothing was reset.
        """
        self._check_open()
        self._check_screen()
        given = check_options(options, OPTIONS)
        mask = self._checked_mask(given.get("reset_mask"))
        seeds = self._checked_seeds(seed)
        dream, lanes = self.face.dream, self.num_envs
        contexts = context = state = None
        if given.get("contexts") is not None:
            contexts = self.face.context_indices(given["contexts"], lanes, mask)
        if given.get("frames") is not None:
            context = self.face.history(given["frames"], given["actions"], lanes, mask)
        if given.get("state") is not None:
            state = self._checked_state(given["state"], seeds, mask)

        if seeds is None and not self.face.begun:
            seeds = self._checked_seeds(unnamed_seed(self))
        elif seeds is not None and mask is None:
            super().reset(seed=seeds[0])  # np_random
        with self._enough_memory():
            dream.reset(seeds, mask=mask, contexts=contexts, context=context)
            if state is not None:
                dream.state = state if mask is None else state.where(mask, dream.state)
            observation = self._give(self.face.observe())
        if self.render_mode == "human":
            self.render()
        return observation, {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Dream one step in every lane.

        Args:
            actions: one a lane, ``(n, *single_action_space.shape)``. With ``output="torch"`` the numbers in a tensor on
                the device are not looked at, which would wait for it: a whole number that is out of range fails in
                CUDA's own way, and what is beyond the bounds of a ``Box`` is taken as the bound.

        Raises:
            UsageError: before the first reset, wrong actions, or an ended lane in mode DISABLED; nothing was changed.
        """
        self._check_open()
        self._check_screen()
        if not self.face.begun:
            raise UsageError("step() before reset(): call reset() first.")
        checked = self.face.actions(actions, (self.num_envs,), wait=self.output == "numpy")
        dream = self.face.dream
        restart = None
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            restart = dream.state.done
        elif self.autoreset_mode is AutoresetMode.DISABLED and bool(dream.state.done.any()):
            raise UsageError(
                f"Lanes {dream.state.done.nonzero().flatten().tolist()} have ended, and autoreset is disabled: call "
                "reset(options={'reset_mask': terminated | truncated}) first."
            )
        with self._enough_memory():
            transition = dream.step(checked, restart)
            info = self._info(self.face.predictions(transition), restart)
            observation = self.face.observe()
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                observation, info = self._same_step(observation, transition.done, info)
            told = (
                self._give(observation),
                self._give(transition.prediction.reward),
                self._give(transition.prediction.terminated),
                self._give(transition.truncated),
                info,
            )
        if self.render_mode == "human":
            self.render()
        return told

    def clone_state(self) -> DreamState:
        """Return all that the dreams are: tensors of their own, to be restored, pickled, sliced or repeated.

        Raises:
            UsageError: before the first reset, or the environment is closed.
        """
        self._check_open()
        if not self.face.begun:
            raise UsageError("clone_state() before reset(): call reset() first.")
        return self.face.dream.state.clone()

    def restore_state(self, state: DreamState) -> None:
        """Go on from ``state``, exactly; the state itself is not touched.

        A state does not say which model dreamed it: that of another with frames and actions of the same kind is taken.

        Raises:
            UsageError: it is no state, or has another number of lanes, frames or actions that the model does not have,
                or (in mode SAME_STEP, where no lane ever waits for a reset) a lane that has ended.
        """
        self._check_open()
        self.face.dream.state = self._checked_state(state)

    def observe(self) -> Array:
        """Return the current observations, as after :meth:`restore_state`.

        Raises:
            UsageError: before the first reset, or the environment is closed.
        """
        self._check_open()
        if not self.face.begun:
            raise UsageError("observe() before reset(): call reset() first.")
        return self._give(self.face.observe())

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return each lane's newest frame (uint8 ``(256, 256, 3)``) or show them, as ``render_mode`` says."""
        self._check_open()
        if self.render_mode is None:
            return None
        pictures = self.face.render()
        if self.render_mode == "rgb_array":
            return tuple(pictures)
        self._window.show(tile(pictures))
        return None

    def close_extras(self, **kwargs: Any) -> None:  # noqa: ANN401  (Gymnasium's signature)
        """Close the window, if there is one."""
        self._window.close()

    def get_action_meanings(self) -> list[str]:
        """Return the names of the actions."""
        return self.face.action_meanings()

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        """Say which number to lower where there is not enough memory, and leave the dreams as they were."""
        dream, before = self.face.dream, self.face.dream.state if self.face.begun else None
        try:
            with enough_memory(f"num_envs, which is {self.num_envs}"):
                yield
        except RunError:
            if before is not None:
                dream.state = before
            elif self.face.begun:
                del dream.state
            raise

    def _same_step(self, final: Tensor, done: Tensor, info: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Begin the ended lanes anew; return the observations and ``info`` with what the ended ones were."""
        if self.output == "torch":
            # Without looking whether any lane ended: that would wait for the device.
            self.face.dream.restart(done)
            final_info = {key: done if key.startswith("_") else value for key, value in info.items()}
            info = {key: value & ~done if key.startswith("_") else value for key, value in info.items()}
            ended = {"final_obs": final, "_final_obs": done, "final_info": final_info, "_final_info": done}
            return self.face.observe(), {**info, **ended}
        mask = done.cpu().numpy()
        if not mask.any():
            return final, info
        self.face.dream.restart(done)
        last = np.full(self.num_envs, None, dtype=object)
        observed = self._give(final)
        for lane in np.flatnonzero(mask):
            last[lane] = observed[lane].copy()
        final_info = {key: value.copy() for key, value in info.items() if not key.startswith("_")}
        final_info |= {f"_{key}": mask.copy() for key in final_info}
        info = {key: value & ~mask if key.startswith("_") else value for key, value in info.items()}
        extra = {"final_obs": last, "_final_obs": mask, "final_info": final_info, "_final_info": mask.copy()}
        return self.face.observe(), {**info, **extra}

    def _info(self, predictions: dict[str, Tensor], restart: Tensor | None) -> dict[str, Any]:
        info: dict[str, Any] = {}
        for key, value in predictions.items():
            info[key] = self._give(value)
            there = torch.ones(self.num_envs, dtype=torch.bool) if restart is None else ~restart
            info[f"_{key}"] = self._give(there.to(value.device))
        return info

    def _give(self, tensor: Tensor) -> Array:
        """Return ``tensor`` as the caller wants it; a NumPy array has memory of its own."""
        if self.output == "torch":
            return tensor
        array = tensor.cpu().numpy()
        return array.copy() if tensor.device.type == "cpu" else array

    def _check_open(self) -> None:
        if self.closed:
            raise UsageError("This environment is closed: make a new one.")

    def _check_screen(self) -> None:
        """Raise before anything is dreamed that could not be shown."""
        if self.render_mode == "human":
            self._window.check()

    def _checked_mask(self, mask: object) -> Tensor | None:
        if mask is None:
            return None
        array = as_array(mask, "reset_mask") if isinstance(mask, Tensor) else mask
        if not isinstance(array, np.ndarray) or array.dtype != np.bool_ or array.shape != (self.num_envs,):
            raise UsageError(f"reset_mask is {mask!r}; give a bool array of shape ({self.num_envs},).")
        if not array.any():
            raise UsageError("reset_mask names no lane: set at least one True, or leave it out to reset all.")
        if not self.face.begun and not array.all():
            raise UsageError("The first reset must be of every lane: leave reset_mask out.")
        return None if array.all() else torch.as_tensor(array.copy(), device=self.face.dream.device)

    def _checked_state(
        self, state: object, seeds: Sequence[int] | None = None, mask: Tensor | None = None
    ) -> DreamState:
        checked = self.face.checked_state(state, self.num_envs, seeds, mask)
        ended = checked.done if mask is None else checked.done & mask
        if self.autoreset_mode is AutoresetMode.SAME_STEP and bool(ended.any()):
            raise UsageError(
                f"Lanes {ended.nonzero().flatten().tolist()} of the state have ended, and in mode SAME_STEP nothing "
                "would begin them anew: take other lanes with state[i], or an environment of another autoreset_mode."
            )
        return checked

    def _checked_seeds(self, seed: int | Sequence[int] | NDArray[Any] | None) -> list[int] | None:
        if seed is None:
            return None
        if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
            seeds = [int(seed) + lane for lane in range(self.num_envs)]
        else:
            array = as_array(seed, "seed")
            seeds = [int(one) for one in array] if array.ndim == 1 and array.dtype.kind in "iu" else []
        if len(seeds) != self.num_envs or min(seeds) < 0:
            raise UsageError(
                f"seed is {seed!r}; give a whole number of at least 0, or {self.num_envs} of them, or None."
            )
        return seeds


def _checked_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        values = [one.value for one in AutoresetMode]
        raise UsageError(
            f"autoreset_mode is {mode!r}.{nearest(str(mode), values)} Write a gymnasium.vector.AutoresetMode or one of "
            f"{values}."
        ) from error
