"""Where a dream is found by the name of its game, and the one copy of its weights that a process shares."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import torch

from jedi_env import hub
from jedi_env.checkpoint import Checkpoint, as_device, as_folder
from jedi_env.checkpoint_config import CONFIG, FILES, config_bytes
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
            copy), or None: see :func:`locate`.
        device: where it shall be.

    Raises:
        UsageError: there is no dream of the game, or the checkpoint is another game's.
        CheckpointError: the checkpoint is missing, damaged, or cannot be downloaded.
    """
    if isinstance(checkpoint, Checkpoint):
        found = checkpoint.to(device)
    elif isinstance(checkpoint, str) and checkpoint.startswith(hub.PREFIX):
        found = _shared(hub.download(checkpoint, FILES), as_device(device))
    elif checkpoint is not None:
        found = _shared(as_folder(checkpoint), as_device(device))
    elif game is None:
        raise UsageError(
            "Which dream? Write checkpoint= with a folder, hub://owner/repo or a Checkpoint, or name a game in the id: "
            "JEDIDream-Breakout-v0."
        )
    else:
        folder = locate(game)
        if folder is None:
            raise UsageError(_no_dream(game))
        found = _shared(folder, as_device(device))
    if game in GAMES and found.game in GAMES and game != found.game:
        raise UsageError(
            f"This is a dream of {found.game}, not of {game}: write JEDIDream-{found.game}-v0 (or JEDIDream-v0, which "
            "takes any), or another checkpoint=."
        )
    return found


def homes() -> list[Path]:
    """Return where dreams are looked up, first to last: ``$JEDI_ENV_HOME``, the user's cache, this package's own."""
    chosen, cache = os.environ.get("JEDI_ENV_HOME"), os.environ.get("XDG_CACHE_HOME")
    user = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"  # relative: XDG says ignore
    places = [user / "jedi-env", Path(__file__).parent / "pretrained"]
    return [Path(chosen).expanduser(), *places] if chosen else places


def locate(game: str) -> Path | None:
    """Return the folder of the dream of ``game`` that is used if none is named, or None if there is none."""
    if Path(game).is_absolute() or not {"..", ""}.isdisjoint(game.replace("\\", "/").split("/")):
        return None
    return next((home / game for home in homes() if current(home / game).is_dir()), None)


def dreams() -> list[str]:
    """Return the names by which the dreams on this machine are found."""
    return sorted({path.parent.name for home in homes() for path in home.glob(f"[!.]*/{CONFIG}")})


def _no_dream(game: str) -> str:
    train = f"`jedi-env train {game} --run-dir runs/{game}`, then checkpoint='runs/{game}/checkpoint'"
    return (
        f"There is no dream of {game!r} in {', '.join(str(home) for home in homes())}."
        f"{'' if game in GAMES else nearest(game, GAMES)} Train one: {train} (or copy that folder to "
        f"{homes()[0] / game}). Or name a folder or hub://owner/repo instead. "
        f"There are dreams of: {', '.join(dreams()) or 'no game yet'}."
    )


_loaded: dict[tuple[Path, torch.device], tuple[str, Checkpoint]] = {}
_loading = threading.Lock()


def _unlock() -> None:
    """Give a forked process a lock of its own: the thread that held its parent's is not there to let go of it."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_unlock)


def _shared(folder: Path, device: torch.device) -> Checkpoint:
    """Return the process's one copy of the checkpoint in ``folder``; a replaced folder is loaded anew."""
    key = (folder.resolve(), device)
    with _loading:
        digest = checksum(config_bytes(current(key[0])) or b"")  # config.json holds the checksums of all the rest
        if key not in _loaded or _loaded[key][0] != digest:
            _loaded[key] = (digest, Checkpoint.load(folder, device))
        return _loaded[key][1]
