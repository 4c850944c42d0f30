"""``jedi-env import-diamond``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from jedi_env.errors import UsageError, nearest
from jedi_env.games import GAMES


@dataclass(frozen=True)
class ImportDiamond:
    """Turn a checkpoint that DIAMOND's authors publish into one of ours, which dreams in pixels.

    Its starting points are played in the real game, with random actions.

    Attributes:
        path_or_game: one of their .pt files, or one of the 26 games, whose file is then downloaded.
        out: the checkpoint folder to write; default runs/diamond-<game>.
        game: the game of the file, if the file is not named after it.
        json: print JSON.
    """

    path_or_game: Positional[str]
    out: Path | None = None
    game: str | None = None
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Read, play for starting points, write."""
        from jedi_env.diamond import load_diamond
        from trainers.rules import ATARI_100K

        if self.game is not None and self.game not in GAMES:
            raise UsageError(f"--game {self.game} is none of the 26 games.{nearest(self.game, GAMES)}")
        named = self.game or Path(self.path_or_game).stem
        if named not in GAMES and Path(self.path_or_game).is_file():
            raise UsageError(f"Whose checkpoint is {self.path_or_game}? Write --game Breakout, or whichever it is.")
        out = self.out or Path("runs") / f"diamond-{named}".lower()
        if out.exists() and not (out / "config.json").is_file():
            raise UsageError(f"{out} is there and is no checkpoint: it was left as it is. Write another --out.")
        checkpoint = load_diamond(self.path_or_game, game=self.game)
        game = str(checkpoint.game)  # without one there would be no starting points
        protocol = {**ATARI_100K.record(game), "life_loss": True}  # they count a lost life as an end in training
        replace(checkpoint, protocol=protocol).save(out)
        facts = {
            "game": game,
            "checkpoint": str(out),
            "num_actions": checkpoint.world_model.num_actions,
            "contexts": len(checkpoint.contexts),
            "agent": checkpoint.agent is not None,
        }
        if self.json:
            print(json.dumps(facts))
            return
        agent = "with its agent" if facts["agent"] else "without an agent"
        print(f"Checkpoint: {out} ({game}, {facts['contexts']} starting points, {agent})")
        print(f'Dream:      gym.make("JEDIDream-{game}-v0", checkpoint="{out}", obs_type="rgb")')
