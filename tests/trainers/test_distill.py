"""Distillation: one step comes closer to what several steps reach, and nothing but the denoiser changes."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from jedi_env.checkpoint import Checkpoint
from jedi_env.dream import Dream
from jedi_env.errors import UsageError
from tests.tiny_dream import BOX, LATENT, PIXEL, SYMLOG, tiny_checkpoint
from trainers.distill import DistillConfig, distil, one_step

CONFIG = DistillConfig(updates=60, batch=16, teacher_steps=3, horizon=6, lr=3e-3)


@pytest.fixture(scope="module")
def teacher():
    return tiny_checkpoint()


@pytest.fixture(scope="module")
def student(teacher):
    return distil(teacher, CONFIG, torch.device("cpu"))


def distances(teacher, model, steps):
    """Mean squared distance of ``model``'s frames in ``steps`` steps from the teacher's in three, same noise."""
    ends = []
    for of, number in ((teacher.world_model, 3), (model, steps)):
        dream = Dream(of, teacher.contexts, horizon=None, sampler_steps=number)
        dream.reset(range(1000, 1256))
        dream.step(torch.arange(256) % teacher.world_model.num_actions)
        ends.append(dream.state.model.frames[:, -1])
    return (ends[0] - ends[1]).square().mean().item()


def test_it_is_closer_to_its_teacher_than_a_plain_single_step(teacher, student):
    plain = distances(teacher, teacher.world_model, 1)
    assert distances(teacher, student.world_model, 1) < 0.7 * plain


def test_only_the_denoiser_changed(teacher, student):
    before, after = teacher.world_model.state_dict(), student.world_model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"denoiser"}
    assert teacher.world_model.config.sampler.steps == 2
    assert student.world_model.config.sampler == replace(LATENT.sampler, steps=1)
    assert student.contexts is teacher.contexts


def test_what_was_measured_of_the_teacher_is_not_said_of_the_student(teacher):
    told = replace(teacher, metrics={"fidelity": {"trusted_horizon": 15}})
    student = distil(told, replace(CONFIG, updates=1), torch.device("cpu"))
    assert told.metrics
    assert not student.metrics


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_a_learning_rate_that_learns_nothing_is_refused(lr):
    with pytest.raises(UsageError, match=r"lr is .*a number above 0"):
        DistillConfig(lr=lr)


def test_it_learns_from_the_frame_that_the_dream_would_draw(student):
    """The student's single step, recomputed, is the dream's own."""
    dream = Dream(student.world_model, student.contexts, horizon=None)
    dream.reset(range(5))
    before, actions = dream.state, torch.tensor([0, 1, 2, 3, 0])
    dream.step(actions)
    assert_close(one_step(student.world_model, before, actions), dream.state.model.frames[:, -1])


def test_it_is_saved_and_says_where_it_comes_from(teacher, student, tmp_path):
    student.save(tmp_path / "one")
    loaded = Checkpoint.load(tmp_path / "one")
    assert loaded.world_model.config.sampler.steps == 1
    assert loaded.provenance["distilled"]["updates"] == CONFIG.updates
    assert not any(parameter.requires_grad for parameter in loaded.world_model.parameters())


def test_a_model_without_diffusion_has_nothing_to_distil():
    config = replace(LATENT, denoiser=replace(LATENT.denoiser, diffusion=False))
    with pytest.raises(UsageError, match="one pass already"):
        distil(tiny_checkpoint(config), CONFIG, torch.device("cpu"))


@pytest.mark.parametrize("setting", [{"updates": 0}, {"batch": 0}, {"horizon": 0}, {"teacher_steps": 1}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(UsageError, match=f"{next(iter(setting))} is {next(iter(setting.values()))}"):
        DistillConfig(**setting)


def test_a_dream_whose_actions_are_vectors_can_be_distilled():
    """The teacher wanders under actions of its own kind."""
    teacher = tiny_checkpoint(SYMLOG, actions=BOX, game=None)
    student = distil(teacher, replace(CONFIG, updates=3), torch.device("cpu"))
    assert student.world_model.actions == BOX
    assert not torch.equal(
        next(iter(student.world_model.denoiser.parameters())), next(iter(teacher.world_model.denoiser.parameters()))
    )


def test_a_pixel_dream_learns_too_although_its_frames_are_rounded():
    teacher = tiny_checkpoint(PIXEL)
    student = distil(teacher, replace(CONFIG, updates=3, teacher_steps=2), torch.device("cpu"))
    before, after = teacher.world_model.denoiser.state_dict(), student.world_model.denoiser.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
