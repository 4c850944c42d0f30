"""jedi-env report: the folders it refuses, the page it writes and nothing else, and a run that was really trained."""

import json
import shutil

import numpy as np
import pytest

from tests.tiny_dream import tiny_checkpoint
from tests.trainers.reports import NOW, Page, write_run
from tests.trainers.test_cli import MICRO
from trainers.cli import main
from trainers.report import gather


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
        (["thesis"], "thesis is no run directory: it has no config.json"),
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


def test_what_other_commands_left_among_the_runs_is_left_out_with_a_word(jedi, tmp_path):
    write_run(tmp_path / "runs" / "a")
    for name, file in (("bench", "bench.json"), ("demo", "summary.json")):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / file).write_text("{}")
    tiny_checkpoint().save(tmp_path / "runs" / "diamond-Pong")
    code, out, _ = jedi("runs/a", "runs/bench", "runs/demo", "runs/diamond-Pong")
    assert code == 0
    assert "1 runs" in out
    assert "runs/bench is no run directory" in out
    assert "runs/diamond-Pong is a checkpoint" in out
    assert "runs/demo is no run directory" in out
    assert out.count("It is left out.") == 3
    assert jedi("runs/demo")[0] == 2


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


# What is written


def test_the_page_is_replaced_whole_or_not_at_all(jedi, tmp_path, monkeypatch):
    write_run(tmp_path / "a")
    (tmp_path / "report.html").write_text("the old one")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    code, _, err = jedi("a")
    assert (code, "No space left on device" in err) == (1, True)
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
