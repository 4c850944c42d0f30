"""The vector environment, step by step: tables by hand, single environments side by side, wrong arguments."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from jedi_env.envs.check import check_vector_env
from jedi_env.envs.single import DreamEnv
from jedi_env.envs.vector import DreamVectorEnv
from jedi_env.errors import UsageError
from tests.envs.lanes import (
    DISABLED,
    INFO_KEYS,
    MODES,
    NEXT_STEP,
    SAME_STEP,
    counting,
    places,
    play,
    same,
    same_state,
    tiny,
)
from tests.fakes import ACTIONS, CPU, END, counting_checkpoint
from tests.tiny_dream import BOX, NUM_ACTIONS, tiny_checkpoint

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

    @pytest.mark.gpu
    def test_vectors_on_the_device_that_are_not_looked_at_are_brought_inside(self):
        env = DreamVectorEnv(2, checkpoint=tiny_checkpoint(actions=BOX), output="torch", device="cuda", compile=False)
        env.reset(seed=0)
        high = torch.from_numpy(env.action_space.high).cuda()
        before = env.clone_state()
        beyond, *_ = env.step(high + 3)
        env.restore_state(env.clone_state())
        env.restore_state(before)
        assert torch.equal(env.step(high)[0], beyond)


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

    def test_a_number_of_numpys_is_a_number(self):
        env = counting(np.int64(2))
        assert type(env.num_envs) is int
        check_vector_env(env)

    @pytest.mark.parametrize("arguments", [{"obs_type": "rgb"}, {"render_mode": "rgb_array"}])
    def test_nothing_to_draw_with(self, arguments):
        with pytest.raises(UsageError, match=r"carries no decoder"):
            counting(world={"drawn": False}, **arguments)

    def test_no_checkpoint(self):
        with pytest.raises(UsageError, match="Which dream"):
            gym.make_vec("JEDIDream-v0", num_envs=2)
        with pytest.raises(UsageError, match="There is no dream of 'Qbert'"):
            gym.make_vec("JEDIDream-Qbert-v0", num_envs=2)
