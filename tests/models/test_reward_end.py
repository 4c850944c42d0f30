"""The reward/termination model: step by step as in one go, blind to the future, and its loss by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jedi_env.models.reward_end import RewardEnd, RewardEndConfig, RewardEndLogits, stacked

SHAPE, A, B, T = (2, 4, 4), 5, 3, 6
SMALL = RewardEndConfig(
    channels=(8, 16), depths=(1, 2), attention=(False, True), down=(False, True), cond_channels=12, lstm_dim=10
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks are initialised from torch's own stream."""
    torch.manual_seed(0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lively(config: RewardEndConfig) -> RewardEnd:
    model = RewardEnd(SHAPE, A, config)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            fan = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(1.5 * randn(*parameter.shape, seed=i) / math.sqrt(fan))
    return model


@pytest.fixture(scope="module", params=[True, False], ids=["sees next", "does not"])
def model(request) -> RewardEnd:
    return lively(replace(SMALL, sees_next=request.param))


def play(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, actions and next frames of a sequence."""
    frames = randn(B, T + 1, *SHAPE, seed=seed)
    actions = torch.randint(A, (B, T), generator=torch.Generator().manual_seed(seed))
    return frames[:, :-1], actions, frames[:, 1:]


def read(model: RewardEnd, frames: Tensor, actions: Tensor, after: Tensor) -> RewardEndLogits:
    return model(frames, actions, after, model.initial(len(frames), frames.device))[0]


@given(st.lists(st.integers(1, T), min_size=1, max_size=T), st.booleans())
def test_reading_in_pieces_is_reading_in_one_go(pieces, sees_next):
    model = lively(replace(SMALL, sees_next=sees_next))
    frames, actions, after = play()
    whole, (hidden, cell) = model(frames, actions, after, model.initial(B, frames.device))
    memory, at, rewards, ends = model.initial(B, frames.device), 0, [], []
    for size in [*pieces, T]:
        part = slice(at, min(at + size, T))
        if part.start == T:
            break
        logits, memory = model(frames[:, part], actions[:, part], after[:, part], memory)
        rewards.append(logits.reward)
        ends.append(logits.end)
        at = part.stop
    torch.testing.assert_close(torch.cat(rewards, dim=1), whole.reward, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat(ends, dim=1), whole.end, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(memory, (hidden, cell), atol=1e-5, rtol=1e-4)
    assert whole.reward.shape == (B, T, 3)
    assert whole.end.shape == (B, T, 2)
    assert hidden.shape == cell.shape == (B, 10)


def test_the_memory_starts_empty():
    hidden, cell = lively(SMALL).initial(2, torch.device("cpu"))
    assert hidden.shape == cell.shape == (2, 10)
    assert not hidden.any()
    assert not cell.any()


@pytest.mark.parametrize("t", range(T))
@pytest.mark.parametrize("what", ["frame", "action", "next"])
def test_a_change_shows_from_its_own_step_on(model, t, what):
    """No off-by-one: logits before ``t`` stay bit for bit; logits at ``t`` move, in its own lane alone."""
    frames, actions, after = (x.clone() for x in play())
    before = read(model, frames, actions, after)
    if what == "frame":
        frames[0, t] += randn(*SHAPE, seed=9)
    elif what == "action":
        actions[0, t] = (actions[0, t] + 1) % A
    else:
        after[0, t] += randn(*SHAPE, seed=9)
    changed = read(model, frames, actions, after)
    blind = what == "next" and not model.config.sees_next
    for old, new in zip(before, changed, strict=True):
        assert torch.equal(old[:, :t], new[:, :t])
        assert torch.equal(old[1:], new[1:])
        moved = (old[0, t:] - new[0, t:]).abs().amax(dim=-1) > 1e-5
        assert not moved.any() if blind else moved[0]


def test_without_the_next_frame_its_effect_waits_a_step():
    """What a frame shows is then read as the *frame* of the next step, and never as the outcome of this one."""
    model = lively(replace(SMALL, sees_next=False))
    g = play()
    frames = torch.cat((g[0], g[2][:, -1:]), dim=1)
    other = frames.clone()
    other[:, 3] += 1
    one = read(model, frames[:, :-1], g[1], frames[:, 1:])
    two = read(model, other[:, :-1], g[1], other[:, 1:])
    assert torch.equal(one.reward[:, :3], two.reward[:, :3])
    assert not torch.isclose(one.reward[:, 3], two.reward[:, 3]).any()


def test_a_frame_is_stacked_on_those_before_it_and_the_first_on_itself():
    frames = randn(B, T, *SHAPE)
    for depth in (1, 2, 4, T + 1):
        stack = stacked(frames, depth)
        assert stack.shape == (B, T, depth * SHAPE[0], *SHAPE[1:])
        for t in range(T):
            for back in range(depth):
                slot = slice((depth - 1 - back) * SHAPE[0], (depth - back) * SHAPE[0])
                assert torch.equal(stack[:, t, slot], frames[:, max(0, t - back)])


def slow_loss(logits: RewardEndLogits, rewards: Tensor, terminated: Tensor, mask: Tensor, weight: float) -> list[float]:
    """The two weighted mean cross-entropies, one transition at a time."""
    totals = [[0.0, 0.0], [0.0, 0.0]]
    for b, t in mask.nonzero().tolist():
        reward = rewards[b, t].item()
        place = 0 if reward < 0 else 1 if reward == 0 else 2
        ended = bool(terminated[b, t])
        for total, row, answer, rare in (
            (totals[0], logits.reward[b, t], place, reward != 0),
            (totals[1], logits.end[b, t], int(ended), ended),
        ):
            exponentials = [math.exp(x) for x in row.tolist()]
            counts = weight if rare else 1.0
            total[0] -= counts * math.log(exponentials[answer] / sum(exponentials))
            total[1] += counts
    return [error / weights for error, weights in totals]


@given(st.integers(0, 1000), st.sampled_from([1.0, 5.0]), st.floats(0.1, 1))
def test_the_loss_is_the_mean_cross_entropy_of_what_really_happened(seed, weight, kept):
    g = torch.Generator().manual_seed(seed)
    logits = RewardEndLogits(2 * torch.randn(B, T, 3, generator=g), 2 * torch.randn(B, T, 2, generator=g))
    rewards = 3.5 * torch.randint(-2, 3, (B, T), generator=g)  # any scale: only the sign is learned
    terminated, mask = torch.rand(B, T, generator=g) < 0.3, torch.rand(B, T, generator=g) < kept
    mask[0, 0] = True
    model = RewardEnd(SHAPE, A, replace(SMALL, event_weight=weight))
    got = model.loss(logits, rewards, terminated, mask)
    assert [x.item() for x in got] == pytest.approx(slow_loss(logits, rewards, terminated, mask, weight), rel=1e-4)


@given(st.lists(st.booleans(), min_size=B * T, max_size=B * T))
def test_a_masked_transition_changes_neither_loss_nor_gradient(mask):
    mask = torch.tensor(mask).reshape(B, T)
    model, g = lively(SMALL), torch.Generator().manual_seed(0)
    logits = [randn(B, T, 3), randn(B, T, 2)]
    rewards, terminated = torch.randint(-1, 2, (B, T), generator=g), torch.rand(B, T, generator=g) < 0.5
    results = []
    for change in (0, 1):
        given = [torch.where(mask[..., None], x, x + change).requires_grad_() for x in logits]
        changed_rewards = torch.where(mask, rewards, (rewards + 1 + change) % 3 - 1)
        loss = sum(model.loss(RewardEndLogits(*given), changed_rewards, terminated ^ (~mask & bool(change)), mask))
        loss.backward()
        results.append((loss.item(), [x.grad for x in given]))
    (loss, gradients), (other_loss, other_gradients) = results
    assert loss == other_loss
    assert (loss == 0) == (not mask.any())
    for one, other in zip(gradients, other_gradients, strict=True):
        assert torch.equal(one[mask], other[mask])
        assert not one[~mask].any()
        assert not other[~mask].any()


def test_every_weight_matters(model):
    frames, actions, after = play()
    logits = read(model, frames, actions, after)
    rewards, terminated, mask = torch.ones(B, T), torch.ones(B, T) > 0, torch.ones(B, T) > 0
    model.zero_grad()
    sum(model.loss(logits, rewards, terminated, mask)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("shape", "config", "parameters"),
    [
        ((16, 8, 8), RewardEndConfig(), 5_882_400),  # JEDI
        ((3, 64, 64), RewardEndConfig(down=(False, True, True, True)), 5_902_656),  # DIAMOND
    ],
)
def test_the_papers_sizes(shape, config, parameters):
    assert sum(p.numel() for p in RewardEnd(shape, 18, config).parameters()) == parameters
