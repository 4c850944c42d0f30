"""What a vector environment remembers: the seeds of its lanes, states kept and restored, memory shared with nobody."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv

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
    mask_of,
    places,
    play,
    same,
    same_state,
    tiny,
)
from tests.fakes import ACTIONS, CPU, END
from tests.tiny_dream import NUM_ACTIONS, tiny_checkpoint


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

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda model: model.actions.fill_(NUM_ACTIONS),  # as of a game with more of them
            lambda model: model.actions.fill_(-1),
            lambda model: model.frames.fill_(3.1),
            lambda model: model.frames.fill_(torch.nan),
        ],
    )
    def test_one_that_no_dream_of_this_model_has_is_refused(self, spoil):
        env = tiny(2)
        env.reset(seed=0)
        before, wrong = env.clone_state(), env.clone_state()
        spoil(wrong.model)
        sentence = r"of another world model: not all of its actions are from 0 to 3, or its frames from -3.0 to 3.0"
        for restore in (env.restore_state, lambda state: env.reset(options={"state": state})):
            with pytest.raises(UsageError, match=sentence):
                restore(wrong)
            same_state(env.clone_state(), before)
        first = mask_of(True, False)
        good_first = before.where(torch.from_numpy(first), wrong)  # what is said of the other lane is not looked at
        env.reset(options={"state": good_first, "reset_mask": first})
        same_state(env.clone_state(), before)

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
