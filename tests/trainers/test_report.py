"""What a report reads of run directories: methods, points and curves, and whatever runs may lack."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jedi_env.config_json import to_json
from jedi_env.errors import RunError, UsageError
from jedi_env.metrics import Interval
from jedi_env.metrics.dreams import FrameErrors
from tests.trainers.reports import MADE, NOW, Page, page_of, write_run
from trainers.config import epochs
from trainers.fidelity import FidelityReport, Returns, Watch
from trainers.presets import DIAMOND, PAPER, PRESETS, TINY
from trainers.provenance import config_hash
from trainers.report import gather
from trainers.report_page import render
from trainers.report_tables import AGAINST

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


def test_a_run_that_began_before_a_setting_was_there_had_its_default(tmp_path):
    write_run(tmp_path / "a", config=PAPER)
    write_run(tmp_path / "old", config=PAPER, seed=1)
    described = json.loads((tmp_path / "old" / "config.json").read_text())
    del described["config"]["world_model"]["reward_end"]["frame_stack"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(described))
    assert [method.label for method in gather([tmp_path / "a", tmp_path / "old"], NOW).methods] == ["JEDI (paper)"]


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


def test_errors_are_of_the_documented_kinds(tmp_path):
    with pytest.raises(UsageError):
        gather([tmp_path / "nowhere"], NOW)
    write_run(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text("")
    with pytest.raises(RunError):
        gather([tmp_path / "a"], NOW)


# Fidelity


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
