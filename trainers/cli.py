"""The one command: ``jedi-env list | train | eval | dream | info``.

Exit codes: 0 success, 1 a failed run, 2 bad usage. Arguments are parsed by tyro; every field of a preset is a flag of
``train``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from jedi_env.checkpoint import Checkpoint, find_checkpoint, locate
from jedi_env.config_json import to_json
from jedi_env.device import resolve_device
from jedi_env.errors import JediEnvError, UsageError, nearest
from jedi_env.games import GAMES
from trainers.config import TrainConfig
from trainers.presets import PRESETS


@dataclass(frozen=True)
class List:
    """List the 26 games, and which of them have a dream on this machine.

    Attributes:
        json: print JSON.
    """

    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Print one line a game."""
        found = {game: _dream_of(game) for game in GAMES}
        if self.json:
            print(json.dumps(found))
            return
        for game, path in found.items():
            print(f"{game:16s} {path or '-'}")


@dataclass(frozen=True)
class Train:
    """Train world model and agent on the real game; the same command resumes.

    Every field of the preset is a flag too, to be written after the game, for example ``--fit-agent.batch 64`` or
    ``--world-model.switching 0``; ``--dry-run`` prints them all.

    Attributes:
        game: one of the 26 games (see ``jedi-env list``) or the id of a Gymnasium environment with image observations.
        preset: paper (JEDI at its published size), diamond (the pixel baseline), tiny (learns on two CPU cores), demo.
        seed: of everything random in the run.
        run_dir: where the run lives; default runs/<game>-<preset>-<seed>.
        device: auto, cpu, cuda, cuda:1, mps.
        dry_run: print the resolved configuration as JSON and stop.
    """

    game: Positional[str]
    preset: str = "tiny"
    seed: int = 0
    run_dir: Path | None = None
    device: str = "auto"
    dry_run: bool = False

    def run(self, rest: list[str]) -> None:
        """Train."""
        if self.preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise UsageError(f"Unknown preset {self.preset!r}.{nearest(self.preset, PRESETS)} Write one of: {known}.")
        config = tyro.cli(
            TrainConfig,
            prog="jedi-env train GAME",
            args=rest,
            default=PRESETS[self.preset],
            config=(tyro.conf.AvoidSubcommands,),  # which encoder it is, the preset says; so its fields are flags too
        )
        run_dir = self.run_dir or Path("runs") / f"{self.game}-{self.preset}-{self.seed}".lower().replace("/", "-")
        if self.dry_run:
            print(json.dumps({"game": self.game, "run_dir": str(run_dir), "config": to_json(config)}, indent=1))
            return
        from trainers.train import train

        checkpoint = train(config, self.game, self.seed, run_dir, resolve_device(self.device))
        print(f"Checkpoint: {checkpoint}")
        scores = run_dir / "scores.json"
        if scores.exists():
            print(f"Scores:     {scores}")


@dataclass(frozen=True)
class Eval:
    """Score the native agent of a run or a checkpoint on full real games.

    Attributes:
        path: a run directory or a checkpoint folder.
        episodes: full games, each counted (Atari100k: 100).
        seed: of the agent's draws.
        device: auto, cpu, cuda, cuda:1, mps.
        json: print JSON, one return an episode included.
    """

    path: Positional[Path]
    episodes: int = 100
    seed: int = 0
    device: str = "auto"
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Score."""
        from trainers.evaluate import score_checkpoint

        _check(("--episodes", self.episodes, 1), ("--seed", self.seed, 0))
        device = resolve_device(self.device)
        folder = self.path / "checkpoint" if (self.path / "checkpoint").is_dir() else self.path
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}. Write a run directory or a checkpoint folder.")
        if (folder / "state").is_dir():
            raise UsageError(f"The run in {folder} has no checkpoint yet: let `jedi-env train` come to its end first.")
        score = score_checkpoint(Checkpoint.load(folder, device), self.episodes, self.seed)
        if self.json:
            print(json.dumps(score.to_json()))
            return
        print(f"{score.game}: {score.mean:.2f} +- {score.std:.2f} over {len(score.returns)} real games")


@dataclass(frozen=True)
class Dream:
    """Train a Stable-Baselines3 algorithm inside a dream, then play its policy on the real game.

    Attributes:
        dream: a game with a dream on this machine (see ``jedi-env list``), or a checkpoint folder, or hub://owner/repo.
        algo: PPO, A2C, DQN; with sb3-contrib also RecurrentPPO, QRDQN, TRPO, ARS.
        steps: dream steps to learn from.
        lanes: dreams side by side.
        horizon: dream steps an episode; default: the checkpoint's recommendation.
        seed: of algorithm and dreams.
        episodes: full real games to score it on; 0: none.
        save: where to save the policy (Stable-Baselines3's zip).
        json: print JSON.
    """

    dream: Positional[str]
    algo: str = "PPO"
    steps: int = 200_000
    lanes: int = 64
    horizon: int | None = None
    seed: int = 0
    episodes: int = 30
    save: Path | None = None
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Train in the dream, score on reality."""
        from trainers.sb3 import Curve, ProgressBar, make_algorithm, score_on_reality

        _check(("--steps", self.steps, 1), ("--lanes", self.lanes, 1), ("--episodes", self.episodes, 0))
        _check(("--seed", self.seed, 0))
        checkpoint = _open(self.dream)
        if self.episodes and checkpoint.game is None:
            raise UsageError("This dream names no real game to play: write --episodes 0.")
        model = make_algorithm(self.algo, checkpoint, self.lanes, self.seed, self.horizon)
        curve = Curve()
        model.learn(self.steps, callback=[curve, ProgressBar(self.steps, f"{self.algo} in the dream")])
        if self.save is not None:
            model.save(self.save)
        dreamed = curve.points[-1][1] if curve.points else None
        result: dict[str, Any] = {"algo": self.algo, "imagined_steps": model.num_timesteps, "dream_return": dreamed}
        told = f"{self.algo}: {model.num_timesteps} dream steps, return of a dream episode {dreamed}"
        if self.episodes and checkpoint.game is not None:
            score = score_on_reality(model, checkpoint.game, checkpoint, self.episodes)
            result["real"] = score.to_json()
            told += f"\n{score.game}: {score.mean:.2f} +- {score.std:.2f} over {self.episodes} real games"
        print(json.dumps(result) if self.json else told)


@dataclass(frozen=True)
class Info:
    """Tell what a checkpoint holds and where it came from.

    Attributes:
        path: a checkpoint folder, or a game with a dream on this machine, or hub://owner/repo.
        json: print JSON.
    """

    path: Positional[str]
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Print the facts."""
        checkpoint = _open(self.path)
        model = checkpoint.world_model
        facts = {
            "game": checkpoint.game,
            "num_actions": model.num_actions,
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


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Dream, tyro.conf.subcommand("dream")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 or 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    command, rest = tyro.cli(Command, prog="jedi-env", description=__doc__, args=args, return_unknown_args=True)
    with exit_codes("jedi-env"):
        if rest and not isinstance(command, Train):
            name = type(command).__name__.lower()
            raise UsageError(f"Unknown arguments: {' '.join(rest)}. Write `jedi-env {name} --help` to see them all.")
        command.run(rest)


@contextmanager
def exit_codes(program: str) -> Iterator[None]:
    """Say an error that was raised on purpose in its own sentence and exit: with 2 on bad usage, else with 1."""
    try:
        yield
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except JediEnvError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            f"{program}: interrupted; run the same command again to go on from the last completed epoch",
            file=sys.stderr,
        )
        sys.exit(1)


def _open(dream: str) -> Checkpoint:
    """Return the dream that the command line names: a game, a folder or hub://owner/repo."""
    if dream in GAMES:
        return find_checkpoint(dream, None)
    if not dream.startswith("hub://") and not Path(dream).is_dir():
        raise UsageError(
            f"{dream!r} is neither one of the 26 games nor a folder.{nearest(dream, GAMES)} Write a game with a dream "
            f"(see `jedi-env list`), a checkpoint folder, or hub://owner/repo."
        )
    return find_checkpoint(None, dream)


def _dream_of(game: str) -> str | None:
    """Return where the game's dream lies on this machine, or None."""
    path = locate(game)
    return None if path is None else str(path)


def _check(*flags: tuple[str, int, int]) -> None:
    """Refuse a flag whose value is less than the least that is allowed: (flag, value, least)."""
    for flag, value, least in flags:
        if value < least:
            raise UsageError(f"{flag} is {value}; write a whole number of at least {least}.")


if __name__ == "__main__":
    main()
