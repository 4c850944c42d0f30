"""The page of a report, and its charts, as a browser reads them: one file, no markup from outside, no complaint."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jedi_env.metrics import Interval
from tests.trainers.reports import MADE, NOW, Page, all_games, page_of, write_run
from trainers.report import gather
from trainers.report_page import render
from trainers.report_page.svg import ForestRow, Line, chart, forest, ticks
from trainers.report_tables import AGAINST

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


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


def test_a_hostile_run_directory_writes_no_markup(tmp_path):
    evil = "<script>alert(1)</script>\"'"
    write_run(tmp_path / "a", game=evil)
    html = page_of(tmp_path / "a")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    Page(html)


def test_paths_are_shown_as_they_were_given(tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    assert Page(page_of(Path("runs/a"))).row("runs/a")[2] == "Breakout"


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


# Charts


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
