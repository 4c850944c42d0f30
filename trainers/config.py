"""Everything a run can be told, with its meaning, unit and source; facts of the game are never in here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from jedi_env.arguments import check_whole
from jedi_env.config_json import JSON, from_json, to_json
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.models.decoder import DecoderConfig
from jedi_env.models.world_model import WorldModelConfig
from trainers.agent import ActorCriticConfig
from trainers.fit_agent import FitAgentConfig
from trainers.fit_world_model import FitWorldModelConfig

# What would otherwise fail far from its cause, or never end.
_LEAST = {
    "collect.total_steps": 1,
    "collect.first_steps": 1,
    "collect.first_steps_limit": 0,
    "collect.steps": 1,
    "fit_world_model.first_updates": 0,
    "fit_world_model.updates": 0,
    "fit_world_model.batch": 1,
    "fit_world_model.denoising_steps": 1,
    "fit_world_model.reward_end_length": 0,
    "fit_world_model.decoder_every": 0,
    "fit_world_model.freeze_encoder_after": 0,
    "fit_world_model.dreamed_steps": 1,
    "fit_world_model.denoiser.warmup": 0,
    "fit_world_model.reward_end.warmup": 0,
    "fit_agent.first_updates": 0,
    "fit_agent.updates": 0,
    "fit_agent.batch": 1,
    "fit_agent.horizon": 1,
    "fit_agent.contexts": 1,
    "fit_agent.passes": 1,
    "fit_agent.optim.warmup": 0,
    "evaluate.every": 0,
    "evaluate.episodes": 0,
    "evaluate.final_episodes": 0,
    "final_epochs": 0,
    "bank": 1,
}
_SHARE, _FROM_0, _ABOVE_0 = (0.0, 1.0), (0.0, 1e3), (1e-12, 1e3)
_OPTIM = {"lr": _ABOVE_0, "weight_decay": _FROM_0, "max_grad_norm": (1e-12, math.inf)}
_BETWEEN = {
    "world_model.switching": _SHARE,
    "world_model.covariance_weight": _FROM_0,
    "world_model.denoiser.sigma_data": _ABOVE_0,
    "world_model.denoiser.mean_log_sigma": (-100.0, 100.0),
    "world_model.denoiser.std_log_sigma": _FROM_0,
    "world_model.denoiser.sigma_high": _ABOVE_0,
    "world_model.denoiser.offset_noise": _FROM_0,
    "world_model.denoiser.context_noise": _FROM_0,
    "world_model.reward_end.frame_noise": _FROM_0,
    "world_model.reward_end.event_weight": _FROM_0,
    "world_model.sampler.sigma_max": _ABOVE_0,
    "world_model.sampler.start_std": _FROM_0,
    "world_model.sampler.steps": (1, 1000),
    "world_model.sampler.order": (1, 2),
    "world_model.sampler.rho": (1e-2, 1e3),
    "world_model.sampler.churn": (0.0, 1e6),
    "decoder.motion_weight": _FROM_0,
    "collect.epsilon": _SHARE,
    "fit_world_model.encoder_lr_factor": _FROM_0,
    "fit_world_model.sampling.event_fraction": _SHARE,
    "fit_world_model.reward_end_switching": _SHARE,
    "fit_agent.gamma": _SHARE,
    "fit_agent.lambda_": _SHARE,
    "fit_agent.entropy_weight": _FROM_0,
    "fit_agent.value_weight": _FROM_0,
    **{
        f"{optim}.{name}": bounds
        for optim in ("fit_world_model.denoiser", "fit_world_model.reward_end", "fit_agent.optim")
        for name, bounds in _OPTIM.items()
    },
}


@dataclass(frozen=True)
class CollectConfig:
    """How much of the real game is played in training, and how.

    Attributes:
        total_steps: real steps of the whole run (100,000 on Atari100k).
        first_steps: steps before the first update, with uniformly random actions (in DIAMOND's code 5,000, and the 100
            of its first epoch, when the policy is still uniform).
        first_steps_limit: go on beyond ``first_steps``, up to this many, while rewards are too rare (likewise 10,100
            in DIAMOND's code).
        first_rewards: what is not too rare: this many transitions with one of the two rarer reward signs (10 in
            DIAMOND's code).
        steps: steps in every other epoch, by the agent (100 in DIAMOND).
        epsilon: chance of a uniformly random action instead of the agent's (0.01 in DIAMOND).
        life_loss: count a lost life as the end of an episode, in training only (DIAMOND).
    """

    total_steps: int = 100_000
    first_steps: int = 5_100
    first_steps_limit: int = 10_100
    first_rewards: int = 10
    steps: int = 100
    epsilon: float = 0.01
    life_loss: bool = True


@dataclass(frozen=True)
class EvaluateConfig:
    """How the agent is scored on the real game: full episodes, no exploration, no clipping.

    Attributes:
        every: epochs between two evaluations; 0: only at the end.
        episodes: of each (4 in DIAMOND's code).
        final_episodes: of the last one (100 in DIAMOND's code).
    """

    every: int = 10
    episodes: int = 4
    final_episodes: int = 100


@dataclass(frozen=True)
class TrainConfig:
    """A run of the native trainer.

    Attributes:
        world_model, decoder, agent: the networks.
        collect, fit_world_model, fit_agent, evaluate: the four verbs of an epoch.
        frame_skip: emulator frames a step of the real game, in training and in evaluation: drawn uniformly from the
            least to the most at every step (always 4 on Atari100k; 2 to 6 in JEDI's stochastic runs).
        final_epochs: epochs after the last real step, without collection (50 in DIAMOND).
        bank: starting contexts that the published checkpoint carries.
    """

    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    agent: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    fit_world_model: FitWorldModelConfig = field(default_factory=FitWorldModelConfig)
    fit_agent: FitAgentConfig = field(default_factory=FitAgentConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    frame_skip: tuple[int, int] = (4, 4)
    final_epochs: int = 50
    bank: int = 256

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            check_whole(name, attrgetter(name)(self), least)
        for name, (low, high) in _BETWEEN.items():
            value = attrgetter(name)(self)
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}: write a number from {low:g} to {high:g}.")
        weights = self.fit_world_model.sampling.age_weights
        if weights and not (min(weights) >= 0 and sum(weights) > 0):
            raise UsageError(
                f"fit_world_model.sampling.age_weights are {weights}: write numbers of at least 0, not all of them 0."
            )
        if self.world_model.needs_decoder and not self.fit_world_model.decoder_every:
            raise UsageError(
                "The encoder shall learn from reconstruction, but there is no decoder: write "
                "--fit-world-model.decoder-every 1."
            )
        if self.fit_world_model.reward_end_switching and not self.fit_world_model.freeze_encoder_after:
            raise UsageError(
                "The reward/termination model shall read dreamed segments once the encoder is frozen, but it never is: "
                "write --fit-world-model.freeze-encoder-after with a number of updates, or "
                "--fit-world-model.reward-end-switching 0."
            )
        if self.world_model.switching and self.fit_world_model.denoising_steps == 1:
            raise UsageError(
                "The denoiser shall read its own estimates (world_model.switching), but with one denoising step there "
                "is none to read: write --fit-world-model.denoising-steps 2, or --world-model.switching 0."
            )
        stack, context = self.agent.frame_stack, self.world_model.context_length
        if not 1 <= stack <= context:
            raise UsageError(
                f"agent.frame_stack is {stack}, but a dream remembers {context} frames (world_model.context_length): "
                f"write a number from 1 to {context}."
            )


def epochs(config: TrainConfig, first_steps: int) -> int:
    """Return the number of epochs: the first, those that the remaining real steps take, and the final ones.

    Args:
        config: of the run.
        first_steps: real steps of the first collection; 0: not known yet.
    """
    left = config.collect.total_steps - first_steps if first_steps else 0
    return 1 + max(0, -(-left // config.collect.steps)) + config.final_epochs


def with_defaults(config: JSON) -> JSON:
    """Return the settings of a run, what was no setting when it began at its default; unchanged if they are none."""
    try:
        return to_json(from_json(TrainConfig, config, "config.json"))
    except (CheckpointError, UsageError):
        return config


def differences(there: object, here: object, where: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield (path, value there, value here) of every leaf in which two JSON values differ, by path."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted({*there, *here}):
            yield from differences(there.get(key), here.get(key), f"{where}.{key}".lstrip("."))
    elif there != here:
        yield where, there, here
