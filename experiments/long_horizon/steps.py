"""Time and memory of a training step: part by part, losses in turns in one process, medians; memory at its peak.

The peak is that of the whole process beyond what it held before the step: see `benchmarks.memory`. It is taken in a
fresh process, which has compiled everything and holds data, weights and the state of Adam.
"""

import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import TURN, Row, in_turns, machine
from benchmarks.memory import RESET, growth
from data import ForecastData, WindowDataset, batches
from loss.kernels import cpu

from .protocol import MODELS, Criterion, Protocol, criterion

PARTS = ("data", "forward", "loss", "backward", "optimizer")
LOSSES = ("mse", "dilate", "dilate per variable")
RELEASED = "released per variable"
ALPHA, GAMMA = 0.5, 1.0  # no part of a step takes a different time with others
AT_LEAST = 3  # turns
M_MMAP_THRESHOLD = -3  # of mallopt: larger blocks come from the system one by one, as benchmarks.memory wants it


class Step:
    """Training steps of one network, one after the other, on batches in random order."""

    def __init__(self, protocol: Protocol, model: str, task: ForecastData, windows: WindowDataset, loss: Criterion):
        self.net, self.loss = protocol.network(model, task), loss
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=protocol.learning_rate)
        self.batches = _endless(windows, protocol.batch_size)

    def __call__(self) -> dict[str, float]:
        """Take a step, and return the seconds of its parts; "loss" is the value and its gradient by the forecast."""
        clock = [time.perf_counter()]
        x, y = next(self.batches)
        clock.append(time.perf_counter())
        prediction = self.net(x)
        clock.append(time.perf_counter())
        (gradient,) = torch.autograd.grad(self.loss(prediction, y), prediction)
        clock.append(time.perf_counter())
        prediction.backward(gradient)
        clock.append(time.perf_counter())
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.append(time.perf_counter())
        return {part: end - start for part, (start, end) in zip(PARTS, pairwise(clock), strict=True)}


def _endless(windows: WindowDataset, batch_size: int) -> Iterator[list[Tensor]]:
    order = torch.Generator().manual_seed(0)
    while True:
        for batch in batches(windows, batch_size, order):
            if len(batch[0]) == batch_size:
                yield batch


def measure(protocol: Protocol, original: Path | None, seconds: float) -> Iterator[list[Row]]:
    """The rows of each horizon and network, timed for so many seconds, as soon as they are there."""
    losses = (*LOSSES, RELEASED) if original is not None else LOSSES
    for horizon in protocol.horizons:
        task = protocol.task(horizon)
        windows = protocol.training_windows(task)
        if len(windows) < protocol.batch_size:
            raise ValueError(f"horizon {horizon} leaves {len(windows)} training windows, less than a batch.")
        for model in MODELS:
            steps = {
                loss: Step(protocol, model, task, windows, criterion(loss, ALPHA, GAMMA, original)) for loss in losses
            }
            times = medians(steps, seconds)
            peaks = {loss: peak(protocol, model, horizon, loss, original) for loss in losses}
            yield [row(model, horizon, loss, times, peaks[loss]) for loss in losses]


def medians(steps: dict[str, Step], seconds: float) -> dict[str, dict[str, float]]:
    """Median seconds of the parts of each step, taken in turns; a quick one is repeated until its turn is over."""
    torch.set_flush_denormal(True)  # as in training
    for step in steps.values():
        step()
    taken = in_turns(steps, seconds, AT_LEAST, TURN)
    torch.set_flush_denormal(False)
    return {
        name: {part: statistics.median(parts[part] for parts in found) for part in PARTS}
        for name, found in taken.items()
    }


def row(model: str, horizon: int, loss: str, times: dict[str, dict[str, float]], peak: int | None) -> Row:
    """One line of the table, in milliseconds and MiB."""
    total = sum(times[loss].values())
    return {
        "model": model,
        "horizon": horizon,
        "loss": loss,
        **{f"{part}_ms": f"{1e3 * times[loss][part]:.4g}" for part in PARTS},
        "step_ms": f"{1e3 * total:.4g}",
        "loss_share": f"{times[loss]['loss'] / total:.3f}",
        "times_mse": f"{total / sum(times['mse'].values()):.3g}",
        "peak_mib": "" if peak is None else f"{peak / 2**20:.4g}",
        "machine": machine(),
    }


def peak(protocol: Protocol, model: str, horizon: int, loss: str, original: Path | None) -> int | None:
    """Bytes at the peak of a step; None where the system does not tell."""
    if not RESET.exists():
        return None
    arguments = protocol, model, horizon, loss, original, torch.get_num_threads()
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_peak_here, arguments)


def _peak_here(protocol: Protocol, model: str, horizon: int, loss: str, original: Path | None, threads: int) -> int:
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    task = protocol.task(horizon)
    windows, objective = protocol.training_windows(task), criterion(loss, ALPHA, GAMMA, original)
    step = Step(protocol, model, task, windows, objective)
    # The step before, which compiles and makes Adam's state, is of one window: it leaves no large array behind.
    whole, step.batches = step.batches, _endless(windows, 1)
    step()
    forecast = torch.randn(protocol.batch_size, horizon, task.output_size, requires_grad=True)
    objective(forecast, torch.randn_like(forecast)).backward()
    del forecast
    step.batches = whole
    cpu.MEMORY.forget()  # ours would find the arrays that it keeps from call to call
    return growth(lambda: torch.tensor(sum(step().values())))
