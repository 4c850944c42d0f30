"""What must survive a crash: the one record that the training loop works on, and its saving and restoring.

A state is a folder ``state/epoch-000012`` of tensors (safetensors) and facts (JSON), written aside and renamed into
place, so that it is whole or not there. The replay is not copied: the state records its length. The two newest states
are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jedi_env.config_json import to_json
from jedi_env.errors import RunError, UsageError
from jedi_env.models.decoder import Decoder
from jedi_env.models.encoder import PIXELS_SHAPE
from jedi_env.models.world_model import WorldModel
from jedi_env.noise import LaneNoise
from jedi_env.types import Context
from trainers.agent import ActorCritic
from trainers.collect import Progress
from trainers.config import TrainConfig
from trainers.fit_world_model import make_optim
from trainers.frozen_frames import FrozenFrames
from trainers.optim import Optim, OptimConfig
from trainers.randomness import Purpose, torch_rng
from trainers.replay import Replay

STATES_KEPT = 2
_DECODER_OPTIM = OptimConfig(lr=1e-3, weight_decay=0.0, warmup=0)  # the probe's; it shapes nothing but pictures


@dataclass
class TrainState:
    """A run between two epochs.

    Attributes:
        run_dir: where it lives.
        game: what is played.
        seed: of everything random.
        world_model, decoder, agent: the networks; no decoder where the frame is the image.
        world_model_optim, decoder_optim, agent_optim: their optimisers.
        replay: all real play.
        epoch: epochs completed.
        first_steps: real steps of the first collection.
        imagined_steps: dream steps that the agent has learned from.
        collector: where the real game stands.
        log_size: bytes of ``metrics.jsonl`` that belong to completed epochs.
        scores: every evaluation so far.
        frozen_frames: the replay encoded, once the encoder is frozen; nothing to save.
    """

    run_dir: Path
    game: str
    seed: int
    world_model: WorldModel
    decoder: Decoder | None
    agent: ActorCritic
    world_model_optim: Optim
    decoder_optim: Optim | None
    agent_optim: Optim
    replay: Replay
    epoch: int = 0
    first_steps: int = 0
    imagined_steps: int = 0
    collector: Progress = field(default_factory=Progress)
    log_size: int = 0
    scores: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        device = next(self.world_model.parameters()).device
        self.frozen_frames = FrozenFrames(self.world_model, self.replay, device)

    def save(self, log_size: int, collector: Progress) -> None:
        """Write the state of the epochs completed so far; whole or not at all."""
        self.replay.flush()
        facts = {
            "epoch": self.epoch,
            "first_steps": self.first_steps,
            "imagined_steps": self.imagined_steps,
            "collector": asdict(collector),
            "log_size": log_size,
            "replay_length": self.replay.length,
            "scores": self.scores,
        }
        final = self.run_dir / "state" / f"epoch-{self.epoch:06d}"
        aside = final.with_name(final.name + ".tmp")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(self._tensors(), aside / "tensors.safetensors")
        (aside / "facts.json").write_text(json.dumps(facts))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        for old in saved_states(self.run_dir)[:-STATES_KEPT]:
            shutil.rmtree(old)

    def _parts(self) -> Mapping[str, Any]:
        return {
            "world_model": self.world_model,
            "agent": self.agent,
            "world_model_optim": self.world_model_optim,
            "agent_optim": self.agent_optim,
        } | ({"decoder": self.decoder, "decoder_optim": self.decoder_optim} if self.decoder else {})

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}/{key}": tensor.contiguous()
            for name, part in self._parts().items()
            for key, tensor in part.state_dict().items()
        }

    def _load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        for name, part in self._parts().items():
            prefix = name + "/"
            part.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})


def saved_states(run_dir: Path) -> list[Path]:
    """Return the folders of the saved states, oldest first."""
    return sorted(path for path in (run_dir / "state").glob("epoch-*") if path.suffix != ".tmp")


def open_run(
    run_dir: Path, config: TrainConfig, game: str, seed: int, num_actions: int, device: torch.device
) -> TrainState:
    """Begin a run in ``run_dir``, or take up the one that is there from its newest state.

    Raises:
        UsageError: the networks do not fit together; or ``run_dir`` is no run directory, or belongs to another
            configuration, game or seed; it was not changed.
        RunError: what is there was damaged.
    """
    if not (run_dir / "config.json").exists():  # else they were tried out when the run began
        _check_networks(config, num_actions)
    described = {"game": game, "seed": seed, "config": to_json(config)}
    _check_or_write(run_dir, described)
    newest = saved_states(run_dir)[-1:]
    facts: dict[str, Any] = json.loads((newest[0] / "facts.json").read_text()) if newest else {}
    state = _fresh(run_dir, config, game, seed, num_actions, device, facts.get("replay_length", 0))
    if newest:
        state._load_tensors(load_file(newest[0] / "tensors.safetensors", device=str(device)))
        state.epoch = facts["epoch"]
        state.first_steps = facts["first_steps"]
        state.imagined_steps = facts["imagined_steps"]
        state.collector = Progress(**facts["collector"])
        state.log_size = facts["log_size"]
        state.scores = facts["scores"]
    return state


def _check_networks(config: TrainConfig, num_actions: int) -> None:
    """Refuse what cannot be built, before anything is written: on the meta device it takes no memory to try it out."""
    k = config.world_model.context_length
    try:
        with torch.device("meta"), torch.no_grad():
            world_model = WorldModel(num_actions, config.world_model)
            agent = ActorCritic(world_model.frame_shape, num_actions, config.agent)
            frames = world_model.encode(torch.empty(1, k, *PIXELS_SHAPE, dtype=torch.uint8))
            state = world_model.begin(Context(frames, torch.empty(1, k - 1, dtype=torch.int64)))
            lane = torch.empty(1, dtype=torch.int64)
            state, _ = world_model.advance(state, lane, LaneNoise(lane, lane))
            seen = state.frames[:, k - config.agent.frame_stack :].flatten(1, 2)
            agent(seen, agent.initial(1, "meta"))
            if config.fit_world_model.decoder_every:
                decoder = Decoder(world_model.frame_shape, config.decoder)
                decoder.loss(state.frames[:, -1], torch.empty(1, *PIXELS_SHAPE, dtype=torch.uint8))
    except (ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:  # what torch says of sizes
        raise UsageError(
            f"The networks of this configuration cannot be built, or do not fit together: {error}. Give the channels, "
            f"depths, attention and down of a network one value a stage each, and halve no frame beyond one element."
        ) from error


def _fresh(
    run_dir: Path,
    config: TrainConfig,
    game: str,
    seed: int,
    num_actions: int,
    device: torch.device,
    replay_length: int,
) -> TrainState:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_rng(seed, 0, Purpose.INIT).initial_seed())
        world_model = WorldModel(num_actions, config.world_model)
        agent = ActorCritic(world_model.frame_shape, num_actions, config.agent)
        decoder = Decoder(world_model.frame_shape, config.decoder) if config.fit_world_model.decoder_every else None
    world_model.to(device)
    agent.to(device)
    if decoder is not None:
        world_model.attach_decoder(decoder.to(device))
    return TrainState(
        run_dir=run_dir,
        game=game,
        seed=seed,
        world_model=world_model,
        decoder=decoder,
        agent=agent,
        world_model_optim=make_optim(world_model, config.fit_world_model),
        decoder_optim=Optim({"decoder": (decoder, _DECODER_OPTIM)}) if decoder is not None else None,
        agent_optim=Optim({"agent": (agent, config.fit_agent.optim)}),
        replay=Replay(run_dir / "replay", replay_length),
    )


def _check_or_write(run_dir: Path, described: dict[str, Any]) -> None:
    path = run_dir / "config.json"
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise RunError(f"{path} is damaged ({error}). Restore it, or begin in another run directory.") from error
        if not isinstance(there, dict) or there.keys() != described.keys():
            raise UsageError(f"{run_dir} holds something else than a run: write another --run-dir.")
        different = sorted(_differences(there, described))
        if different:
            raise UsageError(
                f"{run_dir} holds another run; it differs in {'; '.join(different[:5])}. "
                f"Write the same settings to go on with it, or another --run-dir to begin a new run."
            )
        return
    if run_dir.exists() and not run_dir.is_dir():
        raise UsageError(f"{run_dir} is a file: write another --run-dir.")
    if run_dir.exists() and any(run_dir.iterdir()):
        raise UsageError(f"{run_dir} is not empty and holds no run (no config.json). Write another --run-dir.")
    run_dir.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(described, indent=1))
    os.replace(aside, path)


def _differences(there: object, here: object, where: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = there.keys() | here.keys()
        return [d for key in keys for d in _differences(there.get(key), here.get(key), f"{where}.{key}".lstrip("."))]
    return [] if there == here else [f"{where} (there {there!r}, asked for {here!r})"]
