"""``jedi-env sweep``."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium as gym

from jedi_env.arguments import check_flags
from jedi_env.errors import RunError, UsageError, nearest
from jedi_env.games import GAMES
from trainers.commands.common import SIGNED, resolve_config, run_name

if TYPE_CHECKING:
    from trainers.sweep import Outcome


@dataclass(frozen=True)
class Sweep:
    """Train every game with every seed on a Ray cluster, a task a run; the same command goes on.

    Finished runs are passed over, the others go on from their last completed epoch. `jedi-env report` reads the runs at
    any time. Every field of the preset is a flag too, as of `jedi-env train`: ``--fit-agent.batch 64``. Slurm,
    Kubernetes, and what is guaranteed: docs/sweep.md.

    Attributes:
        games: names of the 26, or ids of environments of your own, which are trained as by `jedi-env train --env`; all:
            the 26.
        seeds: runs of each game, with the seeds 0, 1, 2 ...
        preset: as of `jedi-env train`.
        out: folder of the runs, on storage that all machines see under this path; a run is in <game>-<preset>-<seed>.
        address: of the Ray cluster: host:port, or auto for the one this machine is in; default: this machine alone.
        cpus: CPU cores that Ray sets aside for a run, which are its threads.
        gpus: GPUs for a run; 0.25: four runs share one; 0: it runs on the CPU.
        retries: how often a run that fails, or whose machine does, is taken up again without an epoch completed since.
        json: print the outcomes as JSON.
    """

    games: tuple[str, ...]
    seeds: int = 1
    preset: str = "tiny"
    out: Path = Path("runs")
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Train them all."""
        check_flags(("--seeds", self.seeds, 1), ("--retries", self.retries, 0))
        self._check_resources()
        games = _named(self.games)
        config = resolve_config(self.preset, rest, "jedi-env sweep")
        of_any = resolve_config(self.preset, rest, "jedi-env sweep", any_game=True)
        from trainers.sweep import Job, Resources, sweep

        out = self.out.resolve()
        # Seed by seed: what is there early on is of every game.
        runs = [(game, seed) for seed in range(self.seeds) for game in games]
        jobs = [
            Job(game, seed, out / run_name(game, self.preset, seed), config if game in SIGNED else of_any)
            for game, seed in runs
        ]
        resources = Resources(self.cpus, self.gpus)
        outcomes = sweep(jobs, resources, retries=self.retries, address=self.address)
        if self.json:
            print(json.dumps([_told(outcome) for outcome in outcomes], indent=1))
        failed = [outcome for outcome in outcomes if outcome.error]
        if not self.json:
            there = sum(outcome.attempts == 0 for outcome in outcomes if not outcome.error)
            print(f"{len(outcomes) - len(failed)} of {len(outcomes)} runs finished ({there} had been before).")
            print(f"See them: jedi-env report {shlex.quote(str(self.out))}/*")
        if failed:
            width = max(len(outcome.job.run_dir.name) for outcome in failed)
            table = "\n".join(f"  {outcome.job.run_dir.name:{width}s}  {outcome.error}" for outcome in failed)
            raise RunError(
                f"{len(failed)} of {len(outcomes)} runs failed:\n{table}\nTheir logs are in {out / '.sweep'}. Run the "
                "same command again to take them up where they stand."
            )

    def _check_resources(self) -> None:
        if not self.cpus > 0:
            raise UsageError(f"--cpus is {self.cpus:g}: write a number above 0.")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise UsageError(f"--gpus is {self.gpus:g}: write 0, a fraction below 1, or a whole number.")


def _named(games: tuple[str, ...]) -> tuple[str, ...]:
    """Return the games that are meant, each once."""
    if not games:
        raise UsageError("--games names no game: write all, or some of those that `jedi-env list` shows.")
    if games == ("all",):
        return GAMES
    for game in games:
        if game in GAMES:
            continue
        try:
            gym.spec(game)
        except (gym.error.Error, ModuleNotFoundError) as error:
            raise UsageError(
                f"{game!r} is neither an Atari100k game nor a Gymnasium id.{nearest(game, GAMES)} Write all, or some "
                f"of: {', '.join(GAMES)}."
            ) from error
    return tuple(dict.fromkeys(games))


def _told(outcome: Outcome) -> dict[str, object]:
    job = outcome.job
    return {
        "game": job.game,
        "seed": job.seed,
        "run_dir": str(job.run_dir),
        "attempts": outcome.attempts,
        "error": outcome.error,
    }
