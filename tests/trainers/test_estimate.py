"""The estimate counts what a run would do and times what it times; the times themselves are the machine's."""

import itertools
from dataclasses import replace

import gymnasium as gym
import pytest
import torch

import trainers.estimate
from jedi_env.errors import UsageError
from jedi_env.models.world_model import WorldModel
from tests.trainers.fakes import MICRO, TOY, ToyGame
from trainers.estimate import Cost, Estimate, estimate
from trainers.fit_world_model import fit_world_model
from trainers.log import read
from trainers.train import train

CPU = torch.device("cpu")


def quietly(what):
    return None


def test_it_counts_what_a_run_then_does(tmp_path):
    costs = {cost.name: cost.times for cost in estimate(MICRO, TOY, CPU, quietly).costs}
    train(MICRO, TOY, 0, tmp_path / "run", CPU)
    lines = read(tmp_path / "run")
    assert costs["real step"] == max(line["real_steps"] for line in lines if "real_steps" in line)
    imagined = max(line["imagined_steps"] for line in lines if "imagined_steps" in line)
    assert costs["imagined step of 4 dreams"] * 4 == imagined
    fitted = sum("loss_denoising" in line for line in lines)
    assert costs["world-model update"] == 4 + 3 * (fitted - 1)
    assert costs["agent update without them"] == 2 + 3 * (fitted - 1)


def test_what_takes_too_long_is_measured_in_pieces(monkeypatch):
    """A clock by which every step takes a second: small updates stand for whole ones, in proportion to their size."""
    clock = itertools.count()
    monkeypatch.setattr(trainers.estimate.time, "perf_counter", lambda: float(next(clock)))
    large = replace(
        MICRO,
        fit_world_model=replace(MICRO.fit_world_model, batch=32),
        fit_agent=replace(MICRO.fit_agent, batch=8, horizon=15),
    )
    costs = {cost.name: cost for cost in estimate(large, TOY, CPU, quietly).costs}
    assert (costs["real step"].seconds, costs["real step"].scaled) == (1.0, 1.0)
    assert (costs["world-model update"].seconds, costs["world-model update"].scaled) == (8.0, 8.0)
    assert (costs["imagined step of 8 dreams"].seconds, costs["imagined step of 8 dreams"].scaled) == (2.0, 2.0)
    assert costs["agent update without them"].seconds == max(0.0, 2 * 15 / 5 - 15 * 2.0)


def test_a_piece_leaves_the_encoder_learning_for_the_whole(monkeypatch):
    learns = []

    def spied(world_model, optim, *arguments):
        learns.append((optim.updates, all(weight.requires_grad for weight in world_model.encoder.parameters())))
        return fit_world_model(world_model, optim, *arguments)

    monkeypatch.setattr(trainers.estimate, "fit_world_model", spied)
    freezing = replace(
        MICRO,
        world_model=replace(MICRO.world_model, switching=1.0),
        fit_world_model=replace(MICRO.fit_world_model, freeze_encoder_after=3, batch=16, decoder_every=0),
    )
    estimate(freezing, TOY, CPU, quietly)
    assert learns == [(0, True), (3, True), (0, True), (3, True)]


def test_every_kind_of_update_is_timed_by_how_often_it_comes(monkeypatch):
    """A clock that is moved by what an update does: 1 second, 2 to feed estimates back, 10 to dream, 20 to decode."""
    now = [0.0]
    monkeypatch.setattr(trainers.estimate.time, "perf_counter", lambda: now[0])

    def spied(world_model, optim, replay, config, *arguments):
        for logged in fit_world_model(world_model, optim, replay, config, *arguments):
            dreamed = config.reward_end_switching if optim.updates > 9 else 0
            now[0] += 1 + 2 * world_model.config.switching + 10 * dreamed + 20 * ("loss_decoder" in logged)
            yield logged

    monkeypatch.setattr(trainers.estimate, "fit_world_model", spied)
    fitting = replace(MICRO.fit_world_model, freeze_encoder_after=9, reward_end_switching=0.125, decoder_every=8)
    mixed = replace(MICRO, world_model=replace(MICRO.world_model, switching=0.25), fit_world_model=fitting)
    costs = {cost.name: cost.seconds for cost in estimate(mixed, TOY, CPU, quietly).costs}
    assert costs["world-model update"] == pytest.approx(1 + 2 / 4 + 20 / 8)
    assert costs["world-model update, encoder frozen"] == pytest.approx(1 + 2 / 4 + 10 / 8 + 20 / 8)
    teaching = replace(mixed, world_model=replace(mixed.world_model, encoder_learns_from_reconstruction=True))
    costs = {cost.name: cost.seconds for cost in estimate(teaching, TOY, CPU, quietly).costs}
    assert costs["world-model update"] == pytest.approx(1 + 2 / 4 + 20)


@pytest.mark.parametrize("switching", [0.0, 0.5])
def test_an_update_that_might_have_dreamed_reads_segments_of_its_own_too(monkeypatch, switching):
    lengths, loss = set(), WorldModel.loss

    def spied(model, frames, segment, generator, sequence, share):
        if not model.encoder.training:
            lengths.add(sequence[1].actions.shape[1])
        return loss(model, frames, segment, generator, sequence, share)

    monkeypatch.setattr(WorldModel, "loss", spied)
    fitting = replace(MICRO.fit_world_model, freeze_encoder_after=1, reward_end_length=0, dreamed_steps=4)
    config = replace(MICRO, fit_world_model=replace(fitting, reward_end_switching=switching))
    estimate(config, TOY, CPU, quietly)
    assert lengths == {2 - 1 + (4 if switching else fitting.denoising_steps)}  # after a context of 2


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ([5, 1, 0.5, 2, 9], 1.5),  # the first warms up; after ten seconds it is enough
        ([5, 1, 2], 1.5),  # there were no more
        ([50, 1], 50.0),  # no time for another
        ([9], 9.0),
    ],
)
def test_the_median_leaves_out_the_warm_up_and_has_little_patience(monkeypatch, waits, expected):
    now = [0.0]
    monkeypatch.setattr(trainers.estimate.time, "perf_counter", lambda: now[0])

    def steps():
        for wait in waits:
            now[0] += wait
            yield None

    assert trainers.estimate._median(steps(), 10) == expected


def test_hours_are_added_up():
    told = Estimate("here", {"encoder": 3}, 2, (Cost("a", 1.8, 1000), Cost("b", 3600.0, 2, 4.0))).to_json()
    assert told["hours"] == pytest.approx(2.5)
    assert told["measured"]["b"] == {"seconds": 3600.0, "times": 2, "scaled": 4.0}


class Buttons(ToyGame):
    """The toy, with several buttons at once."""

    def __init__(self, render_mode=None):
        super().__init__()
        self.action_space = gym.spaces.MultiBinary(2)


def test_what_cannot_be_trained_cannot_be_estimated():
    gym.register("Buttons-v0", Buttons)
    try:
        with pytest.raises(UsageError, match="takes Discrete actions from 0, or a bounded Box"):
            estimate(MICRO, "Buttons-v0", CPU, quietly)
    finally:
        del gym.registry["Buttons-v0"]
