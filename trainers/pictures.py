"""Pictures for people: dream beside reality from the same context and actions, and learning curves.

PNG files by Pillow and Matplotlib; nothing here is read by any network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from jedi_env.errors import UsageError
from jedi_env.metrics.side_by_side import side_by_side
from jedi_env.models.world_model import WorldModel
from jedi_env.types import Segment

SCALE = 3  # screen pixels a game pixel
GAP = 2  # game pixels between two frames


@torch.no_grad()
def imagine(world_model: WorldModel, segment: Segment, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Dream on from the first K observations of ``segment`` under its own actions.

    Returns:
        Three uint8 tensors ``(B, n, 64, 64, 3)``: what really followed (the last context frame first), the same decoded
        from its latent, and the dream.
    """
    last = world_model.context_length - 1
    sides = side_by_side(world_model, segment, seed)
    decoded, drawn = (_draw(world_model, frames[:, last:]) for frames in (sides.real, sides.dreamed))
    return segment.pixels[:, last:], decoded, drawn


def save_strip(world_model: WorldModel, segment: Segment, path: Path, seed: int = 0, scale: int = SCALE) -> None:
    """Save a strip: three rows a lane of ``segment`` (real, decoded from its latent, dreamed), a column a step."""
    rows = torch.stack(imagine(world_model, segment, seed), dim=1).flatten(0, 1).cpu()  # (3B, n, 64, 64, 3)
    padded = torch.nn.functional.pad(rows, (0, 0, 0, GAP, 0, GAP), value=128)
    image = torch.cat([torch.cat(list(row), dim=1) for row in padded], dim=0).numpy()
    height, width = image.shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST).save(path)


def save_curves(curves: Mapping[str, Sequence[tuple[float, float]]], path: Path, x_label: str, y_label: str) -> None:
    """Save line plots: ``curves`` maps a label to its (x, y) points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for label, points in curves.items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, marker="." if len(points) == 1 else None)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _draw(world_model: WorldModel, frames: Tensor) -> Tensor:
    """Return the pixels (uint8 ``(B, n, 64, 64, 3)``) of ``frames`` (B, n, C, H, W)."""
    decoder = world_model.decoder
    if decoder is None:
        raise UsageError("Nothing draws this dream's frames: train it with a decoder (fit_world_model.decoder_every).")
    pixels: Tensor = decoder.decode(frames.flatten(0, 1))
    return pixels.reshape(*frames.shape[:2], *pixels.shape[1:])
