"""One writer a run directory: between processes of one machine, and between machines that share storage."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from jedi_env.errors import RunError
from trainers import lock as module
from trainers.lock import HOLDER, Holder, RunInUseError, lock_run, read_holder

BEAT = 0.05


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "BEAT", BEAT)


def sign(run_dir, beats, machine="another machine", token="theirs"):
    (run_dir / HOLDER).write_text(f"7 on elsewhere\n{machine}\n{token}\n{beats:012d}\n")


def until(seen):
    while not seen():
        time.sleep(0.01)


def test_it_says_who_holds_it_gives_signs_of_life_and_leaves_no_name_behind(tmp_path):
    lock = lock_run(tmp_path)
    first = read_holder(tmp_path)
    assert first.who.startswith(f"{os.getpid()} on ")
    until(lambda: read_holder(tmp_path).beats >= first.beats + 3)
    assert {line.strip() for line in (tmp_path / HOLDER).read_text().splitlines()[:3]} == {
        first.who,
        first.machine,
        first.token,
    }
    with pytest.raises(RunInUseError, match=rf"in use by another process \(pid {os.getpid()} on "):
        lock_run(tmp_path)
    lock.check()
    lock.release()
    assert not (tmp_path / HOLDER).exists()
    lock_run(tmp_path).release()


def test_a_dead_process_of_this_machine_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", None)  # not to be called
    sign(tmp_path, 5, module._machine())
    lock_run(tmp_path).release()


def test_another_machine_that_stays_silent_is_taken_for_dead(tmp_path, caplog):
    sign(tmp_path, 5)
    began = time.monotonic()
    lock = lock_run(tmp_path)
    assert time.monotonic() - began >= BEAT * module.SILENCE
    assert "7 on elsewhere, which did not let go" in caplog.text
    assert read_holder(tmp_path).who.startswith(f"{os.getpid()} on ")
    lock.release()


def test_another_machine_that_gives_signs_of_life_keeps_it(tmp_path):
    """As on storage that keeps locks to each machine: the lock itself could be had."""
    over = threading.Event()
    sign(tmp_path, 0)

    def live():
        beats = 0
        while not over.wait(BEAT):
            beats += 1
            sign(tmp_path, beats)

    alive = threading.Thread(target=live)
    alive.start()
    try:
        with pytest.raises(RunInUseError, match="pid 7 on elsewhere"):
            lock_run(tmp_path)
        assert read_holder(tmp_path).token == "theirs"
    finally:
        over.set()
        alive.join()
    lock_run(tmp_path).release()  # it was let go of, though not by name


def test_another_machine_that_lets_go_meanwhile_is_not_waited_for(tmp_path, monkeypatch):
    sign(tmp_path, 0)
    naps = []

    def nap(seconds):
        naps.append(seconds)
        (tmp_path / HOLDER).unlink()

    monkeypatch.setattr(module.time, "sleep", nap)
    lock_run(tmp_path).release()
    assert len(naps) == 1


def test_what_another_version_or_a_crash_left_is_no_name(tmp_path):
    for content in (b"", b"123 on somewhere", b"\xff\n\n\n\n", b"a\nb\nc\nmany\n"):
        (tmp_path / HOLDER).write_bytes(content)
        assert read_holder(tmp_path) is None
        lock_run(tmp_path).release()


def test_who_was_taken_over_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 60.0)
    lock = lock_run(tmp_path)
    sign(tmp_path, 1)
    with pytest.raises(RunError, match="taken over by process 7 on elsewhere"):
        lock.check()
    lock.release()
    assert read_holder(tmp_path) == Holder("7 on elsewhere", "another machine", "theirs", 1)


def _hold(run_dir):
    module.BEAT = BEAT
    lock_run(Path(run_dir))
    with (Path(run_dir) / "replay").open("wb") as buffered:
        buffered.write(b"stale")
        (Path(run_dir) / "ready").touch()
        time.sleep(60)


def test_who_was_taken_over_ends_at_once_and_writes_nothing_more(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path),))
    process.start()
    until((tmp_path / "ready").exists)
    sign(tmp_path, 1)
    process.join()
    assert process.exitcode == module.TAKEN_OVER
    assert (tmp_path / "replay").read_bytes() == b""
    assert read_holder(tmp_path).token == "theirs"
