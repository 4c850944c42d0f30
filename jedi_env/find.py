"""Where a dream is found by the name of its game, and the one copy of its weights that a process shares."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import torch

from jedi_env import hub
from jedi_env.checkpoint import Checkpoint, as_folder
from jedi_env.checkpoint_config import CONFIG, FILES, config_bytes
from jedi_env.device import resolve_device
from jedi_env.errors import UsageError, nearest
from jedi_env.folder import current
from jedi_env.games import GAMES
from jedi_env.tensor_file import checksum


def find_checkpoint(
    game: str | None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Return the dream that the arguments of an environment mean, on ``device``.

    What is loaded here is shared: one set of weights a process, folder and device, however many environments are made.

    Args:
        game: one of the 26 games, a Gymnasium id, or None for any.
        checkpoint: a folder, ``hub://owner/repo[@revision]``, a checkpoint (itself if it is on ``device``, else a
            copy), one of the 26 games if no checkpoint here has that name, or None: see :func:`locate`.
        device: where it shall be.

    Raises:
        UsageError: there is no dream of the game, or the checkpoint is another game's.
        CheckpointError: the checkpoint is missing, damaged, or cannot be downloaded.
    """
    if isinstance(checkpoint, Checkpoint):
        found = checkpoint.to(device)
    elif isinstance(checkpoint, str) and checkpoint.startswith(hub.PREFIX):
        found = _shared(hub.download(checkpoint, FILES), resolve_device(device))
    elif checkpoint is not None and not _names_a_game(checkpoint):
        found = _shared(as_folder(checkpoint), resolve_device(device))
    else:
        name = game if checkpoint is None else str(checkpoint)
        if name is None:
            raise UsageError(
                "Which dream? Write checkpoint= with a folder, hub://owner/repo or a Checkpoint, or name a game in the "
                "id: JEDIDream-Breakout-v0."
            )
        folder = locate(name)
        if folder is None:
            raise UsageError(_no_dream(name))
        found = _shared(folder, resolve_device(device))
    if game in GAMES and found.game is not None and game != found.game:
        its = f"JEDIDream-{found.game}-v0 (or JEDIDream-v0, which takes any)"
        raise UsageError(
            f"This is a dream of {found.game}, not of {game}: write "
            f"{its if found.game in GAMES else 'JEDIDream-v0, which takes any'}, or another checkpoint=."
        )
    return found


def _names_a_game(checkpoint: str | os.PathLike[str]) -> bool:
    """Return whether it is the name of a game, and not of a checkpoint that lies here under that name."""
    return isinstance(checkpoint, str) and checkpoint in GAMES and not (current(Path(checkpoint)) / CONFIG).exists()


def homes() -> list[Path]:
    """Return where dreams are looked up, first to last: ``$JEDI_ENV_HOME``, the user's cache, this package's own.

    A cache that may not be read is left out, and so it is where there is no home directory.

    Raises:
        UsageError: ``$JEDI_ENV_HOME`` may not be read, or there is no home directory for its ``~``.
    """
    cache, package = _user_cache(), Path(__file__).parent / "pretrained"
    places = [package] if cache is None or not _may_read(cache) else [cache, package]
    chosen = os.environ.get("JEDI_ENV_HOME")
    return [_chosen_home(chosen), *places] if chosen else places


def _user_cache() -> Path | None:
    """Return the user's cache of dreams, or None if there is no home directory to have it in."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache and Path(cache).is_absolute():  # relative: XDG says ignore
        return Path(cache) / "jedi-env"
    try:
        return Path.home() / ".cache" / "jedi-env"
    except RuntimeError:
        return None


def _chosen_home(chosen: str) -> Path:
    try:
        home = Path(chosen).expanduser()
    except RuntimeError as error:
        raise UsageError(f"JEDI_ENV_HOME is {chosen!r}, but ~ is no home directory here: write a full path.") from error
    if not _may_read(home):
        raise UsageError(f"JEDI_ENV_HOME is {chosen!r}, which you may not read: name another folder, or unset it.")
    return home


def _may_read(folder: Path) -> bool:
    """Return whether what is in ``folder`` may be looked at, if it is there at all."""
    try:
        (folder / CONFIG).stat()
    except PermissionError:
        return False
    except OSError:  # it is not there
        return True
    return True


def locate(game: str) -> Path | None:
    """Return the folder of the dream of ``game`` that is used if none is named, or None if there is none.

    Raises:
        UsageError: see :func:`homes`.
    """
    if Path(game).is_absolute() or not {"..", ""}.isdisjoint(game.replace("\\", "/").split("/")):
        return None
    return next((home / game for home in homes() if current(home / game).is_dir()), None)


def dreams() -> list[str]:
    """Return the names by which the dreams on this machine are found."""
    return sorted({path.parent.name for home in homes() for path in home.glob(f"[!.]*/{CONFIG}")})


def _no_dream(game: str) -> str:
    train = f"`jedi-env train {game} --run-dir runs/{game}`, then checkpoint='runs/{game}/checkpoint'"
    places = homes()
    to = places[0] / game if len(places) > 1 else f"$JEDI_ENV_HOME/{game}"  # not into the package
    return (
        f"There is no dream of {game!r} in {', '.join(str(home) for home in places)}."
        f"{'' if game in GAMES else nearest(game, GAMES)} Train one: {train} (or copy that folder to {to}). "
        "Or name a folder or hub://owner/repo instead. "
        f"There are dreams of: {', '.join(dreams()) or 'no game yet'}."
    )


_loaded: dict[tuple[Path, torch.device], tuple[str, Checkpoint]] = {}
_loading = threading.Lock()


def _do_without_the_parents_threads() -> None:
    """Keep a forked process from waiting for threads of its parent, of which it has none.

    It gets a lock of its own, as the thread that held its parent's cannot let go of it; and PyTorch counts with one
    thread, as in the workers of its ``DataLoader``, instead of handing work to its parent's pool.
    """
    global _loading
    _loading = threading.Lock()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_do_without_the_parents_threads)


def _shared(folder: Path, device: torch.device) -> Checkpoint:
    """Return the process's one copy of the checkpoint in ``folder``; a replaced folder is loaded anew."""
    key = (folder.resolve(), device)
    with _loading:
        digest = checksum(config_bytes(current(key[0])) or b"")  # config.json holds the checksums of all the rest
        if key not in _loaded or _loaded[key][0] != digest:
            _loaded[key] = (digest, Checkpoint.load(folder, device))
        return _loaded[key][1]
