"""Fidelity on worlds whose dreams are known: a copier, an oracle, and tables worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.config_json import from_json, to_json
from jedi_env.errors import UsageError
from jedi_env.metrics.dreams import (
    LEAST_LANES,
    PENALTIES,
    FrameErrors,
    Measurement,
    Probe,
    SideBySide,
    _ridge,
    confusion,
    fit_probe,
    frame_errors,
    measure,
    probe_readings,
    side_by_side,
    trusted_horizon,
)
from jedi_env.metrics.scores import Interval
from jedi_env.models.reward_end import RewardEndLogits
from jedi_env.models.reward_heads import SignHead
from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.types import Context, ModelState, Prediction, Segment
from tests.tiny_dream import LATENT, PIXEL, tiny_model

K, H, LANES = 3, 6, 40
SURE = 20.0  # a logit


class Rule:
    """Reads +1 where a frame grew by 2, an end where it grew by 3."""

    reward_head = SignHead()

    def initial(self, batch, device):
        return torch.zeros(batch, 1), torch.zeros(batch, 1)

    def __call__(self, frames, actions, next_frames, memory):
        grown = (next_frames - frames)[..., 0, 0, 0]
        reward = torch.stack((torch.zeros_like(grown), SURE * (grown != 2), SURE * (grown == 2)), -1)
        end = torch.stack((SURE * (grown != 3), SURE * (grown == 3)), -1)
        return RewardEndLogits(reward, end), memory


class World:
    """A frame is a number, twice; reality adds the action, and so does the dream by its ``share`` of it."""

    context_length = K
    reward_end = Rule()

    def __init__(self, share):
        self.share = share

    def encode(self, pixels):
        return pixels[..., :1, :2, 0].float()[..., None, :, :]

    def begin(self, context):
        none = torch.zeros(len(context), 1)
        return ModelState(context.frames, context.actions, none, none)

    def advance(self, state, actions, noise, steps=None):
        frame = state.frames[:, -1] + self.share * actions[:, None, None, None]
        logits, _ = self.reward_end(state.frames[:, -1:], actions[:, None], frame[:, None], (state.hidden, state.cell))
        reward, end = logits.reward[:, 0].softmax(-1), logits.end[:, 0].softmax(-1)[:, 1]
        after = ModelState(
            torch.cat((state.frames[:, 1:], frame[:, None]), 1),
            torch.cat((state.actions[:, 1:], actions[:, None]), 1),
            state.hidden,
            state.cell,
        )
        return after, Prediction(reward.argmax(-1) - 1.0, end > 0.5, reward, end)


def play(lanes=LANES, horizon=H, seed=0, after=0):
    """Segments of reality; an action 3 ends the episode, and what comes after it shows ``after``."""
    generator = torch.Generator().manual_seed(seed)
    length = K - 1 + horizon
    actions = torch.multinomial(torch.tensor([0.3, 0.3, 0.3, 0.1]), lanes * length, True, generator=generator)
    actions = actions.reshape(lanes, length)
    actions[:, : K - 1] %= 3
    actions[:, K - 1] %= 3
    ended = actions == 3
    over = ended.long().cumsum(1) - ended.long() > 0
    start = torch.randint(0, 50, (lanes, 1), generator=generator)
    values = torch.cat((start, start + actions.cumsum(1)), 1)
    values[:, 1:][over] = after
    pixels = torch.zeros(lanes, length + 1, 64, 64, 3, dtype=torch.uint8)
    pixels[:, :, 0, :2, 0] = values[..., None].to(torch.uint8)
    rewards = torch.where(over, 7.0 * after, 5.0 * (actions == 2))
    return Segment(pixels, actions, rewards, ended & ~over, ~over)


def rates(segment):
    signs = segment.rewards.sign()[segment.mask]
    ended = float(segment.terminated[segment.mask].double().mean())
    return [float((signs == sign).double().mean()) for sign in (-1, 0, 1)], [1 - ended, ended]


def measured(world, segment, **changes):
    reward_rates, end_rates = rates(play())
    arguments = {
        "horizons": (1, 2, 4, 6),
        "groups": torch.arange(len(segment)),
        "reward_rates": reward_rates,
        "end_rates": end_rates,
        **changes,
    }
    return measure(side_by_side(world, segment), None, **arguments)


def test_a_world_that_copies_is_exactly_as_good_as_copying():
    result = measured(World(0.0), play())
    assert [row.horizon for row in result.frames] == [1, 2, 4, 6]
    for row in result.frames:
        assert row.dream == row.copy > 0
        assert row.against_copy == Interval(1.0, 1.0, 1.0)
    assert result.trusted_horizon == 0
    for row in result.events[1:]:
        assert row.reward.recall[1:] == (1.0, 0.0)
        assert row.reward.false_alarm[2] == 0.0


def test_a_perfect_world_makes_no_error_and_is_trusted_as_far_as_was_looked():
    segment = play()
    result = measured(World(1.0), segment)
    for row in result.frames:
        assert row.dream == 0
        assert row.against_copy == row.against_random == Interval(0.0, 0.0, 0.0)
    assert result.trusted_horizon == H
    happened = segment.mask[:, K - 1 :]
    for row in result.events:
        some = happened if row.horizon == 0 else happened[:, row.horizon - 1 : row.horizon]
        paid = (segment.rewards[:, K - 1 :] > 0)[:, row.horizon - 1 : row.horizon] if row.horizon else None
        assert sum(map(sum, row.reward.counts)) == some.sum()
        assert row.reward.counts[0] == (0, 0, 0)
        assert row.reward.recall == (None, 1.0, 1.0)
        assert row.reward.precision[1:] == (1.0, 1.0)
        if paid is not None:
            assert row.reward.counts[2][2] == (paid & some).sum()
        if row.horizon != 1:  # no lane ends at its first step
            assert row.end.recall == (1.0, 1.0)
        assert row.dreamed_reward == pytest.approx(row.real_reward, abs=1e-6)
        assert row.dreamed_end == pytest.approx(row.real_end, abs=1e-6)
    for row in result.spread:
        assert row.std_dreamed == row.std_real > 0
        assert row.rank_dreamed == row.rank_real


def test_half_the_movement_leaves_a_quarter_of_the_squared_error():
    result = measured(World(0.5), play())
    for row in result.frames:
        assert row.dream == pytest.approx(row.copy / 4)
        assert row.against_copy.value == pytest.approx(0.25)


def test_the_errors_by_their_slow_definition():
    segment = play()
    values = segment.pixels[:, :, 0, 0, 0].double()
    result = measured(World(0.5), segment)
    for row in result.frames:
        lanes = [i for i in range(LANES) if bool(segment.mask[i, K - 1 : K - 1 + row.horizon].all())]
        assert row.lanes == len(lanes)
        moved = [float(values[i, K - 1 + row.horizon] - values[i, K - 1]) ** 2 for i in lanes]
        assert row.copy == pytest.approx(np.mean(moved))


def test_nothing_after_an_end_is_ever_looked_at():
    probe = Probe(("x",), torch.ones(2, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), (1.0,))
    results = []
    for garbage in (0, 200):
        segment = play(after=garbage)
        truth = segment.pixels[:, K - 1 :, 0, :1, 0].float()
        results.append(measured(World(0.5), segment, probe=probe, numbers=truth))
    assert results[0].frames[-1].lanes < LANES
    assert results[0] == results[1]


def test_events_around_which_lanes_were_drawn_count_only_where_something_happened():
    uniform, centred = play(), play(seed=1)
    reward_rates, end_rates = rates(uniform)
    sides = [side_by_side(World(0.0), segment) for segment in (uniform, centred)]
    both, alone, other = (
        measure(
            a,
            b,
            horizons=(2,),
            groups=torch.arange(LANES),
            reward_rates=reward_rates,
            end_rates=end_rates,
        ).events[1]
        for a, b in ((sides[0], sides[1]), (sides[0], None), (sides[1], None))
    )
    for part in ("reward", "end"):
        first, quiet = (2, 1) if part == "reward" else (1, 0)
        counts = [getattr(row, part).counts for row in (both, alone, other)]
        assert counts[0][quiet] == counts[1][quiet]
        assert counts[0][first] == tuple(a + b for a, b in zip(counts[1][first], counts[2][first], strict=True))
        assert sum(counts[2][first]) > 0
    assert (both.real_reward, both.dreamed_end) == (alone.real_reward, alone.dreamed_end)


# Rolling


@pytest.mark.parametrize("config", [LATENT, PIXEL])
def test_the_dream_is_the_models_own_and_a_lane_does_not_depend_on_its_neighbours(config):
    model, k = tiny_model(config), config.context_length
    generator = torch.Generator().manual_seed(0)
    length = k + 2
    segment = Segment(
        torch.randint(0, 256, (4, length + 1, 64, 64, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, 4, (4, length), generator=generator),
        torch.zeros(4, length),
        torch.zeros(4, length, dtype=torch.bool),
        torch.ones(4, length, dtype=torch.bool),
    )
    sides = side_by_side(model, segment, seed=7)
    assert (sides.horizon, len(sides)) == (3, 4)
    with torch.no_grad():
        frames = model.encode(segment.pixels)
        state = model.begin(Context(frames[:, :k], segment.actions[:, : k - 1]))
        memory = (state.hidden, state.cell)
        key = lane_keys([7, 8, 9, 10])
        assert torch.equal(sides.at(0)[0], sides.at(0)[1])
        for step in range(1, 4):
            t = k - 2 + step
            state, prediction = model.advance(state, segment.actions[:, t], LaneNoise(key, torch.full_like(key, t)))
            real, dreamed = sides.at(step)
            assert torch.equal(real, frames[:, t + 1])
            assert torch.equal(dreamed, state.frames[:, -1])
            assert torch.equal(sides.dreamed_reward[:, step - 1], prediction.reward_probs)
            assert torch.equal(sides.dreamed_end[:, step - 1], prediction.termination_prob)
            read, memory = model.reward_end(
                frames[:, t : t + 1], segment.actions[:, t : t + 1], frames[:, t + 1 : t + 2], memory
            )
            torch.testing.assert_close(sides.read_reward[:, step - 1], read.reward[:, 0].softmax(-1))
            torch.testing.assert_close(sides.read_end[:, step - 1], read.end[:, 0].softmax(-1)[:, 1])
    parts = SideBySide.join([side_by_side(model, segment[:1], 7), side_by_side(model, segment[1:], 8)])
    for name in ("dreamed", "dreamed_reward", "read_end"):
        one_level = 0.01 if config is PIXEL else 1e-5  # a pixel frame is rounded to 256 levels
        torch.testing.assert_close(getattr(parts, name), getattr(sides, name), rtol=1e-4, atol=one_level)


def test_what_cannot_be_measured_is_refused():
    segment = play()
    short = Segment(
        segment.pixels[:, :K],
        *(getattr(segment, name)[:, : K - 1] for name in ("actions", "rewards", "terminated", "mask")),
    )
    with pytest.raises(UsageError, match="2 transitions: give at least 3"):
        side_by_side(World(1.0), short)
    with pytest.raises(UsageError, match="at least two lanes"):
        measured(World(1.0), segment[:1])
    with pytest.raises(UsageError, match="from 0 to 6"):
        measured(World(1.0), segment, horizons=(7,))
    probe = Probe(("x",), torch.ones(2, 1), torch.zeros(1), (1.0,))
    with pytest.raises(UsageError, match="give numbers="):
        measured(World(1.0), segment, probe=probe)


# Frame errors and trust


def sides_with_errors(dream, copy):
    """Lanes whose dreamed frame 1 is off by sqrt(dream), and the last context frame by sqrt(copy)."""
    n = len(dream)
    dream, copy = torch.tensor(dream) ** 0.5, torch.tensor(copy) ** 0.5
    real = torch.stack((-copy, torch.zeros(n)), 1).reshape(n, 2, 1, 1, 1)
    dreamed = torch.stack((-copy, dream), 1).reshape(n, 2, 1, 1, 1)
    none = torch.zeros(n, 1)
    return SideBySide(
        real, dreamed, torch.ones(n, 2, dtype=torch.bool), none.long(), none > 0, torch.zeros(n, 1, 3), none, none, none
    )


def test_the_ratio_is_of_means_and_its_interval_is_over_groups():
    sides = sides_with_errors([1.0, 1.0, 1.0, 9.0], [4.0, 4.0, 4.0, 4.0])
    (row,) = frame_errors(sides, (1,), torch.tensor([0, 0, 1, 1]))
    assert row.against_copy.value == pytest.approx(12 / 16)
    # Two groups: a resample holds one twice or both; their ratios are 2/8 and 10/8.
    assert (row.against_copy.low, row.against_copy.high) == pytest.approx((0.25, 1.25))
    (together,) = frame_errors(sides, (1,), torch.tensor([3, 3, 3, 3]))
    assert together.against_copy.low == together.against_copy.high == together.against_copy.value


def test_where_copying_makes_no_error_nothing_beats_it():
    (row,) = frame_errors(sides_with_errors([0.0, 0.0], [0.0, 0.0]), (1,), torch.arange(2))
    assert row.against_copy is None
    assert trusted_horizon([row]) == 0


def test_the_interval_is_that_of_a_bootstrap_written_out():
    rng = np.random.default_rng(0)
    dream, copy = rng.gamma(1.0, 1.0, 60), rng.gamma(2.0, 1.0, 60)
    (row,) = frame_errors(sides_with_errors(dream, copy), (1,), torch.arange(60), resamples=4000)
    picks = rng.integers(0, 60, (4000, 60))
    low, high = np.quantile(dream[picks].sum(1) / copy[picks].sum(1), [0.025, 0.975])
    assert (row.against_copy.low, row.against_copy.high) == pytest.approx((low, high), abs=0.02)


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3 * LEAST_LANES), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_trust_ends_at_the_first_horizon_without_it(rows):
    table, expected, trusted = [FrameErrors(0, 99, 0.0, 0.0, 1.0, None, None)], 0, True
    for k, (below, lanes, known) in enumerate(rows, start=1):
        high = 0.99 if below else 1.0
        table.append(FrameErrors(k, lanes, 1.0, 1.0, 1.0, Interval(0.5, 0.4, high) if known else None, None))
        trusted = trusted and below and known and lanes >= LEAST_LANES
        expected = k if trusted else expected
    assert trusted_horizon(table) == expected
    assert trusted_horizon(table[::-1]) == expected


def test_trust_on_a_table_by_hand():
    def row(k, value, high):
        return FrameErrors(k, 50, 1.0, 1.0, 1.0, Interval(value, 0.0, high), None)

    assert trusted_horizon([row(1, 0.5, 0.6), row(5, 0.7, 0.9), row(10, 0.9, 1.01), row(15, 0.5, 0.6)]) == 5
    assert trusted_horizon([row(1, 0.9, 1.0)]) == 0
    assert trusted_horizon([]) == 0


# Confusion


def test_confusion_by_hand():
    classes = torch.tensor([0, 0, 0, 0, 1, 1])
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2]])
    table = confusion(classes, probs, [0.9, 0.1])
    assert table.counts == ((3, 1), (1, 1))
    assert table.probabilities[0] == pytest.approx((0.6, 0.4))
    assert table.probabilities[1] == pytest.approx((0.55, 0.45))
    assert table.recall == (0.75, 0.5)
    # At the rates, of 1000 transitions 900 are 0 (225 false alarms) and 100 are 1 (50 hits).
    assert table.precision[1] == pytest.approx(50 / 275)
    assert table.false_alarm == pytest.approx((0.5, 0.25))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_at_the_rates_of_the_sample_precision_is_that_of_the_counts(pairs):
    real, said = (np.array(column) for column in zip(*pairs, strict=True))
    probs = torch.nn.functional.one_hot(torch.tensor(said), 3).float()
    table = confusion(torch.tensor(real), probs, [float((real == c).mean()) for c in range(3)])
    for c in range(3):
        assert table.recall[c] == (pytest.approx((said[real == c] == c).mean()) if (real == c).any() else None)
        if (real == c).any() and (said == c).any():
            assert table.precision[c] == pytest.approx((real[said == c] == c).mean())
        if (real != c).any():
            assert table.false_alarm[c] == pytest.approx((said[real != c] == c).mean())


# Probing


@pytest.mark.parametrize(("n", "d"), [(60, 8), (12, 30)])
def test_ridge_is_the_least_squares_solution_of_the_stacked_system(n, d):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)) * rng.uniform(0.1, 9, d) + rng.normal(size=d), rng.normal(size=(n, 2)) + 5
    z = (x - x.mean(0)) / x.std(0)
    for penalty, (w, b) in zip((0.01, 3.0), _ridge(torch.tensor(x), torch.tensor(y), (0.01, 3.0)), strict=True):
        stacked = np.vstack(
            (np.hstack((z, np.ones((n, 1)))) / n**0.5, np.hstack((penalty**0.5 * np.eye(d), np.zeros((d, 1)))))
        )
        expected, *_ = np.linalg.lstsq(stacked, np.vstack((y / n**0.5, np.zeros((d, 2)))), rcond=None)
        np.testing.assert_allclose(x @ w.numpy() + b.numpy(), z @ expected[:-1] + expected[-1], atol=1e-9)


def linear_world(n=400, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    frames = torch.tensor(rng.normal(size=(n, 2, 3, 2)))
    weights = rng.normal(size=(12, 2))
    numbers = torch.tensor(frames.flatten(1).numpy() @ weights + [100, -3] + noise * rng.normal(size=(n, 2)))
    return frames, numbers, torch.arange(n) // 20, weights


def test_a_linear_number_is_read_exactly():
    frames, numbers, groups, weights = linear_world()
    probe = fit_probe(["x", "y"], frames, numbers, groups)
    np.testing.assert_allclose(probe.weights, weights, atol=1e-2)
    np.testing.assert_allclose(probe.read(frames), numbers, atol=0.05)
    assert probe.penalties == (PENALTIES[0],) * 2


def test_the_penalty_is_chosen_for_each_number_on_other_groups():
    frames, numbers, groups, _ = linear_world(n=60)
    numbers[:, 1] = torch.tensor(np.random.default_rng(1).normal(size=60))  # says nothing of the frame
    probe = fit_probe(["x", "noise"], frames, numbers, groups)
    assert probe.penalties[0] == PENALTIES[0]
    assert probe.penalties[1] > 0.1


def test_frames_in_which_a_number_is_not_there_do_not_count_for_it():
    frames, numbers, groups, _ = linear_world(noise=0.3)
    gone = torch.arange(400) % 3 == 0
    numbers[gone, 0] = torch.nan
    probe = fit_probe(["x", "y"], frames, numbers, groups)
    alone = fit_probe(["x"], frames[~gone], numbers[~gone, :1], groups[~gone])
    torch.testing.assert_close(probe.weights[:, :1], alone.weights)
    whole = fit_probe(["y"], frames, numbers[:, 1:], groups)
    torch.testing.assert_close(probe.weights[:, 1:], whole.weights)


def test_an_element_that_never_changes_is_no_trouble():
    frames, numbers, groups, _ = linear_world()
    frames[:, 0, 0, 0] = 4.0
    probe = fit_probe(["x", "y"], frames, numbers, groups)
    assert bool((probe.weights[0] == 0).all())
    assert bool(probe.read(frames).isfinite().all())


def test_a_probe_needs_two_groups():
    frames, numbers, groups, _ = linear_world()
    with pytest.raises(UsageError, match="x is there in 1 groups"):
        fit_probe(["x", "y"], frames, numbers, groups * 0)


def test_readings_of_known_dreams():
    segment = play()
    sides = side_by_side(World(0.0), segment)
    probe = Probe(
        ("a", "b"), torch.tensor([[1.0, 0.5], [0.0, 0.5]]).double(), torch.tensor([10.0, 0.0]).double(), (1.0, 1.0)
    )
    values = segment.pixels[:, K - 1 :, 0, 0, 0].float()
    truth = torch.stack((values + 10, values), -1)
    truth[::2, :, 1] = torch.nan
    rows = {(row.name, row.horizon): row for row in probe_readings(sides, probe, truth, (0, 4))}
    valid = sides.valid[:, 4]
    assert (rows["a", 0].lanes, rows["b", 0].lanes) == (LANES, LANES // 2)
    assert (rows["a", 0].r2, rows["a", 0].error) == (1.0, 0.0)
    later = rows["a", 4]
    assert later.lanes == valid.sum() < LANES
    assert rows["b", 4].lanes == valid[1::2].sum()
    assert (later.r2_encoded, later.error_encoded) == (1.0, 0.0)
    y, still = values[valid, 4].double().numpy(), values[valid, 0].double().numpy()
    assert later.error == later.error_still == pytest.approx(np.abs(y - still).mean())
    assert later.r2 == pytest.approx(1 - ((y - still) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    constant = probe_readings(sides, probe, torch.full_like(truth, 3.0), (1,))[0]
    assert constant.r2 is None
    assert constant.error > 0
    absent = probe_readings(sides, probe, torch.full_like(truth, torch.nan), (1,))[0]
    assert (absent.lanes, absent.error, absent.r2) == (0, None, None)


def test_a_measurement_survives_json():
    segment = replace(play(lanes=12))
    probe = Probe(("x",), torch.ones(2, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), (1.0,))
    result = measured(
        World(0.5), segment, probe=probe, numbers=segment.pixels[:, K - 1 :, 0, :1, 0].float(), groups=torch.arange(12)
    )
    assert from_json(Measurement, to_json(result), "measurement") == result
