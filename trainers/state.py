"""What must survive a crash: the one record that the training loop works on, and its saving and restoring.

A state is a folder ``state/epoch-000012`` of tensors (safetensors) and facts (JSON) with their checksums, on the disk
before it has its name, so that it is whole or not there. The replay is not copied: the state records its length and
checksum. The two newest states are kept; if the newest was damaged, the run goes on from the one before it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jedi_env.actions import Actions, as_actions, blanks
from jedi_env.config_json import JSON, from_json, parse, shown, to_json
from jedi_env.errors import CheckpointError, RunError, UsageError
from jedi_env.folder import replace_file, replace_folder
from jedi_env.models.decoder import Decoder
from jedi_env.models.encoder import PIXELS_SHAPE
from jedi_env.models.world_model import WorldModel
from jedi_env.noise import LaneNoise
from jedi_env.tensor_file import checksum, layouts, read_tensors, write_tensors
from jedi_env.types import Context
from trainers import distributed
from trainers.agent import ActorCritic
from trainers.collect import Progress
from trainers.config import TrainConfig, differences, with_defaults
from trainers.fit_world_model import make_optim
from trainers.frozen_frames import FrozenFrames
from trainers.lock import HOLDER, LOCK, RunLock, lock_run
from trainers.optim import Optim, OptimConfig
from trainers.randomness import Purpose, torch_rng
from trainers.replay import FollowedReplay, Replay

logger = logging.getLogger(__name__)

STATES_KEPT = 2
TENSORS, FACTS, CONFIG = "tensors.safetensors", "facts.json", "config.json"
MAX_JSON_BYTES = 2**26
_DECODER_OPTIM = OptimConfig(lr=1e-3, weight_decay=0.0, warmup=0)  # the probe's; it shapes nothing but pictures


@dataclass(frozen=True)
class _Facts:
    """All that a state says in JSON: numbers from :class:`TrainState`, and of the files that belong to it."""

    epoch: int
    first_steps: int
    imagined_steps: int
    game: int
    actions: tuple[int | float, ...]  # of the game under way, one number after another
    score: float
    scores: tuple[dict[str, Any], ...]
    log_size: int
    replay_length: int
    replay_checksum: int
    tensors_bytes: int
    tensors_sha256: str


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
        lock: of the run directory; None in a process that follows the first one of its run.
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
    lock: RunLock | None
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
        """Write the state of the epochs completed so far; whole or not at all.

        Raises:
            RunError: a weight is not finite, or another process took the run over; nothing was written.
        """
        if self.lock is not None:
            self.lock.check()
        self.replay.sync()
        try:
            tensors = write_tensors(self.tensors(), "The state", half=False)
        except CheckpointError as error:
            raise RunError(str(error)) from error
        facts = _Facts(
            epoch=self.epoch,
            first_steps=self.first_steps,
            imagined_steps=self.imagined_steps,
            game=collector.game,
            actions=tuple(np.asarray(collector.actions).ravel().tolist()),
            score=collector.score,
            scores=tuple(self.scores),
            log_size=log_size,
            replay_length=self.replay.length,
            replay_checksum=self.replay.checksum,
            tensors_bytes=len(tensors),
            tensors_sha256=checksum(tensors),
        )
        written = to_json(facts)
        content = json.dumps({"sha256": _digest(written), "facts": written}).encode()
        folder = self.run_dir.resolve() / "state" / f"epoch-{self.epoch:06d}"
        replace_folder(folder, {TENSORS: tensors, FACTS: content}, ours=(TENSORS, FACTS))
        self.prune()

    def prune(self) -> None:
        """Delete all but the newest states; a process that was killed while it saved may not have come to it."""
        for old in saved_states(self.run_dir)[:-STATES_KEPT]:
            shutil.rmtree(old)

    def close(self) -> None:
        """Close the replay and let go of the run directory."""
        try:
            self.replay.close()
        finally:
            if self.lock is not None:
                self.lock.release()

    def weights(self) -> Iterator[Tensor]:
        """Yield all weights, which several processes of a run have in common."""
        for network in (self.world_model, self.agent, self.decoder):
            if network is not None:
                yield from network.state_dict().values()

    def share(self) -> None:
        """Take over where the first of several processes stands; the others built the same networks."""
        numbers = (self.epoch, self.first_steps, self.imagined_steps, self.replay.length)
        self.epoch, self.first_steps, self.imagined_steps, length = distributed.numbers_of_first(*numbers)
        if distributed.world() > 1:
            tensors = distributed.tensors_of_first(self.tensors())
            if not distributed.first():
                self.load_tensors(tensors)
        self.replay.follow(length)

    def _parts(self) -> Mapping[str, Any]:
        return {
            "world_model": self.world_model,
            "agent": self.agent,
            "world_model_optim": self.world_model_optim,
            "agent_optim": self.agent_optim,
        } | ({"decoder": self.decoder, "decoder_optim": self.decoder_optim} if self.decoder else {})

    def tensors(self) -> dict[str, Tensor]:
        """Return all weights, and all that the optimisers remember, by name."""
        return {
            f"{name}/{key}": tensor.contiguous()
            for name, part in self._parts().items()
            for key, tensor in part.state_dict().items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` returned."""
        for name, part in self._parts().items():
            prefix = name + "/"
            part.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})


def saved_states(run_dir: Path) -> list[Path]:
    """Return the folders of the saved states, oldest first."""
    return sorted((run_dir / "state").glob("epoch-*"))


def completed(run_dir: Path) -> tuple[int, int]:
    """Return the epochs completed in ``run_dir``, and the real steps of the first collection: a look from outside.

    Zeros before the first state is saved, or if none can be read.
    """
    for folder in reversed(saved_states(run_dir)):
        with suppress(OSError, RunError, KeyError, TypeError, ValueError):  # pruned meanwhile, or damaged
            facts: Any = _read_json(folder / FACTS)
            return int(facts["facts"]["epoch"]), int(facts["facts"]["first_steps"])
    return 0, 0


def is_finished(run_dir: Path, config: TrainConfig, game: str, seed: int) -> bool:
    """Return whether this very run came to its end in ``run_dir``.

    Raises:
        UsageError: ``run_dir`` holds another run, or something else.
        RunError: what is there was damaged.
    """
    return _is_begun(run_dir, _described(config, game, seed)) and (run_dir / "checkpoint").is_dir()


def open_run(
    run_dir: Path, config: TrainConfig, game: str, seed: int, actions: int | Actions, device: torch.device
) -> TrainState:
    """Begin a run in ``run_dir``, or take up the one that is there from its newest state; close it in the end.

    Raises:
        UsageError: the networks do not fit together; or ``run_dir`` is no run directory, belongs to another
            configuration, game or seed, or is in use by another process; it was not changed.
        RunError: what is there was damaged.
    """
    described = _described(config, game, seed)
    actions = as_actions(actions)
    if not distributed.first():
        state = _make(run_dir, config, game, seed, actions, device, FollowedReplay(run_dir / "replay", actions), None)
        state.share()
        return state
    if not _is_begun(run_dir, described):
        _check_networks(config, actions)
        run_dir.mkdir(parents=True, exist_ok=True)
    lock = lock_run(run_dir)
    try:
        if not _is_begun(run_dir, described):  # again: before it was locked, others may have begun it
            replace_file(run_dir / CONFIG, json.dumps(described, indent=1).encode())
        _clear_litter(run_dir)
        state = _restore(run_dir, config, game, seed, actions, device, lock)
        state.share()
        return state
    except BaseException:
        lock.release()
        raise


@contextmanager
def faults_told(run_dir: Path) -> Iterator[None]:
    """Say in a sentence what the disk refused, and where an interrupted run goes on."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "Make room" if full else "See to it that it can be read and written"
        raise RunError(f"{run_dir}: {error}. {advice}; then {_goes_on(run_dir)}.") from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted; {_goes_on(run_dir)}") from error


def _goes_on(run_dir: Path) -> str:
    newest = saved_states(run_dir)[-1:]
    where = f"from the last completed epoch, {newest[0]}" if newest else "from the beginning: no epoch was completed"
    return f"run the same command again to go on {where}"


def _described(config: TrainConfig, game: str, seed: int) -> dict[str, Any]:
    return {"game": game, "seed": seed, "config": to_json(config)}


def _check_networks(config: TrainConfig, actions: Actions) -> None:
    """Refuse what cannot be built, before anything is written: on the meta device it takes no memory to try it out."""
    k = config.world_model.context_length
    try:
        with torch.device("meta"), torch.no_grad():
            world_model = WorldModel(actions, config.world_model)
            agent = ActorCritic(world_model.frame_shape, actions, config.agent)
            frames = world_model.encode(torch.empty(1, k, *PIXELS_SHAPE, dtype=torch.uint8))
            state = world_model.begin(Context(frames, blanks(actions, 1, k - 1)))
            lane = torch.empty(1, dtype=torch.int64)
            state, _ = world_model.advance(state, blanks(actions, 1), LaneNoise(lane, lane))
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


def _make(
    run_dir: Path,
    config: TrainConfig,
    game: str,
    seed: int,
    actions: Actions,
    device: torch.device,
    replay: Replay,
    lock: RunLock | None,
) -> TrainState:
    """Return the state of a run that has done nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_rng(seed, 0, Purpose.INIT).initial_seed())
        world_model = WorldModel(actions, config.world_model)
        agent = ActorCritic(world_model.frame_shape, actions, config.agent)
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
        replay=replay,
        lock=lock,
    )


def _restore(
    run_dir: Path,
    config: TrainConfig,
    game: str,
    seed: int,
    actions: Actions,
    device: torch.device,
    lock: RunLock,
) -> TrainState:
    folder, facts, replay = _newest(run_dir, actions)
    try:
        state = _make(run_dir, config, game, seed, actions, device, replay, lock)
        if folder is None or facts is None:
            return state
        expected = layouts(state.tensors())
        state.load_tensors(read_tensors(folder / TENSORS, facts.tensors_bytes, facts.tensors_sha256, expected))
    except CheckpointError as error:
        replay.close()
        raise RunError(f"{error} It is not this run's: restore it, or begin in another run directory.") from error
    except BaseException:
        replay.close()
        raise
    state.epoch = facts.epoch
    state.first_steps = facts.first_steps
    state.imagined_steps = facts.imagined_steps
    played = np.array(facts.actions).reshape(-1, *actions.shape).tolist()
    state.collector = Progress(facts.game, played, facts.score)
    state.log_size = facts.log_size
    state.scores = list(facts.scores)
    return state


def _newest(run_dir: Path, actions: Actions) -> tuple[Path | None, _Facts | None, Replay]:
    """Return the newest state that is whole, what it says, and the replay as it was then; an empty one if none is."""
    faults = []
    for folder in reversed(saved_states(run_dir)):
        try:
            facts = _read_facts(folder, actions)
            with (folder / TENSORS).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts.tensors_sha256:
                    raise RunError(f"{folder / TENSORS} was damaged: its SHA-256 is another.")
            replay = Replay(run_dir / "replay", facts.replay_length, facts.replay_checksum, actions)
        except (RunError, OSError) as error:
            faults.append(str(error))
            continue
        for fault in faults:
            logger.warning("%s Going on from the state before it, %s.", fault, folder)
        return folder, facts, replay
    if faults:
        raise RunError(
            f"No state of the run in {run_dir} is whole. {' '.join(faults)} Restore one of them, or delete "
            f"{run_dir / 'state'} to begin the run anew."
        )
    return None, None, Replay(run_dir / "replay", keep=0, actions=actions)


def _read_facts(folder: Path, actions: Actions) -> _Facts:
    path = folder / FACTS
    data = _read_json(path)
    if not isinstance(data, dict) or data.get("sha256") != _digest(data.get("facts")):
        raise RunError(f"{path} was damaged: its SHA-256 is another.")
    try:
        facts = from_json(_Facts, data.get("facts"), str(path))
    except CheckpointError as error:
        raise RunError(str(error)) from error
    numbers = (
        facts.epoch,
        facts.first_steps,
        facts.imagined_steps,
        facts.game + 1,
        facts.log_size,
        facts.replay_length,
    )
    played = np.array(facts.actions, dtype=None if facts.actions else np.int64)
    if played.dtype.kind not in actions.kinds or played.size % math.prod(actions.shape):
        raise RunError(f"{path} holds actions that are not the game's.")
    if min(numbers) < 0 or not actions.allow(played.reshape(-1, *actions.shape)):
        raise RunError(f"{path} holds a number that cannot be.")
    return facts


def _digest(facts: JSON) -> str:
    try:
        return checksum(json.dumps(facts, sort_keys=True).encode())
    except RecursionError as error:
        raise RunError("The facts of a state are nested without end: it was damaged.") from error


def _read_json(path: Path) -> JSON:
    """Return what a file of the run holds.

    Raises:
        RunError: it is damaged.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise RunError(f"{path} is damaged: it has more than {MAX_JSON_BYTES} bytes.")
        return parse(path.read_bytes(), str(path))
    except CheckpointError as error:
        raise RunError(f"{path} is damaged ({error}). Restore it, or begin in another run directory.") from error


def _is_begun(run_dir: Path, described: dict[str, Any]) -> bool:
    """Return whether this very run is there already; raise if ``run_dir`` holds another, or something else."""
    path = run_dir / CONFIG
    if path.exists():
        there = _read_json(path)
        if not isinstance(there, dict) or there.keys() != described.keys():
            raise UsageError(f"{run_dir} holds something else than a run: write another --run-dir.")
        there["config"] = with_defaults(there["config"])
        different = [
            f"{where} (there {shown(theirs)}, asked for {shown(ours)})"
            for where, theirs, ours in differences(there, described)
        ]
        if different:
            raise UsageError(
                f"{run_dir} holds another run; it differs in {'; '.join(different[:5])}. "
                f"Write the same settings to go on with it, or another --run-dir to begin a new run."
            )
        return True
    if run_dir.exists() and not run_dir.is_dir():
        raise UsageError(f"{run_dir} is a file: write another --run-dir.")
    ours = {LOCK, HOLDER, f".{CONFIG}.new"}  # of a run that was killed as it began
    if run_dir.exists() and any(entry.name not in ours for entry in run_dir.iterdir()):
        raise UsageError(f"{run_dir} is not empty and holds no run (no config.json). Write another --run-dir.")
    return False


def _clear_litter(run_dir: Path) -> None:
    """Delete what killed writers left; nobody else is at work."""
    for litter in (*run_dir.glob(".*.new"), *(run_dir / "state").glob(".epoch-*")):
        if litter.is_dir():
            shutil.rmtree(litter)
        else:
            litter.unlink()
