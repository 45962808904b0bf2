"""Time stamps of a CSV file: what they mean, and whether its rows are equal steps in time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_AT_ONCE = 20_000
_OFFSET = r"(?P<offset>Z|UTC|GMT|(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?)"
_ISO = re.compile(rf"\d{{4}}-\d{{2}}(-\d{{2}}([T ]+\d{{1,2}}:\d{{2}}(:\d{{2}}([.,]\d+)?)?\s*{_OFFSET}?)?)?")
_IN_PLAIN_ISO = np.isin(np.arange(256), list(b"\0 -.0123456789:T"))  # in bytes, without offsets and words
_DATE = re.compile(r"(\d{1,2}|\d{4})([-/. ])(\d{1,2}|[A-Za-z]{3,9})\2(\d{4}|\d{2})(?:[T ]+(\d.*))?")
_TIMES = {
    r"\d{1,2}:\d{2}": "%H:%M",
    r"\d{1,2}:\d{2}:\d{2}": "%H:%M:%S",
    r"\d{1,2}:\d{2}:\d{2}\.\d+": "%H:%M:%S.%f",
    r"\d{1,2}:\d{2} [AaPp][Mm]": "%I:%M %p",
    r"\d{1,2}:\d{2}:\d{2} [AaPp][Mm]": "%I:%M:%S %p",
    r"\d{1,2}:\d{2}[AaPp][Mm]": "%I:%M%p",
    r"\d{1,2}:\d{2}:\d{2}[AaPp][Mm]": "%I:%M:%S%p",
}
_OF_DIGITS = {
    6: ("%Y%m", "%y%m%d"),
    8: ("%Y%m%d", "%y%m%d%H", "%d%m%Y", "%m%d%Y"),
    10: ("%Y%m%d%H", "%y%m%d%H%M"),
    12: ("%Y%m%d%H%M", "%y%m%d%H%M%S"),
    14: ("%Y%m%d%H%M%S",),
}


class RowError(ValueError):
    """What is wrong with a row, counted from 0, and with which of the columns read; None: with its time."""

    def __init__(self, row: int, reason: str, column: int | None = None):
        super().__init__(reason)
        self.row, self.column = int(row), column


def formats(cell: str) -> list[str]:
    """Return the ways to read a time stamp: none if it is none, several where day, month or year may come first."""
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
        dates = ["%d{0}%B{0}"] if len(second) > 3 else ["%d{0}%b{0}", "%d{0}%B{0}"]  # May is both
    else:
        dates = ["%m{0}%d{0}", "%d{0}%m{0}"]
    year = "" if len(first) == 4 else "%Y" if len(third) == 4 else "%y"
    ways = [date.format(mark) + year + clock for date in dates]
    return [*ways, f"%y{mark}%m{mark}%d{clock}"] if second.isdigit() and year == "%y" else ways


def are_stamps(cells: Sequence[str]) -> bool:
    """Whether most of some cells are time stamps as text."""
    return 2 * sum(bool(formats(cell.strip())) for cell in cells) > len(cells)


def may_be_stamp(text: str) -> bool:
    """Whether some text holds a time of day or a year, as time stamps of any form do."""
    return re.search(r"\d:\d\d|\d{8}|(?<!\d)(?:1[89]|2[01])\d\d(?!\d)", text) is not None


def read_times(
    cells: np.ndarray, rows: np.ndarray | slice = slice(None), known: Step | None = None
) -> tuple[np.ndarray, str, str]:
    """Return the times in cells of text.

    Args:
        cells: Bytes (rows,), in UTF-8.
        rows: Those of one series, whose steps tell day, month and year from each other.
        known: The step of that series, where it is known, and the form of its stamps.

    Returns:
        datetime64[us] (rows,); their offset from UTC, such as "+02:00", "" where the stamps have none; and their
        form, such as "%d.%m.%Y", "" if several fit. Times are as written where all stamps have the same offset, else
        in UTC.

    Raises:
        RowError: A row holds no time stamp, or none like the first row's, or a date fits several orders of its parts.
    """
    first = cells[0].decode()
    ways = formats(first)
    if not ways:
        raise RowError(0, f"holds {first!r}, which is no time stamp such as 2016-07-01 12:00 or 01.07.2016 12:00")
    offsets = np.full(len(cells), np.nan)
    readings = [_read(cells, way, offsets) for way in ways]
    wrong = [np.flatnonzero(np.isnat(times) | (np.isnan(offsets) != np.isnan(offsets[0]))) for times in readings]
    readable = {way: times for way, times, rest in zip(ways, readings, wrong, strict=True) if not len(rest)}
    if not readable:
        row = max(of_these[0] for of_these in wrong)
        found = repr(cells[row].decode()) if cells[row] else "nothing"
        like = f"like {first!r} in the first row" if row else "such as 2016-07-01 12:00, of hours from 00:00 to 23:59"
        raise RowError(row, f"holds {found}, which is no time stamp {like}")
    if known:
        alike = {way: times for way, times in readable.items() if _order(way) == _order(known.form)}
        readable = alike or readable
    times = _only_plausible(list(readable.values()), rows, known)
    if times is None:
        parts = "day and month may be either way round"
        parts = parts if len(ways) == 2 else "day, month and year may be in several orders"
        raise RowError(0, f"holds {first!r}, whose {parts}: write the year first, in four digits")
    forms = [way for way, reading in readable.items() if (reading == times).all()]
    form = forms[0] if len(forms) == 1 else ""
    if np.isnan(offsets[0]):
        return times, "", form
    if (offsets != offsets[0]).any():
        return times, "+00:00", form
    hours, minutes = divmod(int(abs(offsets[0])), 60)
    offset = f"{'-' if offsets[0] < 0 else '+'}{hours:02d}:{minutes:02d}"
    return times + np.timedelta64(int(offsets[0]), "m"), offset, form


def _order(form: str) -> list[str]:
    """Return in which order day, month and year stand."""
    return re.findall("%[dmy]", re.split("%[HI]", form)[0].lower())


def _only_plausible(
    readings: Sequence[np.ndarray], rows: np.ndarray | slice, known: Step | None
) -> np.ndarray | None:
    """Return the reading in which the rows are steps in time, few of them missing; None if several differ.

    In the wrong order of day, month and year time jumps.
    """
    if len(readings) == 1:
        return readings[0]
    jumps = [_jumps(times[rows], known) for times in readings]
    if known and min(jumps) == math.inf:
        return _only_plausible(readings, rows, None)
    most = len(readings[0][rows])
    plausible = [times for times, missing in zip(readings, jumps, strict=True) if missing <= most]
    plausible = plausible or [times for times, missing in zip(readings, jumps, strict=True) if missing == min(jumps)]
    return plausible[0] if all((times == plausible[0]).all() for times in plausible) else None


def _jumps(times: np.ndarray, known: Step | None) -> float:
    """Return how many steps are missing, infinity if time runs backwards or moves by parts of a step."""
    try:
        return steps_of(times, known)[1][-1] + 1 - len(times)
    except RowError:
        return math.inf


def _read(cells: np.ndarray, way: str, offsets: np.ndarray | None = None) -> np.ndarray:
    """Return times in UTC, NaT where a cell cannot be read so, and write their `offsets` from it (output)."""
    # Not at the top: pandas takes most of a second to import, which no run without time stamps needs.
    import pandas as pd

    times = np.empty(len(cells), dtype="datetime64[us]")
    for start in range(0, len(cells), _AT_ONCE):
        texts = [cell.decode() for cell in cells[start : start + _AT_ONCE].tolist()]
        codes = cells[start : start + _AT_ONCE].view(np.uint8).reshape(len(texts), -1)
        is_plain = _IN_PLAIN_ISO[codes].all() and not (codes[:, 8:] == ord("-")).any()
        if way == "ISO8601" and not is_plain:
            # pandas also takes other texts, such as "now".
            parts = [_ISO.fullmatch(text) for text in texts]
            offsets[start : start + _AT_ONCE] = [_offset(stamp) for stamp in parts]
            texts = [text.replace(",", ".") if stamp else "" for text, stamp in zip(texts, parts, strict=True)]
            texts = [re.sub(r"\s*(UTC|GMT)$", "Z", text) for text in texts]
        stamps = pd.to_datetime(pd.Series(texts, dtype=object), format=way, errors="coerce", utc=True)
        times[start : start + _AT_ONCE] = stamps.dt.tz_localize(None).to_numpy("datetime64[us]")
    return times


def _offset(stamp: re.Match | None) -> float:
    """Return by how many minutes the time of a stamp is ahead of UTC, NaN where the stamp does not say."""
    if stamp is None or stamp["offset"] is None:
        return math.nan
    minutes = 60 * int(stamp["hours"] or 0) + int(stamp["minutes"] or 0)
    return -minutes if stamp["sign"] == "-" else minutes


def read_numbered_times(
    values: np.ndarray,
    rows: np.ndarray | slice = slice(None),
    known: Step | None = None,
    cells: np.ndarray | None = None,
) -> np.ndarray:
    """Return the times in cells of numbers: days such as 20160701 as datetime64[us], other numbers as they are.

    Args:
        values: Float64 (rows,).
        rows: Those of one series.
        known: The step of that series, where it is known.
        cells: Bytes (rows,), the numbers as they are written, where they may begin with zeros: 01072016.

    Raises:
        RowError: The numbers may be dates of different forms.
    """
    if known and not known.unit:
        return values
    if (len(values) < 2 and not known) or not (values == np.rint(values)).all() or abs(values).max() >= 1e15:
        return values
    padded = cells is not None and np.char.startswith(cells, b"0").any() and np.char.isdigit(cells).all()
    if not padded and abs(values).max() < 1e5 and len(np.unique(np.diff(values))) == 1:  # years, or a count
        return values
    cells = cells if padded else np.char.mod("%d", values).astype(np.bytes_)
    ways = _OF_DIGITS.get(len(cells[0]), ())
    readable = {way: times for way in ways if _is_of_our_age(times := _read(cells, way))}
    if not readable:
        return values
    # A year of four digits is no accident.
    counts = () if ways[0] in readable or _jumps(values[rows], known) > len(values[rows]) else (values,)
    times = None if counts else _only_plausible(list(readable.values()), rows, known)
    if times is None:
        raise RowError(0, f"holds {cells[0].decode()}, which may be a date in several ways: write it as 2016-07-31")
    return times


def _is_of_our_age(times: np.ndarray) -> bool:
    years = times.astype("datetime64[Y]").astype(np.float64) + 1970
    return not np.isnat(times).any() and bool(years.min() >= 1800 and years.max() < 2200)


# ------------------------------------------------------------------------------------------------- steps


class Step(NamedTuple):
    """The time from row to row.

    Attributes:
        size: In units; 0 where a single row tells none.
        unit: "microsecond", "working day" or "month"; "" where times are numbers.
        day: Of the month, on which all rows of steps of months are, or on the last day of shorter months; else 0.
        form: How the stamps of the file are written, such as "%d.%m.%Y"; "" for numbers, or if several fit.
    """

    size: float
    unit: str
    day: int = 0
    form: str = ""

    def __str__(self) -> str:
        size, unit = self.size, self.unit
        if not unit:
            return f"{size:.0f}" if size == int(size) else f"{size:g}"
        if unit == "microsecond":
            sizes = {"day": 86_400_000_000, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000, unit: 1}
            unit = next(name for name, of_unit in sizes.items() if size % of_unit == 0)
            size = size // sizes[unit]
        return f"{size} {unit}{'s' if size > 1 else ''}"


def steps_of(times: np.ndarray, known: Step | None = None, series: str | None = None) -> tuple[Step, np.ndarray]:
    """Find the step from row to row: the most frequent one, in time, working days, or months.

    Args:
        times: datetime64[us] or float64 (rows,).
        known: The step, where that is known.
        series: The name of the series, for the message, where a file holds several.

    Returns:
        The step, and int64 (rows,): how many steps each row is after the first; 0, 1, 2, ... where none is missing.

    Raises:
        RowError: Time runs backwards, stands still, or moves by a part of a step.
    """
    still = np.diff(times) <= times[:1] - times[:1]
    if still.any():
        row = np.argmax(still) + 1
        if times[row] == times[row - 1]:
            raise RowError(row, f"repeats the time {shown(times[row])}")
        above = "in the row above" if series is None else f"in the row above of series {series!r}"
        raise RowError(row, f"holds {shown(times[row])}, which is before {shown(times[row - 1])} {above}")
    unit, day = _unit_of(times, known)
    if len(times) < 2:
        return (known or Step(0, ""))._replace(day=day), np.zeros(len(times), dtype=np.int64)
    ticks = _ticks(times, unit)
    size = known.size if known else most_frequent(np.diff(ticks), is_exact=bool(unit))
    if not unit:
        whole = ticks[-1] - ticks[0]
        size = whole / max(1, np.rint(whole / size))  # without the rounding errors of a single one
    if known and len(times) > 1 and abs(size - known.size) > 1e-4 * known.size:
        raise RowError(1, f"holds {shown(times[1])} after {shown(times[0])}, which is no step of {known}")
    exact = (ticks - ticks[0]) / size
    positions = np.rint(exact).astype(np.int64)
    step = Step(int(size) if unit else float(size), unit, day)
    between = np.abs(exact - positions) > (0 if unit else 1e-4)
    if between.any():
        row = np.argmax(between)
        after = f"{shown(times[row])} after {shown(times[row - 1])}"
        raise RowError(row, f"holds {after}, which is no whole number of steps of {step}")
    return step, positions


def most_frequent(steps: np.ndarray, is_exact: bool = True) -> float:
    """Return the step that occurs most often, the shortest of several."""
    unit = 1 if is_exact else np.median(steps)
    found, counts = np.unique(steps if is_exact else np.round(steps / unit, 6), return_counts=True)
    return found[counts.argmax()] * unit


def first_gap(times: np.ndarray, step: Step, positions: np.ndarray) -> RowError | None:
    """Return what is wrong with the first row after missing ones, if some are missing."""
    jumps = np.diff(positions) > 1
    if not jumps.any():
        return None
    row = int(np.argmax(jumps)) + 1
    return RowError(row, f"holds {shown(times[row])} after {shown(times[row - 1])}, but the step is {step}")


def _unit_of(times: np.ndarray, known: Step | None) -> tuple[str, int]:
    """Return the unit of the steps, and the day of the month on which steps of months fall.

    Raises:
        RowError: A row is at no time that steps of the known unit lead to.
    """
    is_date = times.dtype.kind == "M"
    if known and is_date != bool(known.unit):
        raise RowError(0, f"holds {shown(times[0])}, but the step is {known}")
    if not is_date or (len(times) < 2 and not known):
        return "", 0
    days = times.astype("datetime64[D]")
    in_day = times - days == times[0] - days[0]
    works = np.is_busday(days)
    if known:
        day = known.day and _day_of_month(days, known.day)
        fits = {"microsecond": True, "working day": in_day & works, "month": in_day & (day > 0)}[known.unit]
        if not np.all(fits):
            row = np.argmin(fits)
            raise RowError(row, f"holds {shown(times[row])}, to which no steps of {known} lead")
        return known.unit, day
    shortest = np.diff(times).min()
    if shortest >= np.timedelta64(1, "D") and in_day.all():
        if shortest >= np.timedelta64(28, "D") and (day := _day_of_month(days)):
            return "month", day
        # Days on which nobody works may be left out.
        if shortest == np.timedelta64(1, "D") and len(np.unique(np.diff(days))) > 1 and works.all():
            return "working day", 0
    return "microsecond", 0


def _day_of_month(days: np.ndarray, first_try: int = 31) -> int:
    """Return the day of the month that all days are, or the last day of shorter months; 0 if there is none."""
    months = days.astype("datetime64[M]")
    of_month = (days - months.astype("datetime64[D]")).astype(int) + 1
    last = _last_days(months)
    tries = (first_try, 31, of_month.max())
    return next((int(day) for day in tries if (of_month == np.minimum(day, last)).all()), 0)


def _last_days(months: np.ndarray) -> np.ndarray:
    return ((months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")).astype(int)


def _ticks(times: np.ndarray, unit: str) -> np.ndarray:
    """Return times in numbers, in which equal steps are equal."""
    if unit == "month":
        return times.astype("datetime64[M]").astype(np.int64)
    if unit == "working day":
        days = times.astype("datetime64[D]")
        return np.busday_count(days[0], days)
    return times.view(np.int64) if unit else times


def times_at(first: np.datetime64 | float, step: Step, positions: np.ndarray) -> np.ndarray:
    """Return the times so many steps after a first one."""
    ticks = positions * step.size
    if not step.unit:
        return first + ticks
    if step.unit == "microsecond":
        return first + ticks.astype("timedelta64[us]")
    day = first.astype("datetime64[D]")
    if step.unit == "working day":
        return np.busday_offset(day, ticks) + (first - day)
    months = first.astype("datetime64[M]") + ticks
    return months.astype("datetime64[D]") + np.minimum(step.day, _last_days(months)) - 1 + (first - day)


def shown_alike(times: np.ndarray, offset: str = "", among: np.ndarray | None = None) -> list:
    """Return times (...) as text of one form: with seconds, or parts of them, in all where one needs these.

    `among` are all times that have this form, also those not shown; only `times` by default.
    """
    if times.dtype.kind != "M":
        return np.reshape([shown(time) for time in times.ravel()], times.shape).tolist()
    among = times if among is None else np.concatenate([among.ravel(), times.ravel()])
    unit = next(unit for unit in ("m", "s", "us") if (among.astype(f"datetime64[{unit}]") == among).all())
    texts = np.datetime_as_string(times, unit=unit)
    return np.char.add(np.char.replace(texts, "T", " "), offset).tolist()


def shown(time: np.datetime64 | float, offset: str = "") -> str:
    """Return a time as text, without what is 0 at its end, and with its offset from UTC."""
    if not isinstance(time, np.datetime64):
        return f"{time:.0f}" if time == np.rint(time) else f"{time:.15g}"
    return re.sub(r"(:00)?(\.0+)?$", "", str(time).replace("T", " ")) + offset
