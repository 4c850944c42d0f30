"""``jedi-env info``."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tyro.conf import Positional

from trainers.commands.common import open_dream


@dataclass(frozen=True)
class Info:
    """Tell what a checkpoint holds and where it came from.

    Attributes:
        path: a checkpoint folder, a run directory, a game with a dream on this machine, or hub://owner/repo.
        json: print JSON.
    """

    path: Positional[str]
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Print the facts."""
        checkpoint = open_dream(self.path)
        model = checkpoint.world_model
        facts = {
            "game": checkpoint.game,
            "num_actions": model.num_actions,
            "actions": str(model.actions.space),
            "frame_shape": model.frame_shape,
            "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()},
            "contexts": len(checkpoint.contexts),
            "horizon": checkpoint.horizon,
            "agent": checkpoint.agent is not None,
            "decoder": model.decoder is not None,
            "protocol": dict(checkpoint.protocol),
            "provenance": dict(checkpoint.provenance),
            "metrics": dict(checkpoint.metrics),
        }
        if self.json:
            print(json.dumps(facts))
            return
        for name, value in facts.items():
            print(f"{name:12s} {value if isinstance(value, str | int | None) else json.dumps(value)}")
