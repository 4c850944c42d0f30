"""The two encoders: pixels read the right way round, statistics and the clamp."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jedi_env.errors import UsageError
from jedi_env.models.encoder import (
    LatentEncoder,
    LatentEncoderConfig,
    PixelEncoder,
    PixelEncoderConfig,
    make_encoder,
)

SMALL = LatentEncoderConfig(channels=(8, 4), down=(True, False), patch=8)
FLOATS = st.floats(-20, 20, width=32)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks are initialised from torch's own stream."""
    torch.manual_seed(0)


def pictures(n: int, seed: int = 0) -> Tensor:
    """Noise is no picture: a few blocks of colour each, so that latents differ."""
    g = torch.Generator().manual_seed(seed)
    blocks = torch.randint(256, (n, 8, 8, 3), generator=g, dtype=torch.uint8)
    return blocks.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)


def unbound(frames: Tensor, bound: float = 3.0) -> Tensor:
    return bound * torch.atanh(frames / bound)


def test_the_paper_s_encoder():
    encoder = LatentEncoder(LatentEncoderConfig())
    assert encoder.frame_shape == (16, 8, 8)
    assert sum(p.numel() for p in encoder.parameters()) == 34_048
    assert encoder(pictures(2)).shape == (2, 16, 8, 8)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from([4, 8, 32]), st.booleans()), min_size=1, max_size=3),
    st.sampled_from([1, 4, 8]),
    st.booleans(),
)
def test_the_frame_has_the_shape_that_is_announced(stages, patch, lossless):
    channels, down = zip(*stages, strict=True)
    if lossless:
        down = (*down[:-1], False)
    encoder = LatentEncoder(LatentEncoderConfig(channels, down, patch=patch, lossless_pool=lossless))
    frames = encoder(pictures(2))
    assert frames.shape == (2, *encoder.frame_shape)
    assert frames.dtype == torch.float32


@pytest.mark.parametrize("lossless", [False, True])
def test_one_pixel_of_light_moves_the_latent_in_its_place(lossless):
    config = LatentEncoderConfig(channels=(8, 8, 4), down=(True, True, False), patch=4, lossless_pool=lossless)
    encoder = LatentEncoder(config)
    dark = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    lit = dark.clone()
    lit[0, 60, 3] = 255  # the bottom left corner
    change = (encoder(lit) - encoder(dark)).abs().sum(dim=1)[0]
    quarters = change.unflatten(1, (2, -1)).unflatten(0, (2, -1)).sum(dim=(1, 3))
    assert (quarters[1, 0] > 2 * quarters.flatten()[[0, 1, 3]]).all()


@pytest.mark.parametrize("config", [replace(SMALL, patch=1), PixelEncoderConfig()])
def test_colours_and_rows_are_not_mixed_up(config):
    """What the first layer sees is the picture in numpy's transposition of it."""
    encoder, pixels = make_encoder(config), pictures(3)
    expected = np.transpose(pixels.numpy().astype(np.float64) / 255, (0, 3, 1, 2))
    if isinstance(encoder, PixelEncoder):
        seen = encoder(pixels)
        expected = 2 * expected - 1
    else:
        inputs = []
        encoder.layers[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        encoder(pixels)
        (seen,) = inputs
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-6)


def test_latents_are_bounded_and_never_at_rest_there():
    encoder = LatentEncoder(replace(SMALL, bound=0.5))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(5)
    frames = encoder(pictures(20))
    assert 0.4 < frames.abs().max() <= 0.5
    assert encoder.bound == 0.5


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("centre", [False, True])
def test_a_latent_never_depends_on_its_neighbours_once_trained(standardise, centre):
    encoder = LatentEncoder(replace(SMALL, standardise=standardise, centre=centre))
    encoder.set_mean_image(pictures(50, seed=1))
    encoder.calibrate(pictures(50, seed=1))
    encoder.eval()
    whole = encoder(pictures(6))
    for i in range(6):
        torch.testing.assert_close(encoder(pictures(6)[i : i + 1]), whole[i : i + 1], atol=1e-5, rtol=1e-5)


def test_centring_subtracts_the_mean_image():
    encoder = LatentEncoder(replace(SMALL, patch=1, centre=True))
    a, b = pictures(2)
    even = (a // 2 * 2, b // 2 * 2)
    encoder.set_mean_image(torch.stack(even))
    inputs = []
    encoder.layers[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    encoder(torch.stack(even))
    first, second = inputs[0]
    torch.testing.assert_close(first, -second, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.movedim(0, -1), (even[0].float() - even[1].float()) / 510, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [0.5, 0.2])
def test_standardised_latents_have_the_asked_spread(scale):
    encoder = LatentEncoder(replace(SMALL, standardise=True, scale=scale))
    with torch.no_grad():
        encoder.layers[-1].conv.weight.mul_(20)  # far above the floor that keeps dead elements quiet
    pixels = pictures(200)
    z = unbound(encoder(pixels))
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(encoder.frame_shape), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(dim=0, correction=0), torch.full(encoder.frame_shape, scale), atol=0, rtol=0.02)


def test_calibration_makes_evaluation_equal_training():
    encoder, pixels = LatentEncoder(replace(SMALL, standardise=True)), pictures(70)
    trained = encoder(pixels)
    for chunk in (70, 32, 1):
        encoder.calibrate(pixels, chunk)
        torch.testing.assert_close(encoder.eval()(pixels), trained, atol=1e-4, rtol=1e-4)
        encoder.train()


def test_dead_elements_stay_quiet():
    """A batch of one picture has no spread: neither its latent nor its gradient may blow up."""
    encoder = LatentEncoder(replace(SMALL, standardise=True))
    frames = encoder(pictures(1).expand(5, -1, -1, -1))
    frames.square().sum().backward()
    assert frames.abs().max() < 0.1
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters())


@given(st.lists(FLOATS, min_size=2, max_size=20), st.floats(0.5, 5))
def test_the_clamp_by_tanh(numbers, bound):
    encoder = LatentEncoder(replace(SMALL, bound=bound))
    x = torch.tensor(sorted(numbers))
    y = encoder.clamp(x)
    assert (y.abs() <= bound).all()
    assert (y.diff() >= 0).all()
    assert (y.abs() <= x.abs() + 1e-6).all()
    torch.testing.assert_close(encoder.clamp(-x), -y)
    small = torch.tensor([1e-3 * bound])
    torch.testing.assert_close(encoder.clamp(small), small, rtol=1e-5, atol=0)


@given(st.lists(FLOATS, min_size=1, max_size=20), st.floats(0.5, 5))
def test_the_clamp_by_cutting_leaves_valid_frames_alone(numbers, bound):
    encoder = LatentEncoder(replace(SMALL, bound=bound, clamp_estimate=False))
    x = torch.tensor(numbers)
    expected = torch.tensor([min(max(number, -bound), bound) for number in numbers])
    torch.testing.assert_close(encoder.clamp(x), expected)
    assert torch.equal(encoder.clamp(encoder.clamp(x)), encoder.clamp(x))


def test_pixels_survive_the_pixel_encoder():
    encoder = PixelEncoder(PixelEncoderConfig())
    pixels = torch.arange(256, dtype=torch.uint8).repeat(48).reshape(1, 64, 64, 3)
    frames = encoder(pixels)
    assert frames.shape == (1, *encoder.frame_shape) == (1, 3, 64, 64)
    assert (frames.min(), frames.max()) == (-1, 1)
    assert encoder.bound == 1.0
    assert torch.equal(encoder.decode(frames), pixels)
    assert torch.equal(encoder.decode(encoder.clamp(frames + 1e-5)), pixels)
    assert not list(encoder.parameters())


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_an_imagined_image_is_rounded_down_to_a_level(numbers):
    x = torch.tensor(numbers)
    y = PixelEncoder(PixelEncoderConfig()).clamp(x)
    levels = (y.double() + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert (y <= x + 1e-6).all()
    assert (x - y < 2 / 255 + 1e-6).all()


@given(st.lists(FLOATS, min_size=1, max_size=20))
def test_an_imagined_image_stays_in_range(numbers):
    x = torch.tensor(numbers)
    for quantise in (True, False):
        y = PixelEncoder(PixelEncoderConfig(quantise)).clamp(x)
        assert (y.abs() <= 1).all()
        assert (y[x >= 1] == 1).all()
        assert (y[x <= -1] == -1).all()
    torch.testing.assert_close(y, x.clamp(-1, 1))


def test_the_config_decides_the_encoder():
    assert isinstance(make_encoder(SMALL), LatentEncoder)
    assert isinstance(make_encoder(PixelEncoderConfig()), PixelEncoder)


@pytest.mark.parametrize("name", ["bound", "scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_range_without_extent_is_refused(name, value):
    with pytest.raises(UsageError, match=rf"{name} is .*a number above 0"):
        LatentEncoderConfig(**{name: value})
