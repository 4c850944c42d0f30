"""A checkpoint is replaced whole, whatever the writer dies of and whoever else reads or writes it meanwhile."""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable

import pytest

from jedi_env import checkpoint, checkpoint_config
from jedi_env.checkpoint import Checkpoint
from jedi_env.checkpoint_config import FILES
from jedi_env.find import find_checkpoint
from tests.tiny_dream import same, tiny_checkpoint

# Interrupted


class Break(BaseException):
    """What an interruption looks like."""


def breaking(monkeypatch, name, at, forever, error):
    """Let ``os.<name>`` raise at its ``at``-th call (and ever after); return the list of calls."""
    real: Callable = getattr(os, name)
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == at or (forever and len(calls) > at):
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)
    return calls


@pytest.mark.parametrize("error", [OSError("disk"), Break()], ids=["error", "interrupt"])
@pytest.mark.parametrize(
    ("name", "at"), [("rename", 1), ("rename", 2), ("fsync", 1), ("fsync", 2), ("fsync", 4), ("mkdir", 2)]
)
def test_an_interrupted_save_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch, name, at, error):
    old, new = tiny_checkpoint(seed=0), tiny_checkpoint(seed=1, agent=True)
    old.save(tmp_path / "dream")
    with monkeypatch.context() as patch:
        breaking(patch, name, at, False, error)
        with pytest.raises(type(error)):
            new.save(tmp_path / "dream")
    assert os.listdir(tmp_path) == ["dream"]
    assert same(old, Checkpoint.load(tmp_path / "dream"))
    new.save(tmp_path / "dream")
    assert same(new, Checkpoint.load(tmp_path / "dream"))


def test_a_save_breaks_at_no_other_rename(tmp_path, monkeypatch):
    """So that the places tried above are all there are."""
    tiny_checkpoint().save(tmp_path / "dream")
    renames, replaces = (breaking(monkeypatch, name, 0, False, Break()) for name in ("rename", "replace"))
    tiny_checkpoint().save(tmp_path / "dream")
    assert (len(renames), len(replaces)) == (3, 0)  # the third only tidies up


def test_an_interrupted_first_save_leaves_nothing(tmp_path, monkeypatch):
    breaking(monkeypatch, "rename", 2, False, Break())
    with pytest.raises(Break):
        tiny_checkpoint().save(tmp_path / "dream")
    assert os.listdir(tmp_path) == []


def test_a_writer_killed_between_its_two_renames_loses_nothing(tmp_path, monkeypatch):
    old, new = tiny_checkpoint(seed=0), tiny_checkpoint(seed=1)
    old.save(tmp_path / "Breakout")
    (tmp_path / "Breakout" / "README.md").write_text("precious")
    with monkeypatch.context() as patch:
        breaking(patch, "rename", 2, True, OSError("gone"))  # not even the way back
        with pytest.raises(OSError, match="gone"):
            new.save(tmp_path / "Breakout")
    assert not (tmp_path / "Breakout").exists()
    assert same(old, Checkpoint.load(tmp_path / "Breakout"))
    monkeypatch.setenv("JEDI_ENV_HOME", str(tmp_path))
    assert same(old, find_checkpoint("Breakout", None))
    new.save(tmp_path / "Breakout")
    assert os.listdir(tmp_path) == ["Breakout"]
    assert same(new, find_checkpoint("Breakout", None))
    assert (tmp_path / "Breakout" / "README.md").read_text() == "precious"


# Concurrent


def test_readers_and_writers_at_once_see_whole_checkpoints(tmp_path):
    versions = [tiny_checkpoint(seed=seed, agent=seed == 1) for seed in range(2)]
    versions[0].save(tmp_path / "dream")
    errors, seen, done = [], [], threading.Event()

    def write(version):
        try:
            for _ in range(8):
                version.save(tmp_path / "dream")
        except BaseException as error:
            errors.append(error)

    def read():
        try:
            while not done.is_set():
                found = Checkpoint.load(tmp_path / "dream")
                seen.append(found.provenance["seed"])
                assert same(versions[seen[-1]], found)
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(version,)) for version in versions]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert errors == []
    assert seen
    assert os.listdir(tmp_path) == ["dream"]


@pytest.mark.parametrize(
    ("where", "what", "at"), [(os, "rename", 1), (os, "rename", 2), (shutil, "copytree", 1), (os, "fsync", 1)]
)
def test_of_two_writers_at_once_the_later_wins(tmp_path, monkeypatch, where, what, at):
    first, second, third = (tiny_checkpoint(seed=seed) for seed in range(3))
    first.save(tmp_path / "dream")
    real, calls = getattr(where, what), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            third.save(tmp_path / "dream")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, what, call)
        second.save(tmp_path / "dream")
    assert len(calls) > at
    assert same(second, Checkpoint.load(tmp_path / "dream"))
    assert os.listdir(tmp_path) == ["dream"]


@pytest.mark.parametrize("replaced", [True, False])
def test_a_folder_that_goes_while_its_other_files_are_copied_is_copied_again(tmp_path, monkeypatch, replaced):
    first, second, third = (tiny_checkpoint(seed=seed) for seed in range(3))
    first.save(tmp_path / "dream")
    real, calls = shutil.copytree, []

    def copytree(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            if replaced:
                third.save(tmp_path / "dream")
            raise shutil.Error("gone")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", copytree)
        with contextlib.nullcontext() if replaced else pytest.raises(shutil.Error, match="gone"):
            second.save(tmp_path / "dream")
    assert same(second if replaced else first, Checkpoint.load(tmp_path / "dream"))
    assert os.listdir(tmp_path) == ["dream"]


@pytest.mark.parametrize("moment", FILES)
def test_a_checkpoint_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch, moment):
    old, new = tiny_checkpoint(seed=0, agent=True, decoder=True), tiny_checkpoint(seed=1, agent=True, decoder=True)
    old.save(tmp_path / "dream")
    real, times = checkpoint.inside, []

    def inside(folder, name):
        if name == moment and not times:
            times.append(name)
            new.save(tmp_path / "dream")
        return real(folder, name)

    for reader in (checkpoint, checkpoint_config):
        monkeypatch.setattr(reader, "inside", inside)
    assert same(new, Checkpoint.load(tmp_path / "dream"))
    assert times == [moment]
