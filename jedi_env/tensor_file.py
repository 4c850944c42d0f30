"""Tensors in a safetensors file, read without trusting it: its header is compared with what it must hold first.

Nothing is allocated for what a header merely declares. It knows tensors by name, type and shape, and neither models nor
checkpoints.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from jedi_env.config_json import parse, shown
from jedi_env.errors import CheckpointError, UsageError

MAX_HEADER_BYTES = 2**24
MAX_RANK, MAX_EXTENT = 8, 2**62
MAX_UNKNOWN_BYTES = 2**32  # of a file whose tensors are compared with nothing

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Layout(NamedTuple):
    """A tensor without its values; an extent of -1 stands for any."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} of shape {shown(self.shape)}"


def layouts(tensors: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Return the layout of every tensor."""
    return {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def compare(found: Mapping[str, Layout], expected: Mapping[str, Layout], what: str) -> None:
    """Raise :class:`CheckpointError` unless ``what`` has the expected tensors; float32 may be stored as float16."""
    for name in expected:
        if name not in found:
            raise CheckpointError(f"{what} lacks the tensor {shown(name)} that the configuration describes.")
    for name, layout in found.items():
        if name not in expected:
            raise CheckpointError(f"{what} holds the tensor {shown(name)}, which the configuration does not describe.")
        wanted = expected[name]
        dtype = torch.float32 if layout.dtype == torch.float16 else layout.dtype
        fits = len(layout.shape) == len(wanted.shape) and all(
            b in (a, -1) for a, b in zip(layout.shape, wanted.shape, strict=True)
        )
        if dtype != wanted.dtype or not fits:
            raise CheckpointError(f"{what} declares {shown(name)} as {layout}, but the configuration says {wanted}.")


def read_tensors(path: Path, size: int, sha256: str, expected: Mapping[str, Layout] | None) -> dict[str, Tensor]:
    """Return the tensors of a file in memory of their own; those stored as float16 as float32.

    Args:
        path: the file.
        size: its bytes when it was written.
        sha256: its checksum when it was written.
        expected: what it must hold; None: anything, up to ``MAX_UNKNOWN_BYTES``.

    Raises:
        CheckpointError: it is truncated, changed, no safetensors file, holds other tensors, or NaN or infinity.
    """
    with path.open("rb") as stream:
        there = os.fstat(stream.fileno()).st_size
        cut = CheckpointError(f"{path} is truncated: it has {there} bytes of {size}. Copy or download it anew.")
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if there < min(size, 8 + length):
            raise cut
        if length > min(there - 8, MAX_HEADER_BYTES):
            raise CheckpointError(f"{path} is no safetensors file: its header would have {shown(length)} bytes.")
        header = stream.read(length)
        declared = _declared(header, path)
        if expected is not None:
            compare(declared, expected, str(path))
        elif there > MAX_UNKNOWN_BYTES:
            raise CheckpointError(f"{path} has {there} bytes, but may have {MAX_UNKNOWN_BYTES} at most.")
        if there < size:
            raise cut
        held, claimed = there - 8 - length, sum(math.prod(shape) * dtype.itemsize for dtype, shape in declared.values())
        if claimed != held:
            raise CheckpointError(f"{path} declares tensors of {shown(claimed)} bytes, but holds {held}.")
        if there != size:
            raise CheckpointError(f"{path} was changed: it has {there} bytes, but had {size} when it was written.")
        content = b"".join((prefix, header, stream.read(held)))
    try:
        stored = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {shown(error)}.") from error
    bad = not_finite(stored)
    if bad is not None:
        raise CheckpointError(f"{path} holds NaN or infinity in {shown(bad)}: its run diverged, or it is damaged.")
    if checksum(content) != sha256:
        raise CheckpointError(f"{path} was changed after it was written: its SHA-256 is another.")
    # Cloned: what safetensors returns is not aligned as torch aligns its own memory.
    return {name: x.float() if x.dtype == torch.float16 else x.clone() for name, x in stored.items()}


def write_tensors(tensors: Mapping[str, Tensor], what: str, *, half: bool) -> bytes:
    """Return the content of a safetensors file with ``tensors``.

    Args:
        tensors: by name.
        what: to call them by in messages.
        half: store float32 as float16.

    Raises:
        CheckpointError: a value is NaN or infinite.
        UsageError: a value is too large for float16, or a type is not stored.
    """
    bad = not_finite(tensors)
    if bad is not None:
        raise CheckpointError(f"{what} would hold NaN or infinity in {bad!r}: the run diverged. Nothing was written.")
    packed = {}
    for name, tensor in tensors.items():
        stored = tensor.detach().to("cpu", torch.float16 if half and tensor.dtype == torch.float32 else tensor.dtype)
        if stored.dtype not in _DTYPES.values():
            raise UsageError(f"{name!r} in {what} has the type {stored.dtype}, which a checkpoint does not store.")
        if not bool(torch.isfinite(stored).all()):
            raise UsageError(f"{name!r} in {what} has values too large for float16: save it with half=False.")
        packed[name] = stored.contiguous().clone()  # safetensors refuses tensors that share their memory
    return safetensors.torch.save(packed, metadata={"format": "pt"})


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor that holds NaN or infinity, if there is one."""
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)


def checksum(content: bytes) -> str:
    """Return the SHA-256 of ``content`` in hex digits."""
    return hashlib.sha256(content).hexdigest()


def _declared(header: bytes, path: Path) -> dict[str, Layout]:
    entries = parse(header, f"The header of {path}")
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path} is no safetensors file: its header is no object.")
    found = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        dtype, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise CheckpointError(f"{path} declares {shown(name)} of the type {shown(dtype)}, which is not read.")
        extents = shape if isinstance(shape, list) else [None]
        if len(extents) > MAX_RANK or not all(type(n) is int and 0 <= n <= MAX_EXTENT for n in extents):
            raise CheckpointError(f"{path} declares {shown(name)} of the shape {shown(shape)}, which is none.")
        found[name] = Layout(_DTYPES[dtype], tuple(cast(list[int], extents)))
    return found
