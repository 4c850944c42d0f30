"""jedi-env report: its numbers against independent ones, its page as a browser reads it, and whatever runs may lack."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jedi_env.config_json import to_json
from jedi_env.errors import RunError, UsageError
from jedi_env.games import GAMES
from jedi_env.metrics import AGENT_OPTIMAL, HUMAN_SCORES, RANDOM_SCORES, Interval, published
from jedi_env.metrics.dreams import FrameErrors
from tests.tiny_dream import tiny_checkpoint
from tests.trainers.test_cli import MICRO
from trainers.cli import main
from trainers.fidelity import FidelityReport, Returns, Watch
from trainers.presets import DIAMOND, PAPER, PRESETS, TINY
from trainers.provenance import config_hash
from trainers.report import Point, gather
from trainers.report_page import Made, render, summary
from trainers.report_page.svg import ForestRow, Line, chart, forest, shown, ticks
from trainers.report_tables import AGAINST, POINTS, comparisons, curves, mean_curve, protocol_notes, score_table
from trainers.train import epochs

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
MADE = Made("jedi-env report runs/a", NOW, "0123abc", "a machine", "0.1.0", draw=True)
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def write_run(folder, game="Breakout", seed=0, config=TINY, scores=((1.0, 3.0),), finished=True):
    """Write what `jedi-env train` leaves, without training: an evaluation, 100 real steps and a minute an epoch."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"game": game, "seed": seed, "config": to_json(config)}))
    lines, records = [], []
    for epoch, returns in enumerate(scores):
        steps = 100.0 * (epoch + 1)
        last = finished and epoch == len(scores) - 1
        lines += [
            {
                "epoch": epoch,
                "phase": "collect",
                "real_steps": steps,
                "games": 2.0,
                "score": epoch + 0.5,
                "seconds": 20.0,
            },
            {
                "epoch": epoch,
                "phase": "imagine",
                "dream_reward": 0.1 * epoch,
                "imagined_steps": 10 * steps,
                "seconds": 30.0,
            },
            {
                "epoch": epoch,
                "phase": "evaluate",
                "score": float(np.mean(returns)),
                "episodes": len(returns),
                "seconds": 10.0,
            },
        ]
        records.append(
            {"game": game, "returns": list(returns), "epoch": epoch, "seed": seed, "real_steps": int(steps)}
            | {"imagined_steps": int(10 * steps), "final": last, "commit": "feedbee", "machine": "M", "protocol": {}}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "scores.json").write_text(json.dumps(records))
    if finished:
        (folder / "checkpoint").mkdir()
        told = {"format": "jedi-env checkpoint", "provenance": {"commit": "feedbee", "machine": "M"}, "metrics": {}}
        (folder / "checkpoint" / "config.json").write_text(json.dumps(told))
    return folder


def page_of(*folders, against=AGAINST):
    return render(gather(folders, NOW), against, MADE)


class Page(HTMLParser):
    """Text by element; complains about tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.urls, self.rows, self.text = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.urls += [value for key, value in attributes if key in ("src", "href", "srcset", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if "tr" in self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first):
        return next(row for row in self.rows if row and row[0] == first)


@pytest.fixture
def jedi(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = 0
        try:
            main(["report", *map(str, words)])
        except SystemExit as exit_:
            code = exit_.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def images(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


# What is refused


def test_a_folder_that_is_no_run_is_named_and_nothing_is_written(jedi, tmp_path):
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "thesis").mkdir()
    tiny_checkpoint().save(tmp_path / "dream")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"name": "prettier"}')
    for words, said in (
        (["runs/a", "thesis"], "thesis is no run directory: it has no config.json"),
        (["runs/a", "nowhere"], "nowhere is no folder"),
        (["runs/a/config.json"], "runs/a/config.json is no folder"),
        (["runs"], "It holds some: write runs/*"),
        (["dream"], "dream is a checkpoint: write its run directory"),
        (["foreign"], "its config.json does not say game, seed and config"),
        ([], "There is nothing to report on"),
        (["runs/a", "--against", "DAIMOND"], "Did you mean 'DIAMOND'?"),
        (["runs/a", "--out", "thesis"], "--out thesis is a folder"),
    ):
        code, out, err = jedi(*words)
        assert (code, out) == (2, ""), (words, err)
        assert said in err
        assert not list(tmp_path.glob("*.html"))


def test_a_run_that_cannot_even_be_named_is_left_out_and_alone_it_is_a_failure(jedi, tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text('{"game": "Breakout", "se')
    code, out, _ = jedi("a", "b")
    assert code == 0
    assert "b/config.json is damaged" in out
    code, _, err = jedi("b", "--out", "other.html")
    assert code == 1
    assert "b/config.json is damaged" in err
    assert not (tmp_path / "other.html").exists()


def test_the_page_is_replaced_whole_or_not_at_all(jedi, tmp_path, monkeypatch):
    write_run(tmp_path / "a")
    (tmp_path / "report.html").write_text("the old one")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        jedi("a")
    assert (tmp_path / "report.html").read_text() == "the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "report.html"]


def test_the_runs_are_only_read(jedi, tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1, finished=False)
    before = images(tmp_path)
    assert jedi("a", "b", "--out", "pages/x.html")[0] == 0
    after = images(tmp_path)
    assert {path: after[path] for path in before} == before
    assert set(after) - set(before) == {tmp_path / "pages" / "x.html"}


# Numbers


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


def all_games(folder, value, seeds=2):
    """Runs on all 26 games whose HNS is ``value(game, seed)``."""
    for game in GAMES:
        for seed in range(seeds):
            score = RANDOM_SCORES[game] + value(game, seed) * (HUMAN_SCORES[game] - RANDOM_SCORES[game])
            write_run(folder / f"{game}-{seed}", game, seed, PAPER, scores=[(score,)])
    return sorted(folder.iterdir())


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


def test_curves_are_drawn_by_real_steps_imagined_steps_and_minutes(tmp_path):
    write_run(tmp_path / "a", scores=[(1.0,), (2.0,), (6.0,)])
    (run,) = gather([tmp_path / "a"], NOW).runs
    at = [evaluation.at for evaluation in run.evaluations]
    assert [(p.real_steps, p.imagined_steps, round(p.minutes, 9), p.value) for p in at] == [
        (100.0, 1000.0, 1.0, 1.0),
        (200.0, 2000.0, 2.0, 2.0),
        (300.0, 3000.0, 3.0, 6.0),
    ]
    assert [(p.real_steps, p.value, p.weight) for p in run.play] == [
        (100.0, 0.5, 2.0),
        (200.0, 1.5, 2.0),
        (300.0, 2.5, 2.0),
    ]
    assert [p.value for p in run.dream_reward] == pytest.approx([0.0, 0.1, 0.2])
    html = page_of(tmp_path / "a")
    for axis in ("real steps", "imagined steps", "minutes"):
        assert f'aria-label="Breakout: scored on full games, by {axis}"' in html


def test_a_chart_places_its_points_on_its_scales():
    svg = ET.fromstring(str(chart([Line(0, [(0.0, 0.0), (50.0, 5.0), (100.0, 10.0)], "t")], x_label="x", label="l")))
    space = "{http://www.w3.org/2000/svg}"
    ((x0, y0), (x1, y1), (x2, y2)) = [
        tuple(map(float, pair.split(","))) for pair in svg.find(f"{space}polyline").get("points").split()
    ]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y2  # up is more
    places = {text.text: float(text.get("x")) for text in svg.iter(f"{space}text") if text.get("class") == "tick"}
    assert (places["0"], places["100"]) in {(x0, x2), (places["0"], x2)}


def test_a_forest_sets_the_best_in_bold_and_says_what_is_not_known():
    rows = [
        ForestRow("a", None, Interval(1.0, 0.5, 1.5)),
        ForestRow("b", 0, Interval(3.0, 2.0, 4.0)),
        ForestRow("c", None, Interval(np.nan, np.nan, np.nan)),
    ]
    for best, label in ((max, "b"), (min, "a")):
        svg = ET.fromstring(str(forest(rows, label="l", bars=True, best=best)))
        groups = list(svg.iter("{http://www.w3.org/2000/svg}g"))
        bold = [g[1].text for g in groups if any("best" in (t.get("class") or "") for t in g)]
        assert bold == [label]
        assert [g[0].text for g in groups] == [
            "a: 1.00 (0.50 to 1.50)",
            "b: 3.00 (2.00 to 4.00)",
            "c: not defined or not known",
        ]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(1, 8))
def test_ticks_are_few_round_and_inside(low, span, most):
    high = low + span
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    room = 1e-6 * max(span, abs(low), 1.0)
    assert all(low - room <= tick <= high + room for tick in found)


# Groups


@pytest.mark.parametrize(
    ("config", "label"),
    [
        (PAPER, "JEDI (paper)"),
        (DIAMOND, "DIAMOND (ours)"),
        (PRESETS["stochastic"], "JEDI (stochastic)"),
        (replace(PAPER, world_model=replace(PAPER.world_model, switching=0.0)), "JEDI (paper), switching 0.0"),
        (
            replace(TINY, bank=3, final_epochs=4, fit_agent=replace(TINY.fit_agent, batch=5)),
            "JEDI (tiny), 3 settings changed",
        ),
    ],
)
def test_a_method_is_called_after_its_preset_and_what_was_changed(tmp_path, config, label):
    write_run(tmp_path / "a", config=config)
    gathered = gather([tmp_path / "a"], NOW)
    assert [method.label for method in gathered.methods] == [label]
    assert gathered.runs[0].config_hash == config_hash(config)


def test_other_settings_are_another_method_even_where_the_label_would_be_the_same(tmp_path):
    for i, bank in enumerate((1, 2)):
        changed = replace(TINY, bank=bank, final_epochs=7, fit_agent=replace(TINY.fit_agent, batch=5))
        write_run(tmp_path / str(i), config=changed)
    first, second = gather([tmp_path / "0", tmp_path / "1"], NOW).methods
    assert first.label != second.label
    assert first.config_hash in first.label
    assert ("bank", "256", "2") in {*first.changes, *second.changes}


def test_the_same_run_twice_counts_once(tmp_path):
    write_run(tmp_path / "old", scores=[(1.0,)], finished=False)
    write_run(tmp_path / "new", scores=[(1.0,), (2.0,)])
    gathered = gather([tmp_path / "old", tmp_path / "new", tmp_path / "new"], NOW)
    assert [run.path.name for run in gathered.runs] == ["new"]
    (warning,) = [sentence for sentence in gathered.warnings if "same run" in sentence]
    assert str(tmp_path / "old") in warning


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("first", [5_100, 10_100, 25_000])
def test_the_planned_epochs_are_the_training_loops(tmp_path, preset, first):
    config = PRESETS[preset]
    write_run(tmp_path / "a", config=config)
    line = {"epoch": 0, "phase": "collect", "real_steps": float(first), "games": 1.0}
    (tmp_path / "a" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (run,) = gather([tmp_path / "a"], NOW).runs
    assert run.epochs_planned == epochs(config, first)


# What may be missing or damaged


def test_an_unfinished_run_shows_its_curve_and_is_labelled(tmp_path):
    write_run(tmp_path / "a", scores=[(1.0,), (2.0,)], finished=False)
    gathered = gather([tmp_path / "a"], NOW)
    (warning,) = gathered.warnings
    assert "a is unfinished: epoch 2 of" in warning
    assert "200 real steps" in warning
    html = render(gathered, AGAINST, MADE)
    page = Page(html)
    assert "1 unfinished" in html
    assert "unfinished" in page.row(str(tmp_path / "a"))[4]
    assert page.row("Breakout")[10].startswith("2.000.010*")
    assert 'class="open s0"' in html


def test_a_run_that_has_just_begun_is_named(tmp_path):
    write_run(tmp_path / "a", scores=[], finished=False)
    (tmp_path / "a" / "metrics.jsonl").unlink()
    (tmp_path / "a" / "scores.json").unlink()
    gathered = gather([tmp_path / "a"], NOW)
    assert gathered.warnings == (f"{tmp_path / 'a'} is unfinished: nothing is logged yet, last wrote never.",)
    Page(render(gathered, AGAINST, MADE))


def test_damaged_scores_fall_back_to_the_log(tmp_path):
    write_run(tmp_path / "a", scores=[(1.0, 3.0), (4.0, 8.0)])
    scores = tmp_path / "a" / "scores.json"
    scores.write_text(scores.read_text()[:-40])
    gathered = gather([tmp_path / "a"], NOW)
    (run,) = gathered.runs
    assert [(e.at.value, e.episodes, e.final) for e in run.evaluations] == [(2.0, 2, False), (6.0, 2, True)]
    assert "scores.json is damaged" in gathered.warnings[0]
    assert "scores.json is damaged" in render(gathered, AGAINST, MADE)


def test_records_and_lines_that_are_none_are_counted_and_left_out(tmp_path):
    write_run(tmp_path / "a", scores=[(1.0,), (2.0,)])
    log = tmp_path / "a" / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], "{torn", "[1]", *lines[1:], '{"epoch": 9, "pha']))
    records = json.loads((tmp_path / "a" / "scores.json").read_text())
    nan = {**records[0], "returns": [float("nan")]}
    (tmp_path / "a" / "scores.json").write_text(json.dumps([nan, {"epoch": 0}, *records]))
    gathered = gather([tmp_path / "a"], NOW)
    assert [e.at.value for e in gathered.runs[0].evaluations] == [1.0, 2.0]
    assert any("2 damaged lines left out" in warning for warning in gathered.warnings)
    assert sum("without returns" in warning for warning in gathered.warnings) == 2
    Page(render(gathered, AGAINST, MADE))


def test_whatever_else_is_damaged_is_named(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "strip.png").write_bytes(b"no picture")
    (folder / "summary.json").write_text('{"agent": {}}')
    (folder / "fidelity").mkdir()
    (folder / "fidelity" / "fidelity.json").write_text('{"trusted_horizon": 3}')
    (folder / "checkpoint" / "config.json").write_text("{")
    html = page_of(folder)
    for said in (
        "strip.png is no picture",
        "summary.json is damaged",
        "fidelity report cannot be read",
        "config.json is damaged",
    ):
        assert said in html


@pytest.mark.parametrize("name", ["scores.json", "metrics.jsonl", "summary.json", "checkpoint/config.json"])
@settings(max_examples=20)
@given(
    content=st.one_of(st.binary(max_size=40), st.sampled_from([b"null", b"[]", b"[null]", b"{}", b"3", b'[{"a": 1}]']))
)
def test_no_content_of_a_file_breaks_the_page(tmp_path_factory, name, content):
    folder = write_run(tmp_path_factory.mktemp("runs") / "a")
    (folder / name).write_bytes(content)
    gathered = gather([folder], NOW)
    assert len(gathered.runs) == 1
    Page(render(gathered, (), MADE))


def test_a_hostile_run_directory_writes_no_markup(tmp_path):
    evil = "<script>alert(1)</script>\"'"
    write_run(tmp_path / "a", game=evil)
    html = page_of(tmp_path / "a")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    Page(html)


def test_a_game_outside_the_26_has_scores_and_no_normalised_ones(tmp_path):
    write_run(tmp_path / "a", game="CarRacing-v3", scores=[(10.0, 30.0)])
    gathered = gather([tmp_path / "a"], NOW)
    (row,) = score_table(gathered, AGAINST)
    assert (row.random, row.human, row.hns(1.0), row.ours["JEDI (tiny)"].mean) == (None, None, None, 20.0)
    assert comparisons(gathered, AGAINST) == ()
    assert Page(render(gathered, AGAINST, MADE)).row("CarRacing-v3")[-1].startswith("20.0\N{EN DASH}")


# The page


def test_the_page_needs_nothing_else(tmp_path):
    write_run(tmp_path / "a")
    html = page_of(tmp_path / "a")
    page = Page(html)
    assert all(url.startswith(("#", "data:")) for url in page.urls)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "base")]
    assert "@import" not in html
    assert not re.search(r"url\((?!data:)", html)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {url[1:] for url in page.urls if url.startswith("#")} <= set(ids)
    for word in (MADE.command, "2030-01-02 03:04 UTC", MADE.commit, MADE.machine):
        assert word in html


def fidelity_report():
    far = FrameErrors(2, 10, 0.2, 0.4, 0.8, Interval(0.5, 0.4, 0.7), Interval(0.25, 0.2, 0.3))
    paid = [Returns(mean, 0.01, 2.0, 0.5) for mean in (0.3, 0.1)]
    return FidelityReport(
        trusted_horizon=2,
        horizons=(0, 2),
        frames=(far,),
        spread=(),
        events=(),
        probes=(),
        recommended_horizon=5,
        value_drift=(),
        watch=(Watch("random", 8, *paid),),
        probes_left_out="none",
        setup={},
    )


def test_fidelity_is_read_from_its_file_or_from_the_checkpoint(tmp_path):
    report = fidelity_report()
    beside, inside = write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1)
    (beside / "fidelity").mkdir()
    (beside / "fidelity" / "fidelity.json").write_text(json.dumps(to_json(report)))
    stored = json.loads((inside / "checkpoint" / "config.json").read_text())
    stored["metrics"] = {"fidelity": to_json(report)}
    (inside / "checkpoint" / "config.json").write_text(json.dumps(stored))
    gathered = gather([beside, inside], NOW)
    assert [run.fidelity for run in gathered.runs] == [report, report]
    html = render(gathered, AGAINST, MADE)
    assert html.count("The dream beats copying for at least 2 steps") == 2
    assert "dreamed: 0.10 (0.080 to 0.12)" in html


def test_the_demonstration_is_a_card(tmp_path):
    folder = write_run(tmp_path / "demo", scores=[])
    agent, random = [2.0, 4.0, 9.0], [1.0, 1.0, 1.0]
    told = {"agent": {"returns": agent}, "random": {"returns": random}, "imagined_steps": 640, "dream_return": 0.5}
    told |= {"demo": {"horizon": 25}, "seconds": {"train_world_model": 60.0, "real_games": 30.0}}
    (folder / "summary.json").write_text(json.dumps(told))
    gathered = gather([folder], NOW)
    assert gathered.warnings == ()
    html = render(gathered, AGAINST, MADE)
    assert "Agents that learned in the dream alone" in html
    assert "random: 1.00 (1.00 to 1.00)" in html
    assert "PPO in the dream: 5.00 (2.00 to 9.00)" in html
    assert "3 real games, 640 dream steps, 1.50 minutes in all; best game 9.00, a human 30.5." in html


def test_a_demonstration_that_trained_no_dream_is_left_out_and_alone_it_is_refused(jedi, tmp_path):
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "demo").mkdir()
    (tmp_path / "runs" / "demo" / "summary.json").write_text("{}")
    gathered = gather([tmp_path / "runs" / "a", tmp_path / "runs" / "demo"], NOW)
    assert [run.path.name for run in gathered.runs] == ["a"]
    assert "demo is a demonstration in a dream that it did not train: left out." in gathered.warnings[0]
    code, _, err = jedi("runs/demo")
    assert code == 2
    assert "runs/demo is no run directory" in err


# Real runs


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """A real, microscopic run on Breakout; copy it before changing it."""
    folder = tmp_path_factory.mktemp("real") / "run"
    main(["train", "Breakout", "--run-dir", str(folder), "--device", "cpu", *MICRO.split()])
    return folder


def test_a_real_run(jedi, real_run, tmp_path):
    before = images(real_run)
    code, out, err = jedi(real_run, "--json", "--against", "DIAMOND")
    assert code == 0, err
    assert images(real_run) == before
    told = json.loads(out)
    (run,) = told["runs"]
    (score,) = json.loads((real_run / "scores.json").read_text())
    assert (run["game"], run["finished"], run["final"], run["score"]) == ("Breakout", True, True, score["mean"])
    assert run["epochs"] == run["epochs_planned"] == 2
    assert run["config_hash"] == score["config_hash"]
    assert list(told["games"][0]["published"]) == ["DIAMOND"]
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert "data:image/png;base64," in html
    assert "the world model has learned from these frames" in html
    assert len([tag for tag, _ in page.tags if tag == "svg"]) >= 10
    assert "data:image/png" not in (jedi(real_run, "--no-draw"), (tmp_path / "report.html").read_text())[1]


def test_the_real_reward_is_that_of_the_play_in_the_dreams_unit(real_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(real_run, folder)
    fields = np.dtype([("action", "<i4"), ("reward", "<f4"), ("terminated", "?"), ("last", "?")])
    steps = np.fromfile(folder / "replay" / "steps.bin", fields)
    signs = np.sign(steps["reward"][~steps["last"]].astype(float))
    told = [(40.0, signs[:40].mean(), 40.0), (60.0, signs[40:].mean(), 20.0)]
    (run,) = gather([folder], NOW).runs
    for point, expected in zip(run.real_reward, told, strict=True):
        assert (point.real_steps, point.value, point.weight) == pytest.approx(expected)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("real_reward", None)  # an older run's
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run,) = gather([folder], NOW).runs
    assert run.real_reward == ()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_a_complaint(tmp_path, width):
    """No message on the console, and no scrolling sideways; read through a frame, whose width may be a phone's."""
    runs = all_games(tmp_path / "runs", lambda game, seed: seed + 0.5)
    page = page_of(*runs)
    quoted = page.replace("&", "&amp;").replace('"', "&quot;")
    measure = (
        "onload = () => { const root = document.querySelector('iframe').contentDocument.documentElement;"
        "document.body.append('wide ' + root.scrollWidth + ' text ' + root.innerText.length); }"
    )
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{quoted}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><script>{measure}</script>{frame}", encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=5000"
    seen = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", tmp_path / "frame.html"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    wide, text = map(int, re.findall(r"wide (\d+) text (\d+)", seen.stdout)[-1])
    assert wide <= width
    assert text > 5000
    assert "CONSOLE" not in seen.stderr


def test_errors_are_of_the_documented_kinds(tmp_path):
    with pytest.raises(UsageError):
        gather([tmp_path / "nowhere"], NOW)
    write_run(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text("")
    with pytest.raises(RunError):
        gather([tmp_path / "a"], NOW)


def test_paths_are_shown_as_they_were_given(tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    assert Page(page_of(Path("runs/a"))).row("runs/a")[2] == "Breakout"
