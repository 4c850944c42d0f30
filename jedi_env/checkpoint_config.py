"""A checkpoint's ``config.json``: which files there are, and which model; read without trusting it.

Every number that sizes something has a range, and the model is built without memory and dreams a step there, before
anyone allocates what the file asks for. The tensors are :mod:`jedi_env.checkpoint`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from jedi_env.actions import BoxActions, blanks
from jedi_env.config_json import from_json, parse, shown
from jedi_env.errors import CheckpointError, UsageError
from jedi_env.folder import inside
from jedi_env.models.decoder import Decoder, DecoderConfig
from jedi_env.models.encoder import PIXELS_SHAPE, LatentEncoderConfig
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.noise import LaneNoise
from jedi_env.types import ModelState

FORMAT = "jedi-env checkpoint"
VERSION = 1
# From a version to the function that turns its config.json into the next version's.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

CONFIG, MODEL, CONTEXTS = "config.json", "model.safetensors", "contexts.safetensors"
AGENT, DECODER = "agent.safetensors", "decoder.safetensors"
FILES = (CONFIG, MODEL, CONTEXTS, AGENT, DECODER)

MAX_CONFIG_BYTES = 2**24


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of a file of tensors."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Config:
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
    files: dict[str, FileRecord]
    agent: dict[str, Any] | None = None
    decoder: DecoderConfig | None = None
    actions: BoxActions | None = None  # else as many discrete ones as num_actions says

    def __post_init__(self) -> None:
        if self.actions is not None and self.actions.size != self.num_actions:
            raise UsageError(f"num_actions is {self.num_actions}, but an action has {self.actions.size} numbers.")


def read_config(folder: Path) -> Config:
    """Return the configuration in ``folder``, of this version.

    Raises:
        CheckpointError: it is missing, foreign, malformed or of a newer version.
        OSError: it cannot be read.
    """
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
    config = from_json(Config, data, CONFIG)
    _check_files(config, folder)
    return config


def _check_files(config: Config, folder: Path) -> None:
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


def _limits(config: Config) -> Iterator[tuple[str, Sequence[float], float, float]]:
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
    yield "model.sampler.start_std", (sampler.start_std,), 0, 1e9
    if config.decoder is not None:
        yield "decoder.channels", (config.decoder.channels,), *width
        yield "decoder.blocks", (config.decoder.blocks,), *depth


def outline(config: Config) -> tuple[WorldModel, Decoder | None]:
    """Return the networks on torch's meta device, which takes no memory."""
    for name, values, low, high in _limits(config):
        for value in values:
            if not low <= value <= high:
                raise CheckpointError(f"In {CONFIG}, {name} is {value}, but must be from {low:g} to {high:g}.")
    try:
        with torch.device("meta"), _Unfilled(), _float32():
            model = WorldModel(config.actions or config.num_actions, config.model)
            decoder = None if config.decoder is None else Decoder(model.frame_shape, config.decoder)
    except Exception as error:  # whatever torch says of shapes that do not fit
        raise CheckpointError(f"{CONFIG} describes a model that cannot dream: {shown(error)}") from error
    return model, decoder


def see_dream(model: WorldModel, decoder: Decoder | None) -> None:
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


@contextmanager
def _float32() -> Iterator[None]:
    """Build networks of float32, whatever torch's default is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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


def config_bytes(folder: Path) -> bytes | None:
    """Return the content of ``config.json``, or None if it cannot be read."""
    path = folder / CONFIG
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_CONFIG_BYTES else None
    except OSError:
        return None
