"""The vector environment under the package's own checker and in Gymnasium's vector wrappers."""

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import (
    ClipReward,
    DictInfoToList,
    GrayscaleObservation,
    NormalizeObservation,
    NumpyToTorch,
    RecordEpisodeStatistics,
)

from jedi_env.envs.check import check_vector_env
from tests.envs.lanes import DISABLED, INFO_KEYS, MODES, NEXT_STEP, SAME_STEP, counting, tiny
from tests.fakes import END


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
