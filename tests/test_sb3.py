"""The bridge to Stable-Baselines3 against ``DummyVecEnv``: the same episodes, transition for transition."""

from copy import deepcopy
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecTransposeImage, is_vecenv_wrapped
from tiny_dream import tiny_checkpoint

from jedi_env import sb3
from jedi_env.errors import UsageError
from jedi_env.sb3 import as_vec_env
from tests.bridged_envs import (
    MODES,
    NEXT_STEP,
    SAME_STEP,
    Camera,
    DenseFinals,
    Native,
    assert_same,
    assert_same_infos,
    cart_pole,
    compare,
    image,
    sync,
)

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
    bridge = make() if make else sb3.make_dream(tiny_checkpoint(), 64, device="cpu")  # so many never start alike
    bridge.seed(5)
    bridge.set_options({"nope": 1} if make is None else {"low": "nope"})
    with pytest.raises((UsageError, ValueError, TypeError), match="nope"):
        bridge.reset()
    first, second = bridge.reset(), bridge.reset()
    assert first.shape == second.shape == (bridge.num_envs, *bridge.observation_space.shape)
    bridge.seed(5)
    seeded = bridge.reset()
    assert not np.array_equal(first, seeded)
    assert not np.array_equal(second, seeded)


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


@pytest.mark.parametrize("info_keys", ["episode", None, 3])
def test_one_info_key_is_no_tuple_of_them(info_keys):
    with pytest.raises(UsageError, match=rf"info_keys is {info_keys!r}: write a tuple .* \('episode',\)"):
        as_vec_env(Native(), info_keys=info_keys)


def test_infos_that_are_no_arrays_are_every_lanes():
    bridge = as_vec_env(Native())
    bridge.reset()
    assert bridge.reset_infos == [{"log": {"mean": 0.5}, "age": 0}] * 3
