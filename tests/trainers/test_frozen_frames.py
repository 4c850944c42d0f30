"""The frames of a frozen encoder: what encoding says, whenever the replay was read."""

from contextlib import closing

import numpy as np
import pytest
import torch

from jedi_env.models.world_model import WorldModel
from trainers import frozen_frames
from trainers.frozen_frames import FrozenFrames
from trainers.presets import TINY
from trainers.replay import Replay

CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return WorldModel(3, TINY.world_model).eval()


@pytest.fixture
def replay(tmp_path):
    with closing(Replay(tmp_path)) as replay:
        yield replay


def play(replay, steps, seed):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        replay.append(rng.integers(0, 256, (64, 64, 3), np.uint8), int(rng.integers(3)), 0.0, False)


def test_frames_are_what_the_encoder_says(model, replay):
    play(replay, 12, seed=0)
    rows = np.array([[3, 4, 4], [11, 0, 7]])
    expected = model.encode(torch.from_numpy(replay.pixels[rows])).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as fitting calls it
        frames = FrozenFrames(model, replay, CPU).take(rows)
    assert frames.shape == (2, 3, *model.frame_shape)
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames, expected, atol=2e-3, rtol=0)


def test_the_bits_do_not_depend_on_when_the_replay_was_read(model, replay, monkeypatch):
    monkeypatch.setattr(frozen_frames, "_CHUNK", 8)
    often = FrozenFrames(model, replay, CPU)
    for seed, steps in enumerate((5, 8, 1, 9)):
        play(replay, steps, seed)
        often.take(np.array([0]))
    every = np.arange(replay.length)
    assert torch.equal(often.take(every), FrozenFrames(model, replay, CPU).take(every))
