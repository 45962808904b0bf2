"""Any series of any CSV file as a forecasting task."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch

from .arguments import called, giving, is_fixed
from .csv_reading import (
    FILL_FIRST,
    Notation,
    Table,
    after_first_numbers,
    check_chosen,
    existing_file,
    listing,
    open_text,
    read_table,
)
from .csv_time import (
    RowError,
    Step,
    are_stamps,
    first_gap,
    most_frequent,
    read_numbered_times,
    read_times,
    shown,
    shown_alike,
    steps_of,
    times_at,
)
from .windows import (
    CHRONOLOGICAL_SPLIT,
    ForecastData,
    History,
    Scaling,
    Series,
    WindowDataset,
    chronological_windows,
    fingerprint,
    scaling_for,
    split_points,
)

__all__ = ["existing_file", "load_csv", "open_text", "read_histories", "shown_scale"]

Column = str | int

_FILLS = ("refuse", "interpolate", "last")
_FLOAT32 = np.finfo(np.float32)


def load_csv(
    path: str | Path,
    columns: Column | Sequence[Column] | None = None,
    targets: Column | Sequence[Column] | None = None,
    input_length: int = 168,
    horizon: int = 24,
    stride: int = 1,
    split: Sequence[float] = CHRONOLOGICAL_SPLIT,
    header: bool | None = None,
    delimiter: str | None = None,
    reach_back: bool = False,
    scaling: Scaling | Mapping[str, Scaling] | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    encoding: str | None = None,
    time: Column | None = None,
    series: Column | None = None,
    missing: str = "refuse",
    steps: Mapping[str | None, Step] | None = None,
) -> ForecastData:
    """Make a forecasting task of one or several columns of a CSV file whose rows are equal steps in time.

    The parts are cut in time, and every column is standardised by its mean and standard deviation on the
    training part (a column that is constant there is only centred). `target_scaling.unscale(forecast)` brings
    forecasts back to the file's units. Several series in one file are cut and standardised each by itself.

    Args:
        path: The file, gzipped or not.
        columns: Columns that the network observes: names or positions (from 0, or from -1 backwards; a name wins
            over a position), or "all" columns of numbers; `targets` by default, or else the last column of numbers.
            Whether a column holds numbers is decided by all of its rows.
        targets: Columns that it forecasts: some of `columns`; all of them by default.
        input_length: N_input, in rows.
        horizon: N_output, in rows.
        stride: Rows from one window to the next.
        split: Shares of train, validation and test, which sum to 1; or whole numbers, their rows, counted from the
            first one, such as (8640, 2880, 2880). Validation may be 0.
        header: Whether the first row holds names; by default it does, and is refused if one of its cells may be data.
            Without names the columns are called "0", "1", ...
        delimiter: By default what cuts all lines alike, the first such of tab, semicolon, bar and comma; a comma
            that may be a mark in numbers only below names.
        reach_back: Let the inputs of validation and test begin in the part before, so that all of its rows are
            forecast; by default no window reaches over a border.
        scaling: Standardise by this one, such as that of the data a network was trained on, in place of the
            training part's; of several series by their names. It holds no names of columns: its numbers are those
            of the observed ones, in their order.
        decimal: The decimal mark, "." or ","; by default ".", and a column is refused in which each point may
            group thousands, as in 1.017; where commas cut cells, only if whole numbers stand among these.
        thousands: The mark between groups of three digits, such as ","; none by default.
        encoding: Of the text; by default UTF-16 where the file begins with its mark, else UTF-8.
        time: The column of time stamps; by default the first column of text that holds dates; "none" takes the
            rows as equal steps. Without either, a file is refused that has columns besides those named in `columns`
            or `targets`, since they may hold times or names of series.
        series: The column that names the series of each row, in a file of several series.
        missing: "refuse" missing values and rows, or fill them: "interpolate" in a straight line between the values
            before and after, or take the "last" value before.
        steps: Hold the times to the steps that a network was trained on: name of a series, None for the only one ->
            its step. The rows of a short file cannot tell days from working days.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: `path` is a folder.
        TypeError: A number or a column is of the wrong kind.
        ValueError: A column, value, row, time stamp or option is not usable; the sentence says which and why.
    """
    form = (header, delimiter, decimal, thousands, encoding)
    read = read_histories(path, columns, targets, *form, time, series, missing, steps)
    names, target_columns = read.names, list(read.target_columns)

    all_series, parts = [], []
    for history in read.series:
        values = history.values
        try:
            ends = split_points(len(values), split, input_length, horizon, reach_back)
            own = scaling_for(history.name, scaling, values) or _standardisation(values[: ends[0]], names)
            standard = _standardised(values, own, names)
        except ValueError as problem:
            raise ValueError(
                str(problem) if history.name is None else f"{read.table.path}, series {history.name!r}: {problem}"
            ) from None
        target_scaling = Scaling(own.mean[target_columns], own.std[target_columns])
        parts.append(
            chronological_windows(standard, input_length, horizon, stride, split, target_columns, reach_back)
        )
        first = ends[1] - (input_length if reach_back else 0)
        starts = np.arange(first, ends[2] - input_length - horizon + 1, stride)
        all_series.append(Series(*vars(history).values(), ends, starts, own, target_scaling))
    joined = [_joined(of_all) for of_all in zip(*parts, strict=True)]
    all_values = [history.values for history in read.series]
    filled = all_values[0] if len(all_values) == 1 else np.concatenate(all_values)
    scalings = (None, None)
    if read.roles.series is None:
        scalings = (all_series[0].input_scaling, all_series[0].target_scaling)
    scales = _scales([one.values[: one.ends[0]] for one in all_series])
    about = (*_about_file(read, scales), "; ".join(_about_parts(all_series, joined)))
    found = fingerprint(filled, (target_columns, [(one.name, len(one.values)) for one in all_series]))
    return ForecastData("csv", *joined, *scalings, found, names, read.target_columns, tuple(all_series), about)


@dataclass(frozen=True)
class Histories:
    """The series of a file, before they are cut into windows.

    Attributes:
        table: The cells of the file.
        roles: Which columns hold times and names of series.
        chosen: Positions of the observed columns.
        target_columns: Where the variables to forecast stand among these.
        series: The series.
        missing_rows: How many rows were filled in.
        missing_values: How many values were filled in other rows.
        missing: How.
    """

    table: Table
    roles: _Roles
    chosen: list[int]
    target_columns: tuple[int, ...]
    series: tuple[History, ...]
    missing_rows: int
    missing_values: int
    missing: str

    @property
    def about(self) -> tuple[str, ...]:
        """Lines that say what was read."""
        return tuple(_about_file(self, _scales([one.values for one in self.series])))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the observed columns; columns of one name are told apart as by pandas: y, y.1, y.2."""
        unique: list[str] = []
        for name in self.table.names:
            others = (f"{name}.{number}" for number in count(1))
            taken = {*unique, *self.table.names}
            unique.append(next(other for other in others if other not in taken) if name in unique else name)
        return tuple(unique[position] for position in self.chosen)


def read_histories(
    path: str | Path,
    columns: Column | Sequence[Column] | None = None,
    targets: Column | Sequence[Column] | None = None,
    header: bool | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    encoding: str | None = None,
    time: Column | None = None,
    series: Column | None = None,
    missing: str = "refuse",
    steps: Mapping[str | None, Step] | None = None,
    usual_time: str | None = None,
    first_only: bool = False,
) -> Histories:
    """Read the series of a CSV file, of any length, as `load_csv` does, whose arguments and errors these are.

    `usual_time` is the column of time stamps where the file has a column of that name and `time` is not given.
    With `first_only` the first column of numbers is observed, and no column after it is read but those of times.
    """
    if missing not in _FILLS:
        raise ValueError(f"{called('missing')} must be one of {', '.join(_FILLS)}, given {missing!r}")
    path = existing_file(path, "the CSV file")
    notation = Notation(decimal, thousands)
    roles = _Roles(time, series, usual_time)

    def unread(names: list[str], sample: list[list[str]]) -> set[int]:
        if first_only:
            return set(after_first_numbers(names, sample)) - set(roles.all)
        return roles.all_but(_observed(columns, targets, names), len(names))

    table = read_table(
        path,
        roles.find,
        unread,
        header,
        delimiter,
        notation,
        encoding,
    )
    chosen, target_columns = _chosen(table, columns, targets, roles, first_only)
    fills = f"{giving('missing', 'interpolate')} or {giving('missing', 'last')}"
    mend = f"{FILL_FIRST}, or {fills} fills them"
    chosen_by = "targets" if columns is None and targets is not None else "columns"
    values = table.numbers(chosen, missing != "refuse", mend, chosen_by)
    if not (is_fixed("time") or first_only):
        _check_for_times(table, roles, () if _is_all(columns, table.names) else chosen)
    count_missing = int(np.isnan(values).sum())
    groups = _rows_of_series(table, roles.series)
    steps = steps or {}
    times, offset, written = _times(table, roles.time, groups[0][1], steps.get(groups[0][0]))
    time_column, series_column = (None if role is None else table.names[role] for role in (roles.time, roles.series))

    histories = []
    for name, rows in groups:
        own_times = None if times is None else times[rows]
        try:
            full, own_times, step, filled = _filled(name, values[rows], own_times, missing, fills, steps.get(name))
        except RowError as problem:
            column = roles.time if problem.column is None else chosen[problem.column]
            row = np.arange(len(values))[rows][problem.row]
            zone = "; these times are in UTC, since their offsets may change" if offset == "+00:00" else ""
            raise ValueError(f"{table.place(row, table.columns[column])} {problem}{zone}") from None
        about_file = (time_column, offset, series_column, bool(table.header), table.have_points(chosen))
        step = step and step._replace(form=written)
        histories.append(History(name, full, own_times, step, *about_file, filled))
    missing_rows = sum(len(history.values) for history in histories) - len(values)
    filled = (missing_rows, count_missing, missing)
    return Histories(table, roles, chosen, tuple(target_columns), tuple(histories), *filled)


# ------------------------------------------------------------------------------------------------- columns


class _Roles:
    """Which columns hold the time stamps and the names of the series; None where there is none.

    Attributes:
        time: Position of the time stamps.
        series: Position of the names of the series.
        is_time_settled: Whether the time stamps were found or given, or given as "none".
    """

    def __init__(self, time: Column | None, series: Column | None, usual_time: str | None):
        self._asked_time, self._asked_series, self._usual_time = time, series, usual_time
        self.time: int | None = None
        self.series: int | None = None
        self.is_time_settled = False

    def find(self, names: list[str], sample: list[list[str]]) -> list[int]:
        """Look for both, and return where they are."""
        if self._asked_series is not None:
            self.series = _position("series", self._asked_series, names)
        if self._asked_time is None and self._usual_time in names:
            self._asked_time = self._usual_time
        if self._asked_time is None:
            cells = {p: of_one for p, of_one in enumerate(zip(*sample, strict=True)) if p != self.series}
            self.time = next((p for p in cells if are_stamps(cells[p])), None)
        elif self._asked_time != "none" or "none" in names:
            self.time = _position("time", self._asked_time, names)
        if self.time is not None and self.time == self.series:
            both = f"{called('time')} and {called('series')}"
            raise ValueError(f"{both} must name two columns, given {names[self.time]!r} for both")
        self.is_time_settled = self.time is not None or self._asked_time is not None
        return self.all

    def all_but(self, observed: list[int] | None, width: int) -> set[int]:
        """Return the columns that nobody reads: none if the observed ones are not known yet."""
        return set() if observed is None else set(range(width)) - {*observed, *self.all}

    @property
    def all(self) -> list[int]:
        """Both, as far as there are any."""
        return [position for position in (self.time, self.series) if position is not None]


def _check_for_times(table: Table, roles: _Roles, variables: Sequence[int]) -> None:
    """Refuse a file without time stamps whose columns besides the variables may hold them, or the names of series."""
    rest = [name for place, name in enumerate(table.names) if place not in (*variables, *roles.all)]
    if roles.is_time_settled or not rest or len(table.columns) == 1:
        return
    may = f"{listing([name or '(no name)' for name in rest], most=5)} may hold other times, or name series"
    ways = f"give {called('time')}" + (f" or {called('series')}" if not is_fixed("series") else "")
    as_steps = f"{giving('time', 'none')} takes the rows as equal steps"
    raise ValueError(
        f"{table.path}: no column holds time stamps such as 2016-07-01 12:00, but {may}: {ways}; {as_steps}"
    )


def _is_all(columns: Column | Sequence[Column] | None, names: list[str]) -> bool:
    return columns == "all" and "all" not in names


def _observed(
    columns: Column | Sequence[Column] | None, targets: Column | Sequence[Column] | None, names: list[str]
) -> list[int] | None:
    """Return the positions of the observed columns; None where that depends on which columns hold numbers."""
    if _is_all(columns, names) or (columns is None and targets is None):
        return None
    return _positions(*(("targets", targets) if columns is None else ("columns", columns)), names)


def _chosen(
    table: Table,
    columns: Column | Sequence[Column] | None,
    targets: Column | Sequence[Column] | None,
    roles: _Roles,
    first_only: bool,
) -> tuple[list[int], list[int]]:
    """Return the positions of the observed columns, and where the targets stand among them."""
    numeric = [position for position in table.numeric if position not in roles.all]
    chosen = _observed(columns, targets, table.names)
    if chosen is None:
        chosen = numeric if _is_all(columns, table.names) else numeric[:1] if first_only else numeric[-1:]
    check_chosen(table, chosen)
    return chosen, _target_columns(targets, table.names, chosen)


def _target_columns(targets: Column | Sequence[Column] | None, names: list[str], chosen: list[int]) -> list[int]:
    """Return where the targets stand among the chosen columns."""
    if targets is None:
        return list(range(len(chosen)))
    positions = _positions("targets", targets, names)
    for position in positions:
        if position not in chosen:
            observed = listing([names[i] for i in chosen])
            must = f"{called('targets')} must be among {called('columns')}"
            raise ValueError(f"{must} ({observed}), given {names[position]!r}")
    return [chosen.index(position) for position in positions]


def _positions(argument: str, columns: Column | Sequence[Column], names: list[str]) -> list[int]:
    asked = columns if isinstance(columns, Sequence) and not isinstance(columns, str) else [columns]
    positions = [_position(argument, column, names) for column in asked]
    if not positions or len(set(positions)) < len(positions):
        raise ValueError(f"{called(argument)} must name one or several columns, each once, given {columns!r}")
    return positions


def _position(argument: str, column: Column, names: list[str]) -> int:
    if isinstance(column, str):
        if names.count(column) > 1:
            mend = "" if is_fixed(argument) else "; give its position"
            raise ValueError(f"{called(argument)} names {column!r}, which several columns share{mend}")
        if column in names:
            return names.index(column)
        if not re.fullmatch(r"-?\d+", column):
            raise ValueError(f"{called(argument)} names {column!r}, but the columns are {listing(names)}")
    try:
        position = int(column) if isinstance(column, str) else operator.index(column)
    except TypeError:
        raise TypeError(f"{called(argument)} must be column names or positions, given {column!r}") from None
    if not -len(names) <= position < len(names):
        allowed = f"between {-len(names)} and {len(names) - 1}"
        raise ValueError(f"{called(argument)} asks for column {position}, but positions lie {allowed}")
    return position % len(names)


# ------------------------------------------------------------------------------------------------- rows


def _rows_of_series(table: Table, position: int | None) -> list[tuple[str | None, np.ndarray | slice]]:
    """Return the name and the rows of each series, in the order of their first rows."""
    if position is None:
        return [(None, slice(None))]
    column = table.columns[position]
    names, first, number = np.unique(column.take_cells(), return_index=True, return_inverse=True)
    if b"" in names:
        row = first[names.tolist().index(b"")]
        raise ValueError(f"{table.place(row, column)} holds nothing, where the name of a series must stand")
    by_series = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    return [(names[series].decode(), by_series[series]) for series in np.argsort(first)]


def _times(
    table: Table, position: int | None, rows: np.ndarray | slice, known: Step | None
) -> tuple[np.ndarray | None, str, str]:
    """Return the times in a column, in which `rows` are those of one series of a known step, offset and form."""
    if position is None:
        return None, "", ""
    column = table.columns[position]
    try:
        if column.is_numeric:
            values = table.numbers([position])[:, 0]
            return read_numbered_times(values, rows, known, column.take_cells()), "", ""
        return read_times(column.take_cells(), rows, known)
    except RowError as problem:
        raise ValueError(f"{table.place(problem.row, column)} {problem}") from None


def _filled(
    name: str | None,
    values: np.ndarray,
    times: np.ndarray | None,
    missing: str,
    fills: str,
    known: Step | None,
) -> tuple[np.ndarray, np.ndarray | None, Step | None, np.ndarray | None]:
    """Return values, times and step of one series with all of its rows, and which values were filled in.

    Raises:
        RowError: The rows are no equal steps, or a value cannot be filled.
    """
    last, step = len(values) - 1, None
    if times is not None:
        as_steps = f"{giving('time', 'none')} takes the rows as equal steps"
        of_series = f", or give {called('series')} if the file holds several series"
        mend = f"sort the rows by time{'' if name or is_fixed('series') else of_series}; {as_steps}"
        if known is not None:
            mend = as_steps = f"the network was trained on steps of {known}"
        try:
            step, positions = steps_of(times, known, name)
        except RowError as problem:
            raise RowError(problem.row, f"{problem}; {mend}") from None
        gap = first_gap(times, step, positions)
        most = most_frequent(np.diff(positions)) if gap and known else 1
        if most > 1:
            pair = f"{shown(times[gap.row])} after {shown(times[gap.row - 1])}"
            own = step._replace(size=step.size * int(most))
            raise RowError(gap.row, f"holds {pair}, and {own} is the most frequent step of the file; {as_steps}")
        if gap and missing == "refuse":
            raise RowError(gap.row, f"{gap}; {fills} fills the rows between; {as_steps}")
        if gap:
            there, all_steps = len(values), int(positions[-1]) + 1
            if all_steps > 2 * there:
                raise RowError(
                    gap.row, f"{gap}; {all_steps - there} rows are missing, more than there are; {as_steps}"
                )
            present, values = values, np.full((all_steps, values.shape[1]), np.nan)
            values[positions] = present
            times = times_at(times[0], step, np.arange(all_steps))
    unknown = np.isnan(values)
    values = values.copy() if unknown.any() else values
    for column in np.flatnonzero(unknown.any(axis=0)):
        holes = unknown[:, column]
        if holes[0] or (holes[-1] and missing == "interpolate"):
            side = "before" if holes[0] else "after"
            raise RowError(
                0 if holes[0] else last, f"is missing, and has no value {side} it to be filled from", column
            )
        known = np.flatnonzero(~holes)
        if missing == "interpolate":
            values[holes, column] = np.interp(np.flatnonzero(holes), known, values[known, column])
        else:
            values[:, column] = values[known, column][np.cumsum(~holes) - 1]
    return values, times, step, unknown if unknown.any() else None


# ------------------------------------------------------------------------------------------------- scaling


def _standardisation(train: np.ndarray, names: Sequence[str]) -> Scaling:
    most = abs(train).max(axis=0)
    # Networks work in float32, and so does whoever brings their forecasts back to the file's units.
    if (most > _FLOAT32.max).any():
        column = most.argmax()
        reaches = f"column {names[column]!r} reaches {most[column]:.3g}"
        raise ValueError(f"{reaches}, more than float32 holds ({_FLOAT32.max:.3g}): give it in larger units")
    # A constant column's computed deviation may be a rounding error instead of 0.
    constant = train.max(axis=0) == train.min(axis=0)
    std = np.where(constant, 0.0, train.std(axis=0))
    if (too_small := ~constant & (std < _FLOAT32.tiny)).any():
        column = too_small.argmax()
        deviates = f"column {names[column]!r} deviates by {std[column]:.3g} from its mean"
        raise ValueError(f"{deviates}, less than float32 holds ({_FLOAT32.tiny:.3g}): give it in smaller units")
    return Scaling(torch.from_numpy(train.mean(axis=0)), torch.from_numpy(std))


def _standardised(values: np.ndarray, scaling: Scaling, names: Sequence[str]) -> np.ndarray:
    standard = values - scaling.mean.numpy()
    standard /= scaling.divisor.numpy()
    beyond = np.maximum(standard.max(axis=0), -standard.min(axis=0)) > _FLOAT32.max
    if beyond.any():
        raise ValueError(f"column {names[beyond.argmax()]!r} holds values that float32 cannot hold once standardised")
    return standard


def _joined(parts: Sequence[WindowDataset | None]) -> WindowDataset | None:
    """Return the windows of all series."""
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    return WindowDataset(*(torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "targets")))


# ------------------------------------------------------------------------------------------------- what was read


def _scales(of_series: Sequence[np.ndarray]) -> Iterator[str]:
    """Yield the mean and deviation of each column of some rows, averaged over the series."""
    means, deviations = (np.mean([f(rows, axis=0) for rows in of_series], axis=0) for f in (np.mean, np.std))
    constant = np.all([np.ptp(rows, axis=0) == 0 for rows in of_series], axis=0)
    yield from map(shown_scale, means, np.where(constant, 0, deviations))


def shown_scale(mean: float, deviation: float) -> str:
    """Return the mean and deviation of a column as they are printed behind its name."""
    return f" ({mean:.4g} ± {f'{deviation:.3g}' if deviation else '0, constant'})"


def _about_file(read: Histories, scales: Iterable[str]) -> Iterator[str]:
    """Yield what was read, line by line, with the scale of each observed column."""
    table, roles, chosen = read.table, read.roles, read.chosen
    head = f"names in {table.header}" if table.header else "no names"
    marks = "" if table.notation.is_plain else f", decimal mark {table.notation.decimal!r}"
    marks += f", thousands mark {table.notation.thousands!r}" if table.notation.thousands else ""
    comments = f", comment lines: {table.comments}" if table.comments else ""
    comments += f", empty rows left out: {table.empty_rows}" if table.empty_rows else ""
    comments += f", blank lines left out: {table.blank_lines}" if table.blank_lines else ""
    form = f"delimiter {table.delimiter!r}{marks}, {head}, {table.encoding}{comments}"
    yield f"file: {table.path}, {len(table.lines):,} rows, {form}"
    names = [name or "(no name)" for name in table.names]
    rest = [name for position, name in enumerate(names) if position not in (*chosen, *roles.all)]
    scaled = [names[position] + scale for position, scale in zip(chosen, scales, strict=True)]
    observed = [
        names[position] if place in read.target_columns else scaled[place] for place, position in enumerate(chosen)
    ]
    targets = [scaled[place] for place in read.target_columns]
    left_out = f"; not used: {listing(rest)}" if rest else ""
    yield f"observed: {listing(observed)}; forecast: {listing(targets)}{left_out}"
    yield from _about_rows(read)


def _about_rows(read: Histories) -> Iterator[str]:
    names, histories = read.table.names, read.series
    if read.roles.series is not None:
        all_names = listing([str(history.name) for history in histories], most=5)
        yield (f"series: {len(histories)} in column {names[read.roles.series]!r} ({all_names})")
    if read.roles.time is None:
        yield "time: no column is read as time stamps, so rows are taken as equal steps"
    else:
        times = [history.times for history in histories]
        ends = min(of_one[0] for of_one in times), max(of_one[-1] for of_one in times)
        span = shown_alike(np.array(ends), histories[0].offset)
        steps = listing(sorted({str(history.step) for history in histories}), most=3)
        yield f"time: {' to '.join(span)} in column {names[read.roles.time]!r}, step {steps}"
    if read.missing != "refuse":
        how = "by the last value" if read.missing == "last" else "by interpolation"
        rows, values = f"{read.missing_rows:,} missing rows", f"{read.missing_values:,} missing values in other rows"
        yield f"filled {how}: {rows}, {values}"


def _about_parts(read: Sequence[Series], parts: Sequence[WindowDataset | None]) -> Iterator[str]:
    ends = np.array([(0, *series.ends) for series in read])
    rows = np.diff(ends).sum(axis=0)
    for place, (name, part) in enumerate(zip(("training", "validation", "test"), parts, strict=True)):
        filled = sum(
            int(series.filled[slice(*of_series[place : place + 2])].sum())
            for series, of_series in zip(read, ends, strict=True)
            if series.filled is not None
        )
        values = f", values filled in: {filled:,}" if filled else ""
        yield f"{name}: {rows[place]:,} rows, {0 if part is None else len(part):,} windows{values}"
    if rest := sum(len(series.values) - series.ends[-1] for series in read):
        yield f"{rest:,} rows after them in no part"
