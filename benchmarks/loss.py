"""Forward and backward of the loss beside its peers: first do they agree, then how long do they take.

    python -m benchmarks.loss                          # ours, plain PyTorch, tslearn, pysdtw if installed
    python -m benchmarks.loss --original FOLDER        # and a clone of the released DILATE

Each contender computes the mean over the batch and its gradient by the prediction, float32, gamma 0.01. Contenders
of one kind (the whole DILATE loss, or its shape term alone) are timed in turns in one process; medians. A
contender whose value or gradient is wrong is timed all the same, with its error beside it: the released code's
gradient is `batch size` times too large, and is divided by it before it is compared.
"""

import argparse
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import RESULTS, alternate, loss_and_gradient, machine, plot_lines, relative_error, write_csv
from loss import DilateLoss, SoftDTWLoss
from loss.kernels import reference

GAMMA, ALPHA = 0.01, 0.5
SIZES = ((100, 20), (100, 56), (32, 128), (128, 96), (8, 512), (1, 1024))
SLOWEST = 400_000  # cells beyond which plain PyTorch is left out: many seconds for one call

Loss = Callable[[Tensor, Tensor], Tensor]


def reference_dilate(x: Tensor, y: Tensor) -> Tensor:
    """DILATE by autograd through plain PyTorch."""
    shape, temporal = reference_terms(x, y)
    return ALPHA * shape + (1 - ALPHA) * temporal


def reference_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the two terms."""
    k = x.shape[1]
    step = torch.arange(k, dtype=x.dtype)
    D = (x.unsqueeze(2) - y.unsqueeze(1)).square().sum(-1)
    shape, temporal = reference.dilate(D, (step[:, None] - step) ** 2 / k**2, GAMMA)
    return shape.mean(), temporal.mean()


def dilate_contenders(original: Path | None) -> dict[str, Loss]:
    """The whole loss."""
    found: dict[str, Loss] = {"ours": DilateLoss(ALPHA, GAMMA), "plain PyTorch": reference_dilate}
    if original is not None:
        found["released code"] = released_loss(original)
    return found


def released_function(clone: Path) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The released code's `dilate_loss`, from a clone; its package is called `loss` like ours, so it is renamed."""
    if not (clone / "loss" / "dilate_loss.py").is_file():
        raise SystemExit(
            f"--original must be a clone of the released DILATE, but {clone} has no loss/dilate_loss.py."
        )
    package = importlib.machinery.ModuleSpec("released_loss", None, is_package=True)
    package.submodule_search_locations = [str(clone / "loss")]
    sys.modules["released_loss"] = importlib.util.module_from_spec(package)
    return importlib.import_module("released_loss.dilate_loss").dilate_loss


def released_loss(clone: Path) -> Loss:
    """The released code's loss, from a clone."""
    dilate_loss = released_function(clone)
    return lambda x, y: dilate_loss(x, y, ALPHA, GAMMA, "cpu")[0]


def shape_contenders() -> dict[str, Loss]:
    """The shape term alone."""
    found: dict[str, Loss] = {"ours": SoftDTWLoss(GAMMA), "plain PyTorch": lambda x, y: reference_terms(x, y)[0]}
    try:
        from tslearn.metrics import SoftDTWLossPyTorch

        tslearn = SoftDTWLossPyTorch(gamma=GAMMA)
        found["tslearn"] = lambda x, y: tslearn(x, y).mean()
    except ImportError:
        print("tslearn is not installed: left out")
    try:
        from pysdtw import SoftDTW

        pysdtw = SoftDTW(gamma=GAMMA, use_cuda=False)
        found["pysdtw"] = lambda x, y: pysdtw(x, y).mean()
    except ImportError:
        print("pysdtw is not installed: left out (pip install pysdtw)")
    return found


def bench(kind: str, contenders: dict[str, Loss], batch: int, horizon: int, seconds: float) -> list[dict]:
    """Agreement with float64, and median times, of all contenders at one size."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, horizon, 1), torch.randn(batch, horizon, 1)
    cells = batch * horizon * horizon
    exact: Loss = DilateLoss(ALPHA, GAMMA) if kind == "dilate" else SoftDTWLoss(GAMMA)
    _, truth = loss_and_gradient(exact, x.double(), y.double())
    if cells <= 1 << 17:  # the truth itself against a program that shares nothing with it
        plain = reference_dilate if kind == "dilate" else shape_contenders()["plain PyTorch"]
        assert relative_error(truth, loss_and_gradient(plain, x.double(), y.double())[1]) < 1e-9
    chosen = {n: f for n, f in contenders.items() if n != "plain PyTorch" or cells <= SLOWEST}
    errors = {}
    for name, loss in chosen.items():
        gradient = loss_and_gradient(loss, x, y)[1]
        errors[name] = relative_error(gradient / (batch if name == "released code" else 1), truth)
    times = alternate({n: lambda f=f: loss_and_gradient(f, x, y) for n, f in chosen.items()}, seconds)
    return [
        {
            "kind": kind,
            "batch": batch,
            "horizon": horizon,
            "contender": name,
            "milliseconds": f"{1e3 * t:.4g}",
            "ns_per_cell": f"{1e9 * t / cells:.4g}",
            "times_ours": f"{t / times['ours']:.4g}",
            "gradient_error": f"{errors[name]:.1e}",
        }
        for name, t in times.items()
    ]


def main() -> None:
    """Run, print, and write results/loss.csv and results/loss.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, metavar="FOLDER", help="a clone of the released DILATE")
    parser.add_argument("--seconds", type=float, default=10, help="per size and kind (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default: %(default)s)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    kinds = {"shape": shape_contenders(), "dilate": dilate_contenders(args.original)}
    print(machine())
    rows = []
    for kind, contenders in kinds.items():
        for batch, horizon in SIZES:
            rows += (found := bench(kind, contenders, batch, horizon, args.seconds))
            for row in found:
                print("  ".join(f"{value!s:>13}" for value in row.values()), flush=True)
    for row in rows:
        row["machine"] = machine()
    write_csv(args.output / "loss.csv", rows)
    lines = {}
    for row in rows:
        name = f"{row['contender']}, {'DILATE' if row['kind'] == 'dilate' else 'shape term'}"
        lines.setdefault(name, []).append((row["horizon"], float(row["ns_per_cell"])))
    title = f"forward + backward, float32\n{machine()}"
    plot_lines(args.output / "loss.png", lines, "horizon", "ns per lattice cell", title)


if __name__ == "__main__":
    main()
