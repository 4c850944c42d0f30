"""What is measured of our own code: dream steps, updates of each of the three models, draws from the replay.

Weights and data are random: arithmetic takes the same time whatever it computes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from jedi_env.actions import DiscreteActions
from jedi_env.checkpoint import Checkpoint
from jedi_env.dream import Dream
from jedi_env.models.encoder import PIXELS_SHAPE
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.types import Context, Segment
from trainers.agent import ActorCritic
from trainers.benchmarks.clock import OWN, Job, Place, process_memory
from trainers.fit_agent import fit_agent
from trainers.fit_world_model import make_optim
from trainers.optim import Optim
from trainers.presets import PRESETS
from trainers.replay import Replay, Sampling, step_dtype

ACTIONS = 4
RARELY = 8.0  # subtracted from the logit of an end: an untrained model would end every other step
_BANK = 8  # few: to begin at each is work that is not measured here, and needs memory
_EPISODE = 500


@dataclass(frozen=True)
class DreamSteps:
    """Steps of ``lanes`` dreams of a preset's world model.

    Attributes:
        preset: its name.
        lanes: dreams side by side.
        width: channels of every level of the denoiser; None: the preset's.
    """

    preset: str
    lanes: int
    width: int | None = None

    def prepare(self, place: Place) -> Job:
        """Build the dream."""
        config = PRESETS[self.preset].world_model
        if self.width is not None:
            channels = (self.width,) * len(config.denoiser.channels)
            config = replace(config, denoiser=replace(config.denoiser, channels=channels))
        dream = _dream(_model(config, place).eval().requires_grad_(False), place, horizon=50)
        dream.reset(range(self.lanes))
        actions = torch.zeros(self.lanes, dtype=torch.int64, device=place.device)
        return Job(lambda: dream.step(actions), units=self.lanes)


@dataclass(frozen=True)
class DenoiserUpdate:
    """Updates of the denoiser, and of the encoder with it, at the preset's batch.

    Where chance decides whether estimates are fed back, an update of each kind, whatever it would have decided.
    """

    preset: str

    def prepare(self, place: Place) -> Job:
        """Build model, optimiser and a batch."""
        config = PRESETS[self.preset].fit_world_model
        model = _model(PRESETS[self.preset].world_model, place)
        optim = make_optim(model, config)
        segment = _segment(config.batch, model.context_length + config.denoising_steps - 1, place)
        generator = torch.Generator(place.device).manual_seed(0)
        switching = model.config.switching
        kinds = [replace(model.config, switching=sure) for sure in ((0.0, 1.0) if 0 < switching < 1 else (switching,))]

        def run() -> None:
            for kind in kinds:
                model.config = kind
                with place.autocast():
                    loss = model.denoising_loss(model.encode(segment.pixels), segment, generator)
                optim.step(loss)

        return Job(run, units=len(kinds))


@dataclass(frozen=True)
class RewardEndUpdate:
    """Updates of the reward/termination model, and of the encoder with it, at the preset's batch."""

    preset: str

    def prepare(self, place: Place) -> Job:
        """Build model, optimiser and a batch."""
        config = PRESETS[self.preset].fit_world_model
        model = _model(PRESETS[self.preset].world_model, place)
        optim = make_optim(model, config)
        length = config.reward_end_length or model.context_length + config.denoising_steps - 1
        segment = _segment(config.batch, length, place)
        generator = torch.Generator(place.device).manual_seed(0)

        def run() -> None:
            with place.autocast():
                reward, end = model.reward_end_loss(model.encode(segment.pixels), segment, generator)
            optim.step(reward + end)

        return Job(run)


@dataclass(frozen=True)
class AgentUpdate:
    """Updates of the agent in imagination.

    Attributes:
        preset: its name.
        horizon: imagined steps of the update that is run, of which the preset's update is a multiple; nearly all of its
            time is in those steps.
        batch: dreams side by side; None: the preset's.
    """

    preset: str
    horizon: int
    batch: int | None = None

    def prepare(self, place: Place) -> Job:
        """Build world model, dream, agent and optimiser."""
        config = PRESETS[self.preset]
        model = _model(config.world_model, place).eval().requires_grad_(False)
        agent = ActorCritic(model.frame_shape, ACTIONS, config.agent).to(place.device)
        settings = config.fit_agent
        optim = Optim({"agent": (agent, settings.optim)})
        updates = fit_agent(
            agent,
            optim,
            _dream(model, place, horizon=None),
            replace(settings, horizon=self.horizon, batch=self.batch or settings.batch),
            2**62,
            torch.Generator(place.device).manual_seed(0),
        )
        return Job(lambda: next(updates), units=self.horizon / settings.horizon)


@dataclass(frozen=True)
class ReplayDraws:
    """Draws of a batch of 32 segments of 5 transitions from a replay of ``rows`` frames.

    The frames are a hole in a file (zeros that take no room on the disk), so that a million of them cost nothing; those
    that are drawn come from memory, as they do on a machine with enough of it.
    """

    rows: int

    def prepare(self, place: Place) -> Job:
        """Make the log, and open it as a resumed run does: that reads all of it."""
        folder = TemporaryDirectory()
        steps = np.zeros(self.rows, step_dtype(DiscreteActions(ACTIONS)))
        steps["last"][_EPISODE - 1 :: _EPISODE] = True
        steps.tofile(Path(folder.name) / "steps.bin")
        (Path(folder.name) / "pixels.bin").touch()
        os.truncate(Path(folder.name) / "pixels.bin", self.rows * int(np.prod(PIXELS_SHAPE)))
        before, began = process_memory(OWN), time.perf_counter()
        replay = Replay(Path(folder.name), self.rows)
        opening = time.perf_counter() - began
        index = process_memory(OWN) - before
        rng = np.random.default_rng(0)

        def run() -> object:
            return folder, replay, replay.segments(32, 5, Sampling(), rng)  # the folder lives as long as this

        return Job(run, noted={"open": opening, "index_mb": index / 2**20})


def untrained(preset: str) -> Checkpoint:
    """Return a checkpoint of a preset that has learned nothing."""
    model = _model(PRESETS[preset].world_model, Place("cpu", "float32")).eval().requires_grad_(False)
    return Checkpoint(
        world_model=model,
        contexts=_contexts(model, Place("cpu", "float32")),
        game=None,
        horizon=50,
        protocol={},
        provenance={},
        metrics={},
        agent=None,
    )


def _model(config: WorldModelConfig, place: Place) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(ACTIONS, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # many layers start at zero
                parameter.normal_(std=0.02)

    def seldom(_: torch.nn.Module, __: object, logits: Tensor) -> Tensor:
        return torch.cat((logits[..., :-1], logits[..., -1:] - RARELY), dim=-1)

    model.reward_end.head.register_forward_hook(seldom)
    return model.to(place.device)


def _contexts(model: WorldModel, place: Place) -> Context:
    k = model.context_length
    frames = (torch.rand(_BANK, k, *model.frame_shape) * 2 - 1) * model.bound
    return Context(frames.to(place.device), torch.zeros(_BANK, k - 1, dtype=torch.int64, device=place.device))


def _dream(model: WorldModel, place: Place, horizon: int | None) -> Dream:
    return Dream(model, _contexts(model, place), horizon=horizon, dtype=place.precision, compile=place.compile)


def _segment(batch: int, length: int, place: Place) -> Segment:
    pixels = torch.randint(0, 256, (batch, length + 1, *PIXELS_SHAPE), dtype=torch.uint8)
    rewards = (torch.arange(batch * length) % 3 - 1).float()
    there = torch.ones(batch, length, dtype=torch.bool)
    return Segment(
        pixels, torch.zeros(batch, length, dtype=torch.int64), rewards.reshape(batch, length), ~there, there
    ).to(place.device)
