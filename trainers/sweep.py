"""Many runs on many machines: a Ray task a run.

A run is its directory. A task that was lost, with its process or with its machine, is submitted again, and ``train``
goes on from the last completed epoch that it finds there; so the directories lie on storage that all machines share.
Ray finds a place for each task and tells what became of it. It moves no results and keeps none: what was learned is in
the directories at every moment. This is the one door to Ray.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from jedi_env.device import resolve_device
from jedi_env.errors import JediEnvError, UsageError
from trainers.config import TrainConfig, epochs
from trainers.lock import RunInUseError, read_holder
from trainers.state import completed, is_finished
from trainers.train import train

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise UsageError("A sweep needs Ray: pip install 'jedi-env[cluster]', here and on every machine.") from error

ASIDE = ".sweep"  # beside the runs: their logs, and the signs of sweeps under way
POLL = 1.0  # seconds between two looks at the runs
GRACE = 20.0  # seconds that interrupted runs are given to end by themselves
PATIENCE = 600.0  # seconds without a sign of life from whoever holds a run's lock, until its task gives up
WAIT = 2.0  # seconds between two tries to take it
_STORE = 80 * 2**20  # bytes of Ray's object store on one machine: nothing is put there
_TOLD = 10  # a line is written of each so many parts of a run


@dataclass(frozen=True)
class Job:
    """One run of the sweep.

    Attributes:
        game, seed: as in ``train``.
        run_dir: absolute, the same on all machines.
        config: its settings.
    """

    game: str
    seed: int
    run_dir: Path
    config: TrainConfig


@dataclass(frozen=True)
class Resources:
    """What Ray sets aside for each run.

    Attributes:
        cpus: cores, which are its threads too; a fraction counts as one thread.
        gpus: 0: it runs on the CPU. 0.25: four runs share a GPU (whose memory must hold them all).
    """

    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        job: which.
        attempts: how often it was begun or taken up by this sweep; 0: it was finished before.
        error: why it failed; empty: it did not.
    """

    job: Job
    attempts: int
    error: str = ""


@dataclass(frozen=True)
class _Ended:
    """What a task returns: an error in a sentence, and whether another try would end the same."""

    error: str = ""
    final: bool = False


@dataclass
class _Course:
    """What is known of a run under way.

    Attributes:
        job: which.
        attempts: tasks submitted so far.
        failures: in a row, without a completed epoch in between.
        begun: epochs that were completed when its last task was submitted.
        epoch: completed, when last looked at.
        share: of the run that is done.
        holder: of its lock, when last looked at.
    """

    job: Job
    attempts: int = 0
    failures: int = 0
    begun: int = 0
    epoch: int = 0
    share: float = 0.0
    holder: str = ""


def sweep(jobs: Sequence[Job], resources: Resources, *, retries: int, address: str | None) -> list[Outcome]:
    """Bring all runs to their end; return how each ended, in the order of ``jobs``.

    Args:
        jobs: the runs; their directories have one parent.
        resources: of each.
        retries: how often a run is taken up again that failed, or was lost, without having completed an epoch since.
        address: of the Ray cluster, ``"auto"`` for the one that this machine belongs to; None: a Ray of this machine.

    Raises:
        UsageError: there is no such cluster.
        KeyboardInterrupt: with a sentence that says how to go on.
    """
    outcomes: dict[Path, Outcome] = {}
    courses = []
    for job in jobs:
        try:
            if is_finished(job.run_dir, job.config, job.game, job.seed):
                outcomes[job.run_dir] = Outcome(job, 0)
                continue
        except JediEnvError as error:
            outcomes[job.run_dir] = Outcome(job, 0, str(error))
            continue
        courses.append(_Course(job))
    if courses:
        with _connected(address), _signed(jobs[0].run_dir.parent) as sign, _bar(len(jobs)) as bar:
            _say_resources(bar, resources)
            bar.update(len(outcomes))
            for outcome in _outcomes(courses, resources, retries, sign, bar):
                outcomes[outcome.job.run_dir] = outcome
    return [outcomes[job.run_dir] for job in jobs]


def _outcomes(
    courses: Sequence[_Course], resources: Resources, retries: int, sign: Path, bar: tqdm[Any]
) -> Iterator[Outcome]:
    """Yield the outcomes as they come."""
    # A worker lives for one task: what it kept of a GPU goes with it. Ray's own retries would know nothing of epochs.
    task = ray.remote(max_calls=1, max_retries=0)(_live)

    def submit(course: _Course) -> Any:  # noqa: ANN401 - a reference of Ray's
        course.attempts += 1
        course.begun, _ = completed(course.job.run_dir)
        options = task.options(name=course.job.run_dir.name, num_cpus=resources.cpus, num_gpus=resources.gpus)
        return options.remote(course.job, resources, sign, sys.argv)

    under_way = {submit(course): course for course in courses}
    try:
        while under_way:
            done, _ = ray.wait(list(under_way), num_returns=1, timeout=POLL)
            for reference in done:
                course = under_way.pop(reference)
                ended = _ended(reference)
                _look(course, bar)
                if not ended.error:
                    bar.update(1 - course.share)
                    bar.write(f"{course.job.run_dir.name}: finished", file=sys.stderr)
                    yield Outcome(course.job, course.attempts)
                    continue
                course.failures = 1 if course.epoch > course.begun else course.failures + 1
                if ended.final or course.failures > retries:
                    bar.write(f"{course.job.run_dir.name}: FAILED: {ended.error}", file=sys.stderr)
                    yield Outcome(course.job, course.attempts, ended.error)
                    continue
                bar.write(
                    f"{course.job.run_dir.name}: {ended.error} It goes on after epoch {course.epoch}.", file=sys.stderr
                )
                under_way[submit(course)] = course
            for course in under_way.values():
                _look(course, bar)
            working = sum(bool(course.holder) for course in under_way.values())
            bar.set_postfix_str(f"{working} running, {len(under_way) - working} waiting")
    except KeyboardInterrupt as error:
        _cancel(list(under_way))
        raise KeyboardInterrupt(
            f"interrupted with {len(under_way)} of {len(courses)} runs to go; run the same command again: finished "
            "runs are passed over, and the others go on from their last completed epoch"
        ) from error


def _live(job: Job, resources: Resources, sign: Path, command: list[str]) -> _Ended:
    """What a worker does: the run, from wherever it stands."""
    sys.argv = command  # the run's scores say by which command they were made: not Ray's
    try:
        if not _seen(sign):
            raise UsageError(
                f"{sign.parent.parent} is not on storage that all machines of the cluster share: the machine "
                f"{platform.node()} does not see there what the machine of the sweep wrote. Write a shared --out."
            )
        torch.set_num_threads(max(1, int(resources.cpus)))
        log = sign.parent / f"{job.run_dir.name}.log"
        logging.basicConfig(filename=log, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # the bars: nobody looks
            _train_when_free(job, resolve_device("cuda" if resources.gpus else "cpu"))
    except UsageError as error:
        return _Ended(str(error), final=True)
    except JediEnvError as error:
        return _Ended(str(error))
    return _Ended()


def _train_when_free(job: Job, device: torch.device) -> None:
    """Train, as soon as whoever works in the run directory has left it.

    That is an earlier attempt on a machine that was cut off and lives on, or another sweep. While it gives signs of
    life it is let be: if it comes to the end of the run, nothing is left to do here.
    """
    holder, since = None, time.monotonic()
    while True:
        try:
            train(job.config, job.game, job.seed, job.run_dir, device)
            return
        except RunInUseError:
            now = read_holder(job.run_dir)
            if now != holder:
                holder, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:  # the file system keeps the lock of a machine that died
                raise
            time.sleep(WAIT)


def _seen(sign: Path, tries: int = 15) -> bool:
    """Return whether ``sign`` is there; shared storage may take a while to show it."""
    for _ in range(tries):
        if sign.exists():
            return True
        time.sleep(1)
    return False


def _ended(reference: Any) -> _Ended:  # noqa: ANN401
    """Return how a task ended, what Ray says of it included."""
    try:
        ended: _Ended = ray.get(reference)
        return ended
    except RayTaskError as error:  # no error of ours: a bug, or a worker without this package
        return _Ended(f"{error.cause!r}." if error.cause else str(error))
    except RayError as error:  # its process or machine is gone
        told = str(error).strip().splitlines()
        return _Ended(f"Its task was lost ({type(error).__name__}: {told[0] if told else 'no reason given'}).")


def _look(course: _Course, bar: tqdm[Any]) -> None:
    """See how far a run has come, and write a line if that is news."""
    name = course.job.run_dir.name
    holder = read_holder(course.job.run_dir)
    token = holder.token if holder else ""
    if holder and token != course.holder:
        bar.write(f"{name}: runs as process {holder.who}", file=sys.stderr)
    course.holder = token
    epoch, first_steps = completed(course.job.run_dir)
    if epoch > course.epoch or not course.share:
        planned = epochs(course.job.config, first_steps)
        before, course.epoch, course.share = course.share, epoch, min(1.0, epoch / planned)
        bar.update(course.share - before)
        if int(course.share * _TOLD) > int(before * _TOLD):
            bar.write(f"{name}: epoch {epoch} of {planned}", file=sys.stderr)


def _cancel(references: list[Any]) -> None:
    """Interrupt the tasks; what does not end soon is ended with the connection."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references), timeout=GRACE)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a Ray started here: nobody asked for reports to be sent
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        if address is None:
            ray.init("local", include_dashboard=False, object_store_memory=_STORE, **quiet)
        else:
            if named := re.fullmatch(r"([^:/]+):(\d+)", address):  # Ray itself would ask again for minutes
                socket.create_connection((named[1], int(named[2])), timeout=GRACE).close()
            ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        raise UsageError(
            f"No Ray cluster could be reached at {address or 'this machine'!r} ({error}). Start one with `ray start "
            "--head`, write its address as host:port, or leave out --address for a Ray of this machine alone."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _signed(folder: Path) -> Iterator[Path]:
    """Leave a sign in ``folder``, by which a worker knows that it sees the same storage."""
    aside = folder / ASIDE
    aside.mkdir(parents=True, exist_ok=True)
    sign = aside / uuid.uuid4().hex
    sign.touch()
    try:
        yield sign
    finally:
        sign.unlink(missing_ok=True)


def _bar(total: int) -> tqdm[Any]:
    layout = "{desc}: {percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]"
    return tqdm(total=total, desc=f"{total} runs", bar_format=layout, dynamic_ncols=True, mininterval=0.5)


def _say_resources(bar: tqdm[Any], resources: Resources) -> None:
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in alive]
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    bar.write(f"Ray: {len(nodes)} machines, {total['CPU']:g} CPUs, {total['GPU']:g} GPUs", file=sys.stderr)
    if total["GPU"] and not resources.gpus:
        bar.write("The GPUs are left idle: write --gpus 1, or a fraction for several runs a GPU.", file=sys.stderr)
    if not any(node.get("CPU", 0) >= resources.cpus and node.get("GPU", 0) >= resources.gpus for node in nodes):
        bar.write(
            f"No machine has {resources.cpus:g} CPUs and {resources.gpus:g} GPUs now: the runs wait for one.",
            file=sys.stderr,
        )
