"""Several processes are one process, split: real ones, started by torchrun, talking over gloo."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.fakes import TOY
from tests.trainers.killing import outcome
from tests.trainers.ranks import CALM
from trainers import distributed
from trainers.log import read
from trainers.state import completed
from trainers.train import train

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def torchrun(processes, module, *words):
    """Begin ``python -m module words`` in so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, module, *map(str, words)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err[-5000:]


def tensors(run_dir):
    newest = sorted((run_dir / "state").iterdir())[-1]
    return {
        (file.name, name): tensor
        for file in (newest / "tensors.safetensors", *sorted((run_dir / "checkpoint").glob("*.safetensors")))
        for name, tensor in load_file(file).items()
    }


def assert_close(run_dir, whole):
    """Equal but for the rounding of sums; what does not come from sums is equal to the bit."""
    here, there = tensors(run_dir), tensors(whole)
    assert here.keys() == there.keys()
    for name, tensor in there.items():
        torch.testing.assert_close(
            here[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name} {text}"
        )
    lines, others = read(run_dir), read(whole)
    assert [(line["epoch"], line["phase"]) for line in lines] == [(line["epoch"], line["phase"]) for line in others]
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys()
        for key in line.keys() - {"seconds", "phase"}:
            assert line[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), (line["epoch"], line["phase"], key)
    assert outcome(run_dir)["replay"] == outcome(whole)["replay"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run by one process."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(CALM, TOY, 0, run_dir, CPU)
    return run_dir


def test_one_process_alone_needs_no_torchrun():
    assert (distributed.world(), distributed.first()) == (1, True)
    assert distributed.numbers_of_first(3, 4) == (3, 4)
    with distributed.joined("cpu") as device:
        assert device == CPU
        assert not torch.distributed.is_initialized()


def test_two_processes_do_what_one_does(tmp_path, whole):
    """Gradients share by share, then a whole run with all that is in it."""
    run_dir = tmp_path / "run"
    checks = ("world_model_gradients", "agent_gradients", "differences_are_told", "run")
    end(torchrun(2, "tests.trainers.ranks", run_dir, *checks))
    assert {path.name for path in tmp_path.glob("run-rank-*")} == {"run-rank-0", "run-rank-1"}
    assert_close(run_dir, whole)


def ranks_of(process):
    """The processes that a torchrun has started, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "status").read_text().split("PPid:")[1].split()[0])
            if parent == process.pid:
                words = (folder / "environ").read_bytes().split(b"\0")
                (rank,) = [word.split(b"=")[1] for word in words if word.startswith(b"RANK=")]
                found[int(rank)] = int(folder.name)
        except (OSError, ValueError, IndexError):  # gone meanwhile
            continue
    return found


FLAGS = shlex.split(
    "--env JEDICatch-v0 --device cpu --collect.first-steps 60 --collect.first-steps-limit 60 --collect.steps 20 "
    "--collect.total-steps 640 --fit-world-model.first-updates 2 --fit-world-model.updates 1 --fit-world-model.batch 3 "
    "--fit-world-model.no-precision-bf16 --fit-agent.first-updates 1 --fit-agent.updates 1 --fit-agent.batch 3 "
    "--fit-agent.horizon 3 --fit-agent.contexts 4 --evaluate.every 0 --evaluate.final-episodes 1 --bank 4 "
    "--world-model.encoder.channels 8 16 --world-model.encoder.down True False --world-model.denoiser.channels 8 "
    "--world-model.reward-end.channels 8 8 --world-model.reward-end.lstm-dim 8 --decoder.channels 8 --decoder.blocks 1"
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_all_and_the_run_goes_on_with_another_number(tmp_path, lost):
    """Two, of which one is killed; then one, which is interrupted; then two to the end."""
    run_dir = tmp_path / "run"
    line = (*FLAGS, "--run-dir", run_dir)

    def until(epoch, process):
        while completed(run_dir)[0] < epoch:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    two = torchrun(2, "trainers.train", *line)
    until(3, two)
    os.kill(ranks_of(two)[lost], signal.SIGKILL)
    _, err = two.communicate(timeout=60)
    assert two.returncode != 0
    if lost == 1:
        # Which comes first while it plays alone: what it waits for is lost, or torchrun's signal to end.
        told = ("Another process of this run was lost", "interrupted; run the same command again")
        assert any(sentence in err for sentence in told), err
    before = completed(run_dir)[0]
    one = subprocess.Popen(
        [sys.executable, "-m", "trainers.cli", "train", *map(str, line)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(before + 3, one)
    one.send_signal(signal.SIGTERM)
    assert one.wait(timeout=60) == 1
    assert completed(run_dir)[0] < 30
    end(torchrun(2, "trainers.train", *line))
    assert [row["epoch"] for row in read(run_dir) if row["phase"] == "collect"] == list(range(30))
    assert (run_dir / "checkpoint").is_dir()
    facts = json.loads((run_dir / "state" / "epoch-000030" / "facts.json").read_text())["facts"]
    assert facts["imagined_steps"] == 30 * 3 * 3
