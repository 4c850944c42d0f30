"""A world of one number, and dreams of it that know a share of what moves."""

import torch

from jedi_env.models.reward_end import RewardEndLogits
from jedi_env.models.reward_heads import SignHead
from jedi_env.types import ModelState, Prediction, Segment

K, H, LANES = 3, 6, 40
SURE = 20.0  # a logit


class Rule:
    """Reads +1 where a frame grew by 2, an end where it grew by 3."""

    reward_head = SignHead()

    def __call__(self, frames, next_frames):
        grown = (next_frames - frames)[..., 0, 0, 0]
        reward = torch.stack((torch.zeros_like(grown), SURE * (grown != 2), SURE * (grown == 2)), -1)
        end = torch.stack((SURE * (grown != 3), SURE * (grown == 3)), -1)
        return RewardEndLogits(reward, end)


class World:
    """A frame is a number, twice; reality adds the action, and so does the dream by its ``share`` of it."""

    context_length = K
    reward_end = Rule()

    def __init__(self, share):
        self.share = share

    def encode(self, pixels):
        return pixels[..., :1, :2, 0].float()[..., None, :, :]

    def read(self, frames, actions):
        none = torch.zeros(len(frames), 1)
        return self.reward_end(frames[:, :-1], frames[:, 1:]), (none, none)

    def begin(self, context):
        none = torch.zeros(len(context), 1)
        return ModelState(context.frames, context.actions, none, none)

    def advance(self, state, actions, noise, steps=None):
        frame = state.frames[:, -1] + self.share * actions[:, None, None, None]
        logits = self.reward_end(state.frames[:, -1:], frame[:, None])
        reward, end = logits.reward[:, 0].softmax(-1), logits.end[:, 0].softmax(-1)[:, 1]
        after = ModelState(
            torch.cat((state.frames[:, 1:], frame[:, None]), 1),
            torch.cat((state.actions[:, 1:], actions[:, None]), 1),
            state.hidden,
            state.cell,
        )
        return after, Prediction(reward.argmax(-1) - 1.0, end > 0.5, reward, end)


def play(lanes=LANES, horizon=H, seed=0, after=0):
    """Segments of reality; an action 3 ends the episode, and what comes after it shows ``after``."""
    generator = torch.Generator().manual_seed(seed)
    length = K - 1 + horizon
    actions = torch.multinomial(torch.tensor([0.3, 0.3, 0.3, 0.1]), lanes * length, True, generator=generator)
    actions = actions.reshape(lanes, length)
    actions[:, : K - 1] %= 3
    actions[:, K - 1] %= 3
    ended = actions == 3
    over = ended.long().cumsum(1) - ended.long() > 0
    start = torch.randint(0, 50, (lanes, 1), generator=generator)
    values = torch.cat((start, start + actions.cumsum(1)), 1)
    values[:, 1:][over] = after
    pixels = torch.zeros(lanes, length + 1, 64, 64, 3, dtype=torch.uint8)
    pixels[:, :, 0, :2, 0] = values[..., None].to(torch.uint8)
    rewards = torch.where(over, 7.0 * after, 5.0 * (actions == 2))
    return Segment(pixels, actions, rewards, ended & ~over, ~over)
