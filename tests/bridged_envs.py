"""Environments for the bridge to Stable-Baselines3, and its comparison with ``DummyVecEnv``."""

from copy import deepcopy

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import DummyVecEnv

from jedi_env.sb3 import as_vec_env

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
MODES = list(AutoresetMode)


def cart_pole():
    return gymnasium.wrappers.TimeLimit(gymnasium.make("CartPole-v1").unwrapped, 25)


class Camera(gymnasium.Env):
    """A walker seen by two senses; its episodes end by chance, by time, and sometimes by both at once."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012

    def __init__(self, render_mode="rgb_array"):
        self.render_mode = render_mode
        self.observation_space = spaces.Dict(
            {"image": spaces.Box(0, 255, (36, 40, 3), np.uint8), "age": spaces.Discrete(100)}
        )
        self.action_space = spaces.MultiDiscrete([2, 3])
        self.gain = 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.observe(), {"luck": self.np_random.integers(9)}

    def step(self, action):
        self.age += 1
        terminated, truncated = bool(self.np_random.random() < 0.2), self.age % 4 == 0
        info = {"luck": self.np_random.integers(9), "nested": {"age": self.age}}
        if self.age > 1:
            info["late"] = self.np_random.normal(size=2)
        return self.observe(), float(action.sum() * self.gain), terminated, truncated, info

    def observe(self):
        return {"image": self.np_random.integers(0, 256, (36, 40, 3), dtype=np.uint8), "age": self.age}

    def render(self):
        return np.full((4, 4, 3), self.age, dtype=np.uint8)

    def action_masks(self):
        return np.array([True, self.age % 2 == 0, True, True, False])


class Image(gymnasium.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = env.observation_space["image"]
        self.action_space = spaces.Discrete(2)

    def step(self, action):
        return super().step(np.array([action, 0]))

    def observation(self, observation):
        return observation["image"]


def image():
    return Image(Camera())


class DenseFinals(VectorWrapper):
    """``final_obs`` as ale_py gives it: an array (here also a dict of arrays) of all lanes, without a mask."""

    def step(self, actions):
        obs, rewards, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            dense = deepcopy(obs)
            for lane in np.flatnonzero(info.pop("_final_obs")):
                for key, part in dense.items() if isinstance(dense, dict) else [(None, dense)]:
                    part[lane] = info["final_obs"][lane] if key is None else info["final_obs"][lane][key]
            info["final_obs"] = dense
        return obs, rewards, terminated, truncated, info


class Native(VectorEnv):
    """A vector environment with no environments inside: it counts, and every lane ends at its own time."""

    def __init__(self, num_envs=3, mode=SAME_STEP):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = spaces.Box(0, 99, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = spaces.Discrete(2)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.ages = np.zeros(num_envs, dtype=int)
        self.frame_shape = (16, 8, 8)
        self.calls = []

    def reset(self, *, seed=None, options=None):
        self.calls.append((seed, options))
        self.ages = np.zeros(self.num_envs, dtype=int)
        return self.observe(), {"log": {"mean": 0.5}, "age": self.ages.copy()}

    def observe(self):
        return self.ages[:, None].astype(np.float32)

    def step(self, actions):
        self.ages += 1
        ended = self.ages > np.arange(self.num_envs)
        info = {"final_obs": self.observe()}
        self.ages[ended] = 0
        return self.observe(), np.ones(self.num_envs), ended, np.zeros_like(ended), info

    def action_masks(self):
        return np.stack([self.ages % 2 == 0, self.ages >= 0], axis=1)

    def shift(self, by):
        self.ages += by
        return "shifted"


def sync(fn, number, mode, **kwargs):
    return SyncVectorEnv([fn] * number, autoreset_mode=mode, **kwargs)


def assert_same(one, two):
    """Equal in structure, values, shapes and dtypes, but for ints that are NumPy's."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    else:
        one, two = np.asarray(one), np.asarray(two)
        assert (one.shape, one.dtype) == (two.shape, two.dtype)
        np.testing.assert_array_equal(one, two)


def compare(fn, env, seed, length, info_keys=()):
    """Play the bridge and ``DummyVecEnv`` side by side; return how many episodes ended."""
    bridge, dummy = as_vec_env(env, info_keys=info_keys), DummyVecEnv([fn] * env.num_envs)
    assert bridge.observation_space == dummy.observation_space
    assert bridge.action_space == dummy.action_space
    actions = env.action_space
    actions.seed(seed)
    ended = 0
    for part in range(2):
        if part == 0:  # the second time without a seed
            assert bridge.seed(seed) == dummy.seed(seed)
        assert_same(bridge.reset(), dummy.reset())
        assert_same_infos(bridge.reset_infos, dummy.reset_infos)
        for _ in range(length):
            action = actions.sample()
            obs, rewards, dones, infos = bridge.step(action)
            dummy_obs, dummy_rewards, dummy_dones, dummy_infos = dummy.step(action)
            assert_same(obs, dummy_obs)
            assert_same(rewards, dummy_rewards)
            assert_same(dones, dummy_dones)
            for done, info, dummy_info in zip(dones, infos, dummy_infos, strict=True):
                wanted = {"TimeLimit.truncated", "terminal_observation"} if done else set()
                wanted |= info_keys & dummy_info.keys()
                assert info.keys() == wanted
                assert_same_infos([info], [{key: dummy_info[key] for key in wanted}])
            assert_same_infos(bridge.reset_infos, dummy.reset_infos)
            ended += dones.sum()
    bridge.close()
    assert env.closed
    return ended


def assert_same_infos(ones, twos):
    for one, two in zip(ones, twos, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
