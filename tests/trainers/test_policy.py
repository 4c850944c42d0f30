"""The agent on the real game: it sees and remembers lane by lane what it would see and remember alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jedi_env.models.world_model import WorldModel
from tests.trainers.fakes import ACTIONS, MICRO, MICRO_MODEL, random_weights
from trainers.agent import ActorCritic
from trainers.policy import AgentPolicy, RandomPolicy


@pytest.fixture(scope="module")
def world_model():
    torch.manual_seed(0)
    return random_weights(WorldModel(ACTIONS, MICRO_MODEL), 1)


def agent_with(world_model, lstm_dim, stack):
    config = replace(MICRO.agent, lstm_dim=lstm_dim, frame_stack=stack)
    return random_weights(ActorCritic(world_model.frame_shape, ACTIONS, config), 2)


def by_hand(world_model, agent, pixels, first):
    """The logits of one lane, from its pixels and beginnings over time."""
    stack, logits, frames, memory = agent.config.frame_stack, [], [], None
    with torch.no_grad():
        for image, begins in zip(pixels, first, strict=True):
            frame = world_model.encode(torch.from_numpy(image)[None])[0]
            if begins:
                frames, memory = [frame] * (stack - 1), agent.initial(1, "cpu")
            frames.append(frame)
            opinion = agent(torch.cat(frames[-stack:])[None], memory)
            memory = opinion.memory
            logits.append(opinion.logits[0])
    return torch.stack(logits)


@pytest.mark.parametrize(("lstm_dim", "stack"), [(8, 1), (0, 1), (0, 2), (8, 2)])
def test_every_lane_is_played_as_if_it_were_alone(world_model, monkeypatch, lstm_dim, stack):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 3, 64, 64, 3), dtype=np.uint8)
    first = np.array([[1, 1, 1], [0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
    agent = agent_with(world_model, lstm_dim, stack)
    seen = []
    monkeypatch.setattr(agent.policy, "draw", lambda logits, *_: (seen.append(logits), logits.argmax(1))[1])
    policy = AgentPolicy(world_model, agent, torch.Generator())
    actions = [policy.act(pixels[t], first[t]) for t in range(7)]
    for lane in range(3):
        expected = by_hand(world_model, agent, pixels[:, lane], first[:, lane])
        assert torch.allclose(torch.stack(seen)[:, lane], expected, atol=1e-3)
        assert [int(a[lane]) for a in actions] == expected.argmax(dim=1).tolist()


def test_it_puts_both_networks_into_evaluation_mode_and_takes_no_gradient(world_model):
    agent = agent_with(world_model, 8, 1)
    world_model.train()
    agent.train()
    policy = AgentPolicy(world_model, agent, torch.Generator())
    actions = policy.act(np.zeros((2, 64, 64, 3), np.uint8), np.ones(2, bool))
    assert not world_model.training
    assert not agent.training
    assert (actions.shape, actions.dtype) == ((2,), np.int64)
    assert not policy._memory.requires_grad


def test_random_actions_are_uniform_and_follow_the_generator():
    def draw(seed):
        return RandomPolicy(4, np.random.default_rng(seed)).act(np.zeros((4000, 1, 1, 1), np.uint8), None)

    assert np.bincount(draw(0)) / 4000 == pytest.approx([0.25] * 4, abs=0.03)
    assert np.array_equal(draw(0), draw(0))
    assert not np.array_equal(draw(0), draw(1))
