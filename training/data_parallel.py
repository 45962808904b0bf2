"""Data-parallel training over the processes that torchrun starts: who they are, and what they tell each other.

Everything here also works in a process of its own, which is rank 0 of 1. What the processes tell each other beside
gradients goes over the CPU (gloo), wherever the network is.
"""

import gc
import importlib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from .streams import say

__all__ = [
    "Shares",
    "agreed",
    "barrier",
    "dealt",
    "is_first",
    "let_the_first_speak",
    "local_processes",
    "local_rank",
    "lost_a_process",
    "parallel",
    "process_group",
    "processes",
    "rank",
    "total",
]

T = TypeVar("T")

SECONDS_TO_SPEAK = 5


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes of this run, if torchrun started several: only the first of them prints from here on.

    Raises:
        SystemExit: 1, after a sentence, if another process is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    # DDP imports it, and where there is a group by then, its functions keep that as a default argument for ever.
    importlib.import_module("torch.distributed.nn.functional")
    # Without a name: gloo for what is on the CPU, NCCL for what is on CUDA.
    dist.init_process_group()
    with (
        open(os.devnull, "w", encoding="utf-8", errors="replace") as nowhere,
        nullcontext() if is_first() else redirect_stdout(nowhere),
    ):
        try:
            yield
        except RuntimeError as error:
            if not lost_a_process(error):
                raise
            let_the_first_speak()
            say(f"Another process of this run is gone, so process {rank()} ends.")
            raise SystemExit(1) from None
    # Not after an error: the others may be gone, and NCCL would wait for them.
    dist.destroy_process_group()
    # Networks of DDP are cycles that keep the group, and a thread of it that outlives Python aborts the process.
    gc.collect()


def rank() -> int:
    """Number of this process, counted from 0."""
    return dist.get_rank() if _several() else 0


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _several() else 1


def is_first() -> bool:
    """True in the process that prints and writes."""
    return rank() == 0


def let_the_first_speak() -> None:
    """Wait, unless this is the first process, for that one to say what all came to and torchrun to end the rest."""
    if not is_first():
        time.sleep(SECONDS_TO_SPEAK)


def local_rank() -> int:
    """Number of this process on its machine, counted from 0: which of the machine's GPUs is its own."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _several() else 0


def local_processes() -> int:
    """How many processes train together on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _several() else 1


def parallel(net: nn.Module) -> nn.Module:
    """The network, with gradients that are the means over all processes: call this one to train.

    Weights and their names stay the network's own. All processes start from those of the first.
    """
    if not _several():
        return net
    # The fused GRU gives some gradients transposed; DDP copies them, and would warn of it once in each process.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    device = next(net.parameters()).device
    return DistributedDataParallel(net, [device] if device.type == "cuda" else None)


class Shares(Dataset):
    """Serves of every batch the share of this process: every n-th series of it, for n processes.

    Where a batch has fewer series than there are processes, those without a share get its first one, to be counted 0
    times: they must still take part in the averaging of the gradients.

    Args:
        dataset: Dataset that serves ``dataset[indices]`` as a batch ``(input, target, ...)``.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, indices: list[int]) -> tuple[tuple, int, int]:
        """The share of a batch, how many of its series count, and how many the whole batch has."""
        own = indices[rank() :: processes()]
        return self.dataset[own or indices[:1]], len(own), len(indices)


def total(values: Sequence[float]) -> list[float]:
    """Sums over the processes, entry by entry."""
    if not _several():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def agreed(make: Callable[[], T]) -> T:
    """What the first process makes, in all processes; the others only wait for it."""
    if not _several():
        return make()
    made = [make() if is_first() else None]
    dist.broadcast_object_list(made)
    return made[0]


def dealt(own: Sequence[T]) -> list[T]:
    """All things, in order, where each process has every n-th of them: the i-th is that of rank ``i % n``."""
    if not _several():
        return list(own)
    of_all: list = [None] * processes()
    dist.all_gather_object(of_all, own)
    count = sum(map(len, of_all))
    return [of_all[i % processes()][i // processes()] for i in range(count)]


def barrier() -> None:
    """Wait until all processes are here."""
    total([0.0])


def lost_a_process(error: BaseException) -> bool:
    """True if an error says that another process of this run is gone."""
    if isinstance(error, dist.DistNetworkError | dist.DistBackendError):
        return True
    # gloo raises nothing more special than a RuntimeError.
    return _several() and isinstance(error, RuntimeError) and re.search("gloo|NCCL|peer", str(error)) is not None


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
