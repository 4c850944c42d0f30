"""Timing one piece of work in a process of its own, so that its memory is its own; and many of them in turns.

A machine that others use too drifts: what is to be compared runs in alternating repetitions, and every repetition is
followed by a matrix product in the same precision, so that a share of the arithmetic's rate is of that very moment.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from jedi_env.errors import JediEnvError, RunError

_LEAST_SECONDS = 0.2  # of a repetition: short work is done several times in it
_MOST_LOOPS = 1000
_LEAST_REPETITIONS, _MOST_REPETITIONS = 3, 15
_PRODUCT = {"cpu": 1024}  # side of the matrices, where it is not the next
_LARGE_PRODUCT = 8192
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OWN = "RssAnon"  # bytes that are not a file's
_NOT_ENOUGH = ("you tried to allocate", "out of memory")


@dataclass(frozen=True)
class Place:
    """Where and how to compute.

    Attributes:
        device, dtype: names that torch knows.
        compile: compile the world model.
        threads: of torch on the CPU; None: as torch likes.
    """

    device: str
    dtype: str
    compile: bool = False
    threads: int | None = None

    @property
    def precision(self) -> torch.dtype:
        """The arithmetic's."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    def autocast(self) -> torch.autocast:
        """Return the context in which networks compute in that precision."""
        return torch.autocast(self.device.split(":")[0], self.precision, enabled=self.precision != torch.float32)

    def wait(self) -> None:
        """Wait until the device has done all that it was told."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        elif self.device.startswith("mps"):
            torch.mps.synchronize()


@dataclass(frozen=True)
class Job:
    """Work that can be repeated.

    Attributes:
        run: does it once.
        units: what that makes (steps of all lanes; updates, or a share of one).
        noted: what preparing it measured besides.
    """

    run: Callable[[], object]
    units: float = 1.0
    noted: dict[str, float] | None = None


class Workload(Protocol):
    """Something to measure: a frozen dataclass, prepared in the process that runs it."""

    def prepare(self, place: Place) -> Job:
        """Build what it needs."""
        ...


@dataclass(frozen=True)
class Measured:
    """What was measured of a workload.

    Attributes:
        seconds: of one run, a repetition each.
        product: FLOP/s of a matrix product right after each of them.
        flops: of one run, as torch counts them (convolutions, matrix products and attention, not recurrent layers).
        units: that one run makes.
        idle: bytes of the process before it was prepared (0 on a GPU).
        peak: bytes at most, those included.
        noted: see :class:`Job`.
    """

    seconds: tuple[float, ...]
    product: tuple[float, ...]
    flops: float
    units: float
    idle: int
    peak: int
    noted: dict[str, float]

    @property
    def rate(self) -> float:
        """Units a second, the median."""
        return self.units / median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of units a second."""
        low, _, high = quantiles([self.units / s for s in self.seconds], n=4, method="inclusive")
        return low, high

    @property
    def share(self) -> float:
        """FLOP/s as a share of the matrix product's, the median over the repetitions."""
        return median(self.flops / s / p for s, p in zip(self.seconds, self.product, strict=True))

    @property
    def working(self) -> int:
        """Bytes that the work itself needs at most, weights included."""
        return self.peak - self.idle


@dataclass(frozen=True)
class Skipped:
    """What was not measured, and why."""

    reason: str


Outcome = Measured | Skipped


def in_turns(workloads: Sequence[tuple[Workload, Place]], budget: float) -> list[Outcome]:
    """Measure workloads in alternating repetitions.

    Args:
        workloads: each in a process of its own, and where.
        budget: seconds to repeat each for; at least three repetitions are made however long they take.
    """
    with ExitStack() as stack:
        children = [stack.enter_context(_child(_serve, workload, place)) for workload, place in workloads]
        begun = [_received(child) for child in children]
        times: list[list[tuple[float, float]]] = [[] for _ in children]
        while waiting := [i for i, times_i in enumerate(times) if _goes_on(begun[i], times_i, budget)]:
            for i in waiting:
                children[i].send(True)
                times[i].append(_received(children[i]))
        outcomes: list[Outcome] = []
        for child, start, repetitions in zip(children, begun, times, strict=True):
            if isinstance(start, Skipped):
                outcomes.append(start)
                continue
            child.send(False)
            flops, units, idle, noted = start
            seconds, product = zip(*repetitions, strict=True)
            outcomes.append(Measured(seconds, product, flops, units, idle, _received(child), noted))
        return outcomes


def apart(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401  (whatever the function returns)
    """Return what ``function`` returns, called in a process of its own."""
    with _child(_call, function, arguments) as connection:
        return _received(connection)


def process_memory(name: str = "VmHWM") -> int:
    """Return bytes of this process: the most there were in memory, or (VmRSS, RssAnon) those that are."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
        return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, which has no /proc


def timed(run: Callable[[], object], place: Place) -> float:
    """Return how many seconds ``run`` took, on the device too."""
    place.wait()
    start = time.perf_counter()
    run()
    place.wait()
    return time.perf_counter() - start


@contextlib.contextmanager
def _child(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(timeout=10)
        if process.is_alive():
            process.kill()
            process.join()


def _received(connection: Connection) -> Any:  # noqa: ANN401
    try:
        received = connection.recv()
    except EOFError as error:
        raise RunError("A measuring process died; there may not have been enough memory for it.") from error
    if isinstance(received, BaseException):
        raise received
    return received


def _goes_on(begun: object, times: list[tuple[float, float]], budget: float) -> bool:
    if isinstance(begun, Skipped) or len(times) >= _MOST_REPETITIONS:
        return False
    return len(times) < _LEAST_REPETITIONS or sum(seconds for seconds, _ in times) < budget


def _call(connection: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    try:
        connection.send(function(*arguments))
    except JediEnvError as error:
        connection.send(error)


def _serve(connection: Connection, workload: Workload, place: Place) -> None:
    """Run in the child: prepare, say what it is, repeat as told, say how much memory it took."""
    try:
        if place.threads is not None:
            torch.set_num_threads(place.threads)
        product = _Product(place)
        with _counting(place):  # what counting imports is there before memory is looked at
            product.rate()
        idle = _forget_peak(place)
        job = workload.prepare(place)
        with _counting(place) as counter:
            took = timed(job.run, place)
        if took < 1 or place.compile:
            took = min(timed(job.run, place) for _ in range(2))
        loops = min(_MOST_LOOPS, max(1, math.ceil(_LEAST_SECONDS / took)))
        connection.send((counter.get_total_flops(), job.units, idle, job.noted or {}))
        while connection.recv():
            seconds = timed(lambda: [job.run() for _ in range(loops)], place) / loops
            connection.send((seconds, product.rate()))
        connection.send(_peak(place))
    except (MemoryError, RuntimeError, JediEnvError) as error:
        message = str(error)
        if isinstance(error, RuntimeError) and not any(word in message.lower() for word in _NOT_ENOUGH):
            connection.send(RunError(f"{workload}: {message}"))
        else:
            connection.send(Skipped(f"not enough memory: {(message or 'allocation failed').splitlines()[0]}"))
    except (EOFError, BrokenPipeError):  # the parent has given up
        pass


@contextlib.contextmanager
def _counting(place: Place) -> Iterator[FlopCounterMode]:
    """Count FLOPs, without compiling: what is compiled calls no operator that could be counted."""
    eager = torch.compiler.set_stance("force_eager") if place.compile else contextlib.nullcontext()
    with eager, FlopCounterMode(display=False) as counter:
        yield counter


class _Product:
    """A matrix product to compare with."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._side = _PRODUCT.get(place.device, _LARGE_PRODUCT)
        shape = (self._side, self._side)
        self._factors = [torch.randn(shape, device=place.device).to(place.precision) for _ in range(2)]

    def _once(self) -> Tensor:
        return self._factors[0] @ self._factors[1]

    def rate(self) -> float:
        """Return its FLOP/s, the median of five."""
        return 2.0 * self._side**3 / median(timed(self._once, self._place) for _ in range(5))


def _forget_peak(place: Place) -> int:
    """Begin to watch the peak of memory; return the bytes that there are already."""
    if place.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(place.device)
        return int(torch.cuda.memory_allocated(place.device))
    if _CLEAR.exists():
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
        return process_memory("VmRSS")
    return process_memory()


def _peak(place: Place) -> int:
    return int(torch.cuda.max_memory_allocated(place.device)) if place.device.startswith("cuda") else process_memory()
