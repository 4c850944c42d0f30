"""Shipping: what is given away is small, whole, and says of itself only what was measured on these very files."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jedi_env.checkpoint import Checkpoint
from jedi_env.errors import RunError, UsageError
from jedi_env.metrics import HUMAN_SCORES
from tests.tiny_dream import BOX, SYMLOG, tiny_checkpoint
from tests.trainers.fakes import MICRO
from trainers.config import EvaluateConfig
from trainers.evaluate import Score
from trainers.fidelity import FidelityConfig
from trainers.replay import FollowedReplay, rows_in
from trainers.ship import (
    CARD,
    LARGEST,
    STRIP,
    ShipConfig,
    above,
    card,
    measure,
    play_real_games,
    ship,
    starting_points,
)
from trainers.train import train

FIRST = 60  # random steps
TRAINING = replace(
    MICRO,
    world_model=replace(MICRO.world_model, context_length=4),
    collect=replace(MICRO.collect, total_steps=120, first_steps=FIRST, first_steps_limit=0, first_rewards=0, steps=60),
    evaluate=EvaluateConfig(every=0, episodes=0, final_episodes=0),
    final_epochs=0,
)
CONFIG = ShipConfig(
    contexts=6,
    seeds=2,
    steps=64 * 32,
    horizon=5,
    episodes=2,
    fidelity=FidelityConfig(horizon=5, segments=4, steps=400, probe_steps=400),
)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ship")
    train(TRAINING, "Breakout", 3, folder / "run", torch.device("cpu"))
    return folder / "run", folder / "Breakout", ship(folder / "run", folder / "Breakout", CONFIG)


def test_what_is_shipped_is_a_smaller_copy_of_the_runs_dream(shipped):
    run, out, checkpoint = shipped
    whole = Checkpoint.load(run / "checkpoint")
    assert len(checkpoint.contexts) == 6
    for name, value in whole.world_model.state_dict().items():
        torch.testing.assert_close(checkpoint.world_model.state_dict()[name], value, rtol=2e-3, atol=1e-4)
    assert checkpoint.agent is not None
    assert checkpoint.world_model.decoder is not None
    assert (out / "model.safetensors").stat().st_size < 0.6 * (run / "checkpoint" / "model.safetensors").stat().st_size
    assert checkpoint.provenance == whole.provenance


def test_starting_points_are_of_random_play(shipped):
    run, _, checkpoint = shipped
    replay = FollowedReplay(run / "replay", checkpoint.world_model.actions)
    replay.follow(FIRST)
    whole = Checkpoint.load(run / "checkpoint")
    with torch.no_grad():
        played = whole.world_model.encode(torch.from_numpy(np.array(replay.pixels)))
    newest = checkpoint.contexts.frames[:, -1]
    nearest = (newest[:, None] - played[None]).flatten(2).abs().amax(2).amin(1)
    assert (nearest < 4e-3).all()  # float16


@pytest.mark.parametrize("name", ["pixels.bin", "steps.bin"])
@pytest.mark.parametrize("cut", [True, False], ids=["short", "missing"])
def test_without_that_play_nothing_is_shipped(shipped, tmp_path, name, cut):
    run = shutil.copytree(shipped[0], tmp_path / "run")
    path = run / "replay" / name
    if cut:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 3)
    else:
        path.unlink()
    with pytest.raises(RunError, match=f"lacks the {FIRST} first steps"):
        ship(run, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_everything_is_measured_and_stored(shipped):
    _, _, checkpoint = shipped
    games = checkpoint.metrics["real_games"]
    assert [run["seed"] for run in games["ppo"]] == [0, 1]
    for played in (games["random"], games["native"], *games["ppo"]):
        assert len(played["returns"]) == 2
        assert played["mean"] == pytest.approx(np.mean(played["returns"]))
    assert checkpoint.metrics["fidelity"]["setup"]["segments"] == 4
    assert checkpoint.horizon == checkpoint.metrics["fidelity"]["recommended_horizon"]
    assert json.loads(json.dumps(checkpoint.metrics)) == checkpoint.metrics


def test_all_are_scored_under_the_frame_skip_of_the_dream(shipped):
    checkpoint = replace(shipped[2], protocol={**shipped[2].protocol, "frame_skip": [30, 50], "sticky": 0.25})
    games = play_real_games(checkpoint, replace(CONFIG, seeds=1))
    for played in (games["random"], games["native"], *games["ppo"]):
        assert played["protocol"]["frame_skip"] == (30, 50)
        assert played["protocol"]["sticky"] == 0.25


def test_the_card_tells_what_the_checkpoint_says(shipped):
    _, out, checkpoint = shipped
    text = (out / CARD).read_text()
    games = checkpoint.metrics["real_games"]
    for played in (games["random"], games["native"], *games["ppo"]):
        assert f"| {played['mean']:.2f} +- {played['std']:.2f} | 2 |" in text
    assert f"| human (published) | {HUMAN_SCORES['Breakout']} |" in text
    assert 'gym.make_vec("JEDIDream-Breakout-v0"' in text
    assert str(checkpoint.provenance["commit"]) in text
    for horizon in (0, 1, 5):
        assert f"| {horizon} " in text
    assert (out / "strip.png").is_file()


def test_the_difference_has_welchs_standard_error():
    one, other = Score("g", (1.0, 2.0, 3.0, 6.0)), Score("g", (0.0, 1.0))
    told = above(one, other)
    assert told["mean"] == 2.5
    squared = np.var([1, 2, 3, 6], ddof=1) / 4 + np.var([0, 1], ddof=1) / 2
    assert told["high"] - told["mean"] == pytest.approx(1.96 * squared**0.5)
    assert told["mean"] - told["low"] == pytest.approx(told["high"] - told["mean"])


def test_what_is_too_large_is_refused_before_anything_is_written(shipped, tmp_path, monkeypatch):
    run, _, _ = shipped
    monkeypatch.setattr("trainers.ship.LARGEST", 1000)
    with pytest.raises(UsageError, match="more than 1,000: write fewer --contexts"):
        ship(run, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()
    assert LARGEST == 5_000_000


def test_random_play_takes_actions_of_the_dreams_kind(monkeypatch):
    class EnoughError(Exception):
        """What comes after it is not of interest."""

    def scored(game, policy, *_):
        assert policy.act(np.zeros((2, 64, 64, 3), np.uint8), np.ones(2, bool)).shape == (2, 3)
        raise EnoughError

    monkeypatch.setattr("trainers.ship.score_policy", scored)
    with pytest.raises(EnoughError):
        play_real_games(tiny_checkpoint(SYMLOG, actions=BOX, game="Toy-v0"), CONFIG)


def test_a_dream_of_no_game_is_refused(tmp_path, monkeypatch):
    nameless = SimpleNamespace(game=None, agent=None)
    monkeypatch.setattr("trainers.ship.Checkpoint", SimpleNamespace(load=lambda path: nameless))
    with pytest.raises(UsageError, match="no dream of a real game"):
        ship(tmp_path, tmp_path / "out", CONFIG)
    with pytest.raises(UsageError, match="no dream of a real game"):
        measure(tmp_path / "out", CONFIG)


def test_what_was_shipped_can_be_measured_again_in_dreams_of_another_length(shipped, tmp_path):
    out = shutil.copytree(shipped[1], tmp_path / "again")
    again = measure(out, replace(CONFIG, seeds=1, horizon=7))
    (run,) = again.metrics["real_games"]["ppo"]
    assert run["horizon"] == 7
    assert f"{run['dream_steps']:,} steps in dreams of 7, seed 0" in (out / CARD).read_text()
    assert "in dreams of 5, seed 0" in (shipped[1] / CARD).read_text()
    for name in ("model.safetensors", "agent.safetensors", "contexts.safetensors"):
        assert (out / name).read_bytes() == (shipped[1] / name).read_bytes()


def test_a_dream_that_takes_anothers_place_is_never_under_its_card(shipped, tmp_path, monkeypatch):
    run, before, _ = shipped
    out = shutil.copytree(before, tmp_path / "out")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainers.ship.fidelity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ship(run, out, replace(CONFIG, contexts=5))
    assert len(Checkpoint.load(out).contexts) == 5
    assert not (out / CARD).exists()
    assert not (out / STRIP).exists()


def test_a_run_shorter_than_its_first_play_can_be_shipped(shipped):
    run, whole = shipped[0], Checkpoint.load(shipped[0] / "checkpoint")
    rows = rows_in(run / "replay", whole.world_model.actions)

    def of(total_steps):
        told = json.loads(json.dumps(whole.provenance))
        told["config"]["collect"] |= {"first_steps": rows + 50, "total_steps": total_steps}
        return replace(whole, provenance=told)

    assert len(starting_points(run, of(rows), 3).frames) == 3
    with pytest.raises(RunError, match=f"lacks the {rows + 1} first steps"):
        starting_points(run, of(rows + 1), 3)


def test_a_card_says_that_no_dream_ended(shipped):
    checkpoint = shipped[2]
    games = checkpoint.metrics["real_games"]
    endless = {**games, "ppo": [{**run, "dream_return": None} for run in games["ppo"]]}
    text = card(replace(checkpoint, metrics={**checkpoint.metrics, "real_games": endless}))
    assert "PPO's return of a dream episode at the end, seed 0: none ended." in text


def test_one_game_has_no_deviation():
    with pytest.raises(UsageError, match="episodes is 1: write at least 2"):
        ShipConfig(episodes=1)


@pytest.mark.parametrize("name", ["contexts", "seeds", "steps", "horizon", "episodes"])
def test_nothing_can_be_asked_for_less_than_once(name):
    with pytest.raises(UsageError, match=f"{name} is 0"):
        ShipConfig(**{name: 0})
