"""What several verbs need: a run's settings and name, and opening a dream by its name."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import torch
import tyro

from jedi_env.checkpoint import Checkpoint
from jedi_env.errors import UsageError, nearest
from jedi_env.find import find_checkpoint, locate
from jedi_env.games import GAMES
from trainers.config import TrainConfig
from trainers.presets import PRESETS, for_any_game
from trainers.run_files import why_no_run

SIGNED = (*GAMES, "JEDICatch-v0", "jedi_env:JEDICatch-v0")  # whose rewards are learned by their sign


def resolve_config(preset: str, flags: list[str], program: str, *, any_game: bool = False) -> TrainConfig:
    """Return the preset's settings with those that ``flags`` give, each a field such as ``--fit-agent.batch 64``.

    Args:
        preset: its name.
        flags: of the command line, all that the verb itself does not know.
        program: what to call the command in messages.
        any_game: take the preset as :func:`trainers.presets.for_any_game` changes it.
    """
    if preset not in PRESETS:
        raise UsageError(f"Unknown preset {preset!r}.{nearest(preset, PRESETS)} Write one of: {', '.join(PRESETS)}.")
    try:
        return tyro.cli(
            TrainConfig,
            prog=program,
            args=flags,
            default=for_any_game(PRESETS[preset]) if any_game else PRESETS[preset],
            config=(tyro.conf.AvoidSubcommands,),  # which encoder it is, the preset says; so its fields are flags too
        )
    except SystemExit as refused:
        if refused.code:
            print("`jedi-env train GAME --dry-run --no-estimate` prints all settings.", file=sys.stderr)
        raise


def run_name(game: str, preset: str, seed: int) -> str:
    """Return the name of a run's directory."""
    return re.sub("[/:]", "-", f"{game}-{preset}-{seed}".lower())  # of an id such as module:space/id


def open_dream(dream: str, device: torch.device | str = "cpu") -> Checkpoint:
    """Return the dream that the command line names: a game, a checkpoint, a run directory or hub://owner/repo.

    Raises:
        UsageError: there is none; or it is somebody else's, and to play its real game would import a module that it
            names.
    """
    folder = Path(dream)
    if dream.startswith("hub://"):
        found = find_checkpoint(None, dream, device)
        module, colon, _ = (found.game or "").partition(":")
        if colon:
            raise UsageError(
                f"The game of {dream} is {found.game!r}, and playing it would import the module {module!r}. If you "
                "trust that, download the folder and name it instead."
            )
        return found
    if (folder / "checkpoint").is_dir():
        return find_checkpoint(None, folder / "checkpoint", device)
    if (folder / "state").is_dir() or ((folder / "metrics.jsonl").exists() and why_no_run(folder) is None):
        raise UsageError(f"The run in {dream} has no checkpoint yet: let `jedi-env train` come to its end first.")
    if folder.is_dir() and dream not in GAMES:
        return find_checkpoint(None, folder, device)
    if dream in GAMES or locate(dream) is not None:  # also JEDICatch-v0
        return find_checkpoint(dream, None, device)
    meant = "" if os.sep in dream else nearest(dream, GAMES)
    raise UsageError(
        f"{dream!r} is neither one of the 26 games nor a folder.{meant} Write a game with a dream "
        f"(see `jedi-env list`), a checkpoint folder, a run directory, or hub://owner/repo."
    )
