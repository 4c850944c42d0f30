"""The single environment under Gymnasium's and SB3's own checkers, Gymnasium's wrappers, and a player's hands."""

import copy
import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from fakes import ACTIONS, CPU, END, K, counting_checkpoint
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.play import play
from gymnasium.wrappers import FrameStackObservation, RecordEpisodeStatistics, TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from tiny_dream import PIXEL, tiny_checkpoint

from jedi_env.envs.catch import CatchEnv
from jedi_env.envs.single import DreamEnv
from jedi_env.envs.window import Window
from jedi_env.errors import UsageError
from tests.envs.lanes import same_state


def counting(*, bank=5, horizon=6, protocol=None, world=None, **arguments):
    return DreamEnv(checkpoint=counting_checkpoint(bank, horizon, protocol, **(world or {})), **{**CPU, **arguments})


def tiny(**arguments):
    return DreamEnv(checkpoint=tiny_checkpoint(decoder=True), **{**CPU, **arguments})


def place(observation):
    return int(observation[-3, 0, 0])


class TestSteps:
    def test_an_episode_worked_out_by_hand(self):
        env = counting(bank=1, horizon=3)
        observation, info = env.reset(seed=0)
        assert (observation.shape, observation.dtype, info) == ((3 * K, 1, 1), np.float32, {})
        assert observation[0::3].ravel().tolist() == [0, 1, 2, 3]
        for action, where, *wanted in [(1, 4, 1.0, False, False), (2, 6, -1.0, False, False), (0, 6, 0.0, False, True)]:
            observation, *result, info = env.step(action)
            assert (place(observation), result, info) == (where, wanted, {})
            assert [type(value) for value in result] == [float, bool, bool]
        with pytest.raises(UsageError, match=r"after the end of the episode: call reset\(\) first"):
            env.step(0)
        assert place(env.reset()[0]) == 3
        assert env.step(END)[1:4] == (0.0, True, False)

    def test_predictions_on_request(self):
        env = counting(info_keys=("reward_probs", "termination_prob"), world={"end_chance": 0.25})
        env.reset(seed=0)
        info = env.step(1)[4]
        assert info["reward_probs"].tolist() == [0, 0, 1]
        assert info["termination_prob"] == 0.25
        assert type(info["termination_prob"]) is float

    def test_what_is_returned_is_the_callers_own(self):
        env, clean = counting(), counting()
        env.reset(seed=0)[0].fill(50)
        clean.reset(seed=0)
        for action in (1, 2, 0):
            ours, theirs = env.step(action), clean.step(action)
            assert (ours[0] == theirs[0]).all()
            ours[0].fill(50)

    def test_seeds(self):
        env = counting(bank=50)
        first = [env.reset(seed=seed)[0].tolist() for seed in range(20)]
        assert first == [counting(bank=50).reset(seed=np.int64(seed))[0].tolist() for seed in range(20)]
        assert len({str(observation) for observation in first}) > 10
        env.reset(seed=1)
        going_on = [place(env.reset()[0]) for _ in range(10)]
        assert len(set(going_on)) > 5
        env.reset(seed=1)
        assert [place(env.reset()[0]) for _ in range(10)] == going_on

    def test_an_unnamed_seed_is_told_and_repeats_the_dream(self):
        env, other = counting(bank=50), counting(bank=50)
        first, _ = env.reset()
        assert (other.reset(seed=env.np_random_seed)[0] == first).all()
        same_state(env.clone_state(), other.clone_state())

    @pytest.mark.parametrize("seed", [-1, 1.0, True, [1], "1"])
    def test_a_wrong_seed_changes_nothing(self, seed):
        env = counting()
        env.reset(seed=3)
        before, generator = env.clone_state(), env.np_random.bit_generator.state
        with pytest.raises(UsageError, match=r"seed is .* must be a whole number of at least 0, or None"):
            env.reset(seed=seed)
        same_state(env.clone_state(), before)
        assert env.np_random.bit_generator.state == generator

    def test_start_options(self):
        env = counting()
        assert place(env.reset(seed=0, options={"contexts": 4})[0]) == 43
        assert place(env.reset(options={"contexts": [2]})[0]) == 23
        frames = np.full((K, 64, 64, 3), 77, dtype=np.uint8)
        for lead in ((), (None,)):
            options = {"frames": frames[lead], "actions": np.zeros(K - 1, dtype=np.int64)[lead]}
            assert place(env.reset(options=options)[0]) == 77
        state = env.clone_state()
        env.step(1)
        assert place(env.reset(options={"state": state})[0]) == 77

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"reset_mask": np.array([True])}, r"Unknown reset option 'reset_mask'.*There are: contexts"),
            ({"contexts": 5}, r"each from 0 to 4"),
            ({"contexts": [1, 2]}, r"one index a lane \(1\)"),
            ({"frames": np.zeros((K, 64, 64, 3), np.uint8)}, r"belong together"),
            ({"state": 3}, r"what clone_state\(\) returned, not int"),
        ],
    )
    def test_wrong_options_change_nothing(self, options, sentence):
        env = counting()
        env.reset(seed=0)
        before, generator = env.clone_state(), env.np_random.bit_generator.state
        with pytest.raises(UsageError, match=sentence):
            env.reset(seed=9, options=options)
        same_state(env.clone_state(), before)
        assert env.np_random.bit_generator.state == generator

    @pytest.mark.parametrize("action", [1, np.int64(1), np.array(1), np.array([1]), np.uint8(1), torch.tensor(1)])
    def test_actions_of_any_integer_kind(self, action):
        env = counting(bank=1)
        env.reset(seed=0)
        assert place(env.step(action)[0]) == 4

    @pytest.mark.parametrize(
        ("action", "sentence"),
        [
            (4, r"The action 4 is out of range; give an int from 0 to 3"),
            (-1, r"out of range"),
            (1.0, r"float64"),
            (True, r"bool"),
            ("1", r"<U1"),
            (None, r"object"),
            ([0, 1], r"shape \(2,\)"),
        ],
    )
    def test_other_actions_are_refused(self, action, sentence):
        env = counting()
        env.reset(seed=0)
        before = env.clone_state()
        with pytest.raises(UsageError, match=sentence):
            env.step(action)
        same_state(env.clone_state(), before)


class TestStates:
    @pytest.mark.parametrize("make", [counting, tiny])
    def test_restoring_goes_on_exactly(self, make):
        def go_on(env):
            steps = []
            for _ in range(20):
                steps.append(env.step(0)[:4])
                if steps[-1][2] or steps[-1][3]:
                    steps.append(env.reset()[0])
            return steps

        env = make(horizon=7)
        env.reset(seed=0)
        go_on(env)
        state = env.clone_state()
        first = go_on(env)
        env.restore_state(pickle.loads(pickle.dumps(state)))
        for one, other in zip(first, go_on(env), strict=True):
            assert np.array_equal(one[0], other[0])
            assert one[1:] == other[1:] if isinstance(one, tuple) else (one == other).all()

    def test_a_state_makes_an_environment_of_its_own(self):
        env, fork = counting(), counting()
        env.reset(seed=0)
        env.step(1)
        fork.restore_state(env.clone_state())
        assert (fork.observe() == env.observe()).all()
        fork.step(2)
        assert place(fork.observe()) == place(env.observe()) + 2

    def test_a_deep_copy_is_a_fork_too(self):
        env = counting()
        env.reset(seed=0)
        fork = copy.deepcopy(env)
        before = place(env.observe())
        fork.step(2)
        assert (place(fork.observe()), place(env.observe())) == (before + 2, before)

    def test_of_many_lanes_are_refused(self):
        env = counting()
        env.reset(seed=0)
        with pytest.raises(UsageError, match=r"has 3 lanes, and this environment 1.*state\[i\]"):
            env.restore_state(env.clone_state().repeat(3))

    def test_there_is_none_before_a_reset_or_after_closing(self):
        env = counting(render_mode="rgb_array")
        for call in (env.clone_state, env.observe, lambda: env.step(0), env.render):
            with pytest.raises(UsageError, match=r"before reset\(\): call reset\(\) first"):
                call()
        env.reset(seed=0)
        env.close()
        env.close()
        for call in (env.reset, env.clone_state, env.observe, lambda: env.step(0), env.render):
            with pytest.raises(UsageError, match="closed: make a new one"):
                call()


class TestCheckers:
    @pytest.mark.parametrize("stack", [1, 4])
    @pytest.mark.parametrize("obs_type", ["latent", "rgb"])
    def test_gymnasiums(self, obs_type, stack, tmp_path):
        tiny_checkpoint(decoder=True).save(tmp_path / "dream")
        env = gym.make("JEDIDream-v0", checkpoint=str(tmp_path / "dream"), obs_type=obs_type, frame_stack=stack, **CPU)
        wanted = {
            "latent": gym.spaces.Box(-3, 3, (2 * stack, 4, 4), np.float32),
            "rgb": gym.spaces.Box(0, 255, (64, 64, 3 * stack), np.uint8),
        }
        assert env.observation_space == wanted[obs_type]
        check_env(env.unwrapped)

    # SB3 takes every 3-d box for an image, and says that these are odd ones.
    @pytest.mark.filterwarnings("ignore:Treating image space as channels-last:UserWarning")
    @pytest.mark.filterwarnings("ignore:It seems that your observation:UserWarning")
    @pytest.mark.filterwarnings("ignore:The minimal resolution for an image:UserWarning")
    @pytest.mark.parametrize("stack", [1, 4])
    @pytest.mark.parametrize("obs_type", ["latent", "rgb"])
    def test_stable_baselines(self, obs_type, stack):
        sb3_check_env(tiny(obs_type=obs_type, frame_stack=stack))

    def test_stable_baselines_has_nothing_to_say_about_pictures(self):
        sb3_check_env(tiny(obs_type="rgb"))

    def test_a_pixel_model(self):
        env = DreamEnv(checkpoint=tiny_checkpoint(PIXEL), frame_stack=2, obs_type="rgb", **CPU)
        check_env(env, skip_render_check=True)

    @pytest.mark.parametrize("prefix", ["", "jedi_env:"])
    def test_every_game_has_an_id(self, prefix, tmp_path, monkeypatch):
        monkeypatch.setenv("JEDI_ENV_HOME", str(tmp_path))
        tiny_checkpoint(game="MsPacman").save(tmp_path / "MsPacman")
        env = gym.make(f"{prefix}JEDIDream-MsPacman-v0", **CPU)
        assert env.reset(seed=0)[0].shape == env.observation_space.shape
        assert env.spec.max_episode_steps is None

    def test_gymnasium_tells_who_does_not_reset(self):
        env = gym.make("JEDIDream-v0", checkpoint=counting_checkpoint(), **CPU)
        with pytest.raises(gym.error.ResetNeeded):
            env.step(0)

    def test_the_spec_is_json(self, tmp_path):
        tiny_checkpoint().save(tmp_path / "dream")
        env = gym.make("JEDIDream-v0", checkpoint=str(tmp_path / "dream"), horizon=3, **CPU)
        spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
        assert json.loads(env.spec.to_json())["kwargs"]["horizon"] == 3
        assert (gym.make(spec).reset(seed=1)[0] == env.reset(seed=1)[0]).all()


class TestWrappers:
    def test_time_limit(self):
        env = TimeLimit(counting(horizon=6), 2)
        env.reset(seed=0)
        assert [env.step(0)[3] for _ in range(2)] == [False, True]
        env = gym.make("JEDIDream-v0", checkpoint=counting_checkpoint(), max_episode_steps=3, **CPU)
        env.reset(seed=0)
        assert [env.step(0)[3] for _ in range(3)] == [False, False, True]

    def test_statistics(self):
        env = RecordEpisodeStatistics(counting(horizon=4))
        env.reset(seed=0)
        infos = [env.step(action)[4] for action in (1, 1, 2, 0)]
        assert [("episode" in info) for info in infos] == [False, False, False, True]
        assert (infos[-1]["episode"]["r"], infos[-1]["episode"]["l"]) == (1, 4)

    def test_frame_stack(self):
        env = FrameStackObservation(counting(frame_stack=1, bank=1), 3)
        env.reset(seed=0)
        env.step(1)
        assert env.step(2)[0][:, 0, 0, 0].tolist() == [3, 4, 6]


class TestHands:
    def test_keys_of_a_joystick(self):
        env = counting(protocol={"action_meanings": ["NOOP", "FIRE", "RIGHT", "UPLEFTFIRE"]})
        assert env.get_action_meanings() == ["NOOP", "FIRE", "RIGHT", "UPLEFTFIRE"]
        assert env.get_keys_to_action() == {(" ",): 1, ("d",): 2, ("w", "a", " "): 3}

    @pytest.mark.parametrize(
        "meanings",
        [
            None,  # not told
            ["NOOP", "PUSH", "PULL", "UP"],  # no key says PUSH
            ["NOOP", "UP", "UPWARDS", "DOWN"],  # one key says two things
            ["NOOP", "UP"],  # of another game
        ],
    )
    def test_else_digits(self, meanings):
        env = counting(protocol={"action_meanings": meanings} if meanings else None)
        assert env.get_keys_to_action() == {(str(action),): action for action in range(ACTIONS)}
        if meanings is None or len(meanings) != ACTIONS:
            assert env.get_action_meanings() == ["0", "1", "2", "3"]

    def test_gymnasiums_player_plays_it(self):
        pygame = pytest.importorskip("pygame")
        env = counting(
            render_mode="rgb_array", bank=1, horizon=None, protocol={"action_meanings": ["NOOP", "FIRE", "UP", "LEFT"]}
        )
        seen = []

        def press(obs_before, obs, action, reward, terminated, truncated, info):
            seen.append((action, reward))
            if len(seen) == 1:
                pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE))
            elif len(seen) == 3:
                pygame.event.post(pygame.event.Event(pygame.QUIT))

        play(env, fps=200, callback=press, seed=0)
        assert seen[0] == (0, 0.0)
        assert seen[-1] == (1, 1.0)
        pygame.quit()

    def test_a_window(self):
        pygame = pytest.importorskip("pygame")
        env = counting(render_mode="human", bank=1)
        env.reset(seed=0)
        assert pygame.display.get_surface().get_size() == (256, 256)
        assert tuple(pygame.display.get_surface().get_at((0, 0)))[:3] == (3, 0, 7)
        env.step(2)
        assert env.render() is None
        assert tuple(pygame.display.get_surface().get_at((255, 255)))[:3] == (5, 0, 7)
        env.close()
        env.close()
        assert not pygame.display.get_init()

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_closing_one_window_leaves_the_others_theirs(self, order):
        pygame = pytest.importorskip("pygame")
        envs = [counting(render_mode="human", bank=1), CatchEnv("human")]
        for env in envs:
            env.reset(seed=0)
        first, last = (envs[i] for i in order)
        first.step(0)
        first.close()
        last.step(0)
        assert pygame.display.get_surface().get_size() == (256, 256)
        first.close()
        assert pygame.display.get_init()
        last.close()
        assert not pygame.display.get_init()

    def test_each_picture_has_a_window_of_its_size(self):
        pygame = pytest.importorskip("pygame")
        small, large = Window(1000), Window(1000)
        for window, side in ((small, 64), (large, 128), (small, 64)):
            window.show(np.full((side, 2 * side, 3), side, np.uint8))
            assert pygame.display.get_surface().get_size() == (2 * side, side)
            assert tuple(pygame.display.get_surface().get_at((2 * side - 1, side - 1)))[:3] == (side,) * 3
        small.close()
        large.close()

    def test_pictures(self):
        env = counting(render_mode="rgb_array", bank=1)
        env.reset(seed=0)
        env.step(1)
        picture = env.render()
        assert (picture.shape, picture.dtype) == ((256, 256, 3), np.uint8)
        assert (picture == [4, 0, 7]).all()
        assert counting().render_mode is None

    def test_without_a_render_mode_there_is_none(self):
        env = counting()
        env.reset(seed=0)
        assert env.render() is None

    def test_pygame_is_asked_for(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pygame", None)
        env = counting(render_mode="human")
        with pytest.raises(UsageError, match=r"needs pygame: pip install 'jedi-env\[play\]'"):
            env.reset(seed=0)
        assert not env.face.begun

    def test_nothing_is_dreamed_that_could_not_be_shown(self, monkeypatch):
        env = counting(render_mode="human")
        env.reset(seed=0)
        before = env.clone_state()
        monkeypatch.setitem(__import__("sys").modules, "pygame", None)
        for call in (lambda: env.step(0), lambda: env.reset(seed=1)):
            with pytest.raises(UsageError, match="needs pygame"):
                call()
        same_state(env.clone_state(), before)
