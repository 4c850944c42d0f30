"""How long a run would take on this machine: a few of its real steps and updates, timed, times how many there would be.

Nothing is kept: the measuring run lives in a folder that is gone afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from jedi_env.actions import actions_of, blanks
from jedi_env.dream import Dream
from jedi_env.envs.real import make_pixels
from trainers.collect import Collector
from trainers.config import TrainConfig, epochs
from trainers.fit_agent import fit_agent
from trainers.fit_world_model import fit_world_model
from trainers.policy import AgentPolicy, RandomPolicy
from trainers.provenance import machine
from trainers.randomness import Purpose, numpy_rng, torch_rng
from trainers.state import TrainState, open_run
from trainers.train import draw_contexts

_PLAY = 64  # real steps to learn from
# What is measured instead where a whole update takes too long: on a CPU its time grows with batch and horizon.
_PIECE_BATCH, _PIECE_HORIZON = 4, 5
_TOO_LONG = 2.0  # seconds
_OVER = object()
_NEVER = 1e-12  # a chance: what it decides on is prepared, and does not come
_REPETITIONS, _PATIENCE = 5, 10.0  # of each measurement: so many times, or so many seconds


@dataclass(frozen=True)
class Cost:
    """What one kind of work costs.

    Attributes:
        name: of the work.
        seconds: the median of a few times; where chance or the turn decides what is done, the mean of the medians.
        times: how often a run does it.
        scaled: by how much the time of the piece that was measured is multiplied in ``seconds``.
    """

    name: str
    seconds: float
    times: int
    scaled: float = 1.0

    @property
    def hours(self) -> float:
        """All of it together."""
        return self.seconds * self.times / 3600


@dataclass(frozen=True)
class Estimate:
    """How large a run is and how long it would take here; evaluation, calibration and saving are not counted.

    Attributes:
        machine: what it was measured on.
        parameters: of each part.
        epochs: of the run.
        costs: what was measured.
    """

    machine: str
    parameters: dict[str, int]
    epochs: int
    costs: tuple[Cost, ...]

    @property
    def hours(self) -> float:
        """The whole run."""
        return sum(cost.hours for cost in self.costs)

    def to_json(self) -> dict[str, Any]:
        """Return the record for programs."""
        return {
            "machine": self.machine,
            "parameters": self.parameters,
            "epochs": self.epochs,
            "hours": self.hours,
            "measured": {c.name: {"seconds": c.seconds, "times": c.times, "scaled": c.scaled} for c in self.costs},
        }


def estimate(config: TrainConfig, game: str, device: torch.device, tell: Callable[[str], object]) -> Estimate:
    """Time a run's work on the real game and at the run's own sizes.

    Args:
        config: of the run.
        game: as in ``train``.
        device: where it would run.
        tell: is told what is being measured.

    Raises:
        UsageError: as ``train``.
    """
    with ExitStack() as opened:
        env = opened.enter_context(closing(make_pixels(game, frame_skip=config.frame_skip)))
        actions = actions_of(env.action_space, game)
        folder = Path(opened.enter_context(TemporaryDirectory()))
        state = open_run(folder / "run", config, game, 0, actions, device)
        opened.callback(state.close)
        state.first_steps = min(config.collect.first_steps, config.collect.total_steps)
        number = epochs(config, state.first_steps)
        modules = {**dict(state.world_model.named_children()), "agent": state.agent}
        tell("playing the real game")
        costs = [_collection(config, state, Collector(env, state.replay, life_loss=True, seed=0), device)]
        for small in [_piece(config), config] if device.type == "cpu" else [config]:
            tell("updating the world model")
            updates = list(_model_updates(config, small, state, number, device))
            tell("updating the agent in imagination")
            updates += _agent_updates(config, small, state, number, device)
            if max(cost.seconds for cost in updates) > _TOO_LONG:
                break
    return Estimate(
        machine=machine() if device.type == "cpu" else f"{device} ({machine()})",
        parameters={name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()},
        epochs=number,
        costs=(*costs, *updates),
    )


def _piece(config: TrainConfig) -> TrainConfig:
    """Return the run with small updates, whose time is to be multiplied."""
    return replace(
        config,
        fit_world_model=replace(config.fit_world_model, batch=min(_PIECE_BATCH, config.fit_world_model.batch)),
        fit_agent=replace(
            config.fit_agent,
            batch=min(_PIECE_BATCH, config.fit_agent.batch),
            horizon=min(_PIECE_HORIZON, config.fit_agent.horizon),
        ),
    )


def _collection(config: TrainConfig, state: TrainState, collector: Collector, device: torch.device) -> Cost:
    random = RandomPolicy(state.agent.actions, numpy_rng(0, 0, Purpose.COLLECT))
    for _ in collector.collect(_PLAY, random):
        pass
    policy = AgentPolicy(state.world_model, state.agent, torch_rng(0, 0, Purpose.COLLECT, device))
    return Cost("real step", _median(collector.collect(_PLAY, policy), _PLAY), config.collect.total_steps)


def _model_updates(
    config: TrainConfig, small: TrainConfig, state: TrainState, number: int, device: torch.device
) -> Iterator[Cost]:
    settings = config.fit_world_model
    updates = settings.first_updates + settings.updates * (number - 1)
    scaled = settings.batch / small.fit_world_model.batch
    frozen_after = settings.freeze_encoder_after or updates
    stages = [("world-model update", min(updates, frozen_after), 0)]
    if updates > frozen_after:
        stages.append(("world-model update, encoder frozen", updates - frozen_after, frozen_after))
    for name, times, already in stages:
        seconds = 0.0
        drawn = _outcomes(1 / settings.decoder_every if settings.decoder_every else 0.0)
        if config.world_model.needs_decoder:
            drawn = _outcomes(1.0)
        switched = _outcomes(settings.reward_end_switching) if already else [(0.0, 1.0)]
        if settings.reward_end_switching:  # whose segments are its own also when nothing of them is dreamed
            switched = [(dreamed or _NEVER, often) for dreamed, often in switched]
        for coins in product(_outcomes(config.world_model.switching), switched, drawn):
            (fed, dreamed, decoded), chances = zip(*coins, strict=True)
            state.world_model_optim.updates = already
            state.world_model.encoder.requires_grad_(True)  # an earlier stage, on a piece, froze it
            state.world_model.config = replace(config.world_model, switching=fed)
            steps = fit_world_model(
                state.world_model,
                state.world_model_optim,
                state.replay,
                replace(small.fit_world_model, reward_end_switching=dreamed, decoder_every=1),
                _REPETITIONS + 1,
                numpy_rng(0, 0, Purpose.WORLD_MODEL),
                torch_rng(0, 0, Purpose.WORLD_MODEL, device),
                *((state.decoder, state.decoder_optim) if decoded else ()),
            )
            seconds += prod(chances) * scaled * _median(steps, _REPETITIONS)
        yield Cost(name, seconds, times, scaled)
    state.world_model.eval()


def _outcomes(chance: float) -> list[tuple[float, float]]:
    """Return what may be decided for a batch, 0.0 or 1.0, each with how often it is: one kind of update each."""
    return [(outcome, often) for outcome, often in ((0.0, 1 - chance), (1.0, chance)) if often]


def _agent_updates(
    config: TrainConfig, small: TrainConfig, state: TrainState, number: int, device: torch.device
) -> tuple[Cost, Cost]:
    settings = config.fit_agent
    updates = settings.first_updates + settings.updates * (number - 1)
    dtype = torch.bfloat16 if config.fit_world_model.precision_bf16 else torch.float32
    dream = Dream(
        state.world_model,
        draw_contexts(config, state, min(_PLAY, settings.contexts), device),
        horizon=None,
        dtype=dtype,
    )
    steps = fit_agent(
        state.agent,
        state.agent_optim,
        dream,
        small.fit_agent,
        _REPETITIONS + 1,
        torch_rng(0, 0, Purpose.AGENT, device),
    )
    scaled = settings.batch / small.fit_agent.batch
    update = scaled * settings.horizon / small.fit_agent.horizon * _median(steps, _REPETITIONS)
    step = scaled * _median(_imagining(dream, blanks(state.agent.actions, len(dream.state)).to(device)), _REPETITIONS)
    return (
        Cost(f"imagined step of {settings.batch} dreams", step, updates * settings.horizon, scaled),
        Cost("agent update without them", max(0.0, update - settings.horizon * step), updates, scaled),
    )


def _imagining(dream: Dream, actions: Tensor) -> Iterator[None]:
    while True:
        dream.step(actions)
        dream.state.age.sum().item()  # waits for the device
        yield


def _median(steps: Iterator[Any], most: int) -> float:
    """Return the median time of a step; the first one warms up, and is counted only if there is no time for another."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) <= most and (not times or time.perf_counter() - began < _PATIENCE):
        start = time.perf_counter()
        if next(steps, _OVER) is _OVER:
            break
        times.append(time.perf_counter() - start)
    return median(times[1:] or times)
