"""How far a dream can be trusted, measured on held-out play of the real game (``jedi-env fidelity``).

Plays games that no training saw, dreams on from them under the same actions, and has :mod:`jedi_env.metrics.dreams`
compare the two; adds what needs an agent (how far its values drift, what it is paid in the dream and in reality), the
pictures and the entry in the checkpoint. What the numbers mean is told in ``docs/fidelity.md``.
"""

from __future__ import annotations

import copy
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jedi_env.actions import actions_of
from jedi_env.arguments import check_flags
from jedi_env.checkpoint import Checkpoint, annotate
from jedi_env.config_json import to_json
from jedi_env.dream import Dream
from jedi_env.envs.real import make_pixels
from jedi_env.errors import RunError, UsageError
from jedi_env.games import GAMES
from jedi_env.metrics.dreams import Measurement, clustered_error, measure
from jedi_env.metrics.probe import Probe, fit_probe
from jedi_env.metrics.side_by_side import SideBySide, side_by_side
from jedi_env.models.reward_heads import SIGNS
from jedi_env.models.world_model import WorldModel
from jedi_env.types import Context, Segment
from trainers.agent import ActorCritic
from trainers.evaluate import agent_of
from trainers.held_out import HeldOut, Ints, event_starts, play_games
from trainers.log import progress
from trainers.policy import AgentPolicy, Policy, RandomPolicy
from trainers.provenance import provenance
from trainers.ram import PLACES, Twin, numbers
from trainers.rules import Rules

ENTRY = "fidelity"  # in the checkpoint's metrics
LEAST_HORIZON = 5  # recommended at least: a shorter dream holds nothing to learn from
CHUNK = 64  # lanes dreamed, or frames encoded, at once
PROBE_SIZE = 2048  # the probe decomposes a matrix of frames or of elements, whichever are fewer: at most this many
DENSE = (0, 1, 2, 3, 5, 8, 10)  # horizons; beyond the last, every fifth


class _Stream(IntEnum):
    """Whose games are played: each has game seeds and actions of its own."""

    TEST = 0
    PROBE = 1
    AGENT = 2


@dataclass(frozen=True)
class FidelityConfig:
    """What is measured on how much play.

    Attributes:
        horizon: the longest, in dreamed steps.
        segments: starting points drawn uniformly; as many again are drawn around events.
        steps: held-out real steps that they are drawn from.
        probe_steps: real steps of other games that the probe is fitted on; of frames with more than :data:`PROBE_SIZE`
            elements, at most that many of them.
        probes: read ALE's RAM from the latents, where it is known.
        on_policy: play with the checkpoint's own agent rather than with random actions.
        seed: of games, actions, starting points, noise and bootstrap.
    """

    horizon: int = 30
    segments: int = 256
    steps: int = 3_000
    probe_steps: int = 20_000
    probes: bool = True
    on_policy: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_flags(("--horizon", self.horizon, 1), ("--segments", self.segments, 2), ("--steps", self.steps, 1))
        check_flags(("--probe-steps", self.probe_steps, 1), ("--seed", self.seed, 0))


@dataclass(frozen=True)
class ValueDrift:
    """How far the agent's value of a dreamed frame is from its value of the real one.

    Attributes:
        horizon: k.
        lanes: real episodes that lasted so long; the others are None without.
        drift: mean absolute difference.
        real_std: standard deviation of the values of the real frames over the lanes, for scale.
    """

    horizon: int
    lanes: int
    drift: float | None
    real_std: float | None


@dataclass(frozen=True)
class Returns:
    """What windows of play paid, in rewards as the dream learns them, to the end of the episode or the longest horizon.

    Attributes:
        mean: of the sum a window.
        standard_error: of the mean, where the windows of one block of play, which overlap, may have anything in common;
            None with one block alone.
        steps: mean steps that a window lasted.
        ends: share of the windows in which the episode ended.
    """

    mean: float
    standard_error: float | None
    steps: float
    ends: float


@dataclass(frozen=True)
class Watch:
    """A policy's windows of real play, and free dreams of the same policy from where they start.

    A dream that pays more than reality is what a policy will learn to exploit.

    Attributes:
        policy: ``"random"`` or ``"agent"``.
        windows: how many.
        real, dream: what they paid.
    """

    policy: str
    windows: int
    real: Returns
    dream: Returns


@dataclass(frozen=True)
class FidelityReport(Measurement):
    """The measurement with what needs agents and emulators.

    Attributes:
        recommended_horizon: the trusted one, but at least :data:`LEAST_HORIZON`.
        value_drift: a row a horizon; empty without an agent.
        watch: of the policy that played, and of the agent if there is one.
        probes_left_out: why no RAM was read; None: it was.
        setup: how it was measured, and where.
    """

    recommended_horizon: int
    value_drift: tuple[ValueDrift, ...]
    watch: tuple[Watch, ...]
    probes_left_out: str | None
    setup: dict[str, Any]


def fidelity(checkpoint: Checkpoint, config: FidelityConfig) -> tuple[FidelityReport, Segment]:
    """Measure how far the checkpoint's dream can be trusted.

    Returns:
        The report, and the segments that were dreamed beside, those around events first.

    Raises:
        UsageError: the checkpoint names no real game, or one with other actions; an agent is asked for and not there.
        RunError: the play was too short for what was asked.
    """
    game, model, agent = _check(checkpoint), checkpoint.world_model, agent_of(checkpoint) if checkpoint.agent else None
    if config.on_policy and agent is None:
        raise UsageError("This checkpoint carries no agent to play with: leave out --on-policy.")
    actor = agent if config.on_policy else None
    left_out = _no_probes(checkpoint, config)
    probe = None
    if left_out is None:
        frame_skip = Rules.of(checkpoint).frame_skip
        assert isinstance(frame_skip, int)  # else they were left out
        with closing(Twin(game, frame_skip)) as twin:
            test = _play(checkpoint, actor, config.seed, config.steps, _Stream.TEST, twin)
            fitting = _play(checkpoint, actor, config.seed, config.probe_steps, _Stream.PROBE, twin)
        probe = _fit(model, game, fitting)
    else:
        test = _play(checkpoint, actor, config.seed, config.steps, _Stream.TEST)

    k, steps = model.context_length, horizons(config.horizon)
    rng = np.random.default_rng(config.seed)
    starts = _draw(test.transitions, config.segments, rng)
    segment, rows = test.segments(starts, k, config.horizon)
    sides = _roll(model, segment, config.seed, "dream beside reality")
    around = event_starts(test, config.segments, steps[1:], rng)
    segment_around, _ = test.segments(around, k, config.horizon)
    centred = _roll(model, segment_around, config.seed + len(starts), "dream around events") if len(around) else None
    classes = model.reward_end.reward_head.classes(torch.from_numpy(test.rewards[test.transitions]))
    ended = float(test.ended[test.transitions].mean())
    measured = measure(
        sides,
        centred,
        horizons=steps,
        groups=torch.from_numpy(test.blocks[starts]),
        reward_rates=[float((classes == sign).double().mean()) for sign in range(SIGNS)],
        end_rates=[1 - ended, ended],
        probe=probe,
        numbers=None if test.ram is None else torch.from_numpy(numbers(game, test.ram[rows])),
        seed=config.seed,
    )

    watched = [watch(model, actor, test, config)]
    if agent is not None and actor is None:
        play = _play(checkpoint, agent, config.seed, -(-config.steps // 2), _Stream.AGENT)
        watched.append(watch(model, agent, play, config))
    report = FidelityReport(
        **{field.name: getattr(measured, field.name) for field in fields(measured)},
        recommended_horizon=max(LEAST_HORIZON, measured.trusted_horizon),
        value_drift=() if agent is None else value_drift(agent, sides, k, steps),
        watch=tuple(watched),
        probes_left_out=left_out,
        setup={
            "game": game,
            **asdict(config),
            "games": int(test.games[-1]) + 1,
            "segments_around_events": len(around),
            "sampler": to_json(model.config.sampler),
            **to_json(Rules.of(checkpoint)),
            "probe_penalties": {} if probe is None else dict(zip(probe.names, probe.penalties, strict=True)),
            **provenance(config),
        },
    )
    return report, Segment.join([segment_around, segment])


def horizons(longest: int) -> tuple[int, ...]:
    """Return those that are measured: 0, 1, 2, 3, 5, 8, 10, 15, 20, ... and ``longest``."""
    return tuple(sorted({*(k for k in DENSE if k < longest), *range(DENSE[-1], longest, 5), longest}))


def with_sampler(checkpoint: Checkpoint, steps: int | None, order: int | None) -> Checkpoint:
    """Return a checkpoint with the same weights and another sampler: its denoising steps or order; None: as it is.

    Raises:
        UsageError: no such sampler.
    """
    if (steps is not None and steps < 1) or order not in (None, 1, 2):
        raise UsageError(
            f"--sampler-steps {steps} --order {order}: write at least 1 step, and order 1 (Euler) or 2 (Heun)."
        )
    if steps is None and order is None:
        return checkpoint
    model = copy.copy(checkpoint.world_model)  # its parts are shared, its config is its own
    sampler = model.config.sampler
    sampler = replace(sampler, steps=sampler.steps if steps is None else steps)
    model.config = replace(model.config, sampler=replace(sampler, order=sampler.order if order is None else order))
    return replace(checkpoint, world_model=model)


def store(report: FidelityReport, measured: Checkpoint, folder: Path, *, set_horizon: bool) -> int | None:
    """Write the report into the checkpoint in ``folder``, in one step; return the horizon that it then recommends.

    Args:
        report: becomes ``metrics["fidelity"]``.
        measured: what was measured, to compare the weights.
        folder: the checkpoint's.
        set_horizon: recommend the report's horizon even where the checkpoint recommends one.

    Raises:
        RunError: the checkpoint there is another one by now; it was not changed.
    """
    there = Checkpoint.load(folder)
    mine, theirs = (checkpoint.world_model.state_dict() for checkpoint in (measured, there))
    if mine.keys() != theirs.keys() or not all(torch.equal(mine[name].cpu(), theirs[name]) for name in mine):
        raise RunError(f"The checkpoint in {folder} was replaced while it was measured: measure it again.")
    horizon = report.recommended_horizon if set_horizon or there.horizon is None else there.horizon
    annotate(folder, metrics={ENTRY: to_json(report)}, horizon=horizon)
    return horizon


# What needs an agent


@torch.no_grad()
def value_drift(
    agent: ActorCritic, sides: SideBySide, context_length: int, steps: tuple[int, ...]
) -> tuple[ValueDrift, ...]:
    """Return how far the agent's values of the dream are from those of reality, at each horizon in ``steps``."""
    real, dreamed = _values(agent, sides.real), _values(agent, sides.dreamed)
    rows = []
    for k in steps:
        at = k + context_length - agent.config.frame_stack  # the values begin where a stack of frames is full
        valid = sides.valid[:, k]
        here = real[valid, at].double()
        drift = float((dreamed[valid, at].double() - here).abs().mean()) if len(here) else None
        rows.append(ValueDrift(k, len(here), drift, float(here.std(correction=0)) if len(here) else None))
    return tuple(rows)


@torch.no_grad()
def watch(model: WorldModel, agent: ActorCritic | None, play: HeldOut, config: FidelityConfig) -> Watch:
    """Compare what real windows paid with what free dreams pay from where the windows start.

    Args:
        model: dreams.
        agent: acts; None: actions are random.
        play: of the same policy.
        config: horizon, number of windows, seed.

    Raises:
        RunError: the play is too short for a single whole window.
    """
    rows = play.transitions
    whole = rows[(play.last[rows] - rows >= config.horizon) | play.ended[play.last[rows] - 1]]
    if len(whole) == 0:
        raise RunError(f"No window of {config.horizon} steps fits into the play: give more --steps.")
    rng = np.random.default_rng(config.seed)
    k = model.context_length
    starts = _draw(whole, config.segments, rng)
    blocks = torch.from_numpy(play.blocks[starts])
    segment, _ = play.segments(starts, k, config.horizon)
    mask = segment.mask[:, k - 1 :]
    rewards = model.reward_end.reward_head.learned(segment.rewards[:, k - 1 :])
    real = _returns((rewards * mask).sum(dim=1), mask.sum(dim=1), segment.terminated[:, k - 1 :].any(1), blocks)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    chunks: list[tuple[Tensor, Tensor, Tensor]] = []
    title = f"free dreams: {'random' if agent is None else 'agent'}"
    for first in progress(range(0, len(segment), CHUNK), -(-len(segment) // CHUNK), title):
        part = segment[first : first + CHUNK].to(device)
        context = Context(model.encode(part.pixels[:, :k]), part.actions[:, : k - 1])
        chunks.append(_dream(model, agent, context, config.horizon, config.seed + first, generator))
    paid, lasted, over = (torch.cat(column).cpu() for column in zip(*chunks, strict=True))
    dream = _returns(paid, lasted, over, blocks)
    return Watch("random" if agent is None else "agent", len(segment), real, dream)


def _dream(
    model: WorldModel,
    agent: ActorCritic | None,
    context: Context,
    horizon: int,
    seed: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Dream freely; return each lane's sum of rewards, its steps, and whether it ended."""
    dream = Dream(model, context, horizon=None)
    lanes = torch.arange(len(context), device=context.frames.device)
    dream.reset(range(seed, seed + len(lanes)), contexts=lanes)
    paid, lasted = torch.zeros_like(lanes, dtype=torch.float32), torch.zeros_like(lanes)
    over = torch.zeros_like(lanes, dtype=torch.bool)
    memory = None if agent is None else agent.memory_before_newest(context.frames)
    rng = np.random.default_rng(seed)
    for _ in range(horizon):
        if agent is None or memory is None:
            actions = torch.from_numpy(model.actions.uniform(rng, len(lanes))).to(lanes.device)
        else:
            opinion = agent(dream.observation(agent.config.frame_stack), memory)
            actions = agent.policy.actions(agent.policy.draw(opinion.logits, generator))
            memory = opinion.memory
        prediction = dream.step(actions).prediction
        paid += torch.where(over, 0.0, prediction.reward)
        lasted += ~over
        over |= prediction.terminated
    return paid, lasted, over


def _values(agent: ActorCritic, frames: Tensor) -> Tensor:
    """Return the agent's values ``(B, T - stack + 1)`` along ``frames`` (B, T, C, H, W)."""
    device, stack = next(agent.parameters()).device, agent.config.frame_stack
    memory, values = agent.initial(len(frames), device), []
    for newest in range(stack, frames.shape[1] + 1):
        opinion = agent(frames[:, newest - stack : newest].flatten(1, 2).to(device), memory)
        values.append(opinion.value.cpu())
        memory = opinion.memory
    return torch.stack(values, dim=1)


def _returns(paid: Tensor, lasted: Tensor, over: Tensor, blocks: Tensor) -> Returns:
    paid = paid.double()
    return Returns(
        mean=float(paid.mean()),
        standard_error=clustered_error(paid, blocks),
        steps=float(lasted.double().mean()),
        ends=float(over.double().mean()),
    )


# The parts of the measurement


def _check(checkpoint: Checkpoint) -> str:
    """Return the real game, if there is one that the dream can be compared with."""
    game = checkpoint.game
    if game is None:
        raise UsageError("This dream names no real game, so there is no reality to compare it with.")
    with closing(make_pixels(game)) as env:
        actions = actions_of(env.action_space, game)
    known = checkpoint.world_model.actions
    if actions != known:
        raise UsageError(
            f"{game} has the actions {actions.space}, but the dream knows {known.space}: it was trained on another "
            "version of the game."
        )
    return game


def _no_probes(checkpoint: Checkpoint, config: FidelityConfig) -> str | None:
    """Return why no RAM can be read, or None if it can."""
    if not config.probes:
        return "not asked for"
    if checkpoint.game not in GAMES:
        return f"{checkpoint.game} is no Atari game and has no RAM"
    if checkpoint.game not in PLACES:
        return f"no places in the RAM of {checkpoint.game} are known here; known are {', '.join(PLACES)}"
    rules = Rules.of(checkpoint)
    if rules.sticky or not isinstance(rules.frame_skip, int):
        return "with sticky actions or a drawn frame skip a second emulator cannot play the same game"
    return None


def _play(
    checkpoint: Checkpoint,
    agent: ActorCritic | None,
    seed: int,
    steps: int,
    stream: _Stream,
    twin: Twin | None = None,
) -> HeldOut:
    """Play held-out games of a stream, by the agent or at random, under the protocol of the training."""
    model, game = checkpoint.world_model, _check(checkpoint)
    policy: Policy
    if agent is None:
        policy = RandomPolicy(model.actions, np.random.default_rng((seed, stream)))
    else:
        device = checkpoint.contexts.frames.device
        policy = AgentPolicy(model, agent, torch.Generator(device).manual_seed(seed))
    with progress(None, steps, f"real steps: {stream.name.lower()}") as bar:
        return play_games(
            game,
            policy,
            steps,
            (seed, stream),
            Rules.of(checkpoint),
            twin=twin,
            on_step=bar.update,
        )


def _draw(rows: Ints, number: int, rng: np.random.Generator) -> Ints:
    """Return ``number`` of ``rows``, no row twice if there are enough."""
    return rng.choice(rows, number, replace=len(rows) < number)


@torch.no_grad()
def _roll(model: WorldModel, segment: Segment, seed: int, title: str) -> SideBySide:
    """Return reality and dream, a chunk of lanes at a time, on the CPU."""
    device = next(model.parameters()).device
    parts = []
    for first in progress(range(0, len(segment), CHUNK), -(-len(segment) // CHUNK), title):
        parts.append(side_by_side(model, segment[first : first + CHUNK].to(device), seed + first).to("cpu"))
    return SideBySide.join(parts)


@torch.no_grad()
def _fit(model: WorldModel, game: str, play: HeldOut) -> Probe:
    """Return the probe of the game's places, fitted on ``play``."""
    assert play.ram is not None  # it was played with a twin
    rows = play.transitions
    if int(np.prod(model.frame_shape)) > PROBE_SIZE:
        rows = rows[:: -(-len(rows) // PROBE_SIZE)]
    device = next(model.parameters()).device
    frames = []
    for first in progress(range(0, len(rows), CHUNK), -(-len(rows) // CHUNK), "encode for the probe"):
        frames.append(model.encode(torch.from_numpy(play.pixels[rows[first : first + CHUNK]]).to(device)).cpu())
    places = torch.from_numpy(numbers(game, play.ram[rows]))
    try:
        return fit_probe(list(PLACES[game]), torch.cat(frames), places, torch.from_numpy(play.blocks[rows]))
    except UsageError as error:
        raise RunError(f"{error} That is, --probe-steps.") from error
