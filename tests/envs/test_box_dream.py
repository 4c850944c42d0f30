"""A dream whose actions are vectors: both faces, the checkers, the sentences, the checkpoint, Stable-Baselines3."""

import json
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

import jedi_env
from jedi_env.actions import BoxActions
from jedi_env.checkpoint import Checkpoint
from jedi_env.envs.single import DreamEnv
from jedi_env.envs.vector import DreamVectorEnv
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.sb3 import LatentCnn, make_dream
from tests.fakes import CPU
from tests.tiny_dream import BOX, LATENT, SYMLOG, tiny_checkpoint

K = LATENT.context_length
SPACE = Box(np.float32(BOX.low), np.float32(BOX.high))
MIDDLE = np.float32([0.0, 0.05, -5.0])


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint(SYMLOG, actions=BOX, game=None)


def single(checkpoint, **arguments):
    return DreamEnv(checkpoint=checkpoint, **{**CPU, **arguments})


def vector(checkpoint, lanes=2, **arguments):
    return DreamVectorEnv(lanes, checkpoint=checkpoint, **{**CPU, **arguments})


def test_the_spaces(checkpoint):
    env = gym.make("JEDIDream-v0", checkpoint=checkpoint, **CPU)
    assert env.action_space == SPACE
    lanes = gym.make_vec("JEDIDream-v0", num_envs=3, checkpoint=checkpoint, **CPU)
    assert lanes.single_action_space == SPACE
    assert lanes.action_space.shape == (3, 3)
    env.reset(seed=0)
    lanes.reset(seed=0)
    env.step(env.action_space.sample())
    assert lanes.step(lanes.action_space.sample())[1].dtype == np.float32


def test_all_the_checkers_pass(checkpoint):
    env = gym.make("JEDIDream-v0", checkpoint=checkpoint, **CPU).unwrapped
    with warnings.catch_warnings():
        # That the bounds are not -1 and 1, and that latents are no images.
        warnings.filterwarnings("ignore", category=UserWarning)
        check_env(env, skip_render_check=True)
        check_env_of_sb3(env, skip_render_check=True)
    for mode in gym.vector.AutoresetMode:
        jedi_env.check_vector_env(vector(checkpoint, 3, autoreset_mode=mode, horizon=4))


def test_what_an_action_is_decides_what_follows(checkpoint):
    env = vector(checkpoint, 3, autoreset_mode="Disabled")
    env.reset(seed=[0, 0, 0], options={"contexts": [0, 0, 0]})
    observations, rewards, *_ = env.step(np.float32([BOX.low, BOX.low, BOX.high]))
    assert (observations[0] == observations[1]).all()
    assert (observations[0] != observations[2]).any()
    assert rewards[0] == rewards[1] != rewards[2]


def test_a_lane_is_the_single_dream(checkpoint):
    env, lanes = single(checkpoint, horizon=None), vector(checkpoint, 2, horizon=None)
    assert np.allclose(env.reset(seed=1)[0], lanes.reset(seed=[9, 1])[0][1], atol=1e-5)
    for _ in range(3):
        action = lanes.action_space.sample()
        one, many = env.step(action[1]), lanes.step(action)
        assert np.allclose(one[0], many[0][1], atol=1e-4)
        assert one[1] == pytest.approx(many[1][1], abs=1e-3)
        if one[2]:
            break


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (MIDDLE[:2], r"float32 of shape \(2,\); give a vector, shape \(3,\), from \[-1, 0, -7.5\] to \[1, 0.1, -2.5\]"),
        (0.5, r"float64 of shape \(\); give"),
        (MIDDLE + np.float32([1.5, 0, 0]), r"The action \[1.5, .*\] is out of range; give a vector"),
        (MIDDLE * np.nan, "out of range"),
        (np.ones(3, bool), "bool"),
        ("abc", "<U3"),
        (torch.tensor([0.0, 0.2, -5.0]), "out of range"),
        (torch.tensor([True, False, True]), "bool"),
    ],
)
def test_what_is_no_action_is_refused_and_nothing_moves(checkpoint, action, sentence):
    env = single(checkpoint)
    env.reset(seed=0)
    before = env.clone_state()
    with pytest.raises(UsageError, match=sentence):
        env.step(action)
    assert torch.equal(before.model.frames, env.clone_state().model.frames)
    assert torch.equal(before.count, env.clone_state().count)


def test_numbers_of_any_kind_that_fit(checkpoint):
    env = single(checkpoint)
    seen = []
    backwards = MIDDLE[::-1].copy()[::-1]
    for action in (MIDDLE, MIDDLE.astype(float), MIDDLE.tolist(), torch.from_numpy(MIDDLE), MIDDLE[None], backwards):
        env.reset(seed=0)
        seen.append(env.step(action)[0])
    assert all((one == seen[0]).all() for one in seen)
    given = MIDDLE.copy()
    env.reset(seed=0)
    env.step(given)
    given += 9  # what the caller does with it afterwards is not the dream's
    assert torch.equal(env.clone_state().model.actions[0, -1], torch.from_numpy(MIDDLE))


def test_what_rounding_leads_out_is_the_bound(checkpoint):
    env, high = vector(checkpoint, autoreset_mode="Disabled"), np.float32(BOX.high)
    over = np.nextafter(high, np.float32(np.inf))
    assert (over > high).all()
    env.reset(seed=0)
    start, seen = env.clone_state(), []
    for action in (high, over, over.astype(float)):
        env.restore_state(start)
        seen.append(env.step(np.stack([action] * 2))[0])
        assert torch.equal(env.clone_state().model.actions[:, -1], torch.from_numpy(high).expand(2, -1))
    assert all((one == seen[0]).all() for one in seen)
    frames = np.zeros((K, 64, 64, 3), np.uint8)
    env.reset(options={"frames": frames, "actions": np.stack([over] * (K - 1))})
    assert torch.equal(env.clone_state().model.actions, torch.from_numpy(high).expand(2, K - 1, -1))


def test_a_vector_a_lane(checkpoint):
    env = vector(checkpoint, 2)
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"give one vector a lane, shape \(2, 3\), from"):
        env.step(MIDDLE)
    with pytest.raises(UsageError, match=r"The actions are torch\.float32 of shape"):
        env.step(torch.zeros(2))
    torch_env = vector(checkpoint, 2, output="torch")
    env.reset(seed=3)
    torch_env.reset(seed=3)
    actions = env.action_space.sample()
    assert torch.equal(torch_env.step(torch.from_numpy(actions))[0], torch.from_numpy(env.step(actions)[0]))


def test_dreaming_on_from_real_history(checkpoint):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (K + 1, 64, 64, 3), dtype=np.uint8)
    actions = np.stack([MIDDLE] * (K - 1) + [np.float32(BOX.high)])
    env = vector(checkpoint, 2)
    shown, _ = env.reset(seed=0, options={"frames": frames, "actions": actions})
    with torch.no_grad():
        expected = checkpoint.world_model.encode(torch.from_numpy(frames[1:]))
    assert np.allclose(shown[0], expected.flatten(0, 1).numpy(), atol=1e-5)
    assert torch.equal(env.clone_state().model.actions, torch.from_numpy(actions[1:]).expand(2, -1, -1))
    mask = np.array([True, False])
    per_lane = np.stack([actions, np.full_like(actions, np.nan)])  # what is said of the other lane is not looked at
    env.reset(options={"frames": np.stack([frames] * 2), "actions": per_lane, "reset_mask": mask})
    sentence = rf"give the {K} actions between the frames, each from \[-1, 0, -7.5\]"
    for wrong in (actions[:, :2], actions + 1, actions[:-1]):
        for chosen in ({}, {"reset_mask": mask}):
            with pytest.raises(UsageError, match=sentence):
                env.reset(options={"frames": frames, "actions": wrong, **chosen})


def test_a_state_is_restored_exactly_and_not_into_another_dream(checkpoint):
    env = vector(checkpoint, 2, horizon=None)
    env.reset(seed=0)
    state = env.clone_state()
    actions = env.action_space.sample()
    first = env.step(actions)[0]
    env.restore_state(state)
    assert (env.step(actions)[0] == first).all()
    with pytest.raises(UsageError, match="of another world model"):
        vector(tiny_checkpoint(game=None), 2).restore_state(state)


def test_keys_move_the_numbers_to_their_bounds(checkpoint):
    keys = single(checkpoint).get_keys_to_action()
    blank = np.float32([0, 0, -2.5])
    assert keys[("a",)].tolist() == [-1.0, *blank[1:].tolist()]
    assert keys[("d",)].tolist() == [1.0, *blank[1:].tolist()]
    assert keys[("w",)].tolist() == pytest.approx([0.0, 0.1, -2.5])
    assert keys[("1",)].tolist() == [0.0, 0.0, -7.5]
    assert ("2",) not in keys  # the other bound is what stands where nothing is done
    assert keys[("d", "w", "1")].tolist() == pytest.approx([1.0, 0.1, -7.5])
    assert ("a", "d") not in keys
    assert all(SPACE.contains(action) for action in keys.values())


class TestCheckpoint:
    def test_there_and_back(self, checkpoint, tmp_path):
        checkpoint.save(tmp_path / "dream")
        again = Checkpoint.load(tmp_path / "dream")
        assert again.world_model.actions == BOX
        assert again.world_model.config == checkpoint.world_model.config
        assert torch.equal(again.contexts.actions, checkpoint.contexts.actions)
        for env in (first := vector(checkpoint), second := vector(again)):
            env.reset(seed=0)
        for _ in range(3):
            actions = first.action_space.sample()
            for one, other in zip(first.step(actions)[:4], second.step(actions)[:4], strict=True):
                assert np.array_equal(one, other)

    def test_halved_it_can_still_be_loaded(self, tmp_path):
        """0.1 in float16 is less than 0.1, and -7.3 is further from zero."""
        actions = BoxActions((0.1, -7.3), (0.2, 7.3))
        checkpoint = tiny_checkpoint(SYMLOG, actions=actions, game=None)
        bounds = torch.tensor([actions.low, actions.high, actions.low])
        contexts = replace(checkpoint.contexts, actions=bounds.expand(5, -1, -1).clone())
        replace(checkpoint, contexts=contexts).save(tmp_path / "dream", half=True)
        again = Checkpoint.load(tmp_path / "dream")
        assert actions.allow(again.contexts.actions)
        assert torch.allclose(again.contexts.actions, contexts.actions, atol=1e-2)

    def test_the_format_of_discrete_dreams_is_as_it_was(self, tmp_path):
        tiny_checkpoint().save(tmp_path / "dream")
        path = tmp_path / "dream" / "config.json"
        config = json.loads(path.read_text())
        assert (config["version"], config["num_actions"], config.pop("actions")) == (1, 4, None)
        del config["model"]["reward_end"]["symlog"]
        path.write_text(json.dumps(config))  # as written before there were vectors
        old = Checkpoint.load(tmp_path / "dream")
        names = dict(old.world_model.named_parameters())
        assert names["denoiser.action_embedding.weight"].shape == (4, 2)
        assert names["reward_end.action_embedding.weight"].shape == (4, 4)
        assert names["reward_end.head.2.weight"].shape == (5, 8)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"num_actions": 2}, "num_actions is 2, but an action has 3 numbers"),
            ({"actions": {"low": [0.0] * 3, "high": [0.0] * 3}}, "a finite low below a finite high"),
            ({"actions": {"low": [0.0] * 3}}, "lacks the field 'high'"),
            ({"actions": None}, "declares 'actions' as float32 of shape"),
        ],
    )
    def test_what_is_wrong_is_told(self, checkpoint, tmp_path, change, sentence):
        checkpoint.save(tmp_path / "dream")
        path = tmp_path / "dream" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(CheckpointError, match=sentence):
            Checkpoint.load(tmp_path / "dream")

    def test_contexts_beyond_the_bounds_are_not_written(self, checkpoint, tmp_path):
        wrong = replace(checkpoint, contexts=replace(checkpoint.contexts, actions=checkpoint.contexts.actions + 9))
        with pytest.raises(UsageError, match=r"actions that are not from \[-1, 0, -7.5\] to"):
            wrong.save(tmp_path / "dream")


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (PPO, {"n_steps": 8, "batch_size": 16, "n_epochs": 1}),
        (SAC, {"learning_starts": 8, "buffer_size": 64, "batch_size": 8, "train_freq": 4}),
    ],
)
def test_stable_baselines3_learns_in_it(checkpoint, algorithm, settings):
    dream = make_dream(checkpoint, 4, horizon=5, device="cpu", dtype="float32", compile=False)
    assert dream.action_space == SPACE
    features = {"features_extractor_class": LatentCnn, "features_extractor_kwargs": {"features_dim": 8, "width": 4}}
    model = algorithm("MlpPolicy", dream, seed=0, device="cpu", policy_kwargs=features, **settings)
    before = [tensor.clone() for tensor in model.policy.state_dict().values()]
    model.learn(32)
    after = list(model.policy.state_dict().values())
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert SPACE.contains(model.predict(dream.reset())[0][0])
