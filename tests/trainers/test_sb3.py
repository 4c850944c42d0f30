"""Stable-Baselines3 in a dream: every algorithm runs and learns something; its policy is scored on whole games."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import ARS
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

import trainers.sb3
from jedi_env.errors import UsageError
from tests.tiny_dream import LATENT, tiny_checkpoint
from tests.trainers.fakes import ToyGame
from trainers.sb3 import BUFFER, MINIBATCH, ROLLOUT, Curve, ProgressBar, algorithms, make_algorithm, score_on_reality

LANES = 4


class FourActions(ToyGame):
    """The toy with as many actions as the tiny dream has."""

    def __init__(self, render_mode=None):
        super().__init__()
        self.action_space = gym.spaces.Discrete(4)

    def step(self, action):
        return super().step(min(int(action), 2))


gym.register("FourActions-v0", FourActions)


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint(LATENT, game="FourActions-v0")


def test_all_algorithms_for_discrete_actions_are_known():
    assert set(algorithms()) == {"PPO", "A2C", "DQN", "SAC", "TD3", "RecurrentPPO", "QRDQN", "TRPO", "ARS", "TQC"}


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "RecurrentPPO", "QRDQN", "TRPO", "ARS"])
def test_every_algorithm_learns_in_the_dream(checkpoint, name):
    model = make_algorithm(name, checkpoint, LANES, seed=0, horizon=10)
    before = {key: tensor.clone() for key, tensor in model.policy.state_dict().items()}
    steps = 2 * ROLLOUT * LANES if name != "ARS" else 1
    curve = Curve()
    model.learn(steps, callback=[curve, ProgressBar(steps, name)])
    assert model.num_timesteps >= steps
    assert any(not torch.equal(tensor, before[key]) for key, tensor in model.policy.state_dict().items())
    assert model.n_envs == LANES
    if name != "ARS":  # which counts the returns of its candidates itself
        assert curve.points
        assert [steps for steps, _ in curve.points] == sorted(steps for steps, _ in curve.points)


def test_an_unknown_algorithm_is_refused_with_the_nearest(checkpoint):
    with pytest.raises(UsageError, match=r"Unknown algorithm 'PP0'. Did you mean 'PPO'\? Known here: PPO, A2C"):
        make_algorithm("PP0", checkpoint, LANES, 0, None)


@pytest.mark.parametrize("lanes", [1, 2, 16, 17, 47, 64, 100])
def test_ppos_minibatches_fill_its_rollout(checkpoint, lanes):
    """Whatever the number of lanes; the library warns of one that does not, and warnings are errors here."""
    batch = make_algorithm("PPO", checkpoint, lanes, 0, None).batch_size
    assert lanes * ROLLOUT % batch == 0
    assert batch >= min(MINIBATCH, lanes * ROLLOUT)
    if lanes == 64:
        assert batch == 512


def test_an_off_policy_buffer_fits_into_memory(checkpoint):
    """A million transitions, the library's default, would be 33 GB of a full-size dream's observations."""
    model = make_algorithm("DQN", checkpoint, LANES, 0, None)
    assert isinstance(model, OffPolicyAlgorithm)
    assert model.buffer_size == BUFFER
    full_size = 2 * 4 * 16 * 8 * 8 * 4  # this and the next observation, float32
    assert BUFFER * full_size < 2e9


def test_ars_reads_flat_observations(checkpoint):
    assert isinstance(make_algorithm("ARS", checkpoint, 1, 0, None), ARS)


@pytest.mark.parametrize(("horizon", "expected"), [(2, 2), (None, 4)])
def test_the_horizon_is_ones_own_or_the_checkpoints(horizon, expected):
    env = make_algorithm("PPO", tiny_checkpoint(LATENT, horizon=4), LANES, 0, horizon).get_env()
    env.reset()
    lengths = []
    for _ in range(100):
        *_, infos = env.step(np.zeros(LANES, np.int64))
        lengths += [info["episode"]["l"] for info in infos if "episode" in info]
    assert max(lengths) == expected


def test_the_same_seed_learns_the_same(checkpoint):
    def learned(seed):
        model = make_algorithm("PPO", checkpoint, LANES, seed, 10)
        model.learn(ROLLOUT * LANES)
        return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])

    assert torch.equal(learned(0), learned(0))
    assert not torch.equal(learned(0), learned(1))


def test_a_policy_is_scored_on_whole_unclipped_games(checkpoint):
    model = make_algorithm("PPO", checkpoint, LANES, 0, 10)
    ended = []
    score = score_on_reality(model, "FourActions-v0", checkpoint, 10, lambda: ended.append(1))
    assert (score.game, len(score.returns), score.protocol) == ("FourActions-v0", 10, {})
    assert all(value % 5 == 0 for value in score.returns)
    assert len(ended) >= 10


def test_a_policy_is_scored_under_the_frame_skip_of_its_dream(monkeypatch):
    checkpoint = replace(tiny_checkpoint(LATENT, game="Pong", actions=6), protocol={"frame_skip": [40, 50]})
    model = make_algorithm("PPO", checkpoint, LANES, 0, 10)
    make_real, skips = trainers.sb3.make_real, []

    def made(*arguments, frame_skip, **settings):
        skips.append(frame_skip)
        return make_real(*arguments, frame_skip=frame_skip, **settings)

    monkeypatch.setattr(trainers.sb3, "make_real", made)
    assert score_on_reality(model, "Pong", checkpoint, 1).protocol["frame_skip"] == (40, 50)
    assert skips == [(40, 50)]


def test_a_dream_that_remembers_less_shows_less(checkpoint):
    short = tiny_checkpoint(replace(LATENT, context_length=2), game="FourActions-v0")
    model = make_algorithm("PPO", short, LANES, 0, 10)
    (channels, *_), (full, *_) = (c.world_model.frame_shape for c in (short, checkpoint))
    assert model.observation_space.shape[0] == 2 * channels
    assert make_algorithm("PPO", checkpoint, LANES, 0, 10).observation_space.shape[0] == 4 * full
    assert len(score_on_reality(model, "FourActions-v0", short, 1).returns) == 1


def test_a_deterministic_policy_scores_the_same_twice(checkpoint):
    model = make_algorithm("PPO", checkpoint, LANES, 0, 10)
    first, second = (score_on_reality(model, "FourActions-v0", checkpoint, 3, deterministic=True) for _ in range(2))
    assert first == second
