"""Pictures for people: the strip has its rows and columns in place, and shows what was dreamed."""

import numpy as np
import pytest
import torch
from PIL import Image

from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.types import Context, Segment
from tests.tiny_dream import LATENT, PIXEL, tiny_checkpoint
from trainers.pictures import GAP, SCALE, imagine, save_curves, save_strip


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def segment(batch, steps):
    generator = torch.Generator().manual_seed(0)
    return Segment(
        torch.randint(0, 256, (batch, steps + 1, 64, 64, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, 4, (batch, steps), generator=generator),
        torch.zeros(batch, steps),
        torch.zeros(batch, steps, dtype=torch.bool),
        torch.ones(batch, steps, dtype=torch.bool),
    )


@pytest.mark.parametrize("config", [LATENT, PIXEL])
def test_what_is_dreamed_follows_the_real_actions_from_the_real_context(config):
    model = tiny_checkpoint(config, decoder=config is LATENT).world_model
    real = segment(2, 6)
    k = config.context_length
    pixels, decoded, dreamed = imagine(model, real, seed=5)
    assert torch.equal(pixels, real.pixels[:, k - 1 :])
    with torch.no_grad():
        frames = model.encode(real.pixels)
        assert torch.equal(decoded[:, 2], model.decoder.decode(frames[:, k + 1]))
        state = model.begin(Context(frames[:, :k], real.actions[:, : k - 1]))
        key = lane_keys([5, 6])
        for t in range(k - 1, 6):
            state, _ = model.advance(state, real.actions[:, t], LaneNoise(key, torch.full_like(key, t)))
            assert torch.equal(dreamed[:, t - k + 2], model.decoder.decode(state.frames[:, -1]))
    assert torch.equal(dreamed[:, 0], decoded[:, 0])
    assert len(dreamed[0]) == len(pixels[0]) == 6 + 1 - (k - 1)


def test_a_strip_has_three_rows_a_lane_and_a_column_a_step(tmp_path):
    model = tiny_checkpoint(decoder=True).world_model
    real = segment(2, 6)
    save_strip(model, real, tmp_path / "new" / "strip.png")
    image = read(tmp_path / "new" / "strip.png")
    cell = 64 + GAP
    assert image.shape == (6 * cell * SCALE, 4 * cell * SCALE, 3)
    small = image[::SCALE, ::SCALE]
    assert np.array_equal(small.repeat(SCALE, axis=0).repeat(SCALE, axis=1), image)  # no smoothing
    rows = torch.stack(imagine(model, real), dim=1).flatten(0, 1).numpy()
    for row in range(6):
        for column in range(4):
            top, left = row * cell, column * cell
            assert np.array_equal(small[top : top + 64, left : left + 64], rows[row, column])
            assert (small[top + 64 : top + cell, left : left + cell] == 128).all()


def test_curves_are_drawn(tmp_path):
    def drawn(curves):
        save_curves(curves, tmp_path / "curve.png", "steps", "return")
        return read(tmp_path / "curve.png")

    one = drawn({"PPO": [(0, 0.0), (10, 1.0)]})
    two = drawn({"PPO": [(0, 0.0), (10, 1.0)], "A2C": [(0, 1.0), (10, 0.0)]})
    assert one.shape == two.shape == (480, 840, 4)
    assert (one != two).any()
    assert drawn({"PPO": []}).shape == one.shape
