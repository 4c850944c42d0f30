"""One answer of a ``VectorEnv``, looked at alone: its place in a space, the layout of ``info``, its memory.

What an answer should be after those before it is for :mod:`jedi_env.envs.check_player` to say.
"""

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from jedi_env.errors import UsageError, VectorEnvError

Data = Any  # whatever a space contains
Mutable = dict[Any, Any] | NDArray[Any]


def fault(where: str, what: str, instead: str) -> NoReturn:
    """Raise a :class:`VectorEnvError` that says where the contract is broken, how, and what to write instead."""
    raise VectorEnvError(f"{where}: {what} {instead}")


def check_member(value: Data, space: Space[Any], where: str) -> None:
    """Check that ``value`` is in ``space``, with exactly its dtype and shape."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or value.keys() != space.keys():
            fault(where, f"is {brief(value)}.", f"Return a dict with the keys {sorted(space.keys())}.")
        for key, part in space.items():
            check_member(value[key], part, f"{where}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space):
            fault(where, f"is {brief(value)}.", f"Return a tuple of {len(space)}.")
        for index, part in enumerate(space):
            check_member(value[index], part, f"{where}[{index}]")
    elif isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        check_array(value, space.dtype, space.shape, where)
        if not space.contains(value):
            reach = f"from {value.min()} to {value.max()}" if value.size else "none"
            fault(where, f"has values ({reach}) outside {space}.", "Return values inside, or widen the space.")
    elif not space.contains(value):
        fault(where, f"is {brief(value)}.", f"Return an element of {space}.")


def check_array(value: object, dtype: np.dtype[Any] | None, shape: tuple[int, ...], where: str) -> None:
    """Check that ``value`` is a NumPy array of exactly this dtype (None: of any) and shape."""
    if not isinstance(value, np.ndarray):
        if hasattr(value, "__dlpack__"):
            raise UsageError(
                f"{where}: is a {type(value).__module__}.{type(value).__name__}, but check_vector_env reads NumPy. "
                "Make the environment with NumPy output (in this package output='numpy'), or check it inside "
                "gymnasium.wrappers.vector.ArrayConversion."
            )
        fault(where, f"is {brief(value)}.", f"Return a NumPy array of dtype {dtype} and shape {shape}.")
    if value.shape != shape or (dtype is not None and value.dtype != dtype):
        fault(
            where,
            f"has dtype {value.dtype} and shape {value.shape}.",
            f"Return dtype {dtype or value.dtype} and shape {shape}.",
        )


def check_info(info: object, num_envs: int, where: str) -> None:
    """Check that ``info`` is a dict of arrays with an entry a lane, and its masks ``_key`` bool."""
    if not isinstance(info, dict):
        fault(where, f"is {brief(info)}.", "Return a dict of arrays, one entry a lane; {} if there is nothing to say.")
    for key, value in info.items():
        here = f"{where}[{key!r}]"
        if not isinstance(key, str):
            fault(here, "has a key that is no string.", "Name it.")
        if key.startswith("_"):
            if key[1:] not in info:
                fault(here, f"is a mask of {key[1:]!r}, which is missing.", "Return both, or neither.")
            check_array(value, np.dtype(np.bool_), (num_envs,), here)
        elif isinstance(value, dict):
            check_info(value, num_envs, here)
        elif not isinstance(value, np.ndarray) or value.shape[:1] != (num_envs,):
            fault(here, f"is {brief(value)}.", f"Return an array with one entry for each of the {num_envs} lanes.")


def brief(value: object) -> str:
    """Say in a line what ``value`` is."""
    if isinstance(value, np.ndarray):
        return f"an array of dtype {value.dtype} and shape {value.shape}"
    if isinstance(value, dict):
        return f"a dict with the keys {list(value)}"
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) < 80 else text[:77] + '...'}"


def mutables(data: object, path: str) -> Iterator[tuple[str, Mutable]]:
    """Yield every dict and array in ``data``, and where it is."""
    if isinstance(data, dict):
        yield path, data
        for key, value in data.items():
            yield from mutables(value, f"{path}[{key!r}]")
    elif isinstance(data, np.ndarray):
        yield path, data
        if data.dtype == object:
            for index, value in enumerate(data.flat):
                yield from mutables(value, f"{path}[{index}]")
    elif isinstance(data, tuple | list):
        for index, value in enumerate(data):
            yield from mutables(value, f"{path}[{index}]")


def overlap(one: Mutable, other: Mutable) -> bool:
    """Return whether writing to one may change the other."""
    return one is other or (
        isinstance(one, np.ndarray)
        and isinstance(other, np.ndarray)
        and np.may_share_memory(one, other)  # cheap, and sure if it says no
        and np.shares_memory(one, other)
    )


def spoil(data: object) -> None:
    """Change every number in ``data`` in place, as a caller may who owns it."""
    for _, value in mutables(data, ""):
        if isinstance(value, np.ndarray) and value.flags.writeable:
            if value.dtype == np.bool_:
                np.logical_not(value, out=value)
            elif np.issubdtype(value.dtype, np.number):
                np.add(value, 1, out=value, casting="unsafe")
