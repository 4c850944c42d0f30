"""Scoring: which games count, what is counted of them, and games that never end."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import trainers.evaluate
from jedi_env.checkpoint import AgentRecord, Checkpoint
from jedi_env.config_json import to_json
from jedi_env.envs.atari import AtariProtocol
from jedi_env.errors import CheckpointError, RunError, UsageError
from jedi_env.models.world_model import WorldModel
from jedi_env.types import Context
from tests.trainers.fakes import ACTIONS, MICRO, MICRO_MODEL, TOY, ToyGame, random_weights
from trainers.agent import ActorCritic
from trainers.evaluate import EVALUATION_SEED, Score, play_episodes, score_checkpoint, score_policy
from trainers.policy import RandomPolicy


class Lane(gym.Env):
    """Its n-th game lasts ``length`` steps and pays ``100 * lane + n`` in the first of them, 7 in the others."""

    observation_space = Box(0, 255, (64, 64, 3), np.uint8)
    action_space = Discrete(2)

    def __init__(self, lane, length, truncates=False):
        self.lane, self.length, self.truncates = lane, length, truncates
        self.game = -1
        self.seed = None

    def reset(self, *, seed=None, options=None):
        self.seed = self.seed if seed is None else seed
        self.game, self.step_count = self.game + 1, 0
        return self.look(), {}

    def step(self, action):
        assert action == 1
        self.step_count += 1
        over = self.step_count == self.length
        reward = 100.0 * self.lane + self.game if self.step_count == 1 else 7.0
        return self.look(), reward, over and not self.truncates, over and self.truncates, {}

    def look(self):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[0, 0] = self.lane, self.game, self.step_count
        return pixels


class Watcher:
    """Always 1, and remembers what it was shown."""

    def __init__(self):
        self.shown = []

    def act(self, pixels, first):
        self.shown.append((pixels[:, 0, 0].tolist(), first.tolist()))
        return np.ones(len(pixels), np.int64)


def lanes(*lengths, truncates=False):
    makers = [lambda lane=lane, n=n: Lane(lane, n, truncates) for lane, n in enumerate(lengths)]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def worth(lane, game, length):
    return 100.0 * lane + game + 7.0 * (length - 1)


@pytest.mark.parametrize("truncates", [False, True])
@pytest.mark.parametrize(
    ("lengths", "episodes"), [((2, 5, 50), 9), ((50, 1, 3), 7), ((4,), 3), ((3, 3), 1), ((1, 9), 4)]
)
def test_every_lane_plays_its_share_whatever_its_games_take(lengths, episodes, truncates):
    """A lane with short games does not count more often: the n-th games of all lanes, in order."""
    returns = play_episodes(lanes(*lengths, truncates=truncates), Watcher(), episodes, 0)
    expected = [worth(lane, game, n) for game in range(episodes) for lane, n in enumerate(lengths)]
    assert returns == expected[:episodes]


def test_returns_are_unclipped_and_told_as_they_come():
    told = []
    returns = play_episodes(lanes(1, 3), Watcher(), 4, 0, told.append)
    assert returns == [0.0, 114.0, 1.0, 115.0]
    assert told == [0.0, 1.0, 114.0, 115.0]


def test_the_policy_is_told_when_a_game_has_begun():
    watcher = Watcher()
    play_episodes(lanes(2, 3), watcher, 4, 0)
    for pixels, first in watcher.shown:
        assert [place[2] == 0 for place in pixels] == first
    assert [first for _, first in watcher.shown] == [
        [True, True],
        [False, False],
        [True, False],
        [False, True],
        [True, False],
        [False, False],
    ]


def test_lanes_are_seeded_one_after_the_other():
    env = lanes(1, 1, 1)
    play_episodes(env, Watcher(), 3, 40)
    assert [lane.seed for lane in env.envs] == [40, 41, 42]


def test_a_game_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(trainers.evaluate, "MAX_STEPS", 20)
    with pytest.raises(RunError, match="20 steps"):
        play_episodes(lanes(3, 10**9), Watcher(), 2, 0)
    assert play_episodes(lanes(20, 20), Watcher(), 4, 0)[0] == worth(0, 0, 20)  # just about
    # Nobody waits for a game that does not count any more.
    assert len(play_episodes(lanes(6, 30 // 2), Watcher(), 4, 0)) == 4


def test_no_atari_game_is_given_up_whatever_the_frame_skip():
    assert AtariProtocol(frame_skip=1).max_frames < trainers.evaluate.MAX_STEPS


def test_a_score_as_json():
    score = Score("Pong", (1.0, 2.0, 6.0), {"sticky": 0.0})
    assert json.loads(json.dumps(score.to_json())) == {
        "game": "Pong",
        "returns": [1.0, 2.0, 6.0],
        "protocol": {"sticky": 0.0},
        "episodes": 3,
        "mean": 3.0,
        "std": pytest.approx(np.sqrt(14 / 3)),
    }


def test_scoring_a_registered_game_counts_as_asked_and_claims_no_atari_protocol():
    score = score_policy(TOY, RandomPolicy(ACTIONS, np.random.default_rng(0)), 11)
    assert (score.game, len(score.returns), score.protocol) == (TOY, 11, {})
    assert all(value % 5 == 0 for value in score.returns)

    policy, by_hand = RandomPolicy(ACTIONS, np.random.default_rng(0)), []
    env = ToyGame()
    _, total, over = env.reset(seed=EVALUATION_SEED), 0.0, False
    while not over:  # the first of eight lanes
        _, reward, terminated, truncated, _ = env.step(policy.act(np.zeros((8, 1, 1, 1)), None)[0])
        total, over = total + reward, terminated or truncated
    by_hand.append(total)
    assert score.returns[0] == by_hand[0]


def test_the_protocol_of_an_atari_game_is_recorded(monkeypatch):
    monkeypatch.setattr(trainers.evaluate, "make_pixels_vec", lambda game, n, **rules: lanes(*[2] * n))
    protocol = score_policy("Breakout", Watcher(), 3).protocol
    assert (protocol["frame_skip"], protocol["noop_max"], protocol["sticky"], protocol["life_loss"]) == (
        4,
        30,
        0.0,
        False,
    )


def checkpoint_of(agent, game=TOY):
    torch.manual_seed(0)
    model = random_weights(WorldModel(ACTIONS, MICRO_MODEL)).eval()
    contexts = Context(torch.zeros(1, 2, *model.frame_shape), torch.zeros(1, 1, dtype=torch.int64))
    return Checkpoint(model, contexts, game, None, {}, {}, {}, agent)


def native_agent():
    model = WorldModel(ACTIONS, MICRO_MODEL)
    return random_weights(ActorCritic(model.frame_shape, ACTIONS, MICRO.agent), scale=1.0)


def test_scoring_the_agent_of_a_checkpoint():
    record = AgentRecord(to_json(MICRO.agent), dict(native_agent().state_dict()))
    first, second, other = (score_checkpoint(checkpoint_of(record), 6, seed) for seed in (0, 0, 1))
    assert first == second
    assert first.returns != other.returns  # its actions are drawn
    assert len(first.returns) == 6


@pytest.mark.parametrize(("with_agent", "game"), [(False, TOY), (True, None)])
def test_a_checkpoint_without_agent_or_game_is_refused(with_agent, game):
    record = AgentRecord(to_json(MICRO.agent), dict(native_agent().state_dict())) if with_agent else None
    with pytest.raises(UsageError, match="no native agent"):
        score_checkpoint(checkpoint_of(record, game), 1, 0)


@pytest.mark.parametrize("damage", ["missing", "shape", "config", "stages"])
def test_an_agent_that_does_not_fit_is_refused(damage):
    config, tensors = dict(to_json(MICRO.agent)), dict(native_agent().state_dict())
    if damage == "missing":
        del tensors["actor.weight"]
    elif damage == "shape":
        tensors["actor.weight"] = torch.zeros(7, 8)
    elif damage == "config":
        config["colour"] = "red"
    else:
        config["down"] = [True, True]
    with pytest.raises(CheckpointError):
        score_checkpoint(checkpoint_of(AgentRecord(config, tensors)), 1, 0)
