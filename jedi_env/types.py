"""The records that travel between the parts, and the glossary of axes.

Axes: **B** lanes of a dream, or a batch; **T** time; **K** frames of context; **C H W** one frame; **A** actions.

*Pixels* are what the game shows: uint8 ``(..., 64, 64, 3)``, channels last. A *frame* is what the world model imagines:
float ``(..., C, H, W)``, a latent (JEDI) or a rescaled image (DIAMOND). A *step* is one decision of the agent
(4 emulator frames on Atari). Every record is a frozen dataclass of tensors that share their leading axis, so that
it can be pickled, sliced, expanded and moved as one thing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Record:
    """A frozen record of tensors (or records) with a common leading axis."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the record with ``function`` applied to every tensor in it."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            changed[field.name] = value.map(function) if isinstance(value, Record) else function(value)
        return type(self)(**changed)

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int] | NDArray[Any] | Tensor) -> Self:
        """Return the lanes that ``index`` selects; an int keeps the axis.

        Args:
            index: an int, a slice, or several lanes: their numbers or a bool mask of all lanes, as a sequence, an array
                or a tensor.

        Raises:
            IndexError: an int beyond the last lane; so iterating over a record ends. Or what selects no lanes.
        """
        if isinstance(index, Sequence) or (isinstance(index, np.ndarray) and index.ndim > 0):
            index = _lane_tensor(index)
        if isinstance(index, Tensor) and index.ndim > 0 and index.dtype == torch.uint8:
            index = index.long()
        if isinstance(index, SupportsIndex) and not (isinstance(index, Tensor) and index.ndim > 0):
            lane = range(len(self))[operator.index(index)]
            index = slice(lane, lane + 1)
        return self.map(lambda tensor: tensor[index])

    def __len__(self) -> int:
        """Return the length of the leading axis."""
        value = getattr(self, fields(self)[0].name)
        return len(value)

    def repeat(self, times: int) -> Self:
        """Return the record with every lane repeated ``times`` times in a row."""
        return self.map(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def to(self, device: torch.device | str) -> Self:
        """Return the record on ``device``."""
        return self.map(lambda tensor: tensor.to(device))

    def clone(self) -> Self:
        """Return a record with memory of its own."""
        return self.map(torch.clone)

    @classmethod
    def join(cls, records: Sequence[Self]) -> Self:
        """Return the lanes of all ``records``, one after another; a single record is returned as it is."""
        if len(records) == 1:
            return records[0]
        joined: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(record, field.name) for record in records]
            joined[field.name] = type(values[0]).join(values) if isinstance(values[0], Record) else torch.cat(values)
        return cls(**joined)

    def where(self, mask: Tensor, other: Self) -> Self:
        """Return a record that is ``self`` in the lanes where ``mask`` (bool, B) holds and ``other`` elsewhere."""
        mixed: dict[str, Any] = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Record):
                mixed[field.name] = mine.where(mask, theirs)
            else:
                mixed[field.name] = torch.where(mask.view(-1, *(1,) * (mine.ndim - 1)), mine, theirs)
        return type(self)(**mixed)


def _lane_tensor(lanes: Sequence[int] | NDArray[Any]) -> Tensor:
    """Return numbers of lanes as int64 and a mask as bool: torch would read uint8 numbers as a mask."""
    array = np.asarray(lanes)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "biu"):
        raise IndexError(
            f"Lanes are selected by {array.dtype} of shape {array.shape}: write their numbers or a bool mask."
        )
    return torch.tensor(array.astype(np.bool_ if array.dtype.kind == "b" else np.int64))


@dataclass(frozen=True)
class Segment(Record):
    """A piece of real play: T transitions and the T+1 pixel observations around them.

    Attributes:
        pixels: uint8 ``(B, T+1, 64, 64, 3)``; beyond an episode's edge the first or last real pixels are repeated.
        actions: int64 ``(B, T)``, or float32 ``(B, T, A)`` for continuous actions, the game's own;
            ``actions[:, t]`` is taken at pixels ``t``.
        rewards: float32 ``(B, T)``, as the game gave them (unclipped).
        terminated: bool ``(B, T)``: the transition ended the episode (or a life, under that protocol).
        mask: bool ``(B, T)``: the transition really happened; no loss reads the others.
    """

    pixels: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Context(Record):
    """Where a dream starts: K frames and the K-1 actions between them.

    Attributes:
        frames: float ``(B, K, C, H, W)``, oldest first.
        actions: int64 ``(B, K-1)``, or float32 ``(B, K-1, A)``.
    """

    frames: Tensor
    actions: Tensor


@dataclass(frozen=True)
class ModelState(Record):
    """What the world model must remember to imagine the next frame.

    Attributes:
        frames: float ``(B, K, C, H, W)``, newest last.
        actions: the ``K-1`` actions between them.
        hidden: float ``(B, L)``, the reward/termination LSTM's output.
        cell: float ``(B, L)``, its memory.
    """

    frames: Tensor
    actions: Tensor
    hidden: Tensor
    cell: Tensor


@dataclass(frozen=True)
class DreamState(Record):
    """All that a dream is: restoring it continues the same dream, bit for bit.

    Attributes:
        model: the world model's state.
        age: int64 ``(B,)``, steps since the lane's dream began.
        done: bool ``(B,)``: the lane has ended and was not reset since.
        key: int64 ``(B,)``, the lane's noise stream.
        count: int64 ``(B,)``, how far along the stream it is.
    """

    model: ModelState
    age: Tensor
    done: Tensor
    key: Tensor
    count: Tensor


@dataclass(frozen=True)
class Prediction(Record):
    """What the world model says of one imagined transition, every field with leading axis B.

    Attributes:
        reward: float32, drawn from ``reward_probs``: -1, 0 or 1. Of a model that learns rewards of any size, their
            mean.
        terminated: bool, drawn from ``termination_prob``.
        reward_probs: float32 ``(B, 3)`` of the reward's signs -1, 0, 1; what is nearly nothing counts as 0.
        termination_prob: float32.
    """

    reward: Tensor
    terminated: Tensor
    reward_probs: Tensor
    termination_prob: Tensor


@dataclass(frozen=True)
class Transition(Record):
    """One dream step, every field with leading axis B.

    Attributes:
        prediction: reward and termination with their probabilities.
        truncated: bool: the horizon was reached; the lane may have terminated in the same step.
    """

    prediction: Prediction
    truncated: Tensor

    @property
    def done(self) -> Tensor:
        """Bool ``(B,)``: the lane's dream ended, either way."""
        return self.prediction.terminated | self.truncated
