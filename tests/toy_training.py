"""How the toy worlds' models learn: a few hundred updates on segments made as they are needed."""

from collections.abc import Callable

import torch
from torch import nn

from jedi_env.actions import Actions
from jedi_env.models.world_model import WorldModel, WorldModelConfig
from jedi_env.types import Segment


def train(
    config: WorldModelConfig,
    actions: int | Actions,
    segment: Callable[[int, int, torch.Generator], Segment],
    updates: int,
) -> WorldModel:
    """Fit a model to what ``segment(batch, steps, generator)`` draws."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = WorldModel(actions, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.05, total_iters=20)
    for _ in range(updates):
        batch = segment(24, config.context_length + 1, generator)
        loss = model.loss(model.encode(batch.pixels), batch, generator).total
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
    model.encoder.calibrate(segment(64, config.context_length, generator).pixels.flatten(0, 1))
    return model.eval()
