"""Forward and backward of the loss beside an earlier version of it.

    git worktree add EARLIER COMMIT
    python -m benchmarks.versions --earlier EARLIER --threads 1    # CPU time of one thread
    python -m benchmarks.versions --earlier EARLIER --threads 2    # wall time

Both versions compute the batch mean and its gradient by the prediction, float32, gamma 0.01; gradients are compared,
times are medians. One thread: in turns in one process. Several: each version in processes of its own, in turns, since
OpenMP's idle threads would take the processor from the other version's. Appends to results/versions.csv. Takes some
minutes, on an idle machine.
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


def load(name: str, folder: Path) -> object:
    """The package ``loss`` of a clone, under a name of its own."""
    package = (folder / "loss").resolve()
    spec = spec_from_file_location(name, package / "__init__.py", submodule_search_locations=[str(package)])
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def duration(clock: Callable[[], float], call: Callable[[], object]) -> float:
    """Seconds of a call."""
    begun = clock()
    call()
    return clock() - begun


def measure(folders: dict[str, Path], threads: int, seconds: float) -> dict[str, list[tuple[float, Tensor]]]:
    """Median seconds and the gradient of each case, by each of some versions in turns."""
    torch.set_num_threads(threads)
    packages = {name: load(f"{name}_loss", folder) for name, folder in folders.items()}
    clock = time.thread_time if threads == 1 else time.perf_counter
    found = {name: [] for name in packages}
    for loss, batch, horizon in CASES:
        torch.manual_seed(0)
        x, y = torch.randn(2, batch, horizon, 1)
        calls = {name: partial(loss_and_gradient, getattr(of, loss)(), x, y) for name, of in packages.items()}
        gradients = {name: call()[1] for name, call in calls.items()}
        times = in_turns({name: partial(duration, clock, call) for name, call in calls.items()}, seconds, at_least=3)
        for name, median in medians(times).items():
            found[name].append((median, gradients[name]))
    return found


def in_new_process(folders: dict[str, Path], threads: int, seconds: float) -> dict[str, list[tuple[float, Tensor]]]:
    """The same in a process that ends with it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, folders, threads, seconds).result()


def main() -> None:
    """Measure in turns, compare, print, write."""
    flags = parser(__doc__, seconds=1.0)
    flags.add_argument("--earlier", type=Path, required=True, metavar="FOLDER", help="a clone at an earlier commit")
    flags.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    args = flags.parse_args()

    versions = {"earlier": args.earlier, "now": ROOT}
    if args.threads == 1:
        turns = [measure(versions, 1, args.seconds)]
    else:
        apart = [{name: folder} for name, folder in versions.items()] * TURNS
        done = [in_new_process(folder, args.threads, args.seconds) for folder in apart]
        turns = [one | other for one, other in zip(done[::2], done[1::2], strict=True)]
    torch.set_num_threads(args.threads)
    rows = []
    for k, (loss, batch, horizon) in enumerate(CASES):
        milliseconds = medians({name: [1e3 * turn[name][k][0] for turn in turns] for name in versions})
        row = {"loss": loss, "batch": batch, "horizon": horizon, "threads": args.threads}
        row |= {f"{name}_ms": f"{value:.4g}" for name, value in milliseconds.items()}
        row["ratio"] = f"{milliseconds['now'] / milliseconds['earlier']:.3g}"
        row["difference"] = f"{relative_error(turns[0]['now'][k][1], turns[0]['earlier'][k][1]):.0e}"
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
