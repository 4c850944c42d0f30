"""What the two Gymnasium faces of a dream share: their arguments, spaces, observations and options.

It translates between NumPy and the :class:`jedi_env.dream.Dream` within; episodes and noise are the dream's.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from jedi_env.actions import Actions, DiscreteActions, as_actions
from jedi_env.arguments import check_info_keys, check_names, check_whole
from jedi_env.checkpoint import Checkpoint, are_within
from jedi_env.device import resolve_compile, resolve_device, resolve_dtype, say_once
from jedi_env.dream import Dream, live_through
from jedi_env.envs.encode import encode_apart
from jedi_env.envs.window import enlarge, joystick_keys
from jedi_env.errors import UsageError, nearest
from jedi_env.find import find_checkpoint
from jedi_env.noise import lane_keys
from jedi_env.types import Context, DreamState, ModelState, Transition

DEFAULT_HORIZON = 50
OBS_TYPES = ("latent", "rgb")
INFO_KEYS = ("reward_probs", "termination_prob")
Keys = dict[tuple[str, ...], Any]  # to an action

CheckpointArgument = str | os.PathLike[str] | Checkpoint | None
HorizonArgument = int | Literal["checkpoint"] | None


class Generators(Protocol):
    """What Gymnasium's environments, single and vector, tell of their random numbers."""

    @property
    def np_random(self) -> np.random.Generator:
        """The generator; made when first asked for."""
        ...

    @property
    def np_random_seed(self) -> int | None:
        """Its seed, or -1 if that is not known."""
        ...


class Face:
    """A dream with the arguments of an environment.

    Args:
        game: one of the 26 games, or None for any.
        checkpoint: a folder, ``hub://owner/repo[@revision]``, a loaded checkpoint, one of the 26 games, or None: the
            dream of ``game``.
        obs_type: ``"latent"`` or ``"rgb"``.
        frame_stack: frames in an observation.
        horizon: steps until truncation; ``"checkpoint"``: its recommendation, else 50; None: no limit.
        device: see :func:`jedi_env.device.resolve_device`.
        dtype: see :func:`jedi_env.device.resolve_dtype`.
        compile: see :func:`jedi_env.device.resolve_compile`.
        sampler_steps: denoising steps a frame; None: the model's.
        info_keys: which predictions to show in ``info``.

    Raises:
        UsageError: a wrong argument; nothing was loaded for good.
        CheckpointError: the checkpoint is missing or damaged.
    """

    def __init__(
        self,
        *,
        game: str | None,
        checkpoint: CheckpointArgument,
        obs_type: str,
        frame_stack: int,
        horizon: HorizonArgument,
        device: str | torch.device,
        dtype: str | torch.dtype,
        compile: bool | str,
        sampler_steps: int | None,
        info_keys: Sequence[str],
    ) -> None:
        if obs_type not in OBS_TYPES:
            raise UsageError(f"obs_type is {obs_type!r}.{nearest(str(obs_type), OBS_TYPES)} Write 'latent' or 'rgb'.")
        check_info_keys(info_keys, INFO_KEYS[0])
        for key in info_keys:
            if key not in INFO_KEYS:
                raise UsageError(f"Unknown info key {key!r}.{nearest(str(key), INFO_KEYS)} There are: {INFO_KEYS}.")
        if not (horizon is None or (isinstance(horizon, str) and horizon == "checkpoint")):
            check_whole("horizon", horizon, otherwise="or None for no limit")
        if sampler_steps is not None:
            check_whole("sampler_steps", sampler_steps, otherwise="or None for what the checkpoint recommends")
        check_whole("frame_stack", frame_stack)
        on = resolve_device(device)
        precision = resolve_dtype(dtype, on)
        compiled = resolve_compile(compile, on)

        self.checkpoint = find_checkpoint(game, checkpoint, on)
        self.model = self.checkpoint.world_model
        if frame_stack > self.model.context_length:
            raise UsageError(
                f"frame_stack is {frame_stack}, but this dream remembers {self.model.context_length} frames: write a "
                f"number from 1 to {self.model.context_length}."
            )
        if obs_type == "rgb" and self.model.decoder is None:
            raise UsageError(
                "obs_type='rgb' needs something that draws this dream's latents, and the checkpoint carries no "
                "decoder: write obs_type='latent'."
            )
        self.obs_type, self.frame_stack, self.info_keys = obs_type, frame_stack, tuple(info_keys)
        self.horizon = (self.checkpoint.horizon or DEFAULT_HORIZON) if horizon == "checkpoint" else horizon
        if "auto" in (device, dtype, compile):
            how = f"{str(precision).removeprefix('torch.')}{', compiled' if compiled else ''}"
            say_once(f"jedi_env: dreaming on {on} in {how}.")
        self.dream = Dream(
            self.model,
            self.checkpoint.contexts,
            horizon=self.horizon,
            sampler_steps=sampler_steps,
            dtype=precision,
            compile=compiled,
            beginnings=_beginnings(self.checkpoint, precision),
        )

        channels, height, width = self.model.frame_shape
        if obs_type == "latent":
            bound = self.model.bound
            space: Box = Box(-bound, bound, (frame_stack * channels, height, width), np.float32)
        else:
            space = Box(0, 255, (64, 64, 3 * frame_stack), np.uint8)
        self.observation_space = space
        # A model that was brought along, and is none of ours, may only say how many actions there are.
        self.allowed = as_actions(getattr(self.model, "actions", self.model.num_actions))
        self.action_space = self.allowed.space

    @property
    def begun(self) -> bool:
        """Whether there was a reset."""
        return hasattr(self.dream, "state")

    def observe(self) -> Tensor:
        """Return the observations of all lanes, on the dream's device; latents may share memory with its state."""
        if self.obs_type == "latent":
            return self.dream.observation(self.frame_stack)
        frames = self.dream.state.model.frames[:, -self.frame_stack :]
        pixels: Tensor = self._decode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return pixels.permute(0, 2, 3, 1, 4).flatten(3)  # (B, 64, 64, stack * 3), channels of one frame together

    def render(self) -> NDArray[np.uint8]:
        """Return the newest frames as a person can look at them: uint8 ``(B, 256, 256, 3)``.

        Raises:
            UsageError: before the first reset, or there is no decoder.
        """
        if not self.begun:
            raise UsageError("render() before reset(): call reset() first.")
        pixels: NDArray[np.uint8] = self._decode(self.dream.state.model.frames[:, -1]).cpu().numpy()
        return enlarge(pixels)

    def check_render_mode(self, render_mode: str | None, known: Sequence[str]) -> None:
        """Raise :class:`UsageError` for a render mode that cannot be."""
        if render_mode is not None and render_mode not in known:
            raise UsageError(
                f"render_mode is {render_mode!r}.{nearest(str(render_mode), known)} Write None or one of "
                f"{tuple(known)}."
            )
        if render_mode is not None and self.model.decoder is None:
            raise UsageError("This checkpoint carries no decoder to draw its latents: write render_mode=None.")

    def predictions(self, transition: Transition) -> dict[str, Tensor]:
        """Return what ``info_keys`` asked for, each ``(B, ...)``."""
        return {key: getattr(transition.prediction, key) for key in self.info_keys}

    def action_meanings(self) -> list[str]:
        """Return the names of the actions (or of their numbers), if the checkpoint tells them, else 0, 1, 2, ..."""
        told = self.checkpoint.protocol.get("action_meanings")
        names = (
            told if isinstance(told, list) and len(told) == self.model.num_actions else range(self.model.num_actions)
        )
        return [str(name) for name in names]

    def keys_to_action(self) -> Keys:
        """Return which keys (w a s d and space, or digits) give which action, for ``gymnasium.utils.play``."""
        if self.allowed.shape:
            return plain_keys(self.allowed)
        meanings = self.action_meanings()
        pressed, acting = joystick_keys(meanings), len(meanings) - meanings.count("NOOP")
        if () in pressed or len(pressed) < acting:  # no joystick's: no key, or the same key, would mean several
            return plain_keys(self.allowed)
        return pressed

    def actions(self, actions: ArrayLike | Tensor, lanes: tuple[int, ...], *, wait: bool = True) -> Tensor:
        """Return ``actions``, one for each of ``lanes``, on the dream's device, having checked them.

        Unless ``wait``, tensors elsewhere than on the CPU are checked by shape and type only: looking at their values
        would wait for the device. What is beyond a bound is taken as the bound then.

        Raises:
            UsageError: they do not fit.
        """
        allowed, wanted = self.allowed, self.allowed.wanted(lanes)
        shape = (*lanes, *allowed.shape)
        if isinstance(actions, Tensor):
            if actions.shape != shape or _kind(actions.dtype) not in allowed.kinds:
                raise UsageError(f"The actions are {actions.dtype} of shape {tuple(actions.shape)}; give {wanted}.")
            if not wait and actions.device.type != "cpu":
                return allowed.inside(actions.to(self.dream.device, allowed.dtype))
        array = as_array(actions, "The action")
        if array.shape != shape or array.dtype.kind not in allowed.kinds:
            raise UsageError(f"The action is {array.dtype} of shape {array.shape}; give {wanted}.")
        if not allowed.allow(array):
            raise UsageError(f"The action {array.tolist()} is out of range; give {wanted}.")
        return allowed.inside(torch.as_tensor(array.astype(allowed.array_dtype), device=self.dream.device))

    def context_indices(self, contexts: ArrayLike | Tensor, lanes: int, mask: Tensor | None = None) -> Tensor:
        """Return ``options["contexts"]`` as int64 ``(lanes,)``, having checked it where ``mask`` holds; 0 elsewhere.

        Raises:
            UsageError: it does not fit.
        """
        array, bank = as_array(contexts, "options['contexts']"), len(self.checkpoint.contexts)
        if array.ndim == 0:
            array = np.full(lanes, array)
        fits = array.shape == (lanes,) and array.dtype.kind in "iu"
        if fits and mask is not None:
            array = np.where(mask.cpu().numpy(), array, 0)
        if not fits or ((array < 0) | (array >= bank)).any():
            raise UsageError(
                f"options['contexts'] is {contexts!r}; give one index a lane ({lanes}), each from 0 to {bank - 1}."
            )
        return torch.as_tensor(array.astype(np.int64), device=self.dream.device)

    def history(
        self, frames: ArrayLike | Tensor, actions: ArrayLike | Tensor, lanes: int, mask: Tensor | None = None
    ) -> Context:
        """Return ``options["frames"]`` and ``options["actions"]`` as the context to dream on from.

        Args:
            frames: uint8 ``(K, 64, 64, 3)`` or ``(lanes, K, 64, 64, 3)``, at least the model's context; the last count.
            actions: the K-1 actions between them, ``(K-1, ...)`` or ``(lanes, K-1, ...)``.
            lanes: number of lanes; a single history serves all.
            mask: bool ``(lanes,)``, the lanes whose actions count; None: all.

        Raises:
            UsageError: they do not fit.
        """
        need, allowed = self.model.context_length, self.allowed
        pixels, taken = as_array(frames, "options['frames']"), as_array(actions, "options['actions']")
        if pixels.ndim == 4:
            pixels = np.broadcast_to(pixels, (lanes, *pixels.shape))
        if taken.ndim == 1 + len(allowed.shape):
            taken = np.broadcast_to(taken, (lanes, *taken.shape))
        k = pixels.shape[1] if pixels.ndim == 5 else 0
        if pixels.dtype != np.uint8 or pixels.shape != (lanes, k, 64, 64, 3) or k < need:
            raise UsageError(
                f"options['frames'] is {pixels.dtype} of shape {pixels.shape}; give uint8 (K, 64, 64, 3), or "
                f"({lanes}, K, 64, 64, 3), with K at least {need}."
            )
        fits = taken.shape == (lanes, k - 1, *allowed.shape) and (taken.dtype.kind in allowed.kinds or not taken.size)
        if fits and mask is not None:
            taken = np.where(mask.cpu().numpy().reshape(-1, *(1,) * (taken.ndim - 1)), taken, allowed.blank)
        if not fits or not allowed.allow(taken):
            raise UsageError(
                f"options['actions'] is {taken.dtype} of shape {taken.shape}; give the {k - 1} actions between the "
                f"frames, each {allowed.range}."
            )
        device = self.dream.device
        shown = torch.from_numpy(pixels[:, -need:].copy()).to(device).flatten(0, 1)
        encoded = encode_apart(self.model, shown).unflatten(0, (lanes, need))
        between = torch.as_tensor(taken[:, k - need :].astype(allowed.array_dtype), device=device)
        return Context(encoded, allowed.inside(between))

    def checked_state(
        self, state: object, lanes: int, seeds: Sequence[int] | None = None, mask: Tensor | None = None
    ) -> DreamState:
        """Return a copy of ``state`` on the dream's device, if it fits; with ``seeds``, on their noise.

        Args:
            state: what is to be restored.
            lanes: number of lanes.
            seeds: one a lane; None: the state's own noise goes on.
            mask: bool ``(lanes,)``, the lanes whose numbers count; None: all.

        Raises:
            UsageError: it does not fit.
        """
        if not isinstance(state, DreamState):
            raise UsageError(f"A state is what clone_state() returned, not {type(state).__name__}.")
        lane = torch.zeros(1, dtype=torch.int64, device=self.dream.device)
        given, wanted = _layouts(state), _layouts(self.dream.begin(lane, lane, lane))
        if {shape[0] for _, shape in given} != {lanes}:
            raise UsageError(
                f"The state has {len(state)} lanes, and this environment {lanes}: take lanes with state[i], or repeat "
                "them with state.repeat(n)."
            )
        if [(dtype, shape[1:]) for dtype, shape in given] != [(dtype, shape[1:]) for dtype, shape in wanted]:
            raise UsageError(
                f"The state is of another world model, of frames {given[0][1][1:]}, and this one's are "
                f"{wanted[0][1][1:]}: restore it where it was cloned, or in an environment of the same checkpoint."
            )
        own = state.to(self.dream.device).clone()
        counted = own.model if mask is None else own.model[mask]
        if not self.allowed.allow(counted.actions) or not are_within(counted.frames, self.model.bound):
            raise UsageError(
                f"The state is of another world model: not all of its actions are {self.allowed.range}, or its frames "
                f"from {-self.model.bound} to {self.model.bound}. Restore it where it was cloned, or in an environment "
                "of the same checkpoint."
            )
        if seeds is None:
            return own
        return replace(own, key=lane_keys(seeds, self.dream.device), count=torch.zeros_like(own.count))

    def _decode(self, frames: Tensor) -> Tensor:
        decoder = self.model.decoder
        if decoder is None:
            raise UsageError("This checkpoint carries no decoder to draw its latents.")
        with torch.no_grad():
            pixels: Tensor = decoder.decode(frames)
        return pixels


# Of every checkpoint in use, by precision, where its dreams begin: to live through a large bank takes longer than all
# the rest of making an environment. Two threads may do it twice, to the same end.
_lived_through: WeakKeyDictionary[Checkpoint, dict[torch.dtype, ModelState]] = WeakKeyDictionary()


def _beginnings(checkpoint: Checkpoint, dtype: torch.dtype) -> ModelState:
    known = _lived_through.setdefault(checkpoint, {})
    if dtype not in known:
        known[dtype] = live_through(checkpoint.world_model, checkpoint.contexts, dtype)
    return known[dtype]


def unnamed_seed(env: Generators) -> int:
    """Return the seed of a first reset that names none: ``env.np_random_seed``, so that giving it repeats the dream."""
    told = env.np_random_seed
    return int(env.np_random.integers(2**62)) if told is None or told < 0 else told  # -1: the caller set np_random


def check_options(options: Mapping[str, Any] | None, known: Sequence[str]) -> dict[str, Any]:
    """Return ``options`` as a dict of its own, having checked its names.

    Raises:
        UsageError: an unknown name, or names that exclude or need one another.
    """
    given = check_names(options, known)
    starts = [name for name in ("contexts", "frames", "state") if given.get(name) is not None]
    if len(starts) > 1:
        raise UsageError(f"Reset options {starts} name several places to start from: give one of them.")
    if (given.get("frames") is None) != (given.get("actions") is None):
        raise UsageError("Reset options 'frames' and 'actions' belong together: give both, or neither.")
    return given


def as_array(value: ArrayLike | Tensor, what: str) -> NDArray[Any]:
    """Return ``value``, be it numbers in lists or a tensor anywhere, as an array; or raise :class:`UsageError`."""
    try:
        return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (TypeError, ValueError) as error:  # rows of unequal length
        raise UsageError(f"{what} cannot be made an array: {error}. Give an array or a tensor.") from error


def plain_keys(actions: Actions) -> Keys:
    """Return keys for actions without names: a digit each; or a and d for the bounds of a vector's first number.

    s and w are for those of its second, and each further bound, but one that is no different from doing nothing, has
    a digit.
    """
    if isinstance(actions, DiscreteActions):
        return {(str(action),): action for action in range(min(10, actions.size))}
    bounds = [(i, end) for i, ends in enumerate(zip(actions.low, actions.high, strict=True)) for end in ends]
    further = [(i, end) for i, end in bounds[4:] if end != actions.blank[i]]
    pushed = dict(zip("adsw", bounds, strict=False)) | dict(zip("1234567890", further, strict=False))
    combinations = [keys for number in range(1, 4) for keys in itertools.combinations(pushed, number)]
    found: Keys = {}
    for keys in combinations:
        if len({pushed[key][0] for key in keys}) == len(keys):  # no number pushed both ways
            action = np.array(actions.blank, np.float32)
            for key in keys:
                action[pushed[key][0]] = pushed[key][1]
            found[keys] = action
    return found


def _kind(dtype: torch.dtype) -> str:
    """Return NumPy's letter for what is nearly the same there."""
    return "f" if dtype.is_floating_point else "b" if dtype == torch.bool else "i"


def _layouts(state: DreamState) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    found: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def note(tensor: Tensor) -> Tensor:
        found.append((tensor.dtype, tuple(tensor.shape)))
        return tensor

    state.map(note)
    return found
