"""The reward and termination model: an LSTM over (frame, action, next frame) with two classification heads.

Its layout is DIAMOND's (arXiv 2405.12399, appendix A); JEDI (arXiv 2605.13013, eq. 9) applies it to latents. It
predicts the reward (its sign, in the papers) and whether the transition ended the episode. It does not predict values
and never sees pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jedi_env.actions import Actions, as_actions
from jedi_env.models.blocks import ResBlock, conv3x3, init_lstm
from jedi_env.models.reward_heads import RewardHead, SignHead, SymlogHead
from jedi_env.models.unet import Downsample
from jedi_env.share import WHOLE, Share


@dataclass(frozen=True)
class RewardEndConfig:
    """The reward/termination model; defaults are what fits JEDI's stated total of 13.5M parameters.

    Attributes:
        channels, depths, attention: of each stage. The paper prints ``[2, 2, 2, 2]``, DIAMOND's depths.
        down: which stages halve the resolution before their blocks (DIAMOND: all but the first; at 8x8 latents, none).
        middle_attention: two attending blocks at the end, as in DIAMOND.
        cond_channels: size of the action embedding.
        lstm_dim: size L of the memory.
        sees_next: read the transition (frame, action, next frame), as DIAMOND does. False: only (frame, action) and the
            memory: what a young denoiser does not draw yet (a brick, a life) cannot be read from the frame it imagined.
        shortcut: normalise what the LSTM reads, and let the heads read it beside the memory. Without it the signal of a
            rare event must first grow through the LSTM: on Breakout, 600 updates of a small model leave both losses at
                the base rate;
            with it the reward's falls to a seventh of that and the end's to a fifth.
        frame_stack: frames that are read together, the newest and those before it (1 in the papers). What moves can
            then be told by convolutions, and need not be put together by the LSTM: on Breakout, of an agent's held-out
            rewards .79 are read for .71.
        frame_noise: standard deviation of noise on the frames in training, in their own unit (latents lie within 3, and
            those of ``tiny`` have a deviation of 0.5); 0 in both papers. What is rare is soon known by heart without.
        event_weight: weight of rare classes (a reward, an end) relative to the common ones in the loss; 1 in the
            papers.
        symlog: learn rewards of any size (symlog two-hot), and let dreams pay them. False: signs alone, the papers'.
    """

    channels: tuple[int, ...] = (32, 32, 32, 32)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    attention: tuple[bool, ...] = (False, False, False, False)
    down: tuple[bool, ...] = (False, False, False, False)
    middle_attention: bool = True
    cond_channels: int = 128
    lstm_dim: int = 512
    # ours
    sees_next: bool = True
    shortcut: bool = False
    frame_stack: int = 1
    frame_noise: float = 0.0
    event_weight: float = 1.0
    symlog: bool = False


class RewardEndLogits(NamedTuple):
    """Logits of the reward, which the head reads, ``(B, T, size)``, and over goes on / ended ``(B, T, 2)``."""

    reward: Tensor
    end: Tensor


class RewardEnd(nn.Module):
    """Reads the reward and the termination from a sequence of transitions.

    Args:
        frame_shape: (C, H, W) of a frame.
        actions: the game's; a number is so many discrete ones.
        config: the rest.

    Attributes:
        reward_head: what the logits of the reward mean.
    """

    def __init__(self, frame_shape: tuple[int, int, int], actions: int | Actions, config: RewardEndConfig) -> None:
        super().__init__()
        self.config = config
        self.reward_head: RewardHead = SymlogHead() if config.symlog else SignHead()
        channels, height, width = frame_shape
        self.action_embedding = as_actions(actions).embedding(config.cond_channels)
        self.conv_in = conv3x3(channels * (config.frame_stack + config.sees_next), config.channels[0])
        self.downsamples, self.stages = nn.ModuleList(), nn.ModuleList()
        before = config.channels[0]
        for after, depth, attend, down in zip(
            config.channels, config.depths, config.attention, config.down, strict=True
        ):
            self.downsamples.append(Downsample(before) if down else nn.Identity())
            widths = [(before if i == 0 else after, after) for i in range(depth)]
            self.stages.append(nn.ModuleList(ResBlock(a, b, config.cond_channels, attend) for a, b in widths))
            before = after
        self.middle = nn.ModuleList(
            ResBlock(before, before, config.cond_channels, attention=True) for _ in range(2 * config.middle_attention)
        )
        shrink = 2 ** sum(config.down)
        features = before * (height // shrink) * (width // shrink)
        self.norm = nn.LayerNorm(features) if config.shortcut else nn.Identity()
        self.lstm = nn.LSTM(features, config.lstm_dim, batch_first=True)
        init_lstm(self.lstm)
        self.head = nn.Sequential(
            nn.Linear(config.lstm_dim + (features if config.shortcut else 0), config.lstm_dim),
            nn.SiLU(),
            nn.Linear(config.lstm_dim, self.reward_head.size + 2, bias=False),
        )

    def initial(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the memory (hidden, cell), each ``(B, L)``, before anything was seen."""
        zeros = torch.zeros(batch, self.config.lstm_dim, dtype=torch.float32, device=device)
        return zeros, zeros

    def forward(
        self, frames: Tensor, actions: Tensor, next_frames: Tensor, memory: tuple[Tensor, Tensor]
    ) -> tuple[RewardEndLogits, tuple[Tensor, Tensor]]:
        """Read T transitions in order; T = 1 is a step, and gives what the whole sequence gives at that place.

        Args:
            frames: ``(B, T, S*C, H, W)``, each with those before it (:func:`stacked`, S = ``frame_stack``).
            actions: ``(B, T)`` or ``(B, T, A)``, taken at the newest of ``frames``.
            next_frames: ``(B, T, C, H, W)``, what they led to.
            memory: (hidden, cell), each ``(B, L)``.
        """
        b, t = frames.shape[:2]
        x = torch.cat((frames, next_frames), dim=2) if self.config.sees_next else frames
        x = self.conv_in(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        cond = self.action_embedding(actions.flatten(0, 1))
        for downsample, blocks in zip(self.downsamples, self.stages, strict=True):
            x = downsample(x)
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList
                x = block(x, cond)
        for block in self.middle:
            x = block(x, cond)
        x = self.norm(x.reshape(b, t, -1))
        out, (hidden, cell) = self.lstm(x, (memory[0][None], memory[1][None]))
        if self.config.shortcut:
            out = torch.cat((out, x), dim=-1)
        logits = self.head(out).float()
        return RewardEndLogits(*logits.split((self.reward_head.size, 2), dim=-1)), (hidden[0], cell[0])

    def loss(
        self, logits: RewardEndLogits, rewards: Tensor, terminated: Tensor, mask: Tensor, share: Share = WHOLE
    ) -> tuple[Tensor, Tensor]:
        """Return the two cross-entropies (eq. 9 of arXiv 2605.13013) of rewards and terminations.

        Args:
            logits: of T transitions.
            rewards: ``(B, T)``, as the game gave them.
            terminated: bool ``(B, T)``.
            mask: bool ``(B, T)``, which transitions count.
            share: of the batch, if these transitions are not all of it; the losses are then its parts.
        """
        weight, head = self.config.event_weight, self.reward_head
        sign_weights = logits.reward.new_tensor([weight, 1.0, weight])[head.classes(rewards)]
        end_weights = logits.end.new_tensor([1.0, weight])[terminated.long()]
        end_errors = F.cross_entropy(logits.end.flatten(0, 1), terminated.long().flatten(), reduction="none")
        return (
            _weighted_mean(head.errors(logits.reward, rewards), sign_weights * mask, share),
            _weighted_mean(end_errors.reshape(mask.shape), end_weights * mask, share),
        )


def stacked(frames: Tensor, depth: int) -> Tensor:
    """Return each of ``frames`` (B, T, C, H, W) with those before it, newest last: ``(B, T, depth*C, H, W)``.

    Before the first one stands the first one, as in every dream's context.
    """
    if depth == 1:  # nothing to copy
        return frames
    steps = frames.shape[1]
    padded = torch.cat((frames[:, :1].expand(-1, depth - 1, -1, -1, -1), frames), dim=1)
    return torch.cat([padded[:, back : back + steps] for back in range(depth)], dim=2)


def _weighted_mean(errors: Tensor, weights: Tensor, share: Share) -> Tensor:
    """Return the mean by ``weights`` (B T), 0 if all are; boolean indexing would make the GPU wait."""
    return (weights * errors).sum() / share.total(weights.sum()).clamp(min=torch.finfo(weights.dtype).tiny)
