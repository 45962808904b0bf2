"""Time stamps of a CSV file: what they mean, and whether its rows are equal steps in time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_AT_ONCE = 20_000
_ISO = re.compile(r"\d{4}-\d{2}(-\d{2}([T ]+\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*(Z|[+-]\d{2}:?\d{2})?)?)?")
_DATE = re.compile(r"(\d{1,2}|\d{4})([-/. ])(\d{1,2}|[A-Za-z]{3,9})\2(\d{4}|\d{2})(?:[T ]+(\d.*))?")
_TIMES = {
    r"\d{1,2}:\d{2}": "%H:%M",
    r"\d{1,2}:\d{2}:\d{2}": "%H:%M:%S",
    r"\d{1,2}:\d{2}:\d{2}\.\d+": "%H:%M:%S.%f",
    r"\d{1,2}:\d{2} [AaPp][Mm]": "%I:%M %p",
    r"\d{1,2}:\d{2}:\d{2} [AaPp][Mm]": "%I:%M:%S %p",
}
_OF_DIGITS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


class RowError(ValueError):
    """What is wrong with a row, counted from 0, and with which of the columns read; None: with its time."""

    def __init__(self, row: int, reason: str, column: int | None = None):
        super().__init__(reason)
        self.row, self.column = int(row), column


def formats(cell: str) -> list[str]:
    """Return the ways to read a time stamp: two where day or month may come first, none if it is no stamp."""
    if _ISO.fullmatch(cell):
        return ["ISO8601"]
    parts = _DATE.fullmatch(cell)
    if parts is None:
        return []
    first, mark, second, third, time = parts.groups()
    clock = (
        "" if time is None else next((f" {form}" for like, form in _TIMES.items() if re.fullmatch(like, time)), None)
    )
    if clock is None or (len(first) == 4 and len(third) == 4):
        return []
    if len(first) == 4:
        dates = ["%Y{0}%m{0}%d"]
    elif second.isalpha():
        dates = ["%d{0}%b{0}" if len(second) == 3 else "%d{0}%B{0}"]
    else:
        dates = ["%m{0}%d{0}", "%d{0}%m{0}"]
    year = "" if len(first) == 4 else "%Y" if len(third) == 4 else "%y"
    return [date.format(mark) + year + clock for date in dates]


def are_stamps(cells: Sequence[str]) -> bool:
    """Whether most of some cells are time stamps as text."""
    return 2 * sum(bool(formats(cell.strip())) for cell in cells) > len(cells)


def read_times(cells: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """Return the times in cells of text.

    Args:
        cells: Bytes (rows,), in UTF-8.
        rows: Those of one series, whose steps tell the day from the month.

    Returns:
        datetime64[us] (rows,), in UTC where the stamps have an offset from it.

    Raises:
        RowError: A row holds no time stamp, or none like the first row's.
    """
    first = cells[0].decode()
    ways = formats(first)
    if not ways:
        raise RowError(0, f"holds {first!r}, which is no time stamp such as 2016-07-01 12:00 or 01.07.2016 12:00")
    readings = [_read(cells, way) for way in ways]
    wrong = [np.flatnonzero(np.isnat(times)) for times in readings]
    readable = [times for times, rows in zip(readings, wrong, strict=True) if not len(rows)]
    if not readable:
        row = max(rows[0] for rows in wrong)
        found = repr(cells[row].decode()) if cells[row] else "nothing"
        raise RowError(row, f"holds {found}, which is no time stamp like {first!r} in the first row")
    if len(readable) == 1:
        return readable[0]
    # In the wrong order of day and month time jumps.
    jumps = [_jumps(times[rows]) for times in readable]
    if jumps[0] == jumps[1]:
        raise RowError(0, f"holds {first!r}, whose day and month may be either way round: write the year first")
    return readable[int(np.argmin(jumps))]


def _jumps(times: np.ndarray) -> float:
    """Return how many steps are missing, infinity if time runs backwards or moves by parts of a step."""
    try:
        return steps_of(times).positions[-1] + 1 - len(times)
    except RowError:
        return math.inf


def _read(cells: np.ndarray, way: str) -> np.ndarray:
    # Not at the top: pandas takes most of a second to import, which no run without time stamps needs.
    import pandas as pd

    times = np.empty(len(cells), dtype="datetime64[us]")
    for start in range(0, len(cells), _AT_ONCE):
        texts = [cell.decode() for cell in cells[start : start + _AT_ONCE].tolist()]
        stamps = pd.to_datetime(pd.Series(texts, dtype=object), format=way, errors="coerce", utc=True)
        times[start : start + _AT_ONCE] = stamps.dt.tz_localize(None).to_numpy("datetime64[us]")
    return times


def read_numbered_times(values: np.ndarray) -> np.ndarray:
    """Return the times in cells of numbers: days such as 20160701 as datetime64[us], other numbers as they are."""
    if len(values) < 2 or not (values == np.rint(values)).all() or abs(values).max() >= 1e15:
        return values
    if abs(values).max() < 1e5 and len(np.unique(np.diff(values))) == 1:  # years, or a count
        return values
    cells = np.char.mod("%d", values).astype(np.bytes_)
    if len(cells[0]) in _OF_DIGITS:
        times = _read(cells, _OF_DIGITS[len(cells[0])])
        years = times.astype("datetime64[Y]").astype(np.float64) + 1970
        if not np.isnat(times).any() and years.min() >= 1800 and years.max() < 2200:
            return times
    return values


# ------------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class Steps:
    """The steps in which time goes on.

    Attributes:
        positions: Int64 (rows,): the steps from the first row to each row; 0, 1, 2, ... where none is missing.
        step: The step, in units.
        unit: "microsecond", "working day" or "month"; "" where times are numbers.
    """

    positions: np.ndarray
    step: float
    unit: str

    def __str__(self) -> str:
        step, unit = self.step, self.unit
        if not unit:
            return f"{step:g}"
        if unit == "microsecond":
            sizes = {"day": 86_400_000_000, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000, unit: 1}
            unit = next(name for name, size in sizes.items() if step % size == 0)
            step = step // sizes[unit]
        return f"{step} {unit}{'s' if step > 1 else ''}"


def steps_of(times: np.ndarray) -> Steps:
    """Find the step from row to row: the most frequent one, in time, working days, or months.

    Args:
        times: datetime64[us] or float64 (rows,).

    Raises:
        RowError: Time runs backwards, stands still, or moves by a part of a step.
    """
    if len(times) < 2:
        return Steps(np.zeros(len(times), dtype=np.int64), 0, "")
    still = np.diff(times) <= times[:1] - times[:1]
    if still.any():
        row = np.argmax(still) + 1
        if times[row] == times[row - 1]:
            raise RowError(row, f"repeats the time {shown(times[row])}")
        raise RowError(row, f"holds {shown(times[row])}, which is before {shown(times[row - 1])} in the row above")
    ticks, unit = _ticks(times)
    step = _most_frequent(np.diff(ticks), is_exact=bool(unit))
    if not unit:
        whole = ticks[-1] - ticks[0]
        step = whole / max(1, np.rint(whole / step))  # without the rounding errors of a single one
    exact = (ticks - ticks[0]) / step
    positions = np.rint(exact).astype(np.int64)
    steps = Steps(positions, step, unit)
    between = np.abs(exact - positions) > (0 if unit else 1e-4)
    if between.any():
        row = np.argmax(between)
        after = f"{shown(times[row])} after {shown(times[row - 1])}"
        raise RowError(row, f"holds {after}, which is no whole number of steps of {steps}")
    return steps


def _most_frequent(steps: np.ndarray, is_exact: bool) -> float:
    unit = 1 if is_exact else np.median(steps)
    found, counts = np.unique(steps if is_exact else np.round(steps / unit, 6), return_counts=True)
    return found[counts.argmax()] * unit


def first_gap(times: np.ndarray, steps: Steps) -> RowError | None:
    """Return what is wrong with the first row after missing ones, if some are missing."""
    row = _gap(steps.positions)
    if not row:
        return None
    return RowError(row, f"holds {shown(times[row])} after {shown(times[row - 1])}, but the step is {steps}")


def _gap(positions: np.ndarray) -> int:
    """Return the first row after missing ones; 0 if none is missing."""
    jumps = np.diff(positions) > 1
    return int(np.argmax(jumps)) + 1 if jumps.any() else 0


def _ticks(times: np.ndarray) -> tuple[np.ndarray, str]:
    """Return times in numbers, in which equal steps are equal, and the unit of these."""
    if times.dtype.kind != "M":
        return times, ""
    shortest = np.diff(times).min()
    days = times.astype("datetime64[D]")
    if shortest >= np.timedelta64(1, "D") and len(np.unique(times - days)) == 1:
        months = times.astype("datetime64[M]")
        of_month = days - months.astype("datetime64[D]")
        if shortest >= np.timedelta64(28, "D") and (len(np.unique(of_month)) == 1 or _are_last_days(days)):
            return months.astype(np.int64), "month"
        # Days on which nobody works may be left out.
        if shortest == np.timedelta64(1, "D") and len(np.unique(np.diff(days))) > 1 and np.is_busday(days).all():
            return np.busday_count(days[0], days), "working day"
    return times.view(np.int64), "microsecond"


def times_of_all(times: np.ndarray, steps: Steps) -> np.ndarray:
    """Return the times of all steps (last position + 1,), of the missing ones too."""
    first, ticks = times[0], np.arange(steps.positions[-1] + 1) * steps.step
    if not steps.unit:
        return first + ticks
    if steps.unit == "microsecond":
        return first + ticks.astype("timedelta64[us]")
    days = times.astype("datetime64[D]")
    if steps.unit == "working day":
        return np.busday_offset(days[0], ticks) + (first - days[0])
    months = times.astype("datetime64[M]")
    all_months = months[0] + ticks
    if _are_last_days(days):
        return (all_months + 1).astype("datetime64[D]") - 1 + (first - days[0])
    return all_months.astype("datetime64[D]") + (first - months[0].astype("datetime64[us]"))


def _are_last_days(days: np.ndarray) -> bool:
    return bool(((days + 1).astype("datetime64[M]") > days.astype("datetime64[M]")).all())


def shown(time: np.datetime64 | float) -> str:
    """Return a time as text, without what is 0 at its end."""
    if not isinstance(time, np.datetime64):
        return f"{time:.15g}"
    return re.sub(r"(:00)?(\.0+)?$", "", str(time).replace("T", " "))
