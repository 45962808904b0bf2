"""Forward and backward of the loss on a GPU beside its peers: first do they agree, then time, then memory.

    python -m benchmarks.cuda                          # ours, and pysdtw if installed
    python -m benchmarks.cuda --peer FILE              # and a file with a class SoftDTW(use_cuda=True, gamma=...)

Each contender computes the mean over the batch and its gradient by the prediction, float32, gamma 0.01: the whole
DILATE loss, or its shape term alone, which is all that others have. Times are between CUDA events, in turns, medians;
"ours, captured" is the same call in a CUDA graph, without what Python takes to launch it. Memory is what torch's
allocator has at most beyond inputs, so of what a contender allocates by numba nothing is seen. A contender whose
gradient is wrong is timed all the same, with its error beside it; one that fails is left out, and why is said.
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import Row, in_turns, medians, parser, relative_error, show, write_csv
from benchmarks.contenders import ALPHA, GAMMA, Loss, mean_of, peers, run
from loss import DilateLoss, SoftDTWLoss
from loss.kernels import has_kernels

DEVICE = torch.device("cuda")
GOALS = {(100, 20, 1): 0.04, (128, 96, 1): 0.15, (32, 512, 1): 0.8, (256, 720, 1): 4.0}  # DILATE's milliseconds
SIZES = (*GOALS, (32, 512, 64), (1, 10_000, 1))  # batch, horizon, variables
MEGABYTES = {(32, 512, 64): 230}  # that ours may take
FASTER = 10  # times that ours must be faster than anybody else
LONGEST = 1024  # of what others are asked for: some go on on the CPU beyond that, for minutes

Call = Callable[[], Tensor]


def machine() -> str:
    """GPU, driver's CUDA and versions."""
    from importlib.metadata import version

    return (
        f"{torch.cuda.get_device_name(DEVICE)}, CUDA {torch.version.cuda}, torch {torch.__version__}, "
        f"numba-cuda {version('numba-cuda')}"
    )


# ----------------------------------------------------------------------- contenders


def contenders(kind: str, files: list[Path]) -> dict[str, Loss]:
    """Name -> the mean loss of every contender with a kernel for it, ours first."""
    if kind == "dilate":
        return {"ours": DilateLoss(ALPHA, GAMMA)}
    found = {name: make(GAMMA) for name, make in peers(cuda=True).items()}
    found |= {path.stem: mean_of(class_of(path)(use_cuda=True, gamma=GAMMA)) for path in files}
    return {"ours": SoftDTWLoss(GAMMA), **found}


def class_of(path: Path) -> type:
    """The class ``SoftDTW`` of a file."""
    if not path.is_file():
        raise SystemExit(f"--peer must be a Python file, but there is no {path}.")
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "SoftDTW"):
        raise SystemExit(f"--peer must be a file with a class SoftDTW, but {path} has none.")
    return module.SoftDTW


def captured(call: Call) -> Call:
    """The same call as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


# ----------------------------------------------------------------------- measurements


def milliseconds(call: Call) -> float:
    """Time of a call on the GPU, whatever it waits for there."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def megabytes(call: Call) -> float:
    """Torch's allocations at their peak during a call, beyond those before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def bench(kind: str, losses: dict[str, Loss], size: tuple[int, int, int], seconds: float) -> list[Row]:
    """Agreement with the CPU in float64, median times, and memory, of all contenders at one size."""
    batch, horizon, variables = size
    torch.manual_seed(0)
    x, y = torch.randn(2, batch, horizon, variables)
    on_device = x.to(DEVICE), y.to(DEVICE)
    truth = run(kind, losses["ours"], x.double(), y.double())
    calls, wrong, taken = {}, {}, {}
    for name, loss in losses.items():
        if name != "ours" and horizon > LONGEST:
            continue
        call = lambda loss=loss: run(kind, loss, *on_device)  # noqa: E731
        try:
            wrong[name] = relative_error(call().cpu(), truth)
        except Exception as reason:
            if name == "ours":
                raise
            print(f"{name} fails at {size} and is left out: {type(reason).__name__}: {reason}")
            continue
        calls[name], taken[name] = call, megabytes(call)
    if wrong["ours"] > 1e-4:
        raise SystemExit(f"Our gradient is wrong at {size}, by {wrong['ours']:.1e}: nothing is timed.")
    calls["ours, captured"] = captured(calls["ours"])
    wrong["ours, captured"], taken["ours, captured"] = relative_error(calls["ours, captured"]().cpu(), truth), None
    times = medians(in_turns({name: partial(milliseconds, call) for name, call in calls.items()}, seconds, 5))
    return [
        {
            "kind": kind,
            "batch": batch,
            "horizon": horizon,
            "variables": variables,
            "contender": name,
            "milliseconds": f"{t:.4g}",
            "times_ours": f"{t / times['ours']:.4g}",
            "megabytes": "" if taken[name] is None else f"{taken[name]:.4g}",
            "error": f"{wrong[name]:.1e}",
        }
        for name, t in times.items()
    ]


def verdicts(row: Row) -> list[str]:
    """Whether ours meets its goals of time and memory, and is so many times faster than each other contender."""
    size, time_taken = (row["batch"], row["horizon"], row["variables"]), float(row["milliseconds"])
    checks = []
    if row["contender"].startswith("ours"):
        if row["kind"] == "dilate" and size in GOALS:
            checks.append(("milliseconds", time_taken, GOALS[size], time_taken <= GOALS[size]))
        if size in MEGABYTES and row["megabytes"]:
            most, taken = MEGABYTES[size], float(row["megabytes"])
            checks.append(("megabytes", taken, most, taken <= most))
    else:
        slower = float(row["times_ours"])
        checks.append(("times ours", slower, FASTER, slower >= FASTER))
    return [
        f"{what}: {found:.4g}, goal {goal:.4g}: {'met' if met else 'MISSED'}" for what, found, goal, met in checks
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run, print, and write results/cuda.csv."""
    command_line = parser(__doc__, seconds=4, per="size and kind")
    peer = "a Python file with a class SoftDTW(use_cuda=True, gamma=...), whose instances map two batches of series, "
    peer += "(B, N, d), to (B,) values; may be given several times"
    command_line.add_argument("--peer", type=Path, metavar="FILE", action="append", default=[], help=peer)
    args = command_line.parse_args(arguments)
    if not torch.cuda.is_available() or not has_kernels(DEVICE):
        print(
            "benchmarks.cuda needs an NVIDIA GPU that torch can use, and numba-cuda (requirements-cuda.txt).",
            file=sys.stderr,
        )
        raise SystemExit(2)
    origin, rows = machine(), []
    print(origin)
    for kind in ("dilate", "shape"):
        losses = contenders(kind, args.peer)
        for size in SIZES:
            found = bench(kind, losses, size, args.seconds)
            if not rows:
                print("  ".join(f"{name:>14}" for name in found[0]))
            show(found, 14, verdicts)
            rows += found
    write_csv(args.output / "cuda.csv", rows, machine=origin)


if __name__ == "__main__":
    main()
