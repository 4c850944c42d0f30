"""From a run directory to a dream that can be given away: small, measured, with a model card.

``python -m trainers.ship RUN --out FOLDER``. Starting points are drawn from the run's random play, where a policy that
knows nothing yet is at home; they and the weights become float16. Then everything that the card says is measured on
exactly the files that are shipped: fidelity, the native agent, Stable-Baselines3's PPO trained from nothing in this
dream alone (three seeds), and random play, all on full real games. Scores are told as they are.
Without RUN, the dream that lies in FOLDER is measured again as it is.
"""

from __future__ import annotations

import io
import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from tyro.conf import Positional

from jedi_env.arguments import check_whole
from jedi_env.checkpoint import Checkpoint, annotate
from jedi_env.config_json import from_json
from jedi_env.errors import RunError, UsageError
from jedi_env.folder import replace_file
from jedi_env.games import GAMES
from jedi_env.metrics import HUMAN_SCORES
from jedi_env.types import Context
from trainers.cli import exit_codes
from trainers.config import TrainConfig
from trainers.demo import LANES, THREADS
from trainers.evaluate import Score, score_checkpoint, score_policy
from trainers.fidelity import FidelityConfig, fidelity, store
from trainers.fidelity_plot import save_sample
from trainers.log import progress
from trainers.policy import RandomPolicy
from trainers.provenance import provenance
from trainers.replay import FollowedReplay, Sampling, rows_in
from trainers.rules import Rules
from trainers.sb3 import learn, make_algorithm, score_on_reality
from trainers.train import encoded

logger = logging.getLogger(__name__)

CARD, STRIP = "README.md", "strip.png"
LARGEST = 5_000_000  # bytes


@dataclass(frozen=True)
class ShipConfig:
    """What is shipped and what is measured.

    Attributes:
        contexts: starting points of the bank. They are of random play: PPO from nothing scored 2.8 from those and 1.8
            from points of all play (docs/experiments.md).
        seeds: of PPO.
        steps: dream steps that each PPO learns from.
        horizon: dream steps an episode of PPO's; in Breakout it scored 5.2 with 50, 3.7 with 25 (docs/experiments.md).
        episodes: full real games of each policy.
        fidelity: what is measured of the dream: four times the play of the command, whose recall is of few events.
    """

    contexts: int = 112
    seeds: int = 3
    steps: int = 400_000
    horizon: int = 50
    episodes: int = 40
    fidelity: FidelityConfig = field(default_factory=lambda: FidelityConfig(horizon=50, segments=1024, steps=12_000))

    def __post_init__(self) -> None:
        for name in ("contexts", "seeds", "steps", "horizon", "episodes"):
            check_whole(name, getattr(self, name))
        if self.episodes < 2:
            raise UsageError("episodes is 1: write at least 2, since one game has no deviation.")


def ship(run: Path, out: Path, config: ShipConfig) -> Checkpoint:
    """Write the dream of the run directory ``run`` to ``out``, measured and with a card; return it.

    Raises:
        UsageError: it is of no real game, or larger than :data:`LARGEST`; ``out`` was not touched.
        RunError: its replay is not there; ``out`` was not touched.
    """
    whole = _measurable(run / "checkpoint")
    whole = replace(whole, contexts=starting_points(run, whole, config.contexts), metrics={})
    size = 2 * sum(tensor.numel() for tensor in _tensors(whole))
    if size > LARGEST:
        raise UsageError(f"It would take {size:,} bytes, more than {LARGEST:,}: write fewer --contexts.")
    whole.save(out, half=True)
    for told in (CARD, STRIP):  # of the dream that lay there before
        (out / told).unlink(missing_ok=True)
    return measure(out, config)


def measure(out: Path, config: ShipConfig) -> Checkpoint:
    """Measure the dream in ``out`` and store what was found there, with a card; return it.

    Raises:
        UsageError: it is of no real game or has no agent; ``out`` was not touched.
    """
    shipped = _measurable(out)
    report, segments = fidelity(shipped, config.fidelity)
    store(report, shipped, out, set_horizon=True)
    save_sample(shipped.world_model, segments, out / STRIP, config.fidelity.seed, scale=1)
    with Image.open(out / STRIP) as strip:
        smaller = strip.quantize(256, dither=Image.Dither.NONE)  # half the bytes, and looks the same
    buffer = io.BytesIO()
    smaller.save(buffer, "PNG", optimize=True)
    replace_file(out / STRIP, buffer.getvalue())
    annotate(out, metrics={"real_games": play_real_games(shipped, config)})
    shipped = Checkpoint.load(out)
    replace_file(out / CARD, card(shipped).encode())
    return shipped


def starting_points(run: Path, checkpoint: Checkpoint, size: int) -> Context:
    """Draw ``size`` starting points from what the run's checkpoint saw before its first update.

    Raises:
        RunError: that play is not there.
    """
    model, actions = checkpoint.world_model, checkpoint.world_model.actions
    collect = from_json(TrainConfig, checkpoint.provenance.get("config"), "config").collect
    rows = min(collect.first_steps, collect.total_steps)
    if rows_in(run / "replay", actions) < rows:
        raise RunError(
            f"The replay of {run} lacks the {rows} first steps, from which starting points are drawn: ship from the "
            f"whole run directory."
        )
    replay = FollowedReplay(run / "replay", actions)
    replay.follow(rows)
    pixels, taken = replay.contexts(size, model.context_length, Sampling(()), np.random.default_rng(0))
    return encoded(model, pixels, taken, torch.device("cpu"))


def play_real_games(checkpoint: Checkpoint, config: ShipConfig) -> dict[str, Any]:
    """Score random play, the native agent and PPO trained in the dream on full real games."""
    game = str(checkpoint.game)
    actions = RandomPolicy(checkpoint.world_model.actions, np.random.default_rng(0))
    random = score_policy(game, actions, config.episodes, "real games: random", Rules.of(checkpoint))
    native = score_checkpoint(checkpoint, config.episodes, seed=0)
    runs = []
    for seed in range(config.seeds):
        model = make_algorithm("PPO", checkpoint, LANES, seed, config.horizon)
        curve = learn(model, config.steps, f"PPO in the dream, seed {seed}")
        with progress(None, config.episodes, f"real games: PPO, seed {seed}") as bar:
            score = score_on_reality(model, game, checkpoint, config.episodes, bar.update)
        told = {
            "seed": seed,
            "dream_steps": model.num_timesteps,
            "horizon": config.horizon,
            "dream_return": curve.final,
        }
        runs.append({**told, **score.to_json(), "above_random": above(score, random)})
    return {
        "random": random.to_json(),
        "native": {**native.to_json(), "above_random": above(native, random)},
        "ppo": runs,
        **provenance(config),
    }


def above(score: Score, baseline: Score) -> dict[str, float]:
    """Return the difference of two means with its 95% interval (normal approximation, unequal variances)."""
    difference = score.mean - baseline.mean
    squares = [float(np.var(each.returns, ddof=1)) / len(each.returns) for each in (score, baseline)]
    half = 1.96 * math.sqrt(sum(squares))
    return {"mean": difference, "low": difference - half, "high": difference + half}


def card(checkpoint: Checkpoint) -> str:
    """Return the model card of a shipped dream, in Markdown; every number in it comes from the checkpoint."""
    jinja = Environment(loader=PackageLoader("trainers", "."), undefined=StrictUndefined, autoescape=False)
    model = checkpoint.world_model
    parts = {"encoder": model.encoder, "denoiser": model.denoiser, "reward/termination": model.reward_end}
    return jinja.get_template("card.md.j2").render(
        game=checkpoint.game,
        atari=checkpoint.game in GAMES,
        human=HUMAN_SCORES.get(str(checkpoint.game)),
        horizon=checkpoint.horizon,
        contexts=len(checkpoint.contexts),
        sees_next=model.config.reward_end.sees_next,
        parameters={name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        provenance=checkpoint.provenance,
        fidelity=checkpoint.metrics["fidelity"],
        games=checkpoint.metrics["real_games"],
    )


def _measurable(folder: Path) -> Checkpoint:
    checkpoint = Checkpoint.load(folder)
    if checkpoint.game is None or checkpoint.agent is None:
        raise UsageError(f"{folder} has no dream of a real game with a native agent: nothing to measure and ship.")
    return checkpoint


def _tensors(checkpoint: Checkpoint) -> list[torch.Tensor]:
    """Return what will be stored as float16."""
    model = checkpoint.world_model
    decoder = model.decoder.state_dict().values() if isinstance(model.decoder, torch.nn.Module) else ()
    agent = checkpoint.agent.tensors.values() if checkpoint.agent else ()
    return [*model.state_dict().values(), *decoder, *agent, checkpoint.contexts.frames]


@dataclass(frozen=True)
class _Arguments:
    """Arguments.

    Attributes:
        run: the run directory; none: measure what lies in ``out`` again.
        out: the folder to write.
        ship: what is shipped and measured.
    """

    out: Path
    run: Positional[Path | None] = None
    ship: Annotated[ShipConfig, tyro.conf.arg(name="")] = field(default_factory=ShipConfig)


def main() -> None:
    """Ship a dream from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = tyro.cli(_Arguments, description=__doc__)
    torch.set_num_threads(THREADS)
    with exit_codes("trainers.ship"):
        if arguments.run is None:
            measure(arguments.out, arguments.ship)
        else:
            ship(arguments.run, arguments.out, arguments.ship)
    print((arguments.out / CARD).read_text())


if __name__ == "__main__":
    main()
