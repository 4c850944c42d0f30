"""The rules by which a dream's real game was played in its training, and by which it is played again: for scores too.

They are read from a checkpoint's protocol, here alone. What they mean in the emulator is ``jedi_env/envs/atari.py``'s.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jedi_env.arguments import is_whole
from jedi_env.checkpoint import Checkpoint
from jedi_env.config_json import shown
from jedi_env.envs.atari import AtariProtocol
from jedi_env.errors import CheckpointError
from jedi_env.games import GAMES


@dataclass(frozen=True)
class Rules:
    """How a dream's real game was played in its training; the defaults are those of the Atari100k benchmark.

    Attributes:
        life_loss: a lost life ended an episode.
        sticky: chance of a repeated action; Atari only, as the next.
        frame_skip: emulator frames a step, or the least and the most.
    """

    life_loss: bool = False
    sticky: float = 0.0
    frame_skip: int | tuple[int, int] = 4

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Rules:
        """Return the rules in the checkpoint's protocol.

        Raises:
            CheckpointError: it has others.
        """
        told = checkpoint.protocol
        life_loss, sticky, skip = told.get("life_loss", False), told.get("sticky", 0.0), told.get("frame_skip", 4)
        least, most = skip if isinstance(skip, list | tuple) and len(skip) == 2 else (skip, skip)
        if isinstance(sticky, int | float) and 0 <= sticky <= 1 and is_whole(least, 1) and is_whole(most, least):
            return cls(bool(life_loss), float(sticky), least if least == most else (least, most))
        raise CheckpointError(
            f"The checkpoint's protocol has sticky {shown(sticky)}, frame_skip {shown(skip)}: not understood. "
            "Sticky is a chance from 0 to 1, and frame_skip one number or two, the least and the most."
        )

    def whole_games(self, game: str) -> dict[str, Any]:
        """Return with which arguments the real games are made: full ones, whatever ended an episode in training."""
        return {"sticky": self.sticky, "frame_skip": self.frame_skip} if game in GAMES else {}

    def record(self, game: str) -> dict[str, Any]:
        """Return all settings of :meth:`whole_games`, as a score records them; only the 26 games have any."""
        return asdict(AtariProtocol(**self.whole_games(game))) if game in GAMES else {}


ATARI_100K = Rules()
