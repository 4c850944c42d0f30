"""Settings that could only fail later are refused at once, by name."""

import math
from dataclasses import replace

import pytest

from jedi_env.config_json import from_json, to_json
from jedi_env.errors import UsageError
from tests.trainers.fakes import MICRO
from trainers.config import TrainConfig
from trainers.presets import PRESETS


def changed(config, path, value):
    first, *rest = path
    return replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("collect", "steps", 0),
        ("collect", "total_steps", 0),
        ("collect", "first_steps", -1),
        ("fit_world_model", "batch", 0),
        ("fit_world_model", "updates", -1),
        ("fit_agent", "horizon", 0),
        ("fit_agent", "passes", 0),
        ("evaluate", "final_episodes", -5),
        ("fit_agent.optim", "warmup", -1),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(part, field, value):
    with pytest.raises(UsageError, match=rf"{part}\.{field} is {value}: write a whole number of at least"):
        changed(MICRO, [*part.split("."), field], value)


@pytest.mark.parametrize("stack", [0, 3])
def test_an_agent_cannot_see_more_frames_than_a_dream_has(stack):
    with pytest.raises(UsageError, match="a number from 1 to 2"):
        replace(MICRO, agent=replace(MICRO.agent, frame_stack=stack))


def test_dreamed_segments_are_read_only_beside_a_frozen_encoder():
    with pytest.raises(UsageError, match="freeze-encoder-after"):
        replace(MICRO, fit_world_model=replace(MICRO.fit_world_model, reward_end_switching=0.5))


def test_one_denoising_step_has_no_estimate_to_switch_to():
    one = replace(MICRO.fit_world_model, denoising_steps=1)
    with pytest.raises(UsageError, match=r"denoising-steps 2, or --world-model\.switching 0"):
        replace(MICRO, fit_world_model=one)
    assert replace(MICRO, fit_world_model=one, world_model=replace(MICRO.world_model, switching=0.0))


@pytest.mark.parametrize("config", [MICRO, *PRESETS.values()])
def test_a_configuration_survives_json(config):
    assert from_json(TrainConfig, to_json(config), "config") == config


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("collect.epsilon", 2.0, "from 0 to 1"),
        ("world_model.reward_end.frame_noise", -0.3, "from 0 to 1000"),
        ("fit_agent.gamma", -0.1, "from 0 to 1"),
        ("fit_agent.optim.lr", -1.0, "from 1e-12 to 1000"),
        ("fit_world_model.sampling.event_fraction", 1.5, "from 0 to 1"),
        ("fit_world_model.sampling.age_weights", (0.0, 0.0), "not all of them 0"),
        ("fit_world_model.sampling.age_weights", (-1.0, 2.0), "at least 0"),
        ("world_model.sampler.steps", 0, "from 1 to 1000"),
        ("world_model.sampler.order", 3, "from 1 to 2"),
        ("world_model.sampler.rho", 0.0, "from 0.01 to 1000"),
        ("world_model.sampler.churn", -1.0, "from 0 to 1e[+]06"),
        ("world_model.switching", 2.0, "from 0 to 1"),
        ("world_model.covariance_weight", -1.0, "from 0 to 1000"),
        ("world_model.denoiser.sigma_data", 0.0, "from 1e-12 to 1000"),
        ("world_model.denoiser.std_log_sigma", math.nan, "from 0 to 1000"),
        ("world_model.sampler.start_std", math.inf, "from 0 to 1000"),
        ("fit_world_model.encoder_lr_factor", -0.3, "from 0 to 1000"),
        ("fit_world_model.denoiser.max_grad_norm", -1.0, "from 1e-12 to inf"),
        ("fit_world_model.reward_end.max_grad_norm", math.nan, "from 1e-12 to inf"),
        ("fit_agent.optim.weight_decay", -0.1, "from 0 to 1000"),
        ("fit_agent.entropy_weight", -0.1, "from 0 to 1000"),
    ],
)
def test_what_would_fail_late_or_mean_something_else_is_refused_at_once(name, value, said):
    with pytest.raises(UsageError, match=rf"{name}.*{said}"):
        changed(MICRO, name.split("."), value)


def test_gradients_may_go_unclipped():
    assert changed(MICRO, ["fit_agent", "optim", "max_grad_norm"], math.inf).fit_agent.optim.max_grad_norm == math.inf
