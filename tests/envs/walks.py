"""Vector environments that keep the contract, for the checker to pass and for faults to be planted in."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
MODES = list(AutoresetMode)


def cart_pole():
    return gymnasium.wrappers.TimeLimit(gymnasium.make("CartPole-v1").unwrapped, 25)


class Walk(VectorEnv):
    """Every lane starts somewhere, walks left or right, and is truncated at ``horizon`` or terminated at the walls.

    Everything is kept as the contract has it; faults are planted by overriding the small methods.
    """

    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP, horizon=6):
        self.num_envs = num_envs
        self.mode = autoreset_mode
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.horizon = horizon
        self.single_observation_space = Box(-10, 10, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = Discrete(2)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators = [np.random.default_rng() for _ in range(num_envs)]
        self.state = np.zeros((num_envs, 2), dtype=np.float32)  # where, and for how long
        self.ended = np.zeros(num_envs, dtype=np.bool_)

    def seeds(self, seed):
        return [seed + lane for lane in range(self.num_envs)] if isinstance(seed, int) else seed

    def seeded(self, seed, lane):
        return np.random.default_rng(self.seeds(seed)[lane])

    def begin(self, lanes):
        for lane in np.flatnonzero(lanes):
            self.state[lane] = self.generators[lane].uniform(-0.5, 0.5), 0

    def observe(self):
        return self.state.copy()

    def mask(self, options):
        return (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=np.bool_))

    def info(self):
        return {"age": self.state[:, 1].astype(int), "_age": np.ones(self.num_envs, dtype=np.bool_)}

    def move(self, actions):
        self.state[:, 0] += np.where(actions == 1, 0.25, -0.25)

    def reset(self, *, seed=None, options=None):
        lanes = self.mask(options)
        if seed is not None:
            for lane in np.flatnonzero(lanes):
                self.generators[lane] = self.seeded(seed, lane)
        self.begin(lanes)
        self.ended = self.ended & ~lanes
        return self.observe(), self.info()

    def restart(self, ended, info):
        info["final_obs"] = np.full(self.num_envs, None, dtype=object)
        for lane in np.flatnonzero(ended):
            info["final_obs"][lane] = self.observe()[lane]
        info["_final_obs"] = ended.copy()
        self.begin(ended)

    def step(self, actions):
        if self.mode is DISABLED and self.ended.any():
            raise RuntimeError("reset first")
        self.move(actions)
        self.state[:, 1] += 1
        self.begin(self.ended)  # what NEXT_STEP owes
        terminated = (np.abs(self.state[:, 0]) > 1) & ~self.ended
        truncated = (self.state[:, 1] >= self.horizon) & ~self.ended
        rewards = np.where(self.ended, 0.0, 1.0)
        ended = terminated | truncated
        info = self.info()
        if self.mode is SAME_STEP and ended.any():
            self.restart(ended, info)
        self.ended = ended & (self.mode is not SAME_STEP)
        return self.observe(), rewards, terminated, truncated, info


class NoisyWalk(Walk):
    """Steps draw random numbers too."""

    def move(self, actions):
        noise = [generator.normal() for generator in self.generators]
        self.state[:, 0] += np.where(actions == 1, 0.25, -0.25) + 0.1 * np.array(noise, dtype=np.float32)


class MixedSpaces(Walk):
    """Dict observations with a part for every kind of array, and actions that are a tuple."""

    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP):
        super().__init__(num_envs, autoreset_mode)
        self.single_observation_space = Dict({"state": Box(-10, 10, (2,), np.float32), "age": Discrete(100)})
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = Tuple([Discrete(2), Box(-1, 1, (1,), np.float32)])
        self.action_space = batch_space(self.single_action_space, num_envs)

    def observe(self):
        return {"state": self.state.copy(), "age": self.state[:, 1].astype(np.int64)}

    def move(self, actions):
        super().move(actions[0])
        self.state[:, 0] += 0.01 * actions[1][:, 0]

    def restart(self, ended, info):  # the dense layout: an entry for every lane
        info["final_obs"], info["_final_obs"] = self.observe(), ended.copy()
        self.begin(ended)


class HiddenAges(Walk):
    """Lanes that grow old without showing it, each to an age of its own."""

    ends = (4, 9, 12)

    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP):
        super().__init__(num_envs, autoreset_mode, horizon=np.array(self.ends))

    def move(self, actions):
        self.state[:, 0] += np.where(actions == 1, 0.01, -0.01)

    def observe(self):
        return self.state * np.float32([1, 0])

    def info(self):
        return {}


class StepFault(Walk):
    """A walk, each of whose steps is ``spoilt`` by a subclass."""

    def step(self, actions):
        return self.spoilt(*super().step(actions))
