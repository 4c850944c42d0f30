"""DIAMOND's public code (github.com/eloialonso/diamond), timed beside ours from a checkout that the user names.

None of it is here. Its modules are imported from that folder, in a process of its own; what they import that is not
installed and that no measured line needs (wandb, hydra and the like) is replaced by an empty module. Sizes and batches
are those of our ``diamond`` preset, which are its defaults.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from jedi_env.errors import UsageError
from trainers.benchmarks.clock import Job, Place
from trainers.benchmarks.workloads import ACTIONS
from trainers.presets import DIAMOND

_MODULES = ("models.diffusion", "models.rew_end_model", "models.actor_critic", "envs", "data")
_SHAPE = (3, 64, 64)
_CLIP = {"denoiser": 1.0, "reward_end": 100.0, "agent": 100.0}  # gradient norms


def check_checkout(path: Path) -> None:
    """Raise :class:`UsageError` unless DIAMOND's code lies in ``path``."""
    wanted = path / "src" / "models" / "diffusion" / "denoiser.py"
    if not wanted.is_file():
        raise UsageError(
            f"There is no {wanted}: write --against with the folder of a checkout of github.com/eloialonso/diamond."
        )


@dataclass(frozen=True)
class PublicDream:
    """Steps of ``lanes`` of its imagined environments, which never end."""

    path: Path
    lanes: int

    def prepare(self, place: Place) -> Job:
        """Import it and build the environment."""
        environment = _environment(_import(self.path), self.lanes, place)
        actions = torch.zeros(self.lanes, dtype=torch.int64, device=place.device)
        environment.reset()

        def run() -> None:
            with place.autocast():
                environment.step(actions)

        return Job(run, units=self.lanes)


@dataclass(frozen=True)
class PublicDenoiserUpdate:
    """Updates of its denoiser."""

    path: Path

    def prepare(self, place: Place) -> Job:
        """Import it, build the denoiser and a batch."""
        public, settings = _import(self.path), DIAMOND.world_model.denoiser
        denoiser = _denoiser(public).to(place.device)
        denoiser.setup_training(
            public["models.diffusion"].SigmaDistributionConfig(
                settings.mean_log_sigma, settings.std_log_sigma, settings.sigma_low, settings.sigma_high
            )
        )
        length = DIAMOND.world_model.context_length + DIAMOND.fit_world_model.denoising_steps
        return _updates(denoiser, (_batch(public, length, place),), _CLIP["denoiser"], place)


@dataclass(frozen=True)
class PublicRewardEndUpdate:
    """Updates of its reward/termination model."""

    path: Path

    def prepare(self, place: Place) -> Job:
        """Import it, build the model and a batch."""
        public = _import(self.path)
        model = _reward_end(public).to(place.device)
        batch = _batch(public, DIAMOND.fit_world_model.reward_end_length + 1, place)
        return _updates(model, (batch,), _CLIP["reward_end"], place)


@dataclass(frozen=True)
class PublicAgentUpdate:
    """Updates of its actor-critic in imagination, of ``horizon`` imagined steps."""

    path: Path
    horizon: int

    def prepare(self, place: Place) -> Job:
        """Import it, build environment and agent."""
        public, settings, losses = _import(self.path), DIAMOND.agent, DIAMOND.fit_agent
        module = public["models.actor_critic"]
        down = [int(one) for one in settings.down]
        agent = module.ActorCritic(
            module.ActorCriticConfig(settings.lstm_dim, 3, 64, list(settings.channels), down, ACTIONS)
        ).to(place.device)
        agent.setup_training(
            _environment(public, losses.batch, place),
            module.ActorCriticLossConfig(
                self.horizon, losses.gamma, losses.lambda_, losses.value_weight, losses.entropy_weight
            ),
        )
        job = _updates(agent, (), _CLIP["agent"], place)
        return Job(job.run, units=self.horizon / losses.horizon)


class _Absent(ModuleType):
    """A module that is not installed: it holds whatever is asked for, and that does nothing."""

    __path__: list[str] = []  # noqa: RUF012  (what makes a module a package)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def _import(path: Path) -> dict[str, ModuleType]:
    check_checkout(path)
    sys.path.insert(0, str(path / "src"))
    for _ in range(50):
        try:
            return {name: importlib.import_module(name) for name in _MODULES}
        except ModuleNotFoundError as error:
            if error.name is None:
                raise
            sys.modules[error.name] = _Absent(error.name)
    raise UsageError(f"The code in {path} imports too much that is not installed.")


def _denoiser(public: dict[str, ModuleType]) -> Any:  # noqa: ANN401
    module, ours = public["models.diffusion"], DIAMOND.world_model.denoiser
    attention = [int(one) for one in ours.attention]
    inner = module.InnerModelConfig(
        3,
        DIAMOND.world_model.context_length,
        ours.cond_channels,
        list(ours.depths),
        list(ours.channels),
        attention,
        ACTIONS,
    )
    return module.Denoiser(module.DenoiserConfig(inner, ours.sigma_data, ours.offset_noise))


def _reward_end(public: dict[str, ModuleType]) -> Any:  # noqa: ANN401
    module, ours = public["models.rew_end_model"], DIAMOND.world_model.reward_end
    attention = [int(one) for one in ours.attention]
    return module.RewEndModel(
        module.RewEndModelConfig(
            ours.lstm_dim, 3, 64, ours.cond_channels, list(ours.depths), list(ours.channels), attention, ACTIONS
        )
    )


def _batch(public: dict[str, ModuleType], length: int, place: Place) -> Any:  # noqa: ANN401
    size = DIAMOND.fit_world_model.batch
    zeros = torch.zeros(size, length, dtype=torch.int64)
    return (
        public["data"]
        .Batch(
            obs=torch.rand(size, length, *_SHAPE) * 2 - 1,
            act=zeros,
            rew=zeros.float(),
            end=zeros,
            trunc=zeros,
            mask_padding=zeros == 0,
            info=[{}] * size,
            segment_ids=[],
        )
        .to(torch.device(place.device))
    )


def _environment(public: dict[str, ModuleType], lanes: int, place: Place) -> Any:  # noqa: ANN401
    module, ours = public["envs"], DIAMOND.world_model.sampler
    sampler = public["models.diffusion"].DiffusionSamplerConfig(ours.steps, ours.sigma_min, ours.sigma_max, ours.rho)
    k = DIAMOND.world_model.context_length
    start = SimpleNamespace(obs=torch.rand(lanes, k, *_SHAPE) * 2 - 1, act=torch.zeros(lanes, k, dtype=torch.int64))
    environment = module.WorldModelEnv(
        _denoiser(public).to(place.device).eval(),
        _reward_end(public).to(place.device).eval(),
        _Loader(start, lanes),
        module.WorldModelEnvConfig(2**31, 1, sampler),
    )
    predict = environment.predict_rew_end

    def never_ends(frame: Tensor) -> tuple[Tensor, Tensor]:  # an untrained model would end every other step
        reward, end = predict(frame)
        return reward, torch.zeros_like(end)

    environment.predict_rew_end = never_ends
    return environment


class _Loader:
    """What its environment asks of a data loader."""

    def __init__(self, start: SimpleNamespace, lanes: int) -> None:
        self._start = start
        self.batch_sampler = SimpleNamespace(batch_size=lanes)

    def __iter__(self) -> Iterator[SimpleNamespace]:
        return repeat(self._start)


def _updates(model: nn.Module, arguments: tuple[object, ...], most: float, place: Place) -> Job:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        with place.autocast():
            loss, _ = model(*arguments)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), most)
        optimiser.step()

    return Job(run)
