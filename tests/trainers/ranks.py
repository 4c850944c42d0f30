"""What several processes do together in tests, each the same program: ``torchrun ... -m tests.trainers.ranks WHAT``."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from jedi_env.dream import Dream
from jedi_env.errors import RunError, UsageError
from jedi_env.models.world_model import WorldModel
from jedi_env.share import WHOLE
from jedi_env.types import Context
from tests.trainers.fakes import ACTIONS, MICRO, MICRO_MODEL, TOY, ToyGame, random_weights
from trainers import distributed
from trainers.agent import ActorCritic
from trainers.config import TrainConfig
from trainers.fit_agent import loss, rollout, think_again
from trainers.replay import Replay, Sampling
from trainers.train import train

BATCH = 5  # shares of different sizes

# Everything in which samples of a batch meet: statistics, a penalty across samples, masks, normalised advantages.
SHARED = replace(
    MICRO,
    world_model=replace(MICRO_MODEL, covariance_weight=0.1),
    fit_world_model=replace(MICRO.fit_world_model, batch=BATCH, freeze_encoder_after=9, reward_end_switching=1.0),
    fit_agent=replace(MICRO.fit_agent, batch=BATCH, normalise_advantages=True, passes=2),
)

# A run whose updates do not magnify rounding: to standardise what never varies does, a thousandfold.
CALM = replace(
    SHARED,
    world_model=replace(SHARED.world_model, encoder=replace(MICRO_MODEL.encoder, standardise=False, centre=False)),
)


def played(folder):
    """A replay of a few short games that look like noise: what never varies is standardised to rounding errors."""
    replay, env, rng = Replay(folder), ToyGame(limit=7), np.random.default_rng(0)
    for game in range(6):
        pixels, _ = env.reset(seed=game)
        over = False
        while not over:
            action = int(rng.integers(ACTIONS))
            after, reward, terminated, truncated, _ = env.step(action)
            replay.append(rng.integers(256, size=pixels.shape), action, reward, terminated)
            pixels, over = after, terminated or truncated
        replay.end_episode(rng.integers(256, size=pixels.shape))
    return replay


def gradient(loss_, module):
    module.zero_grad(set_to_none=True)
    loss_.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_parts_add_up(whole, parts):
    assert whole.keys() == parts.keys()
    for name, expected in whole.items():
        summed = parts[name].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(summed, expected, rtol=1e-4, atol=tolerance, msg=lambda text, name=name: name + text)


def world_model_gradients(folder):
    """The gradients of the shares' losses add up to the whole batch's, which every process computes here too."""
    replay = played(folder.parent / f"replay-{dist.get_rank()}")
    share = distributed.share(BATCH, "batch")
    at_once = replace(SHARED.world_model, switching=0.0)
    for config in (at_once, replace(at_once, target_ema=0.9), TrainConfig().world_model):
        if config == TrainConfig().world_model:  # the paper's parts, small
            config = replace(MICRO_MODEL, encoder=replace(MICRO_MODEL.encoder, standardise=False), switching=1.0)
        model = random_weights(WorldModel(ACTIONS, config)).train()
        rows, mask = replay.draw(BATCH, 3, Sampling(()), np.random.default_rng(1))
        assert not mask.all()
        found = []
        for part in (WHOLE, share):
            segment = replay.segment(rows[part.span], mask[part.span])
            frames = model.encode(segment.pixels, part)
            losses = model.loss(frames, segment, torch.Generator().manual_seed(2), None, part)
            found.append((gradient(losses.total, model), losses))
        assert_parts_add_up(found[0][0], found[1][0])
        for name in ("denoising", "reward", "end"):
            part = {name: getattr(found[1][1], name)}
            torch.testing.assert_close(distributed.totals(part)[name], getattr(found[0][1], name).detach())
        penalty = {"covariance": share.part(found[1][1].covariance)}  # as it is logged
        torch.testing.assert_close(distributed.totals(penalty)["covariance"], found[0][1].covariance.detach())


def agent_gradients(folder):
    """The same for the agent; and a dream's actions do not depend on which process dreams it."""
    share = distributed.share(BATCH, "batch")
    config = SHARED.fit_agent
    model = random_weights(WorldModel(ACTIONS, MICRO_MODEL)).eval()
    agent = random_weights(ActorCritic(model.frame_shape, ACTIONS, SHARED.agent))
    frames = torch.rand(8, 2, *model.frame_shape, generator=torch.Generator().manual_seed(3))
    dream = Dream(model, Context(frames, torch.zeros(8, 1, dtype=torch.int64)), horizon=3)
    found = []
    for part in (WHOLE, share):
        dream.reset(list(range(BATCH))[part.span])
        imagined = rollout(dream, agent, 6, torch.Generator().manual_seed(4), 1.0, part)
        total, logged = loss(imagined, imagined.logits, imagined.values, agent.policy, config, 1.0, part)
        learned = random_weights(ActorCritic(model.frame_shape, ACTIONS, SHARED.agent), 1)  # another by a later pass
        later, clipped = loss(imagined, *think_again(learned, imagined), agent.policy, config, 1.0, part)
        gradients = gradient(total, agent) | {f"later {k}": v for k, v in gradient(later, learned).items()}
        found.append((imagined, gradients, logged | {"clipped": clipped["clipped"]}))
    assert torch.equal(found[1][0].actions, found[0][0].actions[share.span])
    assert len(found[0][0].actions.unique()) > 1
    assert found[0][2]["clipped"] > 0
    assert_parts_add_up(found[0][1], found[1][1])
    for name, value in distributed.totals(found[1][2]).items():
        torch.testing.assert_close(value, found[0][2][name], rtol=1e-4, atol=1e-5)


def differences_are_told(folder):
    same, mine = torch.arange(3.0), torch.arange(3.0) + dist.get_rank()
    distributed.check_equal([same])
    with pytest.raises(RunError, match="come apart"):
        distributed.check_equal([same, mine])
    with pytest.raises(UsageError, match=r"2 processes cannot share a batch of 1: write fewer, or a larger a\.batch"):
        distributed.share(1, "a.batch")


def run(folder):
    train(CALM, TOY, 0, folder, torch.device("cpu"))
    (folder.parent / f"{folder.name}-rank-{os.environ['RANK']}").touch()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of what networks draw beside their weights
    with distributed.joined("cpu"):
        assert distributed.world() == int(os.environ["WORLD_SIZE"])
        for what in sys.argv[2:]:
            globals()[what](Path(sys.argv[1]))
