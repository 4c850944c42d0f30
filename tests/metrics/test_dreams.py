"""Fidelity on worlds whose dreams are known: a copier, an oracle, and tables worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.config_json import from_json, to_json
from jedi_env.errors import UsageError
from jedi_env.metrics.dreams import (
    LEAST_LANES,
    FrameErrors,
    Measurement,
    clustered_error,
    confusion,
    frame_errors,
    measure,
    trusted_horizon,
)
from jedi_env.metrics.probe import Probe
from jedi_env.metrics.scores import Interval
from jedi_env.metrics.side_by_side import SideBySide, side_by_side
from tests.metrics.counting_world import LANES, H, K, World, play


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


def test_what_cannot_be_measured_is_refused():
    segment = play()
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


def test_one_group_alone_has_no_interval_and_is_not_trusted():
    sides = sides_with_errors([1.0] * LEAST_LANES, [4.0] * LEAST_LANES)
    (one,) = frame_errors(sides, (1,), torch.full((LEAST_LANES,), 3))
    assert (one.dream, one.copy, one.against_copy, one.against_random) == (1.0, 4.0, None, None)
    assert trusted_horizon([one]) == 0
    (two,) = frame_errors(sides, (1,), torch.arange(LEAST_LANES) // 2)
    assert trusted_horizon([two]) == 1


def test_the_error_of_a_mean_counts_what_groups_have_in_common():
    """Groups of eight equal values: as good as one value each. Of values each its own group: the usual error."""
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=40))
    usual = float(values.std()) / 40**0.5
    assert clustered_error(values, torch.arange(40)) == pytest.approx(usual)
    assert clustered_error(values.repeat_interleave(8), torch.arange(320) // 8) == pytest.approx(usual)
    assert clustered_error(values, torch.zeros(40)) is None


def test_the_error_of_a_mean_of_overlapping_windows_is_that_of_play_played_again():
    """Sums over windows of 20 of 2,000 draws: their mean differs from play to play as much as is told of one."""
    rng = np.random.default_rng(0)
    means, told = [], []
    for _ in range(300):
        sums = np.convolve(rng.random(2000) < 0.05, np.ones(20), "valid")
        starts = rng.choice(len(sums), 250, replace=False)
        means.append(sums[starts].mean())
        told.append(clustered_error(torch.from_numpy(sums[starts]), torch.from_numpy(starts // 100)))
    assert np.mean(told) == pytest.approx(np.std(means), rel=0.15)
    assert np.std(sums[starts]) / 250**0.5 < 0.6 * np.std(means)  # as if they did not overlap


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


def test_a_measurement_survives_json():
    segment = play(lanes=12)
    probe = Probe(("x",), torch.ones(2, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), (1.0,))
    result = measured(
        World(0.5), segment, probe=probe, numbers=segment.pixels[:, K - 1 :, 0, :1, 0].float(), groups=torch.arange(12)
    )
    assert from_json(Measurement, to_json(result), "measurement") == result
