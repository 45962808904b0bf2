"""Delimited text files: how a file is written, its cells, and which of its columns hold numbers."""

from __future__ import annotations

import codecs
import csv
import gzip
import math
import re
import zlib
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TextIO

import numpy as np

from .arguments import called, giving, is_fixed

Row = tuple[int, list[str]]  # line number in the file (from 1), cells
Choice = Callable[[list[str], list[list[str]]], Iterable[int]]  # names, first rows -> positions of columns

FILL_FIRST = "fill or remove missing values before loading"
_MISSING = {
    *("", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "none", "nil", "missing", "?", "-", "--"),
    *("---", ".", "..", "*", "\\n", "#value!", "#div/0!", "#ref!", "#num!", "#null!", "#name?", "n.a.", "–", "—"),
}
_ERROR = re.compile(r"#[^\W\d_]+[!?]|#[^\W\d_]/[^\W\d_]|#NV|##+")  # of a spreadsheet in any language
_SAMPLE_LINES, _SAMPLE_ROWS, _ROWS_AT_ONCE = 100, 20, 500
_DELIMITERS = "\t;|,"

# Numbers in another notation than the one that is read: 1,5 and 1.017,5 and 1 017; with a sign of percent or a unit.
_GROUPS = r"\d{1,3}(?P<mark>[,.'’\s])\d{3}(?:(?P=mark)\d{3})*(?:[.,]\d+)?"
_OTHER_NOTATION = re.compile(rf"\s*[-+−]?(?:\d*[.,]\d+|\d+[.,]?|{_GROUPS})(?:[eE][-+]?\d+)?\s*")
# Not of groups of three digits, where some programs group four digits and others do not.
_NO_GROUPS = re.compile(r"\d{5}|\d{4}\.|\d\.\d{0,2}(?!\d)|\.\d{4}|(?<![\d.])0\d*\.|(?<!\d)\.\d|\d[eE]")
_CUT = re.compile(r"(?:(?:^|\s)[-+]?\d+,\d+(?:[eE][-+]?\d+)?|^[-+]?\d{1,3},\d{3}\.\d+)$")  # 12,5 and 1,017.5
# 1_000 and (5.1) and 5- and <0.1 and 1.5D3
_MARKED = re.compile(r"\s*[^\w\s]?\s*(?:\d+(?:[.,]\d+)?|\d{1,3}(?:_\d{3})+)(?:[dD][-+]?\d+)?\s*[^\w\s]?\s*")
_WITH_UNIT = re.compile(
    rf"\s*(?P<before>[$€£¥]?)\s*[-+−]?(?:{_GROUPS}|\d+(?:[.,]\d+)?)\s*(?P<after>[^\W\d_]{{1,12}}|[%‰°$€£¥]\S{{0,3}}|)\s*"
)


@dataclass(frozen=True)
class Notation:
    """How numbers are written: the decimal mark, and the mark between groups of three digits, if there is one.

    Without a decimal mark that is a point, and points that seem to group thousands are refused.
    """

    given: str | None = None
    thousands: str | None = None

    @property
    def decimal(self) -> str:
        """The decimal mark."""
        return self.given or ("," if self.thousands == "." else ".")

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise ValueError(f"{called('decimal')} must be a point or a comma, given {self.decimal!r}")
        mark = self.thousands
        if mark is not None and (len(mark) != 1 or mark.isalnum() or mark in "+-"):
            raise ValueError(f"{called('thousands')} must be one character, no letter, digit or sign, given {mark!r}")
        if mark == self.decimal:
            both = f"{called('decimal')} and {called('thousands')}"
            raise ValueError(f"{both} must differ, given {mark!r} for both")

    @property
    def is_plain(self) -> bool:
        """Whether Python writes numbers so."""
        return self.decimal == "." and self.thousands is None

    @cached_property
    def _pattern(self) -> re.Pattern:
        mark = self.thousands or ""
        space = "[ \u00a0\u2007\u2009\u202f]" if mark.isspace() else re.escape(mark)
        groups = rf"[1-9]\d{{0,2}}(?:{space}\d{{3}})+(?!.*[eE])|" if mark else ""
        return re.compile(rf"([-+]?)({groups}\d*)(?:{re.escape(self.decimal)}(\d*))?([eE][-+]?\d+)?")

    def number(self, cell: str) -> float:
        """Return the number in a cell, NaN if there is none."""
        if not self.is_plain:
            parts = self._pattern.fullmatch(cell.strip())
            if parts is None:
                return math.nan
            sign, whole, fraction, exponent = (part or "" for part in parts.groups())
            digits = re.sub(r"\D", "", whole)
            cell = f"{sign}{digits}.{fraction}{exponent}"
        try:
            return math.nan if "_" in cell else float(cell)  # float takes 2016_07_01 for 20160701
        except ValueError:
            return math.nan


def is_missing(cell: str) -> bool:
    """Whether a cell is a mark for a missing value; spreadsheets write errors in many languages, such as #WERT!."""
    cell = cell.strip()
    return cell.lower() in _MISSING or _ERROR.fullmatch(cell) is not None


def _is_comment(line: str, delimiter: str | None = None) -> bool:
    """Whether a line that begins with "#" does not begin with a spreadsheet's mark such as #N/A, or a label, #5."""
    cell = re.split(f"[{re.escape(delimiter or _DELIMITERS)}]", line, maxsplit=1)[0].strip()
    return not (is_missing(cell) or re.fullmatch(r"#[A-Z]+\d*|#\d+", cell))


class Column:
    """One column: its numbers, and what else is in it.

    Attributes:
        name: Its name.
        is_skipped: Whether nobody reads its cells.
        numbers: Cells that hold a number.
        missing: Cells that mark a missing value.
        others: Cells that hold neither.
        first_missing: Row (from 0) and cell of the first missing value; None if there is none.
        first_other: The same for the others.
        first_group: The same for what may be a number with its thousands grouped by points.
    """

    def __init__(self, name: str, notation: Notation, keep: bool, skip: bool):
        self.name, self.notation, self.is_skipped = name, notation, skip
        self.numbers = self.missing = self.others = self._in_other_notation = self._with_unit = 0
        self.first_missing: tuple[int, str] | None = None
        self.first_other: tuple[int, str] | None = None
        self.first_group: tuple[int, str] | None = None
        self._holds_whole = False
        self._may_group = notation.given is None and notation.thousands is None
        self._units: set[str] = set()
        self._values: list[np.ndarray] = []
        self._cells: list[np.ndarray] | None = [] if keep else None

    @property
    def is_numeric(self) -> bool:
        """Whether this is a column of numbers, though some of its cells may be none."""
        # Codes such as 1A, 2B have many units.
        alike = self._in_other_notation + (self._with_unit if len(self._units) == 1 else 0)
        return self.numbers + alike > self.others - alike

    @property
    def begins_with_number(self) -> bool:
        """Whether the first row holds a number here."""
        return all(first is None or first[0] > 0 for first in (self.first_missing, self.first_other))

    @property
    def values(self) -> np.ndarray:
        """Float64 (rows,), NaN where a cell is no number."""
        return np.concatenate(self._values)

    @values.setter
    def values(self, values: np.ndarray) -> None:
        self._values = [values]

    def take_cells(self) -> np.ndarray:
        """Return the cells (rows,) of a column that is kept, in UTF-8, and forget them."""
        cells, self._cells = np.concatenate(self._cells), None
        return cells

    def add(self, cells: Sequence[str]) -> None:
        """Append the next cells."""
        if self._cells is not None:
            self._cells.append(np.array([cell.strip().encode() for cell in cells], dtype=np.bytes_))
        self._look_for_groups(cells)
        self._values.append(self._plain_numbers(cells) if self.notation.is_plain else self._sorted_out(cells))

    def _plain_numbers(self, cells: Sequence[str]) -> np.ndarray:
        try:
            values = np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            return self._sorted_out(cells)
        if not np.isfinite(values).all() or "_" in "".join(cells):
            return self._sorted_out(cells)
        self.numbers += len(cells)
        return values

    def _sorted_out(self, cells: Sequence[str]) -> np.ndarray:
        before = self._rows
        if self._cells is not None and self.others:  # the text of times and of series
            self.others += len(cells)
            return np.full(len(cells), math.nan)
        counts = Counter(cells)
        found = {cell: self.notation.number(cell) for cell in counts}
        for cell, count in counts.items():
            if math.isfinite(found[cell]):
                self.numbers += count
            elif is_missing(cell):
                self.missing += count
                self.first_missing = self.first_missing or (before + cells.index(cell), cell)
            else:
                self.others += count
                self.first_other = self.first_other or (before + cells.index(cell), cell)
                self._look_at(cell, count)
        return np.fromiter((found[cell] for cell in cells), np.float64, len(cells))

    def may_be_grouped(self, seldom: bool) -> bool:
        """Whether all points of this column may group thousands; where that is seldom, only among whole numbers."""
        return self._may_group and self.first_group is not None and (self._holds_whole or not seldom)

    def _look_for_groups(self, cells: Sequence[str]) -> None:
        if not self._may_group:
            return
        text = "\n".join(cells)
        self._may_group = not _NO_GROUPS.search(text)
        self._holds_whole |= re.search(r"(?m)^\s*[-+]?\d+\s*$", text) is not None
        if self.first_group is None and "." in text:
            row = next(row for row, cell in enumerate(cells) if "." in cell)
            self.first_group = self._rows + row, cells[row]

    @property
    def _rows(self) -> int:
        return self.numbers + self.missing + self.others

    def _look_at(self, cell: str, count: int) -> None:
        if math.isinf(self.notation.number(cell)) or _OTHER_NOTATION.fullmatch(cell) or _MARKED.fullmatch(cell):
            self._in_other_notation += count
        elif unit := _WITH_UNIT.fullmatch(cell):
            self._with_unit += count
            if len(self._units) < 2:
                self._units.add(unit["before"] + unit["after"])


@dataclass(frozen=True)
class Table:
    """The cells of a file.

    Attributes:
        path: The file.
        delimiter: What stands between cells.
        encoding: The encoding of the text.
        header: Where names were read: "the first row", "a comment", "" for nowhere.
        columns: All columns.
        lines: The line (from 1) in which each row ends.
        first: The cells of the first row.
        comments: How many lines are comments.
        empty_rows: How many rows of empty cells were left out.
        blank_lines: How many blank lines between rows were.
        notation: How numbers are written.
    """

    path: Path
    delimiter: str
    encoding: str
    header: str
    columns: list[Column]
    lines: array
    first: list[str]
    comments: int
    empty_rows: int
    blank_lines: int
    notation: Notation

    @property
    def names(self) -> list[str]:
        """The names of all columns."""
        return [column.name for column in self.columns]

    @property
    def numeric(self) -> list[int]:
        """Positions of the columns of numbers."""
        return [position for position, column in enumerate(self.columns) if column.is_numeric]

    def place(self, row: int, column: Column) -> str:
        """Return where a cell stands in the file."""
        return f"{self.path}, line {self.lines[row]}, column {column.name!r}"

    def have_points(self, positions: Sequence[int]) -> bool:
        """Whether the decimal mark of these columns of numbers is a point that stands in each of them."""
        return self.notation.decimal == "." and all(self.columns[position].first_group for position in positions)

    def numbers(
        self, positions: Sequence[int], may_miss: bool = False, mend: str = FILL_FIRST, chosen_by: str = "columns"
    ) -> np.ndarray:
        """Return columns as float64 (rows, columns).

        Args:
            positions: Which.
            may_miss: Whether values may be missing, and are NaN.
            mend: What to do about a missing value, if none may.
            chosen_by: The argument that chose the columns.

        Raises:
            ValueError: A cell holds no finite number, or is missing.
        """
        wrong = []
        for column in (self.columns[position] for position in positions):
            wrong += [(*first, column, True) for first in [column.first_missing] if first and not may_miss]
            wrong += [(*first, column, False) for first in [column.first_other] if first]
        if wrong:
            row, cell, column, is_missed = min(wrong, key=lambda one: one[0])
            raise ValueError(self._unusable(row, cell, column, mend if is_missed else None, chosen_by))
        seldom = (self.delimiter == "," and len(self.columns) > 1) or is_fixed("decimal")
        for column in (self.columns[position] for position in positions):
            if column.may_be_grouped(seldom):
                row, cell = column.first_group
                mark = f"{giving('thousands', '.')} if its point groups thousands, {giving('decimal', '.')} if not"
                raise ValueError(f"{self.place(row, column)} holds {cell!r}; give {mark}")
        values = np.empty((len(self.lines), len(positions)))
        for place, position in enumerate(positions):
            values[:, place] = self.columns[position].values
            self.columns[position].values = values[:, place]  # kept once
        return values

    def _unusable(self, row: int, cell: str, column: Column, mend: str | None, chosen_by: str) -> str:
        if not cell.strip() and len(self.columns) == 1:
            return f"{self.path}, line {self.lines[row]} is blank; {mend}"
        found = repr(cell) if cell.strip() else "nothing"
        if not math.isfinite(value := _float(cell)):
            found = str(value)
        advice = mend or self._advice(row, cell, column, chosen_by)
        return f"{self.place(row, column)} holds {found}, which is not a finite number; {advice}"

    def _advice(self, row: int, cell: str, column: Column, chosen_by: str) -> str:
        if "_" in cell and not math.isnan(_float(cell.replace("_", ""))):
            return "underscores belong to no number"
        unit = _WITH_UNIT.fullmatch(cell)
        if unit and (sign := unit["before"] or unit["after"]):
            return f"remove {sign!r} from the cells of that column"
        if "−" in cell:
            return "write its sign as -"
        if math.isinf(_float(cell)):
            return "correct that cell"
        if _OTHER_NOTATION.fullmatch(cell):
            return _advice_on_marks(cell, self.notation)
        numeric = [self.columns[position] for position in self.numeric]
        if row == 0 and column.is_numeric and not any(column.begins_with_number for column in numeric):
            return f"line {self.lines[row]} may hold units and no data: remove that line, or correct it"
        other = "" if is_fixed(chosen_by) else f"choose other columns by {called(chosen_by)}"
        if not column.is_numeric:
            return ": ".join(filter(None, ("that is no column of numbers", other)))
        return ", or ".join(filter(None, ("correct that cell", other)))


def _advice_on_marks(cell: str, notation: Notation) -> str:
    """Say which marks are which in a number of another notation."""
    marks = [mark for mark in re.sub(r"[eE].*", "", cell.strip()) if mark in ",.'’" or mark.isspace()]
    first, last = (marks[0], marks[-1]) if marks else ("", "")
    settle = []
    if first != last:
        settle = [giving("decimal", last)] if last != notation.decimal else []
        settle += [giving("thousands", first)] if first != notation.thousands else []
    elif last and (len(marks) > 1 or last != notation.decimal) and last != notation.thousands:
        is_group = re.fullmatch(rf"\s*[-+]?[1-9]\d{{0,2}}({re.escape(last)}\d{{3}})+\s*", cell)
        settle = [giving("decimal", last)] if len(marks) == 1 and last in ",." else []
        settle += [giving("thousands", last)] if is_group else []
        if len(settle) == 2:
            return f"give {settle[0]} if {last!r} is the decimal mark, {settle[1]} if it groups thousands"
    return f"give {' '.join(settle)}" if settle else "its groups of digits do not fit: correct that cell"


def _float(cell: str) -> float:
    """Return the value of a cell, infinity and NaN included; 0 if it is no number at all."""
    try:
        return float(cell)
    except ValueError:
        return 0.0


# ------------------------------------------------------------------------------------------------- files


def existing_file(path: str | Path, what: str) -> Path:
    """Return `path` if it is a file.

    Raises:
        FileNotFoundError: Nothing is there.
        IsADirectoryError: The path is a folder.
        ValueError: It is a pipe.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{what} must be a file, but {path} is a folder")
    if not path.exists():
        raise FileNotFoundError(f"{what} was looked for at {path}, but there is no such file")
    if not path.is_file():  # which is read from its beginning several times
        raise ValueError(f"{what} must be a file, but {path} is a pipe or a device: save what comes from it")
    return path


@contextmanager
def open_text(path: Path, encoding: str | None = None) -> Iterator[TextIO]:
    """Open a text file, gzipped or not whatever its name says; damage found while reading names the file.

    Args:
        path: An existing file.
        encoding: Of the text; by default UTF-16 where the file begins with its mark, else UTF-8.

    Raises:
        ValueError: The file is damaged or not text, or begins with the mark of UTF-8 though it is given as another.
    """
    try:
        with open(path, "rb") as raw:
            begin = raw.read(4)
        if begin.startswith((b"PK\3\4", b"BZh", b"\xfd7zX", b"\xd0\xcf\x11\xe0")):
            raise ValueError(f"{path} is an archive or a spreadsheet's own file: unpack it, or save it as CSV")
        opener = gzip.open if begin.startswith(b"\x1f\x8b") else open
        with opener(path, "rb") as raw:
            begin = raw.read(3)
        is_utf16 = begin[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        is_utf8 = encoding is None or codecs.lookup(encoding).name.startswith("utf-8")
        if begin == codecs.BOM_UTF8 and not is_utf8:
            raise ValueError(f"{path} begins with the mark of UTF-8, but {giving('encoding', encoding)} is given")
        # The mark is no part of the first cell.
        if (is_utf8 and (encoding is None or not is_utf16)) or (is_utf16 and encoding.lower().startswith("utf-16")):
            encoding = "utf-16" if is_utf16 else "utf-8-sig"
        with opener(path, "rt", encoding=encoding, newline="") as text:
            yield text
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile, csv.Error) as problem:
        raise ValueError(f"{path} is damaged or not a text file: {problem}") from problem


@contextmanager
def _open_table(path: Path, encoding: str | None) -> Iterator[TextIO]:
    """Open a text file; bytes that its encoding does not have lead to a sentence on `encoding`."""
    try:
        name = None if encoding is None else codecs.lookup(encoding).name
        "".encode(name or "utf-8")  # raises for codecs of other things than text
    except (LookupError, ValueError):
        known = "the name of an encoding, such as utf-8, latin-1 or cp1252"
        raise ValueError(f"{called('encoding')} must be {known}, given {encoding!r}") from None
    with open_text(path, "utf-8-sig" if name == "utf-8" else name) as text:
        try:
            yield text
        except UnicodeError as problem:  # a file in UTF-16 without a mark raises no UnicodeDecodeError
            found = f"{path} is no text in {text.encoding.removesuffix('-sig').upper()} ({problem})"
            raise ValueError(f"{found}; give its encoding, such as {giving('encoding', 'latin-1')}") from None


class _Lines:
    """The lines of a text but for comments, which begin with "#", and with no mark of a spreadsheet such as #N/A.

    Attributes:
        number: Of the last line given out, from 1.
        pending: Rows that are read and not yet given out.
        comments: How many lines were left out.
        comment: The last of them.
        empty_rows: How many rows of empty cells were left out, before the first row or after the last one.
        blank_lines: How many lines without a cell were left out between rows.
    """

    def __init__(self, lines: Iterator[str], number: int, delimiter: str):
        self._lines, self.number, self._delimiter = lines, number, delimiter
        self.comments, self.comment, self.empty_rows, self.blank_lines = 0, "", 0, 0
        self.pending: deque[Row] = deque()

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            if line.startswith("#") and _is_comment(line, self._delimiter):
                self.comments, self.comment = self.comments + 1, line
            else:
                yield line

    def rows(self, path: Path, delimiter: str, width: int = 0) -> Iterator[Row]:
        """Yield the rows, all of one length; empty rows at the end, and blank lines between longer rows, are none."""
        begin, empty = self.number + 1, []
        yield from self._taken()
        try:
            for cells in csv.reader(self, delimiter=delimiter, skipinitialspace=True, strict=True):
                begin = self.number + 1
                if not any(cells):
                    empty.append((self.number, len(cells)))
                    continue
                if width:
                    self.pending.extend((line, [""] * width) for line, count in empty if count > 1 or width == 1)
                    self.blank_lines += sum(count <= 1 < width for _, count in empty)
                else:
                    self.empty_rows += sum(count > 0 for _, count in empty)
                empty.clear()
                width = width or len(cells)
                if len(cells) < width or any(cells[width:]):
                    found = f"{path}, line {self.number} has {len(cells)} cells, but the first row has {width}"
                    mark = f"; give {giving('decimal', ',')} if the comma is a decimal mark"
                    raise ValueError(found + mark * (width == 1 and delimiter == ","))
                self.pending.append((self.number, cells[:width]))
                yield from self._taken()
            self.empty_rows += sum(count > 0 for _, count in empty)
        except csv.Error as problem:
            raise ValueError(f"{path}, line {begin} has a quotation mark too many or too few: {problem}") from None

    def _taken(self) -> Iterator[Row]:
        while self.pending:  # whoever stops in between finds the others here
            yield self.pending.popleft()

    def plain_rows(self, delimiter: str, width: int) -> list[list[str]]:
        """Return the next rows, one for each line, in less time than `rows`; none where that takes more care."""
        block = list(islice(self._lines, _ROWS_AT_ONCE))
        text = "".join(block)
        if '"' not in text and "#" not in text and not self.pending:
            rows = list(csv.reader(block, delimiter=delimiter, skipinitialspace=True))
            if set(map(len, rows)) == {width} and [""] * width not in rows:
                self.number += len(block)
                return rows
        self._lines = chain(block, self._lines)
        return []


def _delimiter(lines: list[str], path: Path, notation: Notation, header: bool | None) -> str:
    """Return what stands between the cells: what cuts all lines into equally many cells.

    The decimal mark and that of thousands do not, unless some cells that hold them are in quotation marks. A comma is
    asked about where two cells may be one number, and no names tell that they are two.

    Raises:
        ValueError: The file is empty, or a mark may be either.
    """
    if not lines:
        raise ValueError(f"{path} is empty")
    cut = {mark: list(csv.reader(lines, delimiter=mark, skipinitialspace=True)) for mark in _DELIMITERS}
    in_numbers = {notation.decimal, notation.thousands} & {*_DELIMITERS}
    in_numbers -= {mark for mark in in_numbers if any(mark in cell for row in cut[mark] for cell in row)}
    candidates = [mark for mark in _DELIMITERS if mark not in in_numbers]
    for candidate in candidates:
        # The last of the lines may end within a quoted cell.
        rows = [row for row in cut[candidate] if any(row)]
        rows = rows[: _SAMPLE_LINES // 2]
        widths = {len(row) for row in rows}
        if len(widths) == 1 and widths != {1}:
            cut = any(_CUT.search(",".join(pair)) for pair in pairwise(rows[0])) and header is False
            if candidate == "," and notation.given is None and (cut or _is_in_name(lines, rows)):
                either = f"give {giving('decimal', ',')} if it is the decimal mark, {giving('delimiter', ',')} if not"
                raise ValueError(f"{path}: ',' may cut cells or be a mark in {lines[0].strip()!r}; {either}")
            return candidate
    either = next((mark for mark in in_numbers if mark in lines[0]), None)
    if either and math.isnan(notation.number(lines[0])):
        which = f"give {giving('delimiter', either)} if it does, another delimiter if not"
        raise ValueError(
            f"{path}: {either!r} is a mark in numbers, but may cut cells in {lines[0].strip()!r}; {which}"
        )
    return next((mark for mark in "\t;,|" if mark in candidates and mark in lines[0]), candidates[-1])


def _is_in_name(lines: list[str], rows: list[list[str]]) -> bool:
    """Whether a comma of the first row may belong to a name, as in "time,load, kW" above 2025-01-01,12,5."""
    names = lines[0].rstrip().split(",")
    spaced = [place for place, name in enumerate(names) if place and name[:1].isspace()]
    all_alike = 2 < len(names) == len(spaced) + 1  # names that are cut by a comma and a space
    if '"' in lines[0] or all_alike or any(", " in line for line in lines[1:]):
        return False
    return any(all(_CUT.search(",".join(row[place - 1 : place + 1])) for row in rows[1:]) for place in spaced)


# ------------------------------------------------------------------------------------------------- names


def _may_be_data(first: list[str], below: list[list[str]]) -> bool:
    """Whether a cell of the first row may be a number, a missing value, or a date or a code like those below it."""
    cells = [(cell.strip(), [row[place].strip() for row in below]) for place, cell in enumerate(first)]
    # pandas writes no name above the numbers or dates of its rows.
    return any(_may_be_datum(*of_one) for of_one in (cells if cells[0][0] else cells[1:]))


def _may_be_datum(cell: str, below: list[str]) -> bool:
    if not cell:
        return any(below)
    if not _has_digit(cell):
        return is_missing(cell) or _float(cell) != 0.0 or cell in below
    return not cell[0].isalpha() or any(other[:1].isalpha() and _has_digit(other) for other in below)


def _has_digit(cell: str) -> bool:
    return any(character.isdigit() for character in cell)


def _named(
    path: Path, head: list[Row], header: bool | None, comment: list[str]
) -> tuple[list[str] | None, list[Row]]:
    """Return the names, None if there are none, and those of the first rows that hold data."""
    line, first = head[0]
    below = [cells for _, cells in head[1:]]
    if header is None and _may_be_data(first, below):
        # numpy writes the names into a comment.
        if len(comment) == len(first) and not _may_be_data(comment, [first, *below]):
            return comment, head
        either = f"give {giving('header', True)} or {giving('header', False)}"
        if len(first) == 1 and len(first[0].split()) > 1:
            either = f"give {called('delimiter')} if spaces cut cells, else {either[5:]}"
        raise ValueError(f"{path}, line {line} may hold names or data ({listing(first)}); {either}")
    return (None, head) if header is False else ([cell.strip() for cell in first], head[1:])


def listing(names: Sequence[str], most: int = 20) -> str:
    """Return names in a row, the first ones of many."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(" ".join(name.split()) for name in names[:most]) + more


# ------------------------------------------------------------------------------------------------- reading


def read_table(
    path: Path,
    keep: Choice = lambda names, sample: (),
    skip: Choice = lambda names, sample: (),
    header: bool | None = None,
    delimiter: str | None = None,
    notation: Notation | None = None,
    encoding: str | None = None,
) -> Table:
    """Read a delimited text file, gzipped or not.

    Args:
        path: An existing file.
        keep: Gets the names of all columns and the first rows, and returns the positions of the columns whose cells
            are kept as text too.
        skip: Likewise, of those that nobody reads, which takes less time.
        header: Whether the first row holds names; None if it does, unless one of its cells may be data.
        delimiter: One character; None for the one of tab, semicolon, bar and comma that cuts all lines alike, a comma
            without names only if it may be no mark in numbers.
        notation: How numbers are written; as in Python by default.
        encoding: Of the text; None for UTF-16 where the file begins with its mark, else UTF-8.

    Raises:
        ValueError: The file is damaged or empty, its rows differ in length, or the first one may be names or data.
    """
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(f"{called('delimiter')} must be one character, given {delimiter!r}")
    notation = notation or Notation()
    with _open_table(path, encoding) as text:
        opening, others = [], 0
        while others < _SAMPLE_LINES and (line := next(text, "")):
            opening.append(line)
            others += not (line[0] == "#" and _is_comment(line, delimiter))
        if any("\0" in line for line in opening):
            unmarked = f"give its encoding, such as {giving('encoding', 'utf-16-le')}"
            raise ValueError(f"{path} holds zero bytes, so it is no text in UTF-8; {unmarked}")
        said = re.fullmatch(r"sep=(.)\s*", opening[0], re.IGNORECASE) if opening else None
        if said:  # a spreadsheet's word on the delimiter
            delimiter, opening = delimiter or said[1], opening[1:]
        sample = [line for line in opening if line.strip() and not (line[0] == "#" and _is_comment(line, delimiter))]
        delimiter = delimiter or _delimiter(sample, path, notation, header)
        lines = _Lines(chain(opening, text), number=1 if said else 0, delimiter=delimiter)
        rows = lines.rows(path, delimiter)
        head = list(islice(rows, 1))
        last = [lines.comment.removeprefix("#").strip()]
        comment = next(csv.reader(last, delimiter=delimiter, skipinitialspace=True), [])
        head += islice(rows, _SAMPLE_ROWS)
        if not head:
            raise ValueError(f"{path} is empty")
        names, body = _named(path, head, header, comment)
        if not body:
            raise ValueError(f"{path} holds a header but no rows")
        named_in = "" if names is None else "a comment" if len(body) == len(head) else "the first row"
        names = names or [str(position) for position in range(len(head[0][1]))]
        kept, skipped = (set(choose(names, [cells for _, cells in body])) for choose in (keep, skip))
        columns = [Column(name, notation, place in kept, place in skipped) for place, name in enumerate(names)]
        numbers = _fill(columns, body, lines, path, delimiter)
    encoding = text.encoding.removesuffix("-sig")
    left_out = lines.comments, lines.empty_rows, lines.blank_lines
    return Table(path, delimiter, encoding, named_in, columns, numbers, body[0][1], *left_out, notation)


def _fill(columns: list[Column], body: list[Row], lines: _Lines, path: Path, delimiter: str) -> array:
    """Read the first rows, and all that follow, into the columns; return the line of each row."""
    width, numbers = len(columns), array("q")

    def add(rows: Sequence[list[str]], of_rows: Iterable[int]) -> None:
        numbers.extend(of_rows)
        for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
            if not column.is_skipped:
                column.add(cells)

    add([cells for _, cells in body], [line for line, _ in body])
    while rows := lines.plain_rows(delimiter, width):
        add(rows, range(lines.number - len(rows) + 1, lines.number + 1))
    rest = lines.rows(path, delimiter, width)
    while chunk := list(islice(rest, _ROWS_AT_ONCE)):
        add([cells for _, cells in chunk], [line for line, _ in chunk])
    return numbers


def after_first_numbers(names: list[str], sample: list[list[str]]) -> Iterable[int]:
    """Return the positions after the first column that seems to hold numbers."""
    for position in range(len(names)):
        if 2 * sum(math.isfinite(Notation().number(cells[position])) for cells in sample) > len(sample):
            return range(position + 1, len(names))
    return ()


def check_chosen(table: Table, chosen: Sequence[int]) -> None:
    """Make sure that there is a column to read.

    Raises:
        ValueError: There is none.
    """
    if not chosen:
        taken = f"give {called('delimiter')} if it is not {table.delimiter!r}"
        raise ValueError(f"{table.path} has no column of numbers; its first row is {listing(table.first)}; {taken}")
