"""Threads that share the work of a batch, and the memory that they work in."""

import ctypes
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor


class _Pool:
    """Helper threads that outlive a call; made anew when more are wanted, and after a fork."""

    def __init__(self):
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self):
        self._lock, self._executor, self._size = threading.Lock(), None, 0

    def submit(self, size, function):
        """Run ``function`` on each of ``size`` helper threads; returns their futures."""
        with self._lock:
            if self._size < size:
                self._executor = ThreadPoolExecutor(size, thread_name_prefix="dilate")
                self._size = size
            return [self._executor.submit(function) for _ in range(size)]


_pool = _Pool()


def on_threads(threads: int, work: Callable[[], None]) -> None:
    """Call ``work``, which does what is left, on this thread and, as they come to it, on ``threads - 1`` others."""
    helpers = _pool.submit(threads - 1, work) if threads > 1 else []
    work()
    for helper in helpers:
        if not helper.cancel():  # on a busy machine it may not have come to run, and nothing is left to do
            helper.result()


class _Team:
    """The OpenMP threads that PyTorch's own operators run on, where it has brought them as GNU's library.

    They wait for work without sleeping, for some milliseconds: a share of it reaches them within a microsecond, and
    a thread of Python's, which also has to get hold of the interpreter, after a hundred.
    """

    def __init__(self):
        self.parallel = None
        for library in Path(torch.__file__).parent.glob("lib/libgomp*.so*"):
            self.parallel = ctypes.CDLL(str(library)).GOMP_parallel
            self.parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            self.parallel.restype = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self):
        self.parallel = None  # a child has none of the threads that its parent's library believes in


_team = _Team()


def run(threads: int, function: Callable[[int], None], argument: int) -> None:
    """Call a C function on this thread and on ``threads - 1`` others, which share the work that its argument says."""
    if threads == 1:
        function(argument)
    elif _team.parallel:
        _team.parallel(function, argument, threads, 0)
    else:
        on_threads(threads, lambda: function(argument))


class Memory(threading.local):
    """Memory that each thread keeps from call to call: fresh one costs a page fault every 4 kB."""

    largest = 1 << 23  # bytes; more than that is given back after use

    def __init__(self):
        self._kept = {}

    def take(self, purpose: Hashable, size: int, dtype: torch.dtype) -> Tensor:
        """At least ``size`` numbers, aligned to a cache line, with anything in them."""
        memory = self._kept.get((purpose, dtype))
        if memory is None or memory.numel() < size:
            memory = torch.empty(size, dtype=dtype, device="cpu")
            if memory.nbytes <= self.largest:
                self._kept[purpose, dtype] = memory
        return memory
