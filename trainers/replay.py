"""The replay: an append-only log of real play on disk, and the drawing of segments and contexts from it.

One row an observation: its pixels, and the action, reward and termination that followed; an episode's last row has
pixels only.
Nothing is ever changed in place, so resuming is truncating to the length that the checkpoint recorded: no torn state.
It knows nothing of models.
"""

from __future__ import annotations

import os
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from jedi_env.actions import Actions, DiscreteActions, blanks
from jedi_env.errors import RunError
from jedi_env.models.encoder import PIXELS_SHAPE
from jedi_env.types import Segment

_PIXELS = np.dtype((np.uint8, PIXELS_SHAPE))
_BLOCK = 2**20  # bytes read at a time
_ANY = DiscreteActions(2**31)  # as many as a row has room for

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sampling:
    """Which transitions of the replay are drawn more often.

    Attributes:
        age_weights: the episodes are split into this many parts by age, oldest first, and a part is drawn with its
            weight, in it an episode, and in that a transition (DIAMOND: .1 .1 .1 .7). Empty: every transition alike.
        event_fraction: share of the segments drawn around an event: an end, or another reward than the most common one,
            which is 0 in most games. 0 in the papers; rare events shape a small encoder only if it sees them.
    """

    age_weights: tuple[float, ...] = (0.1, 0.1, 0.1, 0.7)
    # ours
    event_fraction: float = 0.0


def step_dtype(actions: Actions) -> np.dtype[np.void]:
    """Return the layout of a row of ``steps.bin``: all of a step but its pixels."""
    action = "<i4" if isinstance(actions, DiscreteActions) else "<f4"
    return np.dtype([("action", action, actions.shape), ("reward", "<f4"), ("terminated", "?"), ("last", "?")])


class Replay:
    """A log of real play in ``folder``, to write on; :class:`FollowedReplay` only reads one.

    Args:
        folder: where the two files live; created if missing.
        keep: rows to go on from; all beyond them, what a crash left, is cut off. None: there may be none yet.
        checksum: what :attr:`checksum` was at that length; None: not compared.
        actions: of the game that was played; the default is any discrete ones.

    Raises:
        RunError: fewer rows are there, or others, or some although ``keep`` is None; nothing was cut off.
    """

    def __init__(
        self, folder: Path, keep: int | None = None, checksum: int | None = None, actions: Actions = _ANY
    ) -> None:
        self._actions = actions
        self._step = step_dtype(actions)
        self._paths = _paths(folder)
        if keep is None and any(path.exists() and path.stat().st_size for path in self._paths):
            rows = rows_in(folder, actions)
            raise RunError(
                f"{folder} already holds a log of {rows} rows. Write keep={rows} to go on from its end, keep=0 to lose "
                f"it, or FollowedReplay to read it."
            )
        length = keep or 0
        folder.mkdir(parents=True, exist_ok=True)
        sizes = (length * _PIXELS.itemsize, length * self._step.itemsize)
        for path, size in zip(self._paths, sizes, strict=True):  # both, before either is changed
            have = path.stat().st_size if path.exists() else 0
            if have < size:
                raise RunError(
                    f"{path} is shorter ({have} bytes) than its run recorded ({size}): the replay was damaged. "
                    f"Restore it, or begin in another run directory."
                )
        self._crcs = [_crc(path, size) for path, size in zip(self._paths, sizes, strict=True)]
        if checksum not in (None, self.checksum):
            raise RunError(
                f"The replay in {folder} was changed: its checksum is not what its run recorded. Restore it, or begin "
                f"in another run directory."
            )
        if length:
            _check_steps(np.fromfile(self._paths[1], self._step, length), actions, folder)
        self._pixels_file, self._steps_file = (_open_at(*it) for it in zip(self._paths, sizes, strict=True))
        self._length = length
        self._mapped = -1
        self._num_last = 0
        self._map()
        self._num_last = int(self._steps["last"].sum())

    @property
    def length(self) -> int:
        """Rows in the log: what a checkpoint must record."""
        return self._length

    @property
    def checksum(self) -> int:
        """CRC-32 of both files: how damage shows. Not against forgers."""
        return self._crcs[0] << 32 | self._crcs[1]

    @property
    def num_steps(self) -> int:
        """Transitions taken on the real game."""
        return self._length - self._num_last

    @property
    def steps(self) -> npt.NDArray[np.void]:
        """All rows but their pixels: fields action, reward, terminated, last."""
        self._map()
        return self._steps

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The pixels of all rows, ``(rows, 64, 64, 3)``, on disk."""
        self._map()
        return self._pixels

    def append(self, pixels: npt.NDArray[np.uint8], action: npt.ArrayLike, reward: float, terminated: bool) -> None:
        """Log one transition: what was seen, what was done, what came of it."""
        self._write(pixels, (action, reward, terminated, False))

    def end_episode(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Log the final observation of the episode under way."""
        self._write(pixels, (self._actions.blank, 0.0, False, True))

    def flush(self) -> None:
        """Hand everything logged so far to the operating system."""
        self._pixels_file.flush()
        self._steps_file.flush()

    def sync(self) -> None:
        """Make everything logged so far survive a power cut."""
        self.flush()
        os.fsync(self._pixels_file.fileno())
        os.fsync(self._steps_file.fileno())

    def close(self) -> None:
        """Flush and close the files, both even if the disk is full."""
        with ExitStack() as files:
            files.callback(self._pixels_file.close)
            files.callback(self._steps_file.close)

    def follow(self, length: int) -> None:
        """Do nothing: who writes the log knows its length."""

    def segments(self, batch: int, length: int, sampling: Sampling, rng: np.random.Generator) -> Segment:
        """Draw ``batch`` segments of ``length`` transitions; :meth:`draw`, then :meth:`segment`."""
        return self.segment(*self.draw(batch, length, sampling, rng))

    def draw(self, batch: int, length: int, sampling: Sampling, rng: np.random.Generator) -> tuple[Ints, Bools]:
        """Draw where ``batch`` segments of ``length`` transitions lie: rows ``(B, T+1)`` and mask ``(B, T)``.

        A segment covers a drawn transition at a random place, and may reach beyond either edge of its episode: there
        the edge's pixels are repeated and the mask is False. So an end stands at any place of a segment, not only at
        its last.
        """
        centre = self._draw_transitions(batch, sampling, rng)
        start = centre - rng.integers(0, length, size=batch)
        first, last = self._edges(centre)
        rows = start[:, None] + np.arange(length + 1)
        inside = np.clip(rows, first[:, None], last[:, None])
        mask = (rows[:, :-1] >= first[:, None]) & (rows[:, :-1] < last[:, None])
        return inside, mask

    def segment(self, rows: Ints, mask: Bools) -> Segment:
        """Read the segments that :meth:`draw` chose."""
        steps = self.steps[rows[:, :-1]]
        return Segment(
            pixels=torch.from_numpy(self.pixels[rows]),
            actions=self._taken(rows[:, :-1], mask),
            rewards=torch.from_numpy(np.where(mask, steps["reward"], 0).astype(np.float32)),
            terminated=torch.from_numpy(steps["terminated"] & mask),
            mask=torch.from_numpy(mask),
        )

    def contexts(
        self, batch: int, length: int, sampling: Sampling, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw ``batch`` contexts: pixels (uint8 ``(B, K, 64, 64, 3)``) and the K-1 actions between them.

        Near an episode's start its first pixels are repeated, as an agent's frame stack does there.
        """
        newest = self._draw_transitions(batch, Sampling(sampling.age_weights), rng)
        first, _ = self._edges(newest)
        rows = newest[:, None] + np.arange(1 - length, 1)
        inside = np.maximum(rows, first[:, None])
        actions = self._taken(inside[:, :-1], rows[:, :-1] >= first[:, None])
        return torch.from_numpy(self.pixels[inside]), actions

    def _taken(self, rows: Ints, there: Bools) -> torch.Tensor:
        """Return the actions taken at ``rows``, and nothing done where they are not ``there``."""
        actions = blanks(self._actions, *rows.shape)
        actions[torch.from_numpy(there)] = torch.from_numpy(self.steps["action"][rows[there]]).to(actions.dtype)
        return actions

    def _draw_transitions(self, batch: int, sampling: Sampling, rng: np.random.Generator) -> Ints:
        """Return rows whose transition is complete: an action was taken, and the next row holds what it led to."""
        self._map()
        rows = self._complete
        if len(rows) == 0:
            raise RunError("The replay holds no complete transition yet: collect some real steps first.")
        parts = len(sampling.age_weights)
        begins = self._begins
        if parts and len(begins) >= parts:
            part = rng.choice(parts, size=batch, p=np.asarray(sampling.age_weights) / sum(sampling.age_weights))
            bounds = np.append(np.arange(parts) * (len(begins) // parts), len(begins))
            episode = rng.integers(bounds[part], bounds[part + 1])
            ends = np.append(begins[1:], len(rows))
            drawn = rows[rng.integers(begins[episode], ends[episode])]
        else:
            drawn = rows[rng.integers(0, len(rows), size=batch)]
        events = self._events
        if sampling.event_fraction > 0 and len(events):
            pick = rng.random(batch) < sampling.event_fraction
            drawn = np.where(pick, events[rng.integers(0, len(events), size=batch)], drawn)
        return drawn

    def _edges(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return the first and last row of the episode that each row belongs to."""
        episode = self._episode_of[rows]
        return self._starts[episode], self._ends[episode]

    def _write(self, pixels: npt.NDArray[np.uint8], step: tuple[Any, float, bool, bool]) -> None:
        row = (np.ascontiguousarray(pixels, dtype=np.uint8).tobytes(), np.array([step], dtype=self._step).tobytes())
        for index, file in enumerate((self._pixels_file, self._steps_file)):
            file.write(row[index])
            self._crcs[index] = zlib.crc32(row[index], self._crcs[index])
        self._length += 1
        self._num_last += step[3]

    def _map(self) -> None:
        """Map the files anew if they have grown, and index the episodes."""
        if self._mapped == self._length:
            return
        self.flush()
        self._mapped = self._length
        if self._length == 0:
            self._pixels = np.empty((0, *PIXELS_SHAPE), np.uint8)
            self._steps = np.empty(0, self._step)
        else:
            self._pixels = np.memmap(self._paths[0], np.uint8, "r", shape=(self._length, *PIXELS_SHAPE))
            self._steps = np.fromfile(self._paths[1], self._step, self._length)
        last = self._steps["last"]
        self._episode_of = np.cumsum(last) - last
        ends = np.flatnonzero(last)
        self._starts = np.concatenate(([0], ends + 1))
        self._ends = np.append(ends, max(self._length - 1, 0))  # an episode under way ends, for now, at the newest row
        has_next = np.zeros(self._length, bool)
        has_next[:-1] = True
        self._complete = np.flatnonzero(~last & has_next)
        # Where in them each episode begins; not at every draw, which would then take time with the length of the log.
        self._begins = np.flatnonzero(np.diff(self._episode_of[self._complete], prepend=-1))
        rare = (self._steps["reward"] != usual_reward(self._steps)) | self._steps["terminated"]
        self._events = np.flatnonzero(~last & has_next & rare)


class FollowedReplay(Replay):
    """The log that another process writes in ``folder``, to read from; empty until :meth:`follow` says its length.

    Args:
        folder: of the log; it may not be there yet.
        actions: of the game that is played.
    """

    def __init__(self, folder: Path, actions: Actions = _ANY) -> None:
        self._actions = actions
        self._step = step_dtype(actions)
        self._paths = _paths(folder)
        self._length = self._num_last = 0
        self._mapped = -1

    def follow(self, length: int) -> None:
        """Read on to ``length`` rows, which the other process has made sure are there."""
        self._length = length
        self._num_last = int(self.steps["last"].sum())

    def flush(self) -> None:
        """Do nothing: nothing is written here."""

    def close(self) -> None:
        """Do nothing."""


def rows_in(folder: Path, actions: Actions) -> int:
    """Return how many whole rows the log in ``folder`` has; 0 if there is none."""
    sizes = (_PIXELS.itemsize, step_dtype(actions).itemsize)
    paths = zip(_paths(folder), sizes, strict=True)
    return min(path.stat().st_size // size if path.is_file() else 0 for path, size in paths)


def _paths(folder: Path) -> tuple[Path, Path]:
    return folder / "pixels.bin", folder / "steps.bin"


def usual_reward(steps: npt.NDArray[np.void]) -> float:
    """Return the reward that most of the transitions among ``steps`` have; 0 of none."""
    rewards, counts = np.unique(steps["reward"][~steps["last"]], return_counts=True)
    return float(rewards[counts.argmax()]) if len(rewards) else 0.0


def _check_steps(steps: npt.NDArray[np.void], actions: Actions, folder: Path) -> None:
    """Refuse rows that no game can have led to: what reads them later relies on it."""
    flags = np.stack([steps[name].view(np.uint8) for name in ("terminated", "last")])
    if flags.max() > 1 or not actions.allow(steps["action"]) or not np.isfinite(steps["reward"]).all():
        raise RunError(f"The replay in {folder} holds steps that cannot be: it was damaged. Restore it.")


def _crc(path: Path, size: int) -> int:
    crc = 0
    if size:
        with path.open("rb") as file:
            for start in range(0, size, _BLOCK):
                crc = zlib.crc32(file.read(min(_BLOCK, size - start)), crc)
    return crc


def _open_at(path: Path, size: int) -> BinaryIO:
    path.touch()
    file = path.open("r+b")
    file.truncate(size)
    file.seek(size)
    return file
