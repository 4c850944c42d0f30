"""Collecting on a toy with lives, where every row can be worked out by hand; and resuming, also on a real game."""

import copy
from contextlib import closing
from dataclasses import asdict

import numpy as np
import pytest
import torch

from jedi_env.envs.real import make_pixels
from jedi_env.models.world_model import WorldModel
from tests.trainers.fakes import ACTIONS, MICRO, MICRO_MODEL, ToyGame, random_weights
from trainers.agent import ActorCritic
from trainers.collect import BURN_IN, Collector, Progress
from trainers.policy import AgentPolicy, RandomPolicy
from trainers.replay import Replay


class Always:
    """A policy that takes one action, and remembers what it was shown."""

    def __init__(self, action):
        self.action = action
        self.shown = []

    def act(self, pixels, first):
        assert pixels.shape == (1, 64, 64, 3)
        self.shown.append((tuple(pixels[0, 0, 0].tolist()), bool(first[0])))
        return np.array([self.action])


def agent_policy(seed, num_actions=ACTIONS, lstm_dim=8):
    """An agent whose choices depend on all that it has seen."""
    world_model = random_weights(WorldModel(num_actions, MICRO_MODEL), 1)
    config = copy.deepcopy(MICRO.agent)
    agent = random_weights(ActorCritic(world_model.frame_shape, num_actions, config), 2, scale=1.0)
    return AgentPolicy(world_model, agent, torch.Generator().manual_seed(seed), epsilon=0.05)


def random_policy(seed, num_actions=ACTIONS):
    return RandomPolicy(num_actions, np.random.default_rng(seed))


def log_of(folder):
    return [(folder / name).read_bytes() for name in ("pixels.bin", "steps.bin")]


def collect(folder, chunks, *, make_env=ToyGame, make_policy=random_policy, interrupt=(), life_loss=True):
    """Collect ``chunks`` of steps, each with a new policy, and start from what was saved after those in ``interrupt``.

    What a crash does: the emulator is gone, and beyond the saved length the log holds litter.
    """
    progress, length, scores = Progress(), 0, []
    env = make_env()
    replay = Replay(folder)
    collector = Collector(env, replay, life_loss=life_loss, seed=3)
    for index, steps in enumerate(chunks):
        scores += [s for s in collector.collect(steps, make_policy(index)) if s is not None]
        if index in interrupt:
            progress, length = Progress(**copy.deepcopy(asdict(collector.progress))), replay.length
            for _ in collector.collect(7, make_policy(99)):  # lost
                pass
            replay.close()
            env.close()
            env, replay = make_env(), Replay(folder, length)
            collector = Collector(env, replay, life_loss=life_loss, seed=3, progress=progress)
    result = asdict(collector.progress), scores, replay.num_steps
    replay.close()
    env.close()
    return result


def test_every_row_is_what_the_game_did(tmp_path):
    """Played again by hand, with the seeds that the collector gave."""
    env, policy = ToyGame(limit=12), random_policy(0)
    with closing(Replay(tmp_path)) as replay:
        collector = Collector(env, replay, life_loss=True, seed=3)
        scores = list(collector.collect(150, policy))
        steps, pixels = replay.steps.copy(), replay.pixels.copy()

    again, actions, row, returned = ToyGame(limit=12), random_policy(0), 0, []
    games = len(env.seeds)
    for game in range(games):
        now, info = again.reset(seed=env.seeds[game])
        score, over = 0.0, False
        while not over and len(returned) < 150:
            action = int(actions.act(now[None], None)[0])
            after, reward, terminated, truncated, now_info = again.step(action)
            score += reward
            over = terminated or truncated
            ended = terminated or now_info["lives"] < info["lives"]
            assert np.array_equal(pixels[row], now)
            assert steps[row].tolist() == (action, reward, ended, False)
            row += 1
            if ended or over:
                assert np.array_equal(pixels[row], after)
                assert steps[row].tolist() == (0, 0.0, False, True)
                row += 1
            returned.append(score if over else None)
            now, info = after, now_info
    assert row == len(steps)
    assert scores == returned
    assert games >= 3
    assert sum(steps["terminated"]) > games  # lives were lost, too
    assert sum(steps["last"]) > sum(steps["terminated"])  # and games were cut off
    assert {5.0, 0.0} == set(steps["reward"].tolist())  # unclipped


def test_without_life_loss_only_a_game_over_terminates(tmp_path):
    collect(tmp_path, [200], life_loss=False)
    with closing(Replay(tmp_path, len((tmp_path / "steps.bin").read_bytes()) // 10)) as replay:
        ends = replay.steps["terminated"]
        lives = replay.pixels[1:][ends[:-1], 0, 0, 1]
    assert len(lives) > 0
    assert set(lives.tolist()) == {0}


class LastLifeLingers(ToyGame):
    """No life is left for a step before the game is over, as some Atari games show it."""

    def step(self, action):
        self.steps += 1
        self.lives = max(0, 3 - self.steps)
        return self.look(), 0.0, self.steps == 5, False, {"lives": self.lives}


def test_a_game_that_lingers_without_lives_ends_once(tmp_path):
    with closing(Replay(tmp_path)) as replay:
        list(Collector(LastLifeLingers(), replay, life_loss=True, seed=0).collect(5, Always(1)))
        assert replay.steps["terminated"].tolist() == [True, False, True, False, False, False, True, False]


def test_games_have_seeds_of_their_own_that_follow_from_the_runs(tmp_path):
    def seeds(seed):
        env = ToyGame(limit=4)
        with closing(Replay(tmp_path / str(seed), keep=0)) as replay:
            list(Collector(env, replay, life_loss=True, seed=seed).collect(40, Always(1)))
        return env.seeds

    first, again, other = seeds(0), seeds(0), seeds(1)
    assert first == again
    assert len(first) >= 10
    assert len({*first, *other}) == len(first) + len(other)
    assert all(0 <= seed < 2**31 for seed in first)


def test_a_policy_is_told_when_an_episode_begins_and_a_lost_life_begins_one(tmp_path):
    policy = Always(1)
    with closing(Replay(tmp_path)) as replay:
        list(Collector(ToyGame(), replay, life_loss=True, seed=3).collect(100, policy))
        last = replay.steps["last"]
        begins = np.flatnonzero(np.append(True, last[:-1]) & ~last)  # rows that begin an episode
        rows = np.flatnonzero(~last)
        expected = [(tuple(replay.pixels[row, 0, 0].tolist()), row in begins) for row in rows]
    assert policy.shown == expected
    assert sum(first for _, first in policy.shown) > 3


def test_a_new_policy_first_lives_through_what_went_before(tmp_path):
    with closing(Replay(tmp_path)) as replay:
        collector = Collector(ToyGame(limit=1000), replay, life_loss=False, seed=3)
        list(collector.collect(3, Always(1)))
        early = Always(1)
        list(collector.collect(30, early))
        late = Always(1)
        list(collector.collect(1, late))
        shown = [tuple(pixels[0, 0].tolist()) for pixels in replay.pixels]
    assert early.shown[:4] == [(shown[0], True), (shown[1], False), (shown[2], False), (shown[3], False)]
    assert [pixels for pixels, _ in late.shown] == shown[-BURN_IN:]
    assert [first for _, first in late.shown] == [True] + [False] * (BURN_IN - 1)


CHUNKS = [13, 1, 40, 26, 5]


@pytest.mark.parametrize("make_policy", [random_policy, agent_policy])
@pytest.mark.parametrize("interrupt", [{0}, {1, 2}, {3}, {0, 1, 2, 3}])
def test_an_interrupted_collection_equals_an_uninterrupted_one(tmp_path, make_policy, interrupt):
    whole = collect(tmp_path / "whole", CHUNKS, make_policy=make_policy)
    parts = collect(tmp_path / "parts", CHUNKS, make_policy=make_policy, interrupt=interrupt)
    assert parts == whole
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    assert whole[0]["game"] >= 2
    assert whole[2] == sum(CHUNKS)


def test_interrupted_right_when_a_game_was_over(tmp_path):
    def short():
        return ToyGame(limit=10)

    whole = collect(tmp_path / "whole", [10, 10, 7], make_env=short, make_policy=agent_policy)
    parts = collect(tmp_path / "parts", [10, 10, 7], make_env=short, make_policy=agent_policy, interrupt={0, 1})
    assert parts == whole
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")


class Reflex:
    """A policy that goes by what it sees now alone."""

    def act(self, pixels, first):
        return pixels[:, 0, 0].astype(np.int64).sum(axis=1) % ACTIONS


@pytest.mark.parametrize("steps", [1, 8, 31, 59])
def test_a_collection_given_up_at_any_step_can_go_on(tmp_path, steps):
    """What the progress tells is what was logged, between any two steps."""
    with closing(Replay(tmp_path / "whole")) as replay:
        list(Collector(ToyGame(), replay, life_loss=True, seed=3).collect(60, Reflex()))
    with closing(Replay(tmp_path / "parts")) as replay:
        collector = Collector(ToyGame(), replay, life_loss=True, seed=3)
        playing = collector.collect(60, Reflex())
        for _ in range(steps):
            next(playing)
        playing.close()
        progress, length = Progress(**copy.deepcopy(asdict(collector.progress))), replay.length
        assert replay.num_steps == steps
    with closing(Replay(tmp_path / "parts", length)) as replay:
        list(Collector(ToyGame(), replay, life_loss=True, seed=3, progress=progress).collect(60 - steps, Reflex()))
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["random", "agent"])
def test_resuming_on_a_real_game(tmp_path, kind):
    def breakout():
        return make_pixels("Breakout")

    def make_policy(seed):
        return random_policy(seed, 4) if kind == "random" else agent_policy(seed, 4)

    chunks = [60, 140, 30]  # a life is lost within about 30 steps without luck
    whole = collect(tmp_path / "whole", chunks, make_env=breakout, make_policy=make_policy)
    parts = collect(tmp_path / "parts", chunks, make_env=breakout, make_policy=make_policy, interrupt={0, 1})
    assert parts == whole
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "whole")
    with closing(Replay(tmp_path / "whole", len(log_of(tmp_path / "whole")[1]) // 10)) as replay:
        assert replay.steps["terminated"].sum() >= 2
