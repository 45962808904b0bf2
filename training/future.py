"""What follows the last row of a CSV file: the forecasts of one network, or of all of a run side by side."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.windows import History

from .checkpoint import CheckpointError, load_checkpoint
from .forecaster import Forecaster, forecast_rows
from .run_folder import RunFolder

__all__ = ["checkpoints_in", "filled_values", "forecast_curves", "forecast_table"]

PAST_HORIZONS = 3  # in the figure


def checkpoints_in(path: str | os.PathLike[str], losses: Sequence[str]) -> dict[str, Path]:
    """Training loss -> checkpoint, of a single checkpoint or of the folder of a run that trained with these losses.

    Raises:
        FileNotFoundError: If one of them is not there.
        CheckpointError: If one of a folder was trained with another loss than it is named by.
        OSError, CheckpointError: As `load_checkpoint` says.
    """
    path = Path(path)
    found = {loss: RunFolder(path).checkpoint(loss) for loss in losses} if path.is_dir() else {path.stem: path}
    trained_with = {name: load_checkpoint(file).get("settings", {}).get("loss", name) for name, file in found.items()}
    for name, loss in trained_with.items():
        if path.is_dir() and loss != name:
            raise CheckpointError(f"{found[name]} was trained with loss {loss!r}: has it changed places?")
    return {trained_with[name]: file for name, file in found.items()}


def forecast_table(forecasters: Mapping[str, Forecaster], past: Sequence[History]) -> list[list[str]]:
    """Forecast what follows the last row of each series.

    Args:
        forecasters: Training loss -> a network trained on these columns.
        past: The series of a file.

    Returns:
        The rows of `forecast_rows`; those of several losses are joined, with the losses behind the variables' names.
        Where a variable has the name of the column of series or times, "(series)" or "(time)" follows the latter.

    Raises:
        ValueError: If the networks forecast different variables, and as `Forecaster.predict` says.
    """
    first, *others = (forecaster.data.targets for forecaster in forecasters.values())
    for other in others:
        if other != first:
            raise ValueError(f"The networks of one table must forecast the same variables, got {first} and {other}.")
    tables = {loss: forecast_rows(forecaster, past) for loss, forecaster in forecasters.items()}
    targets = len(first)
    if len(tables) > 1:
        for loss, (head, *_) in tables.items():
            head[-targets:] = [f"{name} {loss}" for name in head[-targets:]]
    head, *body = (
        [*rows[0][:-targets], *(cell for row in rows for cell in row[-targets:])]
        for rows in zip(*tables.values(), strict=True)
    )
    return [_told_apart(head, len(tables) * targets), *body]


def _told_apart(head: list[str], variables: int) -> list[str]:
    """Column names of which none is there twice; the last ones are of variables."""
    names = head[-variables:]
    for name, what in zip(reversed(head[:-variables]), ("time", "series"), strict=False):
        while name in names:
            name = f"{name} ({what})"
        names = [name, *names]
    return names


def filled_values(past: Sequence[History], length: int) -> list[str]:
    """A line for each series of which some of the last values, that the network observes, were filled in."""
    lines = []
    for series in past:
        window = None if series.filled is None else series.filled[-length:]
        if window is not None and window.any():
            of = "" if series.name is None else f" of series {series.name!r}"
            lines.append(f"filled in the last {length} rows{of}: {window.sum()} of {window.size} values")
    return lines


def forecast_curves(
    forecasters: Mapping[str, Forecaster], past: Sequence[History], table: Sequence[Sequence[str]]
) -> dict[tuple[str, str | None], tuple[np.ndarray, dict[str, np.ndarray], list[str] | None]]:
    """The curves of a table of forecasts: of each variable of each series the recent past, forecasts and times.

    Returns:
        Names of variable and series -> past (steps,), training loss -> forecast (N_output,), and the times of all
        steps, None without times.
    """
    record = next(iter(forecasters.values())).data
    count, horizon, curves = len(record.targets), record.horizon, {}
    for number, series in enumerate(past):
        rows = table[1 + number * horizon : 1 + (number + 1) * horizon]
        recent = slice(-PAST_HORIZONS * horizon, None)
        times = None
        if series.times is not None:
            times = [*series.shown_times(recent), *(row[series.name is not None] for row in rows)]
        for position, variable in enumerate(record.target_positions):
            forecasts = {
                loss: np.array([float(row[(place - len(forecasters)) * count + position]) for row in rows])
                for place, loss in enumerate(forecasters)
            }
            curves[record.targets[position], series.name] = (series.values[recent, variable], forecasts, times)
    return curves
