"""Sweeps on real Ray clusters: what dies is taken up where it stood, and in the end nobody can tell."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import trainers.sweep
from tests.trainers.killing import outcome
from tests.trainers.ray_cluster import cluster_of
from trainers.cli import main
from trainers.lock import read_holder
from trainers.log import read
from trainers.presets import PRESETS
from trainers.state import completed

ROOT = Path(__file__).parents[2]
GAME = "JEDICatch-v0"
EPOCHS = 25  # of a run that something happens to

# Flags that make the tiny preset microscopic.
MICRO = shlex.split(
    "--collect.first-steps 60 --collect.first-steps-limit 60 --collect.steps 20 "
    "--fit-world-model.first-updates 2 --fit-world-model.updates 1 --fit-world-model.batch 2 "
    "--fit-world-model.freeze-encoder-after 5 --fit-agent.first-updates 1 --fit-agent.updates 1 --fit-agent.batch 2 "
    "--fit-agent.horizon 3 --fit-agent.contexts 4 --evaluate.every 5 --evaluate.episodes 1 "
    "--evaluate.final-episodes 2 --bank 4 --world-model.encoder.channels 8 16 --world-model.encoder.down True False "
    "--world-model.denoiser.channels 8 --world-model.reward-end.channels 8 8 --world-model.reward-end.lstm-dim 8 "
    "--decoder.channels 8 --decoder.blocks 1"
)


def flags(epochs):
    return [*MICRO, "--collect.total-steps", str(60 + 20 * (epochs - 1))]


def begin(*words):
    """Begin a command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "trainers.cli", "sweep", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process, code=0):
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    return out, err


def until(seen, process):
    while not seen():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def train_alone(run_dir, seed):
    """The run, undisturbed and without Ray: on one thread, as a sweep with one CPU a run."""
    main(["train", GAME, "--seed", str(seed), "--run-dir", str(run_dir), *flags(EPOCHS)])


def without_origin(found):
    """All but the command that made it; and somebody may commit while the tests run."""
    if isinstance(found, dict):
        return {key: without_origin(value) for key, value in found.items() if key not in ("command", "commit")}
    return [without_origin(value) for value in found] if isinstance(found, list | tuple) else found


def assert_same(run_dir, alone):
    """Every epoch is there once, and all is as it is without a sweep."""
    collected = [line["epoch"] for line in read(run_dir) if line["phase"] == "collect"]
    assert collected == list(range(EPOCHS))
    here, there = (without_origin(outcome(folder)) for folder in (run_dir, alone))
    assert {key for key in there if here[key] != there[key]} == set()


def pid_of(run_dir):
    return int(read_holder(run_dir).who.split()[0])


def node_of(run_dir):
    """The parent of a worker's process: the Ray of its node."""
    status = Path(f"/proc/{pid_of(run_dir)}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--games Breakot", "Did you mean 'Breakout'?"),
        ("--games all Breakot", "'all' is neither an Atari100k game nor a Gymnasium id"),
        ("--games Breakout --seeds 0", "--seeds is 0"),
        ("--games Breakout --retries -1", "--retries is -1"),
        ("--games Breakout --cpus 0", "--cpus is 0"),
        ("--games Breakout --gpus 1.5", "--gpus is 1.5: write 0, a fraction below 1, or a whole number"),
        ("--games Breakout --preset papr", "Did you mean 'paper'?"),
        ("--games Breakout --fit-agent.bach 3", "--fit-agent.bach"),
        ("--games", "games"),
        ("", "--games"),
    ],
)
def test_bad_usage_is_told_with_code_2_before_anything_is_begun(capsys, tmp_path, monkeypatch, line, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", *shlex.split(line)])
    assert exit_.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_told_before_ray_asks_for_it_again_and_again(
    capsys, tmp_path, monkeypatch, address
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray would go on asking for minutes."))
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", "--games", GAME, "--address", address])
    assert exit_.value.code == 2
    assert f"No Ray cluster could be reached at '{address}'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_ray_it_says_what_to_install(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "trainers.sweep", raising=False)
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", "--games", GAME])
    assert exit_.value.code == 2
    assert "pip install 'jedi-env[cluster]'" in capsys.readouterr().err


def test_the_command_line_alone_does_not_import_ray():
    code = "import sys, trainers.cli, trainers.commands.sweep; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_two_runs_on_this_machine(tmp_path):
    """One of them cannot be; it does not hold up the other, and is not tried again. What is finished is left alone."""
    runs = tmp_path / "runs"
    out, err = end(begin("--games", GAME, "CartPole-v1", "--out", runs, "--json", *flags(2)), code=1)
    fine, bad = json.loads(out)
    assert (fine["run_dir"], fine["attempts"], fine["error"]) == (str(runs / "jedicatch-v0-tiny-0"), 1, "")
    assert (bad["game"], bad["seed"], bad["attempts"]) == ("CartPole-v1", 0, 1)
    assert "a real game must show uint8 images" in bad["error"]
    assert "1 of 2 runs failed:\n  cartpole-v1-tiny-0  " in err
    assert completed(runs / "jedicatch-v0-tiny-0")[0] == 2
    (score,) = json.loads((runs / "jedicatch-v0-tiny-0" / "scores.json").read_text())
    assert " sweep --games JEDICatch-v0 CartPole-v1 " in score["command"]
    logs = {path.name for path in (runs / ".sweep").iterdir()}
    assert logs == {"jedicatch-v0-tiny-0.log", "cartpole-v1-tiny-0.log"}
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    out, _ = end(begin("--games", GAME, "--out", runs, "--json", *flags(2)))  # needs no Ray
    assert [told["attempts"] for told in json.loads(out)] == [0]
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before


def test_a_directory_that_holds_something_else_fails_alone_and_is_not_touched(tmp_path, capsys):
    run = tmp_path / "jedicatch-v0-tiny-0"
    run.mkdir()
    (run / "thesis.tex").write_text("precious")
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", "--games", GAME, "--out", str(tmp_path)])
    assert exit_.value.code == 1
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == [run.name, "thesis.tex"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_and_a_whole_node_die_and_every_run_ends_once(tmp_path):
    runs = [tmp_path / "runs" / f"jedicatch-v0-tiny-{seed}" for seed in range(3)]

    def under_way():
        return [run for run in runs if read_holder(run) is not None and completed(run)[0] >= 2]

    with cluster_of(2) as cluster:
        sweep = begin(
            *("--games", GAME, "--seeds", 3, "--out", tmp_path / "runs", "--address", cluster.address), *flags(EPOCHS)
        )
        until(lambda: any(node_of(run) in cluster.others for run in under_way()), sweep)
        there = next(run for run in under_way() if node_of(run) in cluster.others)
        cluster.kill(node_of(there))
        until(lambda: set(under_way()) - {there}, sweep)
        elsewhere = next(run for run in under_way() if run != there)
        os.kill(pid_of(elsewhere), signal.SIGKILL)
        _, err = end(sweep)
    assert f"{there.name}: Its task was lost" in err
    assert f"{elsewhere.name}: Its task was lost" in err
    assert "3 runs: 100%" in err
    for seed, run in enumerate(runs):
        train_alone(tmp_path / f"alone-{seed}", seed)
        assert_same(run, tmp_path / f"alone-{seed}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_earlier_attempt_that_lives_on_is_no_second_writer(tmp_path):
    """As of a machine that was cut off from the cluster: the next attempt waits for it, and takes up what it leaves."""
    run = tmp_path / "runs" / "jedicatch-v0-tiny-0"
    earlier = subprocess.Popen(
        [sys.executable, "-m", "trainers.cli", "train", GAME, "--run-dir", str(run), *flags(EPOCHS)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    until(lambda: completed(run)[0] >= 2, earlier)
    earlier.send_signal(signal.SIGSTOP)
    sweep = begin("--games", GAME, "--out", tmp_path / "runs", *flags(EPOCHS))
    until((tmp_path / "runs" / ".sweep" / f"{run.name}.log").exists, sweep)
    epoch = completed(run)[0]
    earlier.send_signal(signal.SIGCONT)
    until(lambda: completed(run)[0] > epoch, sweep)
    assert pid_of(run) == earlier.pid
    earlier.kill()  # now it is really gone
    earlier.wait()
    end(sweep)
    train_alone(tmp_path / "alone", 0)
    assert_same(run, tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_ends_it_with_a_sentence_and_the_same_command_goes_on(tmp_path):
    run = tmp_path / "runs" / "jedicatch-v0-tiny-0"
    line = ("--games", GAME, "--out", tmp_path / "runs", *flags(EPOCHS))
    sweep = begin(*line)
    until(lambda: completed(run)[0] >= 2, sweep)
    sweep.send_signal(signal.SIGINT)
    _, err = end(sweep, code=1)
    assert "interrupted with 1 of 1 runs to go; run the same command again" in err.splitlines()[-1]
    assert read_holder(run) is None  # it was interrupted, not killed
    assert 2 <= completed(run)[0] < EPOCHS
    out, _ = end(begin(*line))
    assert "1 of 1 runs finished (0 had been before)" in out
    train_alone(tmp_path / "alone", 0)
    assert_same(run, tmp_path / "alone")


def test_retries_are_counted_from_the_last_epoch_that_was_completed(tmp_path, monkeypatch):
    """Ray is played here: two epochs are seen to end, then the task is lost; and in the end without any epoch."""
    found = {"epoch": 0, "polls": 0}

    def wait(references, **_):
        found["polls"] += 1
        if found["polls"] % 3 and found["polls"] < 18:
            found["epoch"] += 1
            return [], references
        return references[:1], []

    task = SimpleNamespace(remote=lambda *_: object())
    remote = SimpleNamespace(options=lambda **_: task)
    monkeypatch.setattr(trainers.sweep, "ray", SimpleNamespace(remote=lambda **_: lambda _: remote, wait=wait))
    monkeypatch.setattr(trainers.sweep, "_ended", lambda _: trainers.sweep._Ended("Its task was lost."))
    monkeypatch.setattr(trainers.sweep, "completed", lambda _: (found["epoch"], 10))
    bar = SimpleNamespace(update=lambda _: None, write=lambda *_, **__: None, set_postfix_str=lambda _: None)
    courses = [trainers.sweep._Course(trainers.sweep.Job("Breakout", 0, tmp_path / "run", PRESETS["tiny"]))]
    resources = trainers.sweep.Resources()
    [outcome] = trainers.sweep._outcomes(courses, resources, 3, tmp_path, bar)
    assert found["epoch"] == 12
    assert outcome.attempts == 9  # six that brought it on, and three more after the last
    assert outcome.error == "Its task was lost."
