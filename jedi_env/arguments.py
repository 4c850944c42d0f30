"""The checks of arguments that many places share: whole numbers, seeds, and names among those there are.

Each refuses before anything is done. What only one place asks of its arguments is checked there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

import numpy as np

from jedi_env.errors import UsageError, nearest


def is_whole(value: object, least: int) -> TypeGuard[int]:
    """Return whether ``value`` is a whole number, Python's or NumPy's, of at least ``least``."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def check_whole(name: str, value: object, least: int = 1, otherwise: str = "") -> int:
    """Return ``value`` as an int, or raise :class:`UsageError` unless it is a whole number of at least ``least``.

    Args:
        name: of the argument.
        value: what was given.
        least: the least that is allowed.
        otherwise: what else may be written, such as ``"or None for no limit"``.
    """
    if not is_whole(value, least):
        more = f", {otherwise}" if otherwise else ""
        raise UsageError(f"{name} is {value!r}: write a whole number of at least {least}{more}.")
    return int(value)


def check_flags(*flags: tuple[str, object, int]) -> None:
    """Raise :class:`UsageError` for a flag whose value is less than the least that is allowed: (flag, value, least)."""
    for flag, value, least in flags:
        if not is_whole(value, least):
            raise UsageError(f"{flag} is {value}; write a whole number of at least {least}.")


def check_seed(seed: object) -> int | None:
    """Return ``seed`` as an int of at least 0, or None, or raise :class:`UsageError`."""
    if seed is None:
        return None
    if not is_whole(seed, 0):
        raise UsageError(f"The seed is {seed!r}, but it must be a whole number of at least 0, or None.")
    return int(seed)


def check_names(options: Mapping[str, Any] | None, known: Collection[str] | None) -> dict[str, Any]:
    """Return reset ``options`` as a dict of its own, if all its names are among ``known`` (None: any are)."""
    there = "" if known is None else f" There are: {', '.join(known) or 'none'}."
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"options is a {type(options).__name__}: write a dict, or None.{there}")
    given = dict(options or {})
    for name in given:
        if known is not None and name not in known:
            raise UsageError(f"Unknown reset option {name!r}.{nearest(str(name), known)}{there}")
    return given


def check_info_keys(info_keys: object, example: str) -> None:
    """Raise :class:`UsageError` for one string, which would be taken for its letters, and for no names at all."""
    if isinstance(info_keys, str) or not isinstance(info_keys, Collection):
        raise UsageError(f"info_keys is {info_keys!r}: write a tuple of names, such as ({example!r},).")
