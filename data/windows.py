"""Windows over time series: what every dataset here is made of, and how batches are drawn from it."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from .arguments import called
from .csv_time import Step, shown_alike

CHRONOLOGICAL_SPLIT = (0.6, 0.2, 0.2)  # train, validation, test: the paper's Traffic protocol (section 4.1)

Index = SupportsIndex | slice | Sequence[int] | np.ndarray | Tensor
Fingerprint = dict[str, int | str]


def check_count(name: str, value: SupportsIndex, at_least: int = 1) -> int:
    """Return the `value` of the argument `name` as an int.

    Raises:
        TypeError: The value is not a whole number.
        ValueError: The value is less than `at_least`.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{called(name)} must be a whole number of at least {at_least}, given {value!r}") from None
    if count < at_least:
        raise ValueError(f"{called(name)} must be a whole number of at least {at_least}, given {count}")
    return count


class WindowDataset(Dataset):
    """Pairs of an observed window and the window that follows it.

    Item `i` is `(input, target)`. A list, array or LongTensor of indices, or a slice, gives a whole batch at
    once, without a loop over its samples. The result is a copy: changing it never changes the data.

    Args:
        inputs: Observed windows, (n, N_input, d_in), any real dtype; kept as float32, without a copy where
            they are float32 tensors already (so overlapping views of one long series stay views).
        targets: The windows to forecast, (n, N_output, d_out), likewise.

    Attributes:
        inputs: Float32 tensor (n, N_input, d_in).
        targets: Float32 tensor (n, N_output, d_out).

    Raises:
        ValueError: Not three axes, an empty axis, not as many targets as inputs, or an array of which some is masked.
    """

    def __init__(self, inputs: Tensor | np.ndarray, targets: Tensor | np.ndarray) -> None:
        self.inputs, self.targets = _unmasked("inputs", inputs), _unmasked("targets", targets)
        for name, windows in (("inputs", self.inputs), ("targets", self.targets)):
            if windows.ndim != 3 or 0 in windows.shape:
                shape = tuple(windows.shape)
                raise ValueError(f"{name} must have shape (windows, time steps, variables) >= 1, given {shape}")
        if len(self.inputs) != len(self.targets):
            counts = f"{len(self.inputs)} inputs and {len(self.targets)} targets"
            raise ValueError(f"inputs and targets must be equally many windows, given {counts}")

    @classmethod
    def from_series(
        cls,
        series: Tensor | np.ndarray,
        input_length: int,
        horizon: int,
        stride: int = 1,
        target_columns: Sequence[int] | None = None,
    ) -> WindowDataset:
        """Slide a window of N_input + N_output steps over one series, without copying it per window.

        Args:
            series: (T, d), any real dtype.
            input_length: N_input, in time steps.
            horizon: N_output, in time steps.
            stride: Time steps from one window to the next.
            target_columns: Which of the d variables to forecast; all of them by default.

        Raises:
            TypeError: A length or the stride is not a whole number.
            ValueError: A length or the stride is below 1, or the series is shorter than one window.
        """
        check_count("input_length", input_length)
        check_count("horizon", horizon)
        check_count("stride", stride)
        series = _unmasked("series", series)
        if series.ndim != 2:
            raise ValueError(f"series must have shape (time steps, variables), given {tuple(series.shape)}")
        if len(series) < input_length + horizon:
            need = f"input_length + horizon = {input_length} + {horizon} = {input_length + horizon}"
            raise ValueError(f"series has {len(series)} time steps, but one window needs {need}")
        forecast = series if target_columns is None else series[:, list(target_columns)]
        inputs = series[: len(series) - horizon].unfold(0, input_length, stride)
        targets = forecast[input_length:].unfold(0, horizon, stride)
        return cls(inputs.transpose(1, 2), targets.transpose(1, 2))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Index) -> tuple[Tensor, ...]:
        return pick(self.inputs, index), pick(self.targets, index)


def _unmasked(name: str, values: Tensor | np.ndarray) -> Tensor:
    """Numbers as float32, none of which a mask says to be missing: windows are served without their masks."""
    if np.ma.is_masked(values):
        raise ValueError(f"{called(name)} must not be masked: fill in what is missing, or leave out its windows")
    return torch.as_tensor(values, dtype=torch.float32)


def pick(values: Tensor, index: Index) -> Tensor:
    """Index the first axis of `values` and return a copy, whatever the index."""
    picked = values[index]
    # A single index or a slice gives a view, and neighbouring windows share their memory.
    shared = picked.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
    return picked.clone() if shared else picked


@dataclass(frozen=True, eq=False)
class Scaling:
    """The affine map between the units of a file and those a network sees, variable by variable.

    Attributes:
        mean: Float64 tensor (d,), in the file's units.
        std: Float64 tensor (d,), in the file's units; 0 for a constant variable, which is only centred.
    """

    mean: Tensor
    std: Tensor

    @property
    def divisor(self) -> Tensor:
        """What centred values are divided by: their deviation, and 1 where that is 0."""
        return self.std.where(self.std != 0, 1.0)

    def checked(self, values: np.ndarray | Tensor) -> Scaling:
        """Return this scaling, once made sure that it is one of `values` (..., d).

        Raises:
            ValueError: It is of another number of variables.
        """
        if len(self.mean) != values.shape[-1]:
            raise ValueError(f"{called('scaling')} must be of {values.shape[-1]} variables, given {len(self.mean)}")
        return self

    def scale(self, values: Tensor) -> Tensor:
        """Bring `values` (..., d) from the file's units to the network's, in their own dtype; counts in float64."""
        values = values if values.is_floating_point() else values.double()
        return (values - self.mean.to(values)) / self.divisor.to(values)

    def unscale(self, values: Tensor) -> Tensor:
        """Bring `values` (..., d), for example forecasts, back to the file's units, likewise."""
        values = values if values.is_floating_point() else values.double()
        return values * self.divisor.to(values) + self.mean.to(values)


def fingerprint(values: np.ndarray, roles: object = None) -> Fingerprint:
    """Return what tells apart the numbers read from files: their `rows`, and the `sha256` of their float64.

    Args:
        values: (rows, columns), any real dtype.
        roles: What the numbers are used for, where that is not always the same: kept as text under `roles`.
    """
    found = {"rows": len(values), "sha256": hashlib.sha256(np.ascontiguousarray(values, dtype="<f8")).hexdigest()}
    return found if roles is None else {**found, "roles": repr(roles)}


@dataclass(frozen=True, eq=False)
class History:
    """One of the series of a file.

    Attributes:
        name: Its name; None where a file holds one series only.
        values: All of its rows, float64 (rows, d), in the file's units.
        times: The time of each row, datetime64 or float64 (rows,); None where the file holds none.
        step: The time from row to row, likewise.
        time_column: Name of the column of its times, likewise.
        offset: How far its times are ahead of UTC, such as "+02:00"; "" where the file does not say.
        series_column: Name of the column of the names of series; None where a file holds one series only.
        has_header: Whether its columns have names.
        has_points: Whether the numbers of each column have decimal points.
        filled: Which values were missing and are filled in, bool (rows, d); None where none was.
    """

    name: str | None
    values: np.ndarray
    times: np.ndarray | None
    step: Step | None
    time_column: str | None
    offset: str
    series_column: str | None
    has_header: bool
    has_points: bool
    filled: np.ndarray | None

    def shown_times(self, rows: Sequence[int] | slice) -> list[str]:
        """Return the times of some rows as text, of one form for all rows."""
        return shown_alike(self.times[rows], self.offset, among=self.times)


@dataclass(frozen=True, eq=False)
class Series(History):
    """One of the series that windows were cut from.

    Attributes:
        ends: The rows at which its training, validation and test part end.
        test_starts: The row at which each window of the test part begins, (windows,).
        input_scaling: The scaling of its inputs.
        target_scaling: The same for its targets.
    """

    ends: tuple[int, int, int]
    test_starts: np.ndarray
    input_scaling: Scaling
    target_scaling: Scaling


def scaling_for(
    series: str | None, scaling: Scaling | Mapping[str, Scaling] | None, values: np.ndarray
) -> Scaling | None:
    """Return the scaling that was given for the `values` (..., d) of a series; None where none was.

    Raises:
        ValueError: There is none for this series, or one of another number of variables.
    """
    if isinstance(scaling, Mapping):
        if series not in scaling:
            known = ", ".join(scaling)
            raise ValueError(f"{called('scaling')} must hold one for series {series!r}, given those of {known}")
        scaling = scaling[series]
    return scaling if scaling is None else scaling.checked(values)


@dataclass(frozen=True, eq=False)
class ForecastData:
    """One forecasting task: its parts, with the sizes that a network for it needs.

    Attributes:
        name: Its name for `load`.
        train: Pairs to train on.
        valid: Pairs to choose and stop by; None where the dataset has no such part.
        test: Pairs to report on.
        input_scaling: The scaling of the inputs; None where they are in the file's own units, or where several
            series are scaled each by itself (see `series`).
        target_scaling: The same for the targets: `target_scaling.unscale(forecast)` undoes it.
        fingerprint: Of the numbers that were read from files (see `fingerprint`); None where no file was read.
        columns: Names of the observed variables; empty where they have none.
        target_columns: Where the variables to forecast stand among the observed ones; None: they are the same.
        series: The series that the windows were cut from, of a CSV file.
        about: Lines that say what was read from a CSV file.
    """

    name: str
    train: WindowDataset
    valid: WindowDataset | None
    test: WindowDataset
    input_scaling: Scaling | None = None
    target_scaling: Scaling | None = None
    fingerprint: Fingerprint | None = None
    columns: tuple[str, ...] = ()
    target_columns: tuple[int, ...] | None = None
    series: tuple[Series, ...] = ()
    about: tuple[str, ...] = ()

    @property
    def input_length(self) -> int:
        """N_input, in time steps."""
        return self.train.inputs.shape[1]

    @property
    def horizon(self) -> int:
        """N_output, in time steps."""
        return self.train.targets.shape[1]

    @property
    def input_size(self) -> int:
        """Variables observed at each step."""
        return self.train.inputs.shape[2]

    @property
    def output_size(self) -> int:
        """Variables forecast at each step."""
        return self.train.targets.shape[2]


def split_points(
    length: int, split: Sequence[float], input_length: int, horizon: int, reach_back: bool = False
) -> tuple[int, int, int]:
    """Return where the training, validation and test part of a series end, if each part holds a window.

    Args:
        length: Time steps of the whole series.
        split: Shares of train, validation and test, which sum to 1; or whole numbers, their time steps, counted
            from the beginning of the series, whose rest is left out. Only validation may be 0.
        input_length: N_input, in time steps.
        horizon: N_output, in time steps.
        reach_back: Whether validation and test need room for targets only (see `chronological_windows`).

    Raises:
        TypeError: `input_length` or `horizon` is not a whole number.
        ValueError: A length is below 1, `split` is not as said, or a part is too short.
    """
    check_count("input_length", input_length)
    check_count("horizon", horizon)
    train_end, valid_end, test_end = ends = _part_ends(length, split)
    steps = {"training": train_end, "validation": valid_end - train_end, "test": test_end - valid_end}
    for part, count in steps.items():
        observed = 0 if reach_back and part != "training" else input_length
        if count < observed + horizon and (part != "validation" or float(split[1]) > 0):
            lengths = f"{called('input_length')} + {called('horizon')}"
            need = f"{lengths} = {observed} + {horizon} = {observed + horizon}"
            raise ValueError(f"the {part} part has {count} of the {length} time steps, but one window needs {need}")
    return ends


def _part_ends(length: int, split: Sequence[float]) -> tuple[int, int, int]:
    try:
        steps = [operator.index(count) for count in split]
    except TypeError:
        try:
            shares = [float(share) for share in split]
        except (TypeError, ValueError):
            shares = []
        _check_parts(split, shares if math.isclose(sum(shares), 1.0, abs_tol=1e-6) else [])
        first, second, _ = shares
        # 0.7 + 0.1 falls just below 0.8 in floating point, and must not lose a step for it.
        return int(length * first + 1e-6), int(length * (first + second) + 1e-6), length
    _check_parts(split, steps)
    if sum(steps) > length:
        raise ValueError(
            f"{called('split')} asks for {' + '.join(map(str, steps))} time steps, but the series has {length}"
        )
    return steps[0], steps[0] + steps[1], sum(steps)


def _check_parts(split: Sequence[float], sizes: Sequence[float]) -> None:
    if len(sizes) != 3 or min(sizes) < 0 or sizes[0] == 0 or sizes[2] == 0:
        allowed = "three shares (train, validation, test) that sum to 1, or three numbers of time steps"
        raise ValueError(f"{called('split')} must be {allowed}, of which only validation may be 0, given {split!r}")


def chronological_windows(
    series: Tensor | np.ndarray,
    input_length: int,
    horizon: int,
    stride: int = 1,
    split: Sequence[float] = CHRONOLOGICAL_SPLIT,
    target_columns: Sequence[int] | None = None,
    reach_back: bool = False,
) -> tuple[WindowDataset, WindowDataset | None, WindowDataset]:
    """Cut a series in time into train, validation and test, and slide windows inside each part.

    No target reaches over a border, so no value is forecast in two parts.

    Args:
        series: (T, d), any real dtype.
        input_length: N_input, in time steps.
        horizon: N_output, in time steps.
        stride: Time steps from one window to the next.
        split: Shares of train, validation and test, or their time steps (see `split_points`).
        target_columns: Which of the d variables to forecast; all of them by default.
        reach_back: Let the inputs of validation and test begin in the part before, so that all steps of a part
            are forecast, and the same ones whatever N_input; by default no window reaches over a border.

    Returns:
        The three parts; validation is None where its share is 0.

    Raises:
        TypeError: A length or the stride is not a whole number.
        ValueError: A number is out of range, or a part is shorter than one window.
    """
    series = _unmasked("series", series)
    train_end, valid_end, test_end = split_points(len(series), split, input_length, horizon, reach_back)
    before = input_length if reach_back else 0

    def windows(part: Tensor) -> WindowDataset:
        return WindowDataset.from_series(part, input_length, horizon, stride, target_columns)

    valid = windows(series[train_end - before : valid_end]) if valid_end > train_end else None
    return windows(series[:train_end]), valid, windows(series[valid_end - before : test_end])


def batches(dataset: Dataset, batch_size: int, generator: torch.Generator | None = None) -> DataLoader:
    """Serve a dataset batch by batch, each with a single indexing call.

    Args:
        dataset: A `WindowDataset`, or any dataset that takes a list of indices.
        batch_size: Samples per batch; the last batch holds the rest.
        generator: Draws a new order at every pass; without it the order is the dataset's own.

    Returns:
        A loader of `(inputs (B, N_input, d_in), targets (B, N_output, d_out), ...)`.

    Raises:
        TypeError: `batch_size` is not a whole number.
        ValueError: `batch_size` is below 1.
    """
    batch_size = check_count("batch_size", batch_size)
    order = SequentialSampler(dataset) if generator is None else RandomSampler(dataset, generator=generator)
    return DataLoader(
        dataset,
        sampler=BatchSampler(order, batch_size, drop_last=False),
        batch_size=None,
        # Without one of its own, every pass of a DataLoader advances torch's global random state.
        generator=torch.Generator() if generator is None else generator,
    )
