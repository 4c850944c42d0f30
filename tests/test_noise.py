"""LaneNoise: against SplitMix64's published numbers, in distribution, and that no lane knows of another."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.noise import LaneNoise, lane_keys, mix

SEEDS = st.integers(-(2**63), 2**64 - 1)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


def reference_mix(z: int) -> int:
    """SplitMix64's output function on Python's unbounded integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def signed(z: int) -> int:
    return z - 2**64 if z >= 2**63 else z


def kolmogorov_smirnov(sample: torch.Tensor, cdf: torch.Tensor) -> float:
    """The statistic times sqrt(n): above 1.95 with probability 0.001 (Kolmogorov's distribution)."""
    n = len(sample)
    ranks = torch.arange(n + 1, dtype=torch.float64) / n
    return math.sqrt(n) * max((ranks[1:] - cdf).abs().max().item(), (cdf - ranks[:-1]).abs().max().item())


def normal_cdf(x: torch.Tensor) -> torch.Tensor:
    return (1 + torch.erf(x.double() / math.sqrt(2))) / 2


def some_noise(lanes: int, count: int = 0) -> LaneNoise:
    return LaneNoise(lane_keys(range(lanes)), torch.full((lanes,), count))


def test_mix_gives_the_published_sequence():
    """The first outputs of SplitMix64 from the state 1234567, as its users cite them."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = [(1234567 + (i + 1) * 0x9E3779B97F4A7C15) % 2**64 for i in range(4)]
    assert mix(torch.tensor([signed(s) for s in states])).tolist() == [signed(p) for p in published]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_mix_is_splitmix64(numbers):
    got = mix(torch.tensor([signed(n) for n in numbers]))
    assert got.tolist() == [signed(reference_mix(n)) for n in numbers]


@given(st.lists(SEEDS, min_size=1, max_size=20))
def test_seeds_share_a_stream_only_if_they_are_equal(seeds):
    keys = lane_keys(seeds).tolist()
    assert len(set(keys)) == len({seed % 2**64 for seed in seeds})
    assert all(
        (a == b) == (s % 2**64 == t % 2**64)
        for a, s in zip(keys, seeds, strict=True)
        for b, t in zip(keys, seeds, strict=True)
    )


def test_extreme_seeds_have_streams_of_their_own():
    seeds = [0, 1, -1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1]
    noise = LaneNoise(lane_keys(seeds), torch.zeros(len(seeds), dtype=torch.int64)).normal((64,))
    assert torch.isfinite(noise).all()
    assert (torch.corrcoef(noise).fill_diagonal_(0).abs() < 0.5).all()


@pytest.mark.parametrize("kind", [np.array, list, range])
def test_seeds_may_come_from_numpy(kind):
    seeds = range(3, 6) if kind is range else kind([3, 4, 5])
    assert torch.equal(lane_keys(seeds), lane_keys([3, 4, 5]))


@given(st.lists(SEEDS, min_size=1, max_size=12), SHAPES, st.data())
def test_a_lane_alone_equals_itself_among_others(seeds, shape, data):
    """Bit for bit, whatever the batch size and the lane's place in it, in every draw of a step."""
    counts = data.draw(st.lists(st.integers(0, 2**40), min_size=len(seeds), max_size=len(seeds)))
    lanes = data.draw(st.lists(st.integers(0, len(seeds) - 1), min_size=1, max_size=5))
    key, count = lane_keys(seeds), torch.tensor(counts)
    whole, part = LaneNoise(key, count), LaneNoise(key[lanes], count[lanes])
    for _ in range(2):
        assert torch.equal(whole.normal(shape)[lanes], part.normal(shape))
        assert torch.equal(whole.uniform()[lanes], part.uniform())


@pytest.mark.parametrize("shape", [(16, 8, 8), (3, 64, 64), (7,), (31,)])
def test_a_frame_of_noise_is_the_same_in_any_batch(shape):
    """Vectorised logarithms and cosines must not depend on where in memory an element lies."""
    key, count = lane_keys(range(33)), torch.arange(33)
    whole = LaneNoise(key, count).normal(shape)
    for start, stop in ((0, 1), (5, 6), (1, 4), (7, 33)):
        assert torch.equal(LaneNoise(key[start:stop], count[start:stop]).normal(shape), whole[start:stop])


def test_equal_seeds_dream_alike_and_others_do_not():
    noise = LaneNoise(lane_keys([7, 8, 7]), torch.zeros(3, dtype=torch.int64)).normal((100,))
    assert torch.equal(noise[0], noise[2])
    assert not torch.isclose(noise[0], noise[1]).any()


def test_the_same_calls_give_the_same_numbers_and_every_call_anew():
    first, second = some_noise(4), some_noise(4)
    one, two = first.normal((8,)), first.normal((8,))
    assert torch.equal(one, second.normal((8,)))
    assert torch.equal(two, second.normal((8,)))
    assert not torch.isclose(one, two).any()


@given(SHAPES)
def test_shapes_and_types(shape):
    noise = some_noise(3)
    assert noise.normal(shape).shape == (3, *shape)
    assert noise.normal(shape).dtype == noise.uniform().dtype == torch.float32
    assert noise.uniform().shape == (3,)


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(lambda: some_noise(1).normal((100_000,)), id="along a frame"),
        pytest.param(lambda: some_noise(1).normal((99_999,)), id="of an odd size"),
        pytest.param(lambda: some_noise(50_000).normal((2,)), id="over lanes"),
        pytest.param(
            lambda: LaneNoise(lane_keys([3]).expand(50_000), torch.arange(50_000)).normal((2,)), id="over steps"
        ),
    ],
)
def test_normal_noise_is_standard_normal(sample):
    x = sample().flatten().double()
    n = len(x)
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert kolmogorov_smirnov(x.sort().values, normal_cdf(x.sort().values)) < 1.95


def test_normal_noise_has_tails():
    """Of 20 million draws the largest is near 5.3; a generator with coarse tails would stop short."""
    extremes = [some_noise(1, count).normal((2_000_000,)).abs().max().item() for count in range(10)]
    assert 5.0 < max(extremes) < 6.7


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(lambda: some_noise(100_000).uniform(), id="over lanes"),
        pytest.param(
            lambda: LaneNoise(lane_keys([3]).expand(100_000), torch.arange(100_000)).uniform(), id="over steps"
        ),
        pytest.param(lambda: torch.cat([n.uniform() for n in [some_noise(1)] for _ in range(5_000)]), id="over draws"),
    ],
)
def test_uniform_noise_is_uniform(sample):
    x = sample().double()
    assert x.min() >= 0
    assert x.max() < 1
    assert kolmogorov_smirnov(x.sort().values, x.sort().values) < 1.95


def test_nothing_correlates():
    """Lanes, steps, draws within a step and neighbouring elements tell nothing of one another."""
    n = 20_000
    key, count = lane_keys([1, 2]), torch.tensor([5, 5])
    now, later = LaneNoise(key, count), LaneNoise(key, count + 1)
    rows = torch.cat((now.normal((n,)), now.normal((n,)), later.normal((n,))))
    rows = torch.cat((rows, rows[:1].roll(1), rows[:1].roll(n // 2)))  # neighbours, and the two numbers of a pair
    for table in (rows, rows.square(), rows.abs().log()):
        correlation = torch.corrcoef(table.double()).fill_diagonal_(0)
        assert correlation.abs().max() < 4.5 / math.sqrt(n)


def test_neighbouring_seeds_do_not_correlate():
    x = some_noise(400).normal((2_000,)).double()
    correlation = torch.corrcoef(x).fill_diagonal_(0)
    assert correlation.abs().max() < 5.5 / math.sqrt(2_000)
    assert abs(correlation[torch.arange(399), torch.arange(1, 400)].mean()) < 4 / math.sqrt(399 * 2_000)
