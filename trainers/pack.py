"""A run as a small pack that travels between machines, and back.

``python -m trainers.pack RUN --out FOLDER``, and ``python -m trainers.pack FOLDER --unpack RUN``; then the command that
began the run goes on with it. A pack holds no pixels but a sample: the emulator is deterministic, so the actions are
played again and compared with what the run recorded. Weights are rounded to float16; of AdamW's memory only the second
moments are kept, and of a matrix's only the means of rows and columns (Adafactor's, arXiv 1804.04235): the first ones
are those of ten updates. So a run that goes on from a pack is not, to the bit, the run that was never packed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from gymnasium import Env
from torch import Tensor
from tyro.conf import Positional

from jedi_env.actions import actions_of
from jedi_env.config_json import from_json, parse, shown, to_json
from jedi_env.envs.real import make_pixels
from jedi_env.errors import CheckpointError, RunError, UsageError
from jedi_env.folder import inside, replace_file, replace_folder
from jedi_env.models.encoder import PIXELS_SHAPE
from jedi_env.tensor_file import Layout, checksum, compare, layouts, read_tensors, write_tensors
from trainers.cli import exit_codes
from trainers.collect import Collector
from trainers.config import TrainConfig
from trainers.log import progress
from trainers.provenance import versions
from trainers.replay import Replay
from trainers.state import CONFIG, MAX_JSON_BYTES, TrainState, open_run, saved_states

logger = logging.getLogger(__name__)

FORMAT, VERSION = "jedi-env pack", 1
MANIFEST, REST = "pack.json", "rest.safetensors"
METRICS, SCORES = "metrics.jsonl", "scores.json"  # as a run has them
LARGEST = 2**24  # bytes of a file
MOST_EPOCHS = 10**6
_NAME = re.compile(r"weights-\d\d\.safetensors", re.ASCII)
SAMPLES = 16  # rows whose pixels are kept, so that others can be told from the same, rounded otherwise
ROUNDING = 2  # how far a pixel may be from what was seen: another processor may resize with another rounding

_CPU = torch.device("cpu")
_ACTIONS, _PIXELS, _LOG = "play/actions", "play/pixels", "log"


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run, as its ``config.json`` has them."""

    game: str
    seed: int
    config: TrainConfig


@dataclass(frozen=True)
class _File:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a pack says of itself; the numbers are those of :class:`trainers.state.TrainState`.

    Attributes:
        run: the settings that the run began with.
        epoch, first_steps, imagined_steps, scores: where it stands.
        replay_length, replay_checksum: what playing again must come to.
        versions: of the libraries it was played with.
        files: the other files.
    """

    run: RunSettings
    epoch: int
    first_steps: int
    imagined_steps: int
    scores: tuple[dict[str, Any], ...]
    replay_length: int
    replay_checksum: int
    versions: dict[str, str]
    files: dict[str, _File]


def pack(run: Path, out: Path) -> None:
    """Write the run directory ``run``, as it was after its last completed epoch, to the folder ``out``.

    Raises:
        UsageError: no epoch was completed, or the run is in use, or a tensor is too large; ``out`` was not touched.
        RunError: the run was damaged.
    """
    replaced = _check_replaceable(out)
    if not saved_states(run):
        raise UsageError(f"{run} holds no run with a completed epoch: there is nothing to pack.")
    described = from_json(RunSettings, parse(inside(run, CONFIG).read_bytes(), str(run / CONFIG)), str(run / CONFIG))
    with opened(run, described) as (state, _):
        steps = state.replay.steps
        rest = {
            **_small(_memory(state)),
            _ACTIONS: torch.from_numpy(steps["action"][~steps["last"]]),
            _PIXELS: torch.from_numpy(_sample(state.replay)),
            _LOG: torch.from_numpy(_log(run, state.log_size)),
        }
        parts = enumerate(_parts(_weights(state)))
        files = {f"weights-{n:02d}.safetensors": write_tensors(part, "The pack", half=True) for n, part in parts}
        files[REST] = write_tensors(rest, "The pack", half=False)
        manifest = Manifest(
            run=described,
            epoch=state.epoch,
            first_steps=state.first_steps,
            imagined_steps=state.imagined_steps,
            scores=tuple(state.scores),
            replay_length=state.replay.length,
            replay_checksum=state.replay.checksum,
            versions=versions(),
            files={name: _File(len(content), checksum(content)) for name, content in files.items()},
        )
    for name, content in files.items():
        if len(content) > LARGEST:
            raise UsageError(f"{name} would have {len(content):,} bytes, more than {LARGEST:,}: this run is too large.")
    written = to_json(manifest)
    whole = {"format": FORMAT, "version": VERSION, "sha256": _digest(written), "manifest": written}
    replace_folder(out.resolve(), {**files, MANIFEST: json.dumps(whole, indent=1).encode()}, ours=replaced)


def unpack(folder: Path, run: Path) -> None:
    """Make the run directory ``run`` of the pack in ``folder``, at once or not at all; the game is played again.

    A pack is trusted as a run directory is: playing a game of one's own imports the module that its id names, and
    networks are made as large as the settings say.

    Raises:
        UsageError: ``run`` is there already.
        CheckpointError: the pack is missing, damaged, foreign or of another version.
        RunError: the game plays otherwise here than where the pack was made.
    """
    if run.exists():
        raise UsageError(f"{run} is there already: a pack is unpacked into a new folder.")
    manifest = read_manifest(folder)
    run.parent.mkdir(parents=True, exist_ok=True)
    aside = run.with_name(f".{run.name}.{uuid.uuid4().hex[:12]}.new")
    try:
        with opened(aside, manifest.run) as (state, env):
            _fill(state, env, manifest, folder)
        os.rename(aside, run)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_manifest(folder: Path) -> Manifest:
    """Return what the pack in ``folder`` says of itself.

    Raises:
        CheckpointError: there is none, or it is damaged, foreign or of another version.
    """
    path = inside(folder, MANIFEST)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is no pack: it has more than {MAX_JSON_BYTES} bytes.")
    data = parse(path.read_bytes(), str(path))
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CheckpointError(f"{folder} holds something else than a pack: {MANIFEST} does not say {FORMAT!r}.")
    if data.get("version") != VERSION:
        raise CheckpointError(f"{folder} has version {shown(data.get('version'))}; version {VERSION} is read here.")
    if data.get("sha256") != _digest(data.get("manifest")):
        raise CheckpointError(f"{path} was changed after it was written: its SHA-256 is another.")
    manifest = from_json(Manifest, data.get("manifest"), str(path))
    numbers = (manifest.run.seed, manifest.epoch, manifest.first_steps, manifest.imagined_steps)
    if min(numbers) < 0 or manifest.epoch > MOST_EPOCHS or manifest.replay_length < 1:
        raise CheckpointError(f"{path} counts what cannot be counted: a number in it is negative or far too large.")
    for name in manifest.files:
        if name != REST and not _NAME.fullmatch(name):
            raise CheckpointError(
                f"{path} names a file {shown(name)}: a pack has {REST} and weights-00.safetensors on."
            )
    return manifest


@contextmanager
def opened(folder: Path, run: RunSettings, device: torch.device = _CPU) -> Iterator[tuple[TrainState, Env[Any, Any]]]:
    """Yield the state of the run in ``folder``, begun if it is not there, and its game."""
    with ExitStack() as held:
        env = held.enter_context(closing(make_pixels(run.game, frame_skip=run.config.frame_skip)))
        state = open_run(folder, run.config, run.game, run.seed, actions_of(env.action_space, run.game), device)
        yield held.enter_context(closing(state)), env


def _fill(state: TrainState, env: Env[Any, Any], manifest: Manifest, folder: Path) -> None:
    """Bring a run that has done nothing yet to where the packed one stood."""
    blank = torch.from_numpy(state.replay.steps["action"])
    others = {
        _ACTIONS: Layout(blank.dtype, (-1, *blank.shape[1:])),
        _PIXELS: Layout(torch.uint8, (-1, *PIXELS_SHAPE)),
        _LOG: Layout(torch.uint8, (-1,)),
    }
    rest = _read(folder, manifest, REST, layouts(_small(_memory(state))) | others)
    weights: dict[str, Tensor] = {}
    for name in sorted(manifest.files.keys() - {REST}):
        weights |= _read(folder, manifest, name, None)
    compare(layouts(weights), layouts(_weights(state)), f"The weights in {folder}")

    life_loss = manifest.run.config.collect.life_loss
    collector = Collector(env, state.replay, life_loss=life_loss, seed=manifest.run.seed)
    played = rest[_ACTIONS].numpy()
    steps = collector.collect(len(played), _Again(played))
    for _ in progress(steps, len(played), "playing again what was played"):
        pass
    _check_same(state.replay, manifest, rest[_PIXELS].numpy(), folder)

    state.load_tensors(weights | _large(rest, _memory(state)))
    state.epoch = manifest.epoch
    state.first_steps = manifest.first_steps
    state.imagined_steps = manifest.imagined_steps
    state.scores = list(manifest.scores)
    log = rest[_LOG].numpy().tobytes()
    replace_file(state.run_dir / METRICS, log)
    if state.scores:
        replace_file(state.run_dir / SCORES, json.dumps(state.scores, indent=1).encode())
    state.save(len(log), collector.progress)


class _Again:
    """The policy that plays what was played before."""

    def __init__(self, actions: npt.NDArray[Any]) -> None:
        self._left = iter(actions)

    def act(self, pixels: npt.NDArray[np.uint8], first: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        return np.asarray(next(self._left))[None]


def _check_same(replay: Replay, manifest: Manifest, pixels: npt.NDArray[np.uint8], folder: Path) -> None:
    """Raise unless the game went as it did for the pack; pixels may be rounded otherwise."""
    of_steps = 2**32 - 1  # the lower half of a replay's checksum
    same = replay.length == manifest.replay_length and not (replay.checksum ^ manifest.replay_checksum) & of_steps
    if same and replay.checksum == manifest.replay_checksum:
        return
    seen = _sample(replay)
    if not same or seen.shape != pixels.shape or not pixels.size or abs(seen.astype(int) - pixels).max() > ROUNDING:
        raise RunError(
            f"Played again, {manifest.run.game} went otherwise than for the pack in {folder}. It was played with "
            f"{_listed(manifest.versions)}; here is {_listed(versions())}. Install those versions and unpack it again."
        )
    logger.warning(
        "The games of %s went the same way again, but some pixels are rounded otherwise on this machine.", folder
    )


def _log(run: Path, size: int) -> npt.NDArray[np.uint8]:
    """Return the lines of the log that belong to completed epochs."""
    log = np.fromfile(run / METRICS, np.uint8, size) if (run / METRICS).exists() else np.zeros(0, np.uint8)
    if len(log) < size:
        raise RunError(f"{run / METRICS} has {len(log)} bytes, but {size} belong to completed epochs: restore it.")
    return log


def _listed(found: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {shown(version)}" for name, version in found.items() if name in ("ale-py", "gymnasium", "numpy")
    )


def _sample(replay: Replay) -> npt.NDArray[np.uint8]:
    """Return the pixels of rows spread over the replay."""
    rows = np.linspace(0, replay.length - 1, min(SAMPLES, replay.length)).astype(int)
    return np.array(replay.pixels[rows])


def _weights(state: TrainState) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.tensors().items() if "_optim/" not in name}


def _memory(state: TrainState) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.tensors().items() if "_optim/" in name}


def _small(memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is kept of the optimisers' memory: no first moments, and two means of a matrix of second ones."""
    kept: dict[str, Tensor] = {}
    for name, tensor in memory.items():
        if name.endswith(".exp_avg_sq") and tensor.ndim > 1:
            matrix = tensor.flatten(1)
            kept |= {f"{name}.rows": matrix.mean(1), f"{name}.columns": matrix.mean(0)}
        elif not name.endswith(".exp_avg"):
            kept[name] = tensor
    return kept


def _large(kept: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the memory of which ``kept`` is left; shapes, and the first moments, which are 0, are those of ``fresh``.

    AdamW then takes small steps until the first moments are there again: no second warm-up is needed.
    """
    memory = {}
    for name, tensor in fresh.items():
        if f"{name}.rows" in kept:
            rows, columns = kept[f"{name}.rows"], kept[f"{name}.columns"]
            share = rows / rows.mean().clamp(min=torch.finfo(rows.dtype).tiny)
            memory[name] = torch.outer(share, columns).view_as(tensor)
        else:
            memory[name] = kept.get(name, tensor)
    return memory


def _parts(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return ``tensors`` in files of at most 15 MiB as float16; their headers have room in the rest."""
    parts: list[dict[str, Tensor]] = []
    left = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * min(tensor.element_size(), 2 if tensor.is_floating_point() else 8)
        if size > left or not parts:
            parts.append({})
            left = LARGEST - 2**20
        parts[-1][name] = tensor
        left -= size
    return parts


def _check_replaceable(out: Path) -> Collection[str]:
    """Return the names in the folder ``out`` that a new pack replaces, having seen that it holds no other things."""
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if (there and MANIFEST not in there) or (out.exists() and not out.is_dir()):
        raise UsageError(f"{out} is there and holds no pack: write another --out.")
    return {name for name in there if name in (MANIFEST, REST) or name.startswith("weights-")}


def _read(folder: Path, manifest: Manifest, name: str, expected: Mapping[str, Layout] | None) -> dict[str, Tensor]:
    if name not in manifest.files or manifest.files[name].bytes > LARGEST:
        raise CheckpointError(f"The pack in {folder} names no file {name}, or one of more than {LARGEST:,} bytes.")
    file = manifest.files[name]
    return read_tensors(inside(folder, name), file.bytes, file.sha256, expected)


def _digest(manifest: object) -> str:
    return checksum(json.dumps(manifest, sort_keys=True).encode())


@dataclass(frozen=True)
class _Arguments:
    """Arguments.

    Attributes:
        path: a run directory to pack, or with --unpack the folder of a pack.
        out: the folder to write the pack to.
        unpack: the run directory to make of the pack.
    """

    path: Positional[Path]
    out: Path | None = None
    unpack: Path | None = None


def main() -> None:
    """Pack or unpack from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = tyro.cli(_Arguments, description=__doc__)
    with exit_codes("trainers.pack"):
        match arguments.out, arguments.unpack:
            case Path() as out, None:
                pack(arguments.path, out)
            case None, Path() as run:
                unpack(arguments.path, run)
            case _:
                raise UsageError("Write either --out FOLDER, to pack a run, or --unpack RUN, to make a run of a pack.")


if __name__ == "__main__":
    main()
