"""Settings that could only fail later are refused at once, by name."""

from dataclasses import replace

import pytest

from jedi_env.config_json import from_json, to_json
from jedi_env.errors import UsageError
from tests.trainers.fakes import MICRO
from trainers.config import TrainConfig
from trainers.presets import PRESETS


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("collect", "steps", 0),
        ("collect", "total_steps", 0),
        ("collect", "first_steps", -1),
        ("fit_world_model", "batch", 0),
        ("fit_world_model", "updates", -1),
        ("fit_agent", "horizon", 0),
        ("evaluate", "final_episodes", -5),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(part, field, value):
    with pytest.raises(UsageError, match=rf"{part}\.{field} is {value}: write a whole number of at least"):
        replace(MICRO, **{part: replace(getattr(MICRO, part), **{field: value})})


@pytest.mark.parametrize("stack", [0, 3])
def test_an_agent_cannot_see_more_frames_than_a_dream_has(stack):
    with pytest.raises(UsageError, match="a number from 1 to 2"):
        replace(MICRO, agent=replace(MICRO.agent, frame_stack=stack))


@pytest.mark.parametrize("config", [MICRO, *PRESETS.values()])
def test_a_configuration_survives_json(config):
    assert from_json(TrainConfig, to_json(config), "config") == config
