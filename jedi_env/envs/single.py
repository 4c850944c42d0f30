"""The dream as a single Gymnasium ``Env``: one lane of :class:`jedi_env.dream.Dream`, always in NumPy.

For anything that wants many dreams, :class:`jedi_env.envs.vector.DreamVectorEnv` imagines them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from jedi_env.arguments import check_seed
from jedi_env.envs.face import CheckpointArgument, Face, HorizonArgument, Keys, as_array, check_options, unnamed_seed
from jedi_env.envs.window import RENDER_FPS, Window
from jedi_env.errors import UsageError
from jedi_env.types import DreamState

OPTIONS = ("contexts", "frames", "actions", "state")


class DreamEnv(gymnasium.Env[NDArray[Any], Any]):
    """One dream; made by ``gym.make("JEDIDream-v0", checkpoint=...)``.

    Args:
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
        info_keys: ``"reward_probs"`` (3,) and ``"termination_prob"`` to put into ``info``.
        render_mode: None, ``"rgb_array"`` or ``"human"`` (needs the ``[play]`` extra).

    Raises:
        UsageError: a wrong argument.
        CheckpointError: the checkpoint is missing or damaged.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self,
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
        info_keys: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
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
        self.face.check_render_mode(render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.observation_space = self.face.observation_space
        self.action_space = self.face.action_space
        self._window = Window(RENDER_FPS)
        self._closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin a dream.

        Args:
            seed: of the noise stream; None: the stream goes on (a fresh one at the first reset).
            options: at most one of ``contexts`` (an index into the bank), ``frames`` with ``actions`` (dream on from
                real history: uint8 ``(K, 64, 64, 3)`` and the K-1 actions between them, of which the last frames that
                the model remembers count) and ``state`` (from :meth:`clone_state`, which goes on with its own noise,
                or with the seed's).

        Raises:
            UsageError: a wrong seed or option; nothing was reset.
        """
        self._check_open()
        self._check_screen()
        seed = check_seed(seed)
        given = check_options(options, OPTIONS)
        contexts = context = state = None
        if given.get("contexts") is not None:
            contexts = self.face.context_indices(given["contexts"], 1)
        if given.get("frames") is not None:
            context = self.face.history(given["frames"], given["actions"], 1)
        if given.get("state") is not None:
            state = self.face.checked_state(given["state"], 1, None if seed is None else [seed])
        super().reset(seed=seed)
        if seed is None and not self.face.begun:
            seed = unnamed_seed(self)
        self.face.dream.reset(None if seed is None else [seed], contexts=contexts, context=context)
        if state is not None:
            self.face.dream.state = state
        if self.render_mode == "human":
            self.render()
        return self._observation(), {}

    def step(self, action: ArrayLike) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Dream one step; the reward is -1, 0 or 1, or of any size if the model learned that.

        Raises:
            UsageError: before a reset, after the end of an episode, or a wrong action; nothing was changed.
        """
        self._check_open()
        self._check_screen()
        if not self.face.begun:
            raise UsageError("step() before reset(): call reset() first.")
        if bool(self.face.dream.state.done[0]):
            raise UsageError("step() after the end of the episode: call reset() first.")
        array = as_array(action, "The action")
        shape = self.face.allowed.shape
        checked = self.face.actions(array, () if array.ndim == len(shape) else (1,))
        transition = self.face.dream.step(checked.reshape(1, *shape))
        prediction = transition.prediction
        info = {key: _plain(value[0]) for key, value in self.face.predictions(transition).items()}
        if self.render_mode == "human":
            self.render()
        return (
            self._observation(),
            float(prediction.reward[0]),
            bool(prediction.terminated[0]),
            bool(transition.truncated[0]),
            info,
        )

    def clone_state(self) -> DreamState:
        """Return all that the dream is, as tensors of its own: to be restored, pickled, or repeated into many lanes.

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
            UsageError: it is no state, or has more than one lane, or frames or actions that the model does not have.
        """
        self._check_open()
        self.face.dream.state = self.face.checked_state(state, 1)

    def observe(self) -> NDArray[Any]:
        """Return the current observation, as after :meth:`restore_state`.

        Raises:
            UsageError: before the first reset, or the environment is closed.
        """
        self._check_open()
        if not self.face.begun:
            raise UsageError("observe() before reset(): call reset() first.")
        return self._observation()

    def render(self) -> NDArray[np.uint8] | None:
        """Return the newest frame (uint8 ``(256, 256, 3)``) or show it in a window, as ``render_mode`` says."""
        self._check_open()
        if self.render_mode is None:
            return None
        picture: NDArray[np.uint8] = self.face.render()[0]
        if self.render_mode == "rgb_array":
            return picture
        self._window.show(picture)
        return None

    def close(self) -> None:
        """Close the window, if there is one; may be called twice."""
        self._closed = True
        self._window.close()

    def get_action_meanings(self) -> list[str]:
        """Return the names of the actions."""
        return self.face.action_meanings()

    def get_keys_to_action(self) -> Keys:
        """Return which keys give which action, for ``gymnasium.utils.play``; no key is a no-op."""
        return self.face.keys_to_action()

    def _observation(self) -> NDArray[Any]:
        array: NDArray[Any] = self.face.observe()[0].cpu().numpy().copy()
        return array

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("This environment is closed: make a new one.")

    def _check_screen(self) -> None:
        """Raise before anything is dreamed that could not be shown."""
        if self.render_mode == "human":
            self._window.check()


def _plain(value: Tensor) -> float | NDArray[Any]:
    array = value.cpu().numpy().copy()
    return array if array.ndim else float(array)
