"""A vector environment from its making to its closing: modes, pictures, pickles, worker processes, its spec."""

import pickle
import sys
from copy import deepcopy
from functools import partial

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from jedi_env.envs.vector import DreamVectorEnv
from jedi_env.errors import UsageError
from tests.envs.lanes import INFO_KEYS, MODES, SAME_STEP, counting, play, same, same_state, tiny
from tests.fakes import CPU, counting_checkpoint
from tests.tiny_dream import PIXEL, tiny_checkpoint


class TestLife:
    def test_metadata_is_each_instances_own(self):
        before = deepcopy(VectorEnv.metadata)
        envs = [counting(mode=mode) for mode in MODES]
        assert [env.metadata["autoreset_mode"] for env in envs] == MODES
        assert VectorEnv.metadata == before
        assert envs[0].metadata["render_modes"] == ["rgb_array", "human"]

    def test_same_step_is_the_default_and_modes_may_be_named(self):
        env = DreamVectorEnv(1, checkpoint=counting_checkpoint(), **CPU)
        assert env.metadata["autoreset_mode"] is SAME_STEP
        for mode in MODES:
            assert counting(mode=mode.value).metadata["autoreset_mode"] is mode

    def test_nothing_is_dreamed_that_could_not_be_shown(self, monkeypatch):
        env = counting(3, render_mode="human", bank=1)
        env.reset(seed=0)
        before = env.clone_state()
        monkeypatch.setitem(sys.modules, "pygame", None)
        for call in (lambda: env.step(np.array([0, 1, 2])), lambda: env.reset(seed=1)):
            with pytest.raises(UsageError, match="needs pygame"):
                call()
        same_state(env.clone_state(), before)

    def test_render_is_a_tuple_of_pictures(self):
        env = counting(3, render_mode="rgb_array", bank=1)
        with pytest.raises(UsageError, match=r"render\(\) before reset\(\)"):
            env.render()
        env.reset(seed=0)
        env.step(np.array([0, 1, 2]))
        pictures = env.render()
        assert isinstance(pictures, tuple)
        assert [(picture.shape, picture.dtype) for picture in pictures] == [((256, 256, 3), np.uint8)] * 3
        assert [picture[9, 9].tolist() for picture in pictures] == [[3, 0, 7], [4, 0, 7], [5, 0, 7]]
        quiet = counting(3)
        quiet.reset(seed=0)
        assert quiet.render() is None

    def test_a_window_shows_all_lanes(self):
        pygame = pytest.importorskip("pygame")
        env = counting(3, render_mode="human", bank=1)
        env.reset(seed=0)
        env.step(np.array([0, 1, 2]))
        assert env.render() is None
        screen = pygame.display.get_surface()
        assert screen.get_size() == (512, 512)
        shown = [tuple(screen.get_at(at))[:3] for at in [(9, 9), (300, 9), (9, 300), (300, 300)]]
        assert shown == [(3, 0, 7), (4, 0, 7), (5, 0, 7), (0, 0, 0)]
        env.close()
        env.close()
        assert not pygame.display.get_init()

    def test_closing_twice_is_allowed_and_nothing_goes_on_after_it(self):
        env = counting(2, render_mode="rgb_array")
        env.reset(seed=0)
        state = env.clone_state()
        env.close()
        env.close()
        calls = [
            lambda: env.step(np.zeros(2, dtype=int)),
            env.reset,
            env.clone_state,
            env.observe,
            env.render,
            lambda: env.restore_state(state),
        ]
        for call in calls:
            with pytest.raises(UsageError, match="closed: make a new one"):
                call()

    @pytest.mark.parametrize("library", [pickle, cloudpickle])
    @pytest.mark.parametrize("make", [counting, tiny])
    def test_it_pickles_in_the_middle_of_a_dream(self, library, make):
        env = make(2, info_keys=INFO_KEYS, render_mode="rgb_array")
        env.reset(seed=0)
        play(env, [[1, 2]])
        twin = library.loads(library.dumps(env))
        same(play(env, [[1, 2]] * 9), play(twin, [[1, 2]] * 9))
        assert twin.metadata == env.metadata

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
    def test_a_compiled_one_pickles_too(self):
        env = counting(2, compile=True)  # compiled when it first steps, and this one never does
        env.reset(seed=0)
        state = env.clone_state()
        same_state(pickle.loads(pickle.dumps(env)).clone_state(), state)

    def test_inside_worker_processes(self, tmp_path):
        tiny_checkpoint(horizon=4).save(tmp_path / "dream")
        make = partial(gym.make, "jedi_env:JEDIDream-v0", checkpoint=str(tmp_path / "dream"), **CPU)
        env = AsyncVectorEnv([make] * 2, context="spawn", autoreset_mode=SAME_STEP)
        try:
            native = DreamVectorEnv(2, checkpoint=tmp_path / "dream", **CPU)
            assert env.single_observation_space == native.single_observation_space
            np.testing.assert_allclose(env.reset(seed=3)[0], native.reset(seed=3)[0], atol=1e-5)
            for _ in range(6):
                ours, theirs = native.step(np.array([1, 2])), env.step(np.array([1, 2]))
                np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
                same(ours[2:4], theirs[2:4])
        finally:
            env.close()

    def test_the_spec_makes_it_again(self, tmp_path):
        tiny_checkpoint().save(tmp_path / "dream")
        arguments = {"checkpoint": str(tmp_path / "dream"), "autoreset_mode": "NextStep", "horizon": 3, **CPU}
        env = gym.make_vec("jedi_env:JEDIDream-Breakout-v0", num_envs=2, **arguments)
        for spec in (env.spec, gym.envs.registration.EnvSpec.from_json(env.spec.to_json())):
            spec.kwargs.pop("num_envs", None)
            twin = gym.make_vec(spec, num_envs=2)
            same(twin.reset(seed=1)[0], env.reset(seed=1)[0])
            same(play(twin, [[1, 2]] * 5), play(env, [[1, 2]] * 5))
            assert twin.metadata == env.metadata

    def test_a_pixel_model_shows_its_own_frames(self):
        checkpoint = tiny_checkpoint(PIXEL)
        rgb, latent = (
            DreamVectorEnv(2, checkpoint=checkpoint, obs_type=obs_type, frame_stack=2, **CPU)
            for obs_type in ("rgb", "latent")
        )
        assert latent.single_observation_space == gym.spaces.Box(-1, 1, (6, 64, 64), np.float32)
        pixels, frames = rgb.reset(seed=0)[0], latent.reset(seed=0)[0]
        np.testing.assert_allclose(pixels / 127.5 - 1, frames.transpose(0, 2, 3, 1), atol=1e-5)
