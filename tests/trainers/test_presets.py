"""The presets: the sizes that the papers state, and one real update of everything in each."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import jedi_env.diamond
import trainers.train
from jedi_env.checkpoint import Checkpoint
from jedi_env.models.encoder import PixelEncoder
from jedi_env.models.world_model import WorldModel
from tests.trainers.fakes import TOY
from trainers.agent import ActorCritic
from trainers.cli import main
from trainers.config import EvaluateConfig, epochs
from trainers.fit_world_model import make_optim
from trainers.log import read
from trainers.optim import Optim
from trainers.presets import DIAMOND, PAPER, PRESETS, STOCHASTIC, TINY
from trainers.provenance import config_hash
from trainers.sources import flat
from trainers.state import open_run

ALL_ACTIONS = 18


def sizes(config, num_actions=ALL_ACTIONS):
    """Parameters of each part, built without memory."""
    with torch.device("meta"):
        model = WorldModel(num_actions, config.world_model)
        agent = ActorCritic(model.frame_shape, num_actions, config.agent)
    parts = {**dict(model.named_children()), "agent": agent}
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}


def test_the_papers_model_has_the_papers_size():
    """13.5M parameters in all (arXiv 2605.13013), of which the denoiser has 4.33M."""
    parts = sizes(PAPER)
    assert sum(parts.values()) == pytest.approx(13.5e6, rel=0.001)
    assert parts == {"encoder": 34_048, "denoiser": 4_334_192, "reward_end": 5_882_400, "agent": 3_240_563}
    assert sizes(STOCHASTIC) == parts


def test_diamonds_networks_have_the_size_of_its_public_code():
    parts = {"encoder": 0, "denoiser": 4_406_851, "reward_end": 5_902_656, "agent": 3_236_819}
    assert sizes(DIAMOND) == parts
    assert PRESETS["diamond"].world_model == jedi_env.diamond.WORLD_MODEL  # what load_diamond builds


@pytest.mark.parametrize("batch", [32, 64])
def test_both_batch_sizes_of_the_paper_are_two_flags(batch, monkeypatch, tmp_path):
    """What the command line hands to the trainer: it is built, and nothing but the batches differs from the preset."""
    given = []
    monkeypatch.setattr("trainers.train.train", lambda config, *rest: given.append(config) or tmp_path)
    line = f"train Breakout --preset paper --fit-world-model.batch {batch} --fit-agent.batch {batch} --device cpu"
    main(line.split())
    (config,) = given
    values, paper = flat(config), flat(PAPER)
    batches = {"fit_world_model.batch", "fit_agent.batch"}
    assert {path for path in values if values[path] != paper[path]} == (batches if batch == 64 else set())
    assert [values[path] for path in batches] == [batch] * 2
    state = open_run(tmp_path / "run", config, "Breakout", 0, 4, torch.device("cpu"))
    state.close()
    assert sum(p.numel() for p in state.world_model.parameters()) > 10e6


def test_the_budgets_of_algorithm_1():
    for config in (PAPER, STOCHASTIC, DIAMOND):
        collect, fit, agent = config.collect, config.fit_world_model, config.fit_agent
        number = epochs(config, collect.first_steps)
        assert number == 1000
        with_play = 1 + (collect.total_steps - collect.first_steps) // collect.steps
        assert (collect.total_steps - collect.first_steps) % collect.steps == 0
        assert number - with_play == config.final_epochs == 50
        assert (fit.first_updates, fit.updates) == (10_000, 400)
        assert (agent.first_updates, agent.updates) == (5_000, 400)
        late = epochs(config, collect.first_steps_limit)  # rewards were rare
        assert late == 950


def test_the_warm_up_clipping_and_decay_groups_of_the_paper():
    """On the real networks: which parameter is in which group of the optimiser."""
    with torch.device("meta"):
        model = WorldModel(ALL_ACTIONS, PAPER.world_model)
        agent = ActorCritic(model.frame_shape, ALL_ACTIONS, PAPER.agent)
    optims = [make_optim(model, PAPER.fit_world_model), Optim({"agent": (agent, PAPER.fit_agent.optim)})]
    groups = [group for optim in optims for group in optim._adam.param_groups]
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    rate = {id(p): group["base_lr"] for group in groups for p in group["params"]}
    assert all((group["warmup"], group["eps"]) == (100, 1e-8) for group in groups)
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or "embedding" in name
        assert decay[id(parameter)] == (0.0 if plain else 0.01), name
        assert rate[id(parameter)] == pytest.approx(0.3e-4 if name.startswith("encoder") else 1e-4), name
    assert {decay[id(p)] for p in agent.parameters()} == {0.0}
    assert {rate[id(p)] for p in agent.parameters()} == {1e-4}


def test_the_two_papers_differ_in_the_frame_they_imagine():
    shapes = {}
    for name, config in (("paper", PAPER), ("diamond", DIAMOND)):
        with torch.device("meta"):
            model = WorldModel(ALL_ACTIONS, config.world_model)
        shapes[name] = model.frame_shape, isinstance(model.encoder, PixelEncoder)
    assert shapes == {"paper": ((16, 8, 8), False), "diamond": ((3, 64, 64), True)}


def test_what_the_papers_say_of_their_training():
    for config in (PAPER, DIAMOND):
        fit, agent, collect = config.fit_world_model, config.fit_agent, config.collect
        assert config.world_model.context_length == 4
        assert config.world_model.sampler.steps == 3
        assert (fit.encoder_lr_factor, fit.denoiser.lr, fit.denoiser.warmup) == (0.3, 1e-4, 100)
        assert (fit.denoiser.max_grad_norm, fit.reward_end.max_grad_norm, agent.optim.max_grad_norm) == (1, 100, 100)
        assert (fit.batch, fit.sampling.age_weights, fit.sampling.event_fraction) == (32, (0.1, 0.1, 0.1, 0.7), 0)
        assert (agent.horizon, agent.gamma, agent.lambda_, agent.entropy_weight) == (15, 0.985, 0.95, 0.001)
        assert (agent.normalise_advantages, agent.passes) == (False, 1)
        assert (agent.optim.weight_decay, config.agent.lstm_dim, config.agent.frame_stack) == (0, 512, 1)
        assert (collect.total_steps, collect.first_steps, collect.steps, collect.epsilon) == (100_000, 5_100, 100, 0.01)
        assert (fit.denoising_steps, fit.reward_end_length) == (2, 18)  # 6 frames; 19 frames
        assert (config.final_epochs, config.evaluate.final_episodes, fit.freeze_encoder_after) == (50, 100, 0)
    assert (PAPER.world_model.switching, DIAMOND.world_model.switching) == (0.5, 1.0)
    assert PAPER.world_model.encoder_learns_from_denoising
    assert PAPER.world_model.covariance_weight == 0


def test_the_tiny_model_is_tiny():
    assert sum(sizes(TINY).values()) < 3e6


def shrunk(config):
    """One update of everything, on two segments."""
    return replace(
        config,
        collect=replace(config.collect, total_steps=40, first_steps=40, first_steps_limit=40, first_rewards=0),
        fit_world_model=replace(config.fit_world_model, first_updates=1, updates=1, batch=2),
        fit_agent=replace(config.fit_agent, first_updates=1, updates=1, batch=2, horizon=3, contexts=4),
        evaluate=EvaluateConfig(every=0, episodes=0, final_episodes=0),
        final_epochs=0,
        bank=4,
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("paper", "diamond", "gpu") else ())
        for name in PRESETS
        if name != "stochastic"  # of real Atari alone; but for that it is the paper's
    ],
)
def test_every_preset_takes_one_update_of_everything_and_is_published(name, tmp_path, monkeypatch):
    before = {}
    open_run = trainers.train.open_run

    def opened(*arguments):
        state = open_run(*arguments)
        for part in (state.world_model.encoder, state.world_model.denoiser, state.world_model.reward_end, state.agent):
            before[part] = [parameter.detach().clone() for parameter in part.parameters()]
        return state

    monkeypatch.setattr(trainers.train, "open_run", opened)
    checkpoint = trainers.train.train(shrunk(PRESETS[name]), TOY, 0, tmp_path / "run", torch.device("cpu"))
    for part, parameters in before.items():
        moved = [not torch.equal(a, b) for a, b in zip(part.parameters(), parameters, strict=True)]
        assert any(moved) == bool(parameters), type(part)
    losses = {key: value for line in read(tmp_path / "run") for key, value in line.items() if key.startswith("loss_")}
    assert all(abs(value) < 100 for value in losses.values())
    assert len(losses) == (5 if name == "diamond" else 6)
    assert len(Checkpoint.load(checkpoint).contexts) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "stochastic", "diamond"])
def test_three_real_epochs_of_the_papers_on_breakout(name, tmp_path, monkeypatch):
    """The preset with shrunken counts: at random, with the agent, and without playing; every part moves in each."""
    config = PRESETS[name]
    config = replace(
        config,
        collect=replace(config.collect, total_steps=60, first_steps=40, first_steps_limit=40, steps=20),
        fit_world_model=replace(config.fit_world_model, first_updates=2, updates=1, batch=2, reward_end_length=6),
        fit_agent=replace(config.fit_agent, first_updates=2, updates=1, batch=2, horizon=2, contexts=4),
        evaluate=EvaluateConfig(every=2, episodes=1, final_episodes=2),
        final_epochs=1,
        bank=4,
    )
    weights = []
    for phase in ("collect", "evaluate"):
        original = getattr(trainers.train, phase)

        def seen(config, state, *rest, original=original, phase=phase):
            if phase == "evaluate" or not weights:
                parts = {**dict(state.world_model.named_children()), "agent": state.agent}
                weights.append({key: [p.detach().clone() for p in part.parameters()] for key, part in parts.items()})
            return original(config, state, *rest)

        seen.__name__ = phase
        monkeypatch.setattr(trainers.train, phase, seen)
    folder = trainers.train.train(config, "Breakout", 0, tmp_path / "run", torch.device("cpu"))

    assert len(weights) == 4
    for before, after in pairwise(weights):
        for part, parameters in before.items():
            moved = [not torch.equal(a, b) for a, b in zip(parameters, after[part], strict=True)]
            assert any(moved) == bool(parameters), part
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} >= {"config.json", "metrics.jsonl", "scores.json", "replay", "state"}
    lines = read(run)
    assert [line["real_steps"] for line in lines if "real_steps" in line] == [40, 60]
    assert {line["epoch"] for line in lines} == {0, 1, 2}
    assert all(math.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))
    scores = json.loads((run / "scores.json").read_text())
    assert [(s["epoch"], s["episodes"], len(s["returns"]), s["final"]) for s in scores] == [
        (1, 1, 1, False),
        (2, 2, 2, True),
    ]
    for score in scores:
        assert (score["game"], score["seed"], score["real_steps"]) == ("Breakout", 0, 60)
        assert score["config_hash"] == config_hash(config)
        assert score["protocol"]["frame_skip"] == ([2, 6] if name == "stochastic" else 4)
    published = Checkpoint.load(folder)
    assert (published.game, len(published.contexts), published.agent is not None) == ("Breakout", 4, True)
