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
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jedi_env import hub
from jedi_env.actions import BoxActions, blanks
from jedi_env.config_json import JSON, from_json, parse, shown, to_json
from jedi_env.errors import CheckpointError, UsageError, nearest
from jedi_env.folder import ATTEMPTS, current, inside, refuse_pickles, replace_folder
from jedi_env.games import GAMES
from jedi_env.models.decoder import Decoder, DecoderConfig
from jedi_env.models.encoder import PIXELS_SHAPE, LatentEncoderConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.noise import LaneNoise
from jedi_env.tensor_file import Layout, checksum, compare, layouts, read_tensors, write_tensors
from jedi_env.types import Context, ModelState

FORMAT = "jedi-env checkpoint"
VERSION = 1
# From a version to the function that turns its config.json into the next version's.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

CONFIG, MODEL, CONTEXTS = "config.json", "model.safetensors", "contexts.safetensors"
AGENT, DECODER = "agent.safetensors", "decoder.safetensors"
FILES = (CONFIG, MODEL, CONTEXTS, AGENT, DECODER)

MAX_CONFIG_BYTES = 2**24
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
        folder, on = _as_folder(path).resolve(), _as_device(device)
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
            UsageError: this is nothing that could be loaded again, or ``path`` holds something else than a checkpoint.
            CheckpointError: weights or contexts hold NaN or infinity.
        """
        folder = _as_folder(path).resolve()
        _check_replaceable(folder)
        replace_folder(folder, self._contents(half), ours=FILES)

    def to(self, device: torch.device | str) -> Checkpoint:
        """Return this checkpoint if it is on ``device``, else a copy there: in evaluation mode, without gradients.

        Raises:
            UsageError: there is no such device.
        """
        place = _as_device(device)
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
        config = _Config(
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
            files={name: _FileRecord(len(data), checksum(data)) for name, data in contents.items()},
            agent=None if self.agent is None else self.agent.config,
            decoder=None if decoder is None else decoder.config,
        )
        text = json.dumps(to_json(config), indent=1).encode()
        try:
            sketch, decoder_sketch = _sketch(config)
            _see_dream(sketch, decoder_sketch)
            compare(layouts(tensors[MODEL]), layouts(sketch.state_dict()), "The world model")
            if decoder_sketch is not None:
                compare(layouts(tensors[DECODER]), layouts(decoder_sketch.state_dict()), "The decoder")
            compare(layouts(contexts), _bank_layouts(sketch), "The bank of contexts")
            _check_bank(self.contexts, sketch, "The bank of contexts")
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
        UsageError: this is nothing that could be loaded again; nothing was changed.
    """
    folder = _as_folder(path).resolve()
    here = current(folder)
    if not here.is_dir():
        raise CheckpointError(f"There is no checkpoint at {folder}: no such folder.")
    try:
        config = _read_config(here)
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
        _see_dream(*_sketch(changed))
    except CheckpointError as error:
        raise UsageError(f"This could not be loaded again, so nothing was written. {error}") from error
    replace_folder(folder, {CONFIG: text, **files}, ours=FILES)


# Finding


def find_checkpoint(
    game: str | None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Return the dream that the arguments of an environment mean, on ``device``.

    What is loaded here is shared: one set of weights a process, folder and device, however many environments are made.

    Args:
        game: one of the 26 games, a Gymnasium id, or None for any.
        checkpoint: a folder, ``hub://owner/repo[@revision]``, a checkpoint (itself if it is on ``device``, else a
            copy), or None: see :func:`locate`.
        device: where it shall be.

    Raises:
        UsageError: there is no dream of the game, or the checkpoint is another game's.
        CheckpointError: the checkpoint is missing, damaged, or cannot be downloaded.
    """
    if isinstance(checkpoint, Checkpoint):
        found = checkpoint.to(device)
    elif isinstance(checkpoint, str) and checkpoint.startswith(hub.PREFIX):
        found = _shared(hub.download(checkpoint, FILES), _as_device(device))
    elif checkpoint is not None:
        found = _shared(_as_folder(checkpoint), _as_device(device))
    elif game is None:
        raise UsageError(
            "Which dream? Write checkpoint= with a folder, hub://owner/repo or a Checkpoint, or name a game in the id: "
            "JEDIDream-Breakout-v0."
        )
    else:
        folder = locate(game)
        if folder is None:
            raise UsageError(_no_dream(game))
        found = _shared(folder, _as_device(device))
    if game in GAMES and found.game in GAMES and game != found.game:
        raise UsageError(
            f"This is a dream of {found.game}, not of {game}: write JEDIDream-{found.game}-v0 (or JEDIDream-v0, which "
            "takes any), or another checkpoint=."
        )
    return found


def homes() -> list[Path]:
    """Return where dreams are looked up, first to last: ``$JEDI_ENV_HOME``, the user's cache, this package's own."""
    chosen, cache = os.environ.get("JEDI_ENV_HOME"), os.environ.get("XDG_CACHE_HOME")
    user = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"  # relative: XDG says ignore
    places = [user / "jedi-env", Path(__file__).parent / "pretrained"]
    return [Path(chosen).expanduser(), *places] if chosen else places


def locate(game: str) -> Path | None:
    """Return the folder of the dream of ``game`` that is used if none is named, or None if there is none."""
    if Path(game).is_absolute() or not {"..", ""}.isdisjoint(game.replace("\\", "/").split("/")):
        return None
    return next((home / game for home in homes() if current(home / game).is_dir()), None)


def dreams() -> list[str]:
    """Return the names by which the dreams on this machine are found."""
    return sorted({path.parent.name for home in homes() for path in home.glob(f"[!.]*/{CONFIG}")})


def _no_dream(game: str) -> str:
    train = f"`jedi-env train {game} --run-dir runs/{game}`, then checkpoint='runs/{game}/checkpoint'"
    return (
        f"There is no dream of {game!r} in {', '.join(str(home) for home in homes())}."
        f"{'' if game in GAMES else nearest(game, GAMES)} Train one: {train} (or copy that folder to "
        f"{homes()[0] / game}). Or name a folder or hub://owner/repo instead. "
        f"There are dreams of: {', '.join(dreams()) or 'no game yet'}."
    )


_loaded: dict[tuple[Path, torch.device], tuple[str, Checkpoint]] = {}
_loading = threading.Lock()


def _unlock() -> None:
    """Give a forked process a lock of its own: the thread that held its parent's is not there to let go of it."""
    global _loading
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_unlock)


def _shared(folder: Path, device: torch.device) -> Checkpoint:
    """Return the process's one copy of the checkpoint in ``folder``; a replaced folder is loaded anew."""
    key = (folder.resolve(), device)
    with _loading:
        digest = checksum(_config_bytes(current(key[0])) or b"")  # config.json holds the checksums of all the rest
        if key not in _loaded or _loaded[key][0] != digest:
            _loaded[key] = (digest, Checkpoint.load(folder, device))
        return _loaded[key][1]


def _as_folder(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str) or not os.fspath(path):
        raise UsageError(f"A checkpoint is a folder, hub://owner/repo or a Checkpoint, not {shown(path)}.")
    return Path(path).expanduser()


def _as_device(device: torch.device | str) -> torch.device:
    """Return the device as tensors name it: with its index."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise UsageError(f"The device {str(device)!r} cannot be used here: {shown(error)}") from error


# The configuration


@dataclass(frozen=True)
class _FileRecord:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Config:
    """All of ``config.json``."""

    format: str
    version: int
    game: str | None
    num_actions: int
    model: WorldModelConfig
    horizon: int | None
    protocol: dict[str, Any]
    provenance: dict[str, Any]
    metrics: dict[str, Any]
    files: dict[str, _FileRecord]
    agent: dict[str, Any] | None = None
    decoder: DecoderConfig | None = None
    actions: BoxActions | None = None  # else as many discrete ones as num_actions says

    def __post_init__(self) -> None:
        if self.actions is not None and self.actions.size != self.num_actions:
            raise UsageError(f"num_actions is {self.num_actions}, but an action has {self.actions.size} numbers.")


def _read_config(folder: Path) -> _Config:
    path = inside(folder, CONFIG)
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes, but may have {MAX_CONFIG_BYTES} at most.")
    data = parse(path.read_bytes(), str(folder / CONFIG))
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        run = folder / "checkpoint" / CONFIG
        hint = f" It is in a run's directory, whose checkpoint is {run.parent}." if run.is_file() else ""
        raise CheckpointError(f"{folder / CONFIG} is not of a jedi-env checkpoint: its format is not {FORMAT!r}.{hint}")
    version = data.get("version")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{folder / CONFIG} has the version {shown(version)}, but versions are numbers from 1.")
    if version > VERSION:
        raise CheckpointError(
            f"{folder} has version {version} of the format, and this jedi-env reads versions up to {VERSION}: "
            "upgrade it with `pip install -U jedi-env`."
        )
    while version < VERSION:
        if version not in MIGRATIONS:
            raise CheckpointError(f"{folder} has version {version} of the format, which is no longer read.")
        version += 1
        data = {**MIGRATIONS[version - 1](data), "version": version}
    config = from_json(_Config, data, CONFIG)
    _check_files(config, folder)
    return config


def _check_files(config: _Config, folder: Path) -> None:
    for name in config.files:
        if Path(name).name != name or "\\" in name:
            raise CheckpointError(
                f"{folder / CONFIG} names the file {shown(name)}, a path that climbs out of the folder."
            )
    wanted = {MODEL, CONTEXTS}
    wanted |= {AGENT} if config.agent is not None else set()
    wanted |= {DECODER} if config.decoder is not None else set()
    if set(config.files) != wanted:
        listed = ", ".join(shown(name) for name in sorted(config.files))
        raise CheckpointError(f"{folder / CONFIG} lists the files {listed}, but must list {', '.join(sorted(wanted))}.")


def _limits(config: _Config) -> Iterator[tuple[str, Sequence[float], float, float]]:
    """Yield every number that sizes something, and the range outside which it is no model but an attack or a slip."""
    model = config.model
    encoder, denoiser, sampler, reward_end = model.encoder, model.denoiser, model.sampler, model.reward_end
    width, depth, levels, positive = (1, 2**14), (0, 32), (1, 16), (1e-9, 1e9)
    yield "num_actions", (config.num_actions,), *width
    if config.horizon is not None:
        yield "horizon", (config.horizon,), 1, 2**62
    yield "model.context_length", (model.context_length,), 1, 64
    if isinstance(encoder, LatentEncoderConfig):
        yield "the length of model.encoder.channels", (len(encoder.channels),), *levels
        yield "model.encoder.channels", encoder.channels, *width
        yield "model.encoder.patch", (encoder.patch,), 1, PIXELS_SHAPE[0]
        yield "model.encoder.bound", (encoder.bound,), *positive
    for name, unet in (("denoiser", denoiser), ("reward_end", reward_end)):
        yield f"the length of model.{name}.channels", (len(unet.channels),), *levels
        yield f"model.{name}.channels", unet.channels, *width
        yield f"model.{name}.depths", unet.depths, *depth
        yield f"model.{name}.cond_channels", (unet.cond_channels,), *width
    yield "model.denoiser.sigma_data", (denoiser.sigma_data,), *positive
    yield "model.reward_end.lstm_dim", (reward_end.lstm_dim,), *width
    yield "model.sampler.steps", (sampler.steps,), 1, 1000
    yield "model.sampler.sigma_min", (sampler.sigma_min,), *positive
    yield "model.sampler.sigma_max", (sampler.sigma_max,), *positive
    yield "model.sampler.rho", (sampler.rho,), 1e-2, 1e3
    yield "model.sampler.order", (sampler.order,), 1, 2
    yield "model.sampler.churn", (sampler.churn,), 0, 1e6
    if config.decoder is not None:
        yield "decoder.channels", (config.decoder.channels,), *width
        yield "decoder.blocks", (config.decoder.blocks,), *depth


def _sketch(config: _Config) -> tuple[WorldModel, Decoder | None]:
    """Return the networks on torch's meta device, which takes no memory."""
    for name, values, low, high in _limits(config):
        for value in values:
            if not low <= value <= high:
                raise CheckpointError(f"In {CONFIG}, {name} is {value}, but must be from {low:g} to {high:g}.")
    try:
        with torch.device("meta"), _Unfilled():
            model = WorldModel(config.actions or config.num_actions, config.model)
            decoder = None if config.decoder is None else Decoder(model.frame_shape, config.decoder)
    except Exception as error:  # whatever torch says of shapes that do not fit
        raise CheckpointError(f"{CONFIG} describes a model that cannot dream: {shown(error)}") from error
    return model, decoder


def _see_dream(model: WorldModel, decoder: Decoder | None) -> None:
    """Raise :class:`CheckpointError` unless the networks, wherever they are, can dream a step."""
    k, device = model.context_length, next(model.parameters()).device
    try:
        with device, torch.no_grad():
            frames = model.encode(torch.zeros(1, k, *PIXELS_SHAPE, dtype=torch.uint8))
            lane = torch.zeros(1, dtype=torch.int64)
            state = ModelState(frames, blanks(model.actions, 1, k - 1), *model.reward_end.initial(1, device))
            state, _ = model.advance(state, blanks(model.actions, 1), LaneNoise(lane, lane), steps=1)
            if decoder is not None:
                decoder(state.frames[:, -1])
    except Exception as error:  # whatever torch says of shapes that do not fit
        raise CheckpointError(f"{CONFIG} describes a model that cannot dream: {shown(error)}") from error


class _Unfilled(TorchFunctionMode):
    """Draws no initial weights: on the meta device there are none, and to pretend to imports torch's compiler (1 s)."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        named = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "orthogonal_"):
            return args[0] if args else named["tensor"]
        return torch.empty(*args, **named) if func is torch.randn else func(*args, **named)


# The folder


def _read_checkpoint(folder: Path, device: torch.device) -> dict[str, Any]:
    """Return the fields of the checkpoint in ``folder``, all of them checked."""
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint at {folder}: no such folder.")
    try:
        refuse_pickles(folder)
        config = _read_config(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    try:
        return _read_tensors(folder, config, device)
    except CheckpointError:
        _see_dream(*_sketch(config))  # without its tensors: if that is what is wrong, it says so better
        raise


def _read_tensors(folder: Path, config: _Config, device: torch.device) -> dict[str, Any]:
    """Return the fields of the checkpoint in ``folder``, whose configuration is ``config``."""
    model, decoder = _sketch(config)
    try:

        def read(name: str, expected: Mapping[str, Layout] | None) -> dict[str, Tensor]:
            record = config.files[name]
            tensors = read_tensors(inside(folder, name), record.bytes, record.sha256, expected)
            return {key: tensor.to(device) for key, tensor in tensors.items()}

        contexts = Context(**read(CONTEXTS, _bank_layouts(model)))
        contexts = replace(contexts, actions=model.actions.inside(contexts.actions))  # if float16 led out of the range
        _check_bank(contexts, model, str(folder / CONTEXTS))
        model.load_state_dict(read(MODEL, layouts(model.state_dict())), assign=True)
        if decoder is not None:
            decoder.load_state_dict(read(DECODER, layouts(decoder.state_dict())), assign=True)
            model.attach_decoder(decoder)
        agent = None if config.agent is None else AgentRecord(config.agent, read(AGENT, None))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    _see_dream(_at_rest(model), decoder)
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


def _check_bank(contexts: Context, model: WorldModel, what: str) -> None:
    """Refuse a bank that the model cannot dream on from; its layout was checked."""
    frames, actions = contexts.frames, contexts.actions
    if not 1 <= len(frames) <= MAX_CONTEXTS or len(actions) != len(frames):
        raise CheckpointError(
            f"{what} has {len(frames)} contexts and the actions of {len(actions)}, but must have as many of both, from "
            f"1 to {MAX_CONTEXTS}."
        )
    if not model.actions.allow(actions):
        raise CheckpointError(f"{what} has actions that are not {model.actions.range}.")
    slack = 1 + torch.finfo(torch.float16).eps  # what storing them as float16 may add
    if bool((frames.abs() > model.bound * slack).any()):
        raise CheckpointError(f"{what} has frames beyond the model's range, {-model.bound} to {model.bound}.")


def _check_replaceable(folder: Path) -> None:
    """Refuse to write where something else than a checkpoint would be lost."""
    for _ in range(ATTEMPTS):
        seen = _stamp(folder)
        if seen is None and (not folder.exists() or _is_empty(folder)):
            return
        try:
            found = parse(_config_bytes(folder) or b"", CONFIG)
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


def _config_bytes(folder: Path) -> bytes | None:
    """Return the content of ``config.json``, or None if it cannot be read."""
    path = folder / CONFIG
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_CONFIG_BYTES else None
    except OSError:
        return None


def _stamp(folder: Path) -> tuple[int, int] | None:
    """Return what tells the ``config.json`` in ``folder`` from one that replaces it, or None if there is none."""
    try:
        status = (folder / CONFIG).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
