"""``jedi-env bench``: what it refuses, and that everything it measures becomes real numbers. How large they are is no
test's business."""

import json
import math
import os
import shlex

import numpy as np
import pytest
import torch

import trainers.benchmarks.bench
from trainers.benchmarks.bench import OURS, BenchConfig, bars, best
from trainers.benchmarks.clock import Job, Measured, Place, Skipped, in_turns
from trainers.benchmarks.page import page
from trainers.benchmarks.workloads import ReplayDraws
from trainers.cli import main

CPU = Place("cpu", "float32", threads=1)
TINY = "--model tiny --baseline tiny --seconds 0 --threads 1 --device cpu --quick"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line):
    try:
        main(shlex.split(f"bench {line}"))
    except SystemExit as exit_:
        return exit_.code or 0
    return 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--lanes 8 0", "--lanes is 0; write a whole number of at least 1"),
        ("--threads 0", "--threads is 0"),
        ("--seconds -1", "numbers of at least 0"),
        ("--model papr", "Did you mean 'paper'? Write one of: paper"),
        ("--baseline x", "--baseline is 'x'"),
        ("--small x", "--small is 'x'"),
        ("--parts dreams", "Did you mean 'dream'? Write some of: dream, updates"),
        ("--against .", "There is no src/models/diffusion/denoiser.py: write --against with the folder of a checkout"),
        ("--device nowhere", "The device 'nowhere' is not there"),
        ("--dtype int8", "dtype is 'int8'"),
        ("--fast", "Unknown arguments: --fast"),
    ],
)
def test_what_is_refused(line, said, here, capsys):
    assert run(line) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert list(here.iterdir()) == []


def real(row):
    assert row["skipped"] is None
    for key in ("rate", "low", "high", "seconds", "product_gflops", "peak_mb"):
        assert math.isfinite(row[key])
        assert row[key] > 0
    assert row["low"] <= row["rate"] <= row["high"]
    assert row["repetitions"] >= 3


def test_a_tiny_dream_beside_itself(here, capsys):
    assert run(f"{TINY} --lanes 2 --parts dream --page speed.md --json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((here / "runs" / "bench" / "bench.json").read_text())
    assert [(row["who"], row["lanes"]) for row in record["dream"]] == [("model", 2), ("baseline", 2)]
    for row in record["dream"]:
        real(row)
        assert row["gflop"] > 0
        assert 0 < row["share"] < 10
        assert row["working_mb"] > 0
    assert record["dream"][0]["gflop"] == record["dream"][1]["gflop"]
    assert {"commit", "machine", "versions", "threads", "dtype", "config", "bars", "seconds"} <= record.keys()
    told = (here / "speed.md").read_text()
    assert told == page(record, ["img/speed.png"])
    assert (here / "img" / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert "float32" in told or "bfloat16" in told


@pytest.mark.slow
def test_everything_else(here, capsys):
    assert run(f"{TINY} --lanes 2 --parts updates layers growth --json") == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["part"] for row in record["updates"]] == ["denoiser"] * 2 + ["reward and end"] * 2 + ["agent"] * 2
    for name in ("updates", "replay", "width", "imagination"):
        for row in record[name]:
            real(row)
    assert record["width"][0]["gflop"] < record["width"][1]["gflop"]
    assert record["imagination"][0]["imagined_per_second"] > 0
    (layers,) = record["layers"]
    assert layers["lanes"] == 2
    assert min(layers["face"], layers["bridge"], layers["dream_seconds"]) > 0
    ppo = record["ppo"]
    shares = [ppo[name] for name in ("dream", "face", "bridge", "policy", "learning", "rest")]
    assert sum(shares) == pytest.approx(1, abs=0.1)  # medians, each over the repetitions
    assert ppo["steps_per_second"] > 0
    assert 0 < record["first_step"]["seconds"] < record["first_step"]["process"]
    assert (here / "runs" / "bench" / "speed-growth.png").exists()
    assert [bar["name"] for bar in record["bars"]] == [
        "updates/s, equal counts of the three, over the baseline's",
        "peak memory over the baseline's: learning, the largest update",
        "what face and bridge add to a dream step, 2 lanes",
        "seconds to the first step of gym.make_vec, not compiled",
    ]


def test_the_operations_of_an_update_are_those_of_a_whole_one(monkeypatch):
    """Whatever was run: a piece of the agent's, or two of the denoiser's."""
    measured = Measured((1.0, 1.0), (10.0, 10.0), flops=20e9, units=0.5, idle=5, peak=7, noted={})
    monkeypatch.setattr(trainers.benchmarks.bench, "in_turns", lambda entries, _: [measured] * len(entries))
    rows = trainers.benchmarks.bench._updates(BenchConfig(), CPU, str)
    assert [row["gflop_per_update"] for row in rows] == [40.0] * 6


class Product:
    """A matrix product of a known number of operations."""

    def __init__(self, side):
        self.side = side

    def prepare(self, place):
        factor = torch.randn(self.side, self.side)
        return Job(lambda: factor @ factor, units=2, noted={"process": float(os.getpid())})


class TooLarge:
    def prepare(self, place):
        return Job(lambda: torch.empty(2**60))


def test_workloads_run_in_processes_of_their_own_and_their_operations_are_counted():
    small, large, none = in_turns([(Product(64), CPU), (Product(96), CPU), (TooLarge(), CPU)], 0)
    assert (small.flops, large.flops) == (2 * 64**3, 2 * 96**3)
    assert len({os.getpid(), small.noted["process"], large.noted["process"]}) == 3
    assert len(small.seconds) == len(small.product) == len(large.seconds) == 3
    assert isinstance(none, Skipped)
    assert "not enough memory" in none.reason


def test_rates_and_shares_are_medians():
    measured = Measured((1.0, 4.0, 2.0), (10.0, 10.0, 10.0), flops=20.0, units=8, idle=5, peak=7, noted={})
    assert measured.rate == 4
    assert measured.spread == (3, 6)
    assert measured.share == 1
    assert measured.working == 2


def test_draws_from_a_long_replay_cost_no_disk(tmp_path):
    job = ReplayDraws(20_000).prepare(CPU)
    folder, replay, segment = job.run()
    pixels = os.stat(os.path.join(folder.name, "pixels.bin"))
    assert pixels.st_size == 20_000 * 64 * 64 * 3
    assert pixels.st_blocks * 512 < pixels.st_size / 100
    assert segment.pixels.shape == (32, 6, 64, 64, 3)
    assert segment.mask.any()
    assert job.noted["open"] > 0
    replay.close()
    folder.cleanup()


def row(who, rate, **more):
    return {"who": who, "rate": rate, "skipped": None, "share": 0.6, "working_mb": 100.0, **more}


def test_the_aims():
    record = {
        "device": "cpu",
        "dream": [
            row("model", 100.0, lanes=8, working_mb=50.0),
            row("model", 80.0, lanes=32, working_mb=60.0),
            {"who": "model", "lanes": 128, "skipped": "too long"},
            row("baseline", 5.0, lanes=8),
            row("baseline", 2.0, lanes=32),
            row("public code", 2.5, lanes=8),
        ],
        "updates": [
            row(who, rate, part=part, working_mb=mb)
            for who, rates, mb in (("model", (10.0, 5.0, 2.0), 55.0), ("baseline", (1.0, 0.5, 0.125), 100.0))
            for part, rate in zip("abc", rates, strict=True)
        ],
        "layers": [{"lanes": 64, "face": 0.01, "bridge": 0.05}],
        "first_step": {"seconds": 2.5},
    }
    found = {bar["name"]: (bar["measured"], bar["reached"]) for bar in bars(record)}
    assert best(record["dream"], OURS)["lanes"] == 8
    assert found["dream steps/s at the best lane count over the baseline's"] == (20, False)
    assert found["dream steps/s at the best lane count over the public code's"] == (40, True)
    assert found["share of the matrix product's FLOP/s, dreaming there"] == (0.6, True)
    mix = (1 + 2 + 8) / (0.1 + 0.2 + 0.5)
    assert found["updates/s, equal counts of the three, over the baseline's"] == (pytest.approx(mix), True)
    assert found["peak memory over the baseline's: dreaming, the most lanes"] == (pytest.approx(0.6), False)
    assert found["peak memory over the baseline's: learning, the largest update"] == (pytest.approx(0.55), True)
    assert found["what face and bridge add to a dream step, 64 lanes"] == (pytest.approx(0.06), False)
    assert found["seconds to the first step of gym.make_vec, not compiled"] == (2.5, True)
    assert not np.isnan([measured for measured, _ in found.values()]).any()
