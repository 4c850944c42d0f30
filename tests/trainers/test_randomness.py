"""Streams that never meet and can be had again."""

import itertools

import numpy as np
import torch

from trainers.randomness import Purpose, numpy_rng, torch_rng

PLACES = list(itertools.product((0, 1, 7, 2**31), (0, 1, 2, 500), Purpose))


def test_a_stream_can_be_had_again():
    for place in PLACES[:10]:
        assert numpy_rng(*place).integers(2**62) == numpy_rng(*place).integers(2**62)
        first, second = (torch.rand(4, generator=torch_rng(*place)) for _ in range(2))
        assert torch.equal(first, second)


def test_no_two_streams_are_the_same():
    assert len({int(numpy_rng(*place).integers(2**62)) for place in PLACES}) == len(PLACES)
    assert len({torch_rng(*place).initial_seed() for place in PLACES}) == len(PLACES)


def test_streams_look_independent():
    """Neighbouring seeds, epochs and purposes: their numbers do not follow each other."""
    draws = np.stack([numpy_rng(*place).standard_normal(2000) for place in PLACES[:40]])
    torches = torch.stack([torch.randn(2000, generator=torch_rng(*place)) for place in PLACES[:40]]).numpy()
    correlation = np.corrcoef(np.concatenate([draws, torches])) - np.eye(80)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def test_the_numbers_of_a_purpose_are_not_those_of_the_global_generators():
    np.random.seed(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    torch_rng(0, 0, Purpose.INIT)
    numpy_rng(0, 0, Purpose.INIT)
    assert torch.equal(torch.get_rng_state(), before)


def test_runs_under_way_depend_on_these_numbers():
    """Purposes are never renumbered, and their streams never changed."""
    assert {p.name: p.value for p in Purpose} == {
        "INIT": 0,
        "COLLECT": 1,
        "WORLD_MODEL": 2,
        "AGENT": 3,
        "EVALUATE": 4,
        "CONTEXTS": 5,
    }
    state = np.random.SeedSequence((3, 2, 1)).generate_state(2, np.uint32)
    assert torch_rng(3, 2, Purpose.COLLECT).initial_seed() == int(state[0]) * 2**31 + int(state[1]) // 2
    assert numpy_rng(3, 2, Purpose.COLLECT).random() == np.random.default_rng([3, 2, 1]).random()
