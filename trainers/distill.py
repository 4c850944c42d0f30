"""One denoising step instead of several: a denoiser learns where its own sampler would have ended.

``python -m trainers.distill CHECKPOINT --out FOLDER``. Direct distillation, the simplest of its kind: the dream wanders
under random actions; in every frame the teacher denoises noise in several steps, and the student, which begins as a
copy of it, learns to reach the same frame from the same noise in one. Only the denoiser changes. What it costs in
quality is measured by ``jedi-env fidelity``; docs/experiments.md has the table.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from tyro.conf import Positional

from jedi_env.arguments import check_whole
from jedi_env.checkpoint import Checkpoint
from jedi_env.config_json import JSON
from jedi_env.dream import Dream
from jedi_env.errors import UsageError
from jedi_env.models.denoiser import Denoiser
from jedi_env.models.encoder import PixelEncoder
from jedi_env.models.sampler import as_levels
from jedi_env.models.world_model import WorldModel
from jedi_env.noise import LaneNoise
from jedi_env.types import DreamState
from trainers.cli import exit_codes
from trainers.log import averages, progress
from trainers.optim import Optim, OptimConfig
from trainers.provenance import provenance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillConfig:
    """How the student learns.

    Attributes:
        updates: gradient steps.
        batch: dreams side by side.
        teacher_steps: denoising steps of the teacher.
        horizon: steps after which a dream begins anew, so that the student sees frames as dreams reach them.
        lr: learning rate, which decays to a twentieth.
        seed: of actions and dreams.
    """

    updates: int = 2000
    batch: int = 64
    teacher_steps: int = 3
    horizon: int = 25
    lr: float = 4e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch", "horizon"):
            check_whole(name, getattr(self, name))
        if self.teacher_steps < 2:
            raise UsageError(f"teacher_steps is {self.teacher_steps}: there is nothing to distil below 2.")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr is {self.lr}: write a number above 0.")


def distil(checkpoint: Checkpoint, config: DistillConfig, device: torch.device) -> Checkpoint:
    """Return ``checkpoint`` with a denoiser that takes one step, and without what was measured of the teacher.

    Raises:
        UsageError: its model does not diffuse.
    """
    if not checkpoint.world_model.config.denoiser.diffusion:
        raise UsageError("This dream takes one pass already: its model was trained without diffusion.")
    checkpoint = checkpoint.to(device)
    teacher = checkpoint.world_model
    student = copy.deepcopy(teacher)
    student.denoiser.requires_grad_(True)
    student.config = replace(teacher.config, sampler=replace(teacher.config.sampler, steps=1, order=1, churn=0.0))
    logged = averages(progress(fit(teacher, student, checkpoint, config), config.updates, "distilling"))
    logger.info("mean squared distance to the teacher's frames: %.5f", logged["loss"])
    told: dict[str, JSON] = {**checkpoint.provenance, "distilled": {**provenance(config), "updates": config.updates}}
    return replace(checkpoint, world_model=student.eval(), provenance=told, metrics={})


def fit(
    teacher: WorldModel, student: WorldModel, checkpoint: Checkpoint, config: DistillConfig
) -> Iterator[dict[str, Tensor]]:
    """Update the student's denoiser ``config.updates`` times, yielding the loss of each."""
    device = checkpoint.contexts.frames.device
    rng = np.random.default_rng(config.seed)
    settings = OptimConfig(config.lr, weight_decay=0.0, lr_decay=True)
    optim = Optim({"denoiser": (student.denoiser, settings)}, config.updates)
    dream = Dream(teacher, checkpoint.contexts, horizon=config.horizon, sampler_steps=config.teacher_steps)
    dream.reset(range(config.seed, config.seed + config.batch))
    for _ in range(config.updates):
        actions = torch.from_numpy(teacher.actions.uniform(rng, config.batch)).to(device)
        before = dream.state
        transition = dream.step(actions)
        loss = F.mse_loss(one_step(student, before, actions), dream.state.model.frames[:, -1])
        optim.step(loss)
        yield {"loss": loss.detach()}
        dream.restart(transition.done)


def one_step(student: WorldModel, state: DreamState, actions: Tensor) -> Tensor:
    """Return the frames ``(B, C, H, W)`` that one Euler step reaches from the noise that ``state`` would draw next.

    Those of a pixel model are not rounded: nothing is learned through that.
    """
    denoiser: Denoiser = student.denoiser
    sampler = student.config.sampler
    start = sampler.start_std * LaneNoise(state.key, state.count).normal(student.frame_shape)
    given = denoiser.condition(state.model.frames, torch.cat((state.model.actions, actions[:, None]), dim=1))
    estimate = denoiser.denoise(start, as_levels(sampler.sigma_max, start), given)
    if isinstance(student.encoder, PixelEncoder):
        return estimate.clamp(-student.bound, student.bound)
    return student.encoder.clamp(estimate)


@dataclass(frozen=True)
class _Arguments:
    """Arguments.

    Attributes:
        checkpoint: the folder of the dream to distil.
        out: the folder to write.
        distill: how.
    """

    checkpoint: Positional[Path]
    out: Path
    distill: Annotated[DistillConfig, tyro.conf.arg(name="")] = field(default_factory=DistillConfig)


def main() -> None:
    """Distil a checkpoint from the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = tyro.cli(_Arguments, description=__doc__)
    with exit_codes("trainers.distill"):
        distil(Checkpoint.load(arguments.checkpoint), arguments.distill, torch.device("cpu")).save(arguments.out)


if __name__ == "__main__":
    main()
