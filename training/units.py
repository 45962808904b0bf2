"""The test part of a CSV file in the file's own units: forecasts with naive ones beside them, errors and times."""

from collections.abc import Mapping
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor

from data import ForecastData
from data.csv_time import shown_alike
from data.windows import Scaling
from evaluation.metrics import evaluate_forecasts

from .data_record import record_of

__all__ = ["LAST_VALUE", "arrays", "check_season", "errors", "in_file", "in_units", "naive_steps", "past_of"]
__all__ += ["place_of", "scaling_of", "targets_of"]

LAST_VALUE = "last value"


def scaling_of(data: ForecastData, window: int | slice = slice(None)) -> Scaling | None:
    """The scaling of the targets in one window of the test part, or in all; None where the units are the data's own.

    Returns:
        Mean and deviation, (targets,) for one window; (windows, 1, targets) or (targets,) for all.
    """
    if not data.series:
        return data.target_scaling
    counts = torch.tensor([len(series.test_starts) for series in data.series])
    scalings = [series.target_scaling for series in data.series]
    means, stds = (torch.stack([getattr(one, name) for one in scalings]) for name in ("mean", "std"))
    return Scaling(
        *(numbers.repeat_interleave(counts, 0).unsqueeze(1)[window].squeeze(0) for numbers in (means, stds))
    )


def in_units(data: ForecastData, values: Tensor) -> Tensor:
    """Forecasts or targets of the whole test part, (windows, steps, targets), float64, in the units of the file."""
    scaling = scaling_of(data)
    return values.double() if scaling is None else scaling.unscale(values.double())


def past_of(data: ForecastData) -> Tensor:
    """The observed part of the variables to forecast in all windows of the test part, as the network sees it."""
    return data.test.inputs[..., record_of(data).target_positions]


def in_file(data: ForecastData, steps: np.ndarray) -> Tensor:
    """The variables to forecast at some steps of each window of the test part, as they are in a CSV file.

    The network's windows are float32 and scaled, and do not give them back: equal differences of two pairs of values,
    which are frequent among whole numbers, differ by rounding, and that changes which path of DTW is the best one.

    Returns:
        (windows, steps, targets), float64; the first step of a window is 0.
    """
    targets = record_of(data).target_positions
    values = [series.values[series.test_starts[:, None] + steps][..., targets] for series in data.series]
    return torch.from_numpy(np.concatenate(values))


def targets_of(data: ForecastData) -> Tensor:
    """The targets of the test part, (windows, N_output, targets), float64, in the units of the file."""
    if not data.series:
        return in_units(data, data.test.targets)
    return in_file(data, data.input_length + np.arange(data.horizon))


def naive_steps(data: ForecastData, season: int | None) -> dict[str, np.ndarray]:
    """The N_output steps of the input that a naive forecast repeats: the last one, and those of the last season."""
    steps = {LAST_VALUE: np.full(data.horizon, data.input_length - 1)}
    if season is not None:
        steps["last season"] = data.input_length - season + np.arange(data.horizon) % season
    return steps


def check_season(data: ForecastData, season: int | None) -> None:
    """Make sure that the observed steps hold a season.

    Raises:
        ValueError: If they do not, or the data are of no CSV file.
    """
    if season is not None and data.name != "csv":
        raise ValueError(f"--season cannot be given with --dataset {data.name}, only with csv.")
    if season is not None and season > data.input_length:
        raise ValueError(f"--season must be at most --input-length, which is {data.input_length}, got {season}.")


def errors(data: ForecastData, forecasts: Mapping[str, Tensor]) -> list[dict[str, str | float]]:
    """The errors of each variable in the units of the file, means over the test part.

    Args:
        data: Of a CSV file.
        forecasts: Training loss -> forecasts of the test part, in the units of the file.

    Returns:
        A row for each variable and loss: ``column``, ``loss``, ``mae``, ``mse``, ``dtw``, ``tdi``. Of several series
        there are such rows for each, with its name in ``series``, after those over all, in which ``series`` is empty.
    """
    targets, rows = targets_of(data), []
    parts = {"": slice(None)}
    if len(data.series) > 1:
        ends = np.cumsum([0, *(len(series.test_starts) for series in data.series)])
        parts |= {series.name: slice(*of_one) for series, of_one in zip(data.series, pairwise(ends), strict=True)}
    for variable, name in enumerate(record_of(data).targets):
        for (series, windows), (loss, forecast) in product(parts.items(), forecasts.items()):
            predicted, true = (values[windows, :, variable : variable + 1] for values in (forecast, targets))
            mae = float((predicted - true).abs().mean())
            where = {"column": name, **({"series": series} if len(parts) > 1 else {}), "loss": loss}
            rows.append({**where, "mae": mae, **evaluate_forecasts(predicted, true)})
    return rows


def place_of(data: ForecastData, window: int) -> tuple[str, list[str] | None]:
    """The name of the series that one window of the test part is of, "" for the only one, and the window's times.

    Returns:
        The times are those of the N_input + N_output steps; None where there are none.
    """
    for series in data.series:
        if window < len(series.test_starts):
            rows = int(series.test_starts[window]) + np.arange(data.input_length + data.horizon)
            return series.name or "", None if series.times is None else series.shown_times(rows)
        window -= len(series.test_starts)
    return "", None


def arrays(data: ForecastData, forecasts: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """What a file of predictions holds: ``target`` and each loss's forecasts, in the units of the data.

    Returns:
        Each (windows, N_output, targets), float64; with the names of the variables in ``columns`` where they have
        names, and of a CSV file ``series`` and ``times``, (windows,) and (windows, N_output), where it has these.
    """
    found = {"target": targets_of(data), **{loss: in_units(data, one) for loss, one in forecasts.items()}}
    found = {name: values.numpy() for name, values in found.items()}
    if data.columns:
        found["columns"] = np.array(record_of(data).targets)
    if data.series and data.series[0].name is not None:
        found["series"] = np.repeat([one.name for one in data.series], [len(one.test_starts) for one in data.series])
    if data.series and data.series[0].times is not None:
        steps = data.input_length + np.arange(data.horizon)
        times = np.concatenate([one.times[one.test_starts[:, None] + steps] for one in data.series])
        every = np.concatenate([one.times for one in data.series])
        found["times"] = np.array(shown_alike(times, data.series[0].offset, among=every))
    return found
