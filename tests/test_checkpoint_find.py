"""A checkpoint is found where the order says, by game or by path, and a process has one copy of its weights."""

import copy
import errno
import os
import shutil
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from jedi_env import find as module
from jedi_env.checkpoint import Checkpoint, annotate
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.find import find_checkpoint, homes, locate
from jedi_env.games import GAMES
from tests.tiny_dream import same, tiny_checkpoint

# By game


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The three homes of dreams, all empty."""
    monkeypatch.setenv("JEDI_ENV_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "__file__", str(tmp_path / "package" / "find.py"))
    return [tmp_path / "home", tmp_path / "cache" / "jedi-env", tmp_path / "package" / "pretrained"]


def test_dreams_are_looked_up_at_home_then_in_the_cache_then_in_the_package(places):
    assert homes() == places
    for seed, place in reversed(list(enumerate(places))):
        tiny_checkpoint(seed=seed, game="Pong").save(place / "Pong")
        assert locate("Pong") == place / "Pong"
        assert find_checkpoint("Pong", None).provenance["seed"] == seed


def test_a_damaged_dream_is_not_passed_over(places):
    tiny_checkpoint(game="Pong").save(places[2] / "Pong")
    (places[0] / "Pong").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"home/Pong lacks config.json"):
        find_checkpoint("Pong", None)


def test_the_cache_is_where_the_platform_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    package = Path(module.__file__).parent / "pretrained"
    for value in (None, "", "relative/is/ignored"):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert homes() == [tmp_path / ".cache" / "jedi-env", package]
    monkeypatch.setenv("JEDI_ENV_HOME", "~/dreams")
    assert homes()[0] == tmp_path / "dreams"


@pytest.fixture
def close(monkeypatch):
    """Makes folders that nobody may look into, root neither."""
    closed, stat = [], os.stat

    def refuse(path, **arguments):
        if isinstance(path, str | os.PathLike) and any(folder in Path(path).parents for folder in closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **arguments)

    monkeypatch.setattr(os, "stat", refuse)
    return closed.append


@pytest.fixture
def homeless(monkeypatch):
    """No home directory: neither in the environment nor in the system's list of users."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pytest.importorskip("pwd"), "getpwuid", lambda user: {}[user])


def test_a_cache_that_may_not_be_read_is_none(places, close):
    tiny_checkpoint(game="Pong").save(places[2] / "Pong")
    close(places[1].parent)
    assert homes() == [places[0], places[2]]
    assert locate("Pong") == places[2] / "Pong"
    with pytest.raises(UsageError, match=r"There are dreams of: Pong\."):
        find_checkpoint("Breakout", None)


def test_without_a_home_directory_there_is_no_cache(places, homeless, monkeypatch):
    assert homes() == [places[0], places[2]]
    monkeypatch.delenv("JEDI_ENV_HOME")
    with pytest.raises(UsageError, match=r"copy that folder to \$JEDI_ENV_HOME/Breakout"):  # not into the package
        find_checkpoint("Breakout", None)
    monkeypatch.setenv("JEDI_ENV_HOME", "~/dreams")
    with pytest.raises(UsageError, match="JEDI_ENV_HOME is '~/dreams', but ~ is no home directory here"):
        locate("Pong")
    with pytest.raises(UsageError, match="The checkpoint is '~/dream', but ~ is no home directory here"):
        find_checkpoint(None, "~/dream")


def test_a_chosen_home_that_may_not_be_read_is_told(places, close):
    tiny_checkpoint(game="Pong").save(places[2] / "Pong")
    close(places[0])
    with pytest.raises(UsageError, match=r"JEDI_ENV_HOME is '.*home', which you may not read: name another folder"):
        find_checkpoint("Pong", None)


def test_a_checkpoint_that_may_not_be_read_is_told(folder, close):
    close(folder.parent)
    for load in (Checkpoint.load, lambda path: find_checkpoint(None, path), lambda path: annotate(path, metrics={})):
        with pytest.raises(CheckpointError, match=r"dream cannot be read: .*Permission denied"):
            load(folder)


def test_no_dream_says_how_to_get_one(places):
    tiny_checkpoint(game="Pong").save(places[1] / "Pong")
    shutil.copytree(places[1] / "Pong", places[1] / ".Pong.0123.trash")
    with pytest.raises(UsageError) as caught:
        find_checkpoint("Breakout", None)
    for part in ("no dream of 'Breakout'", *map(str, places), "`jedi-env train Breakout", "hub://", "dreams of: Pong."):
        assert part in str(caught.value)
    with pytest.raises(UsageError, match=r"no dream of 'Brekout'.*Did you mean 'Breakout'\?"):
        find_checkpoint("Brekout", None)
    with pytest.raises(UsageError, match=r"Which dream\? Write checkpoint="):
        find_checkpoint(None, None)


@pytest.mark.parametrize("game", ["../dream", "/etc", "..", "", "a/../../dream", "..\\dream"])
def test_a_name_cannot_climb_out_of_the_homes(folder, monkeypatch, game):
    (folder.parent / "home").mkdir()
    monkeypatch.setenv("JEDI_ENV_HOME", str(folder.parent / "home"))
    assert locate(game) is None


def test_a_game_is_named_where_a_checkpoint_is_asked_for(folder, monkeypatch):
    monkeypatch.setenv("JEDI_ENV_HOME", str(folder.parent))
    tiny_checkpoint(seed=3).save(folder.parent / "Breakout")
    monkeypatch.chdir(folder.parent)
    here = find_checkpoint(None, "Breakout")  # a checkpoint of that name
    (folder.parent / "elsewhere" / "Breakout").mkdir(parents=True)  # a folder of that name, but no checkpoint
    monkeypatch.chdir(folder.parent / "elsewhere")
    assert find_checkpoint(None, "Breakout") is find_checkpoint("Breakout", None) is here  # none: it is looked up
    with pytest.raises(UsageError, match="a dream of Breakout, not of Pong"):
        find_checkpoint("Pong", "Breakout")
    with pytest.raises(UsageError, match="There is no dream of 'Qbert'"):
        find_checkpoint(None, "Qbert")


def test_a_dream_of_another_game_is_refused(folder):
    with pytest.raises(UsageError, match="a dream of Breakout, not of Pong: write JEDIDream-Breakout-v0"):
        find_checkpoint("Pong", folder)
    with pytest.raises(UsageError, match="a dream of Breakout, not of Pong"):
        find_checkpoint("Pong", tiny_checkpoint())
    with pytest.raises(UsageError, match="a dream of CarRacing-v3, not of Pong: write JEDIDream-v0, which takes any"):
        find_checkpoint("Pong", tiny_checkpoint(game="CarRacing-v3"))
    assert find_checkpoint("ALE/Breakout-v5", folder).game == "Breakout"  # other ids are the caller's business
    assert find_checkpoint(GAMES[0], tiny_checkpoint(game=None)).game is None


# One set of weights


def test_a_process_has_one_set_of_weights(folder, tmp_path, monkeypatch):
    first = find_checkpoint(None, folder)
    assert find_checkpoint("Breakout", str(folder), "cpu") is first
    assert find_checkpoint("Breakout", first) is first
    assert copy.deepcopy({"checkpoint": first})["checkpoint"] is first  # as Gymnasium does with a spec's arguments
    (tmp_path / "latest").symlink_to(folder)
    assert find_checkpoint(None, tmp_path / "latest") is first
    monkeypatch.chdir(folder)
    assert find_checkpoint(None, ".") is first
    assert Checkpoint.load(folder) is not first


def test_threads_share_one_set_of_weights_too(folder):
    found = []
    threads = [threading.Thread(target=lambda: found.append(find_checkpoint(None, folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(map(id, found))) == 1


def test_a_replaced_checkpoint_is_loaded_anew(folder):
    first = find_checkpoint(None, folder)
    new = tiny_checkpoint(seed=1)
    new.save(folder)
    second = find_checkpoint(None, folder)
    assert same(new, second)
    assert same(first, tiny_checkpoint(agent=True, decoder=True))  # whoever holds the old one keeps it
    assert find_checkpoint(None, folder) is second


# What is none


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 1.5])
def test_a_device_that_is_not_there_is_refused(folder, device):
    with pytest.raises(UsageError, match=f"The device '{device}' is not there"):
        find_checkpoint(None, folder, device)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("hub://owner/repo", r"is no folder\. An address on the hub is taken where a checkpoint= is"),
        ("a\0b", "no zero byte"),
    ],
)
def test_a_folder_is_neither_an_address_nor_something_unspeakable(path, said):
    with pytest.raises(UsageError, match=said):
        Checkpoint.load(path)


@pytest.mark.parametrize("thing", ["", 3, b"bytes", object(), np.array([1, 2])])
def test_what_is_no_checkpoint_at_all_is_refused(thing):
    with pytest.raises(UsageError, match="A checkpoint is a folder, hub://owner/repo or a Checkpoint, not"):
        find_checkpoint("Breakout", thing)


def test_torchs_default_precision_does_not_matter(tmp_path):
    tiny_checkpoint().save(tmp_path / "dream")
    env = gym.make("JEDIDream-v0", checkpoint=tmp_path / "dream", device="cpu", dtype="float32")
    env.reset(seed=0)
    expected = env.step(1)[0]
    env.reset(seed=0)
    torch.set_default_dtype(torch.float64)
    try:
        Checkpoint.load(tmp_path / "dream")
        assert np.array_equal(env.step(1)[0], expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
