"""Shared by the benchmarks: flags, timing in turns, the machine's name, results as CSV and as a picture."""

import csv
import platform
import statistics
import time
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numba
import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
TURN = 0.05  # seconds

Row = dict[str, object]
T = TypeVar("T")


def parser(description: str, seconds: float | None = None, per: str = "size", original: str = "") -> ArgumentParser:
    """A command line with the flags that most benchmarks have: --output, --seconds, --original."""
    made = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    if seconds is not None:
        made.add_argument(
            "--seconds", type=float, default=seconds, help=f"of timing per {per} (default: %(default)s)"
        )
    if original:
        help_text, required = "a clone of the released DILATE", original == "required"
        made.add_argument("--original", type=Path, metavar="FOLDER", required=required, help=help_text)
    made.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER", help="default: %(default)s")
    return made


def use_threads(number: int) -> None:
    """Let torch and numba's parallel loops, in which tslearn and dDTW work, use so many threads.

    Numba goes first: it launches its threads once, by OpenMP, and thereby sets torch's number to that of all cores.
    """
    numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(number)


def machine() -> str:
    """Processor, number of threads, and versions, for the caption of a result."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def in_turns(
    measures: Mapping[str, Callable[[], T]], seconds: float = 0, at_least: int = 1, turn: float = 0
) -> dict[str, list[T]]:
    """Results of measures that take turns, so that all meet the same noise.

    Args:
        measures: Name -> what to call.
        seconds: About how long to go on.
        at_least: Turns of each in any case.
        turn: Seconds until which a quick call is repeated: the first one finds the caches full of another's numbers.
    """
    found: dict[str, list[T]] = {name: [] for name in measures}
    begun, turns = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds or turns < at_least:
        turns += 1
        for name, measure in measures.items():
            start = time.perf_counter()
            found[name].append(measure())
            while time.perf_counter() - start < turn:
                found[name].append(measure())
    return found


def alternate(calls: Mapping[str, Callable[[], object]], seconds: float, at_least: int = 5) -> dict[str, float]:
    """Median time of each call in seconds, taken in turns after a first call to warm up."""
    for call in calls.values():
        call()
    return medians(in_turns({name: partial(duration, call) for name, call in calls.items()}, seconds, at_least, TURN))


def duration(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each list of numbers."""
    return {name: statistics.median(values) for name, values in found.items()}


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
        raise ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def pipes(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first line is its header."""
    header, *others = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *others))


def show(rows: Iterable[Row], width: int, verdicts: Callable[[Row], Iterable[str]] = lambda row: ()) -> None:
    """Print rows in columns of some width, and below each row its verdicts."""
    for row in rows:
        print("  ".join(f"{value!s:>{width}}" for value in row.values()), flush=True)
        for verdict in verdicts(row):
            print(f"{'':>18}{verdict}", flush=True)


def rows_of_others(path: Path, names: Collection[str]) -> list[dict[str, str]]:
    """The rows of a CSV, if it is there, of contenders that are none of these."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if row["contender"] not in names]


def write_csv(path: Path, rows: Sequence[Row], **columns: object) -> None:
    """Write rows that share their keys, and columns that are the same in all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *columns])
        writer.writeheader()
        writer.writerows(row | columns for row in rows)


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
