"""``jedi-env import-diamond``: from a file as DIAMOND's authors publish them to a dream in pixels and a score."""

import json
import shlex

import gymnasium as gym
import numpy as np
import pytest
import torch

import jedi_env
from jedi_env.checkpoint import Checkpoint
from jedi_env.diamond import AGENT, WORLD_MODEL
from jedi_env.models.world_model import WorldModel
from tests.test_diamond import NAMES
from trainers.agent import ActorCritic
from trainers.cli import main
from trainers.presets import DIAMOND

assert jedi_env  # registers the ids


@pytest.fixture(scope="module")
def weights():
    """Random weights under their names."""
    torch.manual_seed(0)
    model = WorldModel(4, WORLD_MODEL)
    agent = ActorCritic(model.frame_shape, 4, DIAMOND.agent)
    ours = {**model.state_dict(), **{f"agent.{name}": tensor for name, tensor in agent.state_dict().items()}}
    return {name: ours[our] for name, our in NAMES.items()}


@pytest.fixture
def published(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(weights, "Breakout.pt")
    torch.save(weights, "nameless.pt")
    return tmp_path


def run(line):
    try:
        main(shlex.split(line))
    except SystemExit as exit_:
        return exit_.code
    return 0


def test_the_settings_are_the_presets():
    assert json.loads(json.dumps(AGENT)) == {
        "channels": [32, 32, 64, 64],
        "down": [True] * 4,
        "lstm_dim": 512,
        "frame_stack": 1,
    }
    assert DIAMOND.world_model == WORLD_MODEL


def test_an_imported_checkpoint_dreams_in_pixels(published, weights, capsys):
    assert run("import-diamond Breakout.pt --out imported --json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"game": "Breakout", "checkpoint": "imported", "num_actions": 4, "contexts": 64, "agent": True}

    checkpoint = Checkpoint.load("imported")
    theirs = weights["denoiser.inner_model.conv_in.weight"]
    assert torch.equal(checkpoint.world_model.denoiser.conv_in.weight, theirs)
    assert checkpoint.protocol["life_loss"] is True
    assert checkpoint.protocol["frame_skip"] == 4
    assert checkpoint.provenance["source"] == "DIAMOND, Breakout.pt"

    env = gym.make("JEDIDream-Breakout-v0", checkpoint="imported", obs_type="rgb", frame_stack=1, device="cpu")
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert len(np.unique(observation)) > 5  # it begins at a real picture of Breakout
    dreamed, reward, *_ = env.step(1)
    assert env.observation_space.contains(dreamed)
    assert not np.array_equal(dreamed, observation)
    assert reward in (-1, 0, 1)
    env.close()


def test_the_file_may_be_of_another_name(published, capsys):
    assert run("import-diamond nameless.pt --game Breakout") == 0
    out = capsys.readouterr().out
    assert "Checkpoint: runs/diamond-breakout (Breakout, 64 starting points, with its agent)" in out
    assert 'checkpoint="runs/diamond-breakout"' in out
    assert Checkpoint.load("runs/diamond-breakout").game == "Breakout"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("import-diamond nameless.pt", 2, "Write --game Breakout, or whichever it is"),
        ("import-diamond Breakout.pt --game Brakeout", 2, "Did you mean 'Breakout'?"),
        ("import-diamond Breakout.pt --game Pong", 2, "a game with 4 actions, and Pong has"),
        ("import-diamond nowhere.pt", 2, "neither a file nor one of the Atari100k games"),
        ("import-diamond Breakout.pt --out thesis", 2, "thesis is there and is no checkpoint"),
        ("import-diamond broken.pt --game Breakout", 2, "could not be read"),
        ("import-diamond Breakout.pt --gam Pong", 2, "jedi-env import-diamond --help"),
    ],
)
def test_what_cannot_be_imported_is_told_and_nothing_is_written(published, capsys, line, code, said):
    (published / "thesis").mkdir()
    (published / "thesis" / "thesis.tex").write_text("precious")
    (published / "broken.pt").write_bytes(b"not a file of torch")
    before = sorted(published.rglob("*"))
    assert run(line) == code
    printed = capsys.readouterr()
    assert said in " ".join(printed.err.split())
    assert printed.out == ""
    assert sorted(published.rglob("*")) == before
