"""Threads that share the work of a batch, and the memory that they work in."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

KEPT_BYTES = 1 << 23  # a thread keeps this much memory from call to call: fresh one costs a page fault every 4 kB


class Pool:
    """Helper threads that outlive a call; made anew when more are wanted, and after a fork."""

    def __init__(self):
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self):
        self._lock, self._executor, self._size = threading.Lock(), None, 0

    def submit(self, size, function):
        """Run ``function(k)`` for k from 1 to ``size`` on that many helper threads; returns their futures."""
        with self._lock:
            if self._size < size:
                self._executor = ThreadPoolExecutor(size, thread_name_prefix="dilate")
                self._size = size
            return [self._executor.submit(function, k) for k in range(1, size + 1)]


POOL = Pool()


def on_threads(threads: int, work: Callable[[int], None]) -> None:
    """Call ``work(share)`` for each share from 0 to ``threads - 1``, the first one on this thread."""
    helpers = POOL.submit(threads - 1, work) if threads > 1 else []
    work(0)
    for share, helper in enumerate(helpers, 1):
        if helper.cancel():  # on a busy machine the helper thread may not have come to run
            work(share)
        else:
            helper.result()


class Memory:
    """Memory that each thread keeps from call to call."""

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Give the memory of all threads back."""
        self.of_thread = threading.local()

    def take(self, size: int) -> np.ndarray:
        """So many bytes, from a cache line on, with anything in them."""
        memory = getattr(self.of_thread, "bytes", None)
        if memory is None or memory.size < size + 64:
            memory = np.empty(size + 64, np.uint8)
            if memory.size <= KEPT_BYTES:
                self.of_thread.bytes = memory
        begin = -memory.ctypes.data % 64
        return memory[begin : begin + size]
