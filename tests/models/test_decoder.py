"""The decoder probe: it draws, it learns, and nothing of it ever reaches what it looks at."""

import pytest
import torch
from torch import Tensor

from jedi_env.models.decoder import Decoder, DecoderConfig

SMALL = DecoderConfig(channels=16, blocks=1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks are initialised from torch's own stream."""
    torch.manual_seed(0)


def pixels(n: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, 64, 64, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def frames(n: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(16, 8, 8), (4, 4, 4), (8, 16, 16)])
def test_it_draws_pixels_of_every_latent(shape):
    drawn = Decoder(shape, SMALL).decode(3 * frames(3, *shape))
    assert drawn.shape == (3, 64, 64, 3)
    assert drawn.dtype == torch.uint8


def test_its_gradient_stays_its_own():
    decoder, latents = Decoder((4, 4, 4), SMALL), frames(2, 4, 4, 4).requires_grad_()
    decoder.loss(latents * 2, pixels(2)).backward()
    assert latents.grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())


def test_the_reconstruction_loss_is_the_same_number_and_its_gradient_reaches_the_frames():
    decoder, latents = Decoder((4, 4, 4), SMALL), frames(2, 4, 4, 4).requires_grad_()
    loss = decoder.reconstruction_loss(latents, pixels(2))
    assert loss.item() == decoder.loss(latents, pixels(2)).item()
    loss.backward()
    assert latents.grad.abs().sum() > 0


def test_it_starts_from_the_mean_image():
    decoder, pictures = Decoder((4, 4, 4), SMALL), pixels(3)
    for layer in decoder.layers:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    decoder.set_mean_image(pictures)
    mean = pictures.double().mean(dim=0)
    assert ((decoder.decode(frames(1, 4, 4, 4))[0].double() - mean).abs() <= 0.51).all()
    assert "mean_image" in decoder.state_dict()


def test_the_loss_counts_unusual_pixels_more():
    """Against the definition pixel by pixel: weight 1 + motion_weight * how far the colour is from the mean image."""
    decoder, target = Decoder((4, 4, 4), DecoderConfig(8, 1, motion_weight=7.0)), pixels(2)
    decoder.set_mean_image(pixels(5, seed=3))
    latents = frames(2, 4, 4, 4)
    image, mean = decoder(latents).detach().movedim(1, -1), decoder.mean_image.movedim(0, -1)
    total = 0.0
    for n, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(64), torch.arange(64)).tolist():
        wanted = target[n, y, x] / 255
        unusual = (wanted - mean[y, x]).abs().max()
        total += ((1 + 7.0 * unusual) * (image[n, y, x] - wanted).square().sum()).item()
    assert decoder.loss(latents, target).item() == pytest.approx(total / (2 * 64 * 64 * 3), rel=1e-4)


def test_it_learns_to_draw_what_the_latent_shows():
    """A square at one of four places, told by the latent; rows and columns must not be mixed up."""
    decoder = Decoder((2, 4, 4), SMALL)
    latents, target = torch.zeros(4, 2, 4, 4), torch.full((4, 64, 64, 3), 30, dtype=torch.uint8)
    for i, (row, column) in enumerate([(0, 1), (1, 3), (2, 0), (3, 2)]):
        latents[i, :, row, column] = 2.0
        target[i, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = torch.tensor([200, 100, 50])
    decoder.set_mean_image(target)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        decoder.loss(latents, target).backward()
        optimizer.step()
    assert (decoder.decode(latents).float() - target.float()).abs().mean() < 8
