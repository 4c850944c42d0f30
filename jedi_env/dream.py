"""Dream: batched dreaming on tensors; every face (Gymnasium, Stable-Baselines3, the native trainer) only translates.

A dream knows when it ends (the model says so, or the horizon is reached), starts anew in any of its lanes, and can be
cloned and restored. Nothing in it has gradients, whatever the model: a state remembers what was, not how it came to be.
It knows the world model by the Protocol below alone, and nothing of Gymnasium, agents or training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.types import Context, DreamState, ModelState, Prediction, Transition

NO_HORIZON = 2**62  # an age that no dream reaches
CHUNK = 256  # contexts lived through at once, so that a large bank needs no more memory than a wide dream


Advance = Callable[[ModelState, Tensor, LaneNoise, int | None], tuple[ModelState, Prediction]]


class DreamModel(Protocol):
    """What a dream needs of a world model."""

    frame_shape: tuple[int, int, int]
    context_length: int

    def begin(self, context: Context) -> ModelState:
        """Return the state after living through ``context``; its frames and actions are the context's."""
        ...

    def advance(
        self, state: ModelState, actions: Tensor, noise: LaneNoise, steps: int | None = None
    ) -> tuple[ModelState, Prediction]:
        """Imagine what ``actions`` (one a lane) lead to."""
        ...


@torch.no_grad()
def live_through(model: DreamModel, contexts: Context, dtype: torch.dtype = torch.float32) -> ModelState:
    """Return the states after every context of a bank, where dreams of it begin.

    Args:
        model: the world model.
        contexts: the bank; the states' frames and actions are its own memory, not a copy.
        dtype: precision of the networks' arithmetic.
    """
    with torch.inference_mode(False), _precision(contexts.frames.device, dtype):
        parts = [model.begin(contexts[i : i + CHUNK]) for i in range(0, len(contexts), CHUNK)]
        hidden, cell = (torch.cat([getattr(part, name) for part in parts]) for name in ("hidden", "cell"))
        return ModelState(contexts.frames.detach(), contexts.actions.detach(), hidden, cell)


def _precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


class Dream:
    """B dreams of one world model, side by side.

    Args:
        model: the world model, in evaluation mode, on the device to dream on.
        contexts: the bank of N starting points; every episode begins at one of them, drawn by the lane's own noise.
        horizon: steps until a lane is truncated; None: no limit.
        sampler_steps: denoising steps a frame; None: the model's.
        dtype: precision of the networks' arithmetic (the state stays float32).
        compile: compile the model's ``advance``, for any number of lanes.
        beginnings: what :func:`live_through` made of these contexts, to be shared by many dreams; None: made here.

    Attributes:
        state: everything that is remembered, a :class:`DreamState`; there is none before the first reset.
    """

    state: DreamState

    def __init__(
        self,
        model: DreamModel,
        contexts: Context,
        *,
        horizon: int | None,
        sampler_steps: int | None = None,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        beginnings: ModelState | None = None,
    ) -> None:
        self.model = model
        self._compile = compile
        self._advance = self._make_advance()
        self.horizon = NO_HORIZON if horizon is None else min(horizon, NO_HORIZON)
        self.sampler_steps = sampler_steps
        self.device = contexts.frames.device
        self._dtype = dtype
        self._autocast = _precision(self.device, dtype)
        self._beginnings = live_through(model, contexts, dtype) if beginnings is None else beginnings

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_advance"}  # compiled code stays here

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._advance = self._make_advance()

    def _make_advance(self) -> Advance:
        advance: Advance = self.model.advance
        return torch.compile(advance, dynamic=None) if self._compile else advance

    def set_contexts(self, contexts: Context) -> None:
        """Replace the bank of starting points; dreams under way go on."""
        self._beginnings = live_through(self.model, contexts, self._dtype)  # once, so that a reset is a gather

    @torch.no_grad()
    def reset(
        self,
        seeds: Sequence[int] | None,
        *,
        mask: Tensor | None = None,
        contexts: Tensor | None = None,
        context: Context | None = None,
    ) -> None:
        """Begin dreams.

        Args:
            seeds: one a lane; equal seeds dream equal dreams whatever the other lanes do. None: the streams go on;
                the first reset needs seeds.
            mask: bool ``(B,)``, only these lanes begin anew; None: all, as the first reset must.
            contexts: int64 ``(B,)``, indices into the bank; None: drawn by the lanes' noise.
            context: begin after these B histories instead; lanes outside ``mask`` ignore theirs.
        """
        key = self.state.key if seeds is None else lane_keys(seeds, self.device)
        count = self.state.count if seeds is None else torch.zeros_like(key)
        begun = self.begin(key, count, contexts)
        if context is not None:
            with self._autocast:
                begun = replace(begun, model=self.model.begin(context))
        self.state = begun if mask is None else begun.where(mask, self.state)

    def begin(self, key: Tensor, count: Tensor, contexts: Tensor | None = None) -> DreamState:
        """Return new dreams on the noise streams ``key`` (B,) from the place ``count`` (B,) on."""
        size = len(self._beginnings)
        if contexts is None:
            contexts = (LaneNoise(key, count).uniform() * size).long().clamp(max=size - 1)
        return DreamState(
            model=self._beginnings[contexts],
            age=torch.zeros_like(count),
            done=torch.zeros_like(count, dtype=torch.bool),
            key=key,
            count=count + 1,
        )

    def restart(self, mask: Tensor) -> None:
        """Begin anew in the lanes where ``mask`` (bool B) holds; their noise streams go on."""
        self.reset(None, mask=mask)

    @torch.no_grad()
    def step(self, actions: Tensor, restart: Tensor | None = None) -> Transition:
        """Dream one step in every lane.

        Args:
            actions: int64 ``(B,)``, or float32 ``(B, A)``.
            restart: bool ``(B,)``, lanes that begin anew instead of stepping: their action is ignored, their reward is
                0 and nothing ends (what Gymnasium calls NEXT_STEP autoreset).
        """
        before = self.state
        with self._autocast:
            model, prediction = self._advance(
                before.model, actions, LaneNoise(before.key, before.count), self.sampler_steps
            )
        age = before.age + 1
        truncated = age >= self.horizon
        done = before.done | prediction.terminated | truncated
        self.state = DreamState(model, age, done, before.key, before.count + 1)
        transition = Transition(prediction, truncated)
        if restart is not None:
            self.state = self.begin(before.key, before.count).where(restart, self.state)
            transition = transition.map(torch.zeros_like).where(restart, transition)
        return transition

    def observation(self, frame_stack: int) -> Tensor:
        """Return every lane's last ``frame_stack`` frames on the channel axis, newest last: ``(B, stack*C, H, W)``."""
        return self.state.model.frames[:, -frame_stack:].flatten(1, 2)
