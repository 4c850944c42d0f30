"""The two readings of rewards: signs, and two-hot over symlog bins."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.models.reward_heads import (
    SYMLOG_BINS,
    SYMLOG_LIMIT,
    SignHead,
    SymlogHead,
    symexp,
    symlog,
    two_hot,
)

HEAD = SymlogHead()
BINS = symexp(torch.linspace(-SYMLOG_LIMIT, SYMLOG_LIMIT, SYMLOG_BINS))
MOST = BINS[-1].item()
rewards = st.floats(-2e4, 2e4, width=32)


@given(st.floats(-1e6, 1e6))
def test_symexp_is_the_inverse_of_symlog(x):
    x = torch.tensor(x, dtype=torch.float64)
    assert symexp(symlog(x)).item() == pytest.approx(x.item(), rel=1e-9, abs=1e-12)
    assert symlog(x).item() == -symlog(-x).item()


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_symlog_keeps_the_order_and_is_close_to_nothing_done_near_zero(x, y):
    x, y = torch.tensor((x, y), dtype=torch.float64)
    assert bool(symlog(x) < symlog(y)) == bool(x < y) or bool(symlog(x) == symlog(y))
    assert symlog(torch.tensor(1e-4)).item() == pytest.approx(1e-4, rel=1e-3)


@given(st.lists(rewards, min_size=1, max_size=5))
def test_two_hot_is_two_neighbours_whose_mean_is_the_number(numbers):
    x = torch.tensor(numbers)
    weights = two_hot(x, BINS)
    assert weights.shape == (len(numbers), SYMLOG_BINS)
    assert (weights >= 0).all()
    assert weights.sum(dim=-1).tolist() == pytest.approx([1.0] * len(numbers), abs=1e-6)
    mean = (weights.double() * BINS.double()).sum(dim=-1)
    assert mean.tolist() == pytest.approx(numbers, rel=1e-5, abs=1e-6)
    for row in weights:
        there = row.nonzero().flatten()
        assert len(there) <= 2
        assert there[-1] - there[0] <= 1


def test_two_hot_beyond_and_on_the_bins():
    assert two_hot(torch.tensor([-1e9, 1e9]), BINS).argmax(dim=-1).tolist() == [0, SYMLOG_BINS - 1]
    assert torch.allclose(two_hot(BINS, BINS), torch.eye(SYMLOG_BINS), atol=1e-6)


def test_the_bins_are_symmetric_about_zero():
    assert BINS[SYMLOG_BINS // 2] == 0
    assert torch.equal(BINS, -BINS.flip(0))
    assert pytest.approx(22_025, rel=1e-4) == MOST


@given(st.lists(rewards, min_size=2, max_size=6))
def test_a_dream_that_is_sure_pays_what_the_game_paid(numbers):
    paid = torch.tensor(numbers)
    logits = two_hot(paid, BINS).clamp(min=1e-30).log()
    assert HEAD.draw(logits, torch.zeros(len(numbers))).tolist() == pytest.approx(numbers, rel=1e-4, abs=1e-4)


def test_a_dream_that_is_not_sure_pays_what_the_game_pays_on_average():
    """The minimum of the loss over what comes at random is the distribution, and its mean the mean."""
    paid = torch.tensor([100.0] * 3 + [0.0] * 5 + [-0.5] * 2)
    logits = torch.zeros(SYMLOG_BINS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        HEAD.errors(logits.expand(len(paid), -1), paid).mean().backward()
        optimizer.step()
    assert HEAD.draw(logits.detach(), torch.zeros(())).item() == pytest.approx(paid.mean().item(), rel=0.02)
    assert HEAD.class_probs(logits.detach()).tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.02)


def test_the_cross_entropy_by_hand():
    logits = torch.randn(2, 3, SYMLOG_BINS, generator=torch.Generator().manual_seed(0))
    paid = torch.tensor([[0.0, 1.0, -3.5], [700.0, -0.1, 1e9]])
    for i, row in enumerate(paid):
        for j, reward in enumerate(row.clamp(-MOST, MOST)):
            above = int((reward > BINS).sum().clamp(1, SYMLOG_BINS - 1))
            share = (reward - BINS[above - 1]) / (BINS[above] - BINS[above - 1])
            chances = logits[i, j].softmax(dim=-1)
            by_hand = -((1 - share) * chances[above - 1].log() + share * chances[above].log())
            assert HEAD.errors(logits, paid)[i, j].item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_what_is_nearly_nothing_counts_as_nothing():
    """The class is that of the nearest bin, so that a sure head's likeliest class is the reward's."""
    paid = torch.tensor([-100.0, -0.15, -0.14, -0.1, 0.0, 0.1, 0.14, 0.15, 3.0])
    assert HEAD.classes(paid).tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2]
    sure = HEAD.class_probs(two_hot(paid, BINS).log())
    assert sure.argmax(dim=-1).tolist() == HEAD.classes(paid).tolist()
    assert sure.sum(dim=-1).tolist() == pytest.approx([1.0] * len(paid))
    assert SignHead().classes(paid).tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 2]


def test_what_is_learned_and_its_size():
    paid = torch.tensor([-3.0, 0.0, 4.0])
    assert SignHead().learned(paid).tolist() == [-1, 0, 1]
    assert HEAD.learned(paid).tolist() == paid.tolist()
    assert HEAD.learned(torch.tensor([1e9])).item() == MOST
    returns = paid.double().numpy()
    assert SignHead().scale(returns) == 1.0
    assert HEAD.scale(returns) == pytest.approx((25 / 3) ** 0.5)
    assert HEAD.scale(0 * returns) == 1.0
