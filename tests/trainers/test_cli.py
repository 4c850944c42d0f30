"""The command line: what it refuses and with which code, what it prints, and once through everything on a real game."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jedi_env.config_json import to_json
from jedi_env.errors import UsageError
from jedi_env.games import GAMES
from jedi_env.models.world_model import WorldModel
from tests.tiny_dream import tiny_checkpoint
from tests.trainers.fakes import TOY
from trainers.commands.common import open_dream
from trainers.presets import PRESETS

# Flags that make the tiny preset microscopic.
MICRO = (
    "--collect.total-steps 60 --collect.first-steps 40 --collect.first-steps-limit 40 --collect.steps 20 "
    "--fit-world-model.first-updates 2 --fit-world-model.updates 1 --fit-world-model.batch 2 "
    "--fit-world-model.freeze-encoder-after 2 --fit-agent.first-updates 1 --fit-agent.updates 1 --fit-agent.batch 2 "
    "--fit-agent.horizon 3 --fit-agent.contexts 4 --evaluate.every 0 --evaluate.final-episodes 1 --bank 4 "
    "--world-model.encoder.channels 8 16 --world-model.encoder.down True False --world-model.denoiser.channels 8 "
    "--world-model.reward-end.channels 8 8 --world-model.reward-end.lstm-dim 8 --decoder.channels 8 --decoder.blocks 1"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of one's own: relative paths begin here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def anything_in(folder):
    return [str(path) for path in folder.rglob("*")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train Breakot", "Did you mean 'Breakout'?"),
        (
            "train Breakout --preset papr",
            "Did you mean 'paper'? Write one of: paper, stochastic, diamond",
        ),
        ("train Breakout --seed -1", "seed is -1"),
        ("train Breakout --seed one", "one"),
        ("train Breakout --collect.steps 0", "collect.steps is 0: write a whole number of at least 1"),
        ("train Breakout --agent.frame-stack 9", "a number from 1 to 4"),
        ("train Breakout --agent.channels 8 8 8", "cannot be built, or do not fit together"),
        ("train Breakout --fit-agent.bach 3", "--fit-agent.bach"),
        ("train Breakout extra", "extra"),
        ("train", "Which game? Write one of the 26 games"),
        ("train Breakout --env CarRacing-v3", "These are 2 games: Breakout, CarRacing-v3. Write one of the 26 games"),
        ("train --env CartPole-v1", "wrap it in gymnasium.wrappers.AddRenderObservation"),
        ("train --env nowhere:Nope-v0", "neither an Atari100k game nor an id that Gymnasium can make"),
        ("", "list"),
        ("trian Breakout", "There is no command 'trian'. Did you mean 'train'? Write one of: list, train, eval"),
        ("train Breakuot --dry-run --no-estimate", "'Breakuot' is none of the 26 games. Did you mean 'Breakout'?"),
        ("train CarRacing-v3", "an environment of your own, write `jedi-env train --env CarRacing-v3`"),
        ("train Breakout --batch 64", "`jedi-env train GAME --dry-run --no-estimate` prints all settings"),
        ("train --fit-agent.batch 64 Breakout", "Which game? Settings of the preset come after the game."),
        ("list --jsn", "Unknown arguments: --jsn. Write `jedi-env list --help`"),
        ("eval nowhere", "neither one of the 26 games nor a folder"),
        ("eval . --episodes 0", "--episodes is 0; write a whole number of at least 1"),
        ("dream Breakot", "neither one of the 26 games nor a folder. Did you mean 'Breakout'?"),
        ("dream nowhere/checkpoint", "neither one of the 26 games nor a folder. Write a game"),
        ("dream Qbert", "There is no dream of 'Qbert'"),
        ("dream Breakout --steps 0", "--steps is 0"),
        ("dream Breakout --lanes 0", "--lanes is 0"),
        ("dream Breakout --episodes -1", "--episodes is -1"),
        ("dream Breakout --seed -1", "--seed is -1"),
        ("eval . --seed -1", "--seed is -1"),
        ("info Qbrt", "Did you mean 'Qbert'?"),
        ("info Qbert", "There is no dream of 'Qbert'"),
    ],
)
def test_bad_usage_is_told_with_code_2_and_leaves_nothing_behind(jedi, here, line, said):
    code, out, err = jedi(line)
    assert code == 2
    assert said in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert out == ""
    assert anything_in(here) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("line", ["train Breakout --device cuda", "eval . --device cuda:1"])
def test_an_absent_device_is_told(jedi, here, line):
    code, _, err = jedi(line)
    assert code == 2
    assert "cuda" in err
    assert "Write device='auto'" in err or "--device auto" in err
    assert anything_in(here) == []


def test_a_foreign_run_directory_is_refused(jedi, here):
    (here / "work").mkdir()
    (here / "work" / "thesis.tex").write_text("precious")
    code, _, err = jedi("train Breakout --run-dir work")
    assert code == 2
    assert "is not empty and holds no run" in err
    assert anything_in(here / "work") == [str(here / "work" / "thesis.tex")]


def test_a_damaged_checkpoint_is_refused(jedi, here):
    tiny_checkpoint().save(here / "dream")
    with (here / "dream" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    for command in ("info dream", "dream dream", "eval dream"):
        code, out, err = jedi(command)
        assert (code, out) == (2, "")
        assert "model.safetensors" in err


@pytest.mark.parametrize(("flags", "said"), [("--algo PP0", "Did you mean 'PPO'?"), ("--horizon 0", "horizon is 0")])
def test_what_a_dream_cannot_be_trained_with_is_told(jedi, here, flags, said):
    tiny_checkpoint().save(here / "dream")
    code, out, err = jedi(f"dream dream {flags}")
    assert (code, out) == (2, "")
    assert said in err


def _in_its_first_epoch(run):
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"game": "Breakout", "seed": 0, "config": {}}))
    (run / "metrics.jsonl").touch()


@pytest.mark.parametrize("begin", [_in_its_first_epoch, lambda run: (run / "state").mkdir(parents=True)])
def test_a_run_without_a_checkpoint_yet_is_told(jedi, here, begin):
    begin(here / "run")
    code, _, err = jedi("eval run")
    assert code == 2
    assert "has no checkpoint yet" in err


@pytest.mark.parametrize(
    "line",
    [
        "fidelity dream --out file/out",
        "dream dream --steps 10 --lanes 2 --save file/policy.zip",
        "bench --quick --out file/out",
        "report run --out file/report.html",
    ],
)
def test_where_nothing_can_be_written_is_told_in_a_sentence(jedi, here, line):
    tiny_checkpoint().save(here / "dream")
    _in_its_first_epoch(here / "run")
    (here / "file").write_text("no folder")
    before = anything_in(here)
    code, out, err = jedi(line)
    assert code in (1, 2)
    assert "file" in err
    assert "Traceback" not in err
    assert "Measuring" not in err
    assert out == ""
    assert sorted(anything_in(here)) == sorted(before)


def test_a_game_beside_a_folder_of_its_name_is_still_the_game(jedi, here, monkeypatch):
    """Nothing is stored in a folder that was not what was measured."""
    tiny_checkpoint().save(here / "home" / "Breakout")
    monkeypatch.setenv("JEDI_ENV_HOME", str(here / "home"))
    (here / "Breakout").mkdir()
    code, out, err = jedi("fidelity Breakout --horizon 2 --segments 4 --steps 300 --no-probes")
    assert (code, anything_in(here / "Breakout")) == (0, []), err
    assert "Not stored: name the checkpoint by its folder" in out


def test_interrupted_by_the_user(jedi, here, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainers.train.train", interrupted)
    code, _, err = jedi("train Breakout")
    assert code == 1
    assert err.splitlines()[-1] == "jedi-env: interrupted"


@pytest.mark.parametrize("command", ["", "list", "train", "eval", "dream", "info", "play"])
def test_every_command_explains_itself(jedi, command):
    code, out, _ = jedi(f"{command} --help")
    assert code == 0
    for word in {"": ["list", "train", "eval", "dream", "info"], "train": ["--preset", "--run-dir", "--dry-run"]}.get(
        command, ["--json"]
    ):
        assert word in out


def test_dry_run_prints_the_resolved_configuration_and_does_nothing(jedi, here):
    line = (
        "train Breakout --preset paper --seed 3 --dry-run --no-estimate --json --fit-agent.batch 7 "
        "--collect.no-life-loss --world-model.encoder.patch 2 --agent.channels 8 8 --agent.down True False"
    )
    code, out, _ = jedi(line)
    told = json.loads(out)
    assert code == 0
    assert (told["game"], Path(told["run_dir"])) == ("Breakout", Path("runs/breakout-paper-3"))
    config = told["config"]
    assert config["fit_agent"]["batch"] == 7
    assert config["collect"]["life_loss"] is False
    assert config["world_model"]["encoder"]["patch"] == 2
    assert (config["agent"]["channels"], config["agent"]["down"]) == ([8, 8], [True, False])
    assert config["fit_agent"]["horizon"] == PRESETS["paper"].fit_agent.horizon
    assert anything_in(here) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_resolves_to_itself(jedi, preset):
    code, out, _ = jedi(f"train --preset {preset} --dry-run --no-estimate --json Pong --bank 9")
    assert code == 0
    told = json.loads(out)
    assert told["game"] == "Pong"
    assert told["config"] == to_json(replace(PRESETS[preset], bank=9))


def test_a_flag_of_the_preset_before_the_game_is_never_taken_for_something_else(jedi):
    code, out, err = jedi("train --bank 9 Breakout --dry-run")  # 9 would be the game
    assert (code, out) == (2, "")
    assert "Which game?" in err


def test_list_tells_which_games_have_a_dream(jedi, here, monkeypatch):
    code, out, _ = jedi("list --json")
    assert code == 0
    found = json.loads(out)
    assert found.keys() >= set(GAMES)
    home = here / "home"
    tiny_checkpoint(game="Pong").save(home / "Pong")
    tiny_checkpoint(game="CarRacing-v3").save(home / "CarRacing-v3")
    monkeypatch.setenv("JEDI_ENV_HOME", str(home))
    _, out, _ = jedi("list --json")
    assert json.loads(out) == found | {name: str(home / name) for name in ("Pong", "CarRacing-v3")}
    _, out, _ = jedi("list")
    assert [line.split()[0] for line in out.splitlines()][: len(GAMES)] == list(GAMES)
    assert f"Pong             {here / 'home' / 'Pong'}" in out


def test_info_tells_what_a_checkpoint_holds(jedi, here):
    checkpoint = tiny_checkpoint(agent=True, decoder=True)
    checkpoint.save(here / "dream")
    code, out, _ = jedi("info dream --json")
    told = json.loads(out)
    assert code == 0
    model: WorldModel = checkpoint.world_model
    assert told["parameters"] == {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert (told["game"], told["num_actions"], told["contexts"], told["horizon"]) == ("Breakout", 4, 5, 20)
    assert (told["agent"], told["decoder"], told["frame_shape"]) == (True, True, list(model.frame_shape))
    assert told["provenance"]["commit"] == "0123abc"
    code, out, _ = jedi("info dream")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"game Breakout", "contexts 5", "commit 0123abc"} <= set(lines)


def test_info_for_people_is_short(jedi):
    code, out, _ = jedi("info Breakout")
    assert code == 0
    assert len(out) < 4000
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "trusted_horizon 50" in lines
    native = json.loads(jedi("info Breakout --json")[1])["metrics"]["real_games"]["native"]
    mean, std, games = (native[name] for name in ("mean", "std", "episodes"))
    assert f"real_games.native {mean:.2f} +- {std:.2f} over {games} real games" in lines
    assert any(line.startswith("real_games.ppo.0 ") for line in lines)


def test_info_of_a_game_finds_its_dream(jedi, here, monkeypatch):
    tiny_checkpoint(game="Pong").save(here / "home" / "Pong")
    monkeypatch.setenv("JEDI_ENV_HOME", str(here / "home"))
    assert json.loads(jedi("info Pong --json")[1])["game"] == "Pong"


def test_a_dream_of_no_real_game_must_not_be_scored_and_says_so_before_learning(jedi, here):
    tiny_checkpoint(game=None).save(here / "dream")
    code, _, err = jedi("dream dream --steps 10")
    assert code == 2
    assert "write --episodes 0" in err
    code, out, _ = jedi("dream dream --algo A2C --steps 10 --lanes 2 --episodes 0 --json --save policy.zip")
    assert code == 0
    assert json.loads(out)["algo"] == "A2C"
    assert "real" not in json.loads(out)
    assert (here / "policy.zip").stat().st_size > 0


def test_train_without_evaluation_names_no_scores(jedi, here):
    line = f"train --env {TOY} --preset tiny --run-dir run --device cpu {MICRO} --evaluate.final-episodes 0"
    code, out, _ = jedi(line)
    assert code == 0
    assert out == "Checkpoint: run/checkpoint\n"


def test_once_through_everything_on_the_real_breakout(jedi, here):
    line = f"train Breakout --preset tiny --seed 1 --run-dir run --device cpu {MICRO}"
    code, out, err = jedi(line)
    assert code == 0, err
    assert out.split() == ["Checkpoint:", "run/checkpoint", "Scores:", "run/scores.json"]
    (score,) = json.loads((here / "run" / "scores.json").read_text())
    assert score["protocol"]["frame_skip"] == 4
    logged = (here / "run" / "metrics.jsonl").read_bytes()

    code, again, _ = jedi(line)  # the same command goes on; there is nothing left to do
    assert (code, again) == (0, out)
    assert (here / "run" / "metrics.jsonl").read_bytes() == logged
    code, _, err = jedi(line.replace("--seed 1", "--seed 2"))
    assert code == 2
    assert "seed (there 1, asked for 2)" in err

    code, out, _ = jedi("eval run --episodes 2 --json --device cpu")
    assert code == 0
    assert (json.loads(out)["game"], len(json.loads(out)["returns"])) == ("Breakout", 2)
    code, out, _ = jedi("eval run/checkpoint --episodes 1 --device cpu")
    assert code == 0
    assert out.startswith("Breakout: ")
    assert out.endswith("over 1 real games\n")

    code, out, _ = jedi("info run/checkpoint --json")
    told = json.loads(out)
    assert (told["game"], told["contexts"], told["num_actions"], told["agent"]) == ("Breakout", 4, 4, True)
    assert told["protocol"]["life_loss"] is True
    assert told["protocol"]["action_meanings"] == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert told["provenance"]["real_steps"] == 60

    code, out, _ = jedi("dream run/checkpoint --algo PPO --steps 64 --lanes 2 --horizon 5 --episodes 1 --json")
    told = json.loads(out)
    assert code == 0
    assert (told["algo"], told["imagined_steps"], told["real"]["episodes"]) == ("PPO", 64, 1)
    code, out, _ = jedi("dream run/checkpoint --steps 64 --lanes 2 --horizon 5 --episodes 1")
    assert code == 0
    assert "PPO: 64 dream steps" in out
    assert "over 1 real games" in out


def test_somebody_elses_checkpoint_names_no_module_to_import(tmp_path, monkeypatch):
    tiny_checkpoint(game="their_game:Game-v0").save(tmp_path / "theirs")
    tiny_checkpoint(game="JEDICatch-v0").save(tmp_path / "catch")
    monkeypatch.setattr("jedi_env.hub.download", lambda address, files: tmp_path / address.rsplit("/", 1)[1])
    assert open_dream("hub://owner/catch").game == "JEDICatch-v0"
    with pytest.raises(UsageError, match=r"would import the module .their_game.\. If you trust that, download"):
        open_dream("hub://owner/theirs")
    assert open_dream(str(tmp_path / "theirs")).game == "their_game:Game-v0"


@pytest.mark.parametrize(("words", "unbuffered"), [(["train", "--help"], "1"), (["list"], "")])
def test_a_reader_that_leaves_is_no_fault(words, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does once it has seen enough
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "trainers", *words],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")
