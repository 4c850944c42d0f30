"""What makes a dream fast does not change it: pieces, attention as it is written, and how far bfloat16 may drift."""

import pytest
import torch

from jedi_env.dream import Dream
from jedi_env.models import blocks, world_model
from jedi_env.models.denoiser import DenoiserConfig
from jedi_env.models.encoder import PixelEncoderConfig
from jedi_env.models.reward_end import RewardEndConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.types import Context

LANES, STEPS = 7, 3
REWARD_END = RewardEndConfig(channels=(16,), depths=(1,), attention=(False,), down=(False,), lstm_dim=16)
LATENT = WorldModelConfig(denoiser=DenoiserConfig(channels=(64,)), reward_end=REWARD_END)
PIXEL = WorldModelConfig(
    encoder=PixelEncoderConfig(quantise=False),
    denoiser=DenoiserConfig(channels=(16,) * 4, depths=(1,) * 4, attention=(False,) * 3 + (True,)),
    reward_end=RewardEndConfig(channels=(8,) * 4, depths=(1,) * 4, down=(True,) * 4, middle_attention=False),
)


def dreamed(config, dtype=torch.float32):
    """The frames and probabilities after a few steps of a model with random weights."""
    torch.manual_seed(0)
    model = WorldModel(4, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    frames = (torch.rand(LANES, 4, *model.frame_shape) * 2 - 1) * model.bound
    dream = Dream(model, Context(frames, torch.randint(4, (LANES, 3))), horizon=None, dtype=dtype)
    dream.reset(range(LANES), contexts=torch.arange(LANES))
    for step in range(STEPS):
        transition = dream.step(torch.full((LANES,), step))
    assert frames.ne(dream.state.model.frames).any()
    return dream.state.model.frames[:, -STEPS:], transition.prediction.reward_probs


@pytest.fixture
def plain(monkeypatch):
    """All lanes at once, torch's own attention."""

    def turn_to_plain():
        monkeypatch.setattr(world_model, "CACHED", 2**40)
        monkeypatch.setattr(blocks, "FEW_POSITIONS", 0)

    return turn_to_plain


@pytest.mark.parametrize("config", [LATENT, PIXEL], ids=["latent", "pixel"])
@pytest.mark.parametrize("lanes_a_piece", [1, 3, 100])
def test_in_float32_it_is_the_plain_dream(config, lanes_a_piece, plain, monkeypatch):
    _, height, width = WorldModel(4, config).frame_shape
    elements = lanes_a_piece * config.denoiser.channels[0] * height * width
    monkeypatch.setattr(world_model, "CACHED", elements // torch.get_num_threads() + 1)
    frames, probs = dreamed(config)
    plain()
    expected_frames, expected_probs = dreamed(config)
    torch.testing.assert_close(frames, expected_frames, atol=1e-4, rtol=0)
    torch.testing.assert_close(probs, expected_probs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", [LATENT, PIXEL], ids=["latent", "pixel"])
def test_in_bfloat16_it_stays_close_to_the_plain_dream(config, plain):
    frames, probs = dreamed(config, torch.bfloat16)
    plain()
    expected_frames, expected_probs = dreamed(config)
    error = (frames - expected_frames).square().mean().sqrt()
    assert 0 < error < 0.02 * expected_frames.square().mean().sqrt()  # eight bits of precision
    assert (probs - expected_probs).abs().max() < 0.02


def test_the_pieces_cover_every_lane_once(monkeypatch):
    monkeypatch.setattr(world_model, "CACHED", 3 * 64 * 64 // torch.get_num_threads() + 1)  # three lanes of 64x8x8
    model = WorldModel(4, LATENT)
    for lanes in (1, 2, 3, 4, 5, 6, 7, 16):
        pieces = model._pieces(torch.empty(lanes, 4, 16, 8, 8))
        covered = [range(lanes)[piece] for piece in pieces]
        assert [lane for some in covered for lane in some] == list(range(lanes))
        assert max(len(some) for some in covered) <= 3
