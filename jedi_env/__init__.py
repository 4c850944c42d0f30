"""jedi-env: learned Atari world models as Gymnasium environments.

Importing this package registers the ids ``JEDIDream-v0``, ``JEDIDream-<Game>-v0`` and ``JEDICatch-v0`` and nothing
else: torch and the optional libraries are imported when a name below, or an environment, is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

import gymnasium

from jedi_env.games import GAMES

if TYPE_CHECKING:
    from jedi_env import metrics
    from jedi_env.checkpoint import Checkpoint
    from jedi_env.diamond import load_diamond
    from jedi_env.envs.check import check_vector_env
    from jedi_env.envs.real import make_real

    __version__: str

__all__ = ["GAMES", "Checkpoint", "__version__", "check_vector_env", "load_diamond", "make_real", "metrics"]

_HOME = {
    "Checkpoint": "jedi_env.checkpoint",
    "check_vector_env": "jedi_env.envs.check",
    "load_diamond": "jedi_env.diamond",
    "make_real": "jedi_env.envs.real",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name == "metrics":
        value = import_module("jedi_env.metrics")
    elif name == "__version__":
        value = import_module("importlib.metadata").version("jedi-env")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Give Gymnasium the ids; the horizon is the dream's own, so ``max_episode_steps`` stays unset."""
    for game in (None, *GAMES):
        gymnasium.register(
            id=f"JEDIDream-{game}-v0" if game else "JEDIDream-v0",
            entry_point="jedi_env.envs.single:DreamEnv",
            vector_entry_point="jedi_env.envs.vector:DreamVectorEnv",
            kwargs={"game": game} if game else {},
        )
    gymnasium.register(id="JEDICatch-v0", entry_point="jedi_env.envs.catch:CatchEnv")


_register()
