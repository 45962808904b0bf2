"""The whole `python main.py` beside the released code doing the same three trainings.

    python -m benchmarks.main_run --original FOLDER                # a clone of the released DILATE; about 12 minutes
    python -m benchmarks.main_run --original FOLDER --epochs 50    # a first impression

Ours is the command as a user types it, without figures: from its first import to its table, evaluations and
checkpoints included. Of the released code only its training steps count (see benchmarks.step): no import, no
evaluation, its data served as ours are, and as many threads as torch takes by itself. Rounds of both take turns.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from torch import nn

from benchmarks.common import RESULTS, machine, write_csv
from benchmarks.contenders import released_loss
from benchmarks.gru import BATCH, WINDOWS
from benchmarks.step import SERIES, Step, released_step, series

ROOT = Path(__file__).resolve().parent.parent


def our_run(epochs: int) -> float:
    """Seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--epochs", str(epochs), "--no-plots", "--no-show", "--output", str(Path(folder) / "run")]
        begun = time.perf_counter()
        subprocess.run([sys.executable, ROOT / "main.py", *flags], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - begun


def released_trainings(clone: Path) -> list[Step]:
    """The steps of three trainings: one with MSE, two with the sweeps of DILATE; all is compiled."""
    observed, forecast = WINDOWS["synthetic"]
    criteria = [nn.MSELoss(), *[released_loss(clone)] * 2]
    steps = [released_step(clone, forecast, criterion, series(observed, forecast)) for criterion in criteria]
    for step in steps:
        step()
    return steps


def seconds_of(step: Step, epochs: float) -> float:
    """Seconds of so many epochs of a training."""
    begun = time.perf_counter()
    for _ in range(round(epochs * SERIES / BATCH)):
        step()
    return time.perf_counter() - begun


def main() -> None:
    """Run, print, and write results/main_run.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--original", type=Path, metavar="FOLDER", required=True, help="a clone of the released DILATE"
    )
    parser.add_argument("--epochs", type=int, default=500, help="of each training (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="whole runs of ours (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default: %(default)s)")
    args = parser.parse_args()
    print(machine())
    trainings = released_trainings(args.original)
    ours, released = [], []
    for number in range(1, args.rounds + 1):
        released.append(sum(seconds_of(step, args.epochs / args.rounds) for step in trainings))
        ours.append(our_run(args.epochs))
        print(f"round {number}: released {released[-1]:.1f} s for its share, ours {ours[-1]:.1f} s", flush=True)
    whole, median = sum(released), statistics.median(ours)
    print(f"released {whole:.0f} s, ours {median:.1f} s: {whole / median:.1f} times")
    rows = [{"who": "released, steps alone", "seconds": f"{whole:.1f}"}, {"who": "ours", "seconds": f"{median:.1f}"}]
    write_csv(args.output / "main_run.csv", [row | {"epochs": args.epochs, "machine": machine()} for row in rows])


if __name__ == "__main__":
    main()
