"""The vector environment: tables worked out by hand, single environments side by side, and a slow model of it all."""

import pickle
from copy import deepcopy
from dataclasses import replace
from functools import partial

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from fakes import ACTIONS, CPU, END, REWARDS, K, counting_checkpoint
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import (
    ClipReward,
    DictInfoToList,
    GrayscaleObservation,
    NormalizeObservation,
    NumpyToTorch,
    RecordEpisodeStatistics,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_dream import NUM_ACTIONS, PIXEL, tiny_checkpoint

from jedi_env.envs.check import check_vector_env
from jedi_env.envs.single import DreamEnv
from jedi_env.envs.vector import DreamVectorEnv
from jedi_env.errors import UsageError
from jedi_env.noise import LaneNoise, lane_keys

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
MODES = list(AutoresetMode)
INFO_KEYS = ("reward_probs", "termination_prob")


def counting(num_envs=2, *, mode=SAME_STEP, bank=5, horizon=6, world=None, **arguments):
    checkpoint = counting_checkpoint(bank, horizon, **(world or {}))
    return DreamVectorEnv(num_envs, checkpoint=checkpoint, autoreset_mode=mode, **{**CPU, **arguments})


def tiny(num_envs=3, **arguments):
    checkpoint = tiny_checkpoint(horizon=4, decoder=True)
    return DreamVectorEnv(num_envs, **{"checkpoint": checkpoint, **CPU, **arguments})


def places(observations):
    """The place of every lane, in a stack of any height."""
    return [int(lane[-3, 0, 0]) for lane in observations]


def starts_of(observations):
    return [int(lane[-1, 0, 0]) for lane in observations]


def same(a, b):
    """Equal all the way down, to the bit, dtypes included."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        same(a.tolist(), b.tolist())
    elif isinstance(a, np.ndarray | torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert (a == b).all()
    else:
        assert a == b


def same_state(a, b):
    ours, theirs = [], []
    a.map(lambda tensor: ours.append(tensor) or tensor)
    b.map(lambda tensor: theirs.append(tensor) or tensor)
    same(ours, theirs)


def play(env, actions):
    """Step, resetting by hand in mode DISABLED."""
    steps = []
    for step in actions:
        steps.append(env.step(np.array(step)))
        done = steps[-1][2] | steps[-1][3]
        if env.unwrapped.autoreset_mode is DISABLED and done.any():
            env.reset(options={"reset_mask": done})
    return steps


def mask_of(*flags):
    return np.array(flags, dtype=bool)


# Tables worked out by hand: one start (place 3), horizon 3; action 1 pays 1, 2 costs 1, END ends.
# (actions, places afterwards, rewards, terminated, truncated, final places)
TABLES = {
    SAME_STEP: [
        ((1, END), (4, 3), (1, 0), (0, 1), (0, 0), (None, 6)),
        ((1, 2), (5, 5), (1, -1), (0, 0), (0, 0), None),
        ((2, 1), (3, 6), (-1, 1), (0, 0), (1, 0), (7, None)),
        ((0, END), (3, 3), (0, 0), (0, 1), (0, 1), (None, 9)),
        ((1, 1), (4, 4), (1, 1), (0, 0), (0, 0), None),
        ((END, 1), (3, 5), (0, 1), (1, 0), (1, 0), (7, None)),
        ((END, END), (3, 3), (0, 0), (1, 1), (0, 1), (6, 8)),
    ],
    NEXT_STEP: [
        ((1, END), (4, 6), (1, 0), (0, 1), (0, 0), None),
        ((1, 2), (5, 3), (1, 0), (0, 0), (0, 0), None),
        ((2, 1), (7, 4), (-1, 1), (0, 0), (1, 0), None),
        ((END, END), (3, 7), (0, 0), (0, 1), (0, 0), None),
        ((1, 1), (4, 3), (1, 0), (0, 0), (0, 0), None),
        ((END, 1), (7, 4), (0, 1), (1, 0), (0, 0), None),
        ((END, 0), (3, 4), (0, 0), (0, 0), (0, 0), None),
        ((END, END), (6, 7), (0, 0), (1, 1), (0, 1), None),
    ],
    DISABLED: [
        ((1, END), (4, 6), (1, 0), (0, 1), (0, 0), None),
        ((1, 2), (5, 5), (1, -1), (0, 0), (0, 0), None),
        ((2, 1), (7, 6), (-1, 1), (0, 0), (1, 0), None),
        ((0, END), (3, 9), (0, 0), (0, 1), (0, 1), None),
        ((END, END), (6, 6), (0, 0), (1, 1), (0, 0), None),
    ],
}


class TestTables:
    @pytest.mark.parametrize("mode", MODES)
    def test_every_step_is_as_worked_out_by_hand(self, mode):
        env = counting(mode=mode, bank=1, horizon=3)
        observations, info = env.reset(seed=0)
        assert (places(observations), info) == ([3, 3], {})
        for actions, place, reward, terminated, truncated, final in TABLES[mode]:
            observations, rewards, *ends, info = env.step(np.array(actions))
            assert places(observations) == list(place)
            assert (rewards.dtype, rewards.tolist()) == (np.float32, list(reward))
            assert [(end.dtype, end.tolist()) for end in ends] == [
                (np.bool_, list(map(bool, end))) for end in (terminated, truncated)
            ]
            if final is None:
                assert info == {}
            else:
                assert info.keys() == {"final_obs", "_final_obs", "final_info", "_final_info"}
                assert info["final_obs"].dtype == object
                finals = [None if one is None else places([one])[0] for one in info["final_obs"]]
                assert finals == list(final)
                assert info["_final_obs"].tolist() == info["_final_info"].tolist() == [one is not None for one in final]
                assert info["final_info"] == {}
            if mode is DISABLED and (ends[0] | ends[1]).any():
                done = ends[0] | ends[1]
                before = env.clone_state()
                with pytest.raises(UsageError, match=r"have ended.*reset_mask"):
                    env.step(np.zeros(2, dtype=np.int64))
                same_state(env.clone_state(), before)
                options = {"reset_mask": done}
                observations, info = env.reset(options=options)
                assert places(observations) == [3 if end else where for end, where in zip(done, place, strict=True)]
                assert info == {}
                assert list(options) == ["reset_mask"]
                assert options["reset_mask"] is done

    def test_a_real_context_fills_the_stack_newest_last(self):
        env = counting(1, bank=1)
        observations, _ = env.reset(seed=0)
        assert observations[0, 0::3].ravel().tolist() == [0, 1, 2, 3]
        assert env.step(np.array([2]))[0][0, 0::3].ravel().tolist() == [1, 2, 3, 5]

    @pytest.mark.parametrize("stack", [1, 2, 4])
    def test_frame_stack_is_how_many_of_the_last_frames(self, stack):
        whole, part = counting(3), counting(3, frame_stack=stack)
        assert part.single_observation_space.shape == (3 * stack, 1, 1)
        same(part.reset(seed=4)[0], whole.reset(seed=4)[0][:, -3 * stack :])

    def test_rgb_stacks_the_channels_of_one_frame_together(self):
        env = counting(2, obs_type="rgb", frame_stack=2, bank=1)
        observations, _ = env.reset(seed=0)
        assert (observations.shape, observations.dtype) == ((2, 64, 64, 6), np.uint8)
        assert (observations == np.array([2, 0, 7, 3, 0, 7])).all()

    def test_a_model_call_a_step_whatever_the_number_of_lanes(self):
        env = counting(7, sampler_steps=5)
        env.reset(seed=0)
        play(env, [[0] * 7, [END] * 7, [0] * 7])
        assert env.face.model.calls == [(7, 5)] * 3

    @pytest.mark.parametrize("horizon", [None, 200, 2**70])
    def test_the_horizon_may_be_long_or_none(self, horizon):
        env = counting(1, horizon=3, mode=DISABLED)
        assert env.face.horizon == 3  # the checkpoint's
        env = DreamVectorEnv(1, checkpoint=env.face.checkpoint, horizon=horizon, **CPU)
        env.reset(seed=0)
        truncated = [bool(step[3][0]) for step in play(env, [[0]] * 200)]
        assert truncated == [False] * 199 + [horizon == 200]

    def test_a_checkpoint_that_recommends_no_horizon_gets_fifty_steps(self):
        env = counting(1, horizon=None)
        env.reset(seed=0)
        assert [bool(step[3][0]) for step in play(env, [[0]] * 50)] == [False] * 49 + [True]


def duel(vector, singles, steps, compare, num_actions=ACTIONS):
    """Play both side by side with the same actions, resetting by hand in mode DISABLED."""
    mode = vector.metadata["autoreset_mode"]
    assert singles.metadata["autoreset_mode"] is mode
    compare(vector.reset(seed=11)[0], singles.reset(seed=11)[0])
    dice = np.random.default_rng(0)
    ends = 0
    for step in range(steps):
        actions = dice.integers(0, num_actions, vector.num_envs)
        ours, theirs = vector.step(actions), singles.step(actions)
        compare(ours[0], theirs[0])
        same(ours[1].tolist(), theirs[1].tolist())
        same(ours[2:4], theirs[2:4])
        done = ours[2] | ours[3]
        ends += done.sum()
        compare_info(ours[4], theirs[4], vector.num_envs, compare)
        if mode is DISABLED and done.any():
            compare(
                vector.reset(options={"reset_mask": done})[0], singles.reset(options={"reset_mask": done.copy()})[0]
            )
        if step == steps // 2:
            compare(vector.reset()[0], singles.reset()[0])  # the streams go on
    assert ends > 5


def compare_info(ours, theirs, lanes, compare):
    """Equal wherever a mask holds; a key that one of them lacks must be masked everywhere in the other."""
    for key in {*ours, *theirs}:
        if key.startswith("_"):
            nowhere = np.zeros(lanes, dtype=bool)
            same(ours.get(key, nowhere), theirs.get(key, nowhere))
        elif key in ours and key in theirs and isinstance(ours[key], dict):
            compare_info(ours[key], theirs[key], lanes, compare)
        else:
            for lane in np.flatnonzero(ours.get(f"_{key}", False)):
                mine = np.asarray(ours[key][lane])
                compare(mine, np.asarray(theirs[key][lane], dtype=mine.dtype))  # a lone number is a Python float there


class TestBesideSingleEnvironments:
    @pytest.mark.parametrize("obs_type", ["latent", "rgb"])
    @pytest.mark.parametrize("mode", MODES)
    def test_it_equals_them_to_the_bit(self, mode, obs_type):
        arguments = {"obs_type": obs_type, "info_keys": INFO_KEYS, "frame_stack": 2}
        env = counting(4, mode=mode, world={"end_chance": 0.2}, **arguments)
        make = partial(DreamEnv, checkpoint=env.face.checkpoint, **CPU, **arguments)
        duel(env, SyncVectorEnv([make] * 4, autoreset_mode=mode), 60, same)

    @pytest.mark.parametrize("mode", MODES)
    def test_it_equals_them_with_a_real_model(self, mode):
        env = tiny(3, autoreset_mode=mode, info_keys=INFO_KEYS)
        make = partial(DreamEnv, checkpoint=env.face.checkpoint, info_keys=INFO_KEYS, **CPU)

        def close(a, b):
            np.testing.assert_allclose(a, b, atol=1e-4)

        duel(env, SyncVectorEnv([make] * 3, autoreset_mode=mode), 20, close, NUM_ACTIONS)


class TestInfo:
    def test_predictions_are_shown_on_request(self):
        env = counting(4, info_keys=INFO_KEYS, world={"end_chance": 0.25}, mode=DISABLED)
        env.reset(seed=0)
        info = env.step(np.arange(4))[4]
        assert info.keys() == {"reward_probs", "_reward_probs", "termination_prob", "_termination_prob"}
        assert info["reward_probs"].tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]
        assert info["termination_prob"].tolist() == [0.25, 0.25, 0.25, 1]
        assert info["_reward_probs"].tolist() == info["_termination_prob"].tolist() == [True] * 4

    def test_of_an_ended_lane_they_are_in_final_info(self):
        env = counting(3, info_keys=("termination_prob",))
        env.reset(seed=0)
        info = env.step(np.array([1, END, 2]))[4]
        assert info["_termination_prob"].tolist() == [True, False, True]
        final = info["final_info"]
        assert (final["termination_prob"][1], final["_termination_prob"].tolist()) == (1, [False, True, False])

    def test_a_lane_that_begins_anew_has_none(self):
        env = counting(2, info_keys=("termination_prob",), mode=NEXT_STEP)
        env.reset(seed=0)
        env.step(np.array([1, END]))
        assert env.step(np.array([1, 1]))[4]["_termination_prob"].tolist() == [True, False]


HISTORY = np.zeros((K + 2, 64, 64, 3), dtype=np.uint8)
HISTORY[..., 0] = 50 + 2 * np.arange(K + 2)[:, None, None]  # places 50, 52, ... 60
HISTORY[..., 1] = 9  # start 9
BETWEEN = np.array([0, 1, 2, 3, 1])


class TestResetOptions:
    def test_contexts_are_indices_into_the_bank(self):
        env = counting(3)
        observations, _ = env.reset(seed=0, options={"contexts": [4, 0, 2]})
        assert (starts_of(observations), places(observations)) == ([4, 0, 2], [43, 3, 23])
        assert starts_of(env.reset(options={"contexts": 1})[0]) == [1, 1, 1]
        assert starts_of(env.reset(options={"contexts": torch.tensor([2, 2, 3])})[0]) == [2, 2, 3]

    def test_without_contexts_all_of_the_bank_is_drawn(self):
        assert set(starts_of(counting(100).reset(seed=0)[0])) == set(range(5))

    @pytest.mark.parametrize("lead", [False, True])
    @pytest.mark.parametrize("length", [K, K + 2])
    def test_history_is_dreamt_on_from(self, lead, length):
        env = counting(2)
        frames, actions = HISTORY[-length:], BETWEEN[1 - length :]
        if lead:
            frames, actions = np.stack([frames, frames + np.uint8(1)]), np.stack([actions, actions])
        before = frames.copy()
        observations, _ = env.reset(seed=0, options={"frames": frames, "actions": actions})
        assert places(observations) == [60, 61 if lead else 60]
        assert starts_of(observations) == [9, 10 if lead else 9]
        assert observations[0, 0::3].ravel().tolist() == [54, 56, 58, 60]
        assert env.clone_state().model.actions.tolist() == [[2, 3, 1]] * 2
        assert places(env.step(np.array([1, 2]))[0]) == [61, 63 if lead else 62]
        assert (frames == before).all()

    def test_history_is_encoded_by_the_model(self):
        env = tiny(2)
        frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
        observations, _ = env.reset(seed=0, options={"frames": frames, "actions": [0, 1, 2]})
        with torch.no_grad():
            wanted = env.face.model.encode(torch.from_numpy(frames)).flatten(0, 1)
        np.testing.assert_allclose(observations[0], wanted, atol=1e-5)

    def test_state_is_what_it_was(self):
        env = counting(2)
        env.reset(seed=3)
        play(env, [[1, 2], [0, 1]])
        state = env.clone_state()
        later = play(env, [[1, 1], [2, 2]])
        observations, _ = env.reset(options={"state": state})
        same(play(env, [[1, 1], [2, 2]]), later)
        assert places(observations) == places(state.model.frames[:, -1])

    def test_a_seed_parts_the_forks_of_one_state(self):
        env = tiny(4)
        env.reset(seed=3)
        fork = env.clone_state()[1].repeat(4)
        together, _ = env.reset(options={"state": fork})
        after = env.step([0, 0, 0, 0])[0]
        parted, _ = env.reset(seed=[5, 6, 7, 5], options={"state": fork})
        np.testing.assert_array_equal(together, parted)
        apart = env.step([0, 0, 0, 0])[0]
        assert np.abs(after - after[0]).max() == pytest.approx(0, abs=1e-5)
        assert np.abs(apart[0] - apart[3]).max() == pytest.approx(0, abs=1e-5)
        assert np.abs(apart[0] - apart[1]).max() > 1e-3

    @pytest.mark.parametrize(
        ("options", "there"),
        [
            ({"contexts": [4, 4, 4]}, 43),
            ({"frames": HISTORY, "actions": BETWEEN}, 60),
            ({}, None),
        ],
    )
    def test_a_mask_leaves_the_other_lanes_alone(self, options, there):
        env, alone = counting(3), counting(3)
        for one in (env, alone):
            one.reset(seed=1)
            play(one, [[1, 2, 1]])
        mask = mask_of(False, True, False)
        before = deepcopy(options)
        given = {"reset_mask": mask, **options}
        observations, _ = env.reset(options=given)
        assert mask.tolist() == [False, True, False]
        assert given.keys() == {"reset_mask", *options}
        same({key: given[key] for key in options}, before)
        if there is not None:
            assert places(observations)[1] == there
        theirs = alone.clone_state()
        same_state(env.clone_state()[::2], theirs[::2])
        assert env.clone_state().age.tolist() == [1, 0, 1]
        ours, others = play(env, [[1, 1, 2]] * 3), play(alone, [[1, 1, 2]] * 3)
        for one, other in zip(ours, others, strict=True):
            same([part[::2] for part in one[:4]], [part[::2] for part in other[:4]])

    @pytest.mark.parametrize(
        ("options", "there"),
        [
            ({"contexts": [-1, 4, 99]}, 43),
            ({"frames": HISTORY, "actions": np.stack([BETWEEN - 9, BETWEEN, BETWEEN + 9])}, 60),
        ],
    )
    def test_what_a_mask_leaves_out_is_not_checked(self, options, there):
        env, alone = counting(3), counting(3)
        for one in (env, alone):
            one.reset(seed=1)
            play(one, [[1, 2, 1]])
        before = deepcopy(options)
        observations, _ = env.reset(options={"reset_mask": mask_of(False, True, False), **options})
        assert places(observations)[1] == there
        same(options, before)
        same_state(env.clone_state()[::2], alone.clone_state()[::2])
        for mask in (mask_of(True, True, False), mask_of(True, True, True)):
            with pytest.raises(UsageError, match="each from 0 to"):
                env.reset(options={"reset_mask": mask, **options})
        shape = {"contexts": [4, 4]} if "contexts" in options else {"frames": HISTORY, "actions": BETWEEN[:-1]}
        with pytest.raises(UsageError, match=r"one index a lane|give the 5 actions"):
            env.reset(options={"reset_mask": mask_of(False, True, False), **shape})

    def test_a_masked_state_goes_to_its_lanes_only(self):
        env = counting(2)
        env.reset(seed=0, options={"contexts": [0, 1]})
        state = env.clone_state()
        play(env, [[1, 1], [1, 1]])
        observations, _ = env.reset(options={"state": state, "reset_mask": mask_of(True, False)})
        assert places(observations) == [3, 15]
        assert env.clone_state().age.tolist() == [0, 2]

    def test_a_masked_seed_reseeds_its_lanes_only(self):
        env, other = counting(3), counting(3)
        env.reset(seed=0)
        other.reset(seed=[7, 8, 9])
        before = env.clone_state()
        env.reset(seed=[7, 8, 9], options={"reset_mask": mask_of(True, False, True)})
        after = env.clone_state()
        same_state(after[1], before[1])
        same_state(after[::2], other.clone_state()[::2])

    def test_none_means_not_given(self):
        env = counting(2)
        options = dict.fromkeys(("reset_mask", "contexts", "frames", "actions", "state"))
        same(env.reset(seed=1, options=options)[0], counting(2).reset(seed=1)[0])

    WRONG = [  # noqa: RUF012
        ({"context": [0, 0]}, r"Unknown reset option 'context'.*Did you mean 'contexts'"),
        ([1], r"options is a list: write a dict"),
        ({"contexts": [0, 5]}, r"one index a lane \(2\), each from 0 to 4"),
        ({"contexts": [0, -1]}, r"each from 0 to 4"),
        ({"contexts": [0.0, 1.0]}, r"one index a lane"),
        ({"contexts": [0]}, r"one index a lane"),
        ({"contexts": [[0], [0, 1]]}, r"contexts.*cannot be made an array"),
        ({"contexts": [0, 1], "frames": HISTORY, "actions": BETWEEN}, r"several places to start from"),
        ({"frames": HISTORY}, r"belong together"),
        ({"actions": BETWEEN}, r"belong together"),
        ({"frames": HISTORY.astype(float), "actions": BETWEEN}, r"float64.*give uint8"),
        ({"frames": HISTORY[0], "actions": BETWEEN}, r"\(64, 64, 3\); give uint8 \(K, 64, 64, 3\)"),
        ({"frames": HISTORY[:, :32], "actions": BETWEEN}, r"give uint8 \(K, 64, 64, 3\)"),
        ({"frames": HISTORY[: K - 1], "actions": BETWEEN[: K - 2]}, r"with K at least 4"),
        ({"frames": np.stack([HISTORY] * 3), "actions": BETWEEN}, r"or \(2, K, 64, 64, 3\)"),
        ({"frames": HISTORY, "actions": BETWEEN[:-1]}, r"give the 5 actions between the frames"),
        ({"frames": HISTORY, "actions": BETWEEN + 2}, r"each from 0 to 3"),
        ({"frames": HISTORY, "actions": BETWEEN * 1.0}, r"float64.*give the 5 actions"),
        ({"reset_mask": [True, False]}, r"give a bool array of shape \(2,\)"),
        ({"reset_mask": np.array([1, 0])}, r"give a bool array"),
        ({"reset_mask": mask_of(True)}, r"give a bool array"),
        ({"reset_mask": mask_of(False, False)}, r"names no lane"),
        ({"state": {"age": 3}}, r"what clone_state\(\) returned, not dict"),
    ]

    @pytest.mark.parametrize(("options", "sentence"), WRONG)
    def test_what_is_wrong_has_a_sentence_of_its_own_and_changes_nothing(self, options, sentence):
        env = counting(2)
        env.reset(seed=0)
        play(env, [[1, 2]])
        before = env.clone_state()
        with pytest.raises(UsageError, match=sentence):
            env.reset(seed=5, options=options)
        same_state(env.clone_state(), before)
        assert env.np_random_seed == 0

    def test_a_state_that_does_not_fit_is_refused(self):
        env = counting(2)
        env.reset(seed=0)
        state = env.clone_state()
        with pytest.raises(UsageError, match=r"has 1 lanes, and this environment 2.*repeat"):
            env.reset(options={"state": state[0]})
        with pytest.raises(UsageError, match=r"of another world model"):
            env.restore_state(tiny_state(2))
        with pytest.raises(UsageError, match=r"of another world model"):  # only the memory differs
            env.restore_state(replace(state, model=replace(state.model, hidden=torch.zeros(2, 9))))
        with pytest.raises(UsageError, match=r"lanes"):
            env.restore_state(replace(state, age=state.age[:1]))
        same_state(env.clone_state(), state)

    def test_the_first_reset_is_of_every_lane(self):
        env = counting(2)
        with pytest.raises(UsageError, match="first reset must be of every lane"):
            env.reset(seed=0, options={"reset_mask": mask_of(True, False)})
        assert not env.face.begun
        env.reset(seed=0, options={"reset_mask": mask_of(True, True)})


def tiny_state(lanes):
    env = tiny(lanes)
    env.reset(seed=0)
    return env.clone_state()


class TestSeeds:
    @pytest.mark.parametrize("seeds", [[5, 6, 7], np.array([5, 6, 7]), (5, 6, 7), np.array([5, 6, 7], dtype=np.uint8)])
    def test_an_int_is_one_more_a_lane(self, seeds):
        env, other = counting(3), counting(3)
        same(env.reset(seed=5)[0], other.reset(seed=seeds)[0])
        same_state(env.clone_state(), other.clone_state())
        same(play(env, [[1, 2, 0]] * 8), play(other, [[1, 2, 0]] * 8))
        assert env.np_random_seed == 5

    def test_np_random_is_gymnasiums(self):
        env, base = counting(3), VectorEnv()
        base.reset(seed=5)
        env.reset(seed=5)
        env.reset(seed=7, options={"reset_mask": mask_of(True, False, True)})  # some lanes' noise, not all of it
        wanted = base.np_random.random()
        assert (env.np_random.random(), env.np_random_seed) == (wanted, 5)
        env.reset(seed=[5, 0, 0])
        assert (env.np_random.random(), env.np_random_seed) == (wanted, 5)

    def test_an_unnamed_seed_is_told_and_repeats_the_dream(self):
        env, other = counting(3), counting(3)
        first, _ = env.reset()
        assert env.np_random_seed > 2**32
        same(other.reset(seed=env.np_random_seed)[0], first)
        same(play(other, [[1, 2, 0]] * 8), play(env, [[1, 2, 0]] * 8))

    def test_a_generator_of_the_callers_is_drawn_from(self):
        env, other, another = counting(3), counting(3), counting(3)
        for one, seed in ((env, 1), (other, 1), (another, 2)):
            one.np_random = np.random.default_rng(seed)
            one.reset()
        same_state(env.clone_state(), other.clone_state())
        assert not set(env.clone_state().key.tolist()) & set(another.clone_state().key.tolist())

    def test_equal_seeds_dream_equal_dreams_and_others_do_not(self):
        env = counting(4)
        env.reset(seed=[3, 3, 4, 3])
        luck = np.array([step[0][:, -2, 0, 0] for step in play(env, [[1] * 4] * 4)])
        assert (luck[:, 0] == luck[:, 1]).all()
        assert (luck[:, 0] == luck[:, 3]).all()
        assert (luck[:, 0] != luck[:, 2]).all()

    def test_without_a_seed_they_differ(self):
        lucks = set()
        for env in (counting(3), counting(3)):
            env.reset()
            lucks |= set(env.step(np.zeros(3, dtype=np.int64))[0][:, -2, 0, 0].tolist())
        assert len(lucks) == 6

    def test_without_a_seed_the_streams_go_on(self):
        env, other = counting(2), counting(2)
        for one in (env, other):
            one.reset(seed=0)
            one.step(np.array([1, 1]))
        first = env.clone_state()
        same(env.reset()[0], other.reset()[0])
        assert (env.clone_state().key == first.key).all()
        assert (env.clone_state().count == first.count + 1).all()

    @pytest.mark.parametrize(
        "seed", [-1, True, 1.5, "3", [1, 2], [1, 2, -3], [1.5, 2.5, 3.5], [1, 2, None], [[1, 2, 3]], np.ones(3)]
    )
    def test_a_wrong_seed_is_refused(self, seed):
        env = counting(3)
        env.reset(seed=0)
        before = env.clone_state()
        with pytest.raises(UsageError, match=r"seed.*give a whole number of at least 0, or 3 of them, or None"):
            env.reset(seed=seed)
        same_state(env.clone_state(), before)

    @pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP])
    def test_what_other_lanes_do_never_changes_yours(self, mode):
        env = counting(3, mode=mode, world={"end_chance": 0.2})
        alone = DreamVectorEnv(1, checkpoint=env.face.checkpoint, autoreset_mode=mode, **CPU)
        env.reset(seed=[8, 1, 2])
        alone.reset(seed=8)
        dice = np.random.default_rng(1)
        for step in range(40):
            actions = dice.integers(0, ACTIONS, 3)
            if step % 7 == 3:
                env.reset(seed=step, options={"reset_mask": mask_of(False, True, step % 2 == 0)})
            ours, theirs = env.step(actions), alone.step(actions[:1])
            same([part[:1] for part in ours[:4]], list(theirs[:4]))


class TestStates:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("make", [counting, tiny])
    def test_restoring_goes_on_exactly(self, make, mode):
        arguments = {"autoreset_mode": mode} if make is tiny else {"mode": mode}
        env = make(3, horizon=5, **arguments)
        env.reset(seed=2)
        play(env, [[0, 1, 2]] * 3)
        state = env.clone_state()
        travelled = pickle.loads(pickle.dumps(state))
        first = play(env, [[1, 1, 0], [2, 0, 1]] * 3)
        env.restore_state(state)
        same(play(env, [[1, 1, 0], [2, 0, 1]] * 3), first)
        same_state(state, travelled)
        other = DreamVectorEnv(
            3, checkpoint=env.face.checkpoint, autoreset_mode=mode, horizon=env.face.horizon, **CPU
        )  # never reset
        other.restore_state(travelled)
        same(play(other, [[1, 1, 0], [2, 0, 1]] * 3), first)

    def test_an_ended_lane_goes_on_only_where_it_will_begin_anew(self):
        ended = counting(2, mode=DISABLED)
        ended.reset(seed=0)
        ended.step(np.array([1, END]))
        state = ended.clone_state()
        env = counting(2)
        env.reset(seed=0)
        before = env.clone_state()
        sentence = r"Lanes \[1\] of the state have ended, and in mode SAME_STEP"
        for restore in (env.restore_state, lambda state: env.reset(options={"state": state})):
            with pytest.raises(UsageError, match=sentence):
                restore(state)
            same_state(env.clone_state(), before)
        env.reset(options={"state": state, "reset_mask": mask_of(True, False)})
        same_state(env.clone_state()[0], state[0])
        next_step = counting(2, mode=NEXT_STEP)
        next_step.restore_state(state)
        next_step.step(np.array([1, 1]))
        assert next_step.clone_state().age.tolist() == [2, 0]
        again = counting(2, mode=DISABLED)
        again.restore_state(state)
        with pytest.raises(UsageError, match=r"Lanes \[1\] have ended"):
            again.step(np.array([1, 1]))

    def test_observe_after_restoring(self):
        env = counting(2)
        observations, _ = env.reset(seed=0)
        state = env.clone_state()
        play(env, [[1, 2]])
        env.restore_state(state)
        same(env.observe(), observations)

    def test_forks_never_touch_the_parent(self):
        parent = counting(2)
        parent.reset(seed=0)
        play(parent, [[1, 2]])
        state = parent.clone_state()
        forks = DreamVectorEnv(4, checkpoint=parent.face.checkpoint, **CPU)
        forks.restore_state(state[0].repeat(4))
        frames = places(forks.observe())
        assert frames == [places(parent.observe())[0]] * 4
        moved = forks.step(np.arange(4))[0]
        assert places(moved)[:3] == [frames[0], frames[0] + 1, frames[0] + 2]
        assert len(set(moved[:3, -2, 0, 0].tolist())) == 1  # one stream of noise, so the same luck
        same_state(parent.clone_state(), state)
        state.model.frames.zero_()  # the state is the caller's own
        assert places(parent.observe())[0] == frames[0]

    def test_a_restored_state_stays_the_callers(self):
        env = counting(2)
        env.reset(seed=0)
        state = env.clone_state()
        env.restore_state(state)
        state.model.frames.zero_()
        assert places(env.observe()) != [0, 0]

    def test_there_is_none_before_a_reset(self):
        env = counting(2)
        for call in (env.clone_state, env.observe, lambda: env.step(np.zeros(2, dtype=int))):
            with pytest.raises(UsageError, match=r"before reset\(\): call reset\(\) first"):
                call()


class TestActions:
    @pytest.mark.parametrize(
        "actions",
        [
            [0, 1],
            (0, 1),
            np.array([0, 1], dtype=np.uint8),
            torch.tensor([0, 1]),
            torch.tensor([0, 1]).int(),
        ],
    )
    def test_integers_of_any_kind(self, actions):
        env = counting(2)
        env.reset(seed=0, options={"contexts": [0, 0]})
        assert places(env.step(actions)[0]) == [3, 4]

    @pytest.mark.parametrize(
        ("actions", "sentence"),
        [
            ([0, 4], r"The action \[0, 4\] is out of range; give one int a lane, shape \(2,\), from 0 to 3"),
            ([-1, 0], r"out of range"),
            ([0], r"of shape \(1,\); give one int a lane"),
            (0, r"of shape \(\)"),
            ([0.0, 1.0], r"float64"),
            ([True, False], r"bool"),
            ([[0], [1, 2]], r"cannot be made an array"),
            (torch.tensor([0.0, 1.0]), r"torch.float32"),
            (torch.tensor([[0, 1]]), r"shape \(1, 2\)"),
            (torch.tensor([0, 9]), r"out of range"),
        ],
    )
    def test_others_are_refused_and_nothing_moves(self, actions, sentence):
        env = counting(2)
        env.reset(seed=0)
        before = env.clone_state()
        with pytest.raises(UsageError, match=sentence):
            env.step(actions)
        same_state(env.clone_state(), before)

    @pytest.mark.gpu
    def test_tensors_on_the_device_are_looked_at_unless_all_is_tensors(self):
        arguments = {"checkpoint": tiny_checkpoint(), "device": "cuda", "dtype": "float32", "compile": False}
        for output in ("numpy", "torch"):
            env = DreamVectorEnv(2, output=output, **arguments)
            env.reset(seed=0)
            env.step(torch.tensor([0, NUM_ACTIONS - 1], device="cuda"))
            with pytest.raises(UsageError, match=r"of shape \(1,\)"):
                env.step(torch.tensor([0], device="cuda"))
            if output == "numpy":
                with pytest.raises(UsageError, match="out of range"):
                    env.step(torch.tensor([0, NUM_ACTIONS], device="cuda"))


class TestTorch:
    @pytest.mark.parametrize("mode", MODES)
    def test_tensors_with_the_same_numbers(self, mode):
        numpy, torch_ = (
            counting(3, mode=mode, output=output, info_keys=INFO_KEYS, world={"end_chance": 0.2})
            for output in ("numpy", "torch")
        )
        observations, _ = torch_.reset(seed=0)
        same(observations.numpy(), numpy.reset(seed=0)[0])
        dice = np.random.default_rng(3)
        ended = 0
        for _ in range(30):
            actions = dice.integers(0, ACTIONS, 3)
            ours, theirs = torch_.step(torch.from_numpy(actions)), numpy.step(actions)
            assert all(isinstance(part, torch.Tensor) for part in ours[:4])
            same([part.numpy() for part in ours[:4]], list(theirs[:4]))
            done = theirs[2] | theirs[3]
            ended += done.sum()
            for key in INFO_KEYS:
                same(ours[4][key].numpy(), theirs[4][key])
                same(ours[4][f"_{key}"].numpy(), theirs[4][f"_{key}"])
            if mode is SAME_STEP:
                assert (ours[4]["_final_obs"].numpy() == done).all()
                assert (ours[4]["_final_info"].numpy() == done).all()
                for lane in np.flatnonzero(done):
                    same(ours[4]["final_obs"][lane].numpy(), theirs[4]["final_obs"][lane])
                    for key in INFO_KEYS:
                        last = ours[4]["final_info"][key][lane].tolist()
                        assert last == theirs[4]["final_info"][key][lane].tolist()
                        assert ours[4]["final_info"][f"_{key}"][lane]
            elif mode is DISABLED and done.any():
                mask = ours[2] | ours[3]  # a mask may be a tensor too
                same(
                    torch_.reset(options={"reset_mask": mask})[0].numpy(),
                    numpy.reset(options={"reset_mask": done})[0],
                )
        assert ended > 3

    def test_no_copies(self):
        env = counting(2, output="torch")
        env.reset(seed=0)
        observations = env.step(torch.tensor([1, 1]))[0]
        assert observations.data_ptr() == env.face.dream.state.model.frames.data_ptr()

    def test_what_was_returned_never_changes(self):
        env = counting(2, output="torch")
        kept = [env.reset(seed=0)[0]]
        copies = [kept[0].clone()]
        for _ in range(10):
            kept.append(env.step(torch.tensor([1, 2]))[0])
            copies.append(kept[-1].clone())
        same(kept, copies)


class TestMemory:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("obs_type", ["latent", "rgb"])
    def test_writing_to_what_was_returned_changes_no_dream(self, mode, obs_type):
        arguments = {"mode": mode, "obs_type": obs_type, "info_keys": INFO_KEYS}
        env, clean = (counting(2, horizon=50 if mode is DISABLED else 3, **arguments) for _ in range(2))
        env.reset(seed=0)[0].fill(77)
        clean.reset(seed=0)
        for _ in range(8):
            ours, theirs = env.step(np.array([1, 2])), clean.step(np.array([1, 2]))
            same(ours, theirs)
            shown = [value for key, value in ours[4].items() if key not in ("final_obs", "final_info")]
            for part in (*ours[:4], *shown):
                part.fill(1)
            for last in ours[4].get("final_obs", []):
                if last is not None:
                    last.fill(77)

    def test_one_set_of_weights_for_many_environments(self, tmp_path):
        tiny_checkpoint().save(tmp_path / "dream")
        envs = [
            DreamVectorEnv(2, checkpoint=tmp_path / "dream", **CPU),
            DreamVectorEnv(3, checkpoint=str(tmp_path / "dream"), **CPU),
            DreamEnv(checkpoint=tmp_path / "dream", **CPU),
            gym.make("JEDIDream-v0", checkpoint=str(tmp_path / "dream"), **CPU).unwrapped,
        ]
        assert len({id(env.face.model) for env in envs}) == 1
        checkpoint = tiny_checkpoint()
        made = gym.make_vec("JEDIDream-v0", num_envs=2, checkpoint=checkpoint, **CPU)
        assert made.unwrapped.face.model is checkpoint.world_model


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


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ({"num_envs": 0}, "num_envs is 0: write a whole number of at least 1"),
            ({"num_envs": 2.0}, "num_envs is 2.0"),
            ({"autoreset_mode": "samestep"}, r"autoreset_mode is 'samestep'. Did you mean 'SameStep'"),
            ({"autoreset_mode": None}, r"autoreset_mode is None"),
            ({"output": "Torch"}, r"output is 'Torch'. Did you mean 'torch'"),
            ({"obs_type": "pixels"}, r"obs_type is 'pixels'.*Write 'latent' or 'rgb'"),
            ({"info_keys": ("reward_prob",)}, r"Unknown info key 'reward_prob'. Did you mean 'reward_probs'"),
            ({"info_keys": "reward_probs"}, r"info_keys is 'reward_probs': write a tuple"),
            ({"info_keys": None}, r"info_keys is None: write a tuple of names, such as \('reward_probs',\)"),
            ({"horizon": 0}, r"horizon is 0: write a whole number of at least 1, or None for no limit"),
            ({"horizon": "long"}, r"horizon is 'long'"),
            ({"horizon": True}, r"horizon is True"),
            ({"horizon": np.array([3, 4])}, r"horizon is array"),
            ({"sampler_steps": 0}, r"sampler_steps is 0"),
            ({"frame_stack": 0}, r"frame_stack is 0"),
            ({"frame_stack": 5}, r"frame_stack is 5.*remembers 4 frames: write a number from 1 to 4"),
            ({"device": "cuda:77"}, r"The device 'cuda:77' is not there"),
            ({"dtype": "float8"}, r"dtype is 'float8'"),
            ({"compile": "yes"}, r"compile is 'yes'"),
            ({"render_mode": "ansi"}, r"render_mode is 'ansi'"),
        ],
    )
    def test_each_has_its_sentence(self, arguments, sentence):
        with pytest.raises(UsageError, match=sentence):
            DreamVectorEnv(**{"num_envs": 2, "checkpoint": counting_checkpoint(), **CPU, **arguments})

    @pytest.mark.parametrize("arguments", [{"obs_type": "rgb"}, {"render_mode": "rgb_array"}])
    def test_nothing_to_draw_with(self, arguments):
        with pytest.raises(UsageError, match=r"carries no decoder"):
            counting(world={"drawn": False}, **arguments)

    def test_no_checkpoint(self):
        with pytest.raises(UsageError, match="Which dream"):
            gym.make_vec("JEDIDream-v0", num_envs=2)
        with pytest.raises(UsageError, match="There is no dream of 'Qbert'"):
            gym.make_vec("JEDIDream-Qbert-v0", num_envs=2)


class TestGymnasiumsWrappers:
    @pytest.mark.parametrize("obs_type", ["latent", "rgb"])
    @pytest.mark.parametrize("mode", MODES)
    def test_the_checker_is_content(self, mode, obs_type):
        env = tiny(3, autoreset_mode=mode, obs_type=obs_type, info_keys=INFO_KEYS)
        report = check_vector_env(env, steps=30)
        assert report.notes == ()
        assert report.seeding
        assert report.lane_seeds
        assert report.autoreset
        assert report.partial_reset
        assert env.closed

    @pytest.mark.parametrize("mode", MODES)
    def test_statistics_count_every_episode(self, mode):
        env = RecordEpisodeStatistics(counting(2, mode=mode, bank=1, horizon=4))
        env.reset(seed=0)
        seen = []
        for actions in [(1, END), (1, 1), (1, 2), (0, 1), (1, 0), (1, 1), (2, 1), (0, 0)]:
            *_, terminated, truncated, info = env.step(np.array(actions))
            done = terminated | truncated
            if done.any():
                episode = info["episode"] if "episode" in info else info["final_info"]["episode"]
                seen += [(lane, float(episode["r"][lane]), int(episode["l"][lane])) for lane in np.flatnonzero(done)]
                if mode is DISABLED:
                    env.reset(options={"reset_mask": done})
        wanted = {
            SAME_STEP: [(1, 0, 1), (0, 3, 4), (1, 1, 4), (0, 1, 4)],
            NEXT_STEP: [(1, 0, 1), (0, 3, 4), (1, 1, 4)],  # an action is spent on every reset
            DISABLED: [(1, 0, 1), (0, 3, 4), (1, 1, 4), (0, 1, 4)],
        }[mode]
        assert seen == wanted

    def test_observations_are_normalised_where_the_mode_allows(self):
        env = NormalizeObservation(tiny(3, autoreset_mode=NEXT_STEP, horizon=None))
        env.reset(seed=0)
        observations = np.concatenate([env.step(np.array([0, 1, 2]))[0] for _ in range(60)])
        assert abs(float(observations[60:].mean())) < 0.5
        for mode in (SAME_STEP, DISABLED):
            with pytest.raises(ValueError, match="autoreset"):
                NormalizeObservation(tiny(3, autoreset_mode=mode))

    @pytest.mark.parametrize("mode", [NEXT_STEP, DISABLED])
    def test_observations_become_grey(self, mode):
        env = GrayscaleObservation(counting(2, mode=mode, obs_type="rgb", frame_stack=1, bank=1))
        observations, _ = env.reset(seed=0)
        assert (observations.shape, observations.dtype) == ((2, 64, 64), np.uint8)
        assert (observations == int(3 * 0.2125 + 7 * 0.0721)).all()

    def test_info_becomes_a_list(self):
        env = DictInfoToList(counting(2, info_keys=("termination_prob",)))
        env.reset(seed=0)
        first, second = env.step(np.array([1, END]))[4]
        assert first == {"termination_prob": 0}
        assert second.keys() == {"final_obs", "final_info"}
        assert second["final_info"] == {"termination_prob": 1}

    @pytest.mark.parametrize("mode", MODES)
    def test_rewards_are_clipped_and_tensors_given(self, mode):
        env = NumpyToTorch(ClipReward(counting(2, mode=mode, bank=1), -0.5, 0.5), device="cpu")
        env.reset(seed=0)
        assert env.step(torch.tensor([1, 2]))[1].tolist() == [0.5, -0.5]


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("mode", MODES)
def test_compiled_it_dreams_nearly_the_same(mode):
    plain = tiny(2, autoreset_mode=mode, horizon=20)
    compiled = DreamVectorEnv(
        2, checkpoint=plain.face.checkpoint, autoreset_mode=mode, horizon=20, **{**CPU, "compile": True}
    )
    np.testing.assert_allclose(compiled.reset(seed=0)[0], plain.reset(seed=0)[0], atol=1e-6)
    compared = 0
    for step in range(6):
        actions = np.array([step % NUM_ACTIONS, 1])
        state = plain.clone_state()
        compiled.restore_state(state)
        if mode is DISABLED and bool(state.done.any()):
            plain.reset(options={"reset_mask": state.done.numpy()})
            continue
        ours, theirs = compiled.step(actions), plain.step(actions)
        compared += 1
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-3)
        same(ours[1:4], theirs[1:4])
    assert compared > 2
