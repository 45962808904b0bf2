"""Any series of any CSV file as a forecasting task, and the reading of text files that the others share."""

from __future__ import annotations

import csv
import gzip
import operator
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from .windows import CHRONOLOGICAL_SPLIT, ForecastData, Scaling, chronological_windows, fingerprint, split_points

Column = str | int
Row = tuple[int, list[str]]  # line number in the file (from 1), cells

_MEND = "fill or remove missing values before loading"
_MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "?"}


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
    scaling: Scaling | None = None,
) -> ForecastData:
    """Make a forecasting task of one or several columns of a CSV file whose rows are equal steps in time.

    The parts are cut in time, and every column is standardised by its mean and standard deviation on the
    training part (a column that is constant there is only centred). `target_scaling.unscale(forecast)` brings
    forecasts back to the file's units.

    Args:
        path: The file, gzipped or not.
        columns: Columns that the network observes: names or positions (from 0, or from -1 backwards), or "all"
            columns of numbers; the last column of numbers by default. Columns of text, such as dates, are
            left out unless asked for.
        targets: Columns that it forecasts: some of `columns`; all of them by default.
        input_length: N_input, in rows.
        horizon: N_output, in rows.
        stride: Rows from one window to the next.
        split: Shares of train, validation and test, which sum to 1; or whole numbers, their rows, counted from the
            first one, such as (8640, 2880, 2880). Validation may be 0.
        header: Whether the first row holds names; by default that is judged from the first two rows. Without
            names the columns are called "0", "1", ...
        delimiter: By default a tab, a semicolon or a comma, the first of these that the first line holds.
        reach_back: Let the inputs of validation and test begin in the part before, so that all of its rows are
            forecast; by default no window reaches over a border.
        scaling: Standardise by this one, such as that of the data a network was trained on, in place of the
            training part's.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: `path` is a folder.
        TypeError: A number or a column is of the wrong kind.
        ValueError: A column, value, row or option is not usable; the sentence says which and why.
    """
    path = existing_file(path, "the CSV file")
    values, names, chosen = read_columns(path, lambda *found: _wanted(columns, *found), header, delimiter)
    target_columns = _target_columns(targets, names, chosen)
    train_end, _, _ = split_points(len(values), split, input_length, horizon, reach_back)
    scaling = _standardisation(values[:train_end]) if scaling is None else scaling.checked(values)
    series = (values - scaling.mean.numpy()) / scaling.std.numpy()
    parts = chronological_windows(series, input_length, horizon, stride, split, target_columns, reach_back)
    target_scaling = Scaling(scaling.mean[target_columns], scaling.std[target_columns])
    observed = tuple(names[position] for position in chosen)
    return ForecastData("csv", *parts, scaling, target_scaling, fingerprint(values), observed, tuple(target_columns))


def _standardisation(train: np.ndarray) -> Scaling:
    # A constant column's computed deviation may be a rounding error instead of 0.
    std = np.where(train.max(axis=0) == train.min(axis=0), 1.0, train.std(axis=0))
    return Scaling(torch.from_numpy(train.mean(axis=0)), torch.from_numpy(std))


def _wanted(columns: Column | Sequence[Column] | None, names: list[str], numeric: list[int]) -> list[int]:
    """Return the positions of the columns asked for."""
    if columns is None:
        return numeric[-1:]
    if columns == "all" and "all" not in names:
        return numeric
    return _positions("columns", columns, names)


def _target_columns(targets: Column | Sequence[Column] | None, names: list[str], chosen: list[int]) -> list[int]:
    """Return where the targets stand among the chosen columns."""
    if targets is None:
        return list(range(len(chosen)))
    positions = _positions("targets", targets, names)
    for position in positions:
        if position not in chosen:
            observed = _listing([names[i] for i in chosen])
            raise ValueError(f"targets must be among columns ({observed}), given {names[position]!r}")
    return [chosen.index(position) for position in positions]


def _positions(argument: str, columns: Column | Sequence[Column], names: list[str]) -> list[int]:
    asked = columns if isinstance(columns, Sequence) and not isinstance(columns, str) else [columns]
    positions = [_position(argument, column, names) for column in asked]
    if not positions or len(set(positions)) < len(positions):
        raise ValueError(f"{argument} must name one or several columns, each once, given {columns!r}")
    return positions


def _position(argument: str, column: Column, names: list[str]) -> int:
    if isinstance(column, str):
        if names.count(column) > 1:
            raise ValueError(f"{argument} names {column!r}, which several columns share; give its position")
        if column in names:
            return names.index(column)
        if not re.fullmatch(r"-?\d+", column):
            raise ValueError(f"{argument} names {column!r}, but the columns are {_listing(names)}")
    try:
        position = int(column) if isinstance(column, str) else operator.index(column)
    except TypeError:
        raise TypeError(f"{argument} must be column names or positions, given {column!r}") from None
    if not -len(names) <= position < len(names):
        allowed = f"between {-len(names)} and {len(names) - 1}"
        raise ValueError(f"{argument} asks for column {position}, but positions lie {allowed}")
    return position % len(names)


def _listing(names: Sequence[str], most: int = 20) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def existing_file(path: str | Path, what: str) -> Path:
    """Return `path` if it is a file.

    Raises:
        FileNotFoundError: Nothing is there.
        IsADirectoryError: The path is a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{what} must be a file, but {path} is a folder")
    if not path.exists():
        raise FileNotFoundError(f"{what} was looked for at {path}, but there is no such file")
    return path


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, gzipped or not whatever its name says; damage found while reading names the file.

    Raises:
        ValueError: The file is damaged or not text.
    """
    try:
        with open(path, "rb") as raw:
            opener = gzip.open if raw.read(2) == b"\x1f\x8b" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
            yield text
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile, csv.Error) as problem:
        raise ValueError(f"{path} is damaged or not a text file: {problem}") from problem


def read_columns(
    path: Path,
    choose: Callable[[list[str], list[int]], list[int]],
    header: bool | None = None,
    delimiter: str | None = None,
) -> tuple[np.ndarray, list[str], list[int]]:
    """Read some columns of numbers from a delimited text file, gzipped or not.

    Args:
        path: An existing file.
        choose: Gets the names of all columns and the positions of those that hold numbers, and returns the
            positions to read.
        header: Whether the first row holds names; None to judge from the first two rows.
        delimiter: One character; None for the first of tab, semicolon and comma that the first line holds.

    Returns:
        The values (rows, columns read) in float64, the names of all columns, and the positions read.

    Raises:
        ValueError: The file is damaged or empty, holds no numbers, its rows differ in length, or a value read
            is missing, infinite or no number.
    """
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1):
        raise ValueError(f"delimiter must be one character, given {delimiter!r}")
    with open_text(path) as text:
        rows = _rows(path, text, delimiter)
        head = list(islice(rows, 2))
        if not head:
            raise ValueError(f"{path} is empty")
        names, body = _split_header(head, header)
        if not body:
            raise ValueError(f"{path} holds a header but no rows")
        numeric = [i for i, cell in enumerate(body[0][1]) if _is_value(cell)]
        chosen = choose(names, numeric)
        if not chosen:
            raise ValueError(f"{path} has no column of numbers; its first row is {_listing(body[0][1])}")
        return _values(path, chain(body, rows), names, chosen), names, chosen


def _rows(path: Path, text: TextIO, delimiter: str | None) -> Iterator[Row]:
    """Yield the rows that are not blank, all of one length."""
    first = text.readline()
    if delimiter is None:
        delimiter = next((candidate for candidate in "\t;" if candidate in first), ",")
    reader = csv.reader(chain([first], text), delimiter=delimiter, skipinitialspace=True)
    width, blank = 0, 0
    for cells in reader:
        if not cells:
            blank = reader.line_num
            continue
        # In a file of one column a blank line between values is a missing value, and skipping it shifts time.
        if blank and width == 1:
            raise ValueError(f"{path}, line {blank} is blank; {_MEND}")
        width = width or len(cells)
        if len(cells) != width:
            place = f"{path}, line {reader.line_num}"
            raise ValueError(f"{place} has {len(cells)} cells, but the first row has {width}")
        yield reader.line_num, cells


def _split_header(head: list[Row], header: bool | None) -> tuple[list[str], list[Row]]:
    """Return the column names and those of the first two rows that hold data."""
    cells = head[0][1]
    if header is None:
        header = _has_header(cells, head[-1][1])
    if header:
        return [cell.strip() for cell in cells], head[1:]
    return [str(position) for position in range(len(cells))], head


def _has_header(first: list[str], second: list[str]) -> bool:
    if any(_is_label(cell, below) for cell, below in zip(first, second, strict=True)):
        return True
    # pandas calls unnamed columns 0, 1, 2, ..., which only the decimals below tell from data.
    unnamed = first == [str(position) for position in range(len(first))]
    return unnamed and not all(re.fullmatch(r"\s*[+-]?\d+\s*", cell) for cell in second)


def _is_label(cell: str, below: str) -> bool:
    if _is_value(below):
        return not cell or not _is_value(cell)
    # Above text such as dates: a name is told by having no digits where they do.
    return _has_digit(below) and not _has_digit(cell)


def _has_digit(cell: str) -> bool:
    return any(character.isdigit() for character in cell)


def _is_value(cell: str) -> bool:
    """Whether the cell belongs to a column of numbers: a number, or a mark for a missing one."""
    if cell.strip().lower() in _MISSING:
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _values(path: Path, rows: Iterator[Row], names: list[str], chosen: list[int]) -> np.ndarray:
    numbers, lines = array("d"), []
    for line, cells in rows:
        try:
            numbers.extend([float(cells[position]) for position in chosen])
        except ValueError:
            raise _bad_cell(path, line, names, chosen, cells) from None
        lines.append(line)
    values = np.frombuffer(numbers, dtype=np.float64).reshape(-1, len(chosen))
    infinite = np.argwhere(~np.isfinite(values))
    if len(infinite):
        row, column = infinite[0]
        raise _unusable(path, lines[row], names[chosen[column]], str(values[row, column]))
    return values


def _bad_cell(path: Path, line: int, names: list[str], chosen: list[int], cells: list[str]) -> ValueError:
    # A mark such as "n/a" counts as a value for _is_value but not for float.
    for position in chosen:
        try:
            float(cells[position])
        except ValueError:
            break
    return _unusable(path, line, names[position], repr(cells[position]) if cells[position] else "nothing")


def _unusable(path: Path, line: int, name: str, found: str) -> ValueError:
    place = f"{path}, line {line}, column {name!r}"
    return ValueError(f"{place} holds {found}, which is not a finite number; {_MEND}")
