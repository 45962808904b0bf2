"""Forward and backward of the loss beside an earlier version of it, in turns in one process.

    git worktree add EARLIER COMMIT
    python -m benchmarks.versions --earlier EARLIER --threads 1    # CPU time of one thread
    python -m benchmarks.versions --earlier EARLIER --threads 2    # wall time

Both versions compute the batch mean and its gradient by the prediction, float32, gamma 0.01, after a check that the
gradients agree. Medians; appends to results/versions.csv. Takes about two minutes, on an idle machine.
"""

import csv
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch

import loss
from benchmarks.common import Row, in_turns, loss_and_gradient, machine, medians, parser, relative_error, show
from benchmarks.loss import LONG, SIZES

LOSSES = ("DilateLoss", "SoftDTWLoss")


def load(folder: Path, name: str) -> ModuleType:
    """The package ``loss`` of a clone under another name, so that two can be imported."""
    package = (folder / "loss").resolve()
    spec = spec_from_file_location(name, package / "__init__.py", submodule_search_locations=[str(package)])
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(clock: Callable[[], float], call: Callable[[], object], repeat: int) -> float:
    """Milliseconds of one of several calls."""
    begun = clock()
    for _ in range(repeat):
        call()
    return 1e3 * (clock() - begun) / repeat


def compare(
    name: str, batch: int, horizon: int, versions: dict[str, ModuleType], threads: int, seconds: float
) -> Row:
    """Check that the versions agree, and time them."""
    torch.manual_seed(0)
    x, y = torch.randn(2, batch, horizon, 1)
    calls = {
        version: partial(loss_and_gradient, getattr(package, name)(), x, y) for version, package in versions.items()
    }
    error = relative_error(*(call()[1] for call in calls.values()))
    assert error < 1e-5, error
    clock, repeat = time.thread_time if threads == 1 else time.perf_counter, max(1, 10**6 // (batch * horizon**2))
    found = medians(
        in_turns({version: partial(timed, clock, call, repeat) for version, call in calls.items()}, seconds, 3)
    )
    ratio = found["now"] / found["earlier"]
    row: Row = {"loss": name, "batch": batch, "horizon": horizon, "threads": threads}
    row |= {f"{version}_ms": f"{milliseconds:.4g}" for version, milliseconds in found.items()}
    return row | {"ratio": f"{ratio:.3g}", "error": f"{error:.0e}"}


def main() -> None:
    """Compare, print, write."""
    flags = parser(__doc__, seconds=4.0)
    flags.add_argument("--earlier", type=Path, required=True, metavar="FOLDER", help="a clone at an earlier commit")
    flags.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    versions = {"earlier": load(args.earlier, "earlier_loss"), "now": loss}
    print(machine())
    rows = [
        compare(name, *size, versions, args.threads, args.seconds)
        for name in LOSSES
        for size in ((1, 5), *SIZES, *LONG)
    ]
    show(rows, 11)
    path = args.output / "versions.csv"
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"])
        if new:
            writer.writeheader()
        writer.writerows(row | {"machine": machine()} for row in rows)


if __name__ == "__main__":
    main()
