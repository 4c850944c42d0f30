"""The vector environment beside a slow model of it in plain Python numbers, whatever is done to both."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jedi_env.errors import UsageError
from jedi_env.noise import LaneNoise, lane_keys
from tests.envs.lanes import DISABLED, MODES, NEXT_STEP, SAME_STEP, counting, same
from tests.fakes import END, REWARDS, K


class SlowLane:
    """One lane as plain Python numbers: what the environment does, by its definition."""

    def __init__(self, bank, horizon, end_chance):
        self.bank, self.horizon, self.end_chance = bank, horizon, end_chance

    def draw(self):
        luck = float(LaneNoise(torch.tensor([self.key]), torch.tensor([self.count])).uniform())
        self.count += 1
        return luck

    def reset(self, seed=None):
        if seed is not None:
            self.key, self.count = int(lane_keys([seed])), 0
        self.start = int(self.draw() * self.bank)
        self.places, self.lucks = [10 * self.start + step for step in range(K)], [0.0] * K
        self.age, self.done = 0, False

    def step(self, action):
        luck = self.draw()
        self.places.append(self.places[-1] + action)
        self.lucks.append(luck)
        self.age += 1
        terminated = action == END or luck < self.end_chance
        truncated = self.age >= self.horizon
        self.done = terminated or truncated
        return REWARDS[action], terminated, truncated

    def observe(self):
        stack = zip(self.places[-K:], self.lucks[-K:], [self.start] * K, strict=True)
        return np.array([number for frame in stack for number in frame], dtype=np.float32)[:, None, None]


class SlowEnv:
    def __init__(self, lanes, mode, *world):
        self.mode = mode
        self.lanes = [SlowLane(*world) for _ in range(lanes)]

    def observe(self):
        return np.stack([lane.observe() for lane in self.lanes])

    def reset(self, seed, mask):
        for i, lane in enumerate(self.lanes):
            if mask is None or mask[i]:
                lane.reset(None if seed is None else seed + i)
        return self.observe()

    def step(self, actions):
        results, finals = [], [None] * len(self.lanes)
        for i, (lane, action) in enumerate(zip(self.lanes, actions, strict=True)):
            if self.mode is NEXT_STEP and lane.done:
                lane.reset()
                results.append((0.0, False, False))
                continue
            results.append(lane.step(action))
            if self.mode is SAME_STEP and lane.done:
                finals[i] = lane.observe()
                lane.reset()
        rewards, terminated, truncated = (list(column) for column in zip(*results, strict=True))
        return self.observe(), rewards, terminated, truncated, finals


LANES = 3
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.lists(st.integers(0, END), min_size=LANES, max_size=LANES)),
        st.tuples(st.just("step"), st.lists(st.integers(0, END - 1), min_size=LANES, max_size=LANES)),
        st.tuples(st.just("reset"), st.none() | st.integers(0, 9)),
        st.tuples(
            st.just("mask"),
            st.tuples(st.none() | st.integers(0, 9), st.lists(st.booleans(), min_size=LANES, max_size=LANES)),
        ),
        st.tuples(st.just("clone"), st.none()),
        st.tuples(st.just("restore"), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(mode=st.sampled_from(MODES), horizon=st.integers(1, 5), end_chance=st.sampled_from([0.0, 0.3]), deeds=DEEDS)
def test_it_does_what_a_slow_model_of_it_does(mode, horizon, end_chance, deeds):
    env = counting(LANES, mode=mode, bank=4, horizon=horizon, world={"end_chance": end_chance})
    slow = SlowEnv(LANES, mode, 4, horizon, end_chance)
    same(env.reset(seed=0)[0], slow.reset(0, None))
    kept = env.clone_state(), deepcopy(slow)
    for deed, what in deeds:
        if deed == "reset":
            same(env.reset(seed=what)[0], slow.reset(what, None))
        elif deed == "mask":
            seed, mask = what
            if any(mask):
                same(env.reset(seed=seed, options={"reset_mask": np.array(mask)})[0], slow.reset(seed, mask))
            else:
                with pytest.raises(UsageError, match="names no lane"):
                    env.reset(seed=seed, options={"reset_mask": np.array(mask)})
        elif deed == "clone":
            kept = env.clone_state(), deepcopy(slow)
        elif deed == "restore":
            env.restore_state(kept[0])
            slow = deepcopy(kept[1])
        elif mode is DISABLED and any(lane.done for lane in slow.lanes):
            with pytest.raises(UsageError, match="have ended"):
                env.step(what)
        else:
            observations, rewards, terminated, truncated, info = env.step(what)
            wanted, *ends, finals = slow.step(what)
            same(observations, wanted)
            assert [rewards.tolist(), terminated.tolist(), truncated.tolist()] == ends
            same(info["final_obs"].tolist() if "final_obs" in info else [None] * LANES, finals)
        same(env.observe(), slow.observe())
