"""What a checkpoint keeps of its data: sizes, names and scaling of the variables, a fingerprint of the numbers."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch

from data import ForecastData
from data.csv_time import Step
from data.windows import Fingerprint, Scaling

from .checkpoint import CheckpointError

__all__ = ["OWN_DATA_ONLY", "DataRecord", "check_unchanged", "record_in", "record_of"]

OWN_DATA_ONLY = "a run goes on with its own data only, so give these by --data-path, or start a new run."


@dataclass(frozen=True)
class DataRecord:
    """The data of a training in plain values, as a network needs them that is used without these data.

    Attributes:
        input_length: N_input, in time steps.
        horizon: N_output, in time steps.
        columns: Names of the observed variables; empty where they have none.
        target_columns: Where the variables to forecast stand among the observed ones; None: they are the same.
        mean: Of each observed variable, in the file's units; None where the network works in these units, or where
            several series are scaled each by itself.
        std: The deviation that each observed variable was divided by, likewise.
        input_size: Number of observed variables.
        output_size: Number of variables to forecast.
        fingerprint: Of the numbers read (see `data.windows.fingerprint`); None where no file was read.
        series: Name of each of several series -> its mean and std; None where there is one series, or none.
        time_column: Name of the column of time stamps; None where there was none.
        series_column: Name of the column of the names of series; None where there was none.
        steps: Name of each series with time stamps, None for the only one -> the numbers of its `Step`.
        has_points: Whether the numbers of each column have decimal points.
        has_header: Whether the columns have names, not places; None where that is not known.
    """

    input_length: int
    horizon: int
    input_size: int
    output_size: int
    columns: tuple[str, ...]
    target_columns: tuple[int, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    fingerprint: Fingerprint | None
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None
    time_column: str | None = None
    series_column: str | None = None
    steps: Mapping[str | None, tuple[float, str, int, str]] = field(default_factory=dict)
    has_points: bool = False
    has_header: bool | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the variables to forecast; empty where they have none."""
        return tuple(self.columns[position] for position in self.target_positions) if self.columns else ()

    @property
    def target_positions(self) -> list[int]:
        """Where the variables to forecast stand among the observed ones."""
        return list(range(self.output_size) if self.target_columns is None else self.target_columns)

    @property
    def scaling(self) -> Scaling | dict[str, Scaling] | None:
        """The scaling of the observed variables, or that of each series; None where the units are the file's."""
        if self.series is not None:
            return {name: _scaling(*numbers) for name, numbers in self.series.items()}
        return None if self.mean is None else _scaling(self.mean, self.std)

    def scaling_of(self, series: str | None) -> Scaling | None:
        """The scaling of the observed variables of one series, or of the only one.

        Raises:
            ValueError: If there is no such series.
        """
        scaling, known = self.scaling, [None] if self.series is None else list(self.series)
        if series not in known:
            allowed = (
                "None, for there is one only" if self.series is None else f"one of {', '.join(map(repr, known))}"
            )
            raise ValueError(f"series must be {allowed}, not {series!r}.")
        return scaling if self.series is None else scaling[series]

    @property
    def known_steps(self) -> dict[str | None, Step]:
        """The time from row to row of each series with time stamps."""
        return {name: Step(*numbers) for name, numbers in self.steps.items()}

    @property
    def plain(self) -> dict[str, object]:
        """What a checkpoint holds."""
        return asdict(self)


def _scaling(mean: Sequence[float], std: Sequence[float]) -> Scaling:
    return Scaling(*(torch.tensor(numbers, dtype=torch.float64) for numbers in (mean, std)))


def record_of(data: ForecastData) -> DataRecord:
    """The record of data that are trained on."""
    scaling = data.input_scaling
    series = {one.name: (one.input_scaling.mean.tolist(), one.input_scaling.std.tolist()) for one in data.series}
    return DataRecord(
        input_length=data.input_length,
        horizon=data.horizon,
        input_size=data.input_size,
        output_size=data.output_size,
        columns=tuple(data.columns),
        target_columns=data.target_columns,
        mean=None if scaling is None else tuple(scaling.mean.tolist()),
        std=None if scaling is None else tuple(scaling.std.tolist()),
        fingerprint=data.fingerprint,
        series=None if None in series or not series else series,
        time_column=data.series[0].time_column if data.series else None,
        series_column=data.series[0].series_column if data.series else None,
        steps={one.name: tuple(one.step) for one in data.series if one.step},
        has_points=bool(data.series and data.series[0].has_points),
        has_header=data.series[0].has_header if data.series else None,
    )


def record_in(checkpoint: Mapping, path: str | os.PathLike[str]) -> DataRecord | None:
    """The record that a checkpoint holds; None in a checkpoint of an earlier version, or of weights only.

    Args:
        checkpoint: As read by `load_checkpoint`.
        path: Its file, for the message.

    Raises:
        CheckpointError: If the record is damaged.
    """
    plain = checkpoint.get("settings", {}).get("data")
    try:
        return None if plain is None else DataRecord(**plain)
    except TypeError:
        raise CheckpointError(
            f"{path} is damaged: its record of the data that it was trained on is incomplete."
        ) from None


def check_unchanged(what: str, before: Fingerprint | None, now: Fingerprint) -> None:
    """Make sure that a file holds the numbers that it held.

    Args:
        what: The file, for the message.
        before: Fingerprint of the numbers that a network was trained on; without one, all numbers pass.
        now: That of the numbers to go on with.

    Raises:
        CheckpointError: If the numbers differ.
    """
    if before is None or before == now:
        return
    had, has = before["rows"], now["rows"]
    if has != had:
        how = f"has {has} rows in place of {had}"
    elif before["sha256"] != now["sha256"]:
        how = f"holds other values in its {had} rows"
    else:
        how = "holds the same values, but other series or other columns to forecast"
    raise CheckpointError(f"{what} changed since the run began: it {how}; {OWN_DATA_ONLY}")
