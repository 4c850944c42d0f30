"""The numbers of a report against independent ones: scores, aggregates and the mean of several seeds' curves."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.games import GAMES
from jedi_env.metrics import AGENT_OPTIMAL, HUMAN_SCORES, RANDOM_SCORES, published
from tests.trainers.reports import MADE, NOW, Page, all_games, write_run
from trainers.report import gather
from trainers.report_page import render, summary
from trainers.report_page.svg import shown
from trainers.report_tables import AGAINST, POINTS, comparisons, curves, mean_curve, protocol_notes, score_table
from trainers.run_files import Point

# Scores and aggregates


def test_the_table_has_the_means_of_the_returns(tmp_path):
    write_run(tmp_path / "a", "Breakout", 0, scores=[(9.0, 9.0), (100.0, 200.0)])
    write_run(tmp_path / "b", "Breakout", 1, scores=[(9.0, 9.0), (250.0, 350.0, 300.0)])
    gathered = gather([tmp_path / "a", tmp_path / "b"], NOW)
    (row,) = score_table(gathered, AGAINST)
    cell = row.ours["JEDI (tiny)"]
    assert cell.scores == [150.0, 300.0]
    assert (cell.mean, cell.partial) == (225.0, False)
    assert row.hns(225.0) == pytest.approx((225.0 - 1.7) / (30.5 - 1.7))
    assert row.best == {"JEDI (tiny)"}
    page = Page(render(gathered, AGAINST, MADE))
    cells = page.row("Breakout")
    assert cells[1:3] == ["1.700", "30.51.00"]  # points, then HNS: the style sheet shows one of the two
    assert cells[8].startswith(shown(published()["DIAMOND"].scores["Breakout"]))
    assert cells[10].startswith("2257.75")
    assert "seed 0: 1505.15" in cells[10]
    assert "seed 1: 30010.4" in cells[10]


def test_the_best_of_a_row_may_be_published_and_may_be_shared(tmp_path):
    best = max(published()[method].scores["Pong"] for method in ("IRIS", "DIAMOND"))
    write_run(tmp_path / "a", "Pong", scores=[(best,)])
    (row,) = score_table(gather([tmp_path / "a"], NOW), ("IRIS", "DIAMOND"))
    assert row.best == {"DIAMOND", "JEDI (tiny)"}


def test_aggregates_of_all_games_are_those_of_their_definitions(tmp_path):
    def value(game, seed):
        return (GAMES.index(game) + 1) / 10 + seed / 100

    gathered = gather(all_games(tmp_path, value), NOW)
    (comparison,) = comparisons(gathered, AGAINST)
    assert (comparison.games, comparison.missing) == (GAMES, ())
    (ours,) = [entry for entry in comparison.entries if entry.ours]
    runs = np.array([[value(game, seed) for seed in range(2)] for game in GAMES])
    games = runs.mean(1)
    middle = np.sort(runs.ravel())[13:39]
    half = np.isin(GAMES, AGENT_OPTIMAL)
    for name, expected in {
        "mean": games.mean(),
        "median": np.median(games),
        "iqm": middle.mean(),
        "optimality_gap": np.maximum(1 - runs, 0).mean(),
        "har_hns": len(games) / (1 / (games + 0.1)).sum(),
        "agent_optimal": games[half].mean(),
        "human_optimal": games[~half].mean(),
        "ratio": games[half].mean() / games[~half].mean(),
        "superhuman": (games > 1).sum(),
    }.items():
        interval = getattr(ours.aggregate, name)
        assert interval.value == pytest.approx(expected)
        assert interval.low <= interval.value <= interval.high
    html = render(gathered, AGAINST, MADE)
    page = Page(html)
    assert "all 26 games" in html
    assert "26 games only</span>" not in html
    told = page.row("JEDI (paper)")
    assert told[1].startswith(f"{games.mean():.2f} (")
    # DreamerV3 came without its seeds: what is defined over runs is not known of it, and there is no interval.
    dreamer = page.row("DreamerV3")
    assert (dreamer[3], dreamer[4]) == ("\N{EN DASH}", "\N{EN DASH}")
    assert dreamer[1] == "1.13"
    told = summary(gathered, AGAINST, MADE)["aggregates"][0]["methods"]
    assert told["JEDI (paper)"]["mean"][0] == pytest.approx(games.mean())
    assert told["DreamerV3"]["iqm"] == [None]
    assert told["DIAMOND"]["mean"][0] == pytest.approx(1.459, abs=1e-3)


def test_missing_games_are_named_and_the_published_are_over_the_same(tmp_path):
    write_run(tmp_path / "a", "Breakout", scores=[(30.5,)])
    write_run(tmp_path / "b", "Pong", scores=[(14.6,)])
    gathered = gather([tmp_path / "a", tmp_path / "b"], NOW)
    (comparison,) = comparisons(gathered, ("DIAMOND", "JEDI"))
    assert comparison.games == ("Breakout", "Pong")
    assert len(comparison.missing) == 24
    diamond, ours = comparison.entries
    seeds = published()["DIAMOND"].seed_scores
    expected = np.mean(
        [(np.mean(seeds[g]) - RANDOM_SCORES[g]) / (HUMAN_SCORES[g] - RANDOM_SCORES[g]) for g in ("Breakout", "Pong")]
    )
    assert diamond.aggregate.mean.value == pytest.approx(expected)
    assert ours.aggregate.mean.value == pytest.approx(1.0)
    assert comparison.left_out == ("JEDI is published for 1 of these 2 games only.",)
    html = render(gathered, ("DIAMOND", "JEDI"), MADE)
    assert "2 of 26 games only" in html
    assert "not comparable with full tables" in html
    assert "Human-Optimal half</h3>" not in html  # none of the two is in it: no empty chart


def test_seeds_that_not_all_games_have_are_named_and_not_counted(tmp_path):
    write_run(tmp_path / "a", "Breakout", 0, scores=[(30.5,)])
    write_run(tmp_path / "b", "Breakout", 1, scores=[(900.0,)])
    write_run(tmp_path / "c", "Pong", 0, scores=[(14.6,)])
    gathered = gather(sorted(tmp_path.iterdir()), NOW)
    (comparison,) = comparisons(gathered, ())
    (entry,) = comparison.entries
    assert entry.aggregate.mean.value == pytest.approx(1.0)
    assert entry.note == "over seed 0, which all its games have; one seed: no interval"
    assert "JEDI (tiny): no score yet in Pong (seed 1)." in gathered.warnings


def test_no_common_seed_is_told(tmp_path):
    write_run(tmp_path / "a", "Breakout", 0)
    write_run(tmp_path / "b", "Pong", 1)
    (comparison,) = comparisons(gather([tmp_path / "a", tmp_path / "b"], NOW), ())
    assert comparison.entries == ()
    assert comparison.refused == (("JEDI (tiny)", "No seed was scored in all of its games, so there is no aggregate."),)


def test_a_score_under_another_protocol_is_said_to_be(tmp_path):
    write_run(tmp_path / "a", scores=[(1.0, 2.0)])
    (note,) = protocol_notes(gather([tmp_path / "a"], NOW))
    assert "100 real steps (Atari100k: 100,000)" in note
    assert "2 episodes a score (Atari100k: 100)" in note
    record = json.loads((tmp_path / "a" / "scores.json").read_text())
    record[0] |= {"real_steps": 100_000, "returns": [1.0] * 100, "protocol": {"frame_skip": 4}}
    (tmp_path / "a" / "scores.json").write_text(json.dumps(record))
    assert protocol_notes(gather([tmp_path / "a"], NOW)) == ()
    record[0]["protocol"] = {"frame_skip": 4, "sticky": 0.25}
    (tmp_path / "a" / "scores.json").write_text(json.dumps(record))
    (note,) = protocol_notes(gather([tmp_path / "a"], NOW))
    assert note == "JEDI (tiny): sticky 0.25."


def test_a_game_outside_the_26_has_scores_and_no_normalised_ones(tmp_path):
    write_run(tmp_path / "a", game="CarRacing-v3", scores=[(10.0, 30.0)])
    gathered = gather([tmp_path / "a"], NOW)
    (row,) = score_table(gathered, AGAINST)
    assert (row.random, row.human, row.hns(1.0), row.ours["JEDI (tiny)"].mean) == (None, None, None, 20.0)
    assert comparisons(gathered, AGAINST) == ()
    assert Page(render(gathered, AGAINST, MADE)).row("CarRacing-v3")[-1].startswith("20.0\N{EN DASH}")


# Curves


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=2, max_size=5))
def test_a_mean_of_lines_with_the_same_places_is_the_mean_of_their_values(ys):
    lines = [[(float(x), y) for x, y in enumerate(line)] for line in ys]
    for reading in (lines, lines[::-1]):
        mean = mean_curve(reading)
        assert [m.x for m in mean] == [0.0, 1.0, 2.0]
        assert np.allclose([m.value for m in mean], np.mean(ys, axis=0), atol=1e-6)
        for m, column in zip(mean, np.transpose(ys), strict=True):
            assert column.min() - 1e-6 <= m.low <= m.value <= m.high <= column.max() + 1e-6


def test_the_interval_of_a_curve_is_a_bootstrap_over_the_seeds():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    (point,) = mean_curve([[(5.0, value)] for value in values])
    every = np.sort([np.mean(values[list(np.unravel_index(i, (4,) * 4))]) for i in range(4**4)])  # all resamples
    assert point.low == pytest.approx(np.quantile(every, 0.025), abs=0.26)  # steps of the exact distribution
    assert point.high == pytest.approx(np.quantile(every, 0.975), abs=0.51)


def test_the_mean_ends_where_the_first_seed_ends_and_a_single_one_has_none():
    long, short = [(0.0, 0.0), (10.0, 10.0), (20.0, 20.0)], [(5.0, 1.0), (15.0, 1.0)]
    assert [(m.x, m.value) for m in mean_curve([long, short])] == [(5.0, 3.0), (10.0, 5.5), (15.0, 8.0)]
    assert mean_curve([long]) == ()
    assert mean_curve([[(0.0, 1.0)], [(1.0, 1.0)]]) == ()


def test_long_lines_are_averaged_by_weight_and_of_one_place_the_last_counts():
    run = SimpleNamespace(method="m", seed=0, finished=True)
    points = [Point(float(i), 0.0, 0.0, float(i % 2), weight=3.0 if i % 2 else 1.0) for i in range(2 * POINTS)]
    (curve,) = curves([run], lambda _: points, lambda point: point.real_steps)
    line = curve.seeds[0]
    assert len(line) == POINTS
    assert {y for _, y in line} == {0.75}
    final = [Point(100.0, 0.0, minute, minute) for minute in (1.0, 2.0, 3.0)]
    (curve,) = curves([run], lambda _: final, lambda point: point.real_steps)
    assert curve.seeds[0] == ((100.0, 3.0),)
