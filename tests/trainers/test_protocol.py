"""The Atari100k protocol in training and in scoring: what ends an episode, what a reward is, what a score file says."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

import trainers.evaluate
from jedi_env.checkpoint import AgentRecord, Checkpoint
from jedi_env.config_json import to_json
from jedi_env.envs.atari import AtariProtocol
from jedi_env.envs.real import make_pixels, make_pixels_vec, make_real
from jedi_env.errors import CheckpointError
from jedi_env.models.world_model import WorldModel
from jedi_env.types import Context
from tests.trainers.fakes import MICRO, MICRO_MODEL, random_weights
from trainers.agent import ActorCritic
from trainers.cli import main
from trainers.collect import Collector
from trainers.evaluate import EVALUATION_SEED, score_policy
from trainers.policy import RandomPolicy
from trainers.presets import DIAMOND, PAPER
from trainers.replay import Replay
from trainers.rules import Rules
from trainers.train import train

CPU = torch.device("cpu")
PUBLISHED = AtariProtocol(
    frame_skip=4, noop_max=30, sticky=0.0, life_loss=False, max_frames=108_000, full_action_space=False, size=64
)


def random_policy(actions):
    return RandomPolicy(actions, np.random.default_rng(0))


def test_what_is_made_by_default_is_the_benchmark():
    assert AtariProtocol() == PUBLISHED
    with closing(make_pixels("Breakout")) as single, closing(make_pixels_vec("Breakout", 2)) as vector:
        assert single.unwrapped.protocol == vector.protocol == PUBLISHED
    with closing(make_real("Breakout", obs_type="rgb", frame_stack=1)) as env:
        assert env.unwrapped.protocol == PUBLISHED
        assert (env.observation_space.shape, env.action_space.n) == ((64, 64, 3), 4)  # the minimal actions
    for config in (PAPER, DIAMOND):
        assert (config.frame_skip, config.collect.life_loss) == ((4, 4), True)
        assert (config.evaluate.final_episodes, config.collect.epsilon) == (100, 0.01)


def test_a_score_is_of_whole_games_and_raw_rewards():
    """Against the same game played by hand: all three lives of Ms. Pac-Man, at ten points a dot."""
    score = score_policy("MsPacman", random_policy(9), 1)
    by_hand, signs, lives, over = 0.0, 0, set(), False
    with closing(make_pixels("MsPacman")) as env:
        policy = random_policy(9)
        pixels, info = env.reset(seed=EVALUATION_SEED)
        while not over:
            pixels, reward, terminated, truncated, info = env.step(int(policy.act(pixels[None], None)[0]))
            by_hand, signs, over = by_hand + float(reward), signs + np.sign(float(reward)), terminated or truncated
            lives.add(info["lives"])
    assert score.returns == (by_hand,)
    assert signs < by_hand
    assert lives == {0, 1, 2, 3}


def test_in_training_a_lost_life_is_an_end_and_the_replay_keeps_the_raw_reward(tmp_path):
    replay = Replay(tmp_path)
    with closing(make_pixels("MsPacman")) as env:
        for score in Collector(env, replay, life_loss=True, seed=0).collect(900, random_policy(9)):
            if score is not None:
                break
    steps = replay.steps
    assert steps["terminated"].sum() == 3  # two lives and the game
    assert steps["last"].sum() == 3
    assert steps["reward"].max() >= 10
    assert steps["reward"].sum() == score
    replay.close()


def test_only_the_sign_of_a_reward_is_learned():
    world_model = random_weights(WorldModel(3, MICRO_MODEL))
    frames = torch.randn(2, 4, *world_model.frame_shape, generator=torch.Generator().manual_seed(0))
    logits, _ = world_model.read(frames, torch.zeros(2, 3, dtype=torch.int64))
    model = world_model.reward_end
    rewards = torch.tensor([[0.0, 50.0, -3.0], [200.0, 0.0, 0.0]])
    ends, mask = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    raw, _ = model.loss(logits, rewards, ends, mask)
    signs, _ = model.loss(logits, rewards.sign(), ends, mask)
    other, _ = model.loss(logits, rewards.abs(), ends, mask)
    assert raw == signs
    assert raw != other


SAID_OF_A_RUN = {
    "game",
    "seed",
    "real_steps",
    "episodes",
    "returns",
    "protocol",
    "commit",
    "config_hash",
    "mean",
    "std",
}


def test_every_score_of_a_run_says_how_it_came_about(tmp_path, capsys):
    config = replace(
        MICRO,
        collect=replace(MICRO.collect, total_steps=60, first_steps=60, first_steps_limit=60),
        evaluate=replace(MICRO.evaluate, every=0, episodes=0, final_episodes=2),
        final_epochs=0,
    )
    train(config, "Breakout", 3, tmp_path / "run", CPU)
    (score,) = json.loads((tmp_path / "run" / "scores.json").read_text())
    capsys.readouterr()
    main(["eval", str(tmp_path / "run"), "--episodes", "2", "--seed", "7", "--device", "cpu", "--json"])
    evaluated = json.loads(capsys.readouterr().out)
    for record in (score, evaluated):
        assert record.keys() >= SAID_OF_A_RUN
        assert (record["game"], record["seed"], record["real_steps"], record["episodes"]) == ("Breakout", 3, 60, 2)
        assert record["protocol"] == json.loads(json.dumps(PUBLISHED.__dict__))
        assert len(record["returns"]) == 2
        assert record["mean"] == sum(record["returns"]) / 2
    assert evaluated["config_hash"] == score["config_hash"]
    assert evaluated["evaluation"]["agent_seed"] == 7
    assert evaluated["evaluation"]["game_seed"] == EVALUATION_SEED
    assert evaluated["evaluation"].keys() >= {"commit", "machine", "versions"}


def checkpoint_with(protocol):
    model = random_weights(WorldModel(4, MICRO_MODEL)).eval()
    agent = ActorCritic(model.frame_shape, 4, MICRO.agent)
    contexts = Context(torch.zeros(1, 2, *model.frame_shape), torch.zeros(1, 1, dtype=torch.int64))
    record = AgentRecord(to_json(MICRO.agent), dict(agent.state_dict()))
    return Checkpoint(model, contexts, "Breakout", None, protocol, {}, {}, record)


def test_a_stochastic_agent_is_scored_under_its_own_frame_skip(tmp_path, capsys):
    checkpoint_with({"frame_skip": (2, 6)}).save(tmp_path / "dream")
    main(["eval", str(tmp_path / "dream"), "--episodes", "1", "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["protocol"]["frame_skip"] == [2, 6]


def test_a_dream_of_sticky_actions_is_scored_with_them(tmp_path, capsys, monkeypatch):
    """But a lost life, which ended an episode in training, ends no game that is scored."""
    played = []

    def make(*arguments, **settings):
        played.append(make_pixels_vec(*arguments, **settings))
        return played[-1]

    monkeypatch.setattr(trainers.evaluate, "make_pixels_vec", make)
    checkpoint_with({"sticky": 0.25, "life_loss": True}).save(tmp_path / "dream")
    main(["eval", str(tmp_path / "dream"), "--episodes", "1", "--device", "cpu", "--json"])
    recorded = json.loads(capsys.readouterr().out)["protocol"]
    assert recorded == {**PUBLISHED.__dict__, "sticky": 0.25}
    assert played[0].protocol == replace(PUBLISHED, sticky=0.25)


@pytest.mark.parametrize(
    ("protocol", "expected"), [({}, (4, 4)), ({"frame_skip": 3}, (3, 3)), ({"frame_skip": [2, 6]}, (2, 6))]
)
def test_the_frame_skip_of_a_checkpoint(protocol, expected):
    assert AtariProtocol(**Rules.of(checkpoint_with(protocol)).whole_games("Breakout")).frame_skips == expected


@pytest.mark.parametrize("recorded", [0, "four", [1], [1, 2, 3], 4.5])
def test_a_frame_skip_that_makes_no_sense_is_refused(recorded):
    with pytest.raises(CheckpointError, match="one number or two"):
        Rules.of(checkpoint_with({"frame_skip": recorded}))
