"""The building blocks and the U-Net against slow definitions, and what each is before it has learned anything."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from jedi_env.models.blocks import (
    AdaGroupNorm,
    FourierFeatures,
    PlainResBlock,
    ResBlock,
    SelfAttention,
    init_lstm,
    num_groups,
    plain_stages,
)
from jedi_env.models.unet import Downsample, UNet, Upsample

COND = 12


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks are initialised from torch's own stream."""
    torch.manual_seed(0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lively(module: nn.Module) -> nn.Module:
    """Redraw the weights, so that no layer is zero as some are at the start."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            fan = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(randn(*parameter.shape, seed=i) / math.sqrt(fan))
    return module


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (16, 1), (32, 1), (48, 1), (64, 2), (80, 2), (160, 5), (256, 8)]
)
def test_groups_of_32_channels(channels, groups):
    assert num_groups(channels) == groups


@pytest.mark.parametrize("channels", [16, 64])
def test_adaptive_norm_is_a_group_norm_with_a_conditioned_scale_and_shift(channels):
    norm, x, cond = lively(AdaGroupNorm(channels, COND)), randn(2, channels, 5, 3), randn(2, COND)
    got = norm(x, cond)
    size = min(32, channels)
    for lane in range(2):
        modulation = norm.linear.weight @ cond[lane] + norm.linear.bias
        for channel in range(channels):
            group = x[lane, channel // size * size : (channel // size + 1) * size]
            plain = (x[lane, channel] - group.mean()) / (group.var(correction=0) + 1e-5).sqrt()
            expected = plain * (1 + modulation[channel]) + modulation[channels + channel]
            torch.testing.assert_close(got[lane, channel], expected, atol=1e-5, rtol=1e-4)


def test_attention_is_attention():
    """Position by position and head by head, in the order that the weights of DIAMOND's public code have."""
    channels, heads, size = 24, 3, 8
    attention, x = lively(SelfAttention(channels)), randn(2, channels, 3, 2)
    normed = attention.norm(x)
    got = attention(x)
    for lane in range(2):
        columns = normed[lane].reshape(channels, 6)
        q, k, v = (attention.qkv.weight[:, :, 0, 0] @ columns + attention.qkv.bias[:, None]).chunk(3)
        told = torch.zeros(channels, 6)
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            for position in range(6):
                scores = torch.stack([q[rows, position] @ k[rows, other] for other in range(6)]) / math.sqrt(size)
                told[rows, position] = v[rows] @ scores.softmax(dim=0)
        expected = columns + attention.out.weight[:, :, 0, 0] @ told + attention.out.bias[:, None]
        torch.testing.assert_close(got[lane].reshape(channels, 6), expected, atol=1e-5, rtol=1e-4)


def test_attention_knows_no_places():
    attention, x = lively(SelfAttention(16)), randn(1, 16, 3, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(attention(shuffled).flatten(2), attention(x).flatten(2)[..., order])


def test_attention_starts_as_its_norm_alone():
    attention, x = SelfAttention(16), 3 * randn(2, 16, 4, 4)
    torch.testing.assert_close(attention(x), attention.norm(x))


@pytest.mark.parametrize(("before", "after"), [(16, 16), (16, 32)])
def test_a_residual_block_starts_as_its_skip(before, after):
    """Whatever the frame and the condition, it adds no more than its last layer's bias."""
    block = ResBlock(before, after, COND, attention=False)
    for seed in range(3):
        x, cond = randn(2, before, 4, 4, seed=seed), randn(2, COND, seed=seed + 10)
        added = block(x, cond) - block.skip(x)
        torch.testing.assert_close(added, block.conv2.bias[:, None, None].expand_as(added))


def test_a_plain_block_adds_to_its_skip():
    block, x = PlainResBlock(8, 12), randn(2, 8, 4, 4)
    nn.init.zeros_(block.conv.weight)
    nn.init.zeros_(block.conv.bias)
    torch.testing.assert_close(block(x), block.skip(x))


@pytest.mark.parametrize("module", [ResBlock(16, 32, COND, True), ResBlock(16, 16, COND, False)])
def test_every_weight_of_a_block_matters(module):
    lively(module)(randn(2, 16, 4, 4), randn(2, COND)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@given(
    st.lists(st.tuples(st.sampled_from([4, 8]), st.booleans()), min_size=1, max_size=4),
    st.sampled_from([16, 32]),
)
def test_plain_stages_halve_where_they_are_told(stages, side):
    channels, down = zip(*stages, strict=True)
    out = plain_stages(3, channels, down)(randn(2, 3, side, side))
    assert out.shape == (2, channels[-1], *(side // 2 ** sum(down),) * 2)


def test_fourier_features_compare_by_distance_alone():
    """Their inner product depends on how far apart two numbers are, not on where they lie."""
    features = FourierFeatures(64)
    x = torch.linspace(-1, 1, 9)
    product = features(x) @ features(x).T
    for offset in range(9):
        diagonal = product.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-3, rtol=0)
    torch.testing.assert_close(product.diagonal(), torch.full((9,), 32.0))
    assert "weight" in features.state_dict()  # random, so it must be saved with the model


@pytest.mark.parametrize("kind", [nn.LSTM, nn.LSTMCell])
def test_an_lstm_starts_by_remembering(kind):
    lstm = kind(6, 5)
    init_lstm(lstm)
    named = {name.removesuffix("_l0"): parameter for name, parameter in lstm.named_parameters()}
    recurrent = named["weight_hh"]
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(5))
    bias = named["bias_ih"] + named["bias_hh"]
    assert bias.tolist() == [0.0] * 5 + [1.0] * 5 + [0.0] * 10  # torch's order of gates: input, forget, cell, output


def test_downsampling_halves_by_an_orthogonal_map_and_upsampling_doubles():
    x = randn(2, 8, 6, 4)
    down, up = Downsample(8), Upsample(8)
    rows = down.conv.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-5, rtol=0)
    assert down(x).shape == (2, 8, 3, 2)
    assert up(x).shape == (2, 8, 12, 8)
    nn.init.dirac_(up.conv.weight)
    nn.init.zeros_(up.conv.bias)
    torch.testing.assert_close(up(x)[..., 1::2, ::2], x)  # the nearest neighbour


def recursive_unet(unet: UNet, x: Tensor, cond: Tensor) -> Tensor:
    """The U-Net as its definition reads: down-blocks, the rest of the net, up-blocks that see their twins."""
    levels = len(unet.down_blocks)

    def level(i: int, x: Tensor) -> Tensor:
        if i == levels:
            for block in unet.middle:
                x = block(x, cond)
            return x
        x = unet.downsamples[i](x)
        seen = [x]
        for block in unet.down_blocks[i]:
            seen.append(block(seen[-1], cond))
        x = unet.upsamples[levels - 1 - i](level(i + 1, seen[-1]))
        for block, twin in zip(unet.up_blocks[levels - 1 - i], reversed(seen), strict=True):
            x = block(torch.cat((x, twin), dim=1), cond)
        return x

    return level(0, x)


@pytest.mark.parametrize(
    ("channels", "depths"), [((16,), (1,)), ((8, 16), (2, 1)), ((8, 24, 16), (1, 2, 3)), ((8, 8, 8, 8), (2, 2, 2, 2))]
)
def test_the_unet_is_what_its_definition_says(channels, depths):
    attention = tuple(level % 2 == 1 for level in range(len(channels)))
    unet = lively(UNet(channels, depths, attention, True, COND))
    x, cond = randn(2, channels[0], 16, 8), randn(2, COND)
    got = unet(x, cond)
    assert got.shape == x.shape
    torch.testing.assert_close(got, recursive_unet(unet, x, cond))
    got.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in unet.parameters())


def test_attention_sits_where_it_is_asked_for():
    def attending(module: nn.Module) -> int:
        return sum(isinstance(part, SelfAttention) for part in module.modules())

    assert attending(UNet((8, 8), (2, 1), (False, False), False, COND)) == 0
    assert attending(UNet((8, 8), (2, 1), (False, False), True, COND).middle) == 2
    assert attending(UNet((8, 8), (2, 1), (True, False), False, COND)) == 2 + 3  # two down, one more up
