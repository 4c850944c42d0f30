"""Fit the agent in imagination: roll the dream out, lambda-returns, REINFORCE with a value baseline.

The form is DIAMOND's (arXiv 2405.12399, section 3 and appendix), which JEDI (arXiv 2605.13013, section 3) keeps: no
gradient flows through the dream. A rollout may be learned from several times, which is ours.
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

_CLIP = 0.2  # share by which an action's probability may change and still earn more (PPO's, arXiv 1707.06347)


@dataclass(frozen=True)
class FitAgentConfig:
    """How the agent learns; the defaults are both papers'.

    Attributes:
        first_updates: updates in the first epoch; each imagines one rollout and takes ``passes`` gradient steps, which
            are what the optimiser counts.
        updates: updates in every other epoch.
        batch: dreams side by side (32 in DIAMOND; 32 or 64 in JEDI).
        horizon: H, imagined steps an update.
        gamma, lambda_: of the lambda-return.
        entropy_weight, value_weight: of the loss.
        contexts: starting points drawn from the replay for an epoch's dreams.
        optim: the optimiser; weight decay 0.
        normalise_advantages: divide advantages by their root mean square in the batch, at least 1e-2. Not in the
            papers: where rewards are rare, it keeps the policy's step from vanishing beside the entropy's.
        passes: gradient steps on every rollout; 1 in the papers. Dreaming is most of an update, so more steps fit into
            the same time. What the agent is compared with stays the one that dreamed: its returns, advantages and
            memories, and its policy, to which the ratio is clipped as in PPO. In dreams of Catch, with a new agent and
            150 s of one core, three passes catch 19.0 and 18.4; one pass, at the best of four settings, 16.5 and 17.1.
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
    passes: int = 1


@dataclass(frozen=True)
class Rollout:
    """An imagined rollout of B dreams over T steps, in the agent's unit: the dream's rewards, divided by a scale.

    Attributes:
        observations: ``(B, T, stack*C, H, W)``, what the agent saw.
        memories: ``(B, T, 2, L)``, what it remembered then.
        actions: ``(B, T)``, as its policy drew them; vectors are ``(B, T, A)``.
        rewards: ``(B, T)``.
        terminated, truncated: bool ``(B, T)``.
        logits, values: ``(B, T, size)`` and ``(B, T)``, what it thought of what it saw; with gradient.
        next_values: ``(B, T)``, what it thought of where the transition led, before any reset.
    """

    observations: Tensor
    memories: Tensor
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
    observation, memory = dream.observation(stack), agent.memory_before_newest(dream.state.model.frames)
    opinion = agent(observation, memory)
    steps: list[tuple[Tensor, ...]] = []
    for _ in range(horizon):
        drawn = agent.policy.draw(share.padded(opinion.logits.detach()), generator)[share.span]
        transition = dream.step(agent.policy.actions(drawn))
        done = transition.done
        next_observation = dream.observation(stack)
        after = agent(next_observation, opinion.memory)
        next_values = after.value.detach()
        steps.append(
            (
                observation,
                memory.detach().transpose(0, 1),
                drawn,
                transition.prediction.reward / scale,
                transition.prediction.terminated,
                transition.truncated,
                opinion.logits,
                opinion.value,
                next_values,
            )
        )
        observation, memory, opinion = next_observation, opinion.memory, after
        if done.any():
            dream.restart(done)
            memory = torch.where(done[None, :, None], agent.memory_before_newest(dream.state.model.frames), memory)
            observation = dream.observation(stack)
            opinion = agent(observation, memory)
    return Rollout(*(torch.stack(column, dim=1) for column in zip(*steps, strict=True)))


def loss(
    imagined: Rollout,
    logits: Tensor,
    values: Tensor,
    policy: Distribution,
    config: FitAgentConfig,
    scale: float = 1.0,
    share: Share = WHOLE,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the actor-critic loss of a rollout and what to log of it, in the dream's own rewards.

    In the first pass, the papers' only one, the ratio is 1 and its gradient REINFORCE's.

    Args:
        imagined: the rollout; its returns and advantages are those of the agent that dreamed.
        logits: ``(B, T, size)``, what the agent thinks of it now; with gradient.
        values: ``(B, T)``, likewise.
        policy: the distribution that logits make.
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
    dreamed = policy.log_prob(imagined.logits, imagined.actions).detach()
    ratio = (policy.log_prob(logits, imagined.actions) - dreamed).exp()
    actor = -torch.minimum(ratio * advantages, ratio.clamp(1 - _CLIP, 1 + _CLIP) * advantages).mean()
    critic = F.mse_loss(values, returns)
    entropy = policy.entropy(logits).mean()
    total = actor + config.value_weight * critic - config.entropy_weight * entropy
    logged = {
        "loss_actor": -(dreamed * advantages).mean(),
        "clipped": ((ratio - 1).abs() > _CLIP).float().mean(),
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
    """Update the agent ``updates`` times, each by a rollout, yielding what to log of its last pass.

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
        for again in range(config.passes):
            logits, values = think_again(agent, imagined) if again else (imagined.logits, imagined.values)
            total, logged = loss(imagined, logits, values, agent.policy, config, scale, share)
            norms = optim.step(total)
        yield {**distributed.totals(logged), **norms}


def think_again(agent: ActorCritic, imagined: Rollout) -> tuple[Tensor, Tensor]:
    """Return the agent's present logits and values for all steps of a rollout, each from the memory it had there."""
    opinion = agent(imagined.observations.flatten(0, 1), imagined.memories.flatten(0, 1).transpose(0, 1))
    return opinion.logits.reshape(imagined.logits.shape), opinion.value.reshape(imagined.values.shape)
