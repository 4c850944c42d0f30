"""More lanes than the memory holds: an error that names the number to lower, and nothing half-done."""

import multiprocessing
import resource
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from jedi_env.device import enough_memory
from jedi_env.errors import RunError
from tests.tiny_dream import tiny_checkpoint

EXACT = {"device": "cpu", "dtype": "float32", "compile": False}
LANES = 4096


@pytest.mark.parametrize("lanes", [2**36, 2**45])
def test_spaces_that_do_not_fit_are_told(lanes):
    with pytest.raises(RunError, match=f"Not enough memory: lower num_envs, which is {lanes}"):
        gym.make_vec("jedi_env:JEDIDream-v0", num_envs=lanes, checkpoint=tiny_checkpoint(), **EXACT)


def limited(when, results):
    """Make a wide dream and take its memory away before ``when``: torch itself runs out."""
    torch.set_num_threads(1)
    env = gym.make_vec("jedi_env:JEDIDream-v0", num_envs=LANES, checkpoint=tiny_checkpoint(), **EXACT)
    small = gym.make_vec("jedi_env:JEDIDream-v0", num_envs=1, checkpoint=tiny_checkpoint(), **EXACT)
    small.reset(seed=0)
    small.step(np.zeros(1, np.int64))  # all that is loaded late is there
    if when == "step":
        env.reset(seed=0)
        before = env.unwrapped.clone_state().model.frames
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**20, unlimited[1]))
    try:
        env.reset(seed=0) if when == "reset" else env.step(np.zeros(LANES, np.int64))
        said = "nothing"
    except RunError as error:
        said = str(error)
    resource.setrlimit(resource.RLIMIT_AS, unlimited)
    same = when == "reset" or torch.equal(env.unwrapped.clone_state().model.frames, before)
    env.reset(seed=0)  # it is as good as before
    env.step(np.zeros(LANES, np.int64))
    results.put((said, same))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured as Linux does")
@pytest.mark.parametrize("when", ["reset", "step"])
def test_dreams_that_do_not_fit_are_told_and_the_state_is_kept(when):
    context = multiprocessing.get_context("forkserver")
    results = context.Queue()
    process = context.Process(target=limited, args=(when, results))
    process.start()
    said, same = results.get(timeout=200)
    process.join()
    assert said.startswith(f"Not enough memory: lower num_envs, which is {LANES}. (")
    assert same


def test_a_full_gpu_is_told():
    """Where there is no GPU, torch's own error must do."""
    with (
        pytest.raises(RunError, match=r"Not enough memory on the GPU: lower num_envs\. \(CUDA out of memory"),
        enough_memory("num_envs"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")


@pytest.mark.gpu
def test_dreams_that_do_not_fit_a_gpu_are_told():
    env = gym.make_vec("jedi_env:JEDIDream-v0", num_envs=LANES, checkpoint=tiny_checkpoint(), device="cuda")
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(RunError, match=f"Not enough memory on the GPU: lower num_envs, which is {LANES}"):
            env.reset(seed=0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes") as caught, enough_memory("num_envs"):
        raise RuntimeError("shapes do not fit")
    assert type(caught.value) is RuntimeError
