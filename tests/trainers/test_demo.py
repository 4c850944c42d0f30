"""The demonstration, microscopic: everything it promises is left behind."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import imageio.v3 as iio
import pytest
from PIL import Image
from stable_baselines3 import PPO

import trainers.demo
from jedi_env.checkpoint import Checkpoint
from jedi_env.errors import UsageError
from tests.trainers.fakes import MICRO
from trainers.config import EvaluateConfig
from trainers.demo import HELD_OUT_STEPS, VIDEO_STEPS, DemoConfig, demo, held_out
from trainers.pictures import GAP, SCALE
from trainers.presets import DEMO

TRAINING = replace(
    MICRO,
    world_model=replace(MICRO.world_model, context_length=4),
    collect=replace(MICRO.collect, total_steps=60, first_steps=60, first_steps_limit=60, first_rewards=0),
    fit_agent=replace(MICRO.fit_agent, first_updates=0),
    evaluate=EvaluateConfig(every=0, episodes=0, final_episodes=0),
    final_epochs=0,
)
STEPS = 64 * 32  # one rollout


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A finished demonstration: its settings and what it returned."""
    config = DemoConfig(out=tmp_path_factory.mktemp("demo") / "out", train=True, steps=STEPS, horizon=5, episodes=2)
    return config, demo(config, TRAINING)


def test_the_summary_tells_all_and_is_the_one_returned(shown):
    config, summary = shown
    written = json.loads((config.out / "summary.json").read_text())
    assert written == json.loads(json.dumps(summary))
    assert (written["game"], written["seed"], written["real_steps"]) == ("Breakout", 0, 60)
    assert written["imagined_steps"] == STEPS
    assert written["dream_steps_per_second"] > 0
    assert written["ppo_steps_per_second"] > 0
    assert -5 <= written["dream_return"] <= 5
    for who in ("random", "agent"):
        assert (written[who]["game"], written[who]["episodes"], len(written[who]["returns"])) == ("Breakout", 2, 2)
        assert written[who]["protocol"]["sticky"] == 0
    assert set(written["seconds"]) == {"collect", "fit_models", "strip", "ppo_in_the_dream", "real_games"}
    assert {"commit", "machine", "versions", "config_hash"} <= set(written)
    assert written["demo"] == {
        "out": str(config.out),
        "game": "Breakout",
        "seed": 0,
        "train": True,
        "steps": STEPS,
        "horizon": 5,
        "episodes": 2,
    }


def test_the_strip_has_six_lanes_of_three_rows_and_fourteen_columns(shown):
    """16 transitions have 17 observations, of which the first three are only context."""
    cell = (64 + GAP) * SCALE
    with Image.open(shown[0].out / "strip.png") as strip:
        assert strip.size == (14 * cell, 18 * cell)


def test_curve_and_policy_are_there(shown):
    with Image.open(shown[0].out / "curve.png") as curve:
        assert curve.size[0] > 100
    assert PPO.load(shown[0].out / "ppo.zip", device="cpu").num_timesteps == STEPS


def test_the_video_shows_both_policies_on_the_real_game(shown):
    pictures = iio.imread(shown[0].out / "games.gif")
    assert len(pictures) == VIDEO_STEPS
    assert pictures.shape[2] > 2 * 256  # side by side
    assert pictures.std(axis=0).max() > 0  # something moves


def test_without_training_the_dream_that_is_found_here_is_taken(shown, tmp_path, monkeypatch):
    monkeypatch.setenv("JEDI_ENV_HOME", str(tmp_path / "home"))
    there = Checkpoint.load(shown[0].out / "checkpoint")
    found = replace(there, protocol={**there.protocol, "frame_skip": [3, 5]})
    found.save(tmp_path / "home" / "Breakout")
    config = DemoConfig(out=tmp_path / "out", steps=STEPS, horizon=5, episodes=1)
    summary = demo(config, TRAINING)
    assert set(summary["seconds"]) == {"strip", "ppo_in_the_dream", "real_games"}
    assert summary["dream"]["commit"] == found.provenance["commit"]
    assert "config_hash" not in summary, "nothing was trained by these settings"
    assert summary["imagined_steps"] == STEPS
    assert [summary[who]["protocol"]["frame_skip"] for who in ("random", "agent")] == [(3, 5)] * 2
    taken = Checkpoint.load(tmp_path / "out" / "checkpoint")
    for name, value in found.world_model.state_dict().items():
        assert (taken.world_model.state_dict()[name] == value).all()
    assert (tmp_path / "out" / "games.gif").is_file()


def test_without_training_no_trained_run_is_replaced(shown):
    config, _ = shown
    before = (config.out / "checkpoint" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds a run, whose dream would be replaced"):
        demo(replace(config, train=False), TRAINING)
    assert (config.out / "checkpoint" / "model.safetensors").read_bytes() == before


def test_its_dream_can_be_entered(shown):
    env = gym.make("JEDIDream-v0", checkpoint=shown[0].out / "checkpoint", device="cpu")
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    env.close()


def test_what_the_dream_is_compared_with_was_never_trained_on(shown):
    config, _ = shown
    checkpoint = Checkpoint.load(config.out / "checkpoint")
    segment = held_out(config, checkpoint)
    assert segment.pixels.shape == (6, 17, 64, 64, 3)
    assert ((segment.rewards != 0) | segment.terminated).any(dim=1).all()
    rows = (config.out / "held_out" / "steps.bin").stat().st_size // 10
    assert rows >= HELD_OUT_STEPS
    trained, held = (
        (config.out / folder / "pixels.bin").read_bytes()[: 12288 * 40] for folder in ("replay", "held_out")
    )
    assert trained != held


@pytest.mark.parametrize("field", ["steps", "horizon", "episodes"])
def test_nothing_is_asked_for_that_is_nothing(field):
    with pytest.raises(UsageError, match=f"{field} is 0"):
        DemoConfig(**{field: 0})


def test_the_command_line(monkeypatch, capsys, tmp_path):
    given = []

    def quick(config, training):
        given.append((config, training))
        score = {"mean": 1.5, "std": 0.5}
        return {"agent": {**score, "mean": 7.25}, "random": score, "dream_return": 0.5}

    monkeypatch.setattr(trainers.demo, "demo", quick)
    monkeypatch.setattr("sys.argv", ["demo", "--out", str(tmp_path), "--steps", "9"])
    trainers.demo.main()
    out = capsys.readouterr().out
    assert given == [(DemoConfig(out=Path(tmp_path), steps=9), DEMO)]
    assert "PPO trained only in the dream  7.25 +- 0.50" in out
    assert "random                         1.50 +- 0.50" in out
    assert f'gym.make("JEDIDream-v0", checkpoint="{tmp_path / "checkpoint"}")' in out


def test_an_unknown_game_is_told_with_code_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["demo", "--out", str(tmp_path / "out"), "--train", "--game", "Breakot"])
    with pytest.raises(SystemExit) as exit_:
        trainers.demo.main()
    assert exit_.value.code == 2
    assert "Did you mean 'Breakout'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
