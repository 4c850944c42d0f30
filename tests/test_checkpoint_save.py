"""What saving a checkpoint writes, and over what: nothing that could not be loaded, and no other folder or file."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jedi_env.checkpoint import AgentRecord, Checkpoint, annotate
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.types import Context
from tests.tiny_dream import NUM_ACTIONS, same, tiny_checkpoint

# What is not written


def with_contexts(change):
    checkpoint = tiny_checkpoint()
    contexts = checkpoint.contexts
    frames, actions = contexts.frames.clone(), contexts.actions.clone()
    return replace(checkpoint, contexts=Context(*change(frames, actions)))


def broken_weight(value):
    checkpoint = tiny_checkpoint()
    with torch.no_grad():
        checkpoint.world_model.denoiser.conv_in.weight[0, 0, 0, 0] = value
    return checkpoint


def resized():
    checkpoint = tiny_checkpoint()
    checkpoint.world_model.denoiser.conv_out = torch.nn.Conv2d(8, 3, 3)
    return checkpoint


UNSAVEABLE = [
    (lambda: broken_weight(float("nan")), False, CheckpointError, "NaN or infinity in 'denoiser.conv_in.weight'"),
    (lambda: broken_weight(1e6), True, UsageError, "too large for float16"),
    (lambda: with_contexts(lambda f, a: (f * float("inf"), a)), False, CheckpointError, "NaN or infinity in 'frames'"),
    (lambda: with_contexts(lambda f, a: (f[:0], a[:0])), False, UsageError, "has 0 contexts"),
    (lambda: with_contexts(lambda f, a: (f, a[:-1])), False, UsageError, "5 contexts and the actions of 4"),
    (lambda: with_contexts(lambda f, a: (f[:, 1:], a)), False, UsageError, r"'frames' as float32 of shape \(5, 3, 2"),
    (lambda: with_contexts(lambda f, a: (f, a.int())), False, UsageError, "'actions' as int32"),
    (lambda: with_contexts(lambda f, a: (f, a + NUM_ACTIONS)), False, UsageError, "actions that are not from 0 to 3"),
    (lambda: with_contexts(lambda f, a: (f + 4, a)), False, UsageError, "beyond the model's range, -3.0 to 3.0"),
    (lambda: resized(), False, UsageError, r"'denoiser.conv_out.weight' as float32 of shape \(3, 8, 3, 3\)"),
    (lambda: tiny_checkpoint(horizon=0), False, UsageError, "horizon is 0, but must be from 1"),
    (lambda: tiny_checkpoint(horizon=2.5), False, UsageError, "horizon is 2.5"),
    (lambda: tiny_checkpoint(game=3), False, UsageError, "game is 3"),
    (lambda: replace(tiny_checkpoint(), metrics={"x": float("nan")}), False, UsageError, r"metrics\['x'\] is nan"),
    (lambda: replace(tiny_checkpoint(), protocol={"x": Path()}), False, UsageError, r"protocol\['x'\] is PosixPath"),
    (
        lambda: replace(tiny_checkpoint(), agent=AgentRecord({}, {"w": torch.zeros(1, dtype=torch.complex64)})),
        False,
        UsageError,
        "complex64, which a checkpoint does not store",
    ),
]


@pytest.mark.parametrize(("make", "half", "error", "message"), UNSAVEABLE, ids=[case[3][:30] for case in UNSAVEABLE])
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
def test_what_could_not_be_loaded_is_not_written(tmp_path, make, half, error, message, replacing):
    old = tiny_checkpoint(seed=1)
    if replacing:
        old.save(tmp_path / "dream")
    with pytest.raises(error, match=message):
        make().save(tmp_path / "dream", half=half)
    assert os.listdir(tmp_path) == (["dream"] if replacing else [])
    if replacing:
        assert same(old, Checkpoint.load(tmp_path / "dream"))


# What is replaced


def test_only_a_checkpoint_is_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    (tmp_path / "file").write_text("also")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"seed": 1}')
    for name in ("thesis", "file", "run"):
        with pytest.raises(UsageError, match=f"{name} is there and is no checkpoint: it was left as it is"):
            tiny_checkpoint().save(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "run", "thesis"]
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_an_empty_folder_is_filled_and_other_files_are_kept(tmp_path):
    (tmp_path / "dream").mkdir()
    tiny_checkpoint(agent=True).save(tmp_path / "dream")
    (tmp_path / "dream" / "README.md").write_text("about")
    (tmp_path / "dream" / "pictures").mkdir()
    (tmp_path / "dream" / "pictures" / "config.json").write_text("{}")
    new = tiny_checkpoint(seed=1)
    new.save(tmp_path / "dream")
    assert same(new, Checkpoint.load(tmp_path / "dream"))
    assert (tmp_path / "dream" / "README.md").read_text() == "about"
    assert (tmp_path / "dream" / "pictures" / "config.json").read_text() == "{}"
    assert not (tmp_path / "dream" / "agent.safetensors").exists()  # the old one's, which the new one has not
    assert os.listdir(tmp_path) == ["dream"]


@pytest.mark.parametrize("inside", ["", "pictures"])
def test_a_folder_that_the_process_works_in_is_left_as_it_is(folder, monkeypatch, inside):
    (folder / "pictures").mkdir()
    monkeypatch.chdir(folder / inside)
    for write in (tiny_checkpoint(seed=1).save, lambda path: annotate(path, metrics={"x": 1})):
        for path in (folder, os.path.relpath(folder)):
            with pytest.raises(UsageError, match=r"dream is replaced as a whole, and this process works in it"):
                write(path)
    assert same(Checkpoint.load(folder), tiny_checkpoint(agent=True, decoder=True))
    assert os.getcwd() == str(folder / inside)
    assert os.listdir(folder.parent) == ["dream"]
    tiny_checkpoint(seed=1).save(folder / "pictures" / "new")  # a new folder in it is no such thing


def test_a_mount_point_is_left_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder)
    with pytest.raises(UsageError, match="dream is a mount point, which cannot be replaced"):
        tiny_checkpoint(seed=1).save(folder)
    assert same(Checkpoint.load(folder), tiny_checkpoint(agent=True, decoder=True))
    tiny_checkpoint(seed=1).save(folder / "new")


def test_a_link_to_a_checkpoint_stays_one(tmp_path, folder):
    (tmp_path / "latest").symlink_to(folder)
    new = tiny_checkpoint(seed=1)
    new.save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert same(new, Checkpoint.load(folder))
    assert same(new, Checkpoint.load(tmp_path / "latest"))
