"""The ablations' bench, microscopic: each variant changes the world model alone, and what is finished is kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jedi_env.dream import Dream
from jedi_env.errors import UsageError
from jedi_env.models.world_model import WorldModel
from jedi_env.types import Context
from trainers.ablations import (
    OFFLINE_BREAKOUT,
    SHORT_CATCH,
    VARIANTS,
    AblationsConfig,
    ablations,
    interval,
    table,
    varied,
)
from trainers.fidelity import FidelityConfig

NAMES = ("tiny", "pixels")
COUNTS = {"first_updates": 2, "updates": 1, "batch": 2, "freeze_encoder_after": 1, "denoising_steps": 2}


def micro(config, steps):
    return replace(
        config,
        collect=replace(config.collect, total_steps=steps, first_steps=60, first_steps_limit=60, steps=20),
        fit_world_model=replace(config.fit_world_model, **COUNTS),
        fit_agent=replace(config.fit_agent, first_updates=0, updates=1, batch=2, horizon=3, contexts=4),
        evaluate=replace(config.evaluate, final_episodes=3),
        bank=4,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_the_world_model_and_what_must_follow_it(name):
    config = varied(SHORT_CATCH, name)
    assert config.world_model == VARIANTS[name]
    assert (config == SHORT_CATCH) == (name == "tiny")
    same = replace(config, world_model=SHORT_CATCH.world_model)
    assert (same == SHORT_CATCH) == (name not in ("pixels", "reward-from-real-frames"))
    fitting = replace(config.fit_world_model, reward_end_switching=0.5, decoder_every=4)
    assert replace(same, agent=SHORT_CATCH.agent, fit_world_model=fitting) == SHORT_CATCH


def test_rewards_are_read_from_dreamed_frames_in_every_variant_but_the_one_named_so():
    for name in VARIANTS:
        settings = varied(SHORT_CATCH, name).fit_world_model
        assert settings.freeze_encoder_after, name
        assert bool(settings.reward_end_switching) == (name != "reward-from-real-frames"), name


def test_a_dream_of_pixels_takes_as_many_operations_a_step_as_one_of_latents():
    operations = {}
    for name in NAMES:
        model = WorldModel(4, VARIANTS[name]).eval()
        pixels = torch.zeros(1, model.config.context_length, 64, 64, 3, dtype=torch.uint8)
        with torch.no_grad():
            context = Context(model.encode(pixels), torch.zeros(1, model.config.context_length - 1, dtype=torch.long))
            dream = Dream(model, context, horizon=None)
            dream.reset(range(1))
            with FlopCounterMode(display=False) as counter:
                dream.step(torch.zeros(1, dtype=torch.long))
        operations[name] = counter.get_total_flops()
    assert operations["pixels"] == pytest.approx(operations["tiny"], rel=0.02)


def test_two_variants_are_trained_measured_and_told(tmp_path):
    measured = FidelityConfig(horizon=15, segments=4, steps=300, probe_steps=300)
    config = AblationsConfig(tmp_path / "ablations", seeds=2, variants=NAMES, fidelity=measured)
    catch, breakout = micro(SHORT_CATCH, 80), replace(micro(OFFLINE_BREAKOUT, 60), evaluate=OFFLINE_BREAKOUT.evaluate)
    told = ablations(config, catch, breakout)
    assert json.loads((config.out / "ablations.json").read_text()) == told
    for name in VARIANTS:
        assert [run["seed"] for run in told[name]["catch"]] == ([0, 1] if name in NAMES else [])
        assert bool(told[name]["breakout"]) == (name in NAMES)
    text = table(told)
    assert text.count("\n| tiny |") == 2
    assert text.count("\n| pixels |") == 2
    assert "mean-squared-error" not in text
    written = (config.out / "breakout-pixels" / "fidelity.json").stat().st_mtime_ns
    assert ablations(config, catch, breakout) == told
    assert (config.out / "breakout-pixels" / "fidelity.json").stat().st_mtime_ns == written
    longer = replace(config, seeds=1, variants=("pixels",), fidelity=replace(measured, horizon=16))
    again = ablations(longer, catch, breakout)  # of other settings: measured anew
    assert again["pixels"]["breakout"]["horizons"][-1] == 16
    assert again["tiny"] == told["tiny"]


def test_the_interval_is_as_wide_as_the_seeds_differ():
    games = np.random.default_rng(0).normal(size=(3, 40))
    mean, low, high = interval(games.tolist())
    assert low < mean < high
    assert mean == pytest.approx(games.mean())
    apart = games + np.array([[0.0], [5.0], [10.0]])
    _, low_apart, high_apart = interval(apart.tolist())
    assert high_apart - low_apart > 5 * (high - low)
    # one constant game a seed: seeds are all there is to resample; the extreme means are the extreme seeds'
    assert interval([[1.0], [4.0]]) == (2.5, 1.0, 4.0)


def test_an_unknown_variant_is_refused_by_name():
    with pytest.raises(UsageError, match="Did you mean 'pixels'"):
        AblationsConfig(variants=("pixel",))
    with pytest.raises(UsageError, match="seeds is 0"):
        AblationsConfig(seeds=0)


@pytest.mark.parametrize("lacking", [{"horizon": 10}, {"probes": False}])
def test_what_the_table_could_not_show_is_refused_before_anything_is_trained(lacking):
    with pytest.raises(UsageError, match=r"needs the probes, and a --fidelity.horizon of at least 15"):
        AblationsConfig(fidelity=FidelityConfig(**lacking))
    assert not AblationsConfig(breakout=False, fidelity=FidelityConfig(**lacking)).breakout
