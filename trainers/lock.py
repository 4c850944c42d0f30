"""One process a run directory: a lock that the operating system lets go of when its holder dies, however it dies."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from filelock import FileLock, Timeout

from jedi_env.errors import UsageError

LOCK, HOLDER = "lock", "lock.holder"  # the locked file, and who locked it: for the message alone


def lock_run(run_dir: Path) -> FileLock:
    """Return the lock of ``run_dir``, taken; its ``release`` lets it go.

    Raises:
        UsageError: another process has it.
    """
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        holder = run_dir / HOLDER
        who = holder.read_text(errors="replace")[:100] if holder.is_file() else "unknown"
        raise UsageError(
            f"{run_dir} is in use by another process (pid {who}). Wait for it or stop it, or write another --run-dir."
        ) from error
    try:
        (run_dir / HOLDER).write_text(f"{os.getpid()} on {platform.node()}")
    except OSError:
        lock.release()
        raise
    return lock
