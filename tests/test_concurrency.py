"""Threads, forks and spawned processes: dreams that know nothing of one another, checkpoints that are never torn."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from jedi_env import find
from jedi_env.checkpoint import Checkpoint
from jedi_env.find import find_checkpoint
from tests.tiny_dream import NUM_ACTIONS, tiny_checkpoint

ROOT = Path(__file__).parents[1]
STEPS = 25
EXACT = {"device": "cpu", "dtype": "float32", "compile": False, "horizon": 7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("dreams") / "dream"
    tiny_checkpoint().save(path)
    return path


def play(env, seed):
    """Everything that a single dream shows under actions drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    seen = [env.reset(seed=seed)[0].copy()]
    for _ in range(STEPS):
        observation, reward, terminated, truncated, _ = env.step(int(rng.integers(NUM_ACTIONS)))
        seen += [observation.copy(), np.array([reward, terminated, truncated])]
        if terminated or truncated:
            seen.append(env.reset()[0].copy())
    return [array.tobytes() for array in seen]


def dream(folder, seed):
    env = gym.make("jedi_env:JEDIDream-v0", checkpoint=str(folder), **EXACT)
    try:
        return play(env, seed)
    finally:
        env.close()


def test_dreams_in_threads_are_those_that_they_are_alone(folder):
    seeds = range(6)
    alone = [dream(folder, seed) for seed in seeds]
    together = threading.Barrier(len(seeds))

    def at_once(seed):
        together.wait()
        return dream(folder, seed)

    with ThreadPoolExecutor(len(seeds)) as pool:
        assert list(pool.map(at_once, seeds)) == alone
    assert len({tuple(seen) for seen in alone}) == len(seeds)


def test_precision_and_gradients_of_a_thread_are_its_own(folder):
    """Half precision in one thread, full in another, learning in a third."""
    checkpoint = find_checkpoint(None, folder)
    alone = {dtype: rewards(checkpoint, dtype) for dtype in ("float32", "bfloat16")}
    together, found = threading.Barrier(3), {}

    def dreams(dtype):
        together.wait()
        found[dtype] = rewards(checkpoint, dtype)

    def learns():
        together.wait()
        weight = torch.ones(3, requires_grad=True)
        for _ in range(200):
            (weight * weight).sum().backward()
        found["grad"] = weight.grad

    threads = [threading.Thread(target=dreams, args=(dtype,)) for dtype in alone]
    threads.append(threading.Thread(target=learns))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found.pop("grad"), torch.full((3,), 400.0))
    assert found == alone
    assert alone["float32"] != alone["bfloat16"]


def rewards(checkpoint, dtype):
    env = gym.make_vec("jedi_env:JEDIDream-v0", num_envs=3, checkpoint=checkpoint, **{**EXACT, "dtype": dtype})
    shown = [env.reset(seed=0)[0].tobytes()]
    shown += [env.step(np.full(3, step % NUM_ACTIONS))[0].tobytes() for step in range(STEPS)]
    env.close()
    return shown


def tell(folder, seed, results):
    torch.set_num_threads(1)
    results.put((seed, dream(folder, seed)))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dreams_in_processes_are_those_that_they_are_alone(folder, method):
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    alone = {seed: dream(folder, seed) for seed in (3, 4)}  # and so what a fork inherits is in use
    processes = [context.Process(target=tell, args=(folder, seed, results)) for seed in alone]
    for process in processes:
        process.start()
    found = dict(results.get() for _ in processes)
    for process in processes:
        process.join()
    assert found == alone
    assert {seed: dream(folder, seed) for seed in alone} == alone  # nothing leaked back


FORK_WHILE_ANOTHER_THREAD_LOADS = """
import os, sys, threading, time
from jedi_env.checkpoint import Checkpoint
from jedi_env.find import find_checkpoint
loading, done, load = threading.Event(), threading.Event(), Checkpoint.load
def slow(*arguments):
    loading.set()
    done.wait()
    return load(*arguments)
Checkpoint.load = slow
thread = threading.Thread(target=find_checkpoint, args=(None, sys.argv[1]))
thread.start()
loading.wait()
child = os.fork()
if child == 0:
    Checkpoint.load = load
    find_checkpoint(None, sys.argv[1])
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_does_not_wait_for_a_thread_that_it_does_not_have(folder):
    command = [sys.executable, "-W", "ignore", "-c", FORK_WHILE_ANOTHER_THREAD_LOADS, str(folder)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120).stdout == "7\n"


AN_ENVIRONMENT_A_PROCESS = """
import gymnasium as gym, torch
env = gym.make_vec("jedi_env:JEDIDream-Breakout-v0", num_envs=2, vectorization_mode="async", device="cpu")
threads = torch.get_num_threads()
env.reset_async(seed=0)
env.reset_wait(timeout=100)
env.step_async([0, 1])
env.step_wait(timeout=100)
env.close()
print(threads, torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_forks_of_a_process_that_dreamed_on_two_threads_do_not_wait_for_them():
    """Gymnasium makes one environment itself before it forks, and so uses PyTorch's pool of threads."""
    command = [sys.executable, "-W", "ignore", "-c", AN_ENVIRONMENT_A_PROCESS]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert run.stdout == "2 2\n", run.stderr


def make(folder):
    torch.set_num_threads(1)
    return gym.make("jedi_env:JEDIDream-v0", checkpoint=str(folder), **EXACT)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks, which gymnasium uses
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_that_dies_is_an_error_and_no_hang(folder, method):
    """Gymnasium's own processes around dreams: the death of one is told, and the others can be closed."""
    env = gym.vector.AsyncVectorEnv([lambda: make(folder)] * 2, context=method)
    env.reset(seed=0)
    env.step([0, 1])
    os.kill(env.processes[1].pid, signal.SIGKILL)
    env.processes[1].join()
    with pytest.raises((EOFError, OSError)):
        env.step([0, 1])
    env.close(terminate=True)
    assert not any(process.is_alive() for process in env.processes)


def test_readers_in_many_processes_see_whole_checkpoints_while_they_are_replaced(tmp_path):
    path = tmp_path / "dream"
    tiny_checkpoint(seed=0).save(path)
    script = (
        "import sys, torch\n"
        "from jedi_env.checkpoint import Checkpoint\n"
        "for _ in range(40):\n"
        "    found = Checkpoint.load(sys.argv[1])\n"
        "    sums = [sum(p.double().sum().item() for p in found.world_model.parameters())]\n"
        "    print(found.provenance['seed'], sums[0])\n"
    )
    readers = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    whole = {}
    for seed in range(2):
        sums = sum(p.double().sum().item() for p in tiny_checkpoint(seed=seed).world_model.parameters())
        whole[str(seed)] = str(sums)
    turn = 0
    while any(reader.poll() is None for reader in readers):
        turn += 1
        tiny_checkpoint(seed=turn % 2).save(path)
    for reader in readers:
        out, _ = reader.communicate()
        assert reader.returncode == 0
        lines = [line.split() for line in out.splitlines()]
        assert len(lines) == 40
        assert all(whole[seed] == total for seed, total in lines)
    assert turn > 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["dream"]


def test_the_shared_weights_are_never_written(folder):
    """What all environments of a process share is the same before and after they have dreamed in threads."""
    checkpoint = find_checkpoint(None, folder)
    before = {name: tensor.clone() for name, tensor in checkpoint.world_model.state_dict().items()}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: dream(folder, seed), range(8)))
    assert find_checkpoint(None, folder) is checkpoint
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.world_model.state_dict().items())
    fresh = Checkpoint.load(folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.world_model.state_dict().items())
    assert find._loading.acquire(blocking=False)
    find._loading.release()
