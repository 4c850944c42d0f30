"""Area averaging, against OpenCV's."""

import cv2
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_game import Toy

from jedi_env.envs.pixels import AreaResize, PixelsVectorEnv
from jedi_env.errors import UsageError


@settings(max_examples=20, deadline=None)
@given(height=st.integers(64, 220), width=st.integers(64, 200), seed=st.integers(0, 2**16))
def test_area_averaging_is_opencvs(height, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = AreaResize(Toy(height, width)).observation(image)
    unrounded = cv2.resize(image.astype(np.float64), (64, 64), interpolation=cv2.INTER_AREA)
    assert abs(ours - unrounded).max() <= 0.5 + 1e-3


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), level=st.integers(0, 255))
def test_area_averaging_keeps_a_plain_image(height, width, level):
    env = AreaResize(Toy(height, width))
    assert (env.observation(np.full((height, width, 3), level, np.uint8)) == level).all()


@pytest.mark.parametrize("shape", [(80, 48), (80, 48, 1), (64, 64), (64, 64, 1)])
def test_grey_images_are_shown_alike_in_all_three_channels(shape):
    toy = Toy()
    toy.observation_space = Box(0, 255, shape, np.uint8)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ours = AreaResize(toy).observation(image)
    unrounded = cv2.resize(image.reshape(shape[:2]).astype(np.float64), (64, 64), interpolation=cv2.INTER_AREA)
    assert (ours.shape, ours.dtype) == ((64, 64, 3), np.uint8)
    assert abs(ours - unrounded[..., None]).max() <= 0.5 + 1e-3
    assert not np.shares_memory(ours, image)
    ours[0, 0, 0] ^= 255  # a whole array, not a view of one channel
    assert ours[0, 0, 1] == np.rint(unrounded[0, 0])


@pytest.mark.parametrize("seed", [1.5, True, "3", -1, np.array(1.5), {3: 4}, [1, 2.5], [True, 2], [3, -1], np.ones(2)])
def test_a_wrong_seed_is_refused(seed):
    env = PixelsVectorEnv([Toy(), Toy()], AutoresetMode.SAME_STEP)
    with pytest.raises(UsageError, match=r"The seed is .*, but it must be a whole number|seeds for 2 lanes"):
        env.reset(seed=seed)
    for right in (5, np.int64(5), [5, 6], (5, None), np.array([5, 6]), None):
        env.reset(seed=right)
