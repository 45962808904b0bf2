"""The lines that a run prints: what it trains, and its table of metrics beside the paper's (Table 1)."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.csv_time import shown_alike
from evaluation.paper import (
    PAPER_ALPHA,
    PAPER_GAMMA,
    PAPER_HIDDEN_SIZE,
    PAPER_LAYERS,
    PAPER_WINDOWS,
    PaperRow,
    paper_row,
)

from . import data_parallel
from .experiment import Experiment, beside_training
from .run_folder import METRICS

__all__ = ["introduction", "measured", "results_table", "whose_scaling"]

MOST_TARGETS = 10
MOST_SERIES = 10


def introduction(experiment: Experiment) -> str:
    """Data, network and losses of a run."""
    args, data = experiment.args, experiment.data
    parameters = sum(parameter.numel() for parameter in experiment.network().parameters())
    count = data_parallel.world_size()
    where = f"{experiment.device}" if count == 1 else f"{experiment.device.type} in {count} processes"
    lines = [
        f"{data.name}: {len(data.train)} training and {len(data.test)} test series, "
        f"{data.input_length} -> {data.horizon} steps",
        *data.about,
        *["scaled by mean and deviation of the training part: so are the numbers of the epochs"] * bool(data.series),
        f"{args.model}: {parameters:,} parameters on {where}",
        f"losses: {', '.join(args.losses)} (alpha {args.alpha:g}, gamma {args.gamma:g})",
    ]
    return "\n".join(lines)


def measured(experiment: Experiment) -> list[str]:
    """Lines that say what an evaluation of a CSV file reads, and what of it is measured; none for other data."""
    args, data = experiment.args, experiment.data
    if not data.series:
        return []
    length, rows = data.input_length + data.horizon, 0
    first, last = [], []
    for series in data.series:
        ends = series.test_starts[0], series.test_starts[-1] + length
        rows += ends[1] - ends[0]
        if series.times is not None:
            first.append(series.times[ends[0]])
            last.append(series.times[ends[1] - 1])
    times = shown_alike(np.array([min(first), max(last)]), data.series[0].offset) if first else []
    span = f", {' to '.join(times)}" if times else ""
    return [
        *data.about,
        *(beside_training(args, experiment.trained_on, data.series) if experiment.trained_on else []),
        f"measured: {len(data.test):,} windows of the test part, {rows:,} rows{span}",
    ]


def whose_scaling(experiment: Experiment) -> list[str]:
    """A line that says by whose mean and deviation the data of an evaluation are scaled; none for raw units."""
    args, data = experiment.args, experiment.data
    if data.target_scaling is None and not data.series:
        return []
    scaling = "maximum" if data.name == "traffic" else "mean and deviation"
    if experiment.trained_on is None:
        return [
            f"{args.evaluate} holds no {scaling} of its training data: these data are scaled by their own {scaling}"
        ]
    return [f"scaled by the {scaling} of the data that the network was trained on, kept in {args.evaluate}"]


def results_table(
    experiment: Experiment,
    results: Mapping[str, Mapping[str, float]],
    errors: Sequence[Mapping[str, str | float]] = (),
) -> str:
    """The final metrics, loss by loss, beside the paper's where the setting is the paper's.

    Args:
        experiment: What was run.
        results: Training loss -> ``mse``, ``dtw`` and ``tdi``, and ``epoch`` and ``valid_loss`` if known.
        errors: Those of a CSV file in its own units, as `units.errors` returns them. Such a table takes the place of
            that in scaled units, which it follows where there are several variables.
    """
    in_units = _units_table(experiment, results, errors) if errors else []
    if len({row["column"] for row in errors}) == 1:
        return "\n".join(in_units)
    papers = {loss: _paper_comparison(experiment, loss) for loss in results}
    chosen = _chosen_epochs(results)
    rows = [["loss", *["epoch"] * bool(chosen), *map(str.upper, METRICS)]]
    for loss, record in results.items():
        epoch = [chosen.get(loss, "")] if chosen else []
        rows.append([loss, *epoch, *(f"{record[metric]:#.4g}" for metric in METRICS)])
    if any(papers.values()):
        rows[0] += [f"paper's {metric.upper()}" for metric in METRICS]
        for row, paper in zip(rows[1:], papers.values(), strict=True):
            row += _paper_cells(paper)
    scaled = experiment.data.target_scaling is not None or experiment.data.series
    units = "scaled units" if scaled else "raw units"
    caption = _caption(experiment, results, units, any(papers.values()))
    return "\n".join([caption, *_aligned(rows), *[""] * bool(in_units), *in_units])


def _units_table(
    experiment: Experiment, results: Mapping[str, Mapping[str, float]], errors: Sequence[Mapping[str, str | float]]
) -> list[str]:
    columns, series = (list(dict.fromkeys(row.get(name, "") for row in errors)) for name in ("column", "series"))
    chosen = _chosen_epochs(results)
    several, by_series = len(columns) > 1, 1 < len(series) <= 1 + MOST_SERIES
    metrics = ("mae", *METRICS)
    head = [*["column"] * several, *["series"] * by_series, "loss", *["epoch"] * bool(chosen)]
    rows = [[*head, *map(str.upper, metrics)]]
    for row in errors:
        if row["column"] in columns[:MOST_TARGETS] and (by_series or not row.get("series")):
            epoch = [chosen.get(row["loss"], "")] if chosen else []
            numbers = [f"{row[metric]:#.4g}" for metric in metrics]
            of = [*[row["column"]] * several, *[row.get("series") or "(all)"] * by_series]
            rows.append([*of, row["loss"], *epoch, *numbers])
    what = "the units of the file" if several else f"the units of {columns[0]}"
    more = f", the first {MOST_TARGETS} of {len(columns)} columns" if len(columns) > MOST_TARGETS else ""
    more += f", over all {len(series) - 1} series" if len(series) > 1 + MOST_SERIES else ""
    return [_caption(experiment, results, what + more, False), *_aligned(rows)]


def _chosen_epochs(results: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The epochs whose weights were the best on the validation part, of the losses that have one."""
    return {loss: str(record["epoch"]) for loss, record in results.items() if "valid_loss" in record}


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _caption(experiment: Experiment, results: Mapping[str, Mapping[str, float]], units: str, with_paper: bool) -> str:
    epochs = {record["epoch"] + 1 for record in results.values() if "epoch" in record}
    after = f" after {max(epochs)} epoch{'s' if max(epochs) > 1 else ''}" if epochs else ""
    if _chosen_epochs(results):
        after = ", the epoch that is best on the validation part"
    paper = "; paper: Table 1, mean ± std of 10 runs" if with_paper else ""
    return f"{experiment.data.name}, {experiment.args.model}{after}, means over the test set in {units}{paper}"


def _paper_cells(paper: PaperRow | None) -> list[str]:
    if paper is None:
        return [""] * len(METRICS)
    pairs = zip(paper[::2], paper[1::2], strict=True)
    return [f"{mean:#.3g} ± {std:.3g}" for mean, std in pairs]


def _paper_comparison(experiment: Experiment, loss: str) -> PaperRow | None:
    """The paper's numbers for this network, data and loss, if the setting is the paper's."""
    args, data = experiment.args, experiment.data
    ours = {
        "network": (args.hidden_size, args.layers),
        "windows": (data.input_length, data.horizon, args.stride or 1),
        "gamma": args.gamma if loss != "mse" else None,
        "alpha": args.alpha if loss == "dilate" else None,
    }
    papers = {
        "network": (PAPER_HIDDEN_SIZE, PAPER_LAYERS),
        "windows": (*PAPER_WINDOWS.get(args.dataset, ()), 1),
        "gamma": PAPER_GAMMA if loss != "mse" else None,
        "alpha": PAPER_ALPHA.get(args.dataset) if loss == "dilate" else None,
    }
    if ours != papers:
        return None
    return paper_row(args.dataset, args.model, loss)
