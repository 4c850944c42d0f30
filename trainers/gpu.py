"""A few minutes of a GPU that is lent: go on with the paper's JEDI, pack it, score it, say what came of it.

``python -m trainers.gpu --minutes 9 --out OUT``, which is ``make train-gpu``; docs/gpu.md says how it gets there and
back. The run goes on where it is, or from the pack that the last command brought back, or begins. It needs no network.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro

from jedi_env.arguments import check_whole
from jedi_env.config_json import parse
from jedi_env.device import resolve_device
from jedi_env.envs.real import make_pixels_vec
from jedi_env.errors import JediEnvError, RunError, UsageError
from jedi_env.folder import replace_file
from jedi_env.metrics import HUMAN_SCORES, RANDOM_SCORES, published_scores
from trainers.cli import exit_codes
from trainers.commands.common import resolve_config, run_name
from trainers.config import TrainConfig, epochs
from trainers.evaluate import EVALUATION_SEED, Score, play_episodes
from trainers.log import progress, read
from trainers.pack import RunSettings, opened, pack, read_manifest, unpack
from trainers.pictures import save_curves
from trainers.policy import AgentPolicy, Policy
from trainers.provenance import provenance
from trainers.randomness import Purpose, torch_rng
from trainers.rules import Rules
from trainers.state import TrainState, completed
from trainers.time_limit import TimeLimit
from trainers.train import train

logger = logging.getLogger(__name__)

PACK, RESULTS, CURVE = "pack", "results.json", "curve.png"


@dataclass(frozen=True)
class Lent:
    """Train for some minutes; every setting of the preset is a flag too, and must be the same in every command.

    Attributes:
        game: what is played.
        preset: the settings.
        seed: of everything random in the run.
        minutes: of this command in all.
        spare: of these, for packing and scoring at the end.
        games: full real games to score, side by side.
        run_dir: where the run lives here; default runs/<game>-<preset>-<seed>.
        before: what the last command brought back.
        out: what this one brings back: pack/, results.json and curve.png.
        device: cuda, or another on which to try it out.
        commit: of the sources, where git does not know it.
    """

    game: str = "Breakout"
    preset: str = "gpu"
    seed: int = 0
    minutes: float = 9.0
    spare: float = 2.0
    games: int = 32
    run_dir: Path | None = None
    before: Path = Path("gpu")
    out: Path = Path("runs/gpu")
    device: str = "cuda"
    commit: str | None = None

    def __post_init__(self) -> None:
        check_whole("games", self.games)
        if not 0 <= self.spare < self.minutes:
            raise UsageError(f"spare is {self.spare} of {self.minutes} minutes: write less, so that some are left.")

    @property
    def where(self) -> Path:
        """The run directory."""
        return self.run_dir or Path("runs") / run_name(self.game, self.preset, self.seed)


def train_lent(lent: Lent, config: TrainConfig, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Go on with the run for as long as there is time; return what is written to ``results.json``.

    Raises:
        UsageError: no such device, or the run here is another, or behind the one that was brought back.
        CheckpointError: the pack that was brought back is damaged.
        RunError: the run went wrong, or the game plays otherwise here.
    """
    whole, training = TimeLimit(lent.minutes, clock), TimeLimit(lent.minutes - lent.spare, clock)
    device = resolve_device(lent.device)
    _take_up(lent, config)
    try:
        train(config, lent.game, lent.seed, lent.where, device, training)
    except BaseException:  # whatever went wrong, completed epochs are brought back
        with suppress(JediEnvError):
            pack(lent.where, lent.out / PACK)
        raise
    pack(lent.where, lent.out / PACK)
    with opened(lent.where, RunSettings(lent.game, lent.seed, config), device) as (state, _):
        results = _results(lent, config, state)
        _write(lent, results, whole)  # before the games: if the command is ended in one, the rest is there
        results["commands"][-1]["score"] = _score(lent, config, state, whole)
    _write(lent, results, whole)
    return results


def _take_up(lent: Lent, config: TrainConfig) -> None:
    """See to it that the run is here as far as it ever was; before anything is made, refuse another's."""
    packed = lent.before / PACK
    for folder in (lent.before, lent.where):
        _earlier(folder)
    if not lent.before.exists():
        return
    brought = read_manifest(packed)
    if brought.run != RunSettings(lent.game, lent.seed, config):
        raise UsageError(
            f"{packed} is of another game, seed or settings than this command: give those that it began with, or "
            "another --before."
        )
    if not lent.where.exists():
        unpack(packed, lent.where)
    if (lent.before / RESULTS).exists() and not (lent.where / RESULTS).exists():
        replace_file(lent.where / RESULTS, (lent.before / RESULTS).read_bytes())
    here, there = completed(lent.where)[0], brought.epoch
    if here < there:
        raise UsageError(
            f"{lent.where} is behind {packed} ({here} epochs of {there}): delete it to go on from the pack."
        )


def _earlier(folder: Path) -> list[dict[str, Any]]:
    """Return what ``results.json`` in ``folder`` says of the commands before this one."""
    path = folder / RESULTS
    if not path.exists():
        return []
    told: Any = parse(path.read_bytes(), str(path))
    commands = told.get("commands") if isinstance(told, dict) else None
    if not isinstance(commands, list) or not all(isinstance(one, dict) and "seconds" in one for one in commands):
        raise UsageError(f"{path} is no list of what earlier commands came to: mend or delete it.")
    return commands


def _results(lent: Lent, config: TrainConfig, state: TrainState) -> dict[str, Any]:
    """Return what the earlier commands came to, and this one without its score."""
    sources = {"random": RANDOM_SCORES, "human": HUMAN_SCORES}
    sources |= {method: published_scores(method) for method in ("DIAMOND", "JEDI")}
    told = {
        **provenance(config),
        "epochs": state.epoch,
        "epochs_planned": epochs(config, state.first_steps),
        "real_steps": state.replay.num_steps,
        "imagined_steps": state.imagined_steps,
        "score": None,
    }
    return {
        "game": lent.game,
        "preset": lent.preset,
        "seed": lent.seed,
        "published": {name: scores[lent.game] for name, scores in sources.items() if lent.game in scores},
        "commands": [*_earlier(lent.where), {**told, "commit": told["commit"] or lent.commit}],
    }


def _write(lent: Lent, results: dict[str, Any], spent: TimeLimit) -> None:
    """Write ``results``, with the time spent until now and what came of it, and the learning curve."""
    now = results["commands"][-1]
    now["seconds"] = spent.seconds
    results["seconds"] = sum(command["seconds"] for command in results["commands"])
    score = now["score"] and now["score"]["mean"]
    results["score"] = score
    results["score_per_hour"] = None if score is None else score / (results["seconds"] / 3600)
    content = json.dumps(results, indent=1).encode()
    for folder in (lent.where, lent.out):
        replace_file(folder / RESULTS, content)
    scored = [(each["real_steps"], each["score"]["mean"]) for each in results["commands"] if each["score"]]
    played = [
        (line["real_steps"], line["score"])
        for line in read(lent.where)
        if line["phase"] == "collect" and "score" in line
    ]
    last = now["real_steps"]
    known = {f"{name} (published)": [(0, value), (last, value)] for name, value in results["published"].items()}
    curves = {"games played to learn": played, "games played to score": scored, **known}
    save_curves(curves, lent.out / CURVE, "real steps", f"score of a game of {lent.game}")


def _score(lent: Lent, config: TrainConfig, state: TrainState, whole: TimeLimit) -> dict[str, Any] | None:
    """Return the score of one full game in each lane, or None if they take too long."""
    generator = torch_rng(state.seed, state.epoch, Purpose.EVALUATE, next(state.agent.parameters()).device)
    policy = _InTime(AgentPolicy(state.world_model, state.agent, generator), whole)
    rules = Rules(frame_skip=config.frame_skip)
    games = make_pixels_vec(lent.game, lent.games, **rules.whole_games(lent.game))
    with closing(games) as env, progress(None, lent.games, "real games") as bar:
        try:
            returns = play_episodes(env, policy, lent.games, EVALUATION_SEED, lambda _: bar.update())
        except _TimeIsUpError:
            logger.warning("The time was up before all games were over: this command has no score.")
            return None
    return Score(lent.game, tuple(returns), rules.record(lent.game)).to_json()


class _TimeIsUpError(RunError):
    pass


class _InTime:
    """A policy that acts for as long as there is time."""

    def __init__(self, policy: Policy, limit: TimeLimit) -> None:
        self.policy = policy
        self.limit = limit

    def act(self, pixels: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        if self.limit.over:
            raise _TimeIsUpError("The time is up.")
        return self.policy.act(pixels, first)


def main() -> None:
    """Train on a lent GPU from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # What is not bfloat16 may be TF32; shapes never change, so it pays to look for the fastest kernels.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    with exit_codes("trainers.gpu"):
        lent, flags = tyro.cli(Lent, description=__doc__, return_unknown_args=True)
        results = train_lent(lent, resolve_config(lent.preset, flags, "python -m trainers.gpu"))
    now = results["commands"][-1]
    print(
        f"{now['epochs']} of {now['epochs_planned']} epochs, {now['real_steps']} real steps, score {results['score']}"
    )
    print(f"{results['seconds'] / 60:.1f} minutes so far; {lent.out / RESULTS}, {lent.out / CURVE}, {lent.out / PACK}")


if __name__ == "__main__":
    main()
