"""A trained network with the scaling of its data: from a past in a file's units to a forecast in these units."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from data.csv_time import shown, steps_of, times_of_all
from data.windows import Scaling, Series, WindowDataset

from .checkpoint import CheckpointError, load_checkpoint
from .data_record import DataRecord, record_in
from .experiment import Experiment
from .loop import predict

__all__ = ["Forecaster", "forecast_rows", "load_forecaster"]


@dataclass(frozen=True)
class Forecaster:
    """A network that takes and returns numbers in the units of the file that it was trained on.

    Attributes:
        net: The network.
        data: Sizes, names and scaling of the data that it was trained on.
    """

    net: nn.Module
    data: DataRecord

    def predict(self, history: object, series: str | None = None) -> np.ndarray:
        """Forecast the steps after a history.

        Args:
            history: The observed variables, (L, columns), in the file's units, at least `data.input_length` steps, of
                which the last ones are used: an array, a tensor, or a table such as pandas' DataFrame, whose columns
                are taken by the names in `data.columns`.
            series: Name of the series, where the network was trained on several.

        Returns:
            Forecast, (`data.horizon`, targets), float64, in the file's units; the names are in `data.targets`.

        Raises:
            TypeError: If the history holds no numbers.
            ValueError: If a column is missing, the shape is another one, the history is too short, a value that is
                used is not finite, or there is no such series.
        """
        window = torch.from_numpy(self._window(history))
        scaling, targets = self.data.scaling_of(series), self.data.target_positions
        scaled = window if scaling is None else scaling.scale(window)
        unknown = torch.zeros(1, self.data.horizon, self.data.output_size)
        forecast = predict(self.net, WindowDataset(scaled[None], unknown))[0][0].double()
        if scaling is not None:
            forecast = Scaling(scaling.mean[targets], scaling.std[targets]).unscale(forecast)
        return forecast.numpy()

    def _window(self, history: object) -> np.ndarray:
        columns, length = self.data.columns, self.data.input_length
        if columns and hasattr(history, "columns"):
            missing = [name for name in columns if name not in history.columns]
            if missing:
                raise ValueError(f"history must have the columns {', '.join(columns)}, but has no {missing[0]!r}.")
            history = history[list(columns)]
        try:
            if isinstance(history, Tensor):
                history = history.detach().cpu().double().numpy()
            values = np.array(history, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"history must be an array or a table of numbers ({error}).") from None
        if values.ndim != 2 or values.shape[1] != self.data.input_size:
            raise ValueError(f"history must be shaped (steps, {self.data.input_size}), not {values.shape}.")
        if len(values) < length:
            raise ValueError(f"history must have at least {length} steps, not {len(values)}.")
        if not np.isfinite(values[-length:]).all():
            raise ValueError(f"history must be finite in its last {length} steps.")
        return values[-length:]


def load_forecaster(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Forecaster:
    """Read the forecaster that `main.py` left in a checkpoint, running no code from the file.

    Args:
        path: The checkpoint, such as ``runs/RUN/checkpoints/dilate.pt``.
        device: Where the network computes.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        CheckpointError: If it is no checkpoint, or one that says nothing of its data: of weights only, or of an
            earlier version.
    """
    checkpoint = load_checkpoint(path)
    record = record_in(checkpoint, path)
    if record is None:
        raise CheckpointError(
            f"{path} keeps no scaling of its data: it was written by an earlier version, or holds weights only."
        )
    # A record has the sizes that a network needs of its data.
    experiment = Experiment(argparse.Namespace(**checkpoint["settings"]), record, torch.device(device))
    with torch.random.fork_rng(devices=[]):
        return Forecaster(experiment.trained_network(path), record)


def forecast_rows(forecaster: Forecaster, all_series: Sequence[Series]) -> list[list[str]]:
    """Forecast what follows the last row of each series.

    Args:
        forecaster: A network trained on these columns.
        all_series: The series of a file.

    Returns:
        The rows of a table: names, then a row for each step, with the name of the series if there are several, its
        time, or its number where the file has no times, and the forecast of each target.

    Raises:
        ValueError: As `Forecaster.predict` says.
    """
    several, time_column = all_series[0].name is not None, all_series[0].time_column
    table = [[*["series"] * several, time_column or "step", *forecaster.data.targets]]
    for series in all_series:
        forecast = forecaster.predict(series.values, series.name)
        times = _times_after(series.times, len(forecast))
        for time, values in zip(times, forecast.tolist(), strict=True):
            table.append([*[series.name] * several, time, *map(repr, values)])
    return table


def _times_after(times: np.ndarray | None, count: int) -> list[str]:
    """The times of the steps after some equal steps, or their numbers."""
    if times is None:
        return [str(step) for step in range(1, count + 1)]
    steps = steps_of(times)
    whole = replace(steps, positions=np.array([0, steps.positions[-1] + count]))
    return [shown(time) for time in times_of_all(times, whole)[-count:]]
