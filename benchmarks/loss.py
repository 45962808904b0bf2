"""Forward and backward of the loss beside its peers: first do they agree, then time, then memory.

    python -m benchmarks.loss                          # ours, plain PyTorch, tslearn, pysdtw, ddtw if installed
    python -m benchmarks.loss --original FOLDER        # and a clone of the released DILATE

Each contender computes the mean over the batch and its gradient by the prediction, float32, gamma 0.01. Contenders
of one kind (the whole DILATE loss, or its shape term alone) are timed in turns in one process; medians. A
contender whose gradient is wrong is timed all the same, with its error beside it: the released code's gradient is
`batch size` times too large, and is divided by it before it is compared; without a clone of it the results keep its
times of an earlier run, with that run's machine. Ours alone is also timed without a gradient
(kind `value`), and at horizons that are too long for others. benchmarks/memory.py defines the memory of a call.
Takes about four minutes, on a machine that does nothing else.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import (
    Row,
    alternate,
    machine,
    parser,
    plot_lines,
    relative_error,
    rows_of_others,
    show,
    use_threads,
    write_csv,
)
from benchmarks.contenders import KINDS, Loss, contenders, plain_loss, run
from benchmarks.memory import bytes_of_call

SIZES = ((100, 20), (100, 56), (32, 128), (128, 96), (8, 512), (1, 1024))
LONG = ((4, 4096), (1, 10_000))  # for ours
SLOWEST = 400_000  # cells beyond which plain PyTorch is left out: many seconds for one call
BYTES_PER_CELL = 12  # what ours may take


def goal(kind: str, contender: str, batch: int, horizon: int) -> float | None:
    """Milliseconds that our whole loss may take: 3 ns for a cell, 5 where there is one core to use, and 150 us."""
    if (kind, contender) != ("dilate", "ours") or (batch, horizon) not in SIZES:
        return None
    return 1e-6 * (5 if batch == 1 else 3) * batch * horizon**2 + 0.15


def able(losses: dict[str, Loss], batch: int, horizon: int) -> dict[str, Loss]:
    """The contenders that take less than minutes at this size."""
    slow = {"plain PyTorch"} if batch * horizon**2 > SLOWEST else set()
    slow |= losses.keys() - {"ours"} if (batch, horizon) in LONG else set()
    return {name: loss for name, loss in losses.items() if name not in slow}


def errors(kind: str, losses: dict[str, Loss], x: Tensor, y: Tensor) -> dict[str, float]:
    """Relative error of the gradient, or of the value where that is all, against ours in float64."""
    truth = run(kind, losses["ours"], x.double(), y.double())
    if x.shape[0] * x.shape[1] ** 2 <= 1 << 17:  # the truth itself against a program that shares nothing with it
        assert relative_error(truth, run(kind, plain_loss(kind), x.double(), y.double())) < 1e-9
    found = {}
    for name, loss in losses.items():
        too_large = x.shape[0] if name == "released code" else 1
        found[name] = relative_error(run(kind, loss, x, y) / too_large, truth)
    return found


def memory(kind: str, names: list[str], batch: int, horizon: int, original: Path | None) -> dict[str, int | None]:
    """Bytes beyond inputs and outputs, by contender."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(2) as pool:  # most of the time goes into loading and compiling, each in its own process
        found = pool.map(lambda name: bytes_of_call(kind, name, batch, horizon, original, threads), names)
        return dict(zip(names, found, strict=True))


def bench(
    kind: str, losses: dict[str, Loss], batch: int, horizon: int, seconds: float, original: Path | None
) -> list[Row]:
    """Agreement with float64, median times, and memory, of all contenders at one size."""
    torch.manual_seed(0)
    x, y = torch.randn(2, batch, horizon, 1)
    chosen, cells = able(losses, batch, horizon), batch * horizon**2
    wrong = errors(kind, chosen, x, y)
    times = alternate({name: lambda f=f: run(kind, f, x, y) for name, f in chosen.items()}, seconds)
    taken = memory(kind, list(chosen), batch, horizon, original)
    return [
        {
            "kind": kind,
            "batch": batch,
            "horizon": horizon,
            "contender": name,
            "milliseconds": f"{1e3 * t:.4g}",
            "goal_ms": "" if (most := goal(kind, name, batch, horizon)) is None else f"{most:.4g}",
            "ns_per_cell": f"{1e9 * t / cells:.4g}",
            "times_ours": f"{t / times['ours']:.4g}",
            "bytes_per_cell": "" if taken[name] is None else f"{taken[name] / cells:.3g}",
            "error": f"{wrong[name]:.1e}",
        }
        for name, t in times.items()
    ]


def verdicts(row: Row) -> list[str]:
    """Whether ours meets its goals of time and memory."""
    limits = {"milliseconds": row["goal_ms"], "bytes_per_cell": BYTES_PER_CELL if row["kind"] != "value" else ""}
    return [
        f"{what.replace('_', ' ')}: {row[what]}, goal {float(limit):.4g}: "
        f"{'met' if float(row[what]) <= float(limit) else 'MISSED'}"
        for what, limit in limits.items()
        if row["contender"] == "ours" and limit != "" and row[what] != ""
    ]


def draw(path: Path, rows: list[Row]) -> None:
    """Time for a pair of series against the horizon."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        name = f"{row['contender']}, {KINDS[row['kind']]}"
        lines.setdefault(name, []).append((int(row["horizon"]), float(row["milliseconds"]) / int(row["batch"])))
    title = f"forward + backward, float32\n{machine()}"
    plot_lines(path, lines, "horizon", "milliseconds for a pair of series", title)


def main(arguments: list[str] | None = None) -> None:
    """Run, print, and write results/loss.csv and results/loss.png."""
    command_line = parser(__doc__, seconds=4, per="size and kind", original="optional")
    command_line.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    args = command_line.parse_args(arguments)
    if args.threads:
        use_threads(args.threads)
    origin, rows, path = machine(), [], args.output / "loss.csv"
    print(origin)
    for kind in KINDS:
        losses = contenders(kind, args.original)
        for batch, horizon in SIZES if kind == "shape" else SIZES + LONG:
            found = bench(kind, losses, batch, horizon, args.seconds, args.original)
            if not rows:
                print("  ".join(f"{name:>14}" for name in found[0]))
            show(found, 14, verdicts)
            rows += found
    of_ours = {size_of(row): float(row["milliseconds"]) for row in rows if row["contender"] == "ours"}
    rows = [row | {"machine": origin} for row in rows]
    for row in rows_of_others(path, {row["contender"] for row in rows}):
        if size_of(row) in of_ours:
            rows.append(row | {"times_ours": f"{float(row['milliseconds']) / of_ours[size_of(row)]:.4g}"})
    write_csv(path, rows)
    draw(args.output / "loss.png", rows)


def size_of(row: Row) -> tuple[str, int, int]:
    """What a row is about."""
    return row["kind"], int(row["batch"]), int(row["horizon"])


if __name__ == "__main__":
    main()
