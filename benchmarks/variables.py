"""Forward and backward of the loss with many variables, beside its peers and bare matrix products; and its variants.

    python -m benchmarks.variables                     # ours, tslearn, pysdtw, ddtw if installed

Each contender computes the mean over the batch and its gradient by the prediction, float32, on one thread, with gamma
0.01 for each variable. The shape term is timed beside those of peers, and the whole loss beside two products of the
same sizes in float64, ``X Y^T`` and ``E Y``, and beside that of absolute differences. The error is that of the
gradient, against plain PyTorch in float64.

Then come, beside the plain loss of one variable: costs of one's own, an Omega of one's own, gamma and Omega that are
learned, pairs of half the length; the error is that of all gradients, against ours in float64. All are timed in turns
in one process; medians. Takes about twelve minutes, on a machine that does nothing else.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.common import (
    Row,
    alternate,
    loss_and_gradient,
    machine,
    parser,
    relative_error,
    show,
    use_threads,
    write_csv,
)
from benchmarks.contenders import ALPHA, GAMMA, peers
from loss import DilateLoss, SoftDTWLoss, dilate_of_costs, soft_dtw
from loss.kernels import reference
from loss.omega import Omega

SIZES = [(*size, d) for size in ((32, 96), (100, 24), (8, 336)) for d in (1, 7, 64, 96, 321, 862)] + [(1, 1024, 321)]
VARIANTS = ((100, 20), (32, 128), (8, 512))
PRODUCTS = "two products"


def terms_in_torch(x: Tensor, y: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Shape term and DILATE, means over the batch, by plain PyTorch."""
    step = torch.arange(x.shape[1], dtype=x.dtype)
    D = torch.stack([(a.unsqueeze(1) - b).square().sum(-1) for a, b in zip(x, y, strict=True)])
    shape, temporal = reference.dilate(D, (step[:, None] - step) ** 2 / len(step) ** 2, gamma)
    return shape.mean(), (ALPHA * shape + (1 - ALPHA) * temporal).mean()


def bench(batch: int, horizon: int, variables: int, seconds: float) -> list[Row]:
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
    part = batch / min(batch, 4)
    wrong = {key: relative_error(call()[few] * part, truths[key[0] == "dilate"]) for key, call in calls.items()}
    X, Y, E = x.double(), y.double(), torch.rand(batch, horizon, horizon, dtype=torch.float64)
    calls["dilate", PRODUCTS] = lambda: (torch.bmm(X, Y.mT), torch.bmm(E, Y))
    of_absolute = DilateLoss(ALPHA, gamma, cost="absolute")
    calls["dilate", "absolute"] = lambda: loss_and_gradient(of_absolute, x, y)[1]
    return rows_of(alternate(calls, seconds), wrong, batch, horizon, variables)


def bench_variants(batch: int, horizon: int, seconds: float) -> list[Row]:
    """The same of the loss with costs of one's own, with what is learned, and with lengths, beside the plain loss."""

    def dilate(x: Tensor, y: Tensor, omega: Omega = "squared", gamma=GAMMA, lengths: Tensor | None = None) -> Tensor:
        return DilateLoss(ALPHA, gamma, omega=omega)(x, y, lengths, lengths)

    torch.manual_seed(0)
    y, half = torch.randn(batch, horizon, 1), torch.full((batch,), horizon // 2)
    sizes = (batch, horizon, 1), (batch, horizon, horizon), (horizon, horizon)
    x, D, omega, gamma = (t.requires_grad_() for t in (*map(torch.rand, sizes), torch.tensor(GAMMA)))
    variants = {
        "ours": (dilate, x, y),
        "costs, shape": (lambda D: soft_dtw(D, GAMMA).mean(), D),
        "costs, both": (lambda D: dilate_of_costs(D, "squared", ALPHA, GAMMA).loss.mean(), D),
        "Omega given": (dilate, x, y, omega.detach()),
        "Omega learned": (dilate, x, y, omega),
        "gamma learned": (dilate, x, y, "squared", gamma),
        "half lengths": (dilate, x, y, "squared", GAMMA, half),
    }
    calls = {name: partial(gradient, *variant) for name, variant in variants.items()}
    wrong = {
        ("variant", name): relative_error(call(), gradient(*map(widened, variants[name])))
        for name, call in calls.items()
    }
    times = alternate({("variant", name): call for name, call in calls.items()}, seconds)
    return rows_of(times, wrong, batch, horizon, 1)


def gradient(function: Callable[..., Tensor], *arguments: object) -> Tensor:
    """The gradients by all arguments that require one, in one row."""
    by = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(function(*arguments), by)])


def widened(argument: object) -> object:
    """An argument in float64, if it is a tensor of float32."""
    if isinstance(argument, Tensor) and argument.is_floating_point():
        return argument.detach().double().requires_grad_(argument.requires_grad)
    return argument


def rows_of(times: dict[tuple[str, str], float], wrong: dict[tuple[str, str], float], *size: int) -> list[Row]:
    """A row for each kind and contender."""
    return [
        {
            "kind": kind,
            **dict(zip(("batch", "horizon", "variables"), size, strict=True)),
            "contender": name,
            "milliseconds": f"{1e3 * time:.4g}",
            "times_ours": f"{time / times[kind, 'ours']:.4g}",
            "error": f"{wrong[kind, name]:.1e}" if (kind, name) in wrong else "",
        }
        for (kind, name), time in times.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run, print, and write results/variables.csv."""
    args = parser(__doc__, seconds=6, per="size").parse_args(arguments)
    use_threads(1)
    origin, rows = machine(), []
    print(origin)
    for size in [*SIZES, *VARIANTS]:
        found = (bench if len(size) == 3 else bench_variants)(*size, args.seconds)
        if not rows:
            print("  ".join(f"{name:>14}" for name in found[0]))
        show(found, 14)
        rows += found
    write_csv(args.output / "variables.csv", rows, machine=origin)


if __name__ == "__main__":
    main()
