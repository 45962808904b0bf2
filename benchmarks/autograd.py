"""Fig. 5(a) of the paper: how much faster the custom backward is than autograd through the same recursion.

    python -m benchmarks.autograd

Mean over 10 pairs of random series, DILATE, forward and backward; the paper stops at 100 steps.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.common import RESULTS, alternate, loss_and_gradient, machine, plot_lines, write_csv
from benchmarks.contenders import ALPHA, GAMMA, reference_dilate
from loss import DilateLoss

HORIZONS = (6, 11, 21, 41, 61, 81, 100, 128, 256, 512)
PAPER = {6: 2.7, 11: 7.8, 21: 20.8, 41: 29.0, 61: 33.1, 81: 35.0}  # read off the figure, +- 0.5


def main() -> None:
    """Run, print, and write results/autograd.csv and results/autograd.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="per horizon (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default: %(default)s)")
    args = parser.parse_args()
    print(machine())
    rows, custom = [], DilateLoss(ALPHA, GAMMA)
    for horizon in HORIZONS:
        torch.manual_seed(0)
        x, y = torch.randn(10, horizon, 1), torch.randn(10, horizon, 1)
        calls = {"custom": custom, "autograd": reference_dilate}
        times = alternate(
            {n: lambda f=f, x=x, y=y: loss_and_gradient(f, x, y) for n, f in calls.items()}, args.seconds
        )
        speedup = times["autograd"] / times["custom"]
        rows.append(
            {
                "horizon": horizon,
                "custom_ms": f"{1e3 * times['custom']:.4g}",
                "autograd_ms": f"{1e3 * times['autograd']:.4g}",
                "speedup": f"{speedup:.4g}",
                "paper": PAPER.get(horizon, ""),
                "machine": machine(),
            }
        )
        print(f"{horizon:5d} steps: {speedup:7.1f} times faster (paper {PAPER.get(horizon, '-')})", flush=True)
    write_csv(args.output / "autograd.csv", rows)
    lines = {"ours": [(r["horizon"], float(r["speedup"])) for r in rows], "paper": PAPER.items()}
    plot_lines(args.output / "autograd.png", lines, "horizon", "speed-up", f"Fig. 5(a)\n{machine()}", log=False)


if __name__ == "__main__":
    main()
