"""The whole `python main.py` beside the released code doing the same three trainings.

    python -m benchmarks.main_run --original FOLDER                # a clone of the released DILATE; about 9 minutes
    python -m benchmarks.main_run --original FOLDER --epochs 50    # a first impression

Ours is the command as a user types it, without figures: from its first import to its table, evaluations and
checkpoints included. Of the released code only the training loops count, without imports and evaluations, once all is
compiled: the steps of benchmarks.step, on as many threads as torch takes by itself. Its batches come from a process
that starts anew for every epoch, and that takes a core from torch's threads; so it is timed with batches served as
ours are, too. The released code trains for 25 epochs in each round, from which the time of all is reckoned. Rounds of
all contenders take turns.
"""

import subprocess
import sys
import tempfile
import time
from itertools import chain, repeat
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.common import duration, machine, medians, parser, write_csv
from benchmarks.contenders import released_loss
from benchmarks.gru import BATCH, WINDOWS
from benchmarks.step import SERIES, Batches, Step, released_step, series
from data.windows import WindowDataset

ROOT = Path(__file__).resolve().parent.parent
OBSERVED, FORECAST = WINDOWS["synthetic"]
RELEASED_EPOCHS = 25  # of each training in each round


def our_run(epochs: int) -> float:
    """Seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--epochs", str(epochs), "--no-plots", "--no-show", "--output", str(Path(folder) / "run")]
        command = [sys.executable, ROOT / "main.py", *flags]
        return duration(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))


def released_batches() -> Batches:
    """Batches as the released code gets them, for ever."""
    windows = WindowDataset(torch.randn(SERIES, OBSERVED, 1), torch.randn(SERIES, FORECAST, 1))
    return chain.from_iterable(repeat(DataLoader(windows, BATCH, shuffle=True, num_workers=1)))


def released_trainings(clone: Path, served: Batches) -> list[Step]:
    """The steps of three trainings: one with MSE, two with the sweeps of DILATE; all is compiled."""
    criteria = [nn.MSELoss(), *[released_loss(clone)] * 2]
    steps = [released_step(clone, FORECAST, criterion, served) for criterion in criteria]
    for step in steps:
        step()
    return steps


def released_run(steps: list[Step], epochs: int) -> float:
    """Seconds of so many epochs of the trainings."""
    begun = time.perf_counter()
    for step in steps:
        for _ in range(RELEASED_EPOCHS * SERIES // BATCH):
            step()
    return (time.perf_counter() - begun) * epochs / RELEASED_EPOCHS


def main() -> None:
    """Run, print, and write results/main_run.csv."""
    command_line = parser(__doc__, original="required")
    command_line.add_argument("--epochs", type=int, default=500, help="of each training (default: %(default)s)")
    command_line.add_argument("--rounds", type=int, default=4, help="default: %(default)s")
    args = command_line.parse_args()
    print(machine())
    as_it_is = released_trainings(args.original, released_batches())
    served_as_ours = released_trainings(args.original, series(OBSERVED, FORECAST))
    runs = {
        "ours": lambda: our_run(args.epochs),
        "released, its batches served as ours": lambda: released_run(served_as_ours, args.epochs),
        "released": lambda: released_run(as_it_is, args.epochs),
    }
    times = {who: [] for who in runs}
    for _ in range(args.rounds):
        for who, run in runs.items():
            times[who].append(run())
            print(f"{who}: {times[who][-1]:.1f} s", flush=True)
    median = medians(times)
    rows = [
        {"who": who, "seconds": f"{seconds:.1f}", "times_ours": f"{seconds / median['ours']:.2f}"}
        for who, seconds in median.items()
    ]
    for row in rows:
        print(f"{row['who']}: {row['seconds']} s, {row['times_ours']} times ours")
    write_csv(args.output / "main_run.csv", rows, epochs=args.epochs, machine=machine())


if __name__ == "__main__":
    main()
