"""Threads that share the work of a batch, and the memory that each of them works in."""

import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

import numpy as np


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


class Memory(threading.local):
    """Arrays that each thread keeps from call to call: fresh memory costs a page fault every 4 kB."""

    largest = 1 << 23  # bytes; more than that is given back after use

    def __init__(self):
        self._kept = {}

    def take(self, purpose: Hashable, size: int, dtype: np.dtype) -> np.ndarray:
        """At least ``size`` numbers, aligned to a cache line, with anything in them."""
        array = self._kept.get((purpose, dtype))
        if array is None or array.size < size:
            array = _aligned(size, dtype)
            if array.nbytes <= self.largest:
                self._kept[purpose, dtype] = array
        return array


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    line = 64
    raw = np.empty(size * dtype.itemsize + line, np.uint8)
    start = -raw.ctypes.data % line
    return raw[start : start + size * dtype.itemsize].view(dtype)
