"""Dream beside reality for the page: strips cut into lanes and shrunk to the game's own pixels, as data URIs.

Where a run left no strip, one can be drawn from its checkpoint and its replay, which is only read. Those are frames
that the world model has learned from; the strips of ``jedi-env fidelity`` and of the demonstration are of games that it
never saw.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from jedi_env.actions import Actions
from jedi_env.checkpoint import Checkpoint
from jedi_env.errors import CheckpointError
from jedi_env.models.encoder import PIXELS_SHAPE
from jedi_env.types import Segment
from trainers.pictures import GAP, SCALE, imagine
from trainers.replay import step_dtype, usual_reward
from trainers.run_files import Run

ROWS = ("real", "latent, decoded", "dreamed")  # of a lane, as trainers.pictures draws it
CELL = (PIXELS_SHAPE[0] + GAP) * SCALE  # screen pixels a frame of a strip
DRAWN_LANES, DRAWN_STEPS = 3, 15
SEEN = "Drawn from the run's own replay: the world model has learned from these frames."
UNSEEN = "Games that no training saw."


@dataclass(frozen=True)
class Strip:
    """Lanes of a run.

    Attributes:
        lanes: a picture each, three rows (:data:`ROWS`) and a column a step, as data URIs; or one whole picture.
        steps: columns; 0: not known, it is one whole picture.
        source: what the lanes are of.
    """

    lanes: tuple[str, ...]
    steps: int
    source: str


def strip_of(run: Run, draw: bool) -> tuple[Strip | None, str | None]:
    """Return a run's strip or None, and what went wrong or None.

    Args:
        run: whose.
        draw: make one where the run left none but has checkpoint and replay; it takes seconds.
    """
    if run.picture is not None:
        try:
            return _cut(run.picture), None
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return None, f"{run.picture} is no picture ({error})."
    if not draw or not run.finished or not (run.path / "replay" / "pixels.bin").is_file():
        return None, None
    try:
        return _draw(run.path), None
    except (CheckpointError, OSError, ValueError) as error:
        return None, f"{run.path}: no strip could be drawn ({error})."


def data_uri(path: Path) -> str | None:
    """Return a picture file as it is, or None if it is none."""
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _cut(path: Path) -> Strip:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    small = pixels[::SCALE, ::SCALE]
    ours = height % (CELL * len(ROWS)) == 0 and width % CELL == 0
    if not ours or not np.array_equal(small.repeat(SCALE, 0).repeat(SCALE, 1), pixels):
        return Strip((_png(pixels),), 0, f"{path.name} of the run directory, as it is.")
    lanes = np.split(small, height // (CELL * len(ROWS)))
    return Strip(tuple(_png(lane) for lane in lanes), width // CELL, UNSEEN)


def _draw(folder: Path) -> Strip | None:
    checkpoint = Checkpoint.load(folder / "checkpoint")
    model = checkpoint.world_model
    if model.decoder is None:
        return None
    segment = _segment(folder / "replay", model.actions, model.context_length - 1 + DRAWN_STEPS)
    if segment is None:
        return None
    rows = torch.stack(imagine(model, segment), dim=1).cpu().numpy()  # (B, 3, n, 64, 64, 3)
    framed = np.pad(rows, ((0, 0),) * 3 + ((0, GAP), (0, GAP), (0, 0)), constant_values=128)
    lanes = framed.transpose(0, 1, 3, 2, 4, 5).reshape(len(rows), -1, framed.shape[2] * framed.shape[4], 3)
    return Strip(tuple(_png(lane) for lane in lanes), framed.shape[2], SEEN)


def _segment(replay: Path, actions: Actions, length: int) -> Segment | None:
    """Return a few windows of one episode each, around rewards if there are any, or None if no episode is as long."""
    steps = np.fromfile(replay / "steps.bin", step_dtype(actions))
    pixels = np.memmap(replay / "pixels.bin", np.uint8, "r").reshape(-1, *PIXELS_SHAPE)
    last = np.append(np.flatnonzero(steps["last"]), len(steps))
    ends = last[np.searchsorted(last, np.arange(len(steps)))]  # the row that closes each row's episode
    starts = np.flatnonzero(np.arange(len(steps)) + length < np.minimum(ends, min(len(steps), len(pixels)) - 1))
    if starts.size == 0:
        return None
    paid = np.concatenate(([0], np.cumsum(steps["reward"] != usual_reward(steps))))
    rewarded = starts[paid[starts + length] > paid[starts + length // 2]]
    chosen = rewarded if rewarded.size else starts
    begin = chosen[np.linspace(0, len(chosen) - 1, DRAWN_LANES).astype(int)]
    rows = begin[:, None] + np.arange(length + 1)
    taken = steps[rows[:, :-1]]
    return Segment(
        pixels=torch.from_numpy(pixels[rows]),
        actions=torch.from_numpy(taken["action"].copy()).to(actions.dtype),
        rewards=torch.from_numpy(taken["reward"].copy()),
        terminated=torch.from_numpy(taken["terminated"].copy()),
        mask=torch.ones(taken.shape, dtype=torch.bool),
    )


def _png(pixels: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
