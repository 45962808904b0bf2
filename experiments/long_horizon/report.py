"""The tables and the figure of the experiment, of whatever part of it is there."""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import Row, pipes
from evaluation.plots import LOSS_LOOKS, ROLE_COLOURS, STYLE

from .protocol import MODELS, Protocol
from .quality import CANDIDATE, CHOSEN_BY, FINAL, LAST_DAY, METRICS, TERMS, Result, last_day
from .steps import PARTS

LINES = dict(zip(MODELS, ("--", "-"), strict=True))
STEPS, QUALITY, TABLES, FIGURE = "steps.csv", "quality.csv", "tables.md", "quality.png"


def quality_rows(protocol: Protocol, results: Sequence[Result]) -> list[Row]:
    """The lines of quality.csv: all results, and the last day repeated."""
    rows = [_row(result) for result in results]
    for horizon in protocol.horizons:
        scores = {f"test_{metric}": value for metric, value in last_day(protocol, horizon).items()}
        rows.append(dict.fromkeys(rows[0], "") | {"role": FINAL, "model": LAST_DAY, "horizon": horizon} | scores)
    return rows


def _row(result: Result) -> Row:
    settings, valid = result["settings"], result["valid"]
    return {
        "role": result["role"],
        **{name: settings[name] for name in ("model", "loss", "horizon", "alpha", "gamma")},
        "best_epoch": result["best_epoch"],
        **{f"valid_{metric}": valid[metric] for metric in METRICS},
        **{f"valid_{term}": valid.get(term, "") for term in TERMS},
        **{f"test_{metric}": result["test"][metric] for metric in METRICS},
    }


# --------------------------------------------------------------------------------------------------- tables


def write_tables(folder: Path) -> None:
    """Write tables.md of the CSV files that are there."""
    parts = []
    for name, tables in ((STEPS, _steps_tables), (QUALITY, _quality_tables)):
        if (folder / name).exists():
            with open(folder / name, newline="") as file:
                parts += tables(list(csv.DictReader(file)))
    (folder / TABLES).write_text("\n".join(parts))


def _steps_tables(rows: list[dict[str, str]]) -> list[str]:
    names = ["horizon", "model", "loss", *(f"{part}_ms" for part in PARTS)]
    names += ["step_ms", "times_mse", "loss_share", "peak_mib"]
    return [f"# One training step\n\nMedians; {rows[0]['machine']}.\n", _table(names, rows)]


def _quality_tables(rows: list[dict[str, str]]) -> list[str]:
    final = sorted((row for row in rows if row["role"] == FINAL), key=lambda row: int(row["horizon"]))
    tried = [row for row in rows if row["role"] == CANDIDATE]
    for row in tried:
        row["product"] = str(math.prod(float(row[f"valid_{metric}"]) for metric in CHOSEN_BY))
    terms = [f"valid_{term}" for term in TERMS]
    tested = ["horizon", "model", "loss", *(f"test_{metric}" for metric in METRICS), "best_epoch", "alpha", "gamma"]
    chosen_by = ["model", "alpha", "gamma", *(f"valid_{metric}" for metric in METRICS), *terms, "product"]
    return [
        "# Test metrics, in standard deviations of the training part\n",
        _table(tested + terms, final),
        "# The choice of alpha and gamma, on validation\n",
        _table(chosen_by, tried),
    ]


def _table(names: Sequence[str], rows: Iterable[dict[str, str]]) -> str:
    lines = [[_short(row[name]) for name in names] for row in rows]
    return pipes([[name.replace("_", " ") for name in names], *lines]) + "\n"


def _short(cell: str) -> str:
    """Four digits of a number that has more."""
    return f"{float(cell):.4g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell) else cell


# --------------------------------------------------------------------------------------------------- figure


def draw(path: Path, protocol: Protocol, results: Sequence[Result], rows: Sequence[Row]) -> None:
    """Draw the test metrics, ``rows`` of ``results``, against the horizon, and forecasts at the longest one."""
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(12, 6), layout="constrained")
        above, below = figure.subfigures(2, 1)
        for axes, metric in zip(above.subplots(1, len(METRICS)), METRICS, strict=True):
            _draw_metric(axes, metric, [row for row in rows if row["role"] == FINAL])
        above.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        for axes, model in zip(below.subplots(1, len(MODELS), sharey=True), MODELS, strict=True):
            _draw_example(axes, model, protocol, results)
        below.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        figure.savefig(path, dpi=100)


def _draw_metric(axes: Axes, metric: str, rows: Sequence[Row]) -> None:
    for model, loss in dict.fromkeys((row["model"], row["loss"]) for row in rows):
        points = sorted((r["horizon"], r[f"test_{metric}"]) for r in rows if (r["model"], r["loss"]) == (model, loss))
        look = {"color": ROLE_COLOURS["input"], "linestyle": ":", "label": model}
        if model in LINES:
            known = LOSS_LOOKS[loss]
            look = known | {"linestyle": LINES[model], "label": f"{model}, {known['label']}"}
        axes.plot(*zip(*points, strict=True), **look)
    axes.set(title=metric.upper(), xlabel="horizon, hours", ylim=(0, None), xticks=[h for h, _ in points])


def _draw_example(axes: Axes, model: str, protocol: Protocol, results: Sequence[Result]) -> None:
    horizon = protocol.horizons[-1]
    test = protocol.task(horizon).test
    axes.plot(test.targets[len(test) // 2, :, -1], color=ROLE_COLOURS["target"], linewidth=1, label="target")
    for result in results:
        settings = result["settings"]
        if (result["role"], settings["model"], settings["horizon"]) == (FINAL, model, horizon):
            look = LOSS_LOOKS[settings["loss"]]
            axes.plot(result["example"], color=look["color"], label=look["label"], linewidth=1)
    axes.set(title=f"{model}, the last variable", xlabel="hours")
