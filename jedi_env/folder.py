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
import tempfile
import uuid
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from jedi_env.errors import CheckpointError, UsageError

ATTEMPTS = 100  # at reading or replacing a folder that others replace meanwhile


def replace_folder(folder: Path, files: Mapping[str, bytes], ours: Collection[str]) -> None:
    """Make ``folder`` hold ``files``, at once or not at all.

    Args:
        folder: its resolved path.
        files: content by name.
        ours: names that are not kept from the old folder; the others (a README) are.

    Raises:
        UsageError: the folder there cannot be put aside; nothing was changed.
        CheckpointError: others replace it all the time; nothing was written.
    """
    check_can_be_put_aside(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # What killed writers left; of those at work it is what they need no more once ours is there.
    garbage = [*_siblings(folder, "old"), *_siblings(folder, "trash")]
    new = _sibling(folder, "new")
    try:
        _build(folder, new, files, ours)
        garbage.append(_exchange(folder, new))
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for leftover in garbage:
        _discard(folder, leftover)


def replace_file(path: Path, content: bytes) -> None:
    """Make the file ``path`` hold ``content``, at once or not at all; for one writer at a time."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)  # a killed writer's
    try:
        _write_durably(aside, content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    _sync(path.parent)


def current(folder: Path) -> Path:
    """Return where the content of ``folder`` is to be read: there, or aside in the moment of its replacement.

    Raises:
        CheckpointError: a folder on the way to it may not be read.
    """
    try:
        folder.stat()
    except PermissionError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    except (OSError, ValueError):  # it is not there; or no file can have that name
        aside = _siblings(folder, "old")
        return aside[-1] if aside else folder
    return folder


def inside(folder: Path, name: str) -> Path:
    """Return the real path of the file ``name`` in ``folder``.

    Raises:
        CheckpointError: it is missing, no regular file, or a link out of the folder (but a hub cache's own links).
    """
    try:
        real = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a name that no file can have
        why = "it is no checkpoint, or not all of one" if folder.exists() else "there is no such folder"
        raise CheckpointError(f"{folder} lacks {name}: {why}.") from error
    home = folder.resolve()
    roots = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(real.is_relative_to(root) for root in roots):
        raise CheckpointError(f"{folder / name} is a link that climbs out of the folder: it was not followed.")
    if not real.is_file():
        raise CheckpointError(f"{folder / name} is no regular file.")
    return real


def refuse_pickles(folder: Path) -> None:
    """Raise :class:`CheckpointError` if a file in ``folder`` is a pickle or an archive like those of ``torch.save``.

    Recognised are pickles of the protocols 2 to 5, and zip archives, by their first bytes, in ``folder`` itself. Those
    of the protocols 0 and 1 have no such sign, and folders within are not looked into. Safety does not rest on it:
    nothing is ever unpickled, and no file but a checkpoint's own is opened for more than these bytes. It is so that
    whoever has such a file learns of it.
    """
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


def check_can_be_put_aside(folder: Path) -> None:
    """Raise :class:`UsageError` if the resolved ``folder`` is not only that, but also a place that somebody is at."""
    with contextlib.suppress(FileNotFoundError):  # the working directory was deleted
        if Path.cwd().is_relative_to(folder):
            raise UsageError(
                f"{folder} is replaced as a whole, and this process works in it: nothing was changed. Change to "
                "another directory first, or write to another path."
            )
    if os.path.ismount(folder):
        raise UsageError(
            f"{folder} is a mount point, which cannot be replaced: nothing was changed. Write to a folder in it."
        )


def check_writable(folder: Path) -> None:
    """Raise :class:`UsageError` if nothing can be written in ``folder`` or, if there is none yet, where it will be."""
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(f"Nothing can be written in {folder} ({error}): write another path.") from error


def _build(folder: Path, new: Path, files: Mapping[str, bytes], ours: Collection[str]) -> None:
    """Write ``files`` and what is kept from ``folder`` into ``new``."""
    for _ in range(ATTEMPTS):
        before = _identity(folder)
        try:
            there = current(folder)  # aside, if a writer was killed between its two renames
            if there.exists():
                shutil.copytree(there, new, symlinks=True, ignore=partial(_left_out, str(there), ours))
            else:
                new.mkdir()
            break
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            if before == _identity(folder):
                raise
    for name, content in files.items():
        _write_durably(new / name, content)
    _sync(new)


def _left_out(folder: str, ours: Collection[str], at: str, _: Collection[str]) -> Collection[str]:
    """Return what is not to be copied of the folder ``at``, which is ``folder`` or one in it."""
    return ours if at == folder else ()


def _exchange(folder: Path, new: Path) -> Path:
    """Rename ``new`` to ``folder``, and return where the old one is, if there was one.

    In between there is no ``folder``, and :func:`current` finds the old one.
    """
    for _ in range(ATTEMPTS):
        old = _sibling(folder, "old")
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, old)
        try:
            os.rename(new, folder)
        except BaseException as error:
            try:
                os.rename(old, folder)
            except OSError:  # there was none, or another writer's is there by now
                if folder.exists():
                    _discard(folder, old)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            raise
        _sync(folder.parent)
        return old
    raise CheckpointError(f"{folder} is replaced by others all the time: nothing was written.")


def _sibling(folder: Path, role: str) -> Path:
    """Return a new name beside ``folder`` for what is ``new``, ``old`` or ``trash``."""
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.{role}")


def _siblings(folder: Path, role: str) -> list[Path]:
    """Return the folders of that role, of writers at work or killed, oldest first."""
    there = []
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.{role}"):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            there.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(there)]


def _discard(folder: Path, leftover: Path) -> None:
    """Delete ``leftover``, which is whole as long as it has its name."""
    trash = _sibling(folder, "trash")
    with contextlib.suppress(OSError):  # gone meanwhile
        os.rename(leftover, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells ``folder`` from one that replaces it, or None if there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


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
