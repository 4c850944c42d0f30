"""What actions are: read from a space, told in words, rescaled, drawn, written as JSON."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, Tuple
from hypothesis import example, given
from hypothesis import strategies as st

from jedi_env.actions import BoxActions, DiscreteActions, actions_of, as_actions, blanks
from jedi_env.config_json import from_json, to_json
from jedi_env.errors import CheckpointError, UsageError

WHEEL = BoxActions((-1.0, 0.0, 2.0), (1.0, 0.5, 8.0))
single = st.floats(-1e6, 1e6, width=32).map(lambda x: round(x, 2))


@st.composite
def boxes(draw):
    ends = draw(
        st.lists(st.tuples(single, single).filter(lambda pair: abs(pair[0] - pair[1]) > 1), min_size=1, max_size=4)
    )
    low, high = (tuple(float(np.float32(side(pair))) for pair in ends) for side in (min, max))
    return BoxActions(low, high)


def test_a_number_is_so_many_discrete_actions():
    assert as_actions(5) == DiscreteActions(5)
    assert as_actions(WHEEL) is WHEEL


@pytest.mark.parametrize("space", [Discrete(4), Box(np.float32([-1, 0]), np.float32([1, 9]))])
def test_a_space_is_read_and_made_again(space):
    assert actions_of(space, "Game-v0").space == space


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4), st.floats(1, 1e6))
def test_bounds_of_double_precision_are_never_exceeded(low, width):
    space = Box(np.array(low), np.array(low) + width, dtype=np.float64)
    actions = actions_of(space, "Game-v0")
    for bound in (actions.low, actions.high):
        assert space.contains(np.array(bound, np.float64))
    assert np.allclose(actions.low, space.low, rtol=1e-6, atol=1e-6)
    assert np.allclose(actions.high, space.high, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (Discrete(4, start=1), r"'Game-v0' has the action space Discrete\(4, start=1\).*takes Discrete actions from 0"),
        (MultiBinary(3), "gymnasium.wrappers.TransformAction"),
        (Tuple((Discrete(2),)), "or a bounded Box"),
        (Box(-1, 1, (2, 2)), "of floats with one axis"),
        (Box(0, 5, (2,), np.int64), "of floats with one axis"),
        (Box(-np.inf, np.inf, (2,)), "without finite bounds.*RescaleAction or ClipAction"),
        (Box(np.float32([0, 0]), np.float32([1, np.inf])), "without finite bounds"),
        (Box(np.float32([0, 3]), np.float32([1, 3])), r"bounded by \[0, 3\] and \[1, 3\].*finite low below"),
        (Box(-3e38, 3e38, (1,)), "finite low below a finite high"),
    ],
)
def test_what_no_world_model_takes(space, sentence):
    with pytest.raises(UsageError, match=sentence):
        actions_of(space, "Game-v0")


@given(boxes(), st.data())
def test_rescaling_there_and_back(actions, data):
    scaled = torch.tensor(data.draw(st.lists(st.floats(-1, 1, width=32), min_size=actions.size, max_size=actions.size)))
    taken = actions.from_unit(scaled)
    assert actions.allow(taken)
    width = np.subtract(actions.high, actions.low)
    reach = np.maximum(np.abs(actions.low), np.abs(actions.high))
    close = torch.tensor(4e-7 * reach / width + 1e-6)  # a narrow range far from zero has few numbers in it
    assert (abs(actions.to_unit(taken) - scaled) <= 4 * close).all()


def test_the_bounds_are_minus_one_and_one_and_what_is_beyond_comes_back():
    low, high = torch.tensor(WHEEL.low), torch.tensor(WHEEL.high)
    assert torch.equal(WHEEL.to_unit(torch.stack((low, high))), torch.tensor([[-1.0] * 3, [1.0] * 3]))
    assert torch.equal(WHEEL.from_unit(torch.tensor([[-7.0] * 3, [1.5] * 3])), torch.stack((low, high)))
    assert torch.equal(WHEEL.inside(torch.tensor([-1.5, 0.25, 9.0])), torch.tensor([-1.0, 0.25, 8.0]))


@given(boxes(), st.integers(0, 9))
def test_random_actions_are_in_the_space(actions, seed):
    drawn = actions.uniform(np.random.default_rng(seed), 20)
    assert all(actions.space.contains(action) for action in drawn)
    assert actions.allow(drawn)


def test_random_actions_are_uniform():
    drawn = WHEEL.uniform(np.random.default_rng(0), 4000)
    scaled = WHEEL.to_unit(torch.from_numpy(drawn)).double()
    assert scaled.mean(dim=0).tolist() == pytest.approx([0.0] * 3, abs=0.05)
    assert scaled.std(dim=0).tolist() == pytest.approx([3**-0.5] * 3, abs=0.02)
    discrete = DiscreteActions(4).uniform(np.random.default_rng(0), 4000)
    assert (np.bincount(discrete) / 4000).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_where_nothing_is_done():
    assert torch.equal(blanks(WHEEL, 2, 1), torch.tensor([[[0.0, 0.0, 2.0]]] * 2))
    assert torch.equal(blanks(DiscreteActions(3), 2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("actions", "inside", "outside"),
    [
        (DiscreteActions(3), [0, 2], [0, 3]),
        (DiscreteActions(3), [1], [-1]),
        (WHEEL, [[0, 0, 2], [1, 0.5, 8]], [[0, 0, 2], [1, 0.51, 8]]),
        (WHEEL, [[0, 0, 2]], [[0, np.nan, 2]]),
    ],
)
def test_what_is_allowed(actions, inside, outside):
    for made in (np.array, torch.tensor):
        assert actions.allow(made(inside))
        assert not actions.allow(made(outside))


@given(boxes())
@example(BoxActions((-1.0, -0.5), (0.1, 0.8)))
def test_what_rounding_leads_out_is_allowed_and_brought_back(actions):
    """Stable-Baselines3 computes actions of [-1, 1] like this, in float32."""
    low, high = np.float32(actions.low), np.float32(actions.high)
    reached = low + 0.5 * (np.ones(actions.size, np.float32) + 1) * (high - low)
    assert reached.dtype == np.float32
    for taken in (reached, np.nextafter(high, np.float32(np.inf)), np.nextafter(low, np.float32(-np.inf))):
        assert actions.allow(taken)
        assert actions.allow(torch.from_numpy(taken))
        assert actions.space.contains(actions.inside(torch.from_numpy(taken)).numpy())
    far = 1e-5 * max(*abs(low), *abs(high), *(high - low))
    assert not actions.allow(high + far)
    assert not actions.allow(low - far)


def test_in_words():
    assert DiscreteActions(3).wanted(()) == "an int from 0 to 2"
    assert WHEEL.wanted(()) == "a vector, shape (3,), from [-1, 0, 2] to [1, 0.5, 8]"
    assert WHEEL.wanted((4,)) == "one vector a lane, shape (4, 3), from [-1, 0, 2] to [1, 0.5, 8]"


@pytest.mark.parametrize(
    ("low", "high"), [((), ()), ((0.0,), (1.0, 2.0)), ((1.0,), (1.0,)), ((float("nan"),), (1.0,)), ((0.0,), (1e39,))]
)
def test_bounds_that_are_none(low, high):
    with pytest.raises(UsageError, match="a finite low below a finite high"):
        BoxActions(low, high)
    if np.isfinite([*low, *high]).all():
        with pytest.raises(CheckpointError, match="a finite low below a finite high"):
            from_json(BoxActions, {"low": list(low), "high": list(high)}, "config.json")


@given(boxes())
def test_as_json(actions):
    assert from_json(BoxActions, to_json(actions), "config.json") == actions


@pytest.mark.parametrize("actions", [DiscreteActions(4), WHEEL])
def test_an_embedding_reads_any_leading_axes(actions):
    module = actions.embedding(6)
    drawn = torch.from_numpy(actions.uniform(np.random.default_rng(0), 10)).unflatten(0, (2, 5))
    assert module(drawn).shape == (2, 5, 6)
    assert torch.allclose(module(drawn)[1, 3], module(drawn[1, 3]))


def test_the_embedding_of_vectors_is_linear_in_what_the_bounds_make_of_them():
    module = WHEEL.embedding(4)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {"weight": (4, 3), "bias": (4,)}
    taken = torch.tensor([[1.0, 0.0, 5.0]])  # the upper bound, the lower, the middle
    expected = module.bias + module.weight @ torch.tensor([1.0, -1.0, 0.0])
    assert torch.allclose(module(taken)[0], expected, atol=1e-6)


def test_gymnasiums_wrappers_make_what_is_wanted():
    """What the error tells to do works."""
    env = gym.make("Pendulum-v1")
    assert actions_of(gym.wrappers.RescaleAction(env, -1, 1).action_space, "Pendulum-v1") == BoxActions((-1.0,), (1.0,))
    unbounded = gym.wrappers.ClipAction(env)
    assert not unbounded.action_space.is_bounded()
