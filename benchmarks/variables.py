"""Forward and backward of the loss with one and with many variables, beside its peers and bare matrix products.

    python -m benchmarks.variables                     # ours, tslearn, pysdtw, ddtw if installed

Each contender computes the mean over the batch and its gradient by the prediction, float32, on one thread, with gamma
0.01 for each variable. The shape term is timed beside those of peers, and the whole loss beside two products of the
same sizes in float64, ``X Y^T`` and ``E Y``. All are timed in turns in one process; medians. The error is that of the
gradient, against plain PyTorch in float64. Takes about four minutes, on a machine that does nothing else.
"""

import torch
from torch import Tensor

from benchmarks.common import alternate, loss_and_gradient, machine, parser, relative_error, show, write_csv
from benchmarks.contenders import ALPHA, peers
from loss import DilateLoss, SoftDTWLoss
from loss.kernels import reference

SIZES = ((32, 96), (100, 24), (8, 336))
VARIABLES = (1, 7, 64, 96, 321, 862)
PRODUCTS = "two products"


def terms_in_torch(x: Tensor, y: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Shape term and DILATE, means over the batch, by plain PyTorch."""
    step = torch.arange(x.shape[1], dtype=x.dtype)
    D = torch.stack([(a.unsqueeze(1) - b).square().sum(-1) for a, b in zip(x, y, strict=True)])
    shape, temporal = reference.dilate(D, (step[:, None] - step) ** 2 / len(step) ** 2, gamma)
    return shape.mean(), (ALPHA * shape + (1 - ALPHA) * temporal).mean()


def bench(batch: int, horizon: int, variables: int, seconds: float) -> list[dict[str, object]]:
    """Median times and errors of all contenders at one size."""
    torch.manual_seed(0)
    x, y = torch.randn(2, batch, horizon, variables)
    gamma = 0.01 * variables
    losses = {("shape", "ours"): SoftDTWLoss(gamma), ("dilate", "ours"): DilateLoss(ALPHA, gamma)}
    losses |= {("shape", name): make(gamma) for name, make in peers().items()}
    calls = {key: lambda loss=loss: loss_and_gradient(loss, x, y)[1] for key, loss in losses.items()}
    few = slice(0, 4)  # the truth of some pairs is enough, whose gradient the mean divides by more
    truths = [
        loss_and_gradient(
            lambda p, q, term=term: terms_in_torch(p, q, gamma)[term], *(s[few].double() for s in (x, y))
        )[1]
        for term in (0, 1)
    ]
    wrong = {key: relative_error(call()[few] * batch / 4, truths[key[0] == "dilate"]) for key, call in calls.items()}
    X, Y, E = x.double(), y.double(), torch.rand(batch, horizon, horizon, dtype=torch.float64)
    calls["dilate", PRODUCTS] = lambda: (torch.bmm(X, Y.mT), torch.bmm(E, Y))
    times = alternate(calls, seconds)
    return [
        {
            "kind": kind,
            "batch": batch,
            "horizon": horizon,
            "variables": variables,
            "contender": name,
            "milliseconds": f"{1e3 * time:.4g}",
            "times_ours": f"{time / times[kind, 'ours']:.4g}",
            "error": f"{wrong[kind, name]:.1e}" if name != PRODUCTS else "",
        }
        for (kind, name), time in times.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run, print, and write results/variables.csv."""
    args = parser(__doc__, seconds=6, per="size").parse_args(arguments)
    torch.set_num_threads(1)
    origin, rows = machine(), []
    print(origin)
    for batch, horizon in SIZES:
        for variables in VARIABLES:
            found = bench(batch, horizon, variables, args.seconds)
            if not rows:
                print("  ".join(f"{name:>14}" for name in found[0]))
            show(found, 14)
            rows += found
    write_csv(args.output / "variables.csv", rows, machine=origin)


if __name__ == "__main__":
    main()
