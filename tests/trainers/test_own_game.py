"""A game of one's own: vectors of actions, rewards of any size, grey images, a module that registers it, every verb."""

import json
import re
import shlex
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import jedi_env
import trainers.train
from jedi_env.actions import BoxActions
from jedi_env.checkpoint import Checkpoint
from jedi_env.envs.real import make_pixels, make_real
from jedi_env.errors import RunError, UsageError
from jedi_env.sb3 import make_real as make_real_for_sb3
from tests.dot_game import DOT, HIGH, LOW, PAYS
from tests.trainers.fakes import MICRO, TOY
from tests.trainers.test_cli import MICRO as FLAGS
from trainers.cli import main
from trainers.collect import Collector
from trainers.estimate import estimate
from trainers.evaluate import agent_of, score_checkpoint
from trainers.fidelity import FidelityConfig, fidelity
from trainers.fit_agent import rollout
from trainers.log import read
from trainers.policy import RandomPolicy
from trainers.presets import TINY, for_any_game
from trainers.replay import Replay, Sampling, usual_reward
from trainers.state import open_run
from trainers.train import train

CPU = torch.device("cpu")
ANY = for_any_game(replace(MICRO, fit_agent=replace(MICRO.fit_agent, passes=2)))
ACTIONS = BoxActions(tuple(np.float32(LOW).tolist()), tuple(np.float32(HIGH).tolist()))

PAGE = (Path(__file__).parents[2] / "docs" / "your_game.md").read_text()
(MODULE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)  # all that the page says must be written


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dot") / "run"
    train(ANY, DOT, 0, folder, CPU)
    return folder


@pytest.fixture(scope="module")
def checkpoint(whole):
    return Checkpoint.load(whole / "checkpoint")


@pytest.fixture
def jedi(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(line):
        capsys.readouterr()
        main(shlex.split(line))
        return capsys.readouterr().out

    return run


def test_only_the_reading_of_rewards_differs():
    assert for_any_game(TINY).world_model.reward_end.symlog
    assert not TINY.world_model.reward_end.symlog


def test_the_replay_is_what_was_played(tmp_path):
    env = make_pixels(DOT)
    with closing(Replay(tmp_path, actions=ACTIONS)) as replay:
        collector = Collector(env, replay, life_loss=True, seed=3)
        for _ in collector.collect(50, RandomPolicy(ACTIONS, np.random.default_rng(0))):
            pass
        steps = replay.steps[~replay.steps["last"]]
        assert steps["action"].shape == (50, 2)
        assert np.allclose(steps["reward"], PAYS * steps["action"][:, 0])
        assert (steps["terminated"] == (steps["action"][:, 1] > 0.4)).all()
        assert collector.progress.actions == steps["action"][len(steps) - len(collector.progress.actions) :].tolist()
        segment = replay.segments(40, 6, Sampling(()), np.random.default_rng(0))
        assert segment.actions.dtype == torch.float32
        assert torch.allclose(segment.rewards, PAYS * segment.actions[..., 0] * segment.mask)
        assert (segment.actions[~segment.mask] == 0).all()
        pixels, actions = replay.contexts(40, 3, Sampling(()), np.random.default_rng(0))
        assert (pixels.shape[:2], actions.shape) == ((40, 3), (40, 2, 2))
        length, checksum = replay.length, replay.checksum
    with closing(Replay(tmp_path, length, checksum, ACTIONS)) as again:
        assert (again.steps["action"][again.steps["last"]] == 0).all()
    narrow = BoxActions((-0.1, 0.0), (0.1, 0.5))
    with pytest.raises(RunError, match="holds steps that cannot be"):
        Replay(tmp_path, length, checksum, narrow)


def test_an_event_is_a_reward_that_is_not_the_usual_one(tmp_path):
    """A game that takes a little in every step, as many do."""
    black = np.zeros((64, 64, 3), np.uint8)
    with closing(Replay(tmp_path)) as replay:
        for t in range(200):
            replay.append(black + t % 256, 1, 3.0 if t % 40 == 20 else -0.1, False)
        replay.end_episode(black)
        assert usual_reward(replay.steps) == pytest.approx(-0.1)
        drawn = replay.segments(500, 1, Sampling((), event_fraction=1.0), np.random.default_rng(0))
    assert (drawn.rewards == 3.0).all()


def test_the_returns_of_all_real_play(whole):
    """By the definition, sum by sum."""
    with closing(open_run(whole, ANY, DOT, 0, ACTIONS, CPU)) as state:
        steps = state.replay.steps
        by_hand = []
        for row in np.flatnonzero(~steps["last"]):
            ends = np.flatnonzero(steps["last"][row:])
            span = steps["reward"][row : row + ends[0] if len(ends) else None].astype(float)
            by_hand.append((span * 0.9 ** np.arange(len(span))).sum())
        assert trainers.train._returns(state, 0.9).tolist() == pytest.approx(by_hand, rel=1e-5, abs=1e-4)


def test_the_log_is_in_the_rewards_own_unit(whole):
    records = read(whole)
    (first,) = (record for record in records if record["phase"] == "collect" and record["epoch"] == 0)
    assert first["real_most"] == pytest.approx(2 * PAYS, rel=0.1)
    assert first["real_events"] == pytest.approx((PAYS * 4 / 12**0.5) ** 2, rel=0.4)  # of a uniform number
    assert not any(sum(r[k] for k in r if k not in ("epoch", "phase")) for r in records if r["phase"] == "health")


def test_the_checkpoint_dreams_of_it(checkpoint):
    assert checkpoint.world_model.actions == ACTIONS
    assert ACTIONS.allow(checkpoint.contexts.actions)
    env = gym.make_vec("JEDIDream-v0", num_envs=3, checkpoint=checkpoint, device="cpu", frame_stack=2)
    real = make_real(DOT, 3, checkpoint, frame_stack=2)
    assert env.single_action_space == real.single_action_space
    assert env.single_observation_space == real.single_observation_space
    vec = make_real_for_sb3(DOT, 2, checkpoint, frame_stack=2, seed=0)
    vec.reset()
    _, rewards, _, infos = vec.step(np.float32([[1, 0], [-2, 0.5]]))
    assert rewards.tolist() == [PAYS, -2 * PAYS]
    assert "episode" in infos[1]
    for one in (env, real, vec):
        one.close()


def test_the_agent_plays_it(checkpoint):
    score = score_checkpoint(checkpoint, 3, 0)
    assert (score.game, len(score.returns), score.protocol) == (DOT, 3, {})
    assert agent_of(checkpoint).policy.size == 4


def test_the_scale_of_rewards_changes_no_loss(checkpoint):
    """A dream that pays a hundred times as much, and is divided by as much."""
    from jedi_env.dream import Dream

    agent = agent_of(checkpoint)

    def rewards(scale):
        dream = Dream(checkpoint.world_model, checkpoint.contexts, horizon=None)
        dream.reset(range(4))
        return rollout(dream, agent, 3, torch.Generator().manual_seed(0), scale).rewards

    assert torch.allclose(rewards(100.0) * 100, rewards(1.0), rtol=1e-5)


def test_a_run_that_was_interrupted_equals_one_that_was_not(whole, tmp_path, monkeypatch):
    stops = []

    def stop(*arguments):
        state = arguments[1]
        if state.epoch not in stops and state.epoch in (1, 2):
            stops.append(state.epoch)
            raise RunError("stopped")
        return fit(*arguments)

    fit = trainers.train.fit_models
    monkeypatch.setattr(trainers.train, "fit_models", stop)
    stop.__name__ = "fit_models"
    for _ in range(2):
        with pytest.raises(RunError, match="stopped"):
            train(ANY, DOT, 0, tmp_path / "run", CPU)
    train(ANY, DOT, 0, tmp_path / "run", CPU)
    for name in (
        "replay/steps.bin",
        "replay/pixels.bin",
        "checkpoint/model.safetensors",
        "checkpoint/agent.safetensors",
    ):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes(), name


def test_fidelity_in_the_rewards_own_unit(checkpoint):
    config = FidelityConfig(horizon=3, segments=8, steps=60, probes=False)
    report, segments = fidelity(checkpoint, config)
    assert segments.actions.shape[2:] == (2,)
    real = report.watch[0].real
    assert 3 < real.standard_error < 3 * PAYS  # not of signs, which have less than 1
    frequent = report.events[0].reward.counts
    assert sum(frequent[0]) + sum(frequent[2]) > 10 * sum(frequent[1])  # few actions are paid next to nothing


def test_a_dream_of_other_actions_is_no_dream_of_this_game(checkpoint):
    with pytest.raises(UsageError, match="but the dream knows Box"):
        fidelity(replace(checkpoint, game=TOY), FidelityConfig(horizon=2, segments=4, steps=20, probes=False))


def test_the_time_it_takes_can_be_told():
    assert estimate(ANY, DOT, CPU, lambda what: None).hours > 0


def test_a_module_of_ones_own_and_every_verb(jedi, tmp_path):
    """Nothing but a file beside the command, with one wrapper in it."""
    (tmp_path / "my_game.py").write_text(MODULE)
    said = jedi(f"train --env my_game:PixelPendulum-v0 --run-dir run --device cpu {FLAGS}")
    assert "Checkpoint: run/checkpoint" in said
    told = json.loads(jedi("info run --json"))
    assert (told["game"], told["actions"]) == ("my_game:PixelPendulum-v0", "Box(-2.0, 2.0, (1,), float32)")
    score = json.loads(jedi("eval run --episodes 2 --json"))
    assert (len(score["returns"]), score["mean"] < 0) == (2, True)
    report = json.loads(jedi("fidelity run --horizon 2 --segments 4 --steps 30 --json"))
    assert report["probes_left_out"] == "my_game:PixelPendulum-v0 is no Atari game and has no RAM"
    played = json.loads(jedi("play run --steps 5 --record dream.gif --json"))
    assert played["steps"] == 5
    assert json.loads(jedi("play run --real --agent --steps 5 --record real.gif --json"))["steps"] == 5
    assert json.loads(jedi("play run --side-by-side --agent --steps 5 --record both.gif --json"))["steps"] == 5
    dreamed = json.loads(jedi("dream run --algo SAC --steps 200 --lanes 4 --episodes 1 --json"))
    assert dreamed["real"]["game"] == "my_game:PixelPendulum-v0"
    jedi("report run --out report.html")
    assert "PixelPendulum" in (tmp_path / "report.html").read_text()
    with pytest.raises(SystemExit) as refused:
        jedi("dream run --algo DQN --steps 10 --episodes 0")
    assert refused.value.code == 2


def test_its_dream_is_checked_like_any_other(checkpoint):
    env = gym.make_vec("JEDIDream-v0", num_envs=3, checkpoint=checkpoint, device="cpu", frame_stack=2, horizon=4)
    jedi_env.check_vector_env(env)


@pytest.mark.slow
def test_the_real_car_races():
    """Continuous, coloured, and paid for by the tile: wheels of Box2D are there for most machines, not for all."""
    pytest.importorskip("Box2D", reason="pip install 'gymnasium[box2d]'")
    env = make_real("CarRacing-v3", obs_type="rgb", frame_stack=1)
    pixels, _ = env.reset(seed=0)
    assert pixels.shape == (64, 64, 3)
    total = sum(float(env.step(np.float32([0, 0.3, 0]))[1]) for _ in range(60))
    assert total > 0
    env.close()
