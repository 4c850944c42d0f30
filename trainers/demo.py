"""The main job: a dream in, a policy learned in imagination out, played on the real game (``make demo``).

It takes the dream that is found on this machine, else the one that comes with the package; with ``--train``
(``make train-demo``) it collects real frames and trains a small JEDI on them first. It then trains Stable-Baselines3's
PPO from nothing inside the dream, plays the policy and a random one on the real game, and leaves a summary, pictures, a
video and the checkpoint. Scores are told as they are.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from stable_baselines3.common.vec_env import VecEnv

from jedi_env.arguments import check_whole
from jedi_env.checkpoint import Checkpoint
from jedi_env.device import resolve_device
from jedi_env.envs.real import make_pixels
from jedi_env.errors import UsageError
from jedi_env.find import find_checkpoint
from jedi_env.types import Segment
from trainers.cli import exit_codes
from trainers.collect import Collector
from trainers.config import TrainConfig
from trainers.evaluate import EVALUATION_SEED, score_policy
from trainers.log import progress, read
from trainers.pictures import save_curves, save_strip
from trainers.play import Reality
from trainers.players import Chance, Player, Sb3
from trainers.policy import RandomPolicy
from trainers.presets import DEMO
from trainers.provenance import provenance
from trainers.replay import Replay, Sampling
from trainers.rules import Rules
from trainers.sb3 import learn, make_algorithm, score_on_reality
from trainers.state import CONFIG
from trainers.train import train
from trainers.video import Panel, Video

LANES = 64
# Measured on two cores: a second thread makes an update of so small a model 1.2 to 1.7 times faster on an idle machine,
# and 4 to 6 times slower as soon as anything else runs.
THREADS = 1
HELD_OUT_STEPS = 400
VIDEO_STEPS, FPS = 300, 15  # 15 decisions a second are the real game's speed


@dataclass(frozen=True)
class DemoConfig:
    """The demonstration.

    Attributes:
        out: folder for everything it leaves.
        game: one of the 26 games.
        seed: of everything random.
        train: train the dream from raw frames first. False: take the one that is found on this machine, else the
            package's.
        steps: dream steps that PPO learns from.
        horizon: dream steps an episode.
        episodes: full real games of each policy.
    """

    out: Path = Path("runs/demo")
    game: str = "Breakout"
    seed: int = 0
    train: bool = False
    steps: int = 400_000
    horizon: int = 50
    episodes: int = 30

    def __post_init__(self) -> None:
        for name in ("steps", "horizon", "episodes"):
            check_whole(name, getattr(self, name))


def demo(config: DemoConfig, training: TrainConfig) -> dict[str, Any]:
    """Run the demonstration; return (and write) its summary."""
    path, seconds = config.out / "checkpoint", {}
    if config.train:
        train(training, config.game, config.seed, config.out, resolve_device("cpu"))
        seconds = seconds_of(config.out)  # by the run's own log: a demonstration that goes on trains nothing anew
    elif (config.out / CONFIG).exists():
        raise UsageError(f"{config.out} holds a run, whose dream would be replaced: write another --out, or --train.")
    else:
        find_checkpoint(config.game, None).save(path)

    began = time.perf_counter()
    checkpoint = Checkpoint.load(path)
    save_strip(checkpoint.world_model, held_out(config, checkpoint), config.out / "strip.png")
    seconds["strip"] = time.perf_counter() - began

    model = make_algorithm("PPO", checkpoint, LANES, config.seed, config.horizon)
    speed = dream_speed(model.get_env())
    began = time.perf_counter()
    curve = learn(model, config.steps, "PPO in the dream")
    model.save(config.out / "ppo.zip")
    seconds["ppo_in_the_dream"] = time.perf_counter() - began
    save_curves({"PPO": curve.points}, config.out / "curve.png", "dream steps", "return of a dream episode")

    began = time.perf_counter()
    actions = RandomPolicy(checkpoint.world_model.actions, np.random.default_rng(config.seed))
    random = score_policy(config.game, actions, config.episodes, "real games: random", Rules.of(checkpoint))
    with progress(None, config.episodes, "real games: PPO") as bar:
        agent = score_on_reality(model, config.game, checkpoint, config.episodes, bar.update)
    save_video(config, checkpoint)
    seconds["real_games"] = time.perf_counter() - began

    summary = {
        "game": config.game,
        "seed": config.seed,
        "real_steps": checkpoint.provenance["real_steps"],
        "imagined_steps": model.num_timesteps,
        "dream_steps_per_second": round(speed, 1),
        "ppo_steps_per_second": round(model.num_timesteps / seconds["ppo_in_the_dream"], 1),
        "dream_return": curve.final,
        "random": random.to_json(),
        "agent": agent.to_json(),
        "seconds": {phase: round(value, 1) for phase, value in seconds.items()},
        "demo": {**asdict(config), "out": str(config.out)},
        "dream": {key: checkpoint.provenance.get(key) for key in ("command", "commit", "seed", "config_hash")},
        **provenance(training),
    }
    if not config.train:
        del summary["config_hash"]  # of settings that trained nothing here
    (config.out / "summary.json").write_text(json.dumps(summary, indent=1))
    return summary


def seconds_of(run_dir: Path) -> dict[str, float]:
    """Return the seconds that each phase of a run took, over all its epochs."""
    seconds: Counter[str] = Counter()
    for record in read(run_dir):
        seconds[record["phase"]] += record.get("seconds", 0.0)
    return {phase: value for phase, value in seconds.items() if value}


def dream_speed(env: VecEnv | None, steps: int = 30) -> float:
    """Return the steps a second, over all lanes, of a dream that nobody learns from."""
    if env is None:
        raise UsageError("This algorithm has no environment to time.")
    env.reset()
    actions = np.zeros(env.num_envs, dtype=np.int64)
    env.step(actions)
    began = time.perf_counter()
    for _ in range(steps):
        env.step(actions)
    return steps * env.num_envs / (time.perf_counter() - began)


def held_out(config: DemoConfig, checkpoint: Checkpoint) -> Segment:
    """Return segments of random play that the world model has never seen, each around a reward or an end."""
    env = make_pixels(config.game, **Rules.of(checkpoint).whole_games(config.game))
    replay = Replay(config.out / "held_out", keep=0)
    seed = config.seed + 1_000_003
    collector = Collector(env, replay, life_loss=True, seed=seed)
    policy = RandomPolicy(checkpoint.world_model.actions, np.random.default_rng(seed))
    for _ in collector.collect(HELD_OUT_STEPS, policy):
        pass
    segment = replay.segments(6, 16, Sampling((), event_fraction=1.0), np.random.default_rng(seed))
    replay.close()
    env.close()
    return segment


def save_video(config: DemoConfig, checkpoint: Checkpoint) -> None:
    """Save ``games.gif``: the policy and a random one on the real game, side by side."""
    policy = Sb3(config.out / "ppo.zip", "PPO", checkpoint)
    players: tuple[Player, ...] = (policy, Chance(checkpoint.world_model.actions, config.seed))
    worlds = [Reality(config.game, checkpoint, policy.frame_stack) for _ in players]
    names = ("PPO trained in the dream", "random")
    seen = [world.reset(EVALUATION_SEED) for world in worlds]
    first = [True, True]
    with Video(config.out / "games.gif", FPS) as video, progress(None, VIDEO_STEPS, "video") as bar:
        for _ in range(VIDEO_STEPS):
            for i, (world, player) in enumerate(zip(worlds, players, strict=True)):
                seen[i], first[i] = world.step(player.act(seen[i], first[i]))
                if first[i]:
                    seen[i] = world.reset(None)
            shown = [panel for world in worlds for panel in world.panels()]
            video.show(
                [Panel(panel.picture, (name, *panel.lines[1:])) for panel, name in zip(shown, names, strict=True)]
            )
            bar.update()
    for world in worlds:
        world.close()


def main() -> None:
    """Run the demonstration from the command line and print what came out."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = tyro.cli(DemoConfig, description=__doc__)
    torch.set_num_threads(THREADS)
    with exit_codes("trainers.demo"):
        summary = demo(config, DEMO)
    checkpoint = config.out / "checkpoint"
    agent, random, dreamed = summary["agent"], summary["random"], summary["dream_return"]
    print(
        f"\n{config.game}, {config.episodes} real games each (mean and deviation):\n"
        f"  PPO trained only in the dream  {agent['mean']:.2f} +- {agent['std']:.2f}\n"
        f"  random                         {random['mean']:.2f} +- {random['std']:.2f}\n"
        f"Return of a dream episode at the end of training: {'none ended' if dreamed is None else f'{dreamed:.2f}'}\n"
        f"Look at {config.out / 'strip.png'}: what really happened, the same drawn from its latent, the dream;\n"
        f"and at {config.out / 'games.gif'}: both policies on the real game.\n"
        f'Enter the dream: gym.make("JEDIDream-v0", checkpoint="{checkpoint}")'
    )


if __name__ == "__main__":
    main()
