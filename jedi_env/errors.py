"""The errors this package raises on purpose; anything else that escapes is a bug.

Every message says what was wrong, what is allowed and what to write instead.
"""

import difflib
from collections.abc import Iterable


class JediEnvError(Exception):
    """Base class of every error raised on purpose by ``jedi_env`` and ``trainers``."""


class UsageError(JediEnvError, ValueError):
    """The caller asked for something that is not allowed (exit code 2 on the command line)."""


class CheckpointError(JediEnvError):
    """A checkpoint is missing, damaged, foreign or from a newer version; nothing was loaded (exit code 2)."""


class RunError(JediEnvError, RuntimeError):
    """A run could not go on (exit code 1 on the command line)."""


class VectorEnvError(JediEnvError):
    """A vector environment breaks its contract; the message says where, how, and what to write instead."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'X'?"`` for the allowed name closest to ``name``, or ``""``."""
    by_lower = {a.lower(): a for a in allowed}
    match = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.65)
    return f" Did you mean {by_lower[match[0]]!r}?" if match else ""
