"""Each warning, triggered by the metrics that it is about and by no others; and that the documentation knows it."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.models.encoder import LatentEncoderConfig, make_encoder
from jedi_env.models.spread import effective_rank
from tests.trainers.fakes import MICRO, TOY
from trainers.health import drifting_dream, health, warn
from trainers.log import read
from trainers.train import train

ACTIONS, GAMMA = 4, 0.985
WELL = {
    "collect": {"real_steps": 0.0, "real_reward": 0.05, "real_events": 0.05, "real_end": 0.01},
    "fit_models": {"latent_std": 0.46, "latent_rank": 80.0},
    "imagine": {"value": 1.2, "returns": 1.3, "entropy": 0.9, "dream_reward": 0.05, "dream_end": 0.01},
}


def history(epochs=10, steps=2000, **last):
    """The log of a healthy run, but for the metrics of its newest epoch in ``last``."""
    lines = []
    for epoch in range(epochs):
        for phase, metrics in WELL.items():
            changed = {k: v for k, v in last.items() if k in metrics and epoch == epochs - 1}
            line = {"epoch": epoch, "phase": phase, **metrics, **changed}
            if phase == "collect":
                line["real_steps"] = float((epoch + 1) * steps)
            lines.append(line)
    return lines


def throughout(**changed):
    return [{**line, **{k: v for k, v in changed.items() if k in line}} for line in history()]


def warned(lines):
    return {name for name, sentence in health(lines, ACTIONS, GAMMA).items() if sentence is not None}


def test_a_healthy_run_is_not_warned_of():
    found = health(history(), ACTIONS, GAMMA)
    assert found == dict.fromkeys(("collapsed_latents", "exploding_value", "dead_policy", "drifting_dream"))


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (history(latent_rank=1.5), "collapsed_latents"),
        (history(latent_rank=20.0), "collapsed_latents"),  # it had 80 until lately
        (history(latent_std=0.04), "collapsed_latents"),
        (history(1, latent_std=0.0), "collapsed_latents"),
        (history(value=30.0), "exploding_value"),  # the dream pays 0.05 / 0.015 = 3.3 for ever
        (history(returns=-30.0), "exploding_value"),
        (history(value=67.0, dream_reward=1.0), "exploding_value"),  # no rewards add up to more than 1 / 0.015
        (history(value=5.0, dream_reward=0.0), "exploding_value"),
        (history(entropy=0.01), "dead_policy"),
        (throughout(dream_reward=0.2), "drifting_dream"),
        (throughout(dream_reward=-0.05), "drifting_dream"),
        (throughout(real_reward=0.0, real_events=0.0), "drifting_dream"),
        (throughout(dream_end=0.05), "drifting_dream"),
    ],
)
def test_each_warning_is_triggered_by_what_it_is_about(lines, name):
    assert name in warned(lines)
    assert len(warned(lines) - {"exploding_value"}) <= 1  # a dream that pays nothing makes any value too high


@pytest.mark.parametrize(
    "lines",
    [
        history(latent_rank=40.0, latent_std=0.2),
        history(value=8.0),
        history(value=50.0, dream_reward=0.9, real_reward=0.9, real_events=0.9),
        history(entropy=math.log(ACTIONS)),
        throughout(dream_reward=0.1),  # twice as much is not far
        history(2, 100, dream_reward=0.0),  # in 100 steps anything may happen
        history(dream_reward=0.3),  # one epoch of ten
        [],
    ],
)
def test_what_may_be_well_is_not_warned_of(lines):
    assert warned(lines) <= {"exploding_value"} if lines and lines[-1]["dream_reward"] == 0 else warned(lines) == set()


def test_only_what_was_measured_is_judged():
    lines = [line for line in history() if line["phase"] != "imagine" or line["epoch"] < 9]
    assert health(lines, ACTIONS, GAMMA).keys() == {"collapsed_latents"}
    assert health([], ACTIONS, GAMMA) == {}


def test_the_random_play_of_the_first_epoch_is_no_judge():
    lines = history()
    lines[0] |= {"real_reward": 1.0, "real_events": 1.0, "real_end": 1.0}
    assert drifting_dream(lines) is None


@given(st.floats(0.001, 0.3), st.integers(200, 5000), st.integers(0, 2**32 - 1))
def test_a_dream_that_is_right_is_hardly_ever_warned_of(rate, steps, seed):
    """The real rates are drawn from the very process that the dream is."""
    rng = np.random.default_rng(seed)
    false_alarms = 0
    for _ in range(20):
        lines = history(10, steps)
        for line in lines:
            if line["phase"] == "collect":
                line["real_reward"] = line["real_events"] = rng.binomial(steps, rate) / steps
                line["real_end"] = rng.binomial(steps, rate / 10) / steps
            if line["phase"] == "imagine":
                line |= {"dream_reward": rate, "dream_end": rate / 10}
        false_alarms += drifting_dream(lines) is not None
    assert false_alarms <= 1


def test_a_real_encoder_that_collapses_is_warned_of():
    """Not numbers made up: two encoders, one of which maps all to a line."""
    encoder = make_encoder(LatentEncoderConfig(channels=(4, 2), down=(False, False), patch=16)).eval()
    pixels = torch.randint(0, 256, (64, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    lines = history(latent_rank=80.0)

    def judge():
        with torch.no_grad():
            frames = encoder(pixels)
        lines[-2] |= {"latent_rank": effective_rank(frames).item(), "latent_std": frames.std(dim=0).mean().item()}
        return warned(lines[-3:])

    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    assert judge() == set()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    assert judge() == {"collapsed_latents"}


def test_warnings_are_said_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        counted = warn({"dead_policy": "the policy is dead.", "drifting_dream": None}, 4)
    assert counted == {"dead_policy": 1.0, "drifting_dream": 0.0}
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 5: dead_policy: the policy is dead. See docs/health.md."
    ]


def test_every_warning_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "health.md").read_text()
    for name in health(history(), ACTIONS, GAMMA):
        assert f"`{name}`" in page


def test_a_run_logs_its_health_each_epoch(tmp_path):
    train(MICRO, TOY, 0, tmp_path / "run", torch.device("cpu"))
    lines = [line for line in read(tmp_path / "run") if line["phase"] == "health"]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    for line in lines:
        names = line.keys() - {"epoch", "phase"}
        assert names == {"collapsed_latents", "exploding_value", "dead_policy", "drifting_dream"}
        assert {line[name] for name in names} <= {0.0, 1.0}
