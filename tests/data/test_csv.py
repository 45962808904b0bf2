import csv
import gzip
import os
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import load
from data.csv_reading import Notation, read_table
from tests.helpers import SHARED_DATA

REAL = SHARED_DATA / "etth1" / "ETTh1.csv"
SMALL = {"input_length": 6, "horizon": 4}


def numbers_in(path, header=None, delimiter=None):
    """The columns of numbers, the names of all columns, and which of them hold numbers."""
    table = read_table(path, header=header, delimiter=delimiter)
    return table.numbers(table.numeric), table.names, table.numeric


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(5, 3, (100, 3)).round(3)


def dated(values: np.ndarray, header: str = "date,a,b,c\n") -> str:
    days = np.datetime64("2016-07-01") + np.arange(len(values))
    return header + "".join(f"{day},{','.join(map(str, row))}\n" for day, row in zip(days, values, strict=True))


@pytest.fixture
def file(tmp_path, values) -> Path:
    path = tmp_path / "series.csv"
    path.write_text(dated(values))
    return path


def standardised(values: np.ndarray, train: int = 60) -> np.ndarray:
    return ((values - values[:train].mean(axis=0)) / values[:train].std(axis=0)).astype(np.float32)


def test_the_last_column_is_standardised_by_its_training_part_and_cut_in_time(file, values):
    task = load("csv", path=file, **SMALL)
    expected = standardised(values[:, 2])
    for part, start, end in ((task.train, 0, 60), (task.valid, 60, 80), (task.test, 80, 100)):
        assert len(part) == end - start - 9
        np.testing.assert_allclose(part.inputs[0, :, 0], expected[start : start + 6], rtol=1e-6)
        np.testing.assert_allclose(part.targets[-1, :, 0], expected[end - 4 : end], rtol=1e-6)
    assert (task.name, task.input_length, task.horizon) == ("csv", 6, 4)
    assert (task.input_size, task.output_size) == (1, 1)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("b", [1]),
        (["c", "a"], [2, 0]),
        (2, [1]),
        ("2", [1]),
        ((-1, 1), [2, 0]),
        ("all", [0, 1, 2]),
        (None, [2]),
    ],
    ids=str,
)
def test_columns_are_taken_by_name_or_position_in_the_order_asked(file, values, columns, expected):
    task = load("csv", path=file, columns=columns, **SMALL)
    np.testing.assert_allclose(task.train.inputs[0], standardised(values)[:6, expected], rtol=1e-6)
    assert task.input_size == task.output_size == len(expected)


@pytest.mark.parametrize(("targets", "expected"), [("c", [2]), (["b", -1], [1, 2]), (1, [0])], ids=str)
def test_targets_are_some_of_the_columns(file, values, targets, expected):
    task = load("csv", path=file, columns="all", targets=targets, **SMALL)
    assert (task.input_size, task.output_size) == (3, len(expected))
    np.testing.assert_allclose(task.train.targets[0], standardised(values)[6:10, expected], rtol=1e-6)
    restored = task.target_scaling.unscale(task.test.targets[-1])
    np.testing.assert_allclose(restored, values[-4:, expected], rtol=1e-5)


def test_inputs_can_be_brought_back_too(file, values):
    task = load("csv", path=file, columns="all", targets="a", **SMALL)
    np.testing.assert_allclose(task.input_scaling.unscale(task.valid.inputs[0]), values[60:66], rtol=1e-5)
    raw = torch.from_numpy(values[60:66]).float()
    torch.testing.assert_close(task.input_scaling.scale(raw), task.valid.inputs[0], rtol=1e-5, atol=1e-6)


def test_whole_numbers_are_scaled_as_the_same_numbers_in_float64(file, values):
    scaling = load("csv", path=file, columns="all", **SMALL).input_scaling
    whole = torch.tensor([[1, 5, -3], [2**40, 0, 7]])
    for way in (scaling.scale, scaling.unscale):
        assert way(whole).dtype == torch.float64
        assert torch.equal(way(whole), way(whole.double()))


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_column_becomes_zero_instead_of_not_a_number(tmp_path, constant):
    (tmp_path / "constant.csv").write_text(f"x\n{constant}\n" + f"{constant}\n" * 99)
    task = load("csv", path=tmp_path / "constant.csv", **SMALL)
    assert task.target_scaling.std.item() == 0
    torch.testing.assert_close(task.test.targets, torch.zeros_like(task.test.targets))


def test_stride_and_split_are_options(file):
    task = load("csv", path=file, stride=5, split=(0.7, 0, 0.3), **SMALL)
    assert task.valid is None
    assert (len(task.train), len(task.test)) == (13, 5)


# --- forms of the file ------------------------------


@settings(deadline=None, max_examples=50)
@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.floats(-1e12, 1e12), min_size=width, max_size=width), min_size=2, max_size=8
        )
    ),
    named=st.booleans(),
    delimiter=st.sampled_from(",;\t"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    compressed=st.booleans(),
    mark=st.booleans(),
)
def test_every_number_of_any_table_is_read_back(
    tmp_path_factory, table, named, delimiter, line_end, compressed, mark
):
    width = len(table[0])
    rows = [[f"name {i}" for i in range(width)]] if named else []
    rows += [[repr(value) for value in row] for row in table]
    content = line_end.join(delimiter.join(row) for row in rows).encode("utf-8-sig" if mark else "utf-8")
    path = tmp_path_factory.mktemp("any") / "table.csv"
    path.write_bytes(gzip.compress(content) if compressed else content)
    read, names, chosen = numbers_in(path, None if named else False)
    assert names == (rows[0] if named else [str(i) for i in range(width)])
    assert chosen == list(range(width))
    np.testing.assert_array_equal(read, table)


@pytest.mark.parametrize(
    ("content", "names", "numbers"),
    [
        ("a,b\n1,2\n3,4\n", ["a", "b"], [[1, 2], [3, 4]]),
        ('"sensor, left", x \n1,2\n', ["sensor, left", "x"], [[1, 2]]),
        ("x1,x2\n1,2\n\n\n", ["x1", "x2"], [[1, 2]]),
        ("a, b\n 1, 2\n", ["a", "b"], [[1, 2]]),
        ("T1,PM2.5\n2020-01-01,2\n2020-01-02,3\n", ["T1", "PM2.5"], [[2], [3]]),
        (",load\n0,5\n1,7\n", ["", "load"], [[0, 5], [1, 7]]),
        ("% full,°C,_\n1,2,3\n", ["% full", "°C", "_"], [[1, 2, 3]]),
        ("room,load\nRoom2,5\nRoom7,7\n", ["room", "load"], [[5], [7]]),
        ("# a, b\n1,7.5\n3,4.25\n", ["a", "b"], [[1, 7.5], [3, 4.25]]),  # as numpy.savetxt writes names
        ("# 1, b\na,b\n1,7\n3,4\n", ["a", "b"], [[1, 7], [3, 4]]),
    ],
)
def test_names_in_the_first_row_or_in_a_comment_above_are_read(tmp_path, content, names, numbers):
    (tmp_path / "table.csv").write_text(content)
    table = read_table(tmp_path / "table.csv")
    assert table.names == names
    assert table.header == ("a comment" if content.startswith("# a") else "the first row")
    np.testing.assert_array_equal(table.numbers(table.numeric), numbers)


@pytest.mark.parametrize(
    "content",
    [
        "1,7\n3,4\n",
        "0.25\n0.5\n",
        "0,1,2\n0.5,2,1\n",
        "2015,2016\n1,2\n3,4\n",
        "773869,767541\n62.184,49.907\n",
        "2016_01,2016_02\n1.5,2.5\n",
        "time,1,load\n0.5,2,3\n",
        ",0\n0,5\n1,7\n",
        "Date,0\n2015-01-01,5\n2015-01-02,7\n",
        "2015-01-01,\n2015-01-02,7\n",
        "Hall,21\nRoom2,3\nRoom7,35\n",
        "Q1 2020,offline\nQ2 2020,3\nQ3 2020,5\n",  # a word in a row that is dated like the others
        "2020-01-01,offline\n2020-01-02,2\n2020-01-03,4\n",
        "1,OFF,40\n2,21,41\n3,22,42\n",
        "north,nan\nsouth,7\n",
        "north,-\nsouth,7\n",
        "north,-inf\nsouth,7\n",
        "north,\nsouth,7\n",
        "north,off\nnorth,7\n",  # a name that stands below, too
        "north,n.a.\nsouth,7\n",
        "north,#WERT!\nsouth,7\n",
        "north,٣\nsouth,٧\n",
        "-1.5\n2\n",
        '"1,5";x\n"2,5";y\n',
        "10%,50%\n5,6\n",
        "# 1, 7\n3,4\n5,6\n",
        "# of three\n3,4\n5,6\n",
    ],
)
def test_a_first_row_that_may_be_data_is_asked_about(tmp_path, content):
    delimiter = next((mark for mark in ";," if mark in content), None)
    (tmp_path / "table.csv").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"may hold names or data \(.*\); give header=True or header=False"):
        numbers_in(tmp_path / "table.csv", delimiter=delimiter)
    rows = content.replace("# ", "").splitlines() if content[0] != "#" else content.splitlines()[1:]
    for header in (True, False):
        table = read_table(tmp_path / "table.csv", header=header, delimiter=delimiter)
        assert len(table.lines) == len(rows) - header
        assert table.header == ("the first row" if header else "")
        cells = [cell.strip('"') for cell in re.split(table.delimiter, rows[0])]
        assert table.names == (cells if header else list(map(str, range(len(cells)))))


def test_the_mark_of_an_encoding_is_no_part_of_the_first_cell(tmp_path):
    text = "0.25\n1.75\n3.25\n" * 20
    options = {"header": False, **SMALL}
    path = tmp_path / "marked.csv"
    for encoding, named in (("utf-8-sig", None), ("utf-8-sig", "utf8"), ("utf-16", None), ("utf-16", "UTF-16-LE")):
        path.write_bytes(text.encode(encoding))
        assert len(load("csv", path=path, encoding=named, **options).series[0].values) == 60
    path.write_bytes(text.encode("utf-8-sig"))
    with pytest.raises(ValueError, match="begins with the mark of UTF-8, but encoding='iso8859-1' is given"):
        load("csv", path=path, encoding="latin-1", **SMALL)


@pytest.mark.parametrize(
    "content",
    ["date,cases,fips\n" + "2020-01-01,5,01001\n" * 60, "value,year,month\n" + "3.5,2020,01\n" * 60],
    ids=["codes", "months"],
)
def test_last_cells_with_zeros_in_front_are_read_under_their_names(tmp_path, content):
    (tmp_path / "table.csv").write_text(content)
    assert len(numbers_in(tmp_path / "table.csv")[0]) == 60


def test_rows_that_end_early_or_within_a_quoted_cell_are_judged_as_before(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("day,x,y\n" + "2020-01-01,1,2\n" * 60 + "Source: office\n")
    with pytest.raises(ValueError, match="line 62 has 1 cells, but the first row has 3"):
        numbers_in(path)
    path.write_text("x,y\n" + "1,2\n" * 98 + '"98\n",98\n' + "1,2\n" * 10)
    assert len(numbers_in(path)[0]) == 109


@pytest.mark.parametrize(
    ("start", "end"),
    [
        *product(["", "2020-01-01 00:00,", "0 ", "5,", "7.5,"], ["0", "00", "025", "0e+00", "0,", "0,high"]),
        *product(["Leistung, kW\n"], ["0", "00", "025"]),
    ],
)
def test_commas_that_may_be_marks_in_numbers_are_asked_about_where_no_names_confirm_them(tmp_path, start, end):
    header = "\n" in start
    rows = [f"{10 + row},{end}" for row in range(60)]
    path = tmp_path / "commas.csv"
    path.write_text(start + "\n".join(rows) if header else "\n".join(start + row for row in rows))
    with pytest.raises(ValueError, match=r"',' may cut cells or be a mark in '.*'; give decimal=',' if it is"):
        load("csv", path=path, header=header, **SMALL)
    if start == "" and "," not in end:
        read = load("csv", path=path, decimal=",", header=False, **SMALL).series[0].values[:, 0]
        np.testing.assert_array_equal(read, [float(row.replace(",", ".")) for row in rows])
    if start != "0 ":
        options = {"header": header, "columns": 0 if start in ("", "5,", "7.5,") else 1, "time": "none", **SMALL}
        assert load("csv", path=path, delimiter=",", **options).input_size == 1


@pytest.mark.parametrize(
    ("header", "row", "cut"),
    [
        ("time,load, kW", "{time},{load},{deci}", True),
        ("time,load, kW,state", "{time},{load},{deci},ok", True),
        ("time,air, C,load, kW", "{time},12,5,{load},{deci}", True),
        ("load, kW,time", "{load},{deci},{time}", True),
        ("time, load, kW", "{time}, {load}, {deci}", False),
        ("time, load, kW", "{time},{load},{deci}", False),
        ("time,load,kW,state", "{time},{load},{deci},ok", False),
        ("time,load, state", "{time},{load},ok", False),
        ('time,"load, kW",state', "{time},{load}.{deci},ok", False),
    ],
)
def test_a_comma_that_may_belong_to_a_name_is_asked_about_wherever_it_is(tmp_path, header, row, cut):
    times = pd.date_range("2025-01-01", periods=60, freq="h")
    rows = [row.format(time=time, load=460 + step % 7, deci=step % 10) for step, time in enumerate(times)]
    (tmp_path / "units.csv").write_text("\n".join([header, *rows]))
    if cut:
        with pytest.raises(ValueError, match=r"',' may cut cells or be a mark in '.*'; give decimal=',' if it is"):
            load("csv", path=tmp_path / "units.csv", **SMALL)
    else:
        assert load("csv", path=tmp_path / "units.csv", **SMALL).input_size == 1


@pytest.mark.parametrize("comments", [99, 100, 101, 250])
def test_any_number_of_comments_may_stand_above_the_names(tmp_path, values, comments):
    (tmp_path / "said.csv").write_text("# about the station\n" * comments + dated(values))
    task = load("csv", path=tmp_path / "said.csv", **SMALL)
    np.testing.assert_array_equal(task.series[0].values[:, 0], values[:, 2])
    assert f"comment lines: {comments}" in task.about[0]


def test_points_in_all_cells_tell_that_a_comma_cuts_them(tmp_path, values):
    np.savetxt(tmp_path / "plain.csv", values, delimiter=",")
    read = load("csv", path=tmp_path / "plain.csv", header=False, columns="all", time="none", **SMALL)
    np.testing.assert_array_equal(read.series[0].values, values)


def test_the_delimiter_can_be_given(tmp_path, values):
    text = "".join("|".join(map(str, row)) + "\n" for row in values)
    (tmp_path / "bars.csv").write_text(text)
    options = {"columns": "all", "header": False, "time": "none", **SMALL}
    assert load("csv", path=tmp_path / "bars.csv", delimiter="|", **options).input_size == 3
    with pytest.raises(ValueError, match="delimiter must be one character, given '::'"):
        load("csv", path=tmp_path / "bars.csv", delimiter="::")


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 12, 45])
@pytest.mark.parametrize("first", [1, *range(15, 24), 30])
def test_empty_rows_are_missing_values_wherever_they_are(tmp_path, values, first, length, columns):
    table = pd.DataFrame(values[:, :columns], columns=["a", "b"][:columns])
    table.iloc[first : first + length] = np.nan
    text = table.to_csv(index=False).replace('""', "")  # pandas writes a single empty cell in quotation marks
    (tmp_path / "silent.csv").write_text(text)
    options = {"columns": "all", "time": "none", "missing": "interpolate", **SMALL}
    read = load("csv", path=tmp_path / "silent.csv", **options).series[0].values
    np.testing.assert_allclose(read, table.interpolate().to_numpy(), rtol=1e-12)


@pytest.mark.parametrize("header", ["", "y\n"])
@pytest.mark.parametrize(("options", "write"), [({"decimal": ","}, "{:.2f}"), ({"thousands": ","}, "{:,.0f}")])
def test_a_comma_in_numbers_cuts_no_cells(tmp_path, values, header, options, write):
    series = np.round(1000 * np.abs(values[:, 0]) + 1000, 2) if "thousands" in options else np.round(values[:, 0], 2)
    numbers = [write.format(value) for value in series]
    numbers = [number.replace(".", ",") for number in numbers] if "decimal" in options else numbers
    (tmp_path / "commas.csv").write_text(header + "\n".join(numbers))
    named = {"header": bool(header), **SMALL}
    read = load("csv", path=tmp_path / "commas.csv", **options, **named).series[0].values[:, 0]
    np.testing.assert_allclose(read, series if "decimal" in options else np.round(series))
    (tmp_path / "quoted.csv").write_text("a,b\n" + "\n".join(f'7,"{number}"' for number in numbers))
    quoted = load("csv", path=tmp_path / "quoted.csv", columns="b", time="none", **options, **SMALL)
    np.testing.assert_array_equal(quoted.series[0].values[:, 0], read)
    with pytest.raises(
        ValueError, match=r"',' is a mark in numbers, but may cut cells in 'a,b'; give delimiter=',' if"
    ):
        load("csv", path=cut(tmp_path, "a,b\n" + "1,2\n" * 60), **options, **SMALL)
    with pytest.raises(ValueError, match=r"',' is a mark in numbers, but may cut cells in '2025-01-01,10,38'"):
        load("csv", path=cut(tmp_path, "2025-01-01,10,38\n" * 60), **options, **SMALL)
    options = {**options, "delimiter": ",", "columns": "all", "time": "none", **SMALL}
    task = load("csv", path=cut(tmp_path, "a,b\n" + "1,2\n" * 60), **options)
    assert task.columns == ("a", "b")


def cut(folder, text):
    """A file with that text."""
    (folder / "cut.csv").write_text(text)
    return folder / "cut.csv"


# --- what is refused ------------------------------


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"columns": "d"}, ValueError, "columns names 'd', but the columns are date, a, b, c"),
        ({"columns": 4}, ValueError, "columns asks for column 4, but positions lie between -4 and 3"),
        ({"columns": 1.5}, TypeError, "columns must be column names or positions, given 1.5"),
        ({"columns": ["a", 1]}, ValueError, r"columns must name .* each once, given \['a', 1\]"),
        ({"columns": []}, ValueError, "columns must name one or several columns"),
        ({"columns": "a", "targets": "b"}, ValueError, r"targets must be among columns \(a\), given 'b'"),
        ({"columns": "date"}, ValueError, "line 2, column 'date' holds '2016-07-01', which is not a finite"),
        ({"input_length": 17}, ValueError, "the validation part has 20 of the 100 .* 17 [+] 4 = 21"),
        ({"stride": 0}, ValueError, "stride must be a whole number of at least 1, given 0"),
        ({"split": (0.5, 0.5)}, ValueError, "split must be three shares"),
    ],
)
def test_an_option_that_does_not_fit_is_one_clear_sentence(file, options, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        load("csv", path=file, **(SMALL | options))
    assert "\n" not in str(raised.value)


def test_decimal_commas_between_spaces_are_asked_about(tmp_path):
    numbers = np.random.default_rng(0).normal(5, 3, (200, 3))
    lines = [" ".join(f"{x:.3f}".rstrip("0").replace(".", ",") for x in row) for row in numbers]
    (tmp_path / "spaces.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="',' may cut cells or be a mark"):
        load("csv", path=tmp_path / "spaces.txt", header=False, **SMALL)
    options = {"delimiter": " ", "decimal": ",", "header": False, "columns": "all", "time": "none", **SMALL}
    read = load("csv", path=tmp_path / "spaces.txt", **options).series[0].values
    np.testing.assert_array_equal(read, numbers.round(3))


def test_a_name_that_two_columns_share_is_not_guessed(tmp_path):
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    with pytest.raises(ValueError, match="'a', which several columns share; give its position"):
        load("csv", path=tmp_path / "twice.csv", columns="a")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("2016-01-01,1,2,", "line 52, column 'c' holds nothing"),
        ("2016-01-01,1,2,n/a", "line 52, column 'c' holds 'n/a'"),
        ("2016-01-01,1,2,NaN", "line 52, column 'c' holds nan"),
        ("2016-01-01,1,2,-inf", "line 52, column 'c' holds -inf"),
        ("2016-01-01,1,2", "line 52 has 3 cells, but the first row has 4"),
    ],
)
def test_a_missing_value_is_named_by_line_and_column(tmp_path, values, row, sentence):
    lines = dated(values).splitlines()
    lines.insert(51, row)
    (tmp_path / "hole.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=sentence):
        load("csv", path=tmp_path / "hole.csv", **SMALL)


def test_a_hole_in_a_column_that_is_not_used_does_no_harm(tmp_path, values):
    lines = dated(values).splitlines()
    lines[51] = f"{lines[51][:10]},,2,3"
    (tmp_path / "hole.csv").write_text("\n".join(lines))
    assert load("csv", path=tmp_path / "hole.csv", **SMALL).train.inputs.isfinite().all()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"a,b\n", "holds a header but no rows"),
        (b"day\nmonday\ntuesday\n", "no column of numbers; its first row is monday"),
        (b"x\n1\n\n2\n", "line 3 is blank; fill or remove"),
        (b"\x81\x00\xff", r"no text in UTF-8 .*give its encoding, such as encoding='latin-1'"),
        (gzip.compress(b"x\n" + b"1.5\n" * 50, mtime=0)[:-12], "damaged or not a text file"),
    ],
)
def test_a_malformed_file_is_one_clear_sentence(tmp_path, content, sentence):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        load("csv", path=path)
    assert str(path) in str(error.value)


def test_a_header_without_rows_is_refused(tmp_path):
    (tmp_path / "head.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="holds a header but no rows"):
        load("csv", path=tmp_path / "head.csv", header=True)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the CSV file was looked for at .*absent\.csv, but there is no"):
        load("csv", path=tmp_path / "absent.csv")


@pytest.mark.parametrize("dataset", ["csv", "traffic"])
def test_a_pipe_which_can_be_read_only_once_is_refused(tmp_path, dataset):
    os.mkfifo(tmp_path / "traffic.csv")
    with pytest.raises(ValueError, match=r"must be a file, but .*traffic\.csv is a pipe or a device"):
        load(dataset, path=tmp_path / "traffic.csv")


def test_a_folder_instead_of_a_file_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"the CSV file must be a file, but .* is a folder"):
        load("csv", path=tmp_path)


# --- how numbers are written ------------------------------


@st.composite
def notations(draw):
    """A decimal mark, a mark of thousands, a delimiter and an encoding that can stand in one file."""
    decimal = draw(st.sampled_from(".,"))
    thousands = draw(st.sampled_from([None, *({".", ",", " ", "'", "\u00a0"} - {decimal})]))
    delimiter = draw(st.sampled_from(",;\t|"))
    encodings = ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-16-le", "utf-32"]
    return decimal, thousands, delimiter, draw(st.sampled_from(encodings))


def written(value: float, digits: int, decimal: str, thousands: str | None) -> str:
    text = f"{value:,.{digits}f}" if thousands else f"{value:.{digits}f}"
    return text.translate({ord("."): decimal, ord(","): thousands or ","})


@settings(deadline=None, max_examples=60)
@given(
    notation=notations(),
    values=st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=30),
    digits=st.integers(0, 6),
    named=st.booleans(),
)
def test_numbers_in_any_notation_are_those_that_numpy_reads(tmp_path_factory, notation, values, digits, named):
    decimal, thousands, delimiter, encoding = notation
    rows = [["Höhe", "é"]] if named else []
    rows += [[written(value, digits, decimal, thousands), str(i)] for i, value in enumerate(values)]
    path = tmp_path_factory.mktemp("notation") / "table.csv"
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    table = read_table(
        path, header=named, delimiter=delimiter, notation=Notation(decimal, thousands), encoding=encoding
    )
    assert table.names == (rows[0] if named else ["0", "1"])
    assert table.numeric == [0, 1]
    plain = "\n".join(f"{value:.{digits}f}" for value in values)
    np.testing.assert_array_equal(table.numbers([0])[:, 0], np.loadtxt(plain.splitlines(), ndmin=1))


@pytest.mark.parametrize("thousands", [",", ".", " ", "'"])
@pytest.mark.parametrize(
    "cell", ["12T34", "1T2345", "1TT234", "1T017T-", "-T123", "1T017D5T000", "1D5T000", "D", "1_7", ""]
)
def test_a_number_whose_groups_do_not_fit_is_none(cell, thousands):
    decimal = "," if thousands == "." else "."
    assert np.isnan(Notation(decimal, thousands).number(cell.replace("T", thousands).replace("D", decimal)))


ADVICE = [
    ("47.8%", {}, "remove '%' from the cells of that column"),
    ("47,8 %", {"decimal": ","}, "remove '%'"),
    ("5 MW", {}, "remove 'MW'"),
    ("$5.2", {}, r"remove '\$'"),
    ("1_7", {}, "underscores belong to no number"),
    ("−5.2", {}, "write its sign as -"),
    ("1,5", {}, "give decimal=','$"),
    ("1,017", {}, "give decimal=',' if ',' is the decimal mark, thousands=',' if it groups thousands"),
    ("1,017,500", {}, "give thousands=','$"),
    ("1.017,5", {}, r"give decimal=',' thousands='\.'"),
    ("1.017,5", {"decimal": ","}, r"give thousands='\.'$"),
    ("1,017.5", {}, "give thousands=','$"),
    ("1 017", {}, "give thousands=' '$"),
    ("1'017.5", {}, 'give thousands="\'"$'),
    ("1.5", {"decimal": ","}, r"give decimal='\.'$"),
    ("12,34", {"thousands": ","}, "its groups of digits do not fit"),
    ("0.123", {"decimal": ",", "thousands": "."}, "its groups of digits do not fit"),
    ("1.234e-05", {"decimal": ",", "thousands": "."}, "its groups of digits do not fit"),
    ("abc", {}, "correct that cell, or choose other columns by columns"),
]


@pytest.mark.parametrize(("cell", "options", "advice"), ADVICE)
@pytest.mark.parametrize("row", [1, 40])
def test_a_cell_in_another_notation_is_named_with_what_settles_it(tmp_path, cell, options, advice, row):
    rows = [f"{i};{100 + i}" for i in range(100)]
    rows[row] = f"{row};{cell}"
    (tmp_path / "odd.csv").write_text("n;price\n" + "\n".join(rows))
    found = rf"line {row + 2}, column 'price' holds {re.escape(repr(cell))}, which is not a finite number; .*{advice}"
    with pytest.raises(ValueError, match=found) as error:
        load("csv", path=tmp_path / "odd.csv", **SMALL, **options)
    assert "missing" not in str(error.value)


@pytest.mark.parametrize("sign", ["%", " %", " MW", "€", "°C"])
def test_a_column_with_one_unit_throughout_is_refused_instead_of_left_out(tmp_path, values, sign):
    text = "load,price\n" + "".join(f"{a},{b}{sign}\n" for a, b, _ in values)
    (tmp_path / "units.csv").write_text(text)
    for columns in (None, "all"):
        with pytest.raises(ValueError, match=f"line 2, column 'price' .* remove '{sign.strip()}'"):
            load("csv", path=tmp_path / "units.csv", columns=columns, **SMALL)


def test_points_that_may_group_thousands_are_refused_until_a_mark_is_given(tmp_path):
    numbers = np.arange(950, 1050)
    (tmp_path / "points.csv").write_text("y\n" + "".join(f"{n:,}\n".replace(",", ".") for n in numbers))
    with pytest.raises(
        ValueError,
        match=r"line 52, column 'y' holds '1\.000'; give thousands='\.' if its point groups thousands, dec",
    ):
        load("csv", path=tmp_path / "points.csv", **SMALL)
    for options, mean in (({"thousands": "."}, numbers[:60].mean()), ({"decimal": "."}, None)):
        found = load("csv", path=tmp_path / "points.csv", **SMALL, **options).input_scaling.mean.item()
        assert mean is None or found == mean


@pytest.mark.parametrize(
    "numbers", [["5", "5.12", "5.125"], ["0.125", "3"], ["10000", "1.017"], ["1.0175", "3"], ["5.125", "1e-05"]]
)
def test_decimals_that_group_no_thousands_are_read(tmp_path, numbers):
    (tmp_path / "decimals.csv").write_text("y\n" + "\n".join(numbers * 20))
    read, _, _ = numbers_in(tmp_path / "decimals.csv")
    np.testing.assert_array_equal(read[:, 0], [float(n) for n in numbers] * 20)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"decimal": ";"}, "decimal must be a point or a comma, given ';'"),
        ({"thousands": "3"}, "thousands must be one character, no letter, digit or sign, given '3'"),
        ({"thousands": ",,"}, "thousands must be one character"),
        ({"decimal": ",", "thousands": ","}, "decimal and thousands must differ, given ',' for both"),
        ({"encoding": "utf-9"}, "encoding must be the name of an encoding, such as utf-8, .* given 'utf-9'"),
        ({"encoding": "hex"}, "encoding must be the name of an encoding"),
        ({"missing": "zero"}, "missing must be one of refuse, interpolate, last, given 'zero'"),
        ({"time": "a", "series": "a"}, "time and series must name two columns, given 'a' for both"),
        ({"series": "d"}, "series names 'd', but the columns are date, a, b, c"),
    ],
)
def test_a_form_that_no_file_has_is_one_clear_sentence(file, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load("csv", path=file, **SMALL, **options)


# --- which columns hold numbers ------------------------------


MARKS = ["-", "--", "missing", "#VALUE!", "\\N", "", "NaN", "n/a", "null", "?", "abc", "1_7", "2016_07_01"]


@settings(deadline=None, max_examples=40)
@given(mark=st.sampled_from(MARKS), row=st.integers(0, 99), columns=st.sampled_from([None, "all", "c"]))
def test_a_bad_cell_in_any_row_is_refused_and_its_column_not_left_out(tmp_path_factory, values, mark, row, columns):
    lines = dated(values).splitlines()
    lines[1 + row] = ",".join([*lines[1 + row].split(",")[:-1], mark])
    path = tmp_path_factory.mktemp("mark") / "mark.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=f"line {row + 2}, column 'c' holds "):
        load("csv", path=path, columns=columns, **SMALL)


@pytest.mark.parametrize(
    "text",
    [
        lambda i: f"1_{i}",
        lambda i: f"{i}{'ABC'[i % 3]}",
        lambda i: ["north", "south"][i % 2],
        lambda i: f"10.0.{i}.1",
        lambda i: "17" if i % 5 == 0 else f"A{i}",
        lambda i: "",
    ],
    ids=["codes", "letters", "words", "addresses", "mixed", "empty"],
)
def test_columns_of_text_are_left_out_and_named(tmp_path, values, text):
    content = "a,b,what\n" + "".join(f"{a},{b},{text(i)}\n" for i, (a, b, _) in enumerate(values))
    (tmp_path / "text.csv").write_text(content)
    task = load("csv", path=tmp_path / "text.csv", columns="all", time="none", **SMALL)
    assert task.columns == ("a", "b")
    assert any(line.endswith("not used: what") for line in task.about)


# --- names ------------------------------


@pytest.mark.parametrize(
    "names", [["773869", "767541"], ["2015", "2016"], ["1", "2"], ["0", "1"], ["2016_01", "2016_02"]]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_names_that_are_numbers_win_over_positions(tmp_path, names, delimiter):
    values = np.random.default_rng(0).normal(5, 1, (100, 2)).round(4) + 0.00001
    rows = [names, *[[f"{x:.5f}" for x in row] for row in values]]
    (tmp_path / "ids.csv").write_text("\n".join(delimiter.join(row) for row in rows))
    for columns in ("all", names):
        task = load("csv", path=tmp_path / "ids.csv", header=True, columns=columns, time="none", **SMALL)
        assert task.columns == tuple(names)
        np.testing.assert_allclose(task.input_scaling.mean, values[:60].mean(axis=0))
    for position, name in enumerate(names):
        task = load("csv", path=tmp_path / "ids.csv", header=True, columns=name, time="none", **SMALL)
        assert task.input_scaling.mean.item() == pytest.approx(values[:60, position].mean())


def test_targets_alone_are_observed_too(file, values):
    task = load("csv", path=file, targets="a", **SMALL)
    assert (task.columns, task.target_columns) == (("a",), (0,))
    np.testing.assert_allclose(task.train.inputs[0], standardised(values)[:6, :1], rtol=1e-6)


# --- what stands around the table ------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "sep=,\n" + text,
        lambda text: "# fetched by hand, on a Monday\n" + text,
        lambda text: "# one\n#two\n" + text.replace("\n2016-08", "\n# amid\n2016-08", 1),
        lambda text: "# " + text,
        lambda text: "\n\n" + text + "\n\n",
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.replace("\n", ",,,\n").replace(",,,\n", "\n", 1),
        lambda text: text + ",,,\n,,,\n",
        lambda text: text.replace("\n2016-08", "\n\n2016-08", 1),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("date", '"date; of, day"', 1),
        lambda text: text.replace("2016-08-01", '"2016-08-01"'),
    ],
)
def test_what_stands_around_a_table_does_not_change_it(tmp_path, file, values, change):
    around = tmp_path / "around.csv"
    around.write_bytes(change(dated(values)).encode())
    task, plain = load("csv", path=around, columns="all", **SMALL), load("csv", path=file, columns="all", **SMALL)
    assert task.columns == ("a", "b", "c")
    assert task.fingerprint == plain.fingerprint


@pytest.mark.parametrize("delimiter", list(";\t|,"))
def test_the_delimiter_is_what_cuts_all_lines_alike(tmp_path, values, delimiter):
    rows = [
        ["when; or\twhen|or, when", "x"],
        *[[f"at; a\tb|c, d{i % 3}", str(x)] for i, x in enumerate(values[:, 0])],
    ]
    with open(tmp_path / "cut.csv", "w", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    assert load("csv", path=tmp_path / "cut.csv", time="none", **SMALL).columns == ("x",)


@pytest.mark.parametrize("place", range(0, 2000, 173))
def test_a_quotation_mark_that_is_not_closed_is_refused(tmp_path, values, place):
    text = dated(values)
    start = text.index(",", place) + 1
    (tmp_path / "quote.csv").write_text(text[:start] + '"' + text[start:])
    with pytest.raises(
        ValueError, match=rf"line {text[:start].count(chr(10)) + 1} has a quotation mark too many or too few"
    ):
        load("csv", path=tmp_path / "quote.csv", **SMALL)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("Höhe\n1.5\n".encode("latin-1"), "is no text in UTF-8 .* give its encoding, such as encoding='latin-1'"),
        ("x,y\n1,2\n".encode("utf-16-le"), "zero bytes, .* give its encoding, such as encoding='utf-16-le'"),
        (
            b"a b\n5.1 1.5\n5.2 1.6\n",
            "no column of numbers; its first row is 5.1 1.5; give delimiter if it is not ','",
        ),
        (
            b"time,load\n,MW\n1,5\n2,6\n3,7\n",
            "line 2, column 'load' holds 'MW', .* line 2 may hold units and no data",
        ),
    ],
)
def test_a_form_that_cannot_be_found_out_is_named_with_what_settles_it(tmp_path, content, sentence):
    (tmp_path / "form.csv").write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        load("csv", path=tmp_path / "form.csv")
    assert "damaged" not in str(error.value)


# --- scale ------------------------------


@settings(deadline=None, max_examples=40)
@given(exponent=st.integers(-320, 307))
def test_a_column_of_any_scale_is_standardised_or_refused(tmp_path_factory, values, exponent):
    column = values[:, 0] * float(f"1e{exponent}")
    path = tmp_path_factory.mktemp("scale") / "scale.csv"
    path.write_text("y\n" + "\n".join(map(repr, column.tolist())))
    try:
        task = load("csv", path=path, **SMALL)
    except ValueError as error:
        assert abs(exponent) > 35
        assert "float32" in str(error)  # noqa: PT017
    else:
        np.testing.assert_allclose(task.train.inputs[0, :, 0], standardised(values[:, 0])[:6], rtol=1e-4)
        restored = task.target_scaling.unscale(task.test.targets[-1])
        np.testing.assert_allclose(restored[:, 0], column[-4:], rtol=1e-3)


def test_values_that_leave_float32_once_standardised_are_refused(tmp_path, values):
    column = values[:, 0] * 1e-30
    column[80] = 1e20
    (tmp_path / "jump.csv").write_text("y\n" + "\n".join(map(repr, column.tolist())))
    with pytest.raises(ValueError, match="column 'y' holds values that float32 cannot hold once standardised"):
        load("csv", path=tmp_path / "jump.csv", **SMALL)


# --- missing values ------------------------------


@settings(deadline=None, max_examples=40)
@given(
    holes=st.sets(st.integers(1, 98), min_size=1, max_size=60),
    mark=st.sampled_from(MARKS[:10]),
    how=st.sampled_from(["interpolate", "last"]),
)
def test_missing_values_are_filled_as_pandas_does_and_counted(tmp_path_factory, values, holes, mark, how):
    rows = [str(x) for x in values[:, 0]]
    expected = pd.Series(values[:, 0])
    for hole in holes:
        rows[hole], expected[hole] = mark, np.nan
    path = tmp_path_factory.mktemp("holes") / "holes.csv"
    path.write_text("n,y\n" + "\n".join(f"{i},{row}" for i, row in enumerate(rows)))
    task = load("csv", path=path, columns="y", time="none", missing=how, **SMALL)
    expected = (expected.interpolate() if how == "interpolate" else expected.ffill()).to_numpy()
    np.testing.assert_allclose(task.input_scaling.mean.item(), expected[:60].mean())
    np.testing.assert_allclose(task.train.inputs[:, 0, 0], standardised(expected)[:51], rtol=1e-4, atol=1e-5)
    assert any(line.endswith(f"0 missing rows, {len(holes)} missing values in other rows") for line in task.about)


@pytest.mark.parametrize(
    ("row", "how", "side"), [(0, "interpolate", "before"), (0, "last", "before"), (99, "interpolate", "after")]
)
def test_a_missing_value_at_an_end_has_nothing_to_be_filled_from(tmp_path, values, row, how, side):
    rows = [str(x) for x in values[:, 0]]
    rows[row] = "NA"
    (tmp_path / "end.csv").write_text("y\n" + "\n".join(rows))
    with pytest.raises(ValueError, match=f"line {row + 2}, column 'y' is missing, and has no value {side} it"):
        load("csv", path=tmp_path / "end.csv", missing=how, **SMALL)


def test_other_text_is_never_filled(tmp_path, values):
    (tmp_path / "text.csv").write_text("y\n" + "\n".join(["1", "2", "oops", *map(str, values[:, 0])]))
    with pytest.raises(ValueError, match="line 4, column 'y' holds 'oops', which is not a finite number; correct"):
        load("csv", path=tmp_path / "text.csv", missing="last", **SMALL)


# --- any file ------------------------------


CELLS = [
    "1",
    "2.5",
    "-3",
    "1e5",
    "1,5",
    "1.017",
    "999",
    "",
    "-",
    "abc",
    "12%",
    "5 MW",
    '"',
    "#",
    "inf",
    "1_7",
    "\0",
    "1e999",
]


@settings(deadline=None, max_examples=150)
@given(
    odd=st.dictionaries(st.tuples(st.integers(0, 30), st.integers(0, 2)), st.sampled_from(CELLS), max_size=4),
    names=st.sampled_from([None, ["when", "a", "b"], ["7", "8", "9"], ["", "", ""]]),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-le", "latin-1"]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "columns": st.sampled_from(["all", "a", "0", -1]),
            "missing": st.sampled_from(["interpolate", "last"]),
            "time": st.sampled_from(["none", "when", "0", 1]),
            "series": st.sampled_from(["b", "0", 1]),
            "decimal": st.sampled_from(".,"),
            "thousands": st.sampled_from(",.' "),
            "header": st.booleans(),
        },
    ),
)
def test_any_file_is_read_to_finite_numbers_or_refused_in_one_sentence(
    tmp_path_factory, values, odd, names, delimiter, encoding, options
):
    days = np.datetime64("2016-07-01") + np.arange(40)
    rows = [[str(day), str(a), str(b)] for day, (a, b) in zip(days, values[:, :2], strict=False)]
    for (row, column), cell in odd.items():
        rows[row][column] = cell
    path = tmp_path_factory.mktemp("any") / "file.csv"
    path.write_bytes("\n".join(delimiter.join(row) for row in [*([names] if names else []), *rows]).encode(encoding))
    try:
        task = load("csv", path=path, input_length=2, horizon=2, **options)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(part.isfinite().all() for part in (task.train.inputs, task.valid.targets, task.test.targets))
        assert task.about


# --- the real file ------------------------------


@pytest.mark.skipif(not REAL.is_file(), reason="the real file is not there")
def test_the_oil_temperature_of_etth1_has_its_known_range():
    task = load("csv", path=REAL)
    assert [len(part) for part in (task.train, task.valid, task.test)] == [
        10_452 - 191,
        3_484 - 191,
        3_484 - 191,
    ]
    parts = (task.train, task.valid, task.test)
    restored = torch.cat([task.target_scaling.unscale(part.inputs.double()).flatten() for part in parts])
    assert restored.max().item() == pytest.approx(46.007, abs=1e-3)
    raw = np.genfromtxt(REAL, delimiter=",", skip_header=1, usecols=7)
    assert raw.shape == (17_420,)
    assert raw.min() == pytest.approx(-4.08, abs=1e-3)
    np.testing.assert_allclose(task.train.inputs[:, 0, 0], standardised(raw, 10_452)[: len(task.train)], rtol=1e-4)


@pytest.mark.skipif(not REAL.is_file(), reason="the real file is not there")
def test_all_columns_of_etth1_forecast_the_oil_temperature():
    task = load("csv", path=REAL, columns="all", targets="OT", input_length=96, horizon=24)
    assert (task.input_size, task.output_size) == (7, 1)
    # OT is the seventh column, and what one window forecasts another, 96 hours on, observes first.
    assert torch.equal(task.train.inputs[96:, :24, 6:], task.train.targets[:-96])


@pytest.mark.parametrize("mark", ["#NV", "#WERT!", "#VALEUR!", "#N/D", "#NOMBRE!", "########", "#5", "#A7"])
def test_no_row_that_begins_with_such_a_mark_is_left_out(tmp_path, mark):
    rows = [f"{i / 4}" for i in range(60)]
    rows[20] = mark
    path = tmp_path / "marks.csv"
    path.write_text("\n".join(["Temp", "# measured by hand", *rows, "# end"]))
    with pytest.raises(ValueError, match=f"line 23, column 'Temp' holds '{re.escape(mark)}'"):
        load("csv", path=path, **SMALL)


@pytest.mark.parametrize(
    "numbers",
    [
        ["5.125", "5.250"],
        ["1.017", "999"],
        ["9876", "10.120"],
        ["-1.017", "n.a."],
        ["1.017", "."],
        [" 998", "12.505 "],
    ],
)
@pytest.mark.parametrize("targets", [None, "Last"])
def test_a_column_in_which_all_points_may_group_thousands_is_asked_about(tmp_path, numbers, targets):
    days = pd.date_range("2024-01-01", periods=60).strftime("%d.%m.%Y")
    table = pd.DataFrame({"Datum": days, "Regen": ["6,1", "1.780,5"] * 30, "Last": numbers * 30})
    table.to_csv(tmp_path / "points.csv", sep=";", index=False)
    (first, *_) = (number for number in numbers if re.search(r"\d\.\d", number))
    options = {"targets": targets, "missing": "last", **SMALL}
    asks = (
        f"column 'Last' holds '{re.escape(first)}'; give thousands='.' if its point groups thousands, decimal='.' if"
    )
    with pytest.raises(ValueError, match=asks):
        load("csv", path=tmp_path / "points.csv", **options)
    for mark, one in ((".", 1000), (None, 1)):
        form = {"decimal": "," if mark else ".", "thousands": mark}
        read = load("csv", path=tmp_path / "points.csv", **options, **form).series[0].values[:, 0]
        known = [float(n) for n in numbers if any(map(str.isdigit, n))]
        np.testing.assert_allclose(read[:2], np.resize([n if n % 1 == 0 else n * one for n in known], 2))


def test_where_commas_cut_cells_three_decimals_are_decimals_but_among_whole_numbers(file, tmp_path):
    path = tmp_path / "commas.csv"
    pd.DataFrame({"day": pd.date_range("2024-01-01", periods=60), "y": ["5.125", "100.000"] * 30}).to_csv(path)
    assert load("csv", path=path, columns="y", **SMALL).series[0].values[:2, 0].tolist() == [5.125, 100]
    path.write_text(path.read_text().replace("100.000", "100"))
    with pytest.raises(ValueError, match=r"column 'y' holds '5\.125'; give thousands='\.' if its point groups"):
        load("csv", path=path, columns="y", **SMALL)


def test_several_groups_of_thousands_are_advised_as_such(tmp_path):
    path = tmp_path / "millions.csv"
    path.write_text("Einwohner\n" + "".join(f"1.034.{k}\n" for k in range(100, 160)))
    with pytest.raises(ValueError, match=r"holds '1.034.100', which is not a finite number; give thousands='.'"):
        load("csv", path=path, **SMALL)
    assert load("csv", path=path, thousands=".", **SMALL).series[0].values[0, 0] == 1_034_100


@pytest.mark.parametrize("cell", ["1_201", "(5.1)", "5-", "5*", "<0.1", "1.5D3"])
def test_numbers_with_marks_are_refused_also_where_all_of_a_column_have_them(tmp_path, cell):
    path = tmp_path / "marks.csv"
    path.write_text("t,temp,load\n" + "".join(f"2024-01-{i:02d},{i},{cell}\n" for i in range(1, 31)))
    with pytest.raises(ValueError, match=f"line 2, column 'load' holds '{re.escape(cell)}', which is not a finite"):
        load("csv", path=path, **SMALL)


@pytest.mark.parametrize("empty", [",\n", '"",""\n'])
def test_empty_rows_at_the_ends_are_left_out_and_counted(tmp_path, values, empty):
    rows = "".join(f"{a},{b}\n" for a, b in values[:60, :2])
    path = tmp_path / "ends.csv"
    path.write_text("a,b\n" + rows + 5 * empty)
    task = load("csv", path=path, columns="all", time="none", **SMALL)
    assert len(task.series[0].values) == 60
    assert task.about[0].endswith("utf-8, empty rows left out: 5")
    path.write_text(2 * empty + rows)
    task = load("csv", path=path, columns="all", header=False, time="none", **SMALL)
    assert task.about[0].endswith("no names, utf-8, empty rows left out: 2")


def test_a_single_column_of_decimal_commas_is_told_the_flag(tmp_path):
    (tmp_path / "one.csv").write_text("Last\n" + "12,5\n" * 60)
    with pytest.raises(
        ValueError, match="line 2 has 2 cells, but the first row has 1; give decimal=',' if the comma is"
    ):
        load("csv", path=tmp_path / "one.csv", **SMALL)


def test_blank_lines_between_rows_are_counted(tmp_path, values):
    rows = [f"{a},{b}\n" for a, b in values[:60, :2]]
    path = tmp_path / "blank.csv"
    path.write_text("a,b\n" + "".join([*rows[:20], "\n", *rows[20:40], "\n\n", *rows[40:], "\n\n"]))
    task = load("csv", path=path, columns=["a", "b"], **SMALL)
    assert len(task.series[0].values) == 60
    assert task.about[0].endswith("utf-8, blank lines left out: 3")


@pytest.mark.parametrize("row", ["2025-01-01 00:00,1506.91,11.6", "1,1506.91", "1.5,2", "a,5", "2025-01-01,5"])
def test_a_comma_that_is_no_mark_in_numbers_is_not_asked_about(tmp_path, row):
    (tmp_path / "rows.csv").write_text(f"{row}\n" * 60)
    options = {"header": False, "time": "none", "columns": -1, **SMALL}
    read = load("csv", path=tmp_path / "rows.csv", **options).series[0].values[0, 0]
    assert read == float(row.rpartition(",")[2])


@pytest.mark.parametrize("mark", ["\u2009", "\u2007", "\u202f", "\u00a0", "’", "'"])
def test_marks_of_thousands_that_are_advised_are_read(tmp_path, mark):
    path = tmp_path / "marks.csv"
    path.write_text("y\n" + f"1{mark}017.5\n" * 60)
    with pytest.raises(ValueError, match=f"give thousands={re.escape(repr(mark))}|give thousands=.{mark}"):
        load("csv", path=path, **SMALL)
    assert load("csv", path=path, thousands=mark, **SMALL).series[0].values[0, 0] == 1017.5


@pytest.mark.parametrize("content", [b"PK\3\4rest", b"BZh9rest", b"\xfd7zXZ\0rest", b"\xd0\xcf\x11\xe0rest"])
def test_archives_and_spreadsheets_are_told_from_text(tmp_path, content):
    (tmp_path / "table.xlsx").write_bytes(content)
    with pytest.raises(ValueError, match="is an archive or a spreadsheet's own file: unpack it, or save it as CSV"):
        load("csv", path=tmp_path / "table.xlsx")


@pytest.mark.parametrize("mark", ["#N/A", "#NA", "#REF!", "#DIV/0!", "#VALUE!"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", " "])
@pytest.mark.parametrize("row", [1, 50, 700])
def test_a_row_that_begins_with_the_error_of_a_spreadsheet_is_no_comment(tmp_path, mark, delimiter, row):
    rows = [[str(i), str(i % 7)] for i in range(800)]
    rows[row][0] = mark
    path = tmp_path / "errors.csv"
    lines = [
        "# of two columns",
        delimiter.join("xy"),
        *map(delimiter.join, rows),
        "#NAs are where x is unknown",
    ]
    path.write_text("\n".join(lines))
    options = {"columns": "all", "delimiter": delimiter, "time": "none", **SMALL}
    with pytest.raises(ValueError, match=f"line {row + 3}, column 'x' holds '{re.escape(mark)}'"):
        load("csv", path=path, **options)
    (series,) = load("csv", path=path, missing="interpolate", **options).series
    assert series.values[:, 0] == pytest.approx(np.arange(800))
    only_x = [line.split(delimiter)[0] for line in lines[1:-1]]
    path.write_text("\n".join(only_x))
    (series,) = load("csv", path=path, missing="interpolate", input_length=6, horizon=4).series
    assert series.values[:, 0] == pytest.approx(np.arange(800))


@pytest.mark.parametrize("left", [0, 1, 15])
def test_rows_that_a_split_in_rows_leaves_over_are_counted(file, left):
    about = load("csv", path=file, split=(60, 20, 20 - left), input_length=2, horizon=1).about
    assert ("after them" in about[-1]) == bool(left)
    assert about[-1].endswith(f"; {left} rows after them in no part") or not left


def test_a_column_that_is_constant_in_the_training_part_is_said_to_be(tmp_path, values):
    for end, deviation in ((100, "0, constant"), (60, "0, constant"), (59, "")):
        values[:end, 1] = 7
        (tmp_path / "constant.csv").write_text(dated(values))
        about = "\n".join(load("csv", path=tmp_path / "constant.csv", columns=["b", "c"], **SMALL).about)
        assert (f"forecast: b (7 ± {deviation})" in about) == bool(deviation)
        values[:] = np.random.default_rng(end).normal(5, 3, values.shape)
    (tmp_path / "two.csv").write_text("y\n" + "0\n2\n" * 50)
    assert "y (1 ± 1)" in "\n".join(load("csv", path=tmp_path / "two.csv", **SMALL).about)


@pytest.mark.parametrize("argument", ["columns", "targets"])
def test_a_column_of_text_is_answered_by_the_argument_that_chose_it(file, argument):
    with pytest.raises(ValueError, match=f"; that is no column of numbers: choose other columns by {argument}$"):
        load("csv", path=file, **{argument: "date"}, **SMALL)
