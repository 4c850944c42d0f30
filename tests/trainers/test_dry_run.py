"""``jedi-env train --dry-run``: every setting with its source, and the time it would take; nothing is made."""

import json
import shlex
from pathlib import Path

import pytest

from jedi_env.config_json import from_json
from tests.trainers.fakes import TOY
from trainers.cli import main
from trainers.config import TrainConfig
from trainers.presets import PAPER
from trainers.sources import flat

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"

# Flags that make the tiny preset microscopic.
MICRO = (
    "--collect.total-steps 60 --collect.first-steps 40 --collect.first-steps-limit 40 --collect.steps 20 "
    "--fit-world-model.first-updates 2 --fit-world-model.updates 1 --fit-world-model.batch 2 "
    "--fit-world-model.freeze-encoder-after 2 --fit-agent.first-updates 1 --fit-agent.updates 1 --fit-agent.batch 2 "
    "--fit-agent.horizon 3 --final-epochs 0 --world-model.encoder.channels 8 16 --world-model.encoder.down True False "
    "--world-model.denoiser.channels 8 --world-model.reward-end.channels 8 8 --world-model.reward-end.lstm-dim 8"
)


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Run a dry run; return its exit code and what it printed. It must leave nothing behind."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        code = 0
        try:
            main(shlex.split(f"train {line} --dry-run --device cpu"))
        except SystemExit as exit_:
            code = exit_.code or 0
        assert list(tmp_path.iterdir()) == []
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_for_people(dry_run):
    code, out, err = dry_run(f"--env {TOY} --preset tiny {MICRO}")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "fit_agent.gamma 0.985 JEDI and DIAMOND" in lines
    assert "fit_agent.horizon 3 chosen; the paper's preset: 15" in lines
    assert "reward_end.middle_attention no chosen; the paper's preset: yes" in " ".join(lines)
    assert "Epochs: 2" in lines
    assert any(line.startswith("Parameters: ") and "denoiser" in line for line in lines)
    assert any(line.startswith("agent update without them") for line in lines)
    assert lines[-1].startswith("Estimated time on this machine: ")
    assert lines[-1].endswith("hours. Evaluation and saving are not counted.")
    assert "Measuring: updating the world model" in err


def test_for_programs(dry_run):
    code, out, _ = dry_run(f"--env {TOY} --preset tiny --json {MICRO}")
    told = json.loads(out)
    assert code == 0
    assert told["sources"]["fit_agent.horizon"] == {
        "says": "15",
        "source": "JEDI and DIAMOND",
        "why": "",
        "paper": 15,
    }
    assert told["sources"]["fit_agent.gamma"]["paper"] is None
    estimate = told["estimate"]
    assert {name: measured["times"] for name, measured in estimate["measured"].items()} == {
        "real step": 60,
        "world-model update": 2,
        "world-model update, encoder frozen": 1,
        "imagined step of 2 dreams": 6,
        "agent update without them": 2,
    }
    assert estimate["epochs"] == 2
    in_all = sum(m["seconds"] * m["times"] for m in estimate["measured"].values())
    assert estimate["hours"] == pytest.approx(in_all / 3600)
    assert set(estimate["parameters"]) == {"encoder", "denoiser", "reward_end", "agent"}


def test_without_the_estimate_nothing_is_played(dry_run):
    code, out, err = dry_run("Breakout --preset diamond --no-estimate --json")
    told = json.loads(out)
    assert (code, err, told["estimate"]) == (0, "", None)
    assert told["sources"]["world_model.encoder.quantise"]["source"] == "DIAMOND's code"


@pytest.mark.parametrize(
    ("flag", "changed"),
    [
        ("--world-model.denoiser.no-diffusion", {"world_model.denoiser.diffusion": False}),
        ("--world-model.no-encoder-learns-from-denoising", {"world_model.encoder_learns_from_denoising": False}),
        (
            "--world-model.encoder-learns-from-reconstruction",
            {"world_model.encoder_learns_from_reconstruction": True},
        ),
        ("--world-model.separate-autoencoder", {"world_model.separate_autoencoder": True}),
        ("--world-model.target-ema 0.99", {"world_model.target_ema": 0.99}),
        ("--world-model.switching 1", {"world_model.switching": 1.0}),
        ("--world-model.switching 0", {"world_model.switching": 0.0}),
        ("--world-model.encoder.no-clamp", {"world_model.encoder.clamp": False}),
        ("--preset stochastic", {"frame_skip": [2, 6], "world_model.sampler.churn": 1.0}),
        ("--frame-skip 2 6", {"frame_skip": [2, 6]}),
        ("--world-model.sampler.churn 1", {"world_model.sampler.churn": 1.0}),
        ("--world-model.encoder.no-clamp-estimate", {"world_model.encoder.clamp_estimate": False}),
    ],
)
def test_each_ablation_is_one_flag_on_the_page_and_changes_nothing_else(dry_run, flag, changed):
    code, out, _ = dry_run(f"Breakout --preset paper --no-estimate --json {flag}")
    assert code == 0
    values = flat(from_json(TrainConfig, json.loads(out)["config"], "config"))
    assert {path: value for path, value in values.items() if value != flat(PAPER)[path]} == changed
    assert f"`{flag}`" in PAGE.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "stochastic", "diamond"])
def test_of_the_papers_presets(dry_run, preset):
    code, out, _ = dry_run(f"Breakout --preset {preset} --json")
    told = json.loads(out)["estimate"]
    assert code == 0
    assert told["epochs"] == 1000
    assert told["measured"]["world-model update"]["times"] == 10_000 + 400 * 999
    assert told["measured"]["imagined step of 32 dreams"]["times"] == 15 * (5_000 + 400 * 999)
    assert told["hours"] > 1
    assert sum(told["parameters"].values()) == pytest.approx(13.5e6, rel=0.01)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Breakot", "Did you mean 'Breakout'?"),
        ("Breakout --agent.channels 8 8 8", "cannot be built"),
        ("Breakout --preset paper --world-model.target-ema 1", "target_ema is 1.0"),
        ("Breakout --preset paper --world-model.reward-end.frame-stack 5", "reward_end.frame_stack is 5"),
        ("Breakout --preset diamond --world-model.separate-autoencoder", "--fit-world-model.decoder-every 1"),
        ("Breakout --frame-skip 6 2", "frame_skip is (6, 2)"),
    ],
)
def test_what_cannot_run_is_told(dry_run, line, said):
    code, out, err = dry_run(line)
    assert (code, out) == (2, "")
    assert said in " ".join(err.replace("\u2502", " ").split())
