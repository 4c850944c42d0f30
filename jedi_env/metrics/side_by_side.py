"""Reality and the dream side by side, from the same contexts and actions; knows a world model by Protocols alone.

The *horizon* k counts dreamed steps: frame 0 is the last real one, which every dream starts from, and the transition k
leads to frame k. A frame counts only where the real episode lasted that long; its final frame counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jedi_env.errors import UsageError
from jedi_env.models.reward_end import RewardEndLogits
from jedi_env.models.reward_heads import RewardHead
from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.types import Context, ModelState, Prediction, Record, Segment


class RewardModel(Protocol):
    """What says how readings of rewards are meant."""

    @property
    def reward_head(self) -> RewardHead:
        """What the logits of the reward mean."""
        ...


class MeasuredModel(Protocol):
    """What is measured of a world model."""

    @property
    def context_length(self) -> int:
        """K."""
        ...

    @property
    def reward_end(self) -> RewardModel:
        """The part that reads rewards and ends."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the frames of ``pixels``."""
        ...

    def read(self, frames: Tensor, actions: Tensor) -> tuple[RewardEndLogits, tuple[Tensor, Tensor]]:
        """Return the logits of T transitions between T+1 frames, and the memory of them."""
        ...

    def begin(self, context: Context) -> ModelState:
        """Return the state after living through ``context``."""
        ...

    def advance(self, state: ModelState, actions: Tensor, noise: LaneNoise) -> tuple[ModelState, Prediction]:
        """Imagine what ``actions`` (B,) lead to."""
        ...


@dataclass(frozen=True)
class SideBySide(Record):
    """Real and dreamed play from the same contexts under the same actions, for H steps.

    Attributes:
        real: float ``(B, K+H, C, H, W)``, encoded reality.
        dreamed: the same K frames of context, then the dream.
        valid: bool ``(B, H+1)``: reality has a frame k. Frame 0 always is.
        signs: int64 ``(B, H)``, the real reward's sign + 1, so an index into the probabilities; of a model that learns
            rewards of any size, what is nearly nothing counts as 0.
        ended: bool ``(B, H)``, the transition really ended the episode.
        dreamed_reward: float ``(B, H, 3)``, probabilities of the signs -1, 0, 1 in the dream.
        dreamed_end: float ``(B, H)``, the probability of an end in the dream.
        read_reward, read_end: the same, read from the encoded real frames by the sequence form.
    """

    real: Tensor
    dreamed: Tensor
    valid: Tensor
    signs: Tensor
    ended: Tensor
    dreamed_reward: Tensor
    dreamed_end: Tensor
    read_reward: Tensor
    read_end: Tensor

    @property
    def horizon(self) -> int:
        """H, the dreamed steps."""
        return self.signs.shape[1]

    def at(self, horizon: int) -> tuple[Tensor, Tensor]:
        """Return the real and the dreamed frames ``(B, C, H, W)`` at ``horizon``; not all are valid."""
        index = self.real.shape[1] - 1 - self.horizon + horizon
        return self.real[:, index], self.dreamed[:, index]


@torch.no_grad()
def side_by_side(model: MeasuredModel, segment: Segment, seed: int = 0) -> SideBySide:
    """Dream on from the first K observations of ``segment`` under its own actions.

    The dream does not stop where it says that it ends, so that every horizon is seen.

    Args:
        model: in evaluation mode, on the segment's device.
        segment: K-1 transitions of context, then those to dream; the context's may be padded.
        seed: lane i draws its noise from the stream ``seed + i``.

    Raises:
        UsageError: the segment is too short to dream one step.
    """
    k = model.context_length
    horizon = segment.actions.shape[1] - k + 1
    if horizon < 1:
        raise UsageError(f"The segment has {k - 1 + horizon} transitions: give at least {k}, which dream one step.")
    frames = model.encode(segment.pixels)
    head = model.reward_end.reward_head
    read, _ = model.read(frames, segment.actions)

    state = model.begin(Context(frames[:, :k], segment.actions[:, : k - 1]))
    key = lane_keys(range(seed, seed + len(frames)), frames.device)
    dreamed = list(frames[:, :k].unbind(dim=1))
    predictions = []
    for t in range(k - 1, k - 1 + horizon):
        state, prediction = model.advance(state, segment.actions[:, t], LaneNoise(key, torch.full_like(key, t)))
        dreamed.append(state.frames[:, -1])
        predictions.append(prediction)

    happened = segment.mask[:, k - 1 :].long().cumprod(dim=1).bool()
    return SideBySide(
        real=frames,
        dreamed=torch.stack(dreamed, dim=1),
        valid=torch.cat((torch.ones_like(happened[:, :1]), happened), dim=1),
        signs=head.classes(segment.rewards[:, k - 1 :]),
        ended=segment.terminated[:, k - 1 :],
        dreamed_reward=torch.stack([prediction.reward_probs for prediction in predictions], dim=1),
        dreamed_end=torch.stack([prediction.termination_prob for prediction in predictions], dim=1),
        read_reward=head.class_probs(read.reward[:, k - 1 :]),
        read_end=read.end[:, k - 1 :].softmax(dim=-1)[..., 1],
    )
