"""Where to compute and how precisely: what ``"auto"`` means, and clear errors for what is not there or does not fit."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from jedi_env.errors import RunError, UsageError, nearest

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_said: set[str] = set()
# How torch says on a CPU that memory is short; on a GPU it has an error of its own.
_TOO_MUCH = ("you tried to allocate", "Storage size calculation overflowed")


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device meant by ``device``; ``"auto"`` is CUDA, else MPS, else the CPU.

    Raises:
        UsageError: there is no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise UsageError(
            f"The device {str(device)!r} is not there ({str(error).splitlines()[0]}). Write device='auto' for the "
            "fastest there is, or 'cpu'."
        ) from error


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the networks' precision; ``"auto"`` is bfloat16 where the device computes in it, else float32.

    Raises:
        UsageError: no such precision.
    """
    if dtype == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise UsageError(
            f"dtype is {dtype!r}.{nearest(str(dtype), _DTYPES)} Write 'auto', 'float32', 'bfloat16' or 'float16'."
        )
    return chosen


def resolve_compile(compile: bool | str, device: torch.device) -> bool:
    """Return whether to compile; ``"auto"`` is on CUDA only, where it pays for the wait, and if it can be done there.

    Raises:
        UsageError: neither a bool nor ``"auto"``, or there is nothing to compile with.
    """
    if not isinstance(compile, bool) and compile != "auto":
        raise UsageError(f"compile is {compile!r}. Write True, False or 'auto'.")
    if not compile or (compile == "auto" and device.type != "cuda"):
        return False
    missing = _missing_compiler(device)
    if missing and compile is True:
        raise UsageError(
            f"compile=True on {device} needs {missing}, which is not there: install it, or write compile='auto' or "
            "False."
        )
    return missing is None


@contextmanager
def enough_memory(lower: str) -> Iterator[None]:
    """Turn running out of memory into a sentence that says what to ``lower``.

    Raises:
        RunError: there was not enough memory, on the GPU or beside it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not isinstance(error, MemoryError) and not on_gpu and not any(said in str(error) for said in _TOO_MUCH):
            raise
        reason = (str(error) or "allocation failed").splitlines()[0]
        raise RunError(f"Not enough memory{' on the GPU' * on_gpu}: lower {lower}. ({reason})") from error


def say_once(message: str) -> None:
    """Tell the user ``message``, the first time in this process."""
    if message not in _said:
        _said.add(message)
        logger.warning(message)  # what a user sees without configuring anything


def _missing_compiler(device: torch.device) -> str | None:
    """Return what ``torch.compile`` would ask for in vain, and that only at the first step."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "triton"
        own = "CC" in os.environ or sys.platform == "win32"  # Triton for Windows brings its compiler along
        return None if own or shutil.which("gcc") or shutil.which("clang") else "a C compiler (gcc)"
    if device.type == "cpu":
        compiler = os.environ.get("CXX", {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++"))
        return None if shutil.which(compiler) else f"a C++ compiler ({compiler})"
    return None


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # torch has no public question for it.
        native = (torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_amx_tile_supported())
        return any(native)
    return False
