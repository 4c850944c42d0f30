"""Real processes that train, to be killed from outside, and the comparison of what they leave."""

import json
import multiprocessing
import os
import resource
import signal
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.trainers.fakes import MICRO, MICRO_BREAKOUT, TOY
from trainers.cli import exit_codes
from trainers.config import EvaluateConfig
from trainers.log import read
from trainers.train import train

CPU = torch.device("cpu")
WALL_CLOCK = ("seconds", "log_size")  # and what its digits are counted in

# Twelve epochs on a toy, with evaluations; and a few on a real game. The encoder freezes in the middle.
LIVED = replace(
    MICRO,
    collect=replace(MICRO.collect, total_steps=250),
    evaluate=EvaluateConfig(every=3, episodes=8, final_episodes=12),
    fit_world_model=replace(MICRO.fit_world_model, freeze_encoder_after=20, reward_end_switching=0.5),
)
LIVED_BREAKOUT = replace(
    MICRO_BREAKOUT,
    collect=replace(MICRO_BREAKOUT.collect, total_steps=180),
    evaluate=EvaluateConfig(every=3, episodes=1, final_episodes=1),
    fit_world_model=replace(MICRO_BREAKOUT.fit_world_model, freeze_encoder_after=10),
)
RUNS = {"toy": (LIVED, TOY), "breakout": (LIVED_BREAKOUT, "Breakout"), "micro": (MICRO, TOY)}
LARGEST = {"small_files": 900_000, "smaller_files": 50_000}  # bytes that a file may have: too few for replay, states

_server = multiprocessing.get_context("forkserver")  # imports torch once, and forks from there: clean and quick
_server.set_forkserver_preload([__name__])


def _live(name, run_dir, said):
    """What the process does: the run, as the command line would do it."""
    torch.set_num_threads(1)
    if name in LARGEST:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST[name], LARGEST[name]))
    config, game = RUNS["micro" if name in LARGEST else name]
    with open(said, "a") as file, redirect_stderr(file), redirect_stdout(file), exit_codes("train"):
        train(config, game, 0, Path(run_dir), CPU)


def start(name, run_dir, target=_live):
    process = _server.Process(target=target, args=(name, str(run_dir), f"{run_dir}.said"))
    process.start()
    return process


def finish(name, run_dir):
    """Let the run come to its end; return the seconds that took."""
    began = time.monotonic()
    process = start(name, run_dir)
    process.join()
    assert process.exitcode == 0, Path(f"{run_dir}.said").read_text()[-2000:]
    return time.monotonic() - began


def kill_when(process, seen, number=signal.SIGKILL):
    """Kill ``process`` as soon as ``seen()``, looking all the time; return whether it was still alive."""
    while process.is_alive():
        if seen():
            os.kill(process.pid, number)
            process.join()
            return True
    process.join()
    return False


def where(run_dir):
    """What the newest traces of a killed run are of."""
    state = run_dir / "state"
    if any(run_dir.glob(".checkpoint.*")):
        return "writing the checkpoint"
    if any(state.glob(".*")):
        return "writing a state"
    if any(run_dir.glob(".*.new")):
        return "writing a file"
    if not (run_dir / "config.json").exists():
        return "before the run began"
    lines = (run_dir / "metrics.jsonl").read_bytes().split(b"\n")[:-1] if (run_dir / "metrics.jsonl").exists() else []
    done = json.loads(lines[-1])["phase"] if lines else "nothing"
    return f"after {done}"


def outcome(run_dir):
    """All that a run has come to, but for how long it took: what must be equal to the bit."""
    newest = sorted((run_dir / "state").iterdir())[-1]
    facts = json.loads((newest / "facts.json").read_text())["facts"]
    tensors = {}
    for file in (newest / "tensors.safetensors", *sorted((run_dir / "checkpoint").glob("*.safetensors"))):
        for name, tensor in load_file(file).items():
            tensors[file.name, name] = tensor.numpy().tobytes()
    scores = run_dir / "scores.json"
    return {
        "states": sorted(path.name for path in (run_dir / "state").iterdir()),
        "metrics": [{k: v for k, v in line.items() if k not in WALL_CLOCK} for line in read(run_dir)],
        "facts": {k: v for k, v in facts.items() if k not in WALL_CLOCK},
        "tensors": tensors,
        "replay": [(run_dir / "replay" / name).read_bytes() for name in ("pixels.bin", "steps.bin")],
        "scores": json.loads(scores.read_text()) if scores.exists() else None,
        "checkpoint": json.loads((run_dir / "checkpoint" / "config.json").read_text()),
        "litter": sorted(path.name for path in run_dir.iterdir() if path.name.endswith(".new")),
    }
