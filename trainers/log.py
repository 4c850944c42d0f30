"""The log of a run: JSON lines in ``metrics.jsonl``, the same numbers in TensorBoard, progress bars on the terminal.

A resumed run cuts the file back to what its state recorded, and tells TensorBoard where it begins anew, so no epoch is
seen twice.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from tqdm import tqdm

from jedi_env.config_json import parse
from jedi_env.errors import CheckpointError, RunError
from trainers.distributed import first

RECENT = 100  # lines that are remembered: twenty epochs


class Log:
    """Writes to ``folder``; what lies beyond ``size`` bytes of the file is cut off.

    Attributes:
        recent: the newest records of the file, a dict each.

    Raises:
        RunError: the file is shorter than that, or damaged; it was not changed.
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
        with ExitStack() as opening:
            opening.callback(self._file.close)
            self._file.seek(0)
            self.recent = deque(_records(self._file.read(size), path), maxlen=RECENT)
            self._file.truncate(size)
            self._file.seek(size)
            self._board = _open_board(folder / "tensorboard")
            opening.pop_all()
        self._tell(file_version="brain.Event:2")
        begins = self.recent[-1]["epoch"] + 1 if self.recent else 0
        # At every start but the first, TensorBoard forgets what it has seen of this epoch and later ones.
        self._tell(step=begins, session_log=SessionLog(status=SessionLog.START))

    def sync(self) -> int:
        """Make everything logged so far survive a power cut; return its bytes, which a state must record."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def write(self, phase: str, epoch: int, metrics: dict[str, float]) -> None:
        """Log the metrics of one phase of an epoch.

        Raises:
            RunError: one of them is not finite; nothing was written.
        """
        record = {"epoch": epoch, "phase": phase, **metrics}
        try:
            line = json.dumps(record, allow_nan=False)
        except ValueError as error:
            raise RunError(
                f"What is to be logged of epoch {epoch + 1} is not finite: {record}. The run diverged."
            ) from error
        self._file.write(f"{line}\n".encode())
        self._file.flush()
        self.recent.append(record)
        values = [Summary.Value(tag=f"{phase}/{key}", simple_value=value) for key, value in metrics.items()]
        self._tell(step=epoch, summary=Summary(value=values))

    def close(self) -> None:
        """Close the files, both even if the disk is full."""
        with ExitStack() as files:
            files.callback(self._file.close)
            files.callback(self._board.close)

    def _tell(self, **event: Any) -> None:  # noqa: ANN401 - the fields of a protobuf message
        self._board.write(Event(wall_time=time.time(), **event).SerializeToString())
        self._board.flush()


def read(folder: Path) -> list[dict[str, Any]]:
    """Return what was logged in ``folder``, a record a line; a last line that is still being written is left out.

    Raises:
        RunError: a line is damaged.
    """
    path = folder / "metrics.jsonl"
    content = path.read_bytes() if path.exists() else b""
    return _records(content[: content.rfind(b"\n") + 1], path)


def progress(steps: Iterable[Any] | None, total: int, title: str) -> tqdm[Any]:
    """Return a progress bar: iterate over it, or, without ``steps``, use it as a context and call its ``update``.

    Of several processes, the first alone shows it.
    """
    return tqdm(steps, total=total, desc=title, unit="", dynamic_ncols=True, mininterval=0.5, disable=not first())


def averages(steps: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Run ``steps`` to their end and return the mean of each metric over them; no device sync before the end.

    Sums only: thousands of scalars kept alive between the large blocks of an update fragment the heap (5 GB in 3,500).
    """
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()
    for step in steps:
        for key, value in step.items():
            sums[key] = sums[key].add_(value) if key in sums else value.float().clone()
            counts[key] += 1
    return {key: float(total) / counts[key] for key, total in sums.items()}


def _records(content: bytes, path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            record = parse(line, f"Line {number} of {path}")
        except CheckpointError as error:
            raise RunError(str(error)) from error
        if not isinstance(record, dict) or type(record.get("epoch")) is not int or "phase" not in record:
            raise RunError(f"Line {number} of {path} is no record of a phase of an epoch: the file was damaged.")
        records.append(record)
    return records


def _open_board(folder: Path) -> RecordWriter:
    """Open a new event file; numbered, because TensorBoard reads them by name, and clocks go backwards."""
    folder.mkdir(exist_ok=True)
    suffixes = [path.suffix[1:] for path in folder.glob("events.out.tfevents.*")]
    number = max((int(suffix) for suffix in suffixes if suffix.isdecimal()), default=-1) + 1
    return RecordWriter((folder / f"events.out.tfevents.{number:06d}").open("xb"))
