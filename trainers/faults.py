"""Whose fault it was: errors that a game raises, told from our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jedi_env.errors import JediEnvError, RunError


@contextmanager
def game_faults(where: str) -> Iterator[None]:
    """Around a call of a game: whatever it raises is told in a sentence.

    Args:
        where: how far the play had come.

    Raises:
        RunError: the game raised an error.
    """
    try:
        yield
    except JediEnvError:
        raise
    except Exception as error:
        raise RunError(
            f"The game raised {type(error).__name__} ({error}) {where}. What was completed is kept: run the same "
            f"command again when the game is mended."
        ) from error
