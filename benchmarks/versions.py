"""Forward and backward of the loss beside an earlier version of it.

    git worktree add EARLIER COMMIT
    python -m benchmarks.versions --earlier EARLIER --threads 1    # CPU time of one thread
    python -m benchmarks.versions --earlier EARLIER --threads 2    # wall time

Both versions compute the batch mean and its gradient by the prediction, float32, gamma 0.01. They take turns in
processes of their own, since OpenMP's idle threads would take the processor from the other version's; medians, of the
turns' medians. Gradients are compared. Appends to results/versions.csv. Takes some minutes, on an idle machine.
"""

import csv
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import in_turns, loss_and_gradient, machine, medians, parser, relative_error, show
from benchmarks.loss import LONG, SIZES

ROOT = Path(__file__).parents[1]
CASES = [(loss, *size) for loss in ("DilateLoss", "SoftDTWLoss") for size in ((1, 5), *SIZES, *LONG)]
TURNS = 5


def load(folder: Path) -> object:
    """The package ``loss`` of a clone, under a name of its own."""
    package, name = (folder / "loss").resolve(), "loss_of_a_version"
    spec = spec_from_file_location(name, package / "__init__.py", submodule_search_locations=[str(package)])
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def duration(clock: Callable[[], float], call: Callable[[], object]) -> float:
    """Seconds of a call."""
    begun = clock()
    call()
    return clock() - begun


def measure(folder: Path, threads: int, seconds: float) -> list[tuple[float, Tensor]]:
    """Median seconds and the gradient of each case, by the version in a folder."""
    torch.set_num_threads(threads)
    package, clock = load(folder), time.thread_time if threads == 1 else time.perf_counter
    found = []
    for loss, batch, horizon in CASES:
        torch.manual_seed(0)
        call = partial(loss_and_gradient, getattr(package, loss)(), *torch.randn(2, batch, horizon, 1))
        _, gradient = call()
        times = in_turns({"": partial(duration, clock, call)}, seconds, at_least=3)
        found.append((medians(times)[""], gradient))
    return found


def main() -> None:
    """Measure in turns, compare, print, write."""
    flags = parser(__doc__, seconds=0.3)
    flags.add_argument("--earlier", type=Path, required=True, metavar="FOLDER", help="a clone at an earlier commit")
    flags.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    args = flags.parse_args()

    def in_new_process(folder: Path) -> list[tuple[float, Tensor]]:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(measure, folder, args.threads, args.seconds).result()

    versions = {"earlier": partial(in_new_process, args.earlier), "now": partial(in_new_process, ROOT)}
    turns = in_turns(versions, at_least=TURNS)
    torch.set_num_threads(args.threads)
    rows = []
    for k, (loss, batch, horizon) in enumerate(CASES):
        milliseconds = medians({name: [1e3 * turn[k][0] for turn in found] for name, found in turns.items()})
        row = {"loss": loss, "batch": batch, "horizon": horizon, "threads": args.threads}
        row |= {f"{name}_ms": f"{value:.4g}" for name, value in milliseconds.items()}
        row["ratio"] = f"{milliseconds['now'] / milliseconds['earlier']:.3g}"
        row["difference"] = f"{relative_error(turns['now'][0][k][1], turns['earlier'][0][k][1]):.0e}"
        rows.append(row)
    print(machine())
    show(rows, 11)
    path = args.output / "versions.csv"
    args.output.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"])
        if new:
            writer.writeheader()
        writer.writerows(row | {"machine": machine()} for row in rows)


if __name__ == "__main__":
    main()
