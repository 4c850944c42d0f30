"""One writer a run directory, on one machine or on storage that several machines share.

Two guards. A lock (flock), which the operating system lets go of when its holder dies, however it dies: between
processes of one machine it decides alone, and between machines wherever the file system passes locks on (NFS does by
default). And a sign of life, because some shared storage keeps locks to each machine, and because a machine that was
cut off may come back: the holder rewrites ``lock.holder`` every few seconds; another machine waits until it has stood
still; and a holder that finds another's name in it ends at once, before it writes anything more. No two machines'
clocks are compared.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from jedi_env.errors import RunError, UsageError

logger = logging.getLogger(__name__)

LOCK, HOLDER = "lock", "lock.holder"  # the locked file, and who locked it
BEAT = 5.0  # seconds between two signs of life
SILENCE = 12  # beats without one, after which another machine may take over
TAKEN_OVER = 70  # exit code of a process whose run directory was taken over


class RunInUseError(UsageError):
    """Another process works in the run directory."""


@dataclass(frozen=True)
class Holder:
    """What ``lock.holder`` says, a line each.

    Attributes:
        who: process and machine, for people.
        machine: what two processes have in common between which the lock decides alone: a running kernel.
        token: of this one hold.
        beats: signs of life so far.
    """

    who: str
    machine: str
    token: str
    beats: int = 0


def read_holder(run_dir: Path) -> Holder | None:
    """Return who works in ``run_dir``, or died there; None if nobody, or if it cannot be told."""
    try:
        who, machine, token, beats = (run_dir / HOLDER).read_text(errors="replace")[:1000].splitlines()
        return Holder(who, machine, token, int(beats))
    except (OSError, ValueError):  # none; or being written, or another version's
        return None


class RunLock:
    """A held run directory; made by :func:`lock_run`.

    Args:
        run_dir: the directory.
        lock: its lock, taken.
    """

    def __init__(self, run_dir: Path, lock: FileLock) -> None:
        self._run_dir = run_dir
        self._lock = lock
        self._holder = Holder(f"{os.getpid()} on {platform.node()}", _machine(), uuid.uuid4().hex)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="run lock", daemon=True)

    def begin(self) -> None:
        """Sign, and go on giving signs of life."""
        self._sign()
        self._thread.start()

    def check(self) -> None:
        """Do nothing if the directory is still ours.

        Raises:
            RunError: another process has taken it over.
        """
        now = read_holder(self._run_dir)
        if now is not None and now.token != self._holder.token:
            raise RunError(
                f"{self._run_dir} was taken over by process {now.who}: this one had given no sign of life for "
                f"{BEAT * SILENCE:.0f} s. It ends here and leaves the run to the other."
            )

    def release(self) -> None:
        """Let go, and leave no name behind."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        now = read_holder(self._run_dir)
        if now is not None and now.token == self._holder.token:
            with suppress(OSError):
                (self._run_dir / HOLDER).unlink()
        self._lock.release()

    def _sign(self) -> None:
        self._holder = replace(self._holder, beats=self._holder.beats + 1)
        now = self._holder
        # In place, and of one length: it needs no room on a full disk, and no reader finds half of it.
        line = f"{now.who}\n{now.machine}\n{now.token}\n{now.beats:012d}\n"
        with open(os.open(self._run_dir / HOLDER, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
            file.write(line.encode())
            file.truncate()

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self.check()
                self._sign()
            except RunError as error:
                logger.critical("%s", error)
                # Not an exception: on its way out, this process would still write what it has buffered.
                os._exit(TAKEN_OVER)
            except OSError as error:  # the storage is away: then nothing can be written by anybody from here
                logger.warning("No sign of life could be given in %s: %s", self._run_dir, error)


def lock_run(run_dir: Path) -> RunLock:
    """Return the lock of ``run_dir``, taken; its ``release`` lets it go.

    If the last to work there was on another machine and did not let go, this takes a minute: it may be alive.

    Raises:
        RunInUseError: another process has it.
    """
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise _in_use(run_dir) from error
    try:
        _wait_for_silence(run_dir)
        held = RunLock(run_dir, lock)
        held.begin()
    except BaseException:
        lock.release()
        raise
    return held


def _wait_for_silence(run_dir: Path) -> None:
    """Wait until whoever holds ``run_dir`` by its name alone, on another machine, must be taken for dead."""
    before = read_holder(run_dir)
    if before is None or before.machine == _machine():  # of this machine's processes we have the lock: they are dead
        return
    logger.warning(
        "%s was last in use by process %s, which did not let go of it: waiting %.0f s for a sign of life.",
        run_dir,
        before.who,
        BEAT * SILENCE,
    )
    for _ in range(SILENCE):
        time.sleep(BEAT)
        now = read_holder(run_dir)
        if now is None:  # it came to its end
            return
        if now != before:
            raise _in_use(run_dir)


def _in_use(run_dir: Path) -> RunInUseError:
    holder = read_holder(run_dir)
    who = holder.who if holder else "unknown"
    return RunInUseError(
        f"{run_dir} is in use by another process (pid {who}). Wait for it or stop it, or write another --run-dir."
    )


def _machine() -> str:
    """Return what names the running kernel: locks between its processes are certain."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return boot.read_text().strip()
    except OSError:  # not Linux
        return platform.node()
