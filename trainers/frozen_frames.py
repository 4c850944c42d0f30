"""The frames of the whole replay, once the encoder is frozen: encoded once, not at every update."""

from __future__ import annotations

import torch
from torch import Tensor

from jedi_env.models.world_model import WorldModel
from trainers.replay import Ints, Replay

_CHUNK = 256  # rows encoded at a time


class FrozenFrames:
    """What ``world_model.encode`` makes of every row of ``replay``; only for an encoder that no longer changes.

    Kept on ``device`` in float16: a latent in [-3, 3] is off by at most 0.001, and 100,000 frames take 205 MB.

    Args:
        world_model: its encoder is frozen by the time that :meth:`take` is called.
        replay: may grow.
        device: where the encoder is.
    """

    def __init__(self, world_model: WorldModel, replay: Replay, device: torch.device) -> None:
        self._world_model = world_model
        self._replay = replay
        self._device = device
        self._frames = torch.empty((0, *world_model.frame_shape), dtype=torch.float16, device=device)

    def take(self, rows: Ints) -> Tensor:
        """Return the frames ``(*rows.shape, C, H, W)`` of ``rows``."""
        self._catch_up()
        return self._frames[torch.from_numpy(rows).to(self._device)].float()

    @torch.no_grad()
    def _catch_up(self) -> None:
        """Encode the rows that were logged since."""
        if len(self._frames) == self._replay.length:
            return
        # Whole chunks stay, the last one is encoded again: the bits depend on the replay alone.
        known, length = len(self._frames) // _CHUNK * _CHUNK, self._replay.length
        with torch.autocast(self._device.type, enabled=False):  # as the dream will see them
            chunks = (self._replay.pixels[start : start + _CHUNK].copy() for start in range(known, length, _CHUNK))
            parts = [self._world_model.encode(torch.from_numpy(chunk).to(self._device)) for chunk in chunks]
            self._frames = torch.cat([self._frames[:known], *(part.half() for part in parts)])
