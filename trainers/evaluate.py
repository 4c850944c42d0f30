"""Score a policy on the real game: full episodes, unclipped rewards, every episode counted.

Each lane plays a fixed number of games, so that short games are not counted more often than long ones.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from jedi_env.checkpoint import Checkpoint
from jedi_env.config_json import from_json
from jedi_env.envs.real import make_pixels_vec
from jedi_env.errors import CheckpointError, RunError, UsageError
from trainers.agent import ActorCritic, ActorCriticConfig
from trainers.faults import game_faults
from trainers.log import progress
from trainers.policy import AgentPolicy, Policy
from trainers.provenance import provenance
from trainers.randomness import Purpose, torch_rng
from trainers.rules import ATARI_100K, Rules

EVALUATION_LANES = 8

EVALUATION_SEED = 10_000  # far from any training seed; the same for every agent, so that scores compare
NO_AGENT = (
    "This checkpoint carries no native agent. Train one with `jedi-env train`, or train a Stable-Baselines3 "
    "policy in this dream with `jedi-env dream`."
)
MAX_STEPS = 110_000  # decisions a game: beyond ALE's own limit of 108,000 frames, at one frame a decision


@dataclass(frozen=True)
class Score:
    """The scores of a policy on one game.

    Attributes:
        game: as the environment is named.
        returns: unclipped return of each full episode.
        mean, std: of the returns (population standard deviation).
        protocol: the settings of the real game; empty where it is none of the 26.
    """

    game: str
    returns: tuple[float, ...]
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns."""
        return float(np.std(self.returns))

    def to_json(self) -> dict[str, Any]:
        """Return the record that is written beside a run, aggregates included."""
        return {
            **asdict(self),
            "returns": list(self.returns),
            "episodes": len(self.returns),
            "mean": self.mean,
            "std": self.std,
        }


def play_episodes(
    env: VectorEnv[Any, Any, Any],
    policy: Policy,
    episodes: int,
    seed: int,
    on_episode: Callable[[float], object] | None = None,
) -> list[float]:
    """Play full episodes in parallel lanes; return the returns of the first ``episodes``, by order and lane.

    Args:
        env: pixel observations, SAME_STEP autoreset.
        policy: chooses the actions.
        episodes: how many to count; each lane plays ``ceil(episodes / lanes)``.
        seed: lane i begins with ``seed + i``.
        on_episode: called with each return as it comes.

    Raises:
        RunError: a game goes on for ever.
    """
    lanes = env.num_envs
    quota = -(-episodes // lanes)
    finished: list[list[float]] = [[] for _ in range(lanes)]
    running, age = np.zeros(lanes), np.zeros(lanes, np.int64)
    with game_faults("at the beginning of the evaluation"):
        pixels, _ = env.reset(seed=seed)
    first = np.ones(lanes, bool)
    while any(len(returns) < quota for returns in finished):
        if any(len(returns) < quota and steps >= MAX_STEPS for returns, steps in zip(finished, age, strict=True)):
            raise RunError(f"A game went on for {MAX_STEPS} steps: it never ends by itself under this policy.")
        actions = policy.act(pixels, first)
        with game_faults(f"in the evaluation, in one of the games at steps {age.tolist()}"):
            pixels, rewards, terminated, truncated, _ = env.step(actions)
        if not np.isfinite(rewards).all():
            raise RunError(f"The game paid {rewards.tolist()} in the evaluation: not finite rewards.")
        running += rewards
        age += 1
        first = np.asarray(terminated | truncated)
        for lane in np.flatnonzero(first):
            if len(finished[lane]) < quota:
                finished[lane].append(float(running[lane]))
                if on_episode is not None:
                    on_episode(float(running[lane]))
            running[lane], age[lane] = 0.0, 0
    return [returns[i] for i in range(quota) for returns in finished][:episodes]


def agent_of(checkpoint: Checkpoint) -> ActorCritic:
    """Return the native agent that a checkpoint carries, in evaluation mode, on its device.

    Raises:
        UsageError: the checkpoint carries no agent.
        CheckpointError: its agent is damaged, or none of ours.
    """
    if checkpoint.agent is None:
        raise UsageError(NO_AGENT)
    model = checkpoint.world_model
    config = from_json(ActorCriticConfig, checkpoint.agent.config, "agent")
    try:
        agent = ActorCritic(model.frame_shape, model.actions, config)
        agent.load_state_dict(checkpoint.agent.tensors)
    except (RuntimeError, ValueError, IndexError) as error:  # what torch says of sizes that do not fit
        raise CheckpointError(f"The agent's weights do not fit its configuration: {error}") from error
    return agent.to(checkpoint.contexts.frames.device).eval()


def score_checkpoint(checkpoint: Checkpoint, episodes: int, seed: int) -> Score:
    """Play ``episodes`` full real games with the native agent that a checkpoint carries.

    Raises:
        UsageError: the checkpoint carries no agent, or names no game.
        CheckpointError: its agent is damaged, or none of ours.
    """
    if checkpoint.agent is None or checkpoint.game is None:
        raise UsageError(NO_AGENT)
    agent = agent_of(checkpoint)
    device = checkpoint.contexts.frames.device
    policy = AgentPolicy(checkpoint.world_model, agent, torch_rng(seed, 0, Purpose.EVALUATE, device))
    return score_policy(checkpoint.game, policy, episodes, rules=Rules.of(checkpoint))


def record_of(score: Score, checkpoint: Checkpoint, seed: int) -> dict[str, Any]:
    """Return what a score file must say: the returns, the run that they are of, and how it was scored.

    Args:
        score: from :func:`score_checkpoint`.
        checkpoint: whose agent played. What its provenance does not tell is None.
        seed: of the agent's draws.
    """
    run, here = checkpoint.provenance, provenance(checkpoint.world_model.config)
    facts = ("seed", "real_steps", "imagined_steps", "commit", "config_hash", "source")
    return {
        **score.to_json(),
        **{name: run.get(name) for name in facts},
        "evaluation": {
            "game_seed": EVALUATION_SEED,
            "agent_seed": seed,
            **{name: here[name] for name in ("commit", "machine", "versions")},
        },
    }


def score_policy(
    game: str, policy: Policy, episodes: int, title: str = "real games", rules: Rules = ATARI_100K
) -> Score:
    """Play ``episodes`` full real games by ``rules`` in a few parallel lanes, under a progress bar."""
    lanes = min(EVALUATION_LANES, episodes)
    games = make_pixels_vec(game, lanes, **rules.whole_games(game))
    with closing(games) as env, progress(None, episodes, title) as bar:
        returns = play_episodes(env, policy, episodes, EVALUATION_SEED, lambda _: bar.update())
    return Score(game, tuple(returns), rules.record(game))
