"""A trained network with the scaling of its data: from a past in a file's units to a forecast in these units."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data.csv_time import (
    RowError,
    Step,
    are_stamps,
    first_gap,
    formats,
    may_be_stamp,
    read_numbered_times,
    read_times,
    shown_alike,
    steps_of,
    times_at,
)
from data.windows import History, Scaling, WindowDataset

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
                are taken by the names in `data.columns`; without names, as in an array, the columns stand in that
                order. Where a table has the column `data.time_column`, or an index of dates, of periods or of dates
                as text, its rows must be sorted by time and, if the training had times, the steps that are used be
                those of the training; numbers in an index are labels. In `data.series_column` only the name of the
                series may stand.
            series: Name of the series, where the network was trained on several.

        Returns:
            Forecast, (`data.horizon`, targets), float64, in the file's units; the names are in `data.targets`.

        Raises:
            TypeError: If the history holds no real numbers.
            ValueError: If a column is missing or stands there twice, the shape is another one, the history is too
                short, a value that is used is missing, masked or not finite, the times are no equal steps, a number
                is too large for float32 within the network, there is no such series, or the table holds others.
        """
        # A caller's default device and mixed precision are those of other networks.
        with torch.device("cpu"), torch.autocast(next(self.net.parameters()).device.type, enabled=False):
            scaling, targets = self.data.scaling_of(series), self.data.target_positions
            window = torch.from_numpy(self._window(history, series))
            scaled = window if scaling is None else scaling.scale(window)
            unknown = torch.zeros(1, self.data.horizon, self.data.output_size)
            forecast = predict(self.net, WindowDataset(scaled[None], unknown))[0][0].double()
            if scaling is not None:
                forecast = Scaling(scaling.mean[targets], scaling.std[targets]).unscale(forecast)
        if not (scaled.float().isfinite().all() and forecast.isfinite().all()):
            raise ValueError("history must hold numbers that are not too large for float32 within the network.")
        return forecast.numpy()

    def _window(self, history: object, series: str | None) -> np.ndarray:
        length, is_table = self.data.input_length, hasattr(history, "columns")
        if is_table and hasattr(history, "column_names"):  # pyarrow's, whose columns are no names
            history = history.to_pandas()
        history = self._with_index(history) if is_table else history
        values = _numbers(self._columns_of(history, series) if is_table else history)
        if values.ndim != 2 or values.shape[1] != self.data.input_size:
            raise ValueError(f"history must be shaped (steps, {self.data.input_size}), not {values.shape}.")
        if len(values) < length:
            raise ValueError(f"history must have at least {length} steps, not {len(values)}.")
        if not np.isfinite(values[-length:]).all():
            raise ValueError(f"history must be finite in its last {length} steps.")
        if is_table:
            step = self.data.known_steps.get(series)
            _check_times(_times_in(history, self.data.time_column, step), length, step)
        return values[-length:]

    def _with_index(self, table: object) -> object:
        """A table with those levels of its index as columns that have the names of the training's columns."""
        known = {self.data.series_column, self.data.time_column} - {None, *table.columns}
        levels = [name for name in getattr(getattr(table, "index", None), "names", ()) if name in known]
        return table.reset_index(level=levels) if levels else table

    def _columns_of(self, table: object, series: str | None) -> object:
        columns, names = self.data.columns, list(table.columns)
        if not columns:
            return table
        for name in columns:
            if names.count(name) != 1:
                has = f"has {names.count(name)} columns {name!r}" if name in names else f"has no {name!r}"
                raise ValueError(f"history must have the columns {', '.join(columns)}, but {has}.")
        if self.data.series_column in names:
            there = {str(name).strip() for name in table[self.data.series_column]}
            others = there - {series}
            if others:
                also = "also " * (len(others) < len(there))
                raise ValueError(f"history must hold the series {series!r} only, but {also}holds {min(others)!r}.")
        return table[list(columns)]


def _numbers(history: object) -> np.ndarray:
    """A history as float64, NaN where a value is missing or masked."""
    try:
        if isinstance(history, Tensor):
            history = history.detach().cpu()
            history = (history.double() if history.is_floating_point() else history).numpy()
        if hasattr(history, "isna"):  # a table of pandas, whose missing values have many forms
            missing, history = history.isna(), history.to_numpy(dtype=object, copy=True)
            history[missing] = np.nan
        values = np.ma.asarray(history)
        if values.dtype.kind == "O" and any(isinstance(value, str) and "_" in value for value in values.ravel()):
            raise TypeError("underscores belong to no number")  # which Python takes
        if values.dtype.kind not in "biufO":
            raise TypeError(f"given {values.dtype}")
        return values.astype(np.float64).filled(np.nan)
    except (TypeError, ValueError) as error:
        raise TypeError(f"history must be an array or a table of numbers ({error}).") from None


def _times_in(table: object, column: str | None, step: Step | None) -> np.ndarray | None:
    """The times of a table's rows: in the training's column of times, or else in an index or a column of dates.

    None without these.

    Raises:
        ValueError: If a cell holds no time, or there are several such columns.
    """
    index = getattr(table, "index", None)
    levels = [index.get_level_values(k) for k in range(getattr(index, "nlevels", 0))]
    if getattr(table, "ndim", 0) == 2 and hasattr(table, "iloc"):
        others = (table.iloc[:, k].array for k in range(table.shape[1]))
        levels += [other for other in others if _are_times(other, step)]
    count = 0 if column is None else list(table.columns).count(column)
    if count > 1:
        raise ValueError(f"history must have one column {column!r} of times, but has {count}.")
    if count:
        times = getattr(table[column], "array", table[column])
    else:
        times = next((level for level in levels if _may_hold_times(level, step)), None)
    if times is None:
        return None
    times = times.to_timestamp() if hasattr(times, "to_timestamp") else times  # of periods
    if getattr(times.dtype, "tz", None) is not None:
        times = [str(time) for time in times]  # with their offset
    values = np.asarray(times)
    if values.dtype.kind == "M":
        return values.astype("datetime64[us]")
    try:
        if values.dtype.kind in "iuf":
            return read_numbered_times(values.astype(np.float64), known=step)
        cells = np.array([str(cell).strip().encode() for cell in values.tolist()], dtype=np.bytes_)
        return read_times(cells, known=step)[0]
    except RowError as problem:
        raise ValueError(f"history must hold times in its rows, but row {problem.row} {problem}.") from None


def _are_times(column: object, step: Step | None) -> bool:
    """Whether a column of any name holds dates, periods, or text that is, or where the training had times may be."""
    kind = getattr(column.dtype, "kind", "")
    if kind != "O" or hasattr(column, "to_timestamp"):
        return kind == "M" or hasattr(column, "to_timestamp")
    texts = [str(cell).strip() for cell in column]
    if step is None:  # only their order is checked, which takes no guess where the year comes first
        return bool(texts) and len(formats(texts[0])) == 1 and are_stamps(texts)
    return are_stamps(texts) or all(map(may_be_stamp, texts))


def _may_hold_times(level: object, step: Step | None) -> bool:
    """Whether a level of an index holds dates, or, where the training had times, text or objects that may be some."""
    kind = getattr(level.dtype, "kind", "")
    if kind == "O" and not hasattr(level, "to_timestamp"):
        texts = [str(k).strip() for k in level]
        return _are_times(level, step) or (step is not None and any(formats(t) or may_be_stamp(t) for t in texts))
    return kind == "M" or hasattr(level, "to_timestamp")


def _check_times(times: np.ndarray | None, length: int, step: Step | None) -> None:
    """Make sure that the last rows are the newest, and equal steps, where there are times.

    Raises:
        ValueError: If they are not; rows are counted from 0.
    """
    if times is None:
        return
    window = times[-length:]
    if np.isnan(window).any() if window.dtype.kind == "f" else np.isnat(window).any():
        raise ValueError(f"history must hold a time in each of its last {length} rows.")
    if (times[:-length] >= window[0]).any() or (np.diff(window) <= window[:1] - window[:1]).any():
        raise ValueError(f"history must be sorted by time, so that its last {length} rows are the newest.")
    if step is None:
        return
    try:
        gap = first_gap(window, *steps_of(window, step))
    except RowError as problem:
        gap = problem
    if gap:
        row = len(times) - length + gap.row
        raise ValueError(f"history must be in steps of {step}, as in the training: row {row} {gap}.")


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


def forecast_rows(forecaster: Forecaster, all_series: Sequence[History]) -> list[list[str]]:
    """Forecast what follows the last row of each series.

    Args:
        forecaster: A network trained on these columns.
        all_series: The series of a file.

    Returns:
        The rows of a table: names, then a row for each step, with the name of the series if there are several, its
        time, or its number where the file has no times, and the forecast of each target. Series and times have the
        names of their columns in the file, times without a name are called "time", numbers of steps "step".

    Raises:
        ValueError: As `Forecaster.predict` says, or the file has times, but a single row, which tells no step.
    """
    first = all_series[0]
    several, horizon = first.name is not None, forecaster.data.horizon
    of_times = "step" if first.times is None else first.time_column or "time"
    table = [[*[first.series_column] * several, of_times, *forecaster.data.targets]]
    if first.times is None:
        times = [[str(step) for step in range(1, horizon + 1)]] * len(all_series)
    else:
        after = np.stack([_times_after(series, horizon) for series in all_series])
        times = shown_alike(after, first.offset, among=np.concatenate([series.times for series in all_series]))
    for series, of_series in zip(all_series, times, strict=True):
        forecast = forecaster.predict(series.values, series.name)
        for time, values in zip(of_series, forecast.tolist(), strict=True):
            table.append([*[series.name] * several, time, *map(repr, values)])
    return table


def _times_after(series: History, count: int) -> np.ndarray:
    """The times of the steps after a series."""
    if not series.step.size:
        raise ValueError(f"column {series.time_column!r} must hold at least 2 times, which tell the step, not 1.")
    # Not from the last row, whose day of the month may be a shorter month's last one.
    return times_at(series.times[0], series.step, len(series.times) + np.arange(count))
