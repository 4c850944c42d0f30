"""Fit the agent in imagination: roll the dream out, lambda-returns, REINFORCE with a value baseline.

The form is DIAMOND's (arXiv 2405.12399, section 3 and appendix), which JEDI (arXiv 2605.13013, section 3) keeps: no
gradient flows through the dream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from jedi_env.dream import Dream
from jedi_env.share import WHOLE, Share
from trainers import distributed
from trainers.agent import ActorCritic
from trainers.distributions import Distribution
from trainers.optim import Optim, OptimConfig


@dataclass(frozen=True)
class FitAgentConfig:
    """How the agent learns; the defaults are both papers'.

    Attributes:
        first_updates: updates in the first epoch.
        updates: updates in every other epoch.
        batch: dreams side by side (32 in DIAMOND; 32 or 64 in JEDI).
        horizon: H, imagined steps an update.
        gamma, lambda_: of the lambda-return.
        entropy_weight, value_weight: of the loss.
        contexts: starting points drawn from the replay for an epoch's dreams.
        optim: the optimiser; weight decay 0.
        normalise_advantages: divide advantages by their root mean square in the batch, at least 1e-2. Not in the
            papers: where rewards are rare, it keeps the policy's step from vanishing beside the entropy's.
    """

    first_updates: int = 5000
    updates: int = 400
    batch: int = 32
    horizon: int = 15
    gamma: float = 0.985
    lambda_: float = 0.95
    entropy_weight: float = 0.001
    value_weight: float = 1.0
    contexts: int = 1024
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.0, max_grad_norm=100.0))
    # ours
    normalise_advantages: bool = False


@dataclass(frozen=True)
class Rollout:
    """An imagined rollout, every field ``(B, T)`` (logits ``(B, T, size)``); logits and values carry gradient.

    Actions are as the policy drew them, vectors ``(B, T, A)``. Rewards and values are in the agent's unit: the dream's
    rewards, divided by a scale.
    """

    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    logits: Tensor
    values: Tensor
    next_values: Tensor


def lambda_returns(
    rewards: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    next_values: Tensor,
    gamma: float,
    lambda_: float,
) -> Tensor:
    """Return the lambda-returns ``(B, T)`` (eq. 6 of arXiv 2405.12399).

    ``G_t = r_t + gamma (1 - end_t) [(1 - lambda) V_{t+1} + lambda G_{t+1}]``; at a truncation and at the end of the
    rollout ``G_{t+1}`` is ``V_{t+1}``, the value of the frame that the transition led to.

    Args:
        rewards: ``(B, T)``.
        terminated: bool ``(B, T)``: nothing follows.
        truncated: bool ``(B, T)``: something would follow, but the dream stops.
        next_values: ``(B, T)``, the value of what each transition led to, before any reset.
        gamma: discount.
        lambda_: mixing.
    """
    returns = torch.empty_like(rewards)
    following = next_values[:, -1]
    for t in reversed(range(rewards.shape[1])):
        following = torch.where(truncated[:, t], next_values[:, t], following)
        ahead = (1 - lambda_) * next_values[:, t] + lambda_ * following
        following = rewards[:, t] + gamma * (~terminated[:, t]) * ahead
        returns[:, t] = following
    return returns


def rollout(
    dream: Dream,
    agent: ActorCritic,
    horizon: int,
    generator: torch.Generator,
    scale: float = 1.0,
    share: Share = WHOLE,
) -> Rollout:
    """Roll the dream out from where it stands for ``horizon`` steps; lanes that end begin anew.

    Args:
        dream: of the game that the agent plays.
        agent: acts.
        horizon: steps.
        generator: draws actions.
        scale: what the dream's rewards are divided by.
        share: of a batch of dreams, if these are not all of it.
    """
    stack = agent.config.frame_stack
    memory = _live_through(dream, agent)
    opinion = agent(dream.observation(stack), memory)
    steps: list[tuple[Tensor, ...]] = []
    for _ in range(horizon):
        drawn = agent.policy.draw(share.padded(opinion.logits.detach()), generator)[share.span]
        transition = dream.step(agent.policy.actions(drawn))
        done = transition.done
        after = agent(dream.observation(stack), opinion.memory)
        next_values = after.value.detach()
        steps.append(
            (
                drawn,
                transition.prediction.reward / scale,
                transition.prediction.terminated,
                transition.truncated,
                opinion.logits,
                opinion.value,
                next_values,
            )
        )
        if done.any():
            dream.restart(done)
            fresh = _live_through(dream, agent)
            memory = torch.where(done[None, :, None], fresh, opinion.memory)
            opinion = agent(dream.observation(stack), memory)
        else:
            opinion = after
    return Rollout(*(torch.stack(column, dim=1) for column in zip(*steps, strict=True)))


def loss(
    imagined: Rollout, policy: Distribution, config: FitAgentConfig, scale: float = 1.0, share: Share = WHOLE
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the actor-critic loss of a rollout and what to log of it, in the dream's own rewards.

    Args:
        imagined: the rollout.
        policy: the distribution that its logits make.
        config: the weights.
        scale: what its rewards were divided by.
        share: of a batch of dreams, if the rollout is not of all of it; the loss is then its part, and so is the rest.
    """
    returns = lambda_returns(
        imagined.rewards,
        imagined.terminated,
        imagined.truncated,
        imagined.next_values,
        config.gamma,
        config.lambda_,
    )
    advantages = (returns - imagined.values).detach()
    if config.normalise_advantages:
        square = share.total(share.part(advantages.square().mean()))
        advantages = advantages / square.sqrt().clamp(min=1e-2)
    actor = -(policy.log_prob(imagined.logits, imagined.actions) * advantages).mean()
    critic = F.mse_loss(imagined.values, returns)
    entropy = policy.entropy(imagined.logits).mean()
    total = actor + config.value_weight * critic - config.entropy_weight * entropy
    logged = {
        "loss_actor": actor,
        "loss_critic": critic,
        "entropy": entropy,
        "dream_reward": imagined.rewards.mean() * scale,
        "dream_end": imagined.terminated.float().mean(),
        "value": imagined.values.mean() * scale,
        "returns": returns.mean() * scale,
    }
    return share.part(total), {key: share.part(value.detach()) for key, value in logged.items()}


def fit_agent(
    agent: ActorCritic,
    optim: Optim,
    dream: Dream,
    config: FitAgentConfig,
    updates: int,
    generator: torch.Generator,
    scale: float = 1.0,
) -> Iterator[dict[str, Tensor]]:
    """Update the agent ``updates`` times, yielding what to log of each.

    Args:
        agent: learns.
        optim: its optimiser.
        dream: of the game that it plays.
        config: the settings.
        updates: how many.
        generator: draws dreams and actions.
        scale: the size of the game's returns. The agent learns values and advantages in units of it, so that losses,
            gradients and the weight of the entropy are the same whatever a game pays.
    """
    share = distributed.share(config.batch, "fit_agent.batch")
    agent.train()
    for _ in range(updates):
        seeds = torch.randint(2**62, (config.batch,), generator=generator, device=generator.device)
        dream.reset(seeds[share.span].tolist())
        imagined = rollout(dream, agent, config.horizon, generator, scale, share)
        total, logged = loss(imagined, agent.policy, config, scale, share)
        yield {**distributed.totals(logged), **optim.step(total)}


@torch.no_grad()
def _live_through(dream: Dream, agent: ActorCritic) -> Tensor:
    """Return the agent's memory of the context before the newest frames, so that it starts as it would in play."""
    frames = dream.state.model.frames
    memory = agent.initial(len(frames), frames.device)
    if agent.lstm is not None:
        stack = agent.config.frame_stack
        for newest in range(stack, frames.shape[1]):
            memory = agent(frames[:, newest - stack : newest].flatten(1, 2), memory).memory
    return memory
