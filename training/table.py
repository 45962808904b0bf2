"""The lines that a run prints: what it trains, and its table of metrics beside the paper's (Table 1)."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from data import ForecastData
from evaluation.metrics import evaluate_forecasts
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
from .data_record import record_of
from .experiment import Experiment
from .run_folder import METRICS

__all__ = ["introduction", "results_table", "units_table", "whose_scaling"]

LAST_VALUE, MOST_TARGETS = "last value", 10


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
        f"{args.model}: {parameters:,} parameters on {where}",
        f"losses: {', '.join(args.losses)} (alpha {args.alpha:g}, gamma {args.gamma:g})",
    ]
    return "\n".join(lines)


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


def results_table(experiment: Experiment, results: Mapping[str, Mapping[str, float]]) -> str:
    """The final metrics, loss by loss, beside the paper's where the setting is the paper's.

    Args:
        experiment: What was run.
        results: Training loss -> ``mse``, ``dtw`` and ``tdi``, and ``epoch`` if known. The table of a CSV file also
            has the last observed value as a forecast.
    """
    data = experiment.data
    if data.name == "csv":
        results = {**results, LAST_VALUE: evaluate_forecasts(_last_value(data), data.test.targets)}
    papers = {loss: _paper_comparison(experiment, loss) for loss in results}
    rows = [["loss", *map(str.upper, METRICS)]]
    rows += [[loss, *(f"{record[metric]:#.4g}" for metric in METRICS)] for loss, record in results.items()]
    if any(papers.values()):
        rows[0] += [f"paper's {metric.upper()}" for metric in METRICS]
        for row, paper in zip(rows[1:], papers.values(), strict=True):
            row += _paper_cells(paper)
    return "\n".join([_caption(experiment, results, any(papers.values())), *_aligned(rows)])


def units_table(experiment: Experiment, forecasts: Mapping[str, Tensor]) -> list[str]:
    """The errors of each variable of a CSV file in the file's units, beside those of the last observed value.

    Args:
        experiment: What was run.
        forecasts: Training loss -> forecasts of the test set, as the networks give them.

    Returns:
        The lines of the table; none where the data are of no CSV file, or of several series.
    """
    data = experiment.data
    if data.name != "csv" or data.target_scaling is None:
        return []
    targets, std = record_of(data).targets, data.target_scaling.std
    forecasts = {**forecasts, LAST_VALUE: _last_value(data)}
    rows = [["column", "loss", "MAE", "MSE"]]
    for variable, name in enumerate(targets[:MOST_TARGETS]):
        for loss, forecast in forecasts.items():
            error = std[variable] * (forecast[..., variable] - data.test.targets[..., variable]).double()
            rows.append([name, loss, f"{error.abs().mean():#.4g}", f"{error.square().mean():#.4g}"])
    more = f", the first {MOST_TARGETS} of {len(targets)} columns" if len(targets) > MOST_TARGETS else ""
    return ["", f"in the units of the file{more}, means over the test set", *_aligned(rows)]


def _last_value(data: ForecastData) -> Tensor:
    """The forecast that nothing changes any more."""
    last = data.test.inputs[:, -1:, record_of(data).target_positions]
    return last.expand(-1, data.horizon, -1)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _caption(experiment: Experiment, results: Mapping[str, Mapping[str, float]], with_paper: bool) -> str:
    units = "scaled units" if experiment.data.target_scaling is not None or experiment.data.series else "raw units"
    epochs = {record["epoch"] + 1 for record in results.values() if "epoch" in record}
    after = f" after {max(epochs)} epoch{'s' if max(epochs) > 1 else ''}" if epochs else ""
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
