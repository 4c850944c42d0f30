"""The training loop on a toy, through the real door: what it does how often, and that no crash changes anything."""

import functools
import json
import shutil
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import trainers.train
from jedi_env.checkpoint import Checkpoint
from jedi_env.errors import UsageError
from tests.trainers.fakes import ACTIONS, MICRO, TOY, ToyGame
from trainers.config import EvaluateConfig
from trainers.evaluate import score_checkpoint
from trainers.log import read
from trainers.optim import OptimConfig
from trainers.policy import AgentPolicy, RandomPolicy
from trainers.state import TrainState
from trainers.train import train

CPU = torch.device("cpu")
PHASES = ("collect", "fit_models", "imagine", "evaluate")
EPOCHS = 4  # 50 steps, then 20 and 20, then one without collection


class CrashError(Exception):
    """The power went out."""


def run(run_dir, config=MICRO, game=TOY, seed=0):
    return train(config, game, seed, run_dir, CPU)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    run(run_dir)
    return run_dir


def without_seconds(run_dir):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read(run_dir)]


def tensors(path):
    return {name: tensor.view(torch.uint8) if tensor.ndim else tensor for name, tensor in load_file(path).items()}


def facts(run_dir):
    return json.loads((run_dir / "state" / f"epoch-{EPOCHS:06d}" / "facts.json").read_text())["facts"]


def results(run_dir):
    """All that a run has come to, but for how long it took."""
    state = facts(run_dir)
    logged = len((run_dir / "metrics.jsonl").read_bytes())
    assert state.pop("log_size") == logged  # its length depends on how many digits the seconds have
    return {
        "log": without_seconds(run_dir),
        "facts": state,
        "scores": json.loads((run_dir / "scores.json").read_text()),
        "replay": [(run_dir / "replay" / name).read_bytes() for name in ("pixels.bin", "steps.bin")],
        "config": (run_dir / "config.json").read_bytes(),
    }


def assert_same_run(first, second):
    assert results(first) == results(second)
    pairs = [("state/epoch-000004/tensors.safetensors",) * 2]
    pairs += [(f"checkpoint/{name}.safetensors",) * 2 for name in ("model", "contexts", "agent", "decoder")]
    for name, _ in pairs:
        here, there = tensors(first / name), tensors(second / name)
        assert here.keys() == there.keys()
        different = [key for key in here if not torch.equal(here[key], there[key])]
        assert different == [], name


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_epoch_does_its_share(whole):
    """Worked out from the configuration by hand."""
    steps = {"collect": "real_steps", "imagine": "imagined_steps", "evaluate": "episodes"}
    lines = [line for line in read(whole) if line["phase"] != "health"]
    told = [(line["epoch"], line["phase"], line.get(steps.get(line["phase"]))) for line in lines]
    assert told == [
        (0, "collect", 50.0),
        (0, "fit_models", None),
        (0, "imagine", 2 * 4 * 5.0),
        (1, "collect", 70.0),
        (1, "fit_models", None),
        (1, "imagine", 5 * 4 * 5.0),
        (1, "evaluate", 2.0),
        (2, "collect", 90.0),
        (2, "fit_models", None),
        (2, "imagine", 8 * 4 * 5.0),
        (3, "fit_models", None),
        (3, "imagine", 11 * 4 * 5.0),
        (3, "evaluate", 3.0),
    ]
    saved = load_file(whole / "state" / "epoch-000004" / "tensors.safetensors")
    updates = {name: int(saved[f"{name}_optim/updates"]) for name in ("world_model", "agent", "decoder")}
    assert updates == {"world_model": 4 + 3 + 3 + 3, "agent": 2 + 3 + 3 + 3, "decoder": 7}


def test_the_log_knows_the_seconds_and_the_losses(whole):
    for line in read(whole):
        assert line["phase"] == "health" or line["seconds"] > 0
        if line["phase"] == "fit_models":
            assert {"loss_denoising", "loss_reward", "loss_end", "loss_decoder", "latent_std", "latent_rank"} <= set(
                line
            )
        if line["phase"] == "imagine":
            assert {"loss_actor", "loss_critic", "clipped", "entropy", "dream_reward", "dream_end"} <= set(line)


def test_the_learning_rates_have_fallen_when_the_run_ends(tmp_path, monkeypatch):
    falling = OptimConfig(warmup=0, lr_decay=True)
    world_model = replace(MICRO.fit_world_model, denoiser=falling, reward_end=falling)
    config = replace(MICRO, fit_world_model=world_model, fit_agent=replace(MICRO.fit_agent, optim=falling, passes=2))
    states = []
    save = TrainState.save
    monkeypatch.setattr(TrainState, "save", lambda state, *args: (states.append(state), save(state, *args))[1])
    run(tmp_path / "run", config)
    for optim in (states[-1].world_model_optim, states[-1].agent_optim):
        assert optim.planned == optim.updates > 1
        for group in optim._adam.param_groups:  # of the last update, which comes one before the end of the cosine
            assert group["lr"] < group["base_lr"] * 0.5


def test_scores_tell_where_they_come_from(whole):
    scores = json.loads((whole / "scores.json").read_text())
    assert [(s["epoch"], s["final"], s["episodes"], len(s["returns"])) for s in scores] == [
        (1, False, 2, 2),
        (3, True, 3, 3),
    ]
    final = scores[-1]
    assert (final["game"], final["seed"], final["real_steps"], final["imagined_steps"]) == (TOY, 0, 90, 220)
    assert final["mean"] == pytest.approx(np.mean(final["returns"]))
    assert {"commit", "machine", "versions", "config_hash"} <= set(final)


def test_it_leaves_a_dream_that_gymnasium_opens(whole):
    checkpoint = Checkpoint.load(whole / "checkpoint")
    assert (checkpoint.game, len(checkpoint.contexts), checkpoint.horizon) == (TOY, 6, None)
    assert (checkpoint.provenance["real_steps"], checkpoint.provenance["seed"]) == (90, 0)
    assert checkpoint.provenance["config"]["fit_agent"]["batch"] == 4
    assert checkpoint.metrics["scores"][0]["final"]
    env = gym.make("JEDIDream-v0", checkpoint=str(whole / "checkpoint"), frame_stack=2, device="cpu")
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.action_space == gym.spaces.Discrete(ACTIONS)
    for _ in range(3):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        if terminated or truncated:
            env.reset()
    env.close()


def test_the_agent_in_the_checkpoint_plays(whole):
    assert len(score_checkpoint(Checkpoint.load(whole / "checkpoint"), 2, 0).returns) == 2


def test_a_finished_run_is_left_alone(whole, monkeypatch):
    before = files(whole)
    for phase in PHASES:
        monkeypatch.setattr(trainers.train, phase, None)  # not to be called
    assert run(whole) == whole / "checkpoint"
    assert files(whole) == before


def test_another_seed_is_another_run(whole, tmp_path):
    run(tmp_path / "other", seed=1)
    first, other = results(whole), results(tmp_path / "other")
    assert first["replay"] != other["replay"]
    assert first["log"] != other["log"]


def crash_once(monkeypatch):
    """Let the run crash once in the middle of every phase, once after every phase, and in every save."""
    crashes = []

    def once(*place):
        if place not in crashes:
            crashes.append(place)
            raise CrashError

    def after(phase, config, state, *rest):
        metrics = phase(config, state, *rest)
        once("after", phase.__name__, state.epoch)
        return metrics

    for name in PHASES:
        phase = getattr(trainers.train, name)
        monkeypatch.setattr(trainers.train, name, functools.wraps(phase)(functools.partial(after, phase)))

    class Collector(trainers.train.Collector):
        def collect(self, steps, policy):
            for index, score in enumerate(super().collect(steps, policy)):
                if index == 11:
                    once("in", "collect", self.replay.length)
                yield score

    monkeypatch.setattr(trainers.train, "Collector", Collector)

    def half(verb, name):
        def fit(*arguments):
            for index, step in enumerate(verb(*arguments)):
                yield step
                if index == 1:
                    once("in", name, float(step["grad_norm_agent" if name == "fit_agent" else "grad_norm_encoder"]))

        return fit

    for name in ("fit_world_model", "fit_agent"):
        monkeypatch.setattr(trainers.train, name, half(getattr(trainers.train, name), name))

    play = trainers.train.score_policy

    def score_policy(game, policy, episodes, title, rules):
        score = play(game, policy, episodes, title, rules)
        once("in", "evaluate", title)
        return score

    monkeypatch.setattr(trainers.train, "score_policy", score_policy)

    save = TrainState.save

    def saved(state, *arguments):
        once("before save", state.epoch)
        save(state, *arguments)
        once("after save", state.epoch)

    monkeypatch.setattr(TrainState, "save", saved)

    class TornCheckpoint(Checkpoint):
        def save(self, path, *, half=False):
            once("before publishing")
            super().save(path, half=half)
            once("after publishing")

    monkeypatch.setattr(trainers.train, "Checkpoint", TornCheckpoint)
    return crashes


def test_a_run_that_crashed_everywhere_equals_one_that_never_did(whole, tmp_path, monkeypatch):
    crashes = crash_once(monkeypatch)
    for _ in range(100):
        try:
            run(tmp_path / "run")
            break
        except CrashError:
            continue
    kinds = [place[:2] for place in crashes]
    assert {place for place in crashes if place[0] == "after"} == {
        ("after", p, e) for p in PHASES for e in range(EPOCHS)
    }
    assert kinds.count(("in", "collect")) == 3
    assert kinds.count(("in", "fit_world_model")) == EPOCHS
    assert kinds.count(("in", "fit_agent")) == EPOCHS
    assert kinds.count(("in", "evaluate")) == 2
    assert len([place for place in crashes if "save" in place[0]]) == 2 * EPOCHS
    assert crashes[-2:] == [("before publishing",), ("after publishing",)]
    assert_same_run(tmp_path / "run", whole)


FEW = replace(
    MICRO,
    fit_world_model=replace(MICRO.fit_world_model, first_updates=0, updates=0),
    fit_agent=replace(MICRO.fit_agent, first_updates=0, updates=0),
    evaluate=EvaluateConfig(every=0, episodes=5, final_episodes=0),
    final_epochs=0,
)


def collecting(**changes):
    return replace(FEW, collect=replace(FEW.collect, **changes))


@pytest.mark.parametrize(
    ("config", "real_steps"),
    [
        (collecting(total_steps=90, first_steps=50), [50, 70, 90]),
        (collecting(total_steps=85, first_steps=50), [50, 70, 85]),
        (collecting(total_steps=50, first_steps=50), [50]),
        (collecting(total_steps=30, first_steps=50, first_steps_limit=99), [30]),
        (replace(collecting(total_steps=50, first_steps=50), final_epochs=2), [50]),
        # A thousand rewards do not come: on up to the limit, in steps of 20.
        (collecting(total_steps=150, first_steps=50, first_steps_limit=115, first_rewards=1000), [115, 135, 150]),
        (collecting(total_steps=100, first_steps=50, first_steps_limit=999, first_rewards=1000), [100]),
    ],
)
def test_how_much_is_really_played(tmp_path, config, real_steps):
    run(tmp_path / "run", config)
    lines = read(tmp_path / "run")
    assert [line["real_steps"] for line in lines if line["phase"] == "collect"] == real_steps
    # No updates of the agent, no evaluation.
    assert {line["phase"] for line in lines} == {"collect", "fit_models", "health"}
    assert not (tmp_path / "run" / "scores.json").exists()
    epochs = len(real_steps) + config.final_epochs
    assert len([line for line in lines if line["phase"] == "fit_models"]) == epochs


def test_the_first_play_is_random_and_the_rest_the_agents_with_exploration(tmp_path, monkeypatch):
    policies = []
    collect = trainers.train._collect
    monkeypatch.setattr(trainers.train, "_collect", lambda *a: (policies.append(a[2]), collect(*a))[1])
    run(tmp_path / "run", collecting(total_steps=80, first_steps=50))
    assert [type(policy) for policy in policies] == [RandomPolicy, AgentPolicy, AgentPolicy]
    assert [policy.epsilon for policy in policies[1:]] == [FEW.collect.epsilon] * 2


def test_the_agent_dreams_from_contexts_of_the_replay(tmp_path, monkeypatch):
    dreams = []
    fit = trainers.train.fit_agent

    def fit_agent(agent, optim, dream, *rest):
        dreams.append((dream, dream._beginnings.frames.clone()))
        return fit(agent, optim, dream, *rest)

    monkeypatch.setattr(trainers.train, "fit_agent", fit_agent)
    config = replace(
        FEW, fit_agent=replace(FEW.fit_agent, first_updates=1, contexts=9), collect=collecting(total_steps=50).collect
    )
    run(tmp_path / "run", config)
    ((dream, frames),) = dreams
    assert frames.shape == (9, 2, 2, 4, 4)
    pixels = np.fromfile(tmp_path / "run" / "replay" / "pixels.bin", np.uint8).reshape(-1, 64, 64, 3)
    with torch.no_grad():
        encoded = dream.model.encode(torch.from_numpy(pixels)).flatten(1)
    distances = (frames.flatten(0, 1).flatten(1)[:, None] - encoded).abs().amax(dim=2)
    assert distances.amin(dim=1).max() < 1e-5


def test_without_a_decoder_probe(tmp_path):
    config = replace(FEW, fit_world_model=replace(FEW.fit_world_model, decoder_every=0, first_updates=1))
    checkpoint = run(tmp_path / "run", replace(config, collect=collecting(total_steps=50).collect))
    assert not (checkpoint / "decoder.safetensors").exists()
    assert Checkpoint.load(checkpoint).world_model.decoder is None


def test_killed_between_its_last_state_and_the_deletion_of_the_old_ones_it_deletes_them_yet(whole, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(whole, copied)
    shutil.rmtree(copied / "checkpoint")
    oldest, newest = sorted((copied / "state").iterdir())
    shutil.copytree(oldest, oldest.with_name("epoch-000002"))
    run(copied)
    assert sorted((copied / "state").iterdir()) == [oldest, newest]


def test_a_checkpoint_that_was_lost_is_published_again(tmp_path):
    config = collecting(total_steps=50)
    run(tmp_path / "run", config)
    published = tensors(tmp_path / "run" / "checkpoint" / "contexts.safetensors")
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "elsewhere")
    logged = read(tmp_path / "run")
    assert run(tmp_path / "run", config) == tmp_path / "run" / "checkpoint"
    again = tensors(tmp_path / "run" / "checkpoint" / "contexts.safetensors")
    assert all(torch.equal(tensor, again[name]) for name, tensor in published.items())
    assert read(tmp_path / "run") == logged


class Endless(ToyGame):
    def __init__(self, render_mode=None):
        super().__init__()
        self.action_space = gym.spaces.Box(-np.inf, 1, (2,), np.float32)


class FromOne(ToyGame):
    def __init__(self, render_mode=None):
        super().__init__()
        self.action_space = gym.spaces.Discrete(3, start=1)


@pytest.fixture
def odd_games():
    gym.register("Endless-v0", Endless)
    gym.register("FromOne-v0", FromOne)
    yield
    for name in ("Endless-v0", "FromOne-v0"):
        del gym.registry[name]


@pytest.mark.parametrize(
    ("game", "seed", "message"),
    [
        ("Breakot", 0, "Did you mean 'Breakout'"),
        ("Endless-v0", 0, "without finite bounds: give it some with gymnasium.wrappers.RescaleAction"),
        ("FromOne-v0", 0, "takes Discrete actions from 0"),
        (TOY, -1, "seed is -1"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing_behind(tmp_path, odd_games, game, seed, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "run", game=game, seed=seed)
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused_and_the_run_goes_on(whole):
    before = files(whole)
    with pytest.raises(UsageError, match=r"final_epochs \(there 1, asked for 2\)"):
        run(whole, replace(MICRO, final_epochs=2))
    assert files(whole) == before
