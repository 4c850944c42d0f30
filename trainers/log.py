"""The log of a run: JSON lines in ``metrics.jsonl``, the same numbers in TensorBoard, progress bars on the terminal.

A resumed run cuts the file back to what its state recorded, so no epoch is logged twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch import Tensor
from tqdm import tqdm

from jedi_env.errors import RunError


class Log:
    """Writes to ``folder``; what lies beyond ``size`` bytes of the file is cut off.

    Raises:
        RunError: the file is shorter than that.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        path = folder / "metrics.jsonl"
        have = path.stat().st_size if path.exists() else 0
        if have < size:
            raise RunError(
                f"{path} is shorter ({have} bytes) than its run recorded ({size}): it was damaged. Restore it, or "
                f"begin in another run directory."
            )
        self._file = path.open("a+b")
        self._file.truncate(size)
        self._file.seek(size)
        self._board = EventFileWriter(str(folder / "tensorboard"))

    @property
    def size(self) -> int:
        """Bytes logged: what a state must record."""
        return self._file.tell()

    def write(self, phase: str, epoch: int, metrics: dict[str, float]) -> None:
        """Log the metrics of one phase of an epoch."""
        self._file.write((json.dumps({"epoch": epoch, "phase": phase, **metrics}) + "\n").encode())
        self._file.flush()
        values = [Summary.Value(tag=f"{phase}/{key}", simple_value=value) for key, value in metrics.items()]
        self._board.add_event(Event(step=epoch, summary=Summary(value=values)))
        self._board.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """Return what was logged in ``folder``, a record a line."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def progress(steps: Iterable[Any] | None, total: int, title: str) -> tqdm[Any]:
    """Return a progress bar: iterate over it, or, without ``steps``, use it as a context and call its ``update``."""
    return tqdm(steps, total=total, desc=title, unit="", dynamic_ncols=True, mininterval=0.5)


def averages(steps: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Run ``steps`` to their end and return the mean of each metric over them; no device sync before the end."""
    collected: dict[str, list[Tensor]] = {}
    for step in steps:
        for key, value in step.items():
            collected.setdefault(key, []).append(value)
    return {key: float(torch.stack(values).float().mean()) for key, values in collected.items()}
