"""Gymnasium's own RecordVideo, unmodified, on dreams: the films are there and show what render() gives."""

import imageio.v3 as iio
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordVideo
from gymnasium.wrappers.vector import RecordVideo as RecordVideos
from tiny_dream import tiny_checkpoint

from jedi_env.envs.single import DreamEnv
from jedi_env.envs.vector import DreamVectorEnv

DREAM = {"device": "cpu", "dtype": "float32", "compile": False, "render_mode": "rgb_array", "horizon": 6}
EVERY = lambda episode: True  # noqa: E731


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # moviepy's
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*Recorded episodes will not contain the last frame:UserWarning")
class TestRecordVideo:
    def test_of_a_single_dream(self, tmp_path):
        env = RecordVideo(
            DreamEnv(checkpoint=tiny_checkpoint(decoder=True), **DREAM),
            str(tmp_path / "films"),
            episode_trigger=EVERY,
            disable_logger=True,
        )
        shown = []
        env.reset(seed=0)
        for _ in range(6):
            *_, terminated, truncated, _ = env.step(0)
            shown.append(env.unwrapped.render())
            if terminated or truncated:
                break
        env.close()
        film = iio.imread(next((tmp_path / "films").glob("*.mp4")), plugin="pyav")
        assert film.shape[1:] == (256, 256, 3)
        assert abs(len(film) - 1 - len(shown)) <= 1  # the frame after the reset, and one a step
        assert np.abs(film[1].astype(int) - shown[0]).mean() < 12  # compressed

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_of_many_dreams(self, mode, tmp_path):
        dreams = DreamVectorEnv(2, checkpoint=tiny_checkpoint(decoder=True), autoreset_mode=mode, **DREAM)
        env = RecordVideos(dreams, str(tmp_path / "films"), step_trigger=lambda step: step == 0, video_length=4)
        env.reset(seed=0)
        for _ in range(5):
            *_, terminated, truncated, _ = env.step(np.array([0, 1]))
            if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
                env.reset(options={"reset_mask": terminated | truncated})
        env.close()
        film = iio.imread(next((tmp_path / "films").glob("*.mp4")), plugin="pyav")
        assert film.shape[1] >= 256
        assert film.shape[2] >= 512  # side by side
