"""A world of vectors and large rewards, small enough to know by heart: does every action cause what it caused?

The first number of an action says which square of a board is lit, and is paid, between -90 and 90; the second, if it is
large, ends the episode. An off-by-one anywhere (loss, context, dream) would tie them to another action.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jedi_env.actions import BoxActions
from jedi_env.dream import Dream
from jedi_env.models.denoiser import DenoiserConfig
from jedi_env.models.encoder import LatentEncoderConfig
from jedi_env.models.reward_end import RewardEndConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.types import Context, Segment
from tests import toy_training
from tests.test_toy_world import correlation, draw

ACTIONS, SQUARES, K = BoxActions((-1.5, 10.0), (1.5, 20.0)), 4, 4
PAYS, ENDS = 60.0, 18.0


def outcome(action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next square, the reward and whether it ended: the whole truth about this world."""
    square = (action[..., 0] + 1.5).round().long().clamp(0, SQUARES - 1)
    return square, PAYS * action[..., 0], action[..., 1] > ENDS


def play(batch: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Squares (B, T+1), actions (B, T, 2), and rewards and ends (B, T), of random play that goes on after an end."""
    actions = ACTIONS.from_unit(2 * torch.rand(batch, steps, 2, generator=generator) - 1)
    squares, rewards, ends = outcome(actions)
    first = torch.randint(SQUARES, (batch, 1), generator=generator)
    return torch.cat((first, squares), dim=1), actions, rewards, ends


def segment(batch: int, steps: int, generator: torch.Generator) -> Segment:
    """What a replay gives; here the end of an episode leaves no trace but the sign itself."""
    squares, actions, rewards, ends = play(batch, steps, generator)
    return Segment(draw(squares), actions, rewards, ends, torch.ones_like(ends))


@pytest.fixture(scope="module")
def model() -> WorldModel:
    config = WorldModelConfig(
        encoder=LatentEncoderConfig(channels=(16, 8), down=(False, False), patch=16, standardise=True),
        denoiser=DenoiserConfig(channels=(32,), middle_attention=False, cond_channels=64),
        reward_end=RewardEndConfig(
            channels=(16,),
            depths=(1,),
            attention=(False,),
            down=(False,),
            middle_attention=False,
            cond_channels=32,
            lstm_dim=64,
            sees_next=False,
            shortcut=True,
            symlog=True,
        ),
    )
    return toy_training.train(config, ACTIONS, segment, updates=250)


def test_a_long_dream_pays_and_ends_with_the_action_that_does(model):
    """Seventeen steps on imagined frames alone."""
    squares, actions, rewards, ends = play(64, K + 16, torch.Generator().manual_seed(9))
    with torch.no_grad():
        contexts = Context(model.encode(draw(squares[:, :K])), actions[:, : K - 1])
        every_square = model.encode(draw(torch.arange(SQUARES)))
    dream = Dream(model, contexts, horizon=None)
    dream.reset(range(64), contexts=torch.arange(64))
    predictions, seen = [], []
    for t in range(K - 1, K + 16):
        predictions.append(dream.step(actions[:, t]).prediction)
        distance = torch.cdist(dream.state.model.frames[:, -1].flatten(1), every_square.flatten(1))
        seen.append(distance.argmin(dim=1))
    paid, over = (torch.stack([getattr(p, name) for p in predictions], 1) for name in ("reward", "termination_prob"))
    truth = rewards[:, K - 1 :]
    assert correlation(paid, truth, 0) > 0.98
    assert correlation(over, ends[:, K - 1 :], 0) > 0.8
    for lag in (-2, -1, 1, 2):
        assert abs(correlation(paid, truth, lag)) < 0.2
        assert abs(correlation(over, ends[:, K - 1 :], lag)) < 0.2
    assert (paid - truth).abs().mean() < 0.1 * truth.abs().mean()  # not only in proportion: the size is right
    assert (torch.stack(seen, 1) == squares[:, K:]).double().mean() > 0.7  # by chance 0.25; squares meet at an edge
