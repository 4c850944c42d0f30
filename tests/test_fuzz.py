"""Every reader of files against thousands of mutated ones: only our own errors come out, soon, and in little memory.

Each reader runs in a process that may take no more than ``MEMORY`` and ``SECONDS`` an input.
"""

import hashlib
import json
import logging
import multiprocessing
import random
import resource
import shutil
import signal
import zlib
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from jedi_env.checkpoint import Checkpoint, annotate
from jedi_env.config_json import from_json, parse, to_json
from jedi_env.diamond import load_diamond
from jedi_env.errors import JediEnvError
from jedi_env.tensor_file import layouts, read_tensors, write_tensors
from tests.mutation import mutated_bytes, mutated_json
from tests.tiny_dream import tiny_checkpoint
from tests.trainers.fakes import ACTIONS, MICRO, TOY
from trainers.collect import Progress
from trainers.config import TrainConfig
from trainers.log import Log, read
from trainers.pack import MANIFEST, pack, unpack
from trainers.presets import PRESETS
from trainers.report import gather
from trainers.state import open_run
from trainers.train import train

MEMORY, SECONDS = 512 * 2**20, 20
CPU = torch.device("cpu")
HEADERS = [2**63 - 1, 2**40, 2**24 + 1, 0]  # lengths that a header may claim
SHAPES = [[2**62], [2**31, 2**31], [-1], [0], [1] * 9, [2**20, 2**20, 2**20]]


def damaged(data, rng):
    """Bytes with one to three things wrong."""
    for _ in range(rng.randrange(1, 4)):
        data = mutated_bytes(data or b"\0", rng)
    return data


def forged_json(text, rng):
    """JSON with one to three values replaced, or not even JSON."""
    if rng.random() < 0.2:
        return damaged(text, rng)
    if rng.random() < 0.02:
        return b"[" * 200_000
    value = json.loads(text)
    for _ in range(rng.randrange(1, 4)):
        value = mutated_json(value, rng)
    return json.dumps(value).encode()


def forged_tensors(data, rng):
    """A safetensors file whose header says something else, claims a huge shape, or is torn."""
    end = 8 + int.from_bytes(data[:8], "little")
    kind = rng.randrange(4)
    if kind == 0:
        return damaged(data[:end], rng) + data[end:]
    if kind == 1:
        return rng.choice(HEADERS).to_bytes(8, "little") + data[8:]
    if kind == 2:
        return damaged(data, rng)
    header = json.loads(data[8:end])
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    entry["shape"] = rng.choice(SHAPES)
    if rng.random() < 0.5:
        header = mutated_json(header, rng)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + data[end:]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# The readers: each prepares something valid in a folder and returns what reads a mutation of it.


def settings(folder):
    texts = [json.dumps(to_json(config)).encode() for config in PRESETS.values()]
    return lambda rng: from_json(TrainConfig, parse(forged_json(rng.choice(texts), rng), "settings"), "settings")


def tensors(folder):
    valid = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4), "c": torch.zeros(0, 5)}
    data, path = write_tensors(valid, "x", half=False), folder / "x.safetensors"

    def attempt(rng):
        content = forged_tensors(data, rng)
        path.write_bytes(content)
        honest = rng.random() < 0.7  # whoever forges a file can forge its checksum
        size, digest = (len(content), sha256(content)) if honest else (len(data), sha256(data))
        read_tensors(path, size, digest, rng.choice([None, layouts(valid)]))

    return attempt


def checkpoint(folder):
    whole = folder / "whole"
    tiny_checkpoint(agent=True, decoder=True).save(whole)
    files = {path.name: path.read_bytes() for path in whole.iterdir()}

    def attempt(rng):
        name = rng.choice(sorted(files))
        content = (forged_json if name == "config.json" else forged_tensors)(files[name], rng)
        (whole / name).write_bytes(content)
        if name != "config.json" and rng.random() < 0.8:
            config = json.loads(files["config.json"])
            config["files"][name] = {"bytes": len(content), "sha256": sha256(content)}
            (whole / "config.json").write_text(json.dumps(config))
        try:
            if rng.random() < 0.2:
                annotate(whole, metrics={"a": 1})
            Checkpoint.load(whole)
        finally:
            for each, data in files.items():
                (whole / each).write_bytes(data)

    return attempt


def small_run(folder):
    run_dir = folder / "run"
    with closing(open_run(run_dir, MICRO, TOY, 0, ACTIONS, CPU)) as state, closing(Log(run_dir)) as log:
        rng = np.random.default_rng(0)
        for epoch in (1, 2):
            for step in range(9):
                state.replay.append(rng.integers(0, 255, (64, 64, 3), np.uint8), step % ACTIONS, 1.0, step == 7)
            state.replay.end_episode(np.zeros((64, 64, 3), np.uint8))
            log.write("collect", epoch - 1, {"real_steps": 9.0 * epoch, "score": 1.0})
            state.epoch = epoch
            state.scores.append({"epoch": epoch, "mean": 1.0, "returns": [1.0, 2.0], "real_steps": 9, "final": True})
            state.save(log.sync(), Progress(0, [0, 1, 2], 1.5))
        (run_dir / "scores.json").write_text(json.dumps(state.scores))
    return run_dir


def run_directory(folder):
    run_dir = small_run(folder)
    newest = run_dir / "state" / "epoch-000002"
    kept = folder / "kept"
    shutil.copytree(run_dir, kept)

    def forge(rng):
        facts = json.loads((newest / "facts.json").read_text())
        kind = rng.randrange(5)
        if kind == 0:  # a file, as it is
            path = rng.choice([path for path in sorted(run_dir.rglob("*")) if path.is_file()])
            path.write_bytes(damaged(path.read_bytes(), rng))
            return
        if kind == 1:
            facts["facts"] = json.loads(json.dumps(mutated_json(facts["facts"], rng)))
        if kind == 2:
            content = forged_tensors((newest / "tensors.safetensors").read_bytes(), rng)
            (newest / "tensors.safetensors").write_bytes(content)
            facts["facts"] |= {"tensors_bytes": len(content), "tensors_sha256": sha256(content)}
        if kind == 3:
            steps, pixels = run_dir / "replay" / "steps.bin", run_dir / "replay" / "pixels.bin"
            content = damaged(steps.read_bytes(), rng).ljust(200, b"\0")
            steps.write_bytes(content)
            crcs = zlib.crc32(pixels.read_bytes()[: 20 * 12288]), zlib.crc32(content[:200])
            facts["facts"]["replay_checksum"] = crcs[0] << 32 | crcs[1]
        if kind == 4:
            path = rng.choice([run_dir / "config.json", run_dir / "metrics.jsonl"])
            path.write_bytes(
                forged_json(path.read_bytes().splitlines()[0], rng)
                if "metrics" in path.name
                else forged_json(path.read_bytes(), rng)
            )
        facts["sha256"] = sha256(json.dumps(facts["facts"], sort_keys=True).encode())
        (newest / "facts.json").write_text(json.dumps(facts))

    def attempt(rng):
        try:
            forge(rng)
            with closing(open_run(run_dir, MICRO, TOY, 0, ACTIONS, CPU)) as state:
                if state.replay.length:
                    state.replay.segments(4, 3, MICRO.fit_world_model.sampling, np.random.default_rng(0))
                Log(run_dir, state.log_size).close()
            read(run_dir)
        finally:
            shutil.rmtree(run_dir)
            shutil.copytree(kept, run_dir)

    return attempt


def scores(folder):
    """A score file and the log, as a report reads them."""
    run_dir = small_run(folder)
    files = {name: (run_dir / name).read_bytes() for name in ("config.json", "metrics.jsonl", "scores.json")}

    def attempt(rng):
        name = rng.choice(sorted(files))
        whole = files[name].splitlines() if name == "metrics.jsonl" else [files[name]]
        index = rng.randrange(len(whole))
        content = b"\n".join([*whole[:index], forged_json(whole[index], rng), *whole[index + 1 :]])
        (run_dir / name).write_bytes(content)
        try:
            gather([run_dir], datetime.now(UTC))
        finally:
            (run_dir / name).write_bytes(files[name])

    return attempt


def published(folder):
    """A file that claims to be of DIAMOND's making."""
    path = folder / "Breakout.pt"
    torch.save({"denoiser.inner_model.act_emb.0.weight": torch.zeros(4, 256), "x": torch.zeros(3)}, path)
    data = path.read_bytes()

    def attempt(rng):
        path.write_bytes(damaged(data, rng))
        load_diamond(path)

    return attempt


def packed(folder):
    """A run that travels: its settings, its play and its weights are all the pack's word."""
    whole, run_dir = folder / "pack", folder / "run"
    train(MICRO, TOY, 0, run_dir, CPU)
    pack(run_dir, whole)
    files = {path.name: path.read_bytes() for path in whole.iterdir()}

    def attempt(rng):
        name = rng.choice(sorted(files))
        told = json.loads(files[MANIFEST])
        if name == MANIFEST and rng.random() < 0.8:
            told["manifest"] = json.loads(json.dumps(mutated_json(told["manifest"], rng)))
            told["sha256"] = sha256(json.dumps(told["manifest"], sort_keys=True).encode())
            content = json.dumps(told).encode()
        elif name == MANIFEST:
            content = forged_json(files[name], rng)
        else:
            content = forged_tensors(files[name], rng)
            told["manifest"]["files"][name] = {"bytes": len(content), "sha256": sha256(content)}
            told["sha256"] = sha256(json.dumps(told["manifest"], sort_keys=True).encode())
            (whole / MANIFEST).write_text(json.dumps(told))
        (whole / name).write_bytes(content)
        try:
            unpack(whole, folder / "again")
        finally:
            for each, data in files.items():
                (whole / each).write_bytes(data)
            shutil.rmtree(folder / "again", ignore_errors=True)

    return attempt


READERS = {each.__name__: each for each in (settings, tensors, checkpoint, run_directory, scores, published, packed)}


class TooLongError(BaseException):
    """Not to be caught by a reader that takes whatever goes wrong for damage."""


def attack(reader, folder, inputs, results):
    """Read ``inputs`` mutations within limits; send what came out that is none of ours, and how much was accepted."""
    torch.set_num_threads(1)
    logging.disable()
    attempt = READERS[reader](Path(folder))
    attempt_valid_first(attempt)

    def too_long(number, frame):
        raise TooLongError

    signal.signal(signal.SIGALRM, too_long)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY,) * 2)
    escaped, accepted = [], 0
    for seed in range(inputs):
        signal.alarm(SECONDS)
        try:
            attempt(random.Random(f"{reader} {seed}"))
            accepted += 1
        except JediEnvError as error:
            if len(str(error)) > 3000:
                escaped.append((seed, f"a sentence of {len(str(error))} characters"))
        except BaseException as error:
            escaped.append((seed, repr(error)[:300]))
        signal.alarm(0)
    results.put((escaped, accepted))


def attempt_valid_first(attempt):
    """Load every library that a reader needs before its memory is limited."""
    for seed in range(5):
        try:
            attempt(random.Random(seed))
        except JediEnvError:
            continue


@pytest.mark.parametrize("inputs", [40, pytest.param(3000, marks=[pytest.mark.slow, pytest.mark.timeout(1500)])])
@pytest.mark.parametrize("reader", READERS)
def test_only_our_own_errors_come_out(tmp_path, reader, inputs):
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is measured as Linux does")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    results = context.Queue()
    process = context.Process(target=attack, args=(reader, str(tmp_path), inputs, results))
    process.start()
    escaped, accepted = results.get(timeout=1400)
    process.join()
    assert escaped == []
    assert accepted < inputs  # or nothing was mutated
    print(f"{reader}: {inputs} inputs, {accepted} harmless")
