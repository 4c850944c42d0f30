"""What can go wrong around a run: each fault is real, ends in a sentence, and costs nothing that was completed."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import trainers.train
from jedi_env.errors import RunError
from tests.trainers.fakes import MICRO, TOY, ToyGame
from tests.trainers.killing import finish, kill_when, outcome, start
from trainers.state import open_run
from trainers.train import train

CPU = torch.device("cpu")


def run(run_dir, config=MICRO):
    return train(config, TOY, 0, run_dir, CPU)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run comes to that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    run(run_dir)
    return outcome(run_dir)


def assert_same(run_dir, whole):
    found = outcome(run_dir)
    assert {key for key in whole if found[key] != whole[key]} == set()


def said(run_dir):
    return Path(f"{run_dir}.said").read_text().splitlines()[-1]


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(tmp_path / "disk")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def fill(disk):
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:
                continue


@pytest.mark.slow
def test_a_full_disk_is_told_and_costs_an_epoch_at_most(disk, tmp_path, whole):
    run_dir = tmp_path / "run"
    (disk / "run").mkdir()
    run_dir.symlink_to(disk / "run")
    for sign in ("replay/pixels.bin", "state/epoch-000001", "state/epoch-000002", "state/epoch-000003"):
        process = start("micro", run_dir)
        while process.is_alive() and not (run_dir / sign).exists():
            pass
        fill(disk)
        process.join()
        assert process.exitcode == 1
        assert "No space left on device" in said(run_dir)
        assert "Make room; then run the same command again to go on from" in said(run_dir)
        (disk / "ballast").unlink()
    finish("micro", run_dir)
    assert_same(run_dir, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_files", "smaller_files"])
def test_a_write_that_is_refused_is_told_and_costs_an_epoch_at_most(tmp_path, whole, name):
    """Without a disk of one's own: the operating system refuses files beyond a size (RLIMIT_FSIZE)."""
    run_dir = tmp_path / "run"
    process = start(name, run_dir)
    process.join()
    assert process.exitcode == 1
    assert "File too large" in said(run_dir)
    assert "Make room; then run the same command again" in said(run_dir)
    finish("micro", run_dir)
    assert_same(run_dir, whole)


@pytest.mark.slow
def test_a_disk_that_cannot_be_written_is_told(disk, tmp_path, whole):
    run_dir = tmp_path / "run"
    (disk / "run").mkdir()
    run_dir.symlink_to(disk / "run")
    assert kill_when(start("micro", run_dir), (run_dir / "state" / "epoch-000002").exists)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    process = start("micro", run_dir)
    process.join()
    assert process.exitcode == 1
    assert "Read-only file system" in said(run_dir)
    assert "See to it that it can be read and written; then run the same command again" in said(run_dir)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    finish("micro", run_dir)
    assert_same(run_dir, whole)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(RunError, match=r"Permission denied.*See to it that it can be read and written"):
        run(tmp_path / "run")


@pytest.mark.slow
def test_a_clock_that_goes_backwards_changes_nothing(tmp_path, whole):
    run_dir = tmp_path / "run"
    for age in (1, 2):  # every file is from the future, the older the later
        assert kill_when(start("micro", run_dir), (run_dir / "state" / f"epoch-{age + 1:06d}").exists)
        for index, path in enumerate(sorted(run_dir.rglob("*"), reverse=True)):
            os.utime(path, (4e9 + 1000 * index, 4e9 + 1000 * index))
    finish("micro", run_dir)
    assert_same(run_dir, whole)


@pytest.mark.slow
def test_a_damaged_newest_state_costs_an_epoch_and_nothing_else(tmp_path, whole):
    run_dir = tmp_path / "run"
    finish("micro", run_dir)
    shutil.rmtree(run_dir / "checkpoint")
    path = run_dir / "state" / "epoch-000004" / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    finish("micro", run_dir)
    assert "epoch-000004/tensors.safetensors was damaged" in Path(f"{run_dir}.said").read_text()
    assert_same(run_dir, whole)


@pytest.mark.parametrize(
    ("method", "nth", "where"),
    [
        ("step", 63, r"in game \d+ of the collection after \d+ steps"),
        ("reset", 2, r"in game \d+ of the collection after 0 steps"),
        ("step", 80, r"in the evaluation, in one of the games at steps \["),
        ("reset", 3, r"at the beginning of the evaluation"),
    ],
)
def test_a_game_that_raises_in_the_middle_is_told_and_the_run_goes_on_when_it_is_mended(
    tmp_path, whole, monkeypatch, method, nth, where
):
    calls, sound = [], getattr(ToyGame, method)

    def broken(game, *args, **kwargs):
        calls.append(game)
        if len(calls) == nth:
            raise ZeroDivisionError("the ball is nowhere")
        return sound(game, *args, **kwargs)

    monkeypatch.setattr(ToyGame, method, broken)
    with pytest.raises(RunError, match=rf"The game raised ZeroDivisionError \(the ball is nowhere\) {where}"):
        run(tmp_path / "run")
    monkeypatch.undo()
    run(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_not_learned_from(tmp_path, monkeypatch, reward):
    sound = ToyGame.step

    def pays(game, action):
        pixels, _, *rest = sound(game, action)
        return pixels, reward if game.steps == 7 else 0.0, *rest

    monkeypatch.setattr(ToyGame, "step", pays)
    with pytest.raises(RunError, match=r"The game paid .* not a finite reward"):
        run(tmp_path / "run")


@pytest.mark.parametrize("phase", ["fit_world_model", "fit_agent"])
def test_nothing_is_trained_on_a_loss_that_is_not_finite(tmp_path, whole, monkeypatch, phase):
    """The policy: stop, keep the last good state."""
    sound, calls = getattr(trainers.train, phase), []

    def poisoned(model, *rest):
        calls.append(model)
        for index, step in enumerate(sound(model, *rest)):
            if len(calls) == 2 and index == 1:
                next(parameter for parameter in model.parameters() if parameter.requires_grad).data.fill_(float("nan"))
            yield step

    monkeypatch.setattr(trainers.train, phase, poisoned)
    with pytest.raises(
        RunError, match=r"Not finite after \d+ updates; no weight was changed|The agent's policy is not finite"
    ):
        run(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["epoch-000001"]
    monkeypatch.undo()
    run(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("part", "field", "lower"),
    [
        ("fit_world_model", "batch", r"fit_world_model\.batch"),
        ("fit_agent", "batch", r"fit_agent\.batch or fit_agent\.contexts"),
        ("fit_agent", "contexts", r"fit_agent\.batch or fit_agent\.contexts"),
    ],
)
def test_too_much_for_the_memory_is_told_by_the_number_to_lower(tmp_path, part, field, lower):
    config = replace(MICRO, **{part: replace(getattr(MICRO, part), **{field: 2**45})})
    with pytest.raises(RunError, match=rf"Not enough memory: lower {lower}\."):
        run(tmp_path / "run", config)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, b'{"game": 1, "game": 2}', b'{"seed": 1e999}']
)
def test_a_configuration_edited_by_hand_into_nothing_is_told(tmp_path, content):
    open_run(tmp_path / "run", MICRO, TOY, 0, 3, CPU).close()
    (tmp_path / "run" / "config.json").write_bytes(content)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises((RunError, ValueError), match=r"config\.json is damaged|something else than a run"):
        run(tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_scores_are_replaced_in_one_step(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("power cut")))
    (tmp_path / "scores.json").write_text("[1]")
    with pytest.raises(OSError, match="power cut"):
        trainers.train.replace_file(tmp_path / "scores.json", json.dumps([1, 2]).encode())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("scores.json", "[1]")]
