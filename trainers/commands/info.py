"""``jedi-env info``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
        facts: dict[str, Any] = {
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
        facts["provenance"] = {name: value for name, value in checkpoint.provenance.items() if name != "config"}
        facts["metrics"] = dict(_means(checkpoint.metrics))
        for name, value in facts.items():
            if isinstance(value, dict):
                print(name)
                for inner, told in value.items():
                    print(f"  {inner:22s} {_shown(told)}")
            else:
                print(f"{name:24s} {_shown(value)}")
        print("--json prints all settings of the run, and all that was measured.")


def _shown(value: Any) -> str:  # noqa: ANN401  # JSON of any shape
    return str(value) if isinstance(value, str | int | None) else json.dumps(value)


def _means(measured: Any, path: str = "") -> Iterator[tuple[str, str | int]]:  # noqa: ANN401  # JSON of any shape
    """Yield the dream's trusted horizon and every score, by its place in the metrics."""
    if isinstance(measured, Mapping):
        if measured.keys() >= {"mean", "std", "episodes"}:
            yield path, f"{measured['mean']:.2f} +- {measured['std']:.2f} over {measured['episodes']} real games"
            return
        if "trusted_horizon" in measured:
            yield "trusted_horizon", measured["trusted_horizon"]
        for name, inner in measured.items():
            yield from _means(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(measured, list):
        for i, inner in enumerate(measured):
            yield from _means(inner, f"{path}.{i}")
