"""What the tests of the vector environment share: environments to test, what their lanes show, and exact equality."""

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from jedi_env.envs.vector import DreamVectorEnv
from tests.fakes import CPU, counting_checkpoint
from tests.tiny_dream import tiny_checkpoint

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
MODES = list(AutoresetMode)
INFO_KEYS = ("reward_probs", "termination_prob")


def counting(num_envs=2, *, mode=SAME_STEP, bank=5, horizon=6, world=None, **arguments):
    checkpoint = counting_checkpoint(bank, horizon, **(world or {}))
    return DreamVectorEnv(num_envs, checkpoint=checkpoint, autoreset_mode=mode, **{**CPU, **arguments})


def tiny(num_envs=3, **arguments):
    checkpoint = tiny_checkpoint(horizon=4, decoder=True)
    return DreamVectorEnv(num_envs, **{"checkpoint": checkpoint, **CPU, **arguments})


def places(observations):
    """The place of every lane, in a stack of any height."""
    return [int(lane[-3, 0, 0]) for lane in observations]


def starts_of(observations):
    """Which context of the bank every lane began from."""
    return [int(lane[-1, 0, 0]) for lane in observations]


def same(a, b):
    """Equal all the way down, to the bit, dtypes included."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        same(a.tolist(), b.tolist())
    elif isinstance(a, np.ndarray | torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert (a == b).all()
    else:
        assert a == b


def same_state(a, b):
    ours, theirs = [], []
    a.map(lambda tensor: ours.append(tensor) or tensor)
    b.map(lambda tensor: theirs.append(tensor) or tensor)
    same(ours, theirs)


def play(env, actions):
    """Step, resetting by hand in mode DISABLED."""
    steps = []
    for step in actions:
        steps.append(env.step(np.array(step)))
        done = steps[-1][2] | steps[-1][3]
        if env.unwrapped.autoreset_mode is DISABLED and done.any():
            env.reset(options={"reset_mask": done})
    return steps


def mask_of(*flags):
    return np.array(flags, dtype=bool)
