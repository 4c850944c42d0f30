"""What several verbs need: opening a dream by its name, and refusing flags out of range."""

from __future__ import annotations

from pathlib import Path

from jedi_env.checkpoint import Checkpoint, find_checkpoint
from jedi_env.errors import UsageError, nearest
from jedi_env.games import GAMES


def open_dream(dream: str) -> Checkpoint:
    """Return the dream that the command line names: a game, a folder or hub://owner/repo."""
    if dream in GAMES:
        return find_checkpoint(dream, None)
    if not dream.startswith("hub://") and not Path(dream).is_dir():
        raise UsageError(
            f"{dream!r} is neither one of the 26 games nor a folder.{nearest(dream, GAMES)} Write a game with a dream "
            f"(see `jedi-env list`), a checkpoint folder, or hub://owner/repo."
        )
    return find_checkpoint(None, dream)


def check_least(*flags: tuple[str, int, int]) -> None:
    """Refuse a flag whose value is less than the least that is allowed: (flag, value, least)."""
    for flag, value, least in flags:
        if value < least:
            raise UsageError(f"{flag} is {value}; write a whole number of at least {least}.")
