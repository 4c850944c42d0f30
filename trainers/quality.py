"""The quality gate: learning must still work where it is certain and fast (``make quality``).

On Catch, a world whose rules are known, each seed trains the native loop from nothing and then Stable-Baselines3's PPO
in the dream that the loop left. Both play the real game; a seed below either bar fails the gate. Every change to a
model, a loss or a trainer has to pass it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from jedi_env.arguments import check_whole
from jedi_env.checkpoint import Checkpoint
from jedi_env.device import resolve_device
from jedi_env.folder import replace_file
from trainers.cli import exit_codes
from trainers.config import TrainConfig
from trainers.demo import LANES, THREADS
from trainers.log import progress
from trainers.presets import TINY
from trainers.provenance import provenance
from trainers.sb3 import learn, make_algorithm, score_on_reality
from trainers.train import train

GAME = "JEDICatch-v0"
NATIVE_BAR, PPO_BAR = 10.0, 5.0  # mean catches of 20; random play: 0.34
EPISODES = 40

CATCH = replace(
    TINY,
    # So short a run does not learn rewards by heart, and what keeps long ones from it only costs here.
    world_model=replace(TINY.world_model, reward_end=replace(TINY.world_model.reward_end, frame_noise=0.0)),
    collect=replace(TINY.collect, total_steps=18_000, first_steps=8_000, first_steps_limit=8_000, steps=2_000),
    fit_world_model=replace(TINY.fit_world_model, first_updates=550, updates=100, freeze_encoder_after=350),
    fit_agent=replace(TINY.fit_agent, first_updates=60, updates=50),
    evaluate=replace(TINY.evaluate, every=2, final_episodes=EPISODES),
)


@dataclass(frozen=True)
class QualityConfig:
    """The quality gate.

    Attributes:
        out: folder of the runs and of ``quality.json``. A native run that is finished there is not trained anew (its
            seconds are then those of this call); PPO always is.
        seeds: how many.
        steps: dream steps that PPO learns from.
        horizon: dream steps an episode of PPO's.
        threads: of PyTorch; more than one only on a machine that does nothing else.
    """

    out: Path = Path("runs/quality")
    seeds: int = 3
    steps: int = 150_000
    horizon: int = 25
    threads: int = THREADS

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "horizon", "threads"):
            check_whole(name, getattr(self, name))


def measure(config: QualityConfig, training: TrainConfig, seed: int) -> dict[str, Any]:
    """Train and score one seed; return what ``quality.json`` holds of it."""
    began = time.perf_counter()
    run = config.out / f"catch-{seed}"
    checkpoint = Checkpoint.load(train(training, GAME, seed, run, resolve_device("cpu")))
    native_seconds = time.perf_counter() - began
    native = json.loads((run / "scores.json").read_text())  # every evaluation, the final one last

    began = time.perf_counter()
    model = make_algorithm("PPO", checkpoint, LANES, seed, config.horizon)
    curve = learn(model, config.steps, f"seed {seed}: PPO in the dream")
    with progress(None, EPISODES, f"seed {seed}: real games") as bar:
        ppo = score_on_reality(model, GAME, checkpoint, EPISODES, bar.update)
    return {
        "seed": seed,
        "native": native[-1],
        "native_curve": [[score["real_steps"], score["imagined_steps"], score["mean"]] for score in native],
        "native_seconds": round(native_seconds, 1),
        "ppo": ppo.to_json(),
        "ppo_dream_return": curve.final,
        "ppo_seconds": round(time.perf_counter() - began, 1),
    }


def quality(config: QualityConfig, training: TrainConfig) -> dict[str, Any]:
    """Measure every seed; return (and write, as they come) what came out and whether it passes."""
    config.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for seed in range(config.seeds):
        results.append(measure(config, training, seed))
        summary = {
            "game": GAME,
            "bars": {"native": NATIVE_BAR, "ppo": PPO_BAR},
            "passed": all(passes(result) for result in results),
            "seeds": results,
            **provenance(training),
        }
        replace_file(config.out / "quality.json", json.dumps(summary, indent=1).encode())
    return summary


def passes(result: dict[str, Any]) -> bool:
    """Return whether a seed reaches both bars."""
    return bool(result["native"]["mean"] >= NATIVE_BAR and result["ppo"]["mean"] >= PPO_BAR)


def main() -> int:
    """Run the gate from the command line; 0 if every seed passes, else 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = tyro.cli(QualityConfig, description=__doc__)
    torch.set_num_threads(config.threads)
    with exit_codes("trainers.quality"):
        summary = quality(config, CATCH)
    print(
        f"\nCatches of 20 on the real game, {EPISODES} episodes each; bars {NATIVE_BAR:g} and {PPO_BAR:g}; random 0.34"
    )
    print("seed  native loop (seconds)   PPO in its dream (seconds)")
    for result in summary["seeds"]:
        native, ppo = result["native"], result["ppo"]
        print(
            f"{result['seed']:4}  {native['mean']:5.2f} +- {native['std']:4.2f} ({result['native_seconds']:4.0f})    "
            f"{ppo['mean']:5.2f} +- {ppo['std']:4.2f} ({result['ppo_seconds']:4.0f})  "
            f"{'' if passes(result) else 'BELOW'}"
        )
    return 0 if summary["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
