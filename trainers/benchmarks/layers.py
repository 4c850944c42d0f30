"""Where the time of a user's program goes: the layers around a dream, PPO inside it, and the wait for the first step.

Layers are timed inside one another in one run, so that their ratio holds on a machine that others use too.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import numpy as np
import torch

from jedi_env.envs.vector import DreamVectorEnv
from jedi_env.sb3 import as_vec_env
from trainers.benchmarks.clock import Place, apart
from trainers.benchmarks.workloads import untrained

_FIRST_STEP = """
import time
start = time.perf_counter()
import gymnasium
env = gymnasium.make_vec("jedi_env:JEDIDream-v0", num_envs=1, checkpoint={checkpoint!r}, compile=False)
env.reset(seed=0)
env.step(env.action_space.sample())
print(time.perf_counter() - start)
"""


class _Stopwatch:
    """Adds up, by name, the seconds spent in methods."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, method: str, name: str) -> None:  # noqa: ANN401
        """Time that method of that object from now on."""
        run: Callable[..., Any] = getattr(owner, method)

        @wraps(run)
        def timed(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            start = time.perf_counter()
            result = run(*arguments, **named)
            self._place.wait()
            self.seconds[name] += time.perf_counter() - start
            return result

        setattr(owner, method, timed)


def layers(preset: str, lanes: int, place: Place, budget: float) -> dict[str, float]:
    """Return what the Gymnasium face and the SB3 bridge add to a dream step, as shares of it; medians.

    Args:
        preset: the dream's.
        lanes: dreams side by side.
        place: where.
        budget: seconds.
    """
    found: dict[str, float] = apart(_layers, preset, lanes, place, budget)
    return found


def ppo(preset: str, lanes: int, place: Place, budget: float) -> dict[str, float]:
    """Return SB3 PPO's steps a second end to end in a dream, and which share of its time goes where; medians."""
    found: dict[str, float] = apart(_ppo, preset, lanes, place, budget)
    return found


def first_step(preset: str, repetitions: int) -> dict[str, float]:
    """Return how long a fresh process takes to its first step in a dream of ``preset``: medians.

    ``seconds``: from the first import; ``process``: with the start of the interpreter.
    """
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "dream"
        apart(_save, preset, checkpoint)
        inside, whole = [], []
        for _ in range(repetitions):
            start = time.perf_counter()
            command = [sys.executable, "-c", _FIRST_STEP.format(checkpoint=str(checkpoint))]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            whole.append(time.perf_counter() - start)
            inside.append(float(told.split()[-1]))
    return {"seconds": median(inside), "process": median(whole)}


def _save(preset: str, path: Path) -> None:
    untrained(preset).save(path)


def _layers(preset: str, lanes: int, place: Place, budget: float) -> dict[str, float]:
    _set_threads(place)
    env = _environment(preset, lanes, place)
    bridge = as_vec_env(env)
    watch = _watched(env, place)
    watch.watch(bridge, "step_wait", "bridge")
    bridge.seed(0)
    bridge.reset()
    actions = np.zeros(lanes, dtype=np.int64)
    rows: list[tuple[float, ...]] = []
    end = time.perf_counter() + budget
    while len(rows) < 5 or time.perf_counter() < end:
        watch.seconds.clear()
        bridge.step(actions)
        seconds = watch.seconds
        rows.append((seconds["dream"], seconds["face"] - seconds["dream"], seconds["bridge"] - seconds["face"]))
    dream, face, above = (median(column) for column in zip(*rows[1:], strict=True))
    return {"lanes": lanes, "dream_seconds": dream, "face": face / dream, "bridge": above / dream}


def _ppo(preset: str, lanes: int, place: Place, budget: float) -> dict[str, float]:
    from trainers.sb3 import ROLLOUT, make_algorithm

    _set_threads(place)
    model = make_algorithm("PPO", untrained(preset), lanes, 0, None)
    bridge: Any = model.get_env()
    while hasattr(bridge, "venv"):
        bridge = bridge.venv
    watch = _watched(bridge.env.unwrapped, place)
    watch.watch(bridge, "step_wait", "bridge")
    watch.watch(model, "train", "learning")
    watch.watch(model.policy, "forward", "policy")
    steps = ROLLOUT * lanes
    model.learn(steps)
    rows: list[tuple[float, ...]] = []
    end = time.perf_counter() + budget
    while len(rows) < 3 or time.perf_counter() < end:
        watch.seconds.clear()
        start = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        total, seconds = time.perf_counter() - start, watch.seconds
        rows.append(
            (
                steps / total,
                seconds["dream"] / total,
                (seconds["face"] - seconds["dream"]) / total,
                (seconds["bridge"] - seconds["face"]) / total,
                seconds["policy"] / total,
                seconds["learning"] / total,
                (total - seconds["bridge"] - seconds["policy"] - seconds["learning"]) / total,
            )
        )
    names = ("steps_per_second", "dream", "face", "bridge", "policy", "learning", "rest")
    return {"lanes": lanes, **dict(zip(names, (median(column) for column in zip(*rows, strict=True)), strict=True))}


def _environment(preset: str, lanes: int, place: Place) -> DreamVectorEnv:
    env = gymnasium.make_vec(
        "jedi_env:JEDIDream-v0",
        num_envs=lanes,
        checkpoint=untrained(preset),
        device=place.device,
        dtype=place.dtype,
        compile=place.compile,
    ).unwrapped
    assert isinstance(env, DreamVectorEnv)
    return env


def _watched(env: DreamVectorEnv, place: Place) -> _Stopwatch:
    watch = _Stopwatch(place)
    watch.watch(env.face.dream, "step", "dream")
    watch.watch(env.face.dream, "restart", "dream")
    watch.watch(env, "step", "face")
    return watch


def _set_threads(place: Place) -> None:
    if place.threads is not None:
        torch.set_num_threads(place.threads)
