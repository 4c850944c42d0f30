"""A world small enough to know by heart, learned and dreamed: does every action cause what it caused in reality?

A counter from 0 to 5 is drawn as a bright square; the action (0, 1 or 2) is added to it. Going past the end earns 1, a
certain move costs 1, another ends the episode. An off-by-one anywhere (loss, context, dream) would tie what happens to
the action before or after the one that caused it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jedi_env.dream import Dream
from jedi_env.models.denoiser import DenoiserConfig
from jedi_env.models.encoder import LatentEncoderConfig
from jedi_env.models.reward_end import RewardEndConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.types import Context, Segment
from tests import toy_training

STATES, ACTIONS, K = 6, 3, 4


def draw(state: Tensor) -> Tensor:
    """Pixels (uint8 ``(..., 64, 64, 3)``): square number ``state`` of a 4x4 board is lit."""
    board = torch.full((*state.shape, 16), 20, dtype=torch.uint8)
    board.scatter_(-1, state[..., None], 220)
    squares = board.unflatten(-1, (4, 4)).repeat_interleave(16, dim=-1).repeat_interleave(16, dim=-2)
    return squares[..., None].repeat_interleave(3, dim=-1)


def outcome(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next state, the reward and whether it ended: the whole truth about this world."""
    gain = state + action >= STATES
    loss = (state == 1) & (action == 2)
    return (state + action) % STATES, gain.float() - loss.float(), (state == 2) & (action == 1)


def play(batch: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States (B, T+1), and actions, rewards and ends (B, T), of random play that goes on after an end."""
    states = [torch.randint(STATES, (batch,), generator=generator)]
    actions = torch.randint(ACTIONS, (batch, steps), generator=generator)
    rewards, ends = [], []
    for action in actions.unbind(dim=1):
        state, reward, end = outcome(states[-1], action)
        states.append(state)
        rewards.append(reward)
        ends.append(end)
    return torch.stack(states, 1), actions, torch.stack(rewards, 1), torch.stack(ends, 1)


def segment(batch: int, steps: int, generator: torch.Generator) -> Segment:
    """What a replay gives: after an end nothing happens any more, and the last picture is repeated."""
    states, actions, rewards, ends = play(batch, steps, generator)
    mask = ends.long().cumsum(dim=1) - ends.long() == 0
    last = mask.sum(dim=1, keepdim=True)
    states = states.gather(1, torch.minimum(torch.arange(steps + 1), last))
    return Segment(draw(states), actions * mask, rewards * mask, ends & mask, mask)


def train(sees_next: bool, updates: int) -> WorldModel:
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
            sees_next=sees_next,
        ),
    )
    return toy_training.train(config, ACTIONS, segment, updates=updates)


@pytest.fixture(scope="module", params=[True, False], ids=["sees next", "does not see next"])
def model(request) -> WorldModel:
    return train(request.param, updates=200)


@pytest.fixture(scope="module")
def truth() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return play(64, K + 16, torch.Generator().manual_seed(9))


def correlation(predicted: Tensor, true: Tensor, lag: int) -> float:
    """Correlate what is predicted at step t with what is true at t + lag, both (B, T)."""
    steps = predicted.shape[1]
    mine = predicted[:, max(0, -lag) : steps - max(0, lag)]
    theirs = true[:, max(0, lag) : steps - max(0, -lag)]
    return torch.corrcoef(torch.stack((mine.flatten(), theirs.flatten().float())))[0, 1].item()


def assert_aligned(rewards: Tensor, ends: Tensor, true_rewards: Tensor, true_ends: Tensor, at_least: float) -> None:
    for predicted, true in ((rewards, true_rewards), (ends, true_ends)):
        assert correlation(predicted, true, 0) > at_least
        for lag in (-2, -1, 1, 2):
            assert abs(correlation(true, true, lag)) < 0.35  # in this world no event announces another
            assert abs(correlation(predicted, true, lag)) < 0.4


def predict(model: WorldModel, states: Tensor, actions: Tensor, steps: int) -> tuple[Tensor, Tensor, Dream]:
    """Expected reward and chance of an end, each (B, steps), of dreams that begin at real contexts and act as given."""
    with torch.no_grad():
        contexts = Context(model.encode(draw(states[:, :K])), actions[:, : K - 1])
    dream = Dream(model, contexts, horizon=None)
    dream.reset(range(len(states)), contexts=torch.arange(len(states)))
    rewards, ends = [], []
    for t in range(steps):
        prediction = dream.step(actions[:, K - 1 + t]).prediction
        rewards.append(prediction.reward_probs[:, 2] - prediction.reward_probs[:, 0])
        ends.append(prediction.termination_prob)
    return torch.stack(rewards, 1), torch.stack(ends, 1), dream


def test_the_world_is_what_it_says():
    pixels = draw(torch.tensor([[0, 5]]))
    assert pixels.shape == (1, 2, 64, 64, 3)
    assert (pixels[0, 0, :16, :16] == 220).all()
    assert (pixels[0, 1, 16:32, 16:32] == 220).all()
    assert (pixels == 220).sum() == 2 * 16 * 16 * 3
    batch = segment(200, K + 1, torch.Generator().manual_seed(0))
    ended = batch.terminated.any(dim=1)
    assert 0.1 < ended.double().mean() < 0.5
    assert torch.equal(batch.mask.all(dim=1), ~batch.terminated[:, :-1].any(dim=1))


def test_one_step_from_reality_is_aligned(model, truth):
    """At every step begin anew from the real frames before it: rewards and ends belong to the action just taken."""
    states, actions, rewards, ends = truth
    starts = range(rewards.shape[1] - K + 1)
    windows = [predict(model, states[:, t : t + K], actions[:, t : t + K], 1)[:2] for t in starts]
    predicted_rewards, predicted_ends = (torch.cat(parts, dim=1) for parts in zip(*windows, strict=True))
    assert_aligned(predicted_rewards, predicted_ends, rewards[:, K - 1 :], ends[:, K - 1 :], at_least=0.95)


def test_a_long_dream_is_aligned_and_ends_where_reality_does(model, truth):
    """Seventeen steps on imagined frames alone."""
    states, actions, rewards, ends = truth
    steps = rewards.shape[1] - K + 1
    predicted_rewards, predicted_ends, dream = predict(model, states, actions, steps)
    assert_aligned(predicted_rewards, predicted_ends, rewards[:, K - 1 :], ends[:, K - 1 :], at_least=0.95)
    with torch.no_grad():
        every_state = model.encode(draw(torch.arange(STATES)))
    imagined = dream.state.model.frames[:, -1]
    nearest = torch.cdist(imagined.flatten(1), every_state.flatten(1)).argmin(dim=1)
    assert (nearest == states[:, -1]).double().mean() > 0.9


def test_the_action_decides(model):
    """From one and the same past, each action leads to its own frame, reward and end."""
    state = torch.arange(STATES).repeat_interleave(ACTIONS)
    action = torch.arange(ACTIONS).repeat(STATES)
    pasts = state[:, None].expand(-1, K)  # it stood still: three times action 0
    actions = torch.cat((torch.zeros(len(state), K - 1, dtype=torch.int64), action[:, None]), dim=1)
    rewards, ends, dream = predict(model, pasts, actions, 1)
    next_state, reward, end = outcome(state, action)
    assert rewards[:, 0].round().tolist() == reward.tolist()
    assert ends[:, 0].round().tolist() == end.float().tolist()
    with torch.no_grad():
        every_state = model.encode(draw(torch.arange(STATES)))
    distance = torch.cdist(dream.state.model.frames[:, -1].flatten(1), every_state.flatten(1))
    assert (distance.argmin(dim=1) == next_state).double().mean() > 0.9
