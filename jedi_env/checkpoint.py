"""Checkpoints: a dream as a folder of data that can be published, found and loaded without trusting it.

``config.json`` says what the other files are; the tensors lie in ``model.safetensors``, ``contexts.safetensors`` (the
bank of starting contexts) and, optionally, ``agent.safetensors`` and ``decoder.safetensors``. Loading never unpickles,
never imports a name found in a file, opens no file but these, and allocates no more than the files really hold: every
declared shape is compared with the model that the configuration describes, built without memory, before a tensor is
read. It is not a run's state: optimisers and replay are the trainers'.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from jedi_env.actions import BoxActions
from jedi_env.checkpoint_config import (
    AGENT,
    CONFIG,
    CONTEXTS,
    DECODER,
    FILES,
    FORMAT,
    MODEL,
    VERSION,
    Config,
    FileRecord,
    config_bytes,
    outline,
    read_config,
    see_dream,
)
from jedi_env.config_json import JSON, parse, shown, to_json
from jedi_env.device import resolve_device
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.folder import ATTEMPTS, current, inside, refuse_pickles, replace_folder
from jedi_env.models.decoder import Decoder
from jedi_env.models.world_model import WorldModel
from jedi_env.tensor_file import Layout, checksum, compare, layouts, read_tensors, write_tensors
from jedi_env.types import Context

MAX_CONTEXTS = 2**16


@dataclass(frozen=True, eq=False)
class AgentRecord:
    """An agent as data: only whoever trained it knows what it means.

    Attributes:
        config: its configuration.
        tensors: its weights by name. Float16 is only a way to store them: it is loaded as float32.
    """

    config: dict[str, JSON]
    tensors: dict[str, Tensor] = field(repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """A world model with all it needs to dream, and where it came from.

    It may be shared by many environments, so whoever holds one changes nothing in it.

    Attributes:
        world_model: in evaluation mode, without gradients when loaded; a decoder probe may be attached to it.
        contexts: the bank of N encoded starting points.
        game: one of the 26 games, or a Gymnasium id; None for a model of no real game.
        horizon: recommended dream steps an episode; None: none recommended.
        protocol: how the real game was played.
        provenance: commit, machine, versions, seed and configuration of the run.
        metrics: what was measured.
        agent: the trainers' own agent, if there is one.
    """

    world_model: WorldModel
    contexts: Context
    game: str | None
    horizon: int | None
    protocol: Mapping[str, JSON]
    provenance: Mapping[str, JSON]
    metrics: Mapping[str, JSON]
    agent: AgentRecord | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """Return the checkpoint in the folder ``path``, on ``device``; this copy is the caller's own.

        A folder that is being replaced meanwhile gives either the old checkpoint or the new one.

        Raises:
            CheckpointError: it is missing, damaged, foreign, malicious or of a newer version; nothing was loaded.
            UsageError: ``path`` is no path, or there is no such device.
        """
        folder, on = as_folder(path).resolve(), resolve_device(device)
        for _ in range(ATTEMPTS):
            here = current(folder)
            seen = _stamp(here)
            try:
                return cls(**_read_checkpoint(here, on))
            except CheckpointError:
                if (here, seen) == (current(folder), _stamp(here)):  # nobody replaced it, so it is wrong
                    raise
        raise CheckpointError(f"{folder} is replaced faster than it can be read: load it when the writers are done.")

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> None:
        """Write the folder ``path``, or replace the checkpoint there; in one step, or not at all.

        Files in the old folder that are none of a checkpoint's (a README) are kept.

        Args:
            path: the folder; its parents are created.
            half: store weights and contexts as float16, half the size; they are loaded as float32.

        Raises:
            UsageError: this is nothing that could be loaded again, or ``path`` holds something else than a checkpoint,
                is a mount point, or has this process working in it.
            CheckpointError: weights or contexts hold NaN or infinity.
        """
        folder = as_folder(path).resolve()
        _check_replaceable(folder)
        replace_folder(folder, self._contents(half), ours=FILES)

    def to(self, device: torch.device | str) -> Checkpoint:
        """Return this checkpoint if it is on ``device``, else a copy there: in evaluation mode, without gradients.

        Raises:
            UsageError: there is no such device.
        """
        place = resolve_device(device)
        if place == self.contexts.frames.device:
            return self
        model = copy.deepcopy(self.world_model).to(place)
        if isinstance(model.decoder, Decoder):  # no part of the model that moves with it
            model.decoder.to(place)
        agent = self.agent
        if agent is not None:
            agent = AgentRecord(agent.config, {name: tensor.to(place) for name, tensor in agent.tensors.items()})
        return Checkpoint(
            _at_rest(model),
            self.contexts.to(place),
            self.game,
            self.horizon,
            self.protocol,
            self.provenance,
            self.metrics,
            agent,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Gymnasium copies the keyword arguments of a spec deeply, and all environments shall share one set of weights.
        return self

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.world_model.parameters())
        return f"<Checkpoint of {self.game!r}: {parameters:,} parameters, {len(self.contexts)} contexts>"

    def _contents(self, half: bool) -> dict[str, bytes]:
        """Return every file's content, having checked that it could be loaded again."""
        model = self.world_model
        contexts = {"frames": self.contexts.frames, "actions": self.contexts.actions}
        tensors = {MODEL: dict(model.state_dict()), CONTEXTS: contexts}
        decoder = model.decoder if isinstance(model.decoder, Decoder) else None
        if decoder is not None:
            tensors[DECODER] = dict(decoder.state_dict())
        if self.agent is not None:
            tensors[AGENT] = self.agent.tensors
        contents = {name: write_tensors(part, name, half=half) for name, part in tensors.items()}
        config = Config(
            format=FORMAT,
            version=VERSION,
            game=self.game,
            num_actions=model.num_actions,
            actions=model.actions if isinstance(model.actions, BoxActions) else None,
            model=model.config,
            horizon=self.horizon,
            protocol=dict(self.protocol),
            provenance=dict(self.provenance),
            metrics=dict(self.metrics),
            files={name: FileRecord(len(data), checksum(data)) for name, data in contents.items()},
            agent=None if self.agent is None else self.agent.config,
            decoder=None if decoder is None else decoder.config,
        )
        text = json.dumps(to_json(config), indent=1).encode()
        try:
            sketch, decoder_sketch = outline(config)
            see_dream(sketch, decoder_sketch)
            compare(layouts(tensors[MODEL]), layouts(sketch.state_dict()), "The world model")
            if decoder_sketch is not None:
                compare(layouts(tensors[DECODER]), layouts(decoder_sketch.state_dict()), "The decoder")
            compare(layouts(contexts), _bank_layouts(sketch), "The bank of contexts")
            check_bank(self.contexts, sketch, "The bank of contexts")
        except CheckpointError as error:
            raise UsageError(f"This could not be loaded again, so nothing was written. {error}") from error
        return {CONFIG: text, **contents}


def annotate(path: str | os.PathLike[str], *, metrics: Mapping[str, JSON], horizon: int | None = None) -> None:
    """Change what the checkpoint at ``path`` says of itself, in one step; its tensors stay as they are, to the byte.

    Args:
        path: the folder.
        metrics: what was measured; replaces the entries of these names and keeps the others.
        horizon: the recommended dream steps an episode; None: as it is.

    Raises:
        CheckpointError: the checkpoint is missing or damaged; nothing was changed.
        UsageError: this is nothing that could be loaded again, or the folder is a mount point or has this process
            working in it; nothing was changed.
    """
    folder = as_folder(path).resolve()
    here = current(folder)
    if not here.is_dir():
        raise CheckpointError(f"There is no checkpoint at {folder}: no such folder.")
    try:
        config = read_config(here)
        files = {name: inside(here, name).read_bytes() for name in config.files}
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    for name, record in config.files.items():
        if checksum(files[name]) != record.sha256:
            raise CheckpointError(f"{folder / name} is damaged, or is being replaced: nothing was changed.")
    changed = replace(
        config, metrics={**config.metrics, **metrics}, horizon=config.horizon if horizon is None else horizon
    )
    text = json.dumps(to_json(changed), indent=1).encode()
    try:
        see_dream(*outline(changed))
    except CheckpointError as error:
        raise UsageError(f"This could not be loaded again, so nothing was written. {error}") from error
    replace_folder(folder, {CONFIG: text, **files}, ours=FILES)


def as_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder ``path``, its ``~`` expanded, or raise :class:`UsageError` if it is no path."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str) or not os.fspath(path):
        raise UsageError(f"A checkpoint is a folder, hub://owner/repo or a Checkpoint, not {shown(path)}.")
    if "\0" in os.fspath(path):
        raise UsageError(f"{shown(os.fspath(path))} is no folder: a path has no zero byte.")
    if os.fspath(path).startswith("hub:/"):
        raise UsageError(
            f"{shown(os.fspath(path))} is no folder. An address on the hub is taken where a checkpoint= is asked for: "
            "gym.make('JEDIDream-v0', checkpoint='hub://owner/repo')."
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"The checkpoint is {shown(path)}, but ~ is no home directory here: write a full path."
        ) from error


# The folder


def _read_checkpoint(folder: Path, device: torch.device) -> dict[str, Any]:
    """Return the fields of the checkpoint in ``folder``, all of them checked."""
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint at {folder}: no such folder.")
    try:
        refuse_pickles(folder)
        config = read_config(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    try:
        return _read_tensors(folder, config, device)
    except CheckpointError:
        see_dream(*outline(config))  # without its tensors: if that is what is wrong, it says so better
        raise


def _read_tensors(folder: Path, config: Config, device: torch.device) -> dict[str, Any]:
    """Return the fields of the checkpoint in ``folder``, whose configuration is ``config``."""
    model, decoder = outline(config)
    try:

        def read(name: str, expected: Mapping[str, Layout] | None) -> dict[str, Tensor]:
            record = config.files[name]
            tensors = read_tensors(inside(folder, name), record.bytes, record.sha256, expected)
            return {key: tensor.to(device) for key, tensor in tensors.items()}

        contexts = Context(**read(CONTEXTS, _bank_layouts(model)))
        contexts = replace(contexts, actions=model.actions.inside(contexts.actions))  # if float16 led out of the range
        check_bank(contexts, model, str(folder / CONTEXTS))
        model.load_state_dict(read(MODEL, layouts(model.state_dict())), assign=True)
        if decoder is not None:
            decoder.load_state_dict(read(DECODER, layouts(decoder.state_dict())), assign=True)
            model.attach_decoder(decoder)
        agent = None if config.agent is None else AgentRecord(config.agent, read(AGENT, None))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    see_dream(_at_rest(model), decoder)
    return {
        "world_model": model,
        # Rounding to float16 may have led out of the range.
        "contexts": Context(contexts.frames.clamp(-model.bound, model.bound), contexts.actions),
        "game": config.game,
        "horizon": config.horizon,
        "protocol": config.protocol,
        "provenance": config.provenance,
        "metrics": config.metrics,
        "agent": agent,
    }


def _at_rest(model: WorldModel) -> WorldModel:
    """Put ``model`` and the decoder attached to it in evaluation mode, without gradients."""
    for module in (model, model.decoder):
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
    return model


def _bank_layouts(model: WorldModel) -> dict[str, Layout]:
    k = model.context_length
    return {
        "frames": Layout(torch.float32, (-1, k, *model.frame_shape)),
        "actions": Layout(model.actions.dtype, (-1, k - 1, *model.actions.shape)),
    }


def check_bank(contexts: Context, model: WorldModel, what: str) -> None:
    """Raise :class:`CheckpointError` for a bank that the model cannot dream on from; its layout was checked."""
    frames, actions = contexts.frames, contexts.actions
    if not 1 <= len(frames) <= MAX_CONTEXTS or len(actions) != len(frames):
        raise CheckpointError(
            f"{what} has {len(frames)} contexts and the actions of {len(actions)}, but must have as many of both, from "
            f"1 to {MAX_CONTEXTS}."
        )
    if not model.actions.allow(actions):
        raise CheckpointError(f"{what} has actions that are not {model.actions.range}.")
    if not are_within(frames, model.bound):
        raise CheckpointError(f"{what} has frames beyond the model's range, {-model.bound} to {model.bound}.")


def are_within(frames: Tensor, bound: float) -> bool:
    """Return whether all of ``frames`` is in [-bound, bound], up to what float16 rounds; NaN is not."""
    return bool((frames.abs() <= bound * (1 + torch.finfo(torch.float16).eps)).all())


def _check_replaceable(folder: Path) -> None:
    """Refuse to write where something else than a checkpoint would be lost."""
    for _ in range(ATTEMPTS):
        seen = _stamp(folder)
        if seen is None and (not folder.exists() or _is_empty(folder)):
            return
        try:
            found = parse(config_bytes(folder) or b"", CONFIG)
        except CheckpointError:
            found = None
        if isinstance(found, dict) and found.get("format") == FORMAT:
            return
        if seen == _stamp(folder) and folder.exists():  # nobody is replacing it just now
            raise UsageError(f"{folder} is there and is no checkpoint: it was left as it is. Write to another path.")


def _is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError:  # a file, or gone
        return False


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Return what tells the ``config.json`` in ``folder`` from one that replaces it, or None if there is none."""
    try:
        status = (folder / CONFIG).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
