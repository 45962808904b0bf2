"""What the benchmarks share: fair timing, the machine's name, results as CSV and as a picture."""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
TURN = 0.05  # seconds


def machine() -> str:
    """Processor, number of threads, and versions, for the caption of a result."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def alternate(calls: dict[str, Callable[[], object]], seconds: float, at_least: int = 5) -> dict[str, float]:
    """Median time of each call in seconds: one after the other, in turns, so that all meet the same noise.

    A quick call is repeated until its turn is over: the first one finds the caches full of another's numbers.

    Args:
        calls: Name -> what to time; each is called once before, to warm up.
        seconds: About how long to go on.
        at_least: Turns of each in any case.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    begun, turns = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds or turns < at_least:
        turns += 1
        for name, call in calls.items():
            times[name] += _turn(call)
    return {name: statistics.median(values) for name, values in times.items()}


def _turn(call: Callable[[], object]) -> list[float]:
    """Times of one call, or of as many as begin within ``TURN``."""
    begun = start = time.perf_counter()
    times = []
    while not times or start - begun < TURN:
        call()
        end = time.perf_counter()
        times.append(end - start)
        start = end
    return times


def loss_and_gradient(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Value of a loss and its gradient by the prediction."""
    leaf = x.detach().requires_grad_()
    value = loss(leaf, y)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def relative_error(ours: Tensor, truth: Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    return ((ours.double() - truth.double()).abs().max() / truth.abs().max()).item()


def count(text: str) -> int:
    """A flag's whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def pipes(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first line is its header."""
    header, *others = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *others))


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write rows that share their keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def plot_lines(
    path: Path,
    lines: dict[str, Iterable[tuple[float, float]]],
    xlabel: str,
    ylabel: str,
    title: str,
    log: bool = True,
) -> None:
    """Draw named lines of (x, y) points; on logarithmic axes the slope of each is in the legend."""
    import numpy as np
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(9, 4.5), layout="constrained")).add_subplot()
    for name, points in lines.items():
        x, y = np.array(sorted(points)).T
        slope = f" (slope {np.polyfit(np.log(x), np.log(y), 1)[0]:.2f})" if log and len(x) > 1 else ""
        axes.plot(x, y, marker="o", label=name + slope)
    if log:
        axes.set(xscale="log", yscale="log")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=100)
