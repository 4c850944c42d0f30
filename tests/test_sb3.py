"""The bridge to Stable-Baselines3 against ``DummyVecEnv``: the same episodes, transition for transition."""

import inspect
from copy import deepcopy
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import NumpyToTorch, RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecTransposeImage, is_vecenv_wrapped
from tiny_dream import tiny_checkpoint

from jedi_env import sb3
from jedi_env.errors import UsageError
from jedi_env.sb3 import LatentCnn, as_vec_env

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


# ---------------------------------------------------------------- against DummyVecEnv


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "algorithm",
    [
        partial(PPO, n_steps=64, batch_size=64, n_epochs=2),
        partial(DQN, learning_starts=100, train_freq=4, buffer_size=1000, target_update_interval=100),
    ],
    ids=["PPO", "DQN"],
)
def test_training_ends_with_the_same_parameters(algorithm, mode):
    parameters = []
    for env in (as_vec_env(sync(cart_pole, 4, mode)), DummyVecEnv([cart_pole] * 4)):
        model = algorithm("MlpPolicy", env, seed=7, device="cpu").learn(1024)
        parameters.append(torch.cat([parameter.flatten() for parameter in model.policy.parameters()]))
    assert torch.equal(*parameters)
    fresh = algorithm("MlpPolicy", env, seed=7, device="cpu")
    assert not torch.equal(parameters[0], torch.cat([parameter.flatten() for parameter in fresh.policy.parameters()]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fn", [cart_pole, Camera, image], ids=["box", "dict", "image"])
@given(seed=st.integers(0, 2**31), number=st.integers(1, 4))
@settings(max_examples=6)
def test_every_step_is_that_of_dummy_vec_env(fn, mode, seed, number):
    assert compare(fn, sync(fn, number, mode), seed, 30) > 0


@pytest.mark.parametrize("fn", [cart_pole, Camera], ids=["box", "dict"])
def test_dense_final_observations_are_understood(fn):
    env = DenseFinals(sync(fn, 3, SAME_STEP))
    assert compare(fn, env, seed=1, length=60) > 3


@pytest.mark.parametrize("mode", MODES)
def test_infos_are_handed_on_if_asked_for(mode):
    """Also those that not every lane has at every step, nested ones, and the last of an episode."""
    assert compare(Camera, sync(Camera, 3, mode), 2, 40, info_keys={"luck", "late", "nested"}) > 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fn", [cart_pole, Camera], ids=["box", "dict"])
def test_returned_memory_is_the_callers(fn, mode):
    """Also if the environment returns its own buffer every time."""
    bridge = as_vec_env(sync(fn, 3, mode, copy=False))
    bridge.seed(0)
    kept = [bridge.reset()]
    copies = [deepcopy(kept[0])]
    actions = batch_space(bridge.action_space, 3)
    actions.seed(0)
    for _ in range(40):
        result = bridge.step(actions.sample())
        kept.append(result)
        copies.append(deepcopy(result))
    for one, two in zip(kept[1:], copies[1:], strict=True):
        assert_same(one[0], two[0])
        assert_same(one[1], two[1])
        assert_same(one[2], two[2])
        assert_same_infos(one[3], two[3])
    assert_same(kept[0], copies[0])
    arrays = [part for obs, *_ in kept[1:] for part in (obs.values() if isinstance(obs, dict) else [obs])]
    assert not any(np.shares_memory(one, two) for i, one in enumerate(arrays) for two in arrays[:i])


def test_ale_gives_the_same_episodes_in_both_of_its_modes():
    """Its SAME_STEP final observations are the observations that NEXT_STEP returns at that step."""
    pytest.importorskip("ale_py")
    ends = []
    for mode in (SAME_STEP, NEXT_STEP):
        env = gymnasium.make_vec(
            "ALE/Breakout-v5", num_envs=2, num_threads=1, max_num_frames_per_episode=48, autoreset_mode=mode
        )
        env.metadata = dict(env.metadata)  # it writes into a dict that all vector environments share
        bridge = as_vec_env(env)
        bridge.seed(3)
        bridge.reset()
        rng = np.random.default_rng(0)
        steps = [bridge.step(rng.integers(0, 4, 2)) for _ in range(14)]
        ends.append([info["terminal_observation"] for *_, infos in steps for info in infos if info])
        bridge.close()
    assert len(ends[0]) == 2
    assert_same(np.stack(ends[0]), np.stack(ends[1]))


def test_evaluation_and_monitoring_agree_with_monitored_environments():
    model = PPO("MlpPolicy", cart_pole(), seed=0, device="cpu")
    results = []
    for env in (
        VecMonitor(as_vec_env(sync(cart_pole, 2, SAME_STEP))),
        DummyVecEnv([lambda: Monitor(cart_pole())] * 2),
    ):
        env.seed(11)
        results.append(evaluate_policy(model, env, n_eval_episodes=6, return_episode_rewards=True))
    assert results[0] == results[1]


def test_statistics_of_gymnasiums_wrapper_can_be_handed_on():
    """In the other modes a masked reset of ``SyncVectorEnv`` makes that wrapper forget every lane."""
    bridge = as_vec_env(RecordEpisodeStatistics(sync(cart_pole, 2, SAME_STEP)), info_keys=["episode"])
    monitored = VecMonitor(as_vec_env(sync(cart_pole, 2, SAME_STEP)))
    for env in (bridge, monitored):
        env.seed(0)
        env.reset()
    ends = []
    for _ in range(40):
        pairs = zip(*(env.step(np.ones(2, dtype=int))[3] for env in (bridge, monitored)), strict=True)
        ends += [(one["episode"], two["episode"]) for one, two in pairs if one or two]
    assert len(ends) > 4
    assert all((one["r"], one["l"]) == (two["r"], two["l"]) for one, two in ends)


# ---------------------------------------------------------------- images


@pytest.mark.parametrize(("fn", "policy"), [(image, "CnnPolicy"), (Camera, "MultiInputPolicy")], ids=["box", "dict"])
def test_stable_baselines3_transposes_images_by_itself(fn, policy):
    bridge = as_vec_env(sync(fn, 3, SAME_STEP))
    model = A2C(policy, bridge, n_steps=3, seed=0, device="cpu").learn(18)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage)
    obs = bridge.reset()
    transposed = VecTransposeImage(bridge).transpose_observations(obs)
    assert_same(*(model.predict(one, deterministic=True)[0] for one in (obs, transposed)))


# ---------------------------------------------------------------- seeds and options


def test_seeds_and_options_are_used_once():
    env = Native()
    bridge = as_vec_env(env)
    bridge.seed(np.int64(5))
    bridge.set_options({"contexts": np.arange(3)})
    bridge.reset()
    bridge.reset()
    bridge.set_options([{"difficulty": 1}] * 3)
    bridge.reset()
    (seed, options), *others = env.calls
    assert seed == 5
    assert type(seed) is int
    assert list(options) == ["contexts"]
    assert_same(options["contexts"], np.arange(3))
    assert others == [(None, None), (None, {"difficulty": 1})]
    with pytest.raises(UsageError, match="one dict of reset options for all lanes"):
        bridge.set_options([{"difficulty": 1}, {"difficulty": 1}, {"difficulty": 2}])


@pytest.mark.parametrize("make", [lambda: as_vec_env(sync(cart_pole, 2, SAME_STEP)), None], ids=["cart_pole", "dream"])
def test_a_reset_that_fails_uses_its_seed_and_options_up(make):
    bridge = make() if make else sb3.make_dream(tiny_checkpoint(), 2, device="cpu")
    bridge.seed(5)
    bridge.set_options({"nope": 1} if make is None else {"low": "nope"})
    with pytest.raises((UsageError, ValueError, TypeError), match="nope"):
        bridge.reset()
    first, second = bridge.reset(), bridge.reset()
    assert first.shape == second.shape == (2, *bridge.observation_space.shape)
    bridge.seed(5)
    assert not np.array_equal(bridge.reset(), second)


@pytest.mark.parametrize("seed", [-1, 0.5, "1", True])
def test_a_seed_that_cannot_be_is_refused_at_once(seed):
    bridge = as_vec_env(sync(cart_pole, 2, SAME_STEP))
    for call in (
        lambda: bridge.seed(seed),
        lambda: sb3.make_dream(tiny_checkpoint(), 2, seed=seed, device="cpu"),
        lambda: sb3.make_real("Breakout", 2, seed=seed, obs_type="rgb"),
    ):
        with pytest.raises(UsageError, match=r"seed is .*whole number of at least 0"):
            call()
    bridge.reset()


def test_infos_that_are_no_arrays_are_every_lanes():
    bridge = as_vec_env(Native())
    bridge.reset()
    assert bridge.reset_infos == [{"log": {"mean": 0.5}, "age": 0}] * 3


# ---------------------------------------------------------------- attributes and methods


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


# ---------------------------------------------------------------- latents


class Latents(Native):
    """Observations like those of a dream."""

    def __init__(self, num_envs=3):
        super().__init__(num_envs)
        self.single_observation_space = spaces.Box(-3, 3, (64, 8, 8), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def observe(self):
        rows = np.linspace(-3, 3, 64 * 8 * 8, dtype=np.float32).reshape(64, 8, 8)
        return rows * np.cos(self.ages, dtype=np.float32)[:, None, None, None]


def test_latent_cnn_is_a_features_extractor(tmp_path):
    kwargs = {"features_extractor_class": LatentCnn, "features_extractor_kwargs": {"features_dim": 32, "width": 8}}
    env = as_vec_env(Latents())
    assert not is_image_space(env.observation_space)
    model = PPO("MlpPolicy", env, policy_kwargs=kwargs, n_steps=8, batch_size=24, n_epochs=1, seed=0, device="cpu")
    extractor = model.policy.features_extractor
    assert extractor.features_dim == 32
    assert extractor(torch.zeros(5, 64, 8, 8)).shape == (5, 32)
    before = deepcopy(extractor.state_dict())
    model.learn(24)
    assert all(not torch.equal(before[name], value) for name, value in extractor.state_dict().items())
    model.save(tmp_path / "model")
    obs = env.reset()
    loaded = PPO.load(tmp_path / "model", device="cpu")
    assert_same(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("shape", [(16, 8, 8), (64, 7, 5), (3, 2, 2)])
def test_latent_cnn_takes_any_stack_and_size(shape):
    features = LatentCnn(spaces.Box(-1, 1, shape, np.float32))(torch.randn(2, *shape))
    assert features.shape == (2, 256)
    assert features.std() > 0


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (3, 64, 64), np.uint8),
        spaces.Box(-1, 1, (4,)),
        spaces.Box(-1, 1, (4, 1, 8)),
        spaces.Discrete(3),
    ],
)
def test_latent_cnn_refuses_what_is_no_latent(space):
    with pytest.raises(UsageError, match="LatentCnn reads a float Box"):
        LatentCnn(space)


# ---------------------------------------------------------------- the pair


def test_the_real_game_for_stable_baselines3():
    pytest.importorskip("ale_py")
    env = sb3.make_real("Pong", 2, obs_type="rgb", frame_stack=2, seed=3)
    assert is_vecenv_wrapped(env, VecMonitor)
    assert env.num_envs == 2
    assert env.observation_space == spaces.Box(0, 255, (64, 64, 6), np.uint8)
    first = env.reset()
    env.seed(3)
    assert_same(first, env.reset())
    A2C("CnnPolicy", env, n_steps=3, device="cpu", seed=0).learn(12)
    env.close()


def test_an_agent_of_the_dream_plays_the_real_game():
    pytest.importorskip("ale_py")
    checkpoint = tiny_checkpoint()
    dream = sb3.make_dream(checkpoint, 3, seed=5, device="cpu", frame_stack=2)
    real = sb3.make_real("Breakout", 2, checkpoint, seed=5, device="cpu", frame_stack=2)
    assert is_vecenv_wrapped(dream, VecMonitor)
    assert (dream.observation_space, dream.action_space) == (real.observation_space, real.action_space)
    kwargs = {"features_extractor_class": LatentCnn}
    model = A2C("MlpPolicy", dream, n_steps=8, policy_kwargs=kwargs, seed=0, device="cpu").learn(240)
    assert max(episode["l"] for episode in model.ep_info_buffer) <= checkpoint.horizon
    assert {episode["r"] % 1 for episode in model.ep_info_buffer} == {0}
    obs = real.reset()
    for _ in range(3):
        obs, *_ = real.step(model.predict(obs)[0])
    assert np.isfinite(obs).all()
    real.close()


def test_a_dream_is_found_by_its_game_its_folder_or_itself(tmp_path, monkeypatch):
    checkpoint = tiny_checkpoint()
    checkpoint.save(tmp_path / "Breakout")
    monkeypatch.setenv("JEDI_ENV_HOME", str(tmp_path))
    for name in ("Breakout", tmp_path / "Breakout", str(tmp_path / "Breakout"), checkpoint):
        env = sb3.make_dream(name, 2, seed=1, device="cpu", dtype="float32", info_keys=["termination_prob"])
        result = env.reset(), *(env.step(np.array([0, 3])) for _ in range(5))
        if name == "Breakout":
            expected = result
            assert all(0 < info["termination_prob"] < 1 for *_, infos in result[1:] for info in infos)
        for one, two in zip(result[1:], expected[1:], strict=True):
            assert_same(one[0], two[0])
            assert [info["termination_prob"] for info in one[3]] == [info["termination_prob"] for info in two[3]]
        assert_same(result[0], expected[0])


def test_a_dream_is_the_same_in_every_mode():
    results = []
    for mode in MODES:
        env = gymnasium.make_vec(
            "JEDIDream-v0",
            num_envs=3,
            checkpoint=tiny_checkpoint(horizon=5),
            autoreset_mode=mode,
            device="cpu",
            dtype="float32",
        )
        bridge = as_vec_env(env)
        bridge.seed(2)
        bridge.reset()
        rng = np.random.default_rng(0)
        results.append([bridge.step(rng.integers(0, 4, 3)) for _ in range(20)])
    assert sum(dones.sum() for _, _, dones, _ in results[0]) > 6
    for one, *others in zip(*results, strict=True):
        for other in others:
            for part in range(3):
                assert_same(one[part], other[part])
            assert_same_infos(one[3], other[3])


def test_a_wrong_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"'breakout' is neither .* Did you mean 'Breakout'\?"):
        sb3.make_dream("breakout")


def test_no_argument_is_swallowed():
    for function in (sb3.make_dream, sb3.make_real, as_vec_env):
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
