"""When data-parallel training pays: a training step of one process and of several, by model and batch size.

    python -m benchmarks.data_parallel                  # half an hour on an idle machine; results/data_parallel.csv
    python -m benchmarks.data_parallel --hidden 128 --batch 100 --turns 1

A step is that of `training.train_model` on 20 -> 20 steps with DILATE, float32, on the CPU (gloo): forecast, loss,
gradients, their averaging, Adam. The contenders are one process of one thread, one process of as many threads as
there are processes, and the processes, of one thread each. They run one after the other, in turns; medians over the
turns. The speed-up is over the better one of the first two. The first epoch of each measurement is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from itertools import product

import torch

from benchmarks.common import in_turns, machine, medians, parser, write_csv
from data.windows import WindowDataset
from loss import DilateLoss
from models import build_model
from training import data_parallel, train_model

STEPS = 20  # of a series, observed and forecast
HIDDEN, BATCH = (128, 256, 512, 1024), (100, 200, 400, 800, 1600)


def seconds_per_step(hidden: int, batch: int, steps: int) -> float:
    """Of a network with that many units, at that global batch."""
    torch.manual_seed(0)
    series = torch.rand(steps * batch, 2 * STEPS, 1)
    data = WindowDataset(series[:, :STEPS], series[:, STEPS:])
    net = build_model("seq2seq", input_length=STEPS, horizon=STEPS, hidden_size=hidden, gru="fused")
    options = {"epochs": 2, "eval_every": 1, "print_every": 0, "batch_size": batch}
    first, last = train_model(net, DilateLoss(), data, None, **options)
    return (last["seconds"] - first["seconds"]) / steps


def measure(args: argparse.Namespace, processes: int, threads: int) -> list[float]:
    """Start a contender, and return its time of each cell in seconds."""
    sizes = ["--hidden", *args.hidden, "--batch", *args.batch, "--steps", args.steps, "--threads", threads]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command = [str(word) for word in (*launcher, "-m", "benchmarks.data_parallel", "--worker", *sizes)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(finished.stdout)


def work(args: argparse.Namespace) -> None:
    """Run one process of a contender, of which the first prints the times."""
    torch.set_num_threads(args.threads)
    with data_parallel.process_group():
        print(json.dumps([seconds_per_step(*cell, args.steps) for cell in product(args.hidden, args.batch)]))


def main() -> None:
    """Run, print, and write results/data_parallel.csv."""
    add = (command_line := parser(__doc__)).add_argument
    add("--hidden", type=int, nargs="+", default=HIDDEN, help="units (default: %(default)s)")
    add("--batch", type=int, nargs="+", default=BATCH, help="series (default: %(default)s)")
    add("--processes", type=int, default=2, help="to compare with one (default: %(default)s)")
    add("--steps", type=int, default=3, help="that a time is the mean of (default: %(default)s)")
    add("--turns", type=int, default=3, help="that the median is of (default: %(default)s)")
    add("--threads", type=int, default=1, help=argparse.SUPPRESS)
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    args = command_line.parse_args()
    if args.worker:
        work(args)
        return
    n = args.processes
    contenders = {"one": (1, 1), f"one_{n}_threads": (1, n), f"{n}_processes": (n, 1)}
    measures = {name: partial(measure, args, *sizes) for name, sizes in contenders.items()}
    taken = in_turns(measures, at_least=args.turns)  # name -> turn -> time of each cell
    rows = []
    for number, (hidden, batch) in enumerate(product(args.hidden, args.batch)):
        times = medians({name: [turn[number] for turn in turns] for name, turns in taken.items()})
        row = {"hidden": hidden, "batch": batch}
        row |= {f"{name}_ms": f"{1e3 * time:.4g}" for name, time in times.items()}
        *others, several = times.values()
        row["speed_up"] = f"{min(others) / several:.3g}"
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        rows.append(row)
    write_csv(args.output / "data_parallel.csv", rows, machine=machine())


if __name__ == "__main__":
    main()
