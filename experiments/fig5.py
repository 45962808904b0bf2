"""Fig. 5 of the paper: (a) the custom backward against autograd, (b) the influence of alpha.

    python -m experiments.fig5

(a) is read from benchmarks/results/autograd.csv, which python -m benchmarks.autograd measures. The paper does not say
what (b) was measured on, nor in which scale: here it is Seq2Seq on the synthetic task, and alpha = 1 is the network
of Table 1 that was trained with soft-DTW. Only how the curves bend can be compared.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.protocol import METRICS, Command, values
from experiments.tables import OURS, PAPER, Summary, best, in_words, pipes, summary
from paper_results import FIG_5A, FIG_5B, printed_scale
from training import atomic_write

SPEED_UPS = Path(__file__).parent.parent / "benchmarks" / "results" / "autograd.csv"
ALPHAS = [step / 10 for step in range(1, 11)]

Curves = Mapping[str, Mapping[float, Summary | None]]  # metric -> alpha -> our runs


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, print both, and write results/fig5.*."""
    command = Command.parse("fig5", __doc__, argv, ["synthetic"])
    # alpha = 1 is soft-DTW, whose networks Table 1 has already.
    cells = {(alpha,): command.jobs("synthetic", "seq2seq", "dilate", alpha=alpha) for alpha in ALPHAS[:-1]}
    results = command.collect({**cells, (1.0,): command.jobs("synthetic", "seq2seq", "soft_dtw")})
    curves = {
        metric: {alpha: summary(values(results[alpha,], metric)) for alpha in ALPHAS}
        for metric in ("mse", "dtw", "tdi")
    }
    speed_ups = _speed_ups()
    text = f"{_speed_up_table(speed_ups)}\n{_alpha_table(curves)}"
    contents = {".md": text.encode(), ".csv": _csv(curves).encode(), ".png": _png(speed_ups, curves)}
    for suffix, content in contents.items():
        with atomic_write(command.results / f"fig5{suffix}") as file:
            file.write(content)
    print(text)


def _speed_ups() -> dict[int, float]:
    with open(SPEED_UPS, newline="") as file:
        return {int(line["horizon"]): float(line["speedup"]) for line in csv.DictReader(file)}


def _speed_up_table(speed_ups: Mapping[int, float]) -> str:
    header = ("steps", *map(str, speed_ups))
    ours = ("ours", *(f"{times:.3g}" for times in speed_ups.values()))
    paper = ("paper", *(f"{FIG_5A[steps]:.3g}" if steps in FIG_5A else "-" for steps in speed_ups))
    return f"Fig. 5(a). Times that the custom backward is faster than autograd.\n\n{pipes([header, ours, paper])}\n"


def _alpha_table(curves: Curves) -> str:
    header, bold = ["α"], {metric: best(cells) for metric, cells in curves.items()}
    for metric in curves:
        header += [f"{METRICS[metric]} × {printed_scale('synthetic', metric)}", "paper"]
    lines = [header]
    for number, alpha in enumerate(ALPHAS):
        line = [f"{alpha:g}"]
        for metric, cells in curves.items():
            ours = in_words(cells[alpha], printed_scale("synthetic", metric), alpha in bold[metric])
            line += [ours, f"{FIG_5B[metric][number]:.2f}"]
        lines.append(line)
    runs = sorted({cell.runs for cells in curves.values() for cell in cells.values() if cell is not None})
    caption = (
        f"Fig. 5(b). Seq2Seq, Synthetic; {' to '.join(map(str, runs)) or 'no'} runs; the paper's in its own scale."
    )
    return f"{caption}\n\n{pipes(lines)}\n"


def _csv(curves: Curves) -> str:
    """One line per alpha and metric, ours in raw units, the paper's as it drew them."""
    lines = csv.writer(text := io.StringIO(), lineterminator="\n")
    lines.writerow(("alpha", "metric", "mean", "std", "runs", "paper"))
    for metric, cells in curves.items():
        for (alpha, cell), paper in zip(cells.items(), FIG_5B[metric], strict=True):
            lines.writerow((alpha, metric, *(cell or ("", "", 0)), paper))
    return text.getvalue()


def _png(speed_ups: Mapping[int, float], curves: Curves) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(curves))
    for name, points, look in (("ours", speed_ups, OURS), ("paper", FIG_5A, PAPER)):
        first.plot(points.keys(), points.values(), label=name, markersize=4, **look)
    first.set(xlabel="steps", xscale="log", yscale="log", title="(a) speed-up over autograd")
    for axes, (metric, cells) in zip(others, curves.items(), strict=True):
        scale, beside = printed_scale("synthetic", metric), axes.twinx()
        known = {alpha: cell for alpha, cell in cells.items() if cell is not None}
        means, stds = ([cell[part] * scale for cell in known.values()] for part in (0, 1))
        axes.errorbar(known.keys(), means, np.nan_to_num(stds), markersize=4, **OURS)
        beside.plot(ALPHAS, FIG_5B[metric], markersize=4, **PAPER)
        beside.set_ylim(0)
        beside.tick_params(axis="y", labelcolor=PAPER["color"])
        axes.set(xlabel="α", ylim=(0, None), title=f"(b) {METRICS[metric]} × {scale}")
        axes.tick_params(axis="y", labelcolor=OURS["color"])
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(content := io.BytesIO(), format="png", dpi=100)
    return content.getvalue()


if __name__ == "__main__":
    main()
