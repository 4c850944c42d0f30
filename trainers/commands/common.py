"""What several verbs need: opening a dream by its name, and refusing flags out of range."""

from __future__ import annotations

from pathlib import Path

import torch

from jedi_env.checkpoint import Checkpoint, find_checkpoint, locate
from jedi_env.errors import UsageError, nearest
from jedi_env.games import GAMES


def open_dream(dream: str, device: torch.device | str = "cpu") -> Checkpoint:
    """Return the dream that the command line names: a game, a checkpoint, a run directory or hub://owner/repo."""
    folder = Path(dream)
    if dream.startswith("hub://"):
        return find_checkpoint(None, dream, device)
    if (folder / "checkpoint").is_dir():
        return find_checkpoint(None, folder / "checkpoint", device)
    if (folder / "state").is_dir():
        raise UsageError(f"The run in {dream} has no checkpoint yet: let `jedi-env train` come to its end first.")
    if folder.is_dir() and dream not in GAMES:
        return find_checkpoint(None, folder, device)
    if dream in GAMES or locate(dream) is not None:  # also JEDICatch-v0
        return find_checkpoint(dream, None, device)
    raise UsageError(
        f"{dream!r} is neither one of the 26 games nor a folder.{nearest(dream, GAMES)} Write a game with a dream "
        f"(see `jedi-env list`), a checkpoint folder, a run directory, or hub://owner/repo."
    )


def check_least(*flags: tuple[str, int, int]) -> None:
    """Refuse a flag whose value is less than the least that is allowed: (flag, value, least)."""
    for flag, value, least in flags:
        if value < least:
            raise UsageError(f"{flag} is {value}; write a whole number of at least {least}.")
