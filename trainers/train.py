"""*The training loop*: collect, fit world model, fit agent, evaluate, save.

Algorithm 1 of arXiv 2405.12399 (DIAMOND), which arXiv 2605.13013 (JEDI) keeps. A function over one state record.
Running the same command again resumes: what must survive is in ``state.py``, and all randomness is a function of
(seed, epoch, purpose).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from jedi_env.actions import actions_of
from jedi_env.arguments import check_whole
from jedi_env.checkpoint import AgentRecord, Checkpoint
from jedi_env.config_json import to_json
from jedi_env.device import enough_memory
from jedi_env.dream import Dream
from jedi_env.envs.real import make_pixels
from jedi_env.folder import replace_file
from jedi_env.models.world_model import WorldModel
from jedi_env.types import Context
from trainers import distributed
from trainers.collect import Collector
from trainers.config import TrainConfig, epochs
from trainers.evaluate import score_policy
from trainers.fit_agent import FitAgentConfig, fit_agent
from trainers.fit_world_model import FitWorldModelConfig, fit_world_model, latent_health
from trainers.health import health, warn
from trainers.log import Log, averages, progress
from trainers.policy import AgentPolicy, Policy, RandomPolicy
from trainers.provenance import provenance
from trainers.randomness import Purpose, numpy_rng, torch_rng
from trainers.replay import Sampling
from trainers.rules import Rules
from trainers.state import TrainState, faults_told, open_run
from trainers.time_limit import TimeLimit

logger = logging.getLogger(__name__)


def train(
    config: TrainConfig, game: str, seed: int, run_dir: Path, device: torch.device, limit: TimeLimit | None = None
) -> Path:
    """Run the whole loop in ``run_dir``, or go on with it; return the folder of the checkpoint.

    If a time limit ends it before the last epoch, a sentence is logged, and there is no checkpoint yet.

    Args:
        config: of the run; must equal the one that ``run_dir`` began with.
        game: one of the 26 games, or the id of a Gymnasium environment with image observations.
        seed: of everything random in the run.
        run_dir: created if missing. Holds ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``replay/``,
            ``state/``, ``scores.json`` and ``checkpoint/``. One process at a time, or those that ``torchrun`` started
            together: then each calls this, the first plays and writes, and all learn.
        device: to train on.
        limit: stop after the last epoch that fits; None: go on to the end. Of several processes, the first's counts.

    Raises:
        UsageError: the game is not known, or ``run_dir`` belongs to another configuration, game or seed, or is in use;
            nothing was changed.
        RunError: the run went wrong, or its directory was damaged. What was completed is kept.
        KeyboardInterrupt: with a sentence that says where the run goes on.
    """
    check_whole("The seed", seed, 0)
    checkpoint = run_dir / "checkpoint"
    with faults_told(run_dir), ExitStack() as opened:
        env = opened.enter_context(closing(make_pixels(game, frame_skip=config.frame_skip)))
        actions = actions_of(env.action_space, game)
        state = open_run(run_dir, config, game, seed, actions, device)
        opened.callback(state.close)
        (published,) = distributed.numbers_of_first(int(checkpoint.exists()))
        if state.epoch >= epochs(config, state.first_steps) and published:  # all done, by an earlier command
            return checkpoint
        log = opened.enter_context(closing(Log(run_dir, state.log_size))) if distributed.first() else None
        settings = config.collect
        collector = Collector(env, state.replay, life_loss=settings.life_loss, seed=seed, progress=state.collector)
        while state.epoch < epochs(config, state.first_steps) and _another(limit):
            for phase in (collect, fit_models, imagine, evaluate):
                began = time.perf_counter()
                metrics = phase(config, state, collector, device)
                if log and metrics:
                    metrics["seconds"] = time.perf_counter() - began
                    log.write(phase.__name__, state.epoch, metrics)
            if log and (warnings := warn(health(log.recent, actions.count, config.fit_agent.gamma), state.epoch)):
                log.write("health", state.epoch, warnings)
            state.epoch += 1
            distributed.check_equal(state.weights())
            if log:
                state.save(log.sync(), collector.progress)
        planned = epochs(config, state.first_steps)
        if state.epoch < planned:
            of = f" of {planned}" if state.first_steps else ""  # before the first play it is not known
            logger.info("Time is up after epoch %d%s: the same command goes on from there.", state.epoch, of)
        elif log:
            state.prune()
            publish(config, state, env, device).save(checkpoint)
        distributed.numbers_of_first(state.epoch)  # the others leave when it is there
    return checkpoint


def _another(limit: TimeLimit | None) -> bool:
    """Return whether there is time for one more epoch, the same in all processes."""
    if limit is None:
        return True
    (fits,) = distributed.numbers_of_first(int(limit.another()))
    return bool(fits)


def collect(config: TrainConfig, state: TrainState, collector: Collector, device: torch.device) -> dict[str, float]:
    """Play the real game: at random before the first update, then with the agent. One process plays for all."""
    metrics = _play(config, state, collector, device) if distributed.first() else {}
    if distributed.world() > 1 and distributed.first():
        state.replay.sync()  # the others read the files
    state.first_steps, length = distributed.numbers_of_first(state.first_steps, state.replay.length)
    state.replay.follow(length)
    return metrics


def _play(config: TrainConfig, state: TrainState, collector: Collector, device: torch.device) -> dict[str, float]:
    settings = config.collect
    before = state.replay.length
    policy: Policy
    if state.epoch == 0:
        policy = RandomPolicy(state.agent.actions, numpy_rng(state.seed, 0, Purpose.COLLECT))
        scores = _collect(collector, min(settings.first_steps, settings.total_steps), policy)
        limit = min(settings.first_steps_limit, settings.total_steps)
        while _rare_rewards(state) < settings.first_rewards and state.replay.num_steps < limit:
            more = min(settings.steps, limit - state.replay.num_steps)
            scores += _collect(collector, more, policy)
        state.first_steps = state.replay.num_steps
    else:
        steps = min(settings.steps, settings.total_steps - state.replay.num_steps)
        if steps <= 0:
            return {}
        generator = torch_rng(state.seed, state.epoch, Purpose.COLLECT, device)
        policy = AgentPolicy(state.world_model, state.agent, generator, settings.epsilon)
        scores = _collect(collector, steps, policy)
    metrics = {"real_steps": float(state.replay.num_steps), "games": float(len(scores)), **_rates(state, before)}
    if scores:
        metrics["score"] = sum(scores) / len(scores)
    return metrics


def fit_models(config: TrainConfig, state: TrainState, collector: Collector, device: torch.device) -> dict[str, float]:
    """Fit the world model (and the decoder probe) to all real play so far."""
    settings = config.fit_world_model
    rng = numpy_rng(state.seed, state.epoch, Purpose.WORLD_MODEL)
    if state.epoch == 0:
        pixels, _ = state.replay.contexts(min(2000, state.replay.num_steps), 1, Sampling(()), rng)
        state.world_model.encoder.set_mean_image(pixels[:, 0].to(device))
        if state.decoder is not None:
            state.decoder.set_mean_image(pixels[:, 0].to(device))
    updates = settings.updates if state.epoch else settings.first_updates
    state.world_model_optim.planned = _planned(settings, config, state)
    steps = fit_world_model(
        state.world_model,
        state.world_model_optim,
        state.replay,
        settings,
        updates,
        rng,
        torch_rng(state.seed, state.epoch, Purpose.WORLD_MODEL, device),
        state.decoder,
        state.decoder_optim,
        state.frozen_frames,
    )
    with enough_memory("fit_world_model.batch"):
        metrics = averages(progress(steps, updates, f"epoch {state.epoch + 1}: world model"))
    return {**metrics, **latent_health(state.world_model, state.replay, rng, device)}


def imagine(config: TrainConfig, state: TrainState, collector: Collector, device: torch.device) -> dict[str, float]:
    """Fit the agent inside the dream."""
    settings = config.fit_agent
    updates = settings.updates if state.epoch else settings.first_updates
    if updates == 0:
        return {}
    dtype = torch.bfloat16 if config.fit_world_model.precision_bf16 else torch.float32
    generator = torch_rng(state.seed, state.epoch, Purpose.AGENT, device)
    state.agent_optim.planned = settings.passes * _planned(settings, config, state)
    with enough_memory("fit_agent.batch or fit_agent.contexts"):
        contexts = draw_contexts(config, state, settings.contexts, device)
        dream = Dream(state.world_model, contexts, horizon=None, dtype=dtype)
        scale = state.world_model.reward_end.reward_head.scale(_returns(state, settings.gamma))
        steps = fit_agent(state.agent, state.agent_optim, dream, settings, updates, generator, scale)
        metrics = averages(progress(steps, updates, f"epoch {state.epoch + 1}: agent in imagination"))
    state.imagined_steps += updates * settings.batch * settings.horizon
    return {**metrics, "imagined_steps": float(state.imagined_steps)}


def _planned(settings: FitWorldModelConfig | FitAgentConfig, config: TrainConfig, state: TrainState) -> int:
    return settings.first_updates + (epochs(config, state.first_steps) - 1) * settings.updates


def evaluate(config: TrainConfig, state: TrainState, collector: Collector, device: torch.device) -> dict[str, float]:
    """Score the agent on full real games, every so many epochs and at the end; write ``scores.json``."""
    if not distributed.first():
        return {}
    settings = config.evaluate
    last = state.epoch + 1 >= epochs(config, state.first_steps)
    due = settings.every > 0 and (state.epoch + 1) % settings.every == 0
    episodes = settings.final_episodes if last else settings.episodes
    if not (last or due) or episodes == 0:
        return {}
    generator = torch_rng(state.seed, state.epoch, Purpose.EVALUATE, device)
    policy = AgentPolicy(state.world_model, state.agent, generator)
    rules = Rules(frame_skip=config.frame_skip)
    score = score_policy(state.game, policy, episodes, f"epoch {state.epoch + 1}: real games", rules)
    state.scores.append(
        {
            **score.to_json(),
            "epoch": state.epoch,
            "seed": state.seed,
            "real_steps": state.replay.num_steps,
            "imagined_steps": state.imagined_steps,
            "final": last,
            **provenance(config),
        }
    )
    replace_file(state.run_dir / "scores.json", json.dumps(state.scores, indent=1).encode())
    logger.info("epoch %d: %.2f +- %.2f over %d real games", state.epoch + 1, score.mean, score.std, episodes)
    return {"score": score.mean, "score_std": score.std, "episodes": float(episodes)}


def draw_contexts(config: TrainConfig, state: TrainState, size: int, device: torch.device) -> Context:
    """Draw starting contexts from the replay and encode them."""
    rng = numpy_rng(state.seed, state.epoch, Purpose.CONTEXTS)
    k = config.world_model.context_length
    pixels, actions = state.replay.contexts(size, k, config.fit_world_model.sampling, rng)
    return encoded(state.world_model, pixels, actions, device)


@torch.no_grad()
def encoded(model: WorldModel, pixels: torch.Tensor, actions: torch.Tensor, device: torch.device) -> Context:
    """Return the contexts that :meth:`Replay.contexts` drew as ``model`` sees them, on ``device``."""
    return Context(torch.cat([model.encode(part.to(device)) for part in pixels.split(64)]), actions.to(device))


def publish(config: TrainConfig, state: TrainState, env: gym.Env[Any, Any], device: torch.device) -> Checkpoint:
    """Return the run's dream and agent as a checkpoint; the real game ``env`` tells what the actions mean."""
    rules = Rules(frame_skip=config.frame_skip)
    named = env.has_wrapper_attr("get_action_meanings")
    meanings = {"action_meanings": list(env.get_wrapper_attr("get_action_meanings")())} if named else {}
    return Checkpoint(
        world_model=state.world_model.eval(),
        contexts=draw_contexts(config, state, config.bank, device),
        game=state.game,
        horizon=None,
        protocol={**rules.record(state.game), "life_loss": config.collect.life_loss, **meanings},
        provenance={
            **provenance(config),
            "seed": state.seed,
            "real_steps": state.replay.num_steps,
            "imagined_steps": state.imagined_steps,
            "epochs": state.epoch,
            "config": to_json(config),
        },
        metrics={"scores": state.scores[-1:]},
        agent=AgentRecord(to_json(config.agent), dict(state.agent.state_dict())),
    )


def _collect(collector: Collector, steps: int, policy: Policy) -> list[float]:
    games = progress(collector.collect(steps, policy), steps, "collect real steps")
    return [score for score in games if score is not None]


def _rewards(state: TrainState, before: int = 0) -> npt.NDArray[np.float32]:
    """Return the rewards of the transitions from row ``before`` on as the dream learns them."""
    steps = state.replay.steps[before:]
    rewards = torch.from_numpy(steps["reward"][~steps["last"]])
    learned: npt.NDArray[np.float32] = state.world_model.reward_end.reward_head.learned(rewards).numpy()
    return learned


def _returns(state: TrainState, gamma: float) -> npt.NDArray[np.float64]:
    """Return what followed each transition of all real play, discounted, to the end of its episode."""
    rewards, last = iter(reversed(_rewards(state).tolist())), state.replay.steps["last"].tolist()
    returns, following = [], 0.0
    for ended in reversed(last):
        following = 0.0 if ended else next(rewards) + gamma * following
        if not ended:
            returns.append(following)
    return np.array(returns[::-1])


def _rates(state: TrainState, before: int) -> dict[str, float]:
    """Return how often the transitions from row ``before`` on had rewards and ends; rewards as in the dream."""
    steps, rewards = state.replay.steps[before:], _rewards(state, before)
    ended = steps["terminated"][~steps["last"]]
    rates = {"real_reward": rewards, "real_events": np.square(rewards), "real_end": ended}
    return {**{name: float(values.mean()) for name, values in rates.items()}, "real_most": float(abs(rewards).max())}


def _rare_rewards(state: TrainState) -> int:
    """Return how many transitions have one of the two rarer reward signs."""
    steps = state.replay.steps
    signs = [(steps["reward"] * sign > 0).sum() for sign in (-1, 1)]
    signs.append(len(steps) - sum(signs))
    return int(sum(sorted(signs)[:2]))


if __name__ == "__main__":  # torchrun --nproc-per-node 2 -m trainers.train Breakout --preset paper
    from trainers.cli import main

    main(["train", *sys.argv[1:]])
