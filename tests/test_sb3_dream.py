"""Dreams and real games for Stable-Baselines3, and the features extractor for latents."""

import inspect
from copy import deepcopy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecMonitor, is_vecenv_wrapped
from tiny_dream import tiny_checkpoint

from jedi_env import sb3
from jedi_env.errors import UsageError
from jedi_env.sb3 import LatentCnn, as_vec_env
from tests.bridged_envs import (
    MODES,
    Native,
    assert_same,
    assert_same_infos,
)


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


def test_the_real_game_has_the_frame_skip_that_was_asked_for():
    pytest.importorskip("ale_py")
    env = sb3.make_real("Pong", 2, obs_type="rgb", frame_skip=40, seed=3)
    env.reset()
    steps = 0
    while not env.step(np.zeros(2, np.int64))[2].any():  # a lost game of some 3,100 frames
        steps += 1
    assert 60 < steps < 120
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


def test_a_folder_is_found_wherever_it_lies(tmp_path, monkeypatch):
    """Below the home directory, and aside, where a writer that was killed left it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_checkpoint().save(tmp_path / "dream")
    sb3.make_dream("~/dream", 1, horizon=2, device="cpu").close()
    (tmp_path / "dream").rename(tmp_path / ".dream.0123456789ab.old")
    sb3.make_dream(str(tmp_path / "dream"), 1, horizon=2, device="cpu").close()


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
