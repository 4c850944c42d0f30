"""How much faster several processes learn than one: what docs/distributed.md says was measured with this.

``torchrun --nproc-per-node 2 -m tests.scaling PRESET``: updates of both models, by turns with one process (the others
wait) and with all, on one thread each (``OMP_NUM_THREADS=1``, which is what torchrun sets). Medians of
the wall clock, and of the processor time of the first process, which a busy machine distorts less.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.distributed as dist

from jedi_env.dream import Dream
from jedi_env.models.world_model import WorldModel
from jedi_env.types import Context
from trainers import distributed
from trainers.agent import ActorCritic
from trainers.fit_agent import fit_agent
from trainers.fit_world_model import fit_world_model, make_optim
from trainers.optim import Optim
from trainers.presets import PRESETS
from trainers.replay import Replay, Sampling

ACTIONS = 4
together = distributed.world


def played(folder):
    replay, rng = Replay(folder), np.random.default_rng(0)
    for step in range(2000):
        replay.append(rng.integers(256, size=(64, 64, 3)), int(rng.integers(ACTIONS)), 0.0, step % 100 == 99)
        if step % 100 == 99:
            replay.end_episode(rng.integers(256, size=(64, 64, 3)))
    return replay


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--frozen", action="store_true", help="the encoder learns no more, as in most of a tiny run")
    chosen = parser.parse_args()
    config = PRESETS[chosen.preset]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, distributed.joined("cpu"):
        replay = played(Path(folder))
        model = WorldModel(ACTIONS, config.world_model)
        agent = ActorCritic(model.frame_shape, ACTIONS, config.agent)
        optim = make_optim(model, config.fit_world_model)
        agent_optim = Optim({"agent": (agent, config.fit_agent.optim)})
        if chosen.frozen:
            optim.updates = config.fit_world_model.freeze_encoder_after
        dtype = torch.bfloat16 if config.fit_world_model.precision_bf16 else torch.float32

        def update_world_model():
            rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
            steps = fit_world_model(model, optim, replay, config.fit_world_model, 10**9, rng, generator)
            return (lambda: next(steps)), steps

        def update_agent():
            model.eval()
            pixels, actions = replay.contexts(64, model.context_length, Sampling(()), np.random.default_rng(0))
            with torch.no_grad():
                frames = model.encode(pixels)
            dream = Dream(model, Context(frames, actions), horizon=None, dtype=dtype)
            steps = fit_agent(agent, agent_optim, dream, config.fit_agent, 10**9, torch.Generator().manual_seed(0))
            return (lambda: next(steps)), steps

        size = together()
        for name, begin in {"world model": update_world_model, "agent": update_agent}.items():
            seconds = {"1 process": [], f"{size} processes": []}
            for turn in range(chosen.turns + 1):
                for way, found in seconds.items():
                    alone = way.startswith("1 ")
                    distributed.world = (lambda: 1) if alone else together
                    dist.barrier()
                    if not alone or dist.get_rank() == 0:
                        step, steps = begin()
                        step()  # the first one warms up
                        began = time.perf_counter(), time.process_time()
                        step()
                        ended = time.perf_counter(), time.process_time()
                        found += [(ended[0] - began[0], ended[1] - began[1])] * (turn > 0)
                        steps.close()
                    dist.barrier()
            for way, found in seconds.items() if dist.get_rank() == 0 else ():
                wall, processor = (median(column) * 1e3 for column in zip(*found, strict=True))
                print(f"{name:12s} {way:12s} wall {wall:7.1f} ms, processor {processor:7.1f} ms", flush=True)
        distributed.world = together


if __name__ == "__main__":
    main()
