"""A lent GPU, with a CPU in its place: real Breakout, tiny networks, a clock that a test moves; and the make target."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import trainers.gpu
from jedi_env.errors import JediEnvError, RunError, UsageError
from tests.trainers.fakes import MICRO_BREAKOUT
from trainers.config import EvaluateConfig
from trainers.gpu import CURVE, PACK, RESULTS, Lent, train_lent
from trainers.log import read
from trainers.pack import MANIFEST, pack, read_manifest, unpack
from trainers.presets import GPU, PAPER
from trainers.state import completed
from trainers.time_limit import TimeLimit
from trainers.train import train

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
CONFIG = replace(
    MICRO_BREAKOUT,
    collect=replace(MICRO_BREAKOUT.collect, total_steps=160, first_steps=60, first_steps_limit=60, first_rewards=0),
    evaluate=EvaluateConfig(every=0, episodes=0, final_episodes=0),
)


class Clock:
    """Every question takes so many seconds."""

    def __init__(self, seconds):
        self.now = 0
        self.seconds = seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


@pytest.fixture
def short_games(monkeypatch):
    """Real games, cut short: a full one takes this agent hundreds of steps."""
    make = trainers.gpu.make_pixels_vec
    monkeypatch.setattr(trainers.gpu, "make_pixels_vec", lambda *a, **k: make(*a, max_frames=40, **k))


def lent(folder, **changes):
    given = {"preset": "tiny", "minutes": 10.0, "spare": 9.8, "games": 3, "device": "cpu"}
    places = {"run_dir": folder / "run", "before": folder / "gpu", "out": folder / "out"}
    return Lent(**{**given, **places, **changes})


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_three_commands_of_which_the_last_is_on_another_machine(tmp_path, short_games):
    first = train_lent(lent(tmp_path, commit="abc"), CONFIG, Clock(4))
    out = tmp_path / "out"
    assert files_of(out) == [
        CURVE,
        "pack/pack.json",
        "pack/rest.safetensors",
        "pack/weights-00.safetensors",
        RESULTS,
    ]
    (command,) = first["commands"]
    assert 0 < command["epochs"] < command["epochs_planned"] == 6
    assert command["epochs"] == read_manifest(out / PACK).epoch == completed(tmp_path / "run")[0]
    assert command["score"]["episodes"] == 3
    assert first["score"] == command["score"]["mean"]
    assert first["score_per_hour"] == pytest.approx(first["score"] * 3600 / first["seconds"])
    assert first["published"] == {"random": 1.7, "human": 30.5, "DIAMOND": 132.5, "JEDI": 155.8}
    assert first == json.loads((out / RESULTS).read_text())
    assert {"commit", "machine", "versions", "real_steps", "seconds"} <= command.keys()

    second = train_lent(lent(tmp_path), CONFIG, Clock(4))  # the machine is still there
    assert second["commands"][0] == command
    assert second["commands"][1]["epochs"] > command["epochs"]
    assert second["seconds"] == sum(each["seconds"] for each in second["commands"])

    shutil.copytree(out, tmp_path / "gpu")  # what came back, weeks later
    third = train_lent(lent(tmp_path, run_dir=tmp_path / "other"), CONFIG, Clock(0.01))
    assert third["commands"][:2] == second["commands"]
    assert third["commands"][2]["epochs"] == 6
    assert (tmp_path / "other" / "checkpoint").is_dir()
    done = [line["epoch"] for line in read(tmp_path / "other") if line["phase"] == "fit_models"]
    assert done == list(range(6))

    shutil.rmtree(tmp_path / "gpu")
    shutil.copytree(out, tmp_path / "gpu")  # of the other machine
    with pytest.raises(UsageError, match=r"run is behind .*pack \(2 epochs of 6\): delete it"):
        train_lent(lent(tmp_path), CONFIG, Clock(4))


def test_games_that_outlast_the_command_are_no_score(tmp_path, caplog):
    scored = replace(CONFIG, evaluate=EvaluateConfig(every=1, episodes=1, final_episodes=1))  # a curve of its own
    results = train_lent(lent(tmp_path, minutes=2.0, spare=1.0), scored, Clock(20))
    assert "this command has no score" in caplog.text
    assert results["score"] is None
    assert results["score_per_hour"] is None
    assert read_manifest(tmp_path / "out" / PACK).epoch == results["commands"][0]["epochs"]
    assert json.loads((tmp_path / "out" / RESULTS).read_text()) == results


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"spare": 10.0}, "spare is 10.0 of 10.0"), ({"games": 0}, "games is 0"), ({"device": "no"}, "no")],
)
def test_what_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        train_lent(lent(tmp_path, **changes), CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """What a command brought back."""
    folder = tmp_path_factory.mktemp("lent")
    run_dir, out = folder / "run", folder / "gpu"
    train(CONFIG, "Breakout", 0, run_dir, CPU, TimeLimit(1.0, Clock(20)))
    pack(run_dir, out / PACK)
    return out


@pytest.mark.parametrize(
    ("changes", "spoil", "message"),
    [
        ({"seed": 1}, None, "is of another game, seed or settings"),
        ({"game": "Pong"}, None, "is of another game, seed or settings"),
        ({}, lambda gpu: (gpu / PACK / MANIFEST).unlink(), "lacks pack.json"),
        ({}, lambda gpu: (gpu / PACK).rename(gpu / "out"), "lacks pack.json"),
        ({}, lambda gpu: (gpu / RESULTS).write_text("{}"), "is no list of what earlier commands came to"),
        ({}, lambda gpu: (gpu / RESULTS).write_text("{"), "is not JSON"),
    ],
)
def test_what_came_back_is_looked_at_before_anything_is_made(tmp_path, brought, changes, spoil, message):
    shutil.copytree(brought, tmp_path / "gpu")
    if spoil:
        spoil(tmp_path / "gpu")
    with pytest.raises(JediEnvError, match=message):
        train_lent(lent(tmp_path, **changes), CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["gpu"]


def test_a_command_killed_while_it_takes_up_loses_no_history(tmp_path, brought, monkeypatch):
    """Between unpacking the run and copying what the commands before came to."""
    shutil.copytree(brought, tmp_path / "gpu")
    earlier = [{"seconds": 7.0, "epochs": 1}]
    (tmp_path / "gpu" / RESULTS).write_text(json.dumps({"commands": earlier}))
    unpack(tmp_path / "gpu" / PACK, tmp_path / "run")
    trainers.gpu._take_up(lent(tmp_path), CONFIG)
    assert trainers.gpu._earlier(tmp_path / "run") == earlier


def test_epochs_completed_before_something_went_wrong_are_brought_back(tmp_path, monkeypatch):
    def goes_wrong(*arguments):
        train(*arguments)
        raise RunError("out of luck")

    monkeypatch.setattr(trainers.gpu, "train", goes_wrong)
    with pytest.raises(RunError, match="out of luck"):
        train_lent(lent(tmp_path, minutes=2.0, spare=1.0), CONFIG, Clock(20))
    assert read_manifest(tmp_path / "out" / PACK).epoch == completed(tmp_path / "run")[0] > 0


def test_the_preset_has_the_papers_networks_and_dream():
    assert (GPU.world_model, GPU.agent, GPU.decoder) == (PAPER.world_model, PAPER.agent, PAPER.decoder)
    assert GPU.collect.total_steps == PAPER.collect.total_steps
    assert (GPU.fit_agent.horizon, GPU.fit_agent.gamma) == (PAPER.fit_agent.horizon, PAPER.fit_agent.gamma)
    samples = [
        (c.fit_world_model.first_updates + 190 * c.fit_world_model.updates) * c.fit_world_model.batch
        for c in (GPU, replace(PAPER, fit_world_model=replace(PAPER.fit_world_model, updates=5 * 400)))
    ]
    assert 0.15 < samples[0] / samples[1] < 0.25  # of the paper's, whose epochs have a fifth of the real steps


SHRUNK = (
    "--device cpu --games 2 --spare 0.01 --preset tiny --collect.total-steps 200 --collect.first-steps 100 "
    "--collect.first-steps-limit 100 --collect.steps 50 --fit-world-model.first-updates 1 --fit-world-model.updates 1 "
    "--fit-world-model.batch 2 --fit-agent.first-updates 1 --fit-agent.updates 1 --fit-agent.batch 2 "
    "--fit-agent.contexts 4 --evaluate.every 0 --evaluate.episodes 0 --evaluate.final-episodes 0 --bank 4"
)


@pytest.mark.slow
def test_the_make_target_from_nothing_and_from_what_came_back(tmp_path):
    """Whatever the time on this machine: one command at least begins, and both have gone further than nothing."""

    def make(name, before):
        flags = f"{SHRUNK} --run-dir {tmp_path / name / 'run'} --before {tmp_path / before / 'out'}"
        words = ["make", "-s", "train-gpu", f"FLAGS={flags}", "MINUTES=3", f"OUT={tmp_path / name / 'out'}"]
        done = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads((tmp_path / name / "out" / RESULTS).read_text())

    said, first = make("first", "nowhere")
    assert f"{first['commands'][0]['epochs']} of 3 epochs" in said
    _, second = make("second", "first")
    assert second["commands"][0] == first["commands"][0]
    assert second["commands"][1]["epochs"] >= first["commands"][0]["epochs"] >= 1
    assert {CURVE, RESULTS, "pack/pack.json"} <= set(files_of(tmp_path / "second" / "out"))


@pytest.mark.slow
@pytest.mark.parametrize(("python", "message"), [("false", "needs Python 3.11"), ("old", "lacks what training needs")])
def test_the_make_target_says_what_is_missing(tmp_path, python, message):
    """A Python that is too old, and one without the libraries, as the first line of its checks sees them."""
    script = tmp_path / "old"
    script.write_text('#!/bin/sh\ncase "$2" in *torch*) exit 1;; esac\n')
    script.chmod(0o755)
    given = script if python == "old" else python
    words = ["make", "-s", "train-gpu", f"GPU_PYTHON={given}", f"WHEELS={tmp_path / 'none'}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr
