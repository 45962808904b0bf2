"""Fig. 5(a) of the paper: how much faster the custom backward is than autograd through the same recursion.

    python -m benchmarks.autograd

Mean over 10 pairs of random series, DILATE, forward and backward. The paper's plot, from which its numbers are read
off, has a point at every fifth step and ends at 96: beside 100 steps stands its last one, beside more none.
"""

import torch

from benchmarks.common import alternate, loss_and_gradient, machine, parser, plot_lines, write_csv
from benchmarks.contenders import ALPHA, GAMMA, reference_dilate
from evaluation.paper import FIG_5A
from loss import DilateLoss

HORIZONS = (6, 11, 21, 41, 61, 81, 100, 128, 256, 512)


def nearest_in_paper(horizon: int) -> int | None:
    """At how many steps the paper's plot has the point that is less than 5 steps away; None beyond its end."""
    steps = min(FIG_5A, key=lambda steps: abs(steps - horizon))
    return steps if abs(steps - horizon) < 5 else None


def main() -> None:
    """Run, print, and write results/autograd.csv and results/autograd.png."""
    args = parser(__doc__, seconds=3, per="horizon").parse_args()
    print(machine())
    rows, custom = [], DilateLoss(ALPHA, GAMMA)
    for horizon in HORIZONS:
        torch.manual_seed(0)
        x, y = torch.randn(10, horizon, 1), torch.randn(10, horizon, 1)
        calls = {"custom": custom, "autograd": reference_dilate}
        times = alternate(
            {n: lambda f=f, x=x, y=y: loss_and_gradient(f, x, y) for n, f in calls.items()}, args.seconds
        )
        speedup, steps = times["autograd"] / times["custom"], nearest_in_paper(horizon)
        paper = "" if steps is None else FIG_5A[steps]
        rows.append(
            {
                "horizon": horizon,
                "custom_ms": f"{1e3 * times['custom']:.4g}",
                "autograd_ms": f"{1e3 * times['autograd']:.4g}",
                "speedup": f"{speedup:.4g}",
                "paper": paper,
                "paper_horizon": steps,
            }
        )
        print(
            f"{horizon:5d} steps: {speedup:7.1f} times faster (paper: {paper or '-'} at {steps or '-'})", flush=True
        )
    write_csv(args.output / "autograd.csv", rows, machine=machine())
    lines = {"ours": [(r["horizon"], float(r["speedup"])) for r in rows], "paper": FIG_5A.items()}
    plot_lines(args.output / "autograd.png", lines, "horizon", "speed-up", f"Fig. 5(a)\n{machine()}", log=False)


if __name__ == "__main__":
    main()
