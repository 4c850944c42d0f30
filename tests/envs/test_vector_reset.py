"""The options of a vector environment's reset: where its lanes begin, which of them, and what is refused."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from jedi_env.errors import UsageError
from tests.envs.lanes import counting, mask_of, places, play, same, same_state, starts_of, tiny
from tests.fakes import K

HISTORY = np.zeros((K + 2, 64, 64, 3), dtype=np.uint8)
HISTORY[..., 0] = 50 + 2 * np.arange(K + 2)[:, None, None]  # places 50, 52, ... 60
HISTORY[..., 1] = 9  # start 9
BETWEEN = np.array([0, 1, 2, 3, 1])


def tiny_state(lanes):
    env = tiny(lanes)
    env.reset(seed=0)
    return env.clone_state()


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
        if "contexts" in options:
            with pytest.raises(UsageError, match="one index a lane"):
                env.reset(options={"reset_mask": mask, "contexts": np.array([True, False, True])})
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
