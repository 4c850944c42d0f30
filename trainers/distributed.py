"""One run on several processes, begun by ``torchrun``: each has a share of every batch, all have the same weights.

Every process draws the same whole batches, seeds and noise from the same generators, and computes on its share of them;
the gradients are summed before they are clipped. So N processes do what one does, but for the rounding of sums, and a
run may go on with another N. The first process alone plays the real game and writes; the others follow its replay.
Without ``torchrun`` everything here is a no-op.

Not torch's ``DistributedDataParallel``: it averages over processes, where shares of a masked mean must be weighed by
their counts, and it wraps ``forward``, where the losses here are methods of several modules.
"""

from __future__ import annotations

import os
import signal
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jedi_env.device import resolve_device
from jedi_env.errors import JediEnvError, RunError, UsageError
from jedi_env.share import WHOLE, Share

# The others wait as long as the first plays or evaluates. A process that dies is noticed at once, by its connections.
PATIENCE = timedelta(days=1)


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started, if it did, and yield this one's device.

    Args:
        device: as for one process; of several, each has the GPU of its local rank.

    Raises:
        UsageError: there is no such device, or not one for each process.
        RunError: another process of the run was lost.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield resolve_device(device)
        return
    place = _own_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    if not first() and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):  # with nothing to save, end even while waiting for the others
            signal.signal(number, signal.SIG_DFL)
    with losses_told():
        yield place
    dist.destroy_process_group()


@contextmanager
def losses_told() -> Iterator[None]:
    """Say in a sentence that another process was lost.

    Raises:
        RunError: it was.
    """
    try:
        yield
    except JediEnvError:
        raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise RunError(
            "Another process of this run was lost. What was completed is kept: run the same command again to go on "
            "from the last completed epoch."
        ) from error


def world() -> int:
    """Return how many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first() -> bool:
    """Return whether this is the process that plays and writes."""
    return world() == 1 or dist.get_rank() == 0


def share(batch: int, name: str) -> Share:
    """Return this process's share of ``batch`` samples.

    Raises:
        UsageError: there are more processes than samples; ``name`` is the setting's.
    """
    if world() == 1:
        return WHOLE
    if batch < world():
        raise UsageError(f"{world()} processes cannot share a batch of {batch}: write fewer, or a larger {name}.")
    return _RankShare(batch, dist.get_rank(), world())


def totals(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return scalars summed over the processes, without gradient."""
    detached = {name: value.detach() for name, value in values.items()}
    if world() == 1:
        return detached
    summed = torch.stack([value.float() for value in detached.values()])
    dist.all_reduce(summed)
    return dict(zip(values, summed.unbind(), strict=True))


def sum_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Sum the parameters' gradients over the processes, in place; return the sum of ``loss``."""
    if world() == 1:
        return loss.detach()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    bucket = torch.cat([loss.detach().float().reshape(1), *(gradient.flatten() for gradient in gradients)])
    dist.all_reduce(bucket)
    total, *sums = bucket.split([1, *(gradient.numel() for gradient in gradients)])
    for gradient, summed in zip(gradients, sums, strict=True):
        gradient.copy_(summed.view_as(gradient))
    summed_loss: Tensor = total[0]
    return summed_loss


def numbers_of_first(*numbers: int) -> tuple[int, ...]:
    """Return the first process's ``numbers`` to all; who comes early waits."""
    if world() == 1:
        return numbers
    told = torch.tensor(numbers)
    dist.broadcast(told, 0)
    return tuple(told.tolist())


def tensors_of_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the first process's ``tensors`` to all, on the CPU; they have the same names and shapes everywhere."""
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    if world() > 1:
        for name in sorted(copies):
            dist.broadcast(copies[name], 0)
    return copies


def check_equal(tensors: Iterable[Tensor]) -> None:
    """Do nothing if all processes have the same ``tensors``, to the bit.

    Raises:
        RunError: they have not, as where machines of several kinds compute together.
    """
    if world() == 1:
        return
    crc = 0
    for tensor in tensors:
        crc = zlib.crc32(tensor.detach().cpu().contiguous().numpy().tobytes(), crc)
    extremes = torch.tensor([crc, -crc])
    dist.all_reduce(extremes, dist.ReduceOp.MAX)
    if extremes[0] != -extremes[1]:
        raise RunError(
            "The processes' weights have come apart, and nothing of this epoch was saved: let machines of one kind, "
            "with one version of torch, share a run."
        )


class _RankShare(Share):
    """The share of process ``rank`` of ``size`` in ``batch`` samples; a sample may be several rows."""

    def __init__(self, batch: int, rank: int, size: int) -> None:
        begin, end = batch * rank // size, batch * (rank + 1) // size
        self.span = slice(begin, end)
        self._begin, self._own, self._batch = begin, end - begin, batch

    def normal(self, shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
        whole = torch.randn((self._batch, *shape[1:]), generator=generator, device=generator.device)
        return whole[self.span]

    def padded(self, x: Tensor) -> Tensor:
        whole = x.new_zeros((self._batch, *x.shape[1:]))
        whole[self.span] = x
        return whole

    def part(self, mean: Tensor) -> Tensor:
        return mean * (self._own / self._batch)

    def total(self, x: Tensor) -> Tensor:
        return _summed(x.detach())

    def std_mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = len(x) // self._own * self._batch
        mean = _sum(x.sum(dim=0)) / rows
        variance = _sum((x - mean).square().sum(dim=0)) / rows
        # What never varies has no direction to vary in: no gradient, as in torch.
        return variance.clamp(min=torch.finfo(x.dtype).tiny).sqrt(), mean

    def gathered(self, x: Tensor) -> Tensor:
        each = len(x) // self._own
        gathered: Tensor = _Gather.apply(  # type: ignore[no-untyped-call]
            x, each * self._begin, each * self._batch
        )
        return gathered


class _Sum(torch.autograd.Function):
    """The sum over the processes, of which all losses are functions: so the gradient is summed likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return _summed(gradient)


class _Gather(torch.autograd.Function):
    """All processes' rows; each process has the gradient of its own, of a loss that is the same in all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: int, rows: int) -> Tensor:  # noqa: ANN401
        ctx.own = slice(start, start + len(x))
        whole = x.new_zeros((rows, *x.shape[1:]))
        whole[ctx.own] = x
        return _summed(whole)  # zeros in the others' places: shares may be of different lengths

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return gradient[ctx.own], None, None


def _sum(x: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return summed


def _summed(x: Tensor) -> Tensor:
    summed = x.clone(memory_format=torch.contiguous_format)  # sums go by memory, whose layout may differ
    dist.all_reduce(summed)
    return summed


def _own_device(device: str) -> torch.device:
    place = resolve_device(device)
    if place.type == "cpu":
        return place
    if place.type != "cuda" or device not in ("auto", "cuda"):
        raise UsageError(f"--device is {device}, but several processes share this run: write auto, cuda or cpu.")
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise UsageError(f"There are fewer GPUs ({there}) here than processes: write --nproc-per-node {there}.")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
