"""The bridge's lanes: attributes, methods and images of each, and what cannot be bridged."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv
from gymnasium.wrappers.vector import NumpyToTorch, RecordEpisodeStatistics
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from jedi_env.errors import UsageError
from jedi_env.sb3 import as_vec_env
from tests.bridged_envs import SAME_STEP, Camera, Native, cart_pole, sync


def test_attributes_of_lanes():
    env = sync(Camera, 3, SAME_STEP)
    bridge = as_vec_env(env)
    bridge.set_attr("gain", 10, indices=[0, 2])
    assert bridge.get_attr("gain") == [10, 1, 10]
    assert bridge.get_attr("gain", 1) == [1]
    bridge.reset()
    assert bridge.step(np.array([[1, 2]] * 3))[1].tolist() == [30, 3, 30]
    env.envs[2].age = 3
    assert bridge.get_attr("age", indices=range(1, 3)) == [env.envs[1].age, 3]
    assert [mask.tolist() for mask in bridge.env_method("action_masks", indices=[2])] == [[1, 0, 1, 1, 0]]
    assert not bridge.has_attr("nothing")
    assert is_masking_supported(bridge)
    assert get_action_masks(bridge).shape == (3, 5)


def test_attributes_of_a_native_environment():
    env = Native()
    bridge = as_vec_env(RecordEpisodeStatistics(env))
    bridge.reset()
    bridge.step(np.zeros(3, dtype=int))
    assert bridge.get_attr("ages") == [0, 1, 1]
    assert bridge.get_attr("frame_shape", [1]) == [(16, 8, 8)]  # three numbers, but not one a lane
    assert bridge.get_attr("episode_count") == [1] * 3  # the wrapper's
    assert get_action_masks(bridge).tolist() == [[True, True], [False, True], [False, True]]
    assert bridge.env_method("shift", by=2) == ["shifted"] * 3
    assert env.ages.tolist() == [2, 3, 3]
    bridge.set_attr("frame_shape", (3, 64, 64))
    bridge.set_attr("new", 1)
    assert (env.frame_shape, env.new) == ((3, 64, 64), 1)
    with pytest.raises(UsageError, match=r"Native can only call 'shift' for all 3 lanes .* not for \[1\]"):
        bridge.env_method("shift", 1, indices=1)
    with pytest.raises(UsageError, match="can only set 'new' for all"):
        bridge.set_attr("new", 2, indices=[0, 1])
    assert (env.ages.tolist(), env.new) == ([2, 3, 3], 1)
    assert not bridge.has_attr("nothing")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks, which gymnasium uses
def test_attributes_of_lanes_in_other_processes():
    bridge = as_vec_env(AsyncVectorEnv([Camera] * 2))
    try:
        bridge.set_attr("gain", 10)
        assert bridge.get_attr("gain", [1]) == [10]
        bridge.reset()
        assert [mask.tolist() for mask in bridge.env_method("action_masks")] == [[1, 1, 1, 1, 0]] * 2
        with pytest.raises(UsageError, match="AsyncVectorEnv can only set 'gain' for all 2 lanes"):
            bridge.set_attr("gain", 1, indices=[0])
    finally:
        bridge.close()


def test_it_is_never_wrapped():
    bridge = as_vec_env(sync(cart_pole, 3, SAME_STEP))
    assert bridge.env_is_wrapped(Monitor) == [False] * 3
    assert bridge.env_is_wrapped(Monitor, indices=[1]) == [False]


def test_images_of_lanes():
    bridge = as_vec_env(sync(Camera, 3, SAME_STEP))
    bridge.reset()
    assert [frame.shape for frame in bridge.get_images()] == [(4, 4, 3)] * 3
    assert bridge.render().shape == (8, 8, 3)
    assert bridge.metadata["render_fps"] == 7
    blind = as_vec_env(sync(partial(Camera, render_mode=None), 2, SAME_STEP))
    blind.reset()
    with pytest.warns(UserWarning, match="render mode is None"):
        assert blind.get_images() == [None, None]


# ---------------------------------------------------------------- refusals


def test_what_cannot_be_bridged_is_refused():
    with pytest.raises(UsageError, match=r"not TimeLimit: make one with gymnasium.make_vec"):
        as_vec_env(cart_pole())
    with pytest.raises(UsageError, match=r"not DummyVecEnv: .* its own VecEnv"):
        as_vec_env(DummyVecEnv([cart_pole]))
    env = Native()
    env.metadata = {"autoreset_mode": "SameStep"}
    with pytest.raises(UsageError, match=r"declares no autoreset mode .* is 'SameStep'"):
        as_vec_env(env)
    env = Native()
    env.single_observation_space = spaces.Tuple([spaces.Discrete(2)])
    with pytest.raises(UsageError, match="SB3 has no observations like Tuple"):
        as_vec_env(env)
    env = Native()
    env.single_action_space = spaces.Dict({"a": spaces.Discrete(2)})
    with pytest.raises(UsageError, match="SB3 has no actions like Dict"):
        as_vec_env(env)


def test_tensors_are_refused_with_a_way_out():
    with pytest.raises(UsageError, match=r"these are torch.Tensor: .* output='numpy'"):
        as_vec_env(NumpyToTorch(sync(cart_pole, 2, SAME_STEP))).reset()


@pytest.mark.parametrize("wrap", [lambda env: env, RecordEpisodeStatistics])
def test_an_environment_that_resets_all_lanes_for_one_is_found_out(wrap):
    """Gymnasium's native CartPole does; SB3 would train on episodes that end without a word."""
    bridge = as_vec_env(wrap(gymnasium.make_vec("CartPole-v1", num_envs=4)))
    bridge.seed(0)
    bridge.reset()
    rng = np.random.default_rng(0)

    def play():
        for _ in range(100):
            bridge.step(rng.integers(0, 2, 4))

    with pytest.raises(UsageError, match=r"lanes outside the mask .* vectorization_mode='sync'"):
        play()


@pytest.mark.parametrize("finals", [None, np.full(3, None, dtype=object)])
def test_a_missing_final_observation_is_refused(finals):
    class Lost(Native):
        def step(self, actions):
            *rest, _ = super().step(actions)
            return *rest, {} if finals is None else {"final_obs": finals}

    bridge = as_vec_env(Lost())
    bridge.reset()
    with pytest.raises(UsageError, match=r"lane 0 ended, but .*check_vector_env"):
        bridge.step(np.zeros(3, dtype=int))
