"""The time limit: when one more epoch fits, by a clock that a test moves; and a run that stops by it and goes on."""

import json
import math
from dataclasses import replace

import pytest
import torch

from jedi_env.errors import UsageError
from tests.trainers.fakes import MICRO, TOY
from trainers.log import read
from trainers.time_limit import TimeLimit
from trainers.train import train

CPU = torch.device("cpu")


class Clock:
    def __init__(self):
        self.now = 1e6

    def __call__(self):
        return self.now


def asked(minutes, epochs):
    """Ask before each of so many epochs, which take these seconds; return how many were begun."""
    clock = Clock()
    limit = TimeLimit(minutes, clock)
    for begun, seconds in enumerate(epochs):
        if not limit.another():
            return begun
        clock.now += seconds
    return len(epochs)


@pytest.mark.parametrize(
    ("minutes", "epochs", "begun"),
    [
        (1, [10] * 10, 5),  # the sixth would end just as the time is up, which is not before
        (1, [9] * 10, 6),
        (1, [100, 1, 1], 1),
        (1, [50, 50], 1),  # one was begun in good faith
        (10, [200, 20, 20, 20] + [20] * 99, 20),  # the long first one is forgotten after three
        (10, [20] * 10 + [200] + [20] * 99, 11),  # 400 s spent: another long one would not fit
    ],
)
def test_an_epoch_is_begun_if_the_longest_of_the_last_three_fits(minutes, epochs, begun):
    assert asked(minutes, epochs) == begun


def test_it_tells_the_time():
    clock = Clock()
    limit = TimeLimit(2, clock)
    assert (limit.seconds, limit.over) == (0, False)
    clock.now += 119
    assert (limit.seconds, limit.over) == (119, False)
    clock.now += 1
    assert limit.over


@pytest.mark.parametrize("minutes", [0, -1, math.inf, math.nan])
def test_a_limit_is_a_positive_number_of_minutes(minutes):
    with pytest.raises(UsageError, match="write a positive number"):
        TimeLimit(minutes)


class Ticking(Clock):
    """Every question takes a minute, and an epoch asks once."""

    def __call__(self):
        self.now += 60
        return self.now


def test_a_run_stops_after_an_epoch_and_the_same_command_goes_on(tmp_path, caplog):
    caplog.set_level("INFO")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(MICRO, TOY, 0, whole, CPU)
    done = []
    for _ in range(9):
        checkpoint = train(MICRO, TOY, 0, parts, CPU, TimeLimit(3.5, Ticking()))
        done.append(max(line["epoch"] for line in read(parts)) + 1)
        if checkpoint.exists():
            break
        assert f"Time is up after epoch {done[-1]} of 4: the same command goes on from there." in caplog.text
    assert done == [2, 4]
    for name in ("pixels.bin", "steps.bin"):
        assert (parts / "replay" / name).read_bytes() == (whole / "replay" / name).read_bytes()
    tensors = "state/epoch-000004/tensors.safetensors"
    assert (parts / tensors).read_bytes() == (whole / tensors).read_bytes()
    assert len((parts / "checkpoint" / "model.safetensors").read_bytes()) > 1000


def test_on_the_command_line(tmp_path, jedi, caplog):
    """With next to no time nothing is trained, and that is no failure."""
    line = f"train --env {TOY} --preset tiny --run-dir {tmp_path / 'run'} --device cpu"
    with caplog.at_level("INFO"):
        code, out, _ = jedi(f"{line} --minutes 1e-9")
    assert (code, out) == (0, "")
    assert "Time is up after epoch 0: the same command goes on" in caplog.text
    assert json.loads((tmp_path / "run" / "config.json").read_text())["game"] == TOY
    code, _, err = jedi(f"{line} --minutes 0")
    assert code == 2
    assert "write a positive number" in err


def test_it_changes_nothing_of_a_finished_run(tmp_path):
    config = replace(MICRO, collect=replace(MICRO.collect, total_steps=50), final_epochs=0)
    first = train(config, TOY, 0, tmp_path / "run", CPU)
    assert train(config, TOY, 0, tmp_path / "run", CPU, TimeLimit(1e-9)) == first
    assert first.is_dir()
