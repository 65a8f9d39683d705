"""More than one process: each takes its part of every batch, and gradients are averaged.

`torchrun -m training fit ...` starts them. Gradients, batch statistics and figures are of the whole
batch, so the number of processes changes nothing but rounding; but the masks of dropout are each
process's own, with accumulation batch statistics are of other parts of the batch, and a last batch
of fewer images than processes counts its first image in them once more for each that gets none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from convoy.processors import processor_count
from training.batchnorm import share_batch_norm
from training.errors import TrainingError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""For what one process waits for another: the first decoding of a large data set, at most."""


def local_device() -> torch.device:
    """The GPU that is this process's by its rank on this machine, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """The processes that train together; by default this one alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=local_device)

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes files and talks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` rows; sizes differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes, element by element."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def agree(self, value: T) -> T:
        """The leader's value, in every process."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box)
        agreed: T = box[0]
        return agreed

    @contextmanager
    def local_leader_first(self) -> Iterator[None]:
        """Let one process of a machine do what the others then find done."""
        if self.size > 1 and self.local_rank > 0:
            dist.barrier()
        yield
        if self.size > 1 and self.local_rank == 0:
            dist.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients, batch statistics and first weights in common."""
        if self.size == 1:
            return model
        model = share_batch_norm(model)
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)


def without_sync(network: nn.Module) -> AbstractContextManager[None]:
    """While gradients only add up, for a later step to average; the network may be compiled."""
    no_sync: AbstractContextManager[None] = getattr(network, "no_sync", nullcontext)()
    return no_sync


@contextmanager
def join() -> Iterator[Team]:
    """The team that torchrun's environment names, or a team of one.

    Raises: TrainingError where another process of the team is lost.
    """
    if world_size() == 1:
        yield Team()
        return
    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())
    elif os.environ.get("OMP_NUM_THREADS") == "1":  # what torchrun sets, whatever the machine has
        torch.set_num_threads(max(1, processor_count() // local_size))
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    # A restart may find the same store, where the addresses of lost processes still stand.
    store = dist.PrefixStore(f"start-{restarts()}", store)  # type: ignore[attr-defined]
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        with contact():
            yield Team(rank, size, int(os.environ["LOCAL_RANK"]), local_size)
    finally:
        dist.destroy_process_group()


class LostProcess(TrainingError):
    """Another process of the team does not answer any more."""


@contextmanager
def contact() -> Iterator[None]:
    """Say in one line that another process is lost. Raises: LostProcess."""
    try:
        yield
    except RuntimeError as error:
        # A collective operation has failed, not the computation around it.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise LostProcess(
            f"another process of the training is lost, the last epoch's checkpoint stands: {reason}"
        ) from None


def world_size() -> int:
    """How many processes torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def restarts() -> int:
    """How often torchrun has started processes in place of ones that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
