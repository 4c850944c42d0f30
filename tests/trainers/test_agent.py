"""The actor-critic's shapes, memory and first opinion."""

import pytest
import torch

from tests.trainers.fakes import random_weights
from trainers.agent import ActorCritic, ActorCriticConfig

SHAPE = (2, 8, 8)


def make(lstm_dim=6, stack=1):
    return ActorCritic(SHAPE, 5, ActorCriticConfig((4, 8), (True, False), lstm_dim, stack))


def observations(batch, stack=1, seed=0):
    return torch.randn(batch, stack * 2, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("lstm_dim", "stack"), [(6, 1), (0, 3)])
def test_shapes(lstm_dim, stack):
    agent = make(lstm_dim, stack)
    memory = agent.initial(7, "cpu")
    opinion = agent(observations(7, stack), memory)
    assert memory.shape == opinion.memory.shape == (2, 7, lstm_dim)
    assert (opinion.logits.shape, opinion.value.shape) == ((7, 5), (7,))
    assert opinion.logits.dtype == opinion.value.dtype == torch.float32


def test_it_begins_without_any_opinion():
    opinion = make()(observations(3), make().initial(3, "cpu"))
    assert torch.equal(opinion.logits, torch.zeros(3, 5))
    assert torch.equal(opinion.value, torch.zeros(3))


def test_lanes_do_not_see_each_other():
    agent = random_weights(make())
    memory = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    together = agent(observations(3), memory)
    alone = agent(observations(3)[1:2], memory[:, 1:2])
    assert torch.allclose(together.logits[1:2], alone.logits, atol=1e-6)
    assert torch.allclose(together.memory[:, 1:2], alone.memory, atol=1e-6)


def test_the_memory_matters_and_is_an_lstms():
    agent = random_weights(make())
    x, memory = observations(2), torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(1))
    opinion = agent(x, memory)
    assert not torch.allclose(opinion.logits, agent(x, torch.zeros_like(memory)).logits)
    features = agent.trunk(x).flatten(1)
    gates = features @ agent.lstm.weight_ih.T + agent.lstm.bias_ih + memory[0] @ agent.lstm.weight_hh.T
    i, f, g, o = (gates + agent.lstm.bias_hh).chunk(4, dim=1)
    cell = f.sigmoid() * memory[1] + i.sigmoid() * g.tanh()
    assert torch.allclose(opinion.memory[1], cell, atol=1e-5)
    assert torch.allclose(opinion.memory[0], o.sigmoid() * cell.tanh(), atol=1e-5)


@pytest.mark.parametrize("stack", [1, 2])
def test_its_memory_before_the_newest_frame_is_that_of_having_seen_the_others(stack):
    agent = random_weights(make(stack=stack))
    frames = observations(3, 2).reshape(3, 4, 1, 8, 8).repeat(1, 1, 2, 1, 1)  # four frames of two channels
    memory = agent.initial(3, "cpu")
    for newest in range(stack - 1, 3):
        memory = agent(frames[:, newest + 1 - stack : newest + 1].flatten(1, 2), memory).memory
    assert memory.any()
    assert torch.equal(agent.memory_before_newest(frames), memory)
    assert make(lstm_dim=0, stack=stack).memory_before_newest(frames).shape == (2, 3, 0)


def test_without_an_lstm_the_memory_is_passed_on_empty():
    agent = random_weights(make(lstm_dim=0))
    assert agent(observations(2), agent.initial(2, "cpu")).memory.numel() == 0
