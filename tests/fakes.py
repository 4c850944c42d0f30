"""A world model whose every number can be worked out by hand, and a checkpoint of it."""

import torch

from jedi_env.checkpoint import Checkpoint
from jedi_env.types import Context, ModelState, Prediction

REWARDS = (0.0, 1.0, -1.0, 0.0)  # of the actions
END = 3  # the action that ends a dream
K, ACTIONS = 4, len(REWARDS)
CPU = {"device": "cpu", "dtype": "float32", "compile": False}


class CountingWorld:
    """A frame is (place, luck, start), three channels of one element.

    An action moves the place by its number; the luck is the step's first random number; the start is which context of
    the bank it all began from. A dream ends with the action ``END``, or where the luck is below ``end_chance``.
    """

    frame_shape = (3, 1, 1)
    bound = 1000.0
    context_length = K
    num_actions = ACTIONS

    def __init__(self, end_chance=0.0, drawn=True):
        self.end_chance = end_chance
        self.decoder = Paint() if drawn else None
        self.calls = []  # how many lanes each model call had, and its denoising steps

    def encode(self, pixels):
        return (
            torch.stack((pixels[..., 0, 0, 0], pixels[..., 0, 0, 2], pixels[..., 0, 0, 1]), -1)[..., None, None] * 1.0
        )

    def begin(self, context):
        steps = torch.zeros(len(context), 1)
        return ModelState(context.frames, context.actions, steps, steps)

    def advance(self, state, actions, noise, steps=None):
        self.calls.append((len(actions), steps))
        place, _, start = state.frames[:, -1, :, 0, 0].unbind(1)
        luck = noise.uniform()
        frame = torch.stack((place + actions, luck, start), 1)[..., None, None]
        ends = torch.where(actions == END, 1.0, self.end_chance)
        reward = torch.tensor(REWARDS)[actions]
        probs = torch.nn.functional.one_hot(reward.long() + 1, 3).float()
        after = ModelState(
            torch.cat((state.frames[:, 1:], frame[:, None]), 1),
            torch.cat((state.actions[:, 1:], actions[:, None]), 1),
            state.hidden + 1,
            state.cell,
        )
        return after, Prediction(reward, luck < ends, probs, ends)


class Paint:
    """Draws a frame as one colour: (place, start, 7)."""

    def decode(self, frames):
        place, _, start = frames[..., 0, 0].unbind(-1)
        colour = torch.stack((place, start, torch.full_like(place, 7)), -1).clamp(0, 255).to(torch.uint8)
        return colour[:, None, None, :].repeat(1, 64, 64, 1)


def starts(bank):
    """Start i: places 10i, 10i + 1, ... 10i + K - 1, reached by K - 1 times the action 1."""
    frames = torch.zeros(bank, K, 3, 1, 1)
    frames[:, :, 0, 0, 0] = 10 * torch.arange(bank)[:, None] + torch.arange(K)
    frames[:, :, 2, 0, 0] = torch.arange(bank)[:, None]
    return Context(frames, torch.ones(bank, K - 1, dtype=torch.int64))


def counting_checkpoint(bank=5, horizon=6, protocol=None, **world):
    return Checkpoint(
        world_model=CountingWorld(**world),
        contexts=starts(bank),
        game=None,
        horizon=horizon,
        protocol=protocol or {},
        provenance={},
        metrics={},
    )
