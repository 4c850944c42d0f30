"""The linear probe, on frames of which the numbers are known."""

import numpy as np
import pytest
import torch

from jedi_env.errors import UsageError
from jedi_env.metrics.probe import PENALTIES, Probe, _ridge, fit_probe, probe_readings
from jedi_env.metrics.side_by_side import side_by_side
from tests.metrics.counting_world import LANES, K, World, play


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
