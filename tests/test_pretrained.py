"""The dreams that come with the package: small, whole, measured, and found by their games' ids."""

import json
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import jedi_env
from jedi_env.checkpoint import Checkpoint
from jedi_env.find import find_checkpoint
from jedi_env.games import GAMES
from jedi_env.sb3 import make_real

PLACE = Path(jedi_env.__file__).parent / "pretrained"
FOLDERS = sorted(path for path in PLACE.iterdir() if path.is_dir())
every_dream = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_there_are_four():
    games = {folder.name for folder in FOLDERS}
    assert {"Assault", "Boxing", "Breakout", "Pong"} <= games <= set(GAMES)


@every_dream
def test_it_is_whole_small_and_says_where_it_comes_from(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 5_000_000
    dream = Checkpoint.load(folder)
    assert dream.game == folder.name
    assert dream.agent is not None
    assert dream.world_model.decoder is not None
    told = dream.provenance
    assert re.fullmatch(r"[0-9a-f]{40}", told["commit"]), "made from a commit, with nothing changed"
    for name in ("command", "seed", "real_steps", "imagined_steps", "machine", "versions"):
        assert told[name] is not None, name
    assert dream.horizon == dream.metrics["fidelity"]["recommended_horizon"]


@every_dream
def test_its_card_tells_what_its_files_say(folder):
    card, games = (
        (folder / "README.md").read_text(),
        json.loads((folder / "config.json").read_text())["metrics"]["real_games"],
    )
    assert (folder / "strip.png").exists()
    assert len(games["ppo"]) >= 3
    for score in (games["random"], games["native"], *games["ppo"]):
        assert score["episodes"] == len(score["returns"]) >= 30
        assert f"{np.mean(score['returns']):.2f} +- {np.std(score['returns']):.2f}" in card


@every_dream
def test_its_id_works_with_nothing_else_said(folder):
    env = gym.make_vec(f"JEDIDream-{folder.name}-v0", num_envs=3, device="cpu")
    assert env.reset(seed=0)[0].shape == (3, 64, 8, 8)
    for _ in range(3):
        observations, rewards, *_ = env.step(env.action_space.sample())
    assert np.isfinite(observations).all()
    assert np.isfinite(rewards).all()
    env.close()
    real = make_real(folder.name, n_envs=2, checkpoint=find_checkpoint(folder.name, None))
    assert real.observation_space == env.single_observation_space
    assert real.action_space == env.single_action_space
    real.close()


@every_dream
def test_the_checker_passes_it(folder):
    """Latents press against their bound in a trained dream: not one goes beyond."""
    env = gym.make_vec(f"JEDIDream-{folder.name}-v0", num_envs=16, device="cpu", horizon=20)
    assert jedi_env.check_vector_env(env, steps=60).autoreset


@every_dream
def test_it_can_be_looked_at(folder):
    env = gym.make(f"JEDIDream-{folder.name}-v0", device="cpu", obs_type="rgb", render_mode="rgb_array")
    pixels, _ = env.reset(seed=0)
    assert pixels.std() > 10, "not an empty picture"
    env.step(env.action_space.sample())
    assert env.render().shape[-1] == 3
    env.close()
