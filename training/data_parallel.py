"""Data-parallel training over the processes that torchrun starts; a single process is rank 0 of 1.

Beside gradients and buffers, all that the processes exchange goes over the CPU (gloo), wherever the network is.
"""

import gc
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # its functions keep the group of the time of import as a default argument
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from .streams import say


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes of this run, if torchrun started several; rank 0 alone prints from here on."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group()  # without a backend's name: gloo for the CPU, NCCL for CUDA
    try:
        with open(os.devnull, "w", errors="replace") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
            yield
    except RuntimeError as error:
        if not lost_a_process(error):
            raise
        wait_for_rank0_message()
        say(f"Another process of this run is gone, so process {rank()} ends.")
        raise SystemExit(1) from None
    # Not after an error: other processes may be gone, and NCCL would wait for them.
    dist.destroy_process_group()
    # A DDP network is a cycle that keeps the group, and a thread of it that outlives Python aborts the process.
    gc.collect()


def rank() -> int:
    """Number of this process, counted from 0; rank 0 prints and writes."""
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _several() else 1


def wait_for_rank0_message() -> None:
    """Let rank 0 print the error that all processes have, and torchrun then end the others, before they print it."""
    if rank() != 0:
        time.sleep(5)


def parallel(net: nn.Module) -> nn.Module:
    """The network to call in training: its gradients are means over all processes, its weights those of rank 0."""
    if not _several():
        return net
    # The fused GRU gives some gradients transposed; DDP copies them, and would warn of it once in each process.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    device = next(net.parameters()).device
    return DistributedDataParallel(net, [device] if device.type == "cuda" else None)


class ShardedDataset(Dataset):
    """Serves this rank's shard of every batch: of n processes, rank r gets series r, r + n, ...

    ``dataset[indices]`` is the shard, how many of its series count, and how many the whole batch has. Where the shard
    is empty, the first series of the batch counts 0 times: all processes must take part in averaging the gradients.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, indices: list[int]) -> tuple[tuple, int, int]:
        own = indices[rank() :: world_size()]
        return self.dataset[own or indices[:1]], len(own), len(indices)


def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """Sums over the processes, entry by entry, in float64."""
    sums = torch.tensor(values, dtype=torch.float64)
    if _several():
        dist.all_reduce(sums)
    return sums.tolist()


def broadcast_from_rank0(make: Callable[[], object]) -> object:
    """Call ``make`` in rank 0 alone, and return in all processes what it returned."""
    if not _several():
        return make()
    made = [make() if rank() == 0 else None]
    dist.broadcast_object_list(made)
    return made[0]


def gather_round_robin(own: Sequence[object]) -> list[object]:
    """All things, in order, in all processes, of which rank r has r, r + n, ..."""
    shards: list = [None] * world_size()
    if not _several():
        return list(own)
    dist.all_gather_object(shards, own)
    return [shards[i % len(shards)][i // len(shards)] for i in range(sum(map(len, shards)))]


def barrier() -> None:
    """Wait until all processes are here."""
    all_reduce_sum([0.0])


def lost_a_process(error: BaseException) -> bool:
    """True if an error says that another process of this run is gone."""
    of_gloo = _several() and isinstance(error, RuntimeError) and re.search("gloo|NCCL|peer", str(error))
    return isinstance(error, dist.DistNetworkError | dist.DistBackendError) or bool(of_gloo)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
