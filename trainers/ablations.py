"""Which parts of the method matter to a small model: the papers' ablations and ours (``python -m trainers.ablations``).

Every variant departs in what its name says from the preset ``tiny`` with the world model of the gate, whose runs are
as short (no noise on the reward/termination model's frames). On Catch the native loop is trained from nothing
and scored on the real game, a few seeds each; on Breakout the world model alone is fitted to random play, and
:mod:`trainers.fidelity` judges it on held-out play. What is finished is not done anew, so several processes may share
one folder, each with ``--variants`` of its own; each prints the tables of all that is there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import tyro

from jedi_env.arguments import check_whole
from jedi_env.checkpoint import Checkpoint
from jedi_env.config_json import to_json
from jedi_env.device import resolve_device
from jedi_env.errors import UsageError, nearest
from jedi_env.folder import replace_file
from jedi_env.models.encoder import LatentEncoderConfig, PixelEncoderConfig
from jedi_env.models.sampler import SamplerConfig
from trainers.agent import ActorCriticConfig
from trainers.cli import exit_codes
from trainers.config import TrainConfig
from trainers.demo import THREADS
from trainers.fidelity import FidelityConfig, fidelity
from trainers.presets import DEMO
from trainers.quality import CATCH, GAME
from trainers.train import train

logger = logging.getLogger(__name__)

_MODEL = CATCH.world_model  # all runs here are as short
_ENCODER = _MODEL.encoder if isinstance(_MODEL.encoder, LatentEncoderConfig) else LatentEncoderConfig()
_PIXELS = replace(  # a dream step of as many operations as one of tiny's
    _MODEL,
    encoder=PixelEncoderConfig(),
    denoiser=replace(_MODEL.denoiser, channels=(4, 4, 16, 32), depths=(1,) * 4, attention=(False,) * 4),
    reward_end=replace(
        _MODEL.reward_end,
        channels=(4, 8, 16, 32),
        depths=(1,) * 4,
        attention=(False,) * 4,
        down=(True,) * 4,
    ),
    switching=1.0,
    covariance_weight=0.0,
)
VARIANTS = MappingProxyType(
    {
        "tiny": _MODEL,
        "mean-squared-error": replace(_MODEL, denoiser=replace(_MODEL.denoiser, diffusion=False)),
        "published-noise": replace(
            _MODEL,
            denoiser=replace(_MODEL.denoiser, mean_log_sigma=-0.4, std_log_sigma=1.2),
            sampler=SamplerConfig(steps=2, sigma_min=0.075, sigma_max=2.5),
        ),
        "starts-near-the-mean": replace(_MODEL, sampler=replace(_MODEL.sampler, start_std=1.0)),
        "no-denoising-gradient": replace(_MODEL, encoder_learns_from_denoising=False),
        "reconstruction-gradient": replace(_MODEL, encoder_learns_from_reconstruction=True),
        "no-covariance": replace(_MODEL, covariance_weight=0.0),
        "raw-latents": replace(_MODEL, encoder=replace(_ENCODER, centre=False, standardise=False)),
        "reward-from-next": replace(_MODEL, reward_end=replace(_MODEL.reward_end, sees_next=True)),
        "reward-from-one-frame": replace(_MODEL, reward_end=replace(_MODEL.reward_end, frame_stack=1)),
        "reward-from-real-frames": _MODEL,
        "pixels": _PIXELS,
    }
)
_FITTING: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"reward-from-real-frames": {"reward_end_switching": 0.0}, "pixels": {"decoder_every": 0}}
)
ON_PIXELS = ActorCriticConfig(channels=(8, 16, 32, 32), down=(True,) * 4, lstm_dim=0, frame_stack=4)

SHORT_CATCH = replace(CATCH, collect=replace(CATCH.collect, total_steps=14_000))
OFFLINE_BREAKOUT = replace(
    DEMO, fit_world_model=replace(DEMO.fit_world_model, first_updates=1_500, freeze_encoder_after=750)
)
RESAMPLES = 10_000
_REPORT, _LONGEST = "fidelity.json", 15  # dream steps
_COLUMNS = (
    *(f"error against copying after {k} (95%)" for k in (1, 5, _LONGEST)),
    "rank, real",
    "reward recall, real frames / 1 / 5 steps in",
    "R2 ball x, y, encoded",
    "dreamed, 5 steps",
)


@dataclass(frozen=True)
class AblationsConfig:
    """The ablations.

    Attributes:
        out: folder of the runs and of ``ablations.json``.
        seeds: of each variant on Catch; Breakout has the first alone.
        variants: which; none named: all.
        breakout: the offline half too.
        fidelity: what is measured of its dreams.
    """

    out: Path = Path("runs/ablations")
    seeds: int = 3
    variants: tuple[str, ...] = ()
    breakout: bool = True
    fidelity: FidelityConfig = field(default_factory=FidelityConfig)

    def __post_init__(self) -> None:
        check_whole("seeds", self.seeds)
        for name in self.variants:
            if name not in VARIANTS:
                raise UsageError(f"There is no variant {name!r}.{nearest(name, VARIANTS)} All: {', '.join(VARIANTS)}.")
        if self.breakout and not (self.fidelity.horizon >= _LONGEST and self.fidelity.probes):
            raise UsageError(f"The table needs the probes, and a --fidelity.horizon of at least {_LONGEST}.")


def ablations(config: AblationsConfig, catch: TrainConfig, breakout: TrainConfig) -> dict[str, Any]:
    """Train and measure what is not there yet; return (and write, at the end) all that the folder has."""
    for name in config.variants or VARIANTS:
        for seed in range(config.seeds):
            train(varied(catch, name), GAME, seed, config.out / f"catch-{name}-{seed}", resolve_device("cpu"))
        if config.breakout:
            _offline(config, varied(breakout, name), config.out / f"breakout-{name}")
    told = {name: _found(config.out, name) for name in VARIANTS}
    replace_file(config.out / "ablations.json", json.dumps(told, indent=1).encode())
    return told


def varied(config: TrainConfig, name: str) -> TrainConfig:
    """Return ``config`` with the world model of the variant ``name``, how it learns, and an agent for its frames."""
    model = VARIANTS[name]
    return replace(
        config,
        world_model=model,
        fit_world_model=replace(config.fit_world_model, **_FITTING.get(name, {})),
        agent=ON_PIXELS if isinstance(model.encoder, PixelEncoderConfig) else config.agent,
    )


def interval(returns: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Return the mean over seeds of mean returns, and its 95% interval: seeds resampled, then games within each."""
    rng = np.random.default_rng(seed)
    values = np.array(returns)
    seeds = rng.integers(len(values), size=(RESAMPLES, len(values)))
    games = rng.integers(values.shape[1], size=(RESAMPLES, *values.shape))
    means = values[seeds[:, :, None], games].mean(axis=(1, 2))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def table(told: Mapping[str, Mapping[str, Any]]) -> str:
    """Return two Markdown tables of what was measured."""
    lines = ["| on Catch | catches of 20 (95%) | each seed |", "|---|---|---|"]
    for name, found in told.items():
        if runs := found["catch"]:
            mean, low, high = interval([run["returns"] for run in runs])
            each = ", ".join(f"{run['mean']:.1f}" for run in runs)
            lines.append(f"| {name} | {mean:.1f} ({low:.1f} to {high:.1f}) | {each} |")
    lines += ["", "| on Breakout, offline | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for name, found in told.items():
        if report := found["breakout"]:
            lines.append(f"| {name} | " + " | ".join(_cells(report)) + " |")
    return "\n".join(lines)


def _cells(report: Mapping[str, Any]) -> list[str]:
    frames, events, spread = ({row["horizon"]: row for row in report[part]} for part in ("frames", "events", "spread"))
    probes = {(row["name"], row["horizon"]): row["r2"] for row in report["probes"]}

    def r2(horizon: int) -> str:
        return ", ".join(_number(probes[name, horizon]) for name in ("ball_x", "ball_y"))

    return [
        *(_with_interval(frames[k]["against_copy"]) for k in (1, 5, _LONGEST)),
        f"{spread[0]['rank_real']:.0f}",
        " / ".join(_number(events[k]["reward"]["recall"][2]) for k in (0, 1, 5)),
        r2(0),
        r2(5),
    ]


def _with_interval(ratio: Mapping[str, float] | None) -> str:
    return "-" if ratio is None else f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _offline(config: AblationsConfig, training: TrainConfig, run: Path) -> None:
    checkpoint = train(training, "Breakout", 0, run, resolve_device("cpu"))
    if not _measured(run / _REPORT, config.fidelity):
        report, _ = fidelity(Checkpoint.load(checkpoint), config.fidelity)
        replace_file(run / _REPORT, json.dumps(to_json(report)).encode())


def _measured(report: Path, config: FidelityConfig) -> bool:
    """Return whether the report is there, and of these settings."""
    return report.exists() and asdict(config).items() <= json.loads(report.read_text())["setup"].items()


def _found(out: Path, name: str) -> dict[str, Any]:
    """Return the final scores and the report of a variant, as far as they are there."""
    finals = []
    for scores in sorted(out.glob(f"catch-{name}-*/scores.json")):
        finals += [score for score in json.loads(scores.read_text()) if score["final"]]
    report = out / f"breakout-{name}" / _REPORT
    return {"catch": finals, "breakout": json.loads(report.read_text()) if report.exists() else None}


def main() -> None:
    """Run the ablations from the command line and print the tables."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = tyro.cli(AblationsConfig, description=__doc__)
    torch.set_num_threads(THREADS)
    with exit_codes("trainers.ablations"):
        print(table(ablations(config, SHORT_CATCH, OFFLINE_BREAKOUT)))


if __name__ == "__main__":
    main()
