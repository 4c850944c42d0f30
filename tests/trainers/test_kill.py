"""Real processes, really killed: the same command goes on, and in the end nobody can tell."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.trainers.killing import finish, kill_when, outcome, start, where

KILLS = {"toy": 30, "breakout": 20}


def assert_same(run_dir, whole):
    here, there = outcome(run_dir), outcome(whole)
    assert {key for key in there if here[key] != there[key]} == set()


def size_of(path):
    try:
        return path.stat().st_size
    except OSError:
        return 0


def moments(run_dir):
    """What to wait for, by name: seen from outside, without a hook in the run."""
    state, replay, metrics = run_dir / "state", run_dir / "replay" / "pixels.bin", run_dir / "metrics.jsonl"
    played, logged = size_of(replay), size_of(metrics)

    def writes_a_state():
        return state.is_dir() and any(name.startswith(".epoch") for name in os.listdir(state))

    def has_imagined():
        return size_of(metrics) > logged and b'"imagine"' in b"".join(metrics.read_bytes().split(b"\n")[-2:-1])

    return {
        "in a state's writing": writes_a_state,
        "while it collects": lambda: size_of(replay) not in (played, 0),
        "after imagining, in evaluation if it is due": has_imagined,
    }


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", ["toy", "breakout"])
def test_killed_at_any_moment_it_ends_the_same(tmp_path, name, record_property):
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    seconds = finish(name, whole)
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 10**9))
    rng, landed, kills = random.Random(seed), Counter(), 0
    print(f"KILL_SEED={seed}, uninterrupted {seconds:.1f} s")
    attempts = 0
    while kills < KILLS[name]:
        attempts += 1
        process = start(name, run_dir)
        if attempts % 2:  # at a random moment of a life, the start of the process included
            deadline = time.monotonic() + rng.uniform(0, 0.5 * seconds)
            aim, seen = "at random", lambda deadline=deadline: time.monotonic() >= deadline
        else:
            aim, seen = rng.choice(sorted(moments(run_dir).items()))
            seen = delayed(seen, rng.uniform(0, 0.02))
        if not kill_when(process, seen):  # it came to its end before: from the beginning again, elsewhere
            assert process.exitcode == 0, Path(f"{run_dir}.said").read_text()[-2000:]
            assert_same(run_dir, whole)
            run_dir = tmp_path / f"run-{attempts}"
            continue
        kills += 1
        landed[aim, where(run_dir)] += 1
    finish(name, run_dir)
    for (aim, place), times in sorted(landed.items()):
        print(f"{times:3d} {aim}: {place}")
    record_property("kills", kills)
    assert_same(run_dir, whole)


def delayed(seen, seconds):
    """Return ``seen`` as it was so long ago."""
    since = []

    def later():
        if not since and seen():
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= seconds

    return later


@pytest.mark.slow
def test_killed_while_the_checkpoint_is_published(tmp_path):
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    finish("toy", whole)
    finish("toy", run_dir)
    rng, hits = random.Random(0), 0
    for _ in range(8):
        shutil.rmtree(run_dir / "checkpoint", ignore_errors=True)
        process = start("toy", run_dir)
        seen = delayed(lambda: any(run_dir.glob(".checkpoint.*.new")), rng.uniform(0, 0.005))
        hits += kill_when(process, seen) and not (run_dir / "checkpoint").exists()
    assert hits
    finish("toy", run_dir)
    assert_same(run_dir, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_soon_with_a_sentence_and_costs_at_most_an_epoch(tmp_path, number):
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    finish("toy", whole)
    rng, epochs = random.Random(int(number)), []
    for _ in range(5):
        process = start("toy", run_dir)
        newest = sorted((run_dir / "state").glob("epoch-*"))[-1:]
        wait_for = int(newest[0].name[-6:]) + 2 if newest else 2
        reached = delayed(lambda n=wait_for: (run_dir / "state" / f"epoch-{n:06d}").exists(), rng.uniform(0, 0.4))
        assert kill_when(process, reached, number)
        assert process.exitcode == 1
        said = Path(f"{run_dir}.said").read_text().splitlines()[-1]
        newest = sorted((run_dir / "state").glob("epoch-*"))[-1]
        assert said.endswith(
            f"interrupted; run the same command again to go on from the last completed epoch, {newest}"
        )
        epochs.append(int(newest.name[-6:]))
        if epochs[-1] > 9:
            break
    assert all(later >= earlier + 2 for earlier, later in pairwise(epochs))
    finish("toy", run_dir)
    assert_same(run_dir, whole)


def test_of_two_processes_the_second_is_refused_by_the_name_of_the_first(tmp_path):
    run_dir = tmp_path / "run"
    first = start("toy", run_dir)
    while not (run_dir / "metrics.jsonl").exists():
        assert first.is_alive()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)  # it cannot come to its end meanwhile
    try:
        second = start("toy", run_dir)
        second.join()
        said = Path(f"{run_dir}.said").read_text().splitlines()[-1]
        assert second.exitcode == 2
        assert f"{run_dir} is in use by another process (pid {first.pid} on " in said
        assert "write another --run-dir" in said
    finally:
        os.kill(first.pid, signal.SIGKILL)
    first.join()
    finish("toy", run_dir)  # the lock went with its holder
