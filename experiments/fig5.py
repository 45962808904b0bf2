"""Fig. 5 of the paper: (a) the custom backward against autograd, (b) the influence of alpha.

    python -m experiments.fig5

(a) is read from benchmarks/results/autograd.csv, which python -m benchmarks.autograd measures. The paper does not say
what (b) was measured on, nor in which scale: here it is Seq2Seq on the synthetic task, and alpha = 1 is the network
of Table 1 that was trained with soft-DTW. Only how the curves bend can be compared, so each has axes of its own.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from evaluation.paper import FIG_5A, FIG_5B, printed_scale
from experiments import tables
from experiments.protocol import METRICS, Command

SPEED_UPS = Path(__file__).parent.parent / "benchmarks" / "results" / "autograd.csv"
ALPHAS = [step / 10 for step in range(1, 11)]

Curves = Mapping[str, Mapping[float, tables.Summary | None]]  # metric -> alpha -> our runs


def main(argv: Sequence[str] | None = None) -> None:
    """Train the missing jobs, print both, and write results/fig5.*."""
    command = Command.parse("fig5", __doc__, argv, ["synthetic"])
    # alpha = 1 is soft-DTW, whose networks Table 1 has already.
    cells = {(alpha,): command.jobs("synthetic", "seq2seq", "dilate", alpha=alpha) for alpha in ALPHAS[:-1]}
    results = command.collect({**cells, (1.0,): command.jobs("synthetic", "seq2seq", "soft_dtw")})
    curves = {
        metric: {alpha: tables.tested(results[alpha,], metric) for alpha in ALPHAS}
        for metric in ("mse", "dtw", "tdi")
    }
    with open(SPEED_UPS, newline="") as file:
        speed_ups = list(csv.DictReader(file))
    text = f"{_speed_up_table(speed_ups)}\n{_alpha_table(curves)}"
    tables.write(command.results, "fig5", md=text, csv=_csv(curves), png=_png(speed_ups, curves))
    print(text)


def _speed_up_table(speed_ups: Sequence[Mapping[str, str]]) -> str:
    columns = [("steps", "ours", "paper")]
    for line in speed_ups:
        steps, at = line["horizon"], line["paper_horizon"]
        paper = f"{float(line['paper']):.3g}" if at else "-"
        columns.append((steps, f"{float(line['speedup']):.3g}", paper if at in ("", steps) else f"{paper} (at {at})"))
    caption = (
        "Fig. 5(a). Times that the custom backward is faster than autograd; the paper's are read off its plot, which "
        f"ends at {max(FIG_5A)} steps."
    )
    return tables.captioned(caption, [*zip(*columns, strict=True)])


def _alpha_table(curves: Curves) -> str:
    header, bold = ["α"], {metric: tables.best(cells) for metric, cells in curves.items()}
    for metric in curves:
        header += [tables.scaled(METRICS[metric], printed_scale("synthetic", metric)), "paper"]
    lines = [header]
    for number, alpha in enumerate(ALPHAS):
        line = [f"{alpha:g}"]
        for metric, cells in curves.items():
            ours = tables.in_words(cells[alpha], printed_scale("synthetic", metric), alpha in bold[metric])
            line += [ours, f"{FIG_5B[metric][number]:.2f}"]
        lines.append(line)
    runs = sorted({cell.runs for cells in curves.values() for cell in cells.values() if cell is not None})
    caption = (
        f"Fig. 5(b). Seq2Seq, Synthetic; {' to '.join(map(str, runs)) or 'no'} runs. The paper says neither on "
        "which data nor in which scale: only how a column changes with α can be compared."
    )
    return tables.captioned(caption, lines)


def _csv(curves: Curves) -> str:
    """One line per alpha and metric, ours in raw units, the paper's as it drew them."""
    lines = [("alpha", "metric", "mean", "std", "runs", "paper")]
    for metric, cells in curves.items():
        for (alpha, cell), paper in zip(cells.items(), FIG_5B[metric], strict=True):
            lines.append((alpha, metric, *(cell or tables.NO_RUN), paper))
    return tables.csv_text(lines)


def _png(speed_ups: Sequence[Mapping[str, str]], curves: Curves) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    papers = {metric: f"the paper's {metric}" for metric in curves}
    panels = figure.subplot_mosaic([["speed-up", *curves], ["speed-up", *papers.values()]])
    times = {int(line["horizon"]): float(line["speedup"]) for line in speed_ups}
    for name, points, look in (("ours", times, tables.OURS), ("paper", FIG_5A, tables.PAPER)):
        panels["speed-up"].plot(points.keys(), points.values(), label=name, markersize=4, **look)
    labels = {"xlabel": "steps", "ylabel": "times faster than autograd"}
    panels["speed-up"].set(**labels, xscale="log", yscale="log", title="(a) speed-up")
    for metric, cells in curves.items():
        name, scale = METRICS[metric], printed_scale("synthetic", metric)
        known = {alpha: cell for alpha, cell in cells.items() if cell is not None}
        means, stds = ([cell[part] * scale for cell in known.values()] for part in (0, 1))
        panels[metric].errorbar(known.keys(), means, np.nan_to_num(stds), markersize=4, **tables.OURS)
        panels[metric].set(ylabel=f"{name} × {scale}", title=f"(b) {name}, ours")
        panels[papers[metric]].plot(ALPHAS, FIG_5B[metric], markersize=4, **tables.PAPER)
        panels[papers[metric]].set(ylabel=f"{name}, scale not given", title=f"(b) {name}, paper")
        for panel in (panels[metric], panels[papers[metric]]):
            panel.set(xlabel="α", ylim=(0, None))
    figure.legend(*panels["speed-up"].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return tables.png(figure)


if __name__ == "__main__":
    main()
