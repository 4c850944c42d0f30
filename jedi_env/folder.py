"""A folder of data files: replaced in one step, and read without following where it does not lead.

A reader always finds a whole folder, the old one or the new one, whatever the writer dies of. It knows nothing of what
the files mean.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path

from jedi_env.errors import CheckpointError

ATTEMPTS = 100  # at reading or replacing a folder that others replace meanwhile


def replace_folder(folder: Path, files: Mapping[str, bytes], ours: Collection[str]) -> None:
    """Make ``folder`` hold ``files``, at once or not at all.

    Args:
        folder: its resolved path.
        files: content by name.
        ours: names that are not kept from the old folder; the others (a README) are.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:12]
    new, old = (folder.with_name(f".{folder.name}.{token}.{role}") for role in ("new", "old"))
    garbage = [old, *_set_aside(folder)]  # the latter of writers that were killed, or will not need it after us
    try:
        if folder.exists():
            shutil.copytree(folder, new, symlinks=True, ignore=lambda at, _: ours if at == str(folder) else ())
        else:
            new.mkdir()
        for name, content in files.items():
            _write_durably(new / name, content)
        _sync(new)
        _exchange(folder, new, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for leftover in garbage:
        shutil.rmtree(leftover, ignore_errors=True)


def current(folder: Path) -> Path:
    """Return where the content of ``folder`` is to be read: there, or aside in the moment of its replacement."""
    aside = [] if folder.exists() else _set_aside(folder)
    return aside[-1] if aside else folder


def inside(folder: Path, name: str) -> Path:
    """Return the real path of the file ``name`` in ``folder``.

    Raises:
        CheckpointError: it is missing, no regular file, or a link out of the folder (but a hub cache's own links).
    """
    try:
        real = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise CheckpointError(f"{folder} lacks {name}: it is no checkpoint, or not all of one.") from error
    home = folder.resolve()
    roots = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(real.is_relative_to(root) for root in roots):
        raise CheckpointError(f"{folder / name} is a link that climbs out of the folder: it was not followed.")
    if not real.is_file():
        raise CheckpointError(f"{folder / name} is no regular file.")
    return real


def refuse_pickles(folder: Path) -> None:
    """Raise :class:`CheckpointError` if a file in ``folder`` is a pickle or an archive like those of ``torch.save``."""
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        with path.open("rb") as stream:
            start = stream.read(9)
        # A safetensors file begins with the length of its header, which may be the same two bytes; then comes "{".
        bare = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5") and start[8:] != b"{"
        if bare or start.startswith(b"PK\3\4"):
            raise CheckpointError(
                f"{path} is a pickle, or an archive that may hold one (as torch.save writes): loading it could run "
                "anything. A checkpoint is data only; nothing was loaded."
            )


def _exchange(folder: Path, new: Path, old: Path) -> None:
    """Rename ``new`` to ``folder``; in between, its content is at ``old``, where :func:`current` looks."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, old)
        try:
            os.rename(new, folder)
        except BaseException as error:
            with contextlib.suppress(OSError):  # there was none, or another writer's is there by now
                os.rename(old, folder)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                shutil.rmtree(old, ignore_errors=True)
                continue
            raise
        _sync(folder.parent)
        return
    raise CheckpointError(f"{folder} is replaced by others all the time: nothing was written.")


def _set_aside(folder: Path) -> list[Path]:
    """Return what writers, at work or killed, moved from ``folder``, oldest first."""
    there = []
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            there.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(there)]


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut, where the file system can promise that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
