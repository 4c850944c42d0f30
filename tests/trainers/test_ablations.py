"""The paper's ablations in the training loop: what must happen at every update, survive a crash, and be refused."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from jedi_env.checkpoint import Checkpoint
from jedi_env.errors import UsageError
from tests.trainers.fakes import ACTIONS, MICRO, MICRO_MODEL, TOY
from tests.trainers.test_fit_world_model import Fitting, replay, same
from trainers.log import read
from trainers.presets import PAPER, STOCHASTIC
from trainers.sources import flat
from trainers.state import open_run
from trainers.train import train

__all__ = ["replay"]  # the fixture
CPU = torch.device("cpu")
SETTINGS = replace(MICRO.fit_world_model, decoder_every=3)
ABLATIONS = {
    "mean squared error": {"denoiser": replace(MICRO_MODEL.denoiser, diffusion=False)},
    "no diffusion gradient": {"encoder_learns_from_denoising": False},
    "reconstruction gradient": {"encoder_learns_from_reconstruction": True},
    "separate autoencoder": {"separate_autoencoder": True},
    "target encoder": {"target_ema": 0.9},
    "fixed switching": {"switching": 1.0},
    "no switching": {"switching": 0.0},
    "no clamp": {"encoder": replace(MICRO_MODEL.encoder, clamp=False)},
    "churned sampler": {"sampler": replace(MICRO_MODEL.sampler, churn=1.0)},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_runs_through_the_whole_loop_and_is_published(tmp_path, name):
    config = replace(MICRO, world_model=replace(MICRO_MODEL, **ABLATIONS[name]))
    checkpoint = Checkpoint.load(train(config, TOY, 0, tmp_path / "run", CPU))
    assert checkpoint.world_model.config == config.world_model
    losses = [line["loss_denoising"] for line in read(tmp_path / "run") if "loss_denoising" in line]
    assert len(losses) == 4
    assert np.isfinite(losses).all()


def test_the_target_encoder_follows_every_update_and_is_no_parameter_of_the_optimiser(replay):
    fitting = Fitting(replay, SETTINGS, replace(MICRO_MODEL, target_ema=0.5))
    start = fitting.snapshot(fitting.model.target_encoder)
    expected = {name: value for name, value in start.items() if name.startswith("layers")}
    for seed in range(3):
        fitting.fit(1, seed)
        now = fitting.snapshot(fitting.model.encoder)
        expected = {name: 0.5 * value + 0.5 * now[name] for name, value in expected.items()}
    got = fitting.snapshot(fitting.model.target_encoder)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)
    assert not same(start, got)
    owned = {id(p) for group in fitting.optim._adam.param_groups for p in group["params"]}
    assert not owned & {id(p) for p in fitting.model.target_encoder.parameters()}


def test_the_target_encoder_survives_a_crash(tmp_path):
    config = replace(MICRO, world_model=replace(MICRO_MODEL, target_ema=0.5))
    published = Checkpoint.load(train(config, TOY, 0, tmp_path / "run", CPU)).world_model
    state = open_run(tmp_path / "run", config, TOY, 0, ACTIONS, CPU)
    again = state.world_model.target_encoder.state_dict()
    state.close()
    assert same(again, published.target_encoder.state_dict())
    assert not same(again, published.encoder.state_dict())


def test_a_decoder_that_teaches_learns_at_every_update(replay):
    for config, every in (
        (MICRO_MODEL, [True, False, False, True]),
        (replace(MICRO_MODEL, separate_autoencoder=True), [True] * 4),
    ):
        fitting = Fitting(replay, SETTINGS, config, decoder=True)
        fitting.model.attach_decoder(fitting.decoder)
        assert ["loss_decoder" in step for step in fitting.fit(4)] == every


def test_a_separate_autoencoder_is_not_moved_by_what_the_dream_learns(replay):
    """Whatever the rewards: with one loss off the encoder's way, other weights in the dream change nothing of it."""
    encoders = []
    for factor in (1.0, 5.0):
        fitting = Fitting(replay, SETTINGS, replace(MICRO_MODEL, separate_autoencoder=True), decoder=True)
        fitting.model.attach_decoder(fitting.decoder)
        before = fitting.snapshot(fitting.model.encoder)
        with torch.no_grad():
            for part in (fitting.model.denoiser, fitting.model.reward_end):
                for parameter in part.parameters():
                    parameter.mul_(factor)
        fitting.fit(3)
        encoders.append(fitting.snapshot(fitting.model.encoder))
    assert same(*encoders)
    assert not same(before, encoders[0])


@pytest.mark.parametrize("flag", ["encoder_learns_from_reconstruction", "separate_autoencoder"])
def test_reconstruction_without_a_decoder_is_refused_at_once(flag):
    with pytest.raises(UsageError, match=r"--fit-world-model\.decoder-every 1"):
        replace(
            MICRO,
            world_model=replace(MICRO_MODEL, **{flag: True}),
            fit_world_model=replace(MICRO.fit_world_model, decoder_every=0),
        )


def test_the_stochastic_preset_differs_in_the_frame_skip_and_the_churn_alone():
    paper, stochastic = flat(PAPER), flat(STOCHASTIC)
    assert {path: value for path, value in stochastic.items() if value != paper[path]} == {
        "frame_skip": [2, 6],
        "world_model.sampler.churn": 1.0,
    }


def test_a_stochastic_run_plays_trains_scores_and_publishes_under_its_frame_skip(tmp_path):
    config = replace(
        MICRO,
        frame_skip=(2, 6),
        collect=replace(MICRO.collect, total_steps=60, first_steps=60, first_steps_limit=60),
        evaluate=replace(MICRO.evaluate, every=0, episodes=0, final_episodes=1),
        final_epochs=0,
    )
    folder = train(config, "Breakout", 0, tmp_path / "run", CPU)
    (score,) = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert score["protocol"]["frame_skip"] == [2, 6]
    assert Checkpoint.load(folder).protocol["frame_skip"] == [2, 6]


def test_every_ablation_is_off_by_default():
    default = {field.name: getattr(PAPER.world_model, field.name) for field in fields(PAPER.world_model)}
    for name, changed in ABLATIONS.items():
        assert all(default[key] != value for key, value in changed.items()), name
    assert PAPER.world_model.denoiser.diffusion
    assert PAPER.world_model.encoder.clamp
    assert PAPER.world_model.sampler.churn == 0
