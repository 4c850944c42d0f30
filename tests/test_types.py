"""Records: slicing, expanding and mixing lanes against the same done lane by lane."""

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.types import Context, DreamState, ModelState, Prediction, Record, Segment, Transition


def dream_state(lanes: int, seed: int = 0) -> DreamState:
    g = torch.Generator().manual_seed(seed)
    model = ModelState(
        frames=torch.randn(lanes, 4, 2, 3, 3, generator=g),
        actions=torch.randint(18, (lanes, 3), generator=g),
        hidden=torch.randn(lanes, 5, generator=g),
        cell=torch.randn(lanes, 5, generator=g),
    )
    whole = torch.randint(2**40, (3, lanes), generator=g)
    return DreamState(model, whole[0], whole[1] % 2 == 0, whole[1], whole[2])


def tensors(record: Record) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    record.map(lambda tensor: found.append(tensor) or tensor)
    return found


def same(a: Record, b: Record) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return type(a) is type(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def test_map_reaches_every_tensor_once_and_keeps_the_kind():
    state = dream_state(3)
    assert len(tensors(state)) == 8
    doubled = state.map(lambda tensor: torch.cat((tensor, tensor)))
    assert isinstance(doubled.model, ModelState)
    assert len(doubled) == len(doubled.model) == 6


@given(st.integers(1, 6), st.data())
def test_every_index_selects_lanes(lanes, data):
    state = dream_state(lanes)
    lane = data.draw(st.integers(-lanes, lanes - 1))
    chosen = data.draw(st.lists(st.integers(0, lanes - 1), max_size=8))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=lanes, max_size=lanes)))
    cut = data.draw(st.slices(lanes).filter(lambda s: (s.step or 1) > 0))
    for index, expected in (
        (lane, [lane % lanes]),
        (np.int64(lane), [lane % lanes]),
        (torch.tensor(lane), [lane % lanes]),
        (torch.tensor(chosen, dtype=torch.int64), chosen),
        (chosen, chosen),
        (tuple(chosen), chosen),
        (range(lanes), list(range(lanes))),
        (np.array(chosen, dtype=np.uint8), chosen),
        (np.array(chosen, dtype=np.int64), chosen),
        (mask, mask.nonzero().flatten().tolist()),
        (mask.numpy(), mask.nonzero().flatten().tolist()),
        (mask.tolist(), mask.nonzero().flatten().tolist()),
        (cut, list(range(lanes))[cut]),
    ):
        got = state[index]
        assert len(got) == len(expected)
        for place, source in enumerate(expected):
            for mine, theirs in zip(tensors(got), tensors(state), strict=True):
                assert torch.equal(mine[place], theirs[source])


@pytest.mark.parametrize("index", [3, -4, 100])
def test_a_lane_that_is_not_there_is_an_index_error(index):
    with pytest.raises(IndexError):
        dream_state(3)[index]


@pytest.mark.parametrize(
    "index", [[0, 3], np.array([True, False]), np.array([0.0, 1.0]), np.array([[0, 1]]), ["a"], "ab", (slice(None), 0)]
)
def test_what_selects_no_lanes_is_an_index_error(index):
    with pytest.raises(IndexError):
        dream_state(3)[index]


def test_a_frozen_array_selects_lanes():
    index = np.array([2, 0])
    index.flags.writeable = False
    assert same(dream_state(3)[index], dream_state(3)[torch.tensor([2, 0])])


def test_small_whole_numbers_are_no_mask():
    for index in (torch.tensor([0, 2], dtype=torch.uint8), np.array([0, 2], np.uint8)):
        assert same(dream_state(3)[index], dream_state(3)[[0, 2]])


def test_iterating_yields_the_lanes_and_ends():
    state = dream_state(3)
    lanes = list(state)
    assert [len(lane) for lane in lanes] == [1, 1, 1]
    assert same(lanes[1], state[1])


@given(st.integers(1, 4), st.integers(1, 4))
def test_repeat_puts_the_copies_of_a_lane_in_a_row(lanes, times):
    state = dream_state(lanes)
    expected = [lane for lane in range(lanes) for _ in range(times)]
    assert same(state.repeat(times), state[torch.tensor(expected)])


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_where_takes_each_lane_from_one_of_the_two(mask):
    mine, theirs = dream_state(len(mask), 1), dream_state(len(mask), 2)
    mixed = mine.where(torch.tensor(mask), theirs)
    for lane, choose_mine in enumerate(mask):
        assert same(mixed[lane], (mine if choose_mine else theirs)[lane])


def test_where_takes_a_mask_that_is_a_view():
    mask = torch.tensor([[True, False], [False, False], [True, True]])[:, 0]
    mine, theirs = dream_state(3, 1), dream_state(3, 2)
    assert same(mine.where(mask, theirs)[1], theirs[1])


@pytest.mark.parametrize(
    "record",
    [
        dream_state(2),
        Segment(
            torch.zeros(2, 3, 64, 64, 3, dtype=torch.uint8),
            torch.ones(2, 2, dtype=torch.int64),
            torch.rand(2, 2),
            torch.tensor([[True, False], [False, False]]),
            torch.ones(2, 2, dtype=torch.bool),
        ),
        Context(torch.rand(2, 4, 2, 3, 3), torch.ones(2, 3, dtype=torch.int64)),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_survives_a_pickle(record):
    assert same(pickle.loads(pickle.dumps(record)), record)


def test_a_clone_has_memory_of_its_own_and_a_record_cannot_change():
    state = dream_state(2)
    copy = state.clone()
    copy.model.frames.zero_()
    assert same(state, dream_state(2))
    with pytest.raises(FrozenInstanceError):
        state.age = torch.zeros(2)


def test_to_moves_everything():
    moved = dream_state(2).to("meta")
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}


def test_a_transition_is_done_either_way():
    terminated = torch.tensor([False, False, True, True])
    truncated = torch.tensor([False, True, False, True])
    nothing = torch.zeros(4)
    transition = Transition(Prediction(nothing, terminated, torch.zeros(4, 3), nothing), truncated)
    assert transition.done.tolist() == [False, True, True, True]
