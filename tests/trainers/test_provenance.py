"""Where numbers come from: the commit of this very code, the configuration by its hash."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import trainers.provenance
from tests.trainers.fakes import MICRO
from trainers.presets import PRESETS
from trainers.provenance import config_hash, machine, provenance


def test_it_is_json_and_complete():
    told = json.loads(json.dumps(provenance(MICRO)))
    assert set(told) == {"command", "commit", "machine", "versions", "config_hash"}
    assert told["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert told["config_hash"] == config_hash(MICRO)


def test_equal_configurations_have_equal_hashes_and_others_others():
    assert config_hash(replace(MICRO)) == config_hash(MICRO)
    changed = replace(MICRO, fit_agent=replace(MICRO.fit_agent, gamma=0.9850001))
    hashes = {config_hash(config) for config in (MICRO, changed, *PRESETS.values())}
    assert len(hashes) == 2 + len(PRESETS)
    assert all(len(value) == 12 and int(value, 16) >= 0 for value in hashes)


def git(folder, *arguments):
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def installed_in(monkeypatch, folder):
    """Let the package lie in ``folder``."""
    folder.mkdir(parents=True)
    path = folder / "provenance.py"
    path.write_text("# here")
    monkeypatch.setattr(trainers.provenance, "__file__", str(path))
    return path


def test_the_commit_is_of_the_tree_it_runs_from_and_changes_are_marked(tmp_path, monkeypatch):
    path = installed_in(monkeypatch, tmp_path / "trainers")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    assert provenance(MICRO)["commit"] == head
    path.write_text("# changed")
    assert provenance(MICRO)["commit"] == head + "+"


def test_installed_inside_another_project_it_does_not_take_that_ones_commit(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    (tmp_path / "theirs.py").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "theirs")
    installed_in(monkeypatch, tmp_path / ".venv" / "trainers")
    assert provenance(MICRO)["commit"] is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    installed_in(monkeypatch, tmp_path / "trainers")
    monkeypatch.setenv("PATH", "")
    assert provenance(MICRO)["commit"] is None


def test_the_machine_is_told_in_words():
    assert machine()
    if Path("/proc/cpuinfo").exists() and not torch.cuda.is_available():
        threads = torch.get_num_threads()
        assert machine().endswith(", 1 thread" if threads == 1 else f", {threads} threads")


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (["-m", "told", "a b", "--seed", "0"], "python -m told 'a b' --seed 0"),
        (["-m", "package"], "python -m package"),
        (["told.py", "x"], "told.py x"),
    ],
)
def test_the_command_is_what_was_typed(tmp_path, start, told):
    code = "from trainers.provenance import command\nprint(command())\n"
    (tmp_path / "told.py").write_text(code)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(code)
    run = subprocess.run([sys.executable, *start], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert run.stdout.strip() == told
