"""Scores against the papers' printed aggregates, rliable's recorded intervals, exact fractions and closed forms."""

import dataclasses
import itertools
import json
import math
import re
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedi_env import metrics
from jedi_env.errors import UsageError
from jedi_env.games import GAMES
from jedi_env.metrics import (
    AGENT_OPTIMAL,
    HUMAN_OPTIMAL,
    HUMAN_SCORES,
    RANDOM_SCORES,
    Interval,
    aggregate,
    human_normalized,
    published,
    published_methods,
    published_scores,
    published_seed_scores,
)

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
STATISTICS = [field.name for field in dataclasses.fields(metrics.Aggregate) if field.type is Interval]
WITH_ALL_SEEDS = [name for name, record in published().items() if len(record.seed_scores) == 26]


def raw(game, hns):
    """The raw score of a human-normalised one."""
    return RANDOM_SCORES[game] + hns * (HUMAN_SCORES[game] - RANDOM_SCORES[game])


def values(result):
    return {name: getattr(result, name).value for name in STATISTICS}


@st.composite
def scores_by_game(draw, lowest=-0.09):
    """Raw scores of one to six games, one to four seeds each, not absurdly far below random."""
    games = draw(st.lists(st.sampled_from(GAMES), min_size=1, max_size=6, unique=True))
    seeds = draw(st.integers(1, 4))
    hns = st.lists(st.floats(lowest, 8, allow_subnormal=False), min_size=seeds, max_size=seeds)
    return {game: [raw(game, value) for value in draw(hns)] for game in games}


# The papers


@pytest.mark.parametrize(
    ("method", "mean", "iqm"),
    [
        ("SimPLe", 0.332, 0.130),
        ("TWM", 0.956, 0.459),
        ("IRIS", 1.046, 0.501),
        ("STORM_repo", 1.222, 0.561),
        ("DIAMOND", 1.459, 0.641),
        ("REM", 1.222, 0.673),
        ("Simulus", 1.645, 0.990),
    ],
)
def test_the_seeds_give_the_printed_aggregates(method, mean, iqm):
    result = aggregate(published_seed_scores(method), resamples=1)
    assert result.mean.value == pytest.approx(mean, abs=1e-3)
    assert result.iqm.value == pytest.approx(iqm, abs=1e-3)
    assert (result.seeds, result.games) == (5, GAMES)


def test_diamond_in_full():
    result = values(aggregate(published_seed_scores("DIAMOND"), resamples=1))
    assert result == pytest.approx(
        {
            "mean": 1.459,
            "median": 0.373,
            "iqm": 0.641,
            "optimality_gap": 0.480,
            "har_hns": 0.3194,
            "agent_optimal": 2.791,
            "human_optimal": 0.127,
            "ratio": 22.0,
            "superhuman": 11,
        },
        abs=1e-3,
        rel=1e-3,
    )


def test_storm_as_printed_is_its_seeds_with_the_printed_freeway():
    seeds = published_seed_scores("STORM_repo")
    assert seeds["Freeway"] == [0.0] * 5
    result = aggregate({**seeds, "Freeway": [published_scores("STORM")["Freeway"]] * 5}, resamples=1)
    assert result.mean.value == pytest.approx(1.266, abs=1e-3)
    assert result.iqm.value == pytest.approx(0.636, abs=1e-3)


@pytest.mark.parametrize(
    ("method", "mean", "agent_optimal", "human_optimal"),
    [
        ("STORM", 1.266, 2.293, 0.238),
        ("DIAMOND", 1.459, 2.791, 0.127),
        ("MuZero", 0.562, 0.884, 0.240),
        ("SPR", 0.616, 1.082, 0.150),
        ("SR-SPR", 1.271, 2.196, 0.347),
        ("EfficientZero", 1.943, 2.912, 0.973),
        ("BBF", 2.247, 3.573, 0.922),
    ],
)
def test_the_printed_game_scores_give_the_printed_means(method, mean, agent_optimal, human_optimal):
    result = aggregate({game: [score] for game, score in published_scores(method).items()}, resamples=1)
    assert result.mean.value == pytest.approx(mean, abs=1e-3)
    assert result.agent_optimal.value == pytest.approx(agent_optimal, abs=1e-3)
    assert result.human_optimal.value == pytest.approx(human_optimal, abs=1e-3)
    assert result.ratio.value == pytest.approx(result.agent_optimal.value / result.human_optimal.value)
    assert result.seeds == 1


def test_the_halves_are_the_papers_rule():
    def average(game):
        four = [
            human_normalized({game: [published_scores(m)[game]]})[game] for m in ("IRIS", "TWM", "DreamerV3", "STORM")
        ]
        return np.mean(four)

    assert set(AGENT_OPTIMAL) == {game for game in GAMES if average(game) > 0.75}
    assert len(AGENT_OPTIMAL) == len(HUMAN_OPTIMAL) == 13
    assert {*AGENT_OPTIMAL, *HUMAN_OPTIMAL} == set(GAMES)


# rliable 1.2.0 (get_interval_estimates, 10,000 repetitions, RandomState(0)) on the same human-normalised scores
RLIABLE = {
    "IRIS": {
        "mean": (1.0459, 0.9649, 1.1273),
        "median": (0.2888, 0.2490, 0.4152),
        "iqm": (0.5012, 0.4425, 0.5634),
        "optimality_gap": (0.5117, 0.4913, 0.5330),
    },
    "DIAMOND": {
        "mean": (1.4590, 1.3578, 1.5665),
        "median": (0.3734, 0.3093, 0.4906),
        "iqm": (0.6408, 0.5787, 0.7070),
        "optimality_gap": (0.4802, 0.4648, 0.4959),
    },
    "STORM_repo": {
        "mean": (1.2221, 1.1314, 1.3115),
        "median": (0.4246, 0.3601, 0.5182),
        "iqm": (0.5611, 0.5107, 0.6154),
        "optimality_gap": (0.4717, 0.4517, 0.4933),
    },
}


@pytest.mark.parametrize("method", RLIABLE)
def test_the_intervals_are_those_of_rliable(method):
    result = aggregate(published_seed_scores(method))
    for name, (value, low, high) in RLIABLE[method].items():
        ours, noise = getattr(result, name), 0.05 * (high - low)
        assert ours.value == pytest.approx(value, abs=6e-5)
        assert ours.low == pytest.approx(low, abs=noise)
        assert ours.high == pytest.approx(high, abs=noise)


# Definitions, slowly


def slowly(scores):
    """Every statistic from its definition, in exact fractions."""

    def mean(numbers):
        return sum(numbers) / Fraction(len(numbers))

    hns = {}
    for game, numbers in scores.items():
        random, human = Fraction(RANDOM_SCORES[game]), Fraction(HUMAN_SCORES[game])
        hns[game] = [(Fraction(number) - random) / (human - random) for number in numbers]
    by_game = {game: mean(numbers) for game, numbers in hns.items()}
    runs = sorted(itertools.chain(*hns.values()))
    quarter = math.floor(len(runs) * 0.25)
    for _ in range(quarter):
        runs.remove(min(runs))
        runs.remove(max(runs))
    exact = {
        "mean": mean(list(by_game.values())),
        "median": statistics.median(by_game.values()),
        "iqm": mean(runs),
        "optimality_gap": mean([1 - min(run, Fraction(1)) for run in itertools.chain(*hns.values())]),
        "har_hns": 1 / mean([1 / (number + Fraction(1, 10)) for number in by_game.values()]),
    }
    for name, half in (("agent_optimal", AGENT_OPTIMAL), ("human_optimal", HUMAN_OPTIMAL)):
        present = [number for game, number in by_game.items() if game in half]
        exact[name] = mean(present) if present else math.nan
    return {name: float(value) for name, value in exact.items()}, by_game


@given(scores_by_game())
def test_every_statistic_is_its_definition(scores):
    result = values(aggregate(scores, games=scores, resamples=1))
    slow, by_game = slowly(scores)
    assert {name: result[name] for name in slow} == pytest.approx(slow, rel=1e-6, abs=1e-9, nan_ok=True)
    if slow["human_optimal"] > 1e-6:
        ratio = slow["agent_optimal"] / slow["human_optimal"]
        assert result["ratio"] == pytest.approx(ratio, rel=1e-6, abs=1e-9, nan_ok=True)
    above, about = (sum(number > 1 + slack for number in by_game.values()) for slack in (1e-9, -1e-9))
    assert above <= result["superhuman"] <= about


def test_a_human_scores_one_and_random_play_zero():
    human = values(aggregate({game: [HUMAN_SCORES[game]] * 2 for game in GAMES}))
    expected = dict.fromkeys(("mean", "median", "iqm", "agent_optimal", "human_optimal", "ratio"), 1.0)
    assert human == pytest.approx({**expected, "optimality_gap": 0, "har_hns": 1.1, "superhuman": 0})
    random = values(aggregate({game: [RANDOM_SCORES[game]] * 2 for game in GAMES}))
    zeros = dict.fromkeys(("mean", "median", "iqm", "agent_optimal", "human_optimal", "superhuman"), 0.0)
    assert random == pytest.approx({**zeros, "optimality_gap": 1, "har_hns": 0.1, "ratio": math.nan}, nan_ok=True)


def test_human_normalized_keeps_the_seeds_in_their_order():
    result = human_normalized({"Pong": [14.6, -20.7, 21], "Boxing": np.array([6, 12], dtype=np.int32)})
    assert result["Pong"] == pytest.approx([1, 0, 41.7 / 35.3])
    assert result["Boxing"] == pytest.approx([5.9 / 12, 11.9 / 12])
    assert result["Boxing"].dtype == np.float64


# Properties


@given(scores_by_game(), st.randoms(use_true_random=False))
def test_no_order_matters(scores, random):
    shuffled = {
        game: random.sample(scores[game], len(scores[game])) for game in random.sample(list(scores), len(scores))
    }
    one, other = (aggregate(given, games=given, resamples=20) for given in (scores, shuffled))
    assert repr(one) == repr(other)  # repr: equal to the bit, and nan is itself


@given(scores_by_game(), st.data())
def test_a_better_run_makes_nothing_worse(scores, data):
    game = data.draw(st.sampled_from(sorted(scores)))
    seed = data.draw(st.integers(0, len(scores[game]) - 1))
    gain = data.draw(st.floats(0, 5)) * (HUMAN_SCORES[game] - RANDOM_SCORES[game])
    better = {**scores, game: [score + gain * (i == seed) for i, score in enumerate(scores[game])]}
    before, after = (values(aggregate(given, games=given, resamples=1)) for given in (scores, better))
    for name in set(STATISTICS) - {"optimality_gap", "ratio"}:
        assert not after[name] < before[name] - 1e-9
    assert after["optimality_gap"] <= before["optimality_gap"] + 1e-9


@given(scores_by_game())
def test_every_statistic_stays_in_its_bounds(scores):
    result = aggregate(scores, games=scores, resamples=50)
    hns = human_normalized(scores)
    lowest, highest = min(map(min, hns.values())), max(map(max, hns.values()))
    for name in ("mean", "median", "iqm"):
        interval = getattr(result, name)
        assert lowest - 1e-9 <= interval.low <= interval.value <= interval.high <= highest + 1e-9
    gap = result.optimality_gap
    assert -1e-9 <= gap.low <= gap.value <= gap.high <= max(0, 1 - lowest) + 1e-9
    assert lowest + 0.1 - 1e-9 <= result.har_hns.value <= result.mean.value + 0.1 + 1e-9  # harmonic <= arithmetic
    assert 0 <= result.har_hns.low <= result.har_hns.value <= result.har_hns.high
    assert 0 <= result.superhuman.low <= result.superhuman.value <= result.superhuman.high <= len(scores)
    for name, half in (("agent_optimal", AGENT_OPTIMAL), ("human_optimal", HUMAN_OPTIMAL)):
        interval = getattr(result, name)
        assert math.isnan(interval.value) == (not set(half) & set(scores))
        assert math.isnan(interval.value) or interval.low <= interval.value <= interval.high
    assert math.isnan(result.ratio.value) or result.ratio.low <= result.ratio.value <= result.ratio.high


# The bootstrap


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    scores = published_seed_scores("DIAMOND")
    one = aggregate(scores, seed=3, resamples=500)
    assert aggregate(scores, seed=3, resamples=500) == one
    other = aggregate(scores, seed=4, resamples=500)
    assert values(other) == values(one)
    assert other.mean.low != one.mean.low
    assert (one.seed, one.resamples, other.seed) == (3, 500, 4)


def test_the_interval_of_the_mean_is_the_normal_one():
    """The mean of a stratified resample has variance sum(var_g / seeds) / games^2, and is nearly normal."""
    rng = np.random.default_rng(0)
    scores = {game: [raw(game, value) for value in rng.uniform(0, 2, 40)] for game in GAMES}
    hns = np.stack(list(human_normalized(scores).values()))
    half_width = statistics.NormalDist().inv_cdf(0.975) * math.sqrt((hns.var(1) / 40).sum()) / 26
    interval = aggregate(scores).mean
    assert interval.high - interval.value == pytest.approx(half_width, rel=0.05)
    assert interval.value - interval.low == pytest.approx(half_width, rel=0.05)


def test_seeds_are_resampled_within_their_game():
    """Games differ, seeds do not: a stratified bootstrap has nothing to vary, a plain one would."""
    result = aggregate({game: [raw(game, i / 10)] * 3 for i, game in enumerate(GAMES)}, resamples=200)
    for name in STATISTICS:
        interval = getattr(result, name)
        assert interval.low == pytest.approx(interval.value)
        assert interval.high == pytest.approx(interval.value)


def test_memory_does_not_grow_with_the_resamples(monkeypatch):
    """However few resamples fit into a block, there are as many as asked for."""
    scores = published_seed_scores("REM")
    whole = aggregate(scores, resamples=1000)
    monkeypatch.setattr("jedi_env.metrics.scores.BLOCK", 7 * 26 * 5)
    blocks = aggregate(scores, resamples=1000)
    width = whole.iqm.high - whole.iqm.low
    assert blocks.iqm.low == pytest.approx(whole.iqm.low, abs=0.1 * width)
    assert blocks.iqm.high == pytest.approx(whole.iqm.high, abs=0.1 * width)


def test_an_interval_is_widened_to_reach_its_value():
    """Every game a little above human on average: nearly every resample counts fewer superhuman games."""
    result = aggregate({game: [raw(game, 0), raw(game, 2.02)] for game in GAMES})
    assert result.superhuman.high == result.superhuman.value == 26
    assert result.superhuman.low < 20


@pytest.mark.parametrize(
    ("game", "low", "high"), [("Boxing", raw("Boxing", -0.5), raw("Boxing", 1.5)), ("Krull", 1491.25, 2665.5)]
)
def test_har_hns_of_a_resample_far_below_random_is_its_limit(game, low, high):
    """Below HNS -0.1, and at -0.1 itself, where one divides by zero."""
    result = aggregate({game: [low, high]}, games=[game])
    assert result.har_hns.value == pytest.approx(np.mean(human_normalized({game: [low, high]})[game]) + 0.1)
    assert result.har_hns.low == 0


def test_har_hns_of_a_game_far_below_random_is_not_defined_and_the_rest_is():
    result = aggregate({"Boxing": [-2.0, -1.0], "Pong": [20.0, 20.0]}, games=["Boxing", "Pong"])
    assert np.isnan([result.har_hns.value, result.har_hns.low, result.har_hns.high]).all()
    assert result.mean.value == pytest.approx(np.mean([(-1.5 - 0.1) / 12.0, (20 + 20.7) / (14.6 + 20.7)]))


def test_the_ratio_has_no_upper_end_where_the_human_half_may_be_nothing():
    scores = {"Pong": [raw("Pong", 1)] * 2, "Alien": [raw("Alien", -0.04), raw("Alien", 0.14)]}
    ratio = aggregate(scores, games=scores).ratio
    assert ratio.value == pytest.approx(20)
    assert ratio.low == pytest.approx(1 / 0.14)
    assert ratio.high == math.inf
    nothing = aggregate({**scores, "Alien": [raw("Alien", -0.01)] * 2}, games=scores).ratio
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


# Some games only


def test_games_chooses_and_the_result_says_so():
    scores = published_seed_scores("DIAMOND")
    whole = aggregate(scores)
    half = aggregate(scores, games=reversed(HUMAN_OPTIMAL))
    assert half.games == HUMAN_OPTIMAL
    assert half.mean.value == half.human_optimal.value == pytest.approx(whole.human_optimal.value)
    assert math.isnan(half.agent_optimal.value)
    assert math.isnan(half.ratio.value)
    assert aggregate({"Pong": [20.0]}, games="Pong").games == ("Pong",)


FULL = {game: [HUMAN_SCORES[game]] * 2 for game in GAMES}


@pytest.mark.parametrize(
    ("scores", "arguments", "says"),
    [
        ({k: v for k, v in FULL.items() if k not in ("Hero", "Pong")}, {}, ["2 of 26", "Hero, Pong", "games="]),
        ({"Pong": [1.0]}, {"games": ("Pong", "Hero")}, ["1 of 2", ": Hero.", "games="]),
        ({**FULL, "Pacman": [1.0]}, {}, ["'Pacman'", "Did you mean 'MsPacman'?"]),
        (FULL, {"games": ["breakout"]}, ["'breakout'", "Did you mean 'Breakout'?"]),
        (FULL, {"games": []}, ["games= is empty"]),
        ({**FULL, "Hero": []}, {}, ["Hero", "at least one"]),
        ({**FULL, "Hero": 1.0}, {}, ["Hero", "list"]),
        ({**FULL, "Hero": "12"}, {}, ["Hero", "list"]),
        ({**FULL, "Hero": ["1", "2"]}, {}, ["Hero", "list"]),
        ({**FULL, "Hero": [1.0, None]}, {}, ["Hero", "list"]),
        ({**FULL, "Hero": [[1.0], [1.0, 2.0]]}, {}, ["Hero", "list"]),
        ({**FULL, "Hero": np.ones((2, 2))}, {}, ["Hero", "list"]),
        ({**FULL, "Hero": [1.0, math.nan]}, {}, ["Hero", "number 2 of 2 is nan"]),
        ({**FULL, "Hero": [-math.inf, 1.0]}, {}, ["Hero", "number 1 of 2 is -inf"]),
        ({**FULL, "Hero": [1.0], "Pong": [1.0]}, {}, ["1 in Hero, Pong", "2 in Alien", "over runs"]),
        ({}, {}, ["mapping from game"]),
        ([1.0], {}, ["mapping from game"]),
        (FULL, {"seed": -1}, ["seed", "-1"]),
        (FULL, {"seed": 0.5}, ["seed", "0.5"]),
        (FULL, {"resamples": 0}, ["resamples", "0"]),
    ],
)
def test_a_mistake_is_refused_in_words(scores, arguments, says):
    with pytest.raises(UsageError) as refusal:
        aggregate(scores, **arguments)
    for words in says:
        assert words in str(refusal.value)


def test_unequal_seeds_are_fine_where_nothing_is_over_runs():
    assert [len(v) for v in human_normalized({"Pong": [1, 2, 3], "Hero": [4]}).values()] == [3, 1]
    with pytest.raises(UsageError, match="Pong"):
        human_normalized({"Pong": [math.nan]})


# The published scores


def test_the_published_table_is_whole():
    assert published_methods() == tuple(published())
    assert {"SimPLe", "TWM", "IRIS", "DreamerV3", "STORM", "DIAMOND", "REM", "Simulus", "BBF", "JEDI"} <= {*published()}
    for method, record in published().items():
        assert record.method == method
        assert set(record.scores) <= set(GAMES)
        assert re.search(r"arXiv \d{4}\.\d{5}|@[0-9a-f]{10} ", record.source)
        assert bool(record.seed_source) == bool(record.seed_scores)
        for game, seeds in record.seed_scores.items():
            # The printed tables round to one decimal.
            assert statistics.fmean(seeds) == pytest.approx(record.scores[game], abs=0.051)


def test_what_was_not_printed_says_so():
    jedi = published()["JEDI"]
    assert set(jedi.scores) == {"Assault", "Boxing", "Breakout"}
    assert "secondary" in jedi.source
    for method in ("DreamerV3_2024scores", "HI_autoregressive"):
        assert "derived" in published()[method].seed_source


def test_the_tables_cannot_be_changed_by_a_caller():
    for table in (
        RANDOM_SCORES,
        HUMAN_SCORES,
        published(),
        published()["IRIS"].scores,
        published()["IRIS"].seed_scores,
    ):
        with pytest.raises(TypeError):
            table["Pong"] = 0.0
    published_scores("IRIS")["Pong"] = 0.0
    published_seed_scores("IRIS")["Pong"].append(0.0)
    assert published_scores("IRIS")["Pong"] == 14.6
    assert len(published_seed_scores("IRIS")["Pong"]) == 5


def test_a_method_that_is_not_there_is_refused_in_words():
    with pytest.raises(UsageError, match=r"Unknown method 'diamond'\. Did you mean 'DIAMOND'\?"):
        published_scores("diamond")
    with pytest.raises(UsageError, match=r"No scores by seed of 'STORM' ship here\. Did you mean 'STORM_repo'\?"):
        published_seed_scores("STORM")


def test_the_scores_need_no_torch():
    code = "import json, sys, jedi_env.metrics as m; m.published(); print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert not {name.split(".")[0] for name in json.loads(run.stdout)} & {"torch", "scipy", "pandas", "ale_py"}


# The page about them


def test_the_table_in_the_docs_is_what_the_code_gives():
    rows = dict(re.findall(r"^\| ([\w-]+) \| (\d.*) \|$", DOCS.read_text(), re.MULTILINE))
    assert list(rows) == WITH_ALL_SEEDS
    for method, row in rows.items():
        result = aggregate(published_seed_scores(method))
        cells = []
        for name in STATISTICS:
            interval, digits = getattr(result, name), {"ratio": 1, "superhuman": 0}.get(name, 3)
            cells.append(f"{interval.value:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})")
        assert row == " | ".join(cells)


def test_the_example_in_the_docs_runs():
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(compile(example, str(DOCS), "exec"), {})
