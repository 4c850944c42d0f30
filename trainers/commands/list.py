"""``jedi-env list``."""

from __future__ import annotations

import json
from dataclasses import dataclass

from jedi_env.find import dreams, locate
from jedi_env.games import GAMES


@dataclass(frozen=True)
class List:
    """List the 26 games, and which of them have a dream on this machine, and what else has one.

    Attributes:
        json: print JSON.
    """

    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Print one line a game."""
        found = {game: _dream_of(game) for game in dict.fromkeys((*GAMES, *dreams()))}
        if self.json:
            print(json.dumps(found))
            return
        for game, path in found.items():
            print(f"{game:16s} {path or '-'}")
        if named := [game for game, path in found.items() if path]:
            print(f"Dreams on this machine: {len(named)}. Try `jedi-env play {named[0]} --agent --record dream.mp4`.")


def _dream_of(game: str) -> str | None:
    """Return where the game's dream lies on this machine, or None."""
    path = locate(game)
    return None if path is None else str(path)
