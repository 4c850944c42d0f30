"""Gives the real game the dream's observations: pixels -> frames -> a stack of the last few, newest last.

Only the newest pixels are encoded at a step. Torch is imported only if frames are latents. This is a translation of
observations and no more: rewards, ends and modes are those of the environment inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, SupportsFloat, runtime_checkable

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

CHUNK = 4  # images encoded at once: with more a single lane waits for padding, with fewer many lanes are slow

Pixels = NDArray[np.uint8]
Observation = NDArray[Any]
Action = Any  # an int, or an array for a Box: the game's space says
Seeds = int | Sequence[int | None] | NDArray[np.integer[Any]] | None


class FrameEncoder(Protocol):
    """What of a world model makes frames of pixels."""

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of a frame."""
        ...

    @property
    def bound(self) -> float:
        """Frames lie in [-bound, bound]."""
        ...

    @property
    def context_length(self) -> int:
        """How many frames the model remembers."""
        ...

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return frames (B C H W) of ``pixels`` (uint8 B 64 64 3)."""
        ...


@runtime_checkable
class CheckpointLike(Protocol):
    """Anything with a world model."""

    @property
    def world_model(self) -> FrameEncoder:
        """The world model, in evaluation mode."""
        ...

    def to(self, device: torch.device) -> CheckpointLike:
        """Return this, or a copy, on ``device``; this one stays where it is."""
        ...


@dataclass(frozen=True)
class Frames:
    """How a batch of pixels becomes a batch of frames, and what a frame is.

    Attributes:
        encode: uint8 ``(B, 64, 64, 3)`` to frames ``(B, *space.shape)``.
        space: the space of one frame.
        axis: the frame's channel axis, along which frames are stacked.
    """

    encode: Callable[[Pixels], Observation]
    space: Box
    axis: int

    def stacked(self, depth: int) -> Box:
        """Return the space of ``depth`` frames joined on the channel axis."""
        low, high = (np.concatenate([end] * depth, axis=self.axis) for end in (self.space.low, self.space.high))
        return Box(low, high, dtype=self.space.dtype.type)


def pixel_frames(size: int) -> Frames:
    """Return pixels as their own frames, channels last."""
    return Frames(encode=lambda pixels: pixels, space=Box(0, 255, (size, size, 3), np.uint8), axis=-1)


def latent_frames(model: FrameEncoder, device: torch.device) -> Frames:
    """Return what ``model``, which is on ``device``, encodes: float32 ``(C, H, W)``."""
    import torch

    def encode(pixels: Pixels) -> Observation:
        frames: NDArray[np.float32] = encode_apart(model, torch.from_numpy(pixels).to(device)).float().cpu().numpy()
        return frames

    return Frames(encode, Box(-model.bound, model.bound, model.frame_shape, np.float32), axis=0)


def encode_apart(model: FrameEncoder, pixels: torch.Tensor) -> torch.Tensor:
    """Return frames ``(B, C, H, W)`` of ``pixels`` (uint8 ``(B, 64, 64, 3)``), each the same whatever the others are.

    The last bits of a convolution depend on the size of the batch, for which its library picks another way to add up.
    So all batches are of one size here; then reality and a dream of the same pixels show the same frames to the bit.
    """
    import torch

    number = len(pixels)
    padding = pixels.new_zeros(-number % CHUNK, *pixels.shape[1:])
    with torch.no_grad():
        parts = [model.encode(part) for part in torch.cat((pixels, padding)).split(CHUNK)]
    return torch.cat(parts)[:number]


class FrameStack:
    """The last ``depth`` frames of every lane, newest last.

    Args:
        num_envs: number of lanes.
        frames: what a frame is.
        depth: how many to keep.
    """

    def __init__(self, num_envs: int, frames: Frames, depth: int) -> None:
        self._depth = depth
        self._axis = frames.axis % len(frames.space.shape) + 1  # behind the lane axis
        self._channels = frames.space.shape[frames.axis]
        space = frames.stacked(depth)
        self._stack = np.zeros((num_envs, *space.shape), dtype=space.dtype)

    def begin(self, lanes: NDArray[np.bool_], frames: Observation) -> None:
        """Fill the lanes of the mask ``lanes`` by repeating ``frames``: an episode's first, one for each such lane."""
        self._stack[lanes] = np.concatenate([frames] * self._depth, axis=self._axis)

    def push(self, frames: Observation) -> None:
        """Add one frame to every lane and forget its oldest."""
        newer = np.split(self._stack, [self._channels], axis=self._axis)[1]
        self._stack = np.concatenate([newer, frames], axis=self._axis)

    def observation(self) -> Observation:
        """Return the stacks of all lanes, in memory of their own."""
        return self._stack.copy()


class EncodedEnv(gymnasium.Wrapper[Observation, Action, Pixels, Action], gymnasium.utils.RecordConstructorArgs):
    """One real game, observed as in its dream.

    Args:
        env: a game whose observations are pixels.
        frames: what a frame is.
        depth: frames in an observation.
    """

    def __init__(self, env: gymnasium.Env[Pixels, Action], frames: Frames, depth: int) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, frames=frames, depth=depth)  # for env.spec
        gymnasium.Wrapper.__init__(self, env)
        self._frames = frames
        self._stack = FrameStack(1, frames, depth)
        self.observation_space = frames.stacked(depth)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; its first frame fills the stack."""
        pixels, info = self.env.reset(seed=seed, options=options)
        self._stack.begin(np.ones(1, dtype=np.bool_), self._frames.encode(pixels[None]))
        return self._stack.observation()[0], info

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Play one step."""
        pixels, reward, terminated, truncated, info = self.env.step(action)
        self._stack.push(self._frames.encode(pixels[None]))
        return self._stack.observation()[0], reward, terminated, truncated, info


class EncodedVectorEnv(VectorWrapper[Observation, Action, Pixels, Action, NDArray[Any]]):
    """Many real games, observed as in their dream, in any autoreset mode.

    Args:
        env: games whose observations are pixels.
        frames: what a frame is.
        depth: frames in an observation.
    """

    def __init__(self, env: VectorEnv[Pixels, Action, NDArray[Any]], frames: Frames, depth: int) -> None:
        super().__init__(env)
        self._frames = frames
        self._stack = FrameStack(env.num_envs, frames, depth)
        self._mode: AutoresetMode = env.metadata["autoreset_mode"]
        self._ended = np.zeros(env.num_envs, dtype=np.bool_)
        self.single_observation_space = frames.stacked(depth)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start episodes in every lane, or in those that ``options["reset_mask"]`` names: the others keep theirs."""
        pixels, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # lists too, as SyncVectorEnv
        mask = (options or {}).get("reset_mask")
        lanes = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        self._stack.begin(lanes, self._frames.encode(pixels[lanes]))
        self._ended = self._ended & ~lanes
        return self._stack.observation(), info

    def step(self, actions: Action) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Play one step in every lane; ``final_obs`` of a lane that ended is its stack with the final frame in it."""
        pixels, rewards, terminated, truncated, info = self.env.step(actions)
        ended = terminated | truncated
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            last = pixels.copy()
            last[ended] = np.stack(info["final_obs"][ended].tolist())
            frames = self._frames.encode(np.concatenate([last, pixels[ended]]))
            self._stack.push(frames[: self.num_envs])
            final = np.full(self.num_envs, None, dtype=object)
            for lane in np.flatnonzero(ended):
                final[lane] = self._stack.observation()[lane]
            info = {**info, "final_obs": final}
            self._stack.begin(ended, frames[self.num_envs :])
        else:
            frames = self._frames.encode(pixels)
            self._stack.push(frames)
            if self._mode is AutoresetMode.NEXT_STEP and self._ended.any():  # what they show is a first frame
                self._stack.begin(self._ended, frames[self._ended])
        self._ended = ended
        return self._stack.observation(), rewards, terminated, truncated, info
