"""The presets: the sizes that the papers state, and one real update of everything in each."""

from dataclasses import replace

import pytest
import torch

import trainers.train
from jedi_env.checkpoint import Checkpoint
from jedi_env.models.encoder import PixelEncoder
from jedi_env.models.world_model import WorldModel
from tests.trainers.fakes import TOY
from trainers.agent import ActorCritic
from trainers.config import EvaluateConfig
from trainers.log import read
from trainers.presets import DIAMOND, PAPER, PRESETS, TINY

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
    assert sum(parts.values()) == pytest.approx(13.5e6, rel=0.02)
    assert parts["encoder"] == 34_048
    assert parts["denoiser"] == 4_334_192
    assert parts["reward_end"] == 5_882_400
    assert parts["agent"] == pytest.approx(3.241e6, rel=0.001)


def test_diamonds_agent_has_the_size_of_its_published_weights():
    assert sizes(DIAMOND)["agent"] == 3_236_819


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
        assert not agent.normalise_advantages
        assert (agent.optim.weight_decay, config.agent.lstm_dim, config.agent.frame_stack) == (0, 512, 1)
        assert (collect.total_steps, collect.first_steps, collect.steps, collect.epsilon) == (100_000, 5_000, 100, 0.01)
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
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("paper", "diamond") else ()) for name in PRESETS]
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
