import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import load
from data.csv_dataset import read_columns
from tests.helpers import SHARED_DATA

REAL = SHARED_DATA / "etth1" / "ETTh1.csv"
SMALL = {"input_length": 6, "horizon": 4}


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


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_column_becomes_zero_instead_of_not_a_number(tmp_path, constant):
    (tmp_path / "constant.csv").write_text(f"x\n{constant}\n" + f"{constant}\n" * 99)
    task = load("csv", path=tmp_path / "constant.csv", **SMALL)
    assert task.target_scaling.std.item() == 1
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
    read, names, chosen = read_columns(path, lambda names, numeric: numeric)
    assert names == (rows[0] if named else [str(i) for i in range(width)])
    assert chosen == list(range(width))
    np.testing.assert_array_equal(read, table)


@pytest.mark.parametrize(
    ("content", "names", "numbers"),
    [
        ("a,b\n1,2\n3,4\n", ["a", "b"], [[1, 2], [3, 4]]),
        ("1,2\n3,4\n", ["0", "1"], [[1, 2], [3, 4]]),
        ("0,1\n2,3\n", ["0", "1"], [[0, 1], [2, 3]]),
        ("0\n-5\n3\n", ["0"], [[0], [-5], [3]]),
        ("0,1\n0.5,2\n", ["0", "1"], [[0.5, 2]]),
        (",0\n0,5\n1,7\n", ["", "0"], [[0, 5], [1, 7]]),
        ("Date,0\n2015-01-01,5\n2015-01-02,7\n", ["Date", "0"], [[5], [7]]),
        ("2015-01-01,5\n2015-01-02,7\n", ["0", "1"], [[5], [7]]),
        ("north,5\nsouth,7\n", ["0", "1"], [[5], [7]]),
        ('"sensor, left", x \n1,2\n', ["sensor, left", "x"], [[1, 2]]),
        ("x1,x2\n1,2\n\n\n", ["x1", "x2"], [[1, 2]]),
        ("a, b\n 1, 2\n", ["a", "b"], [[1, 2]]),
    ],
)
def test_a_header_is_told_from_data(tmp_path, content, names, numbers):
    (tmp_path / "table.csv").write_text(content)
    read, found, _ = read_columns(tmp_path / "table.csv", lambda names, numeric: numeric)
    assert found == names
    np.testing.assert_array_equal(read, numbers)


def test_the_judgement_on_the_header_can_be_overruled(tmp_path):
    (tmp_path / "years.csv").write_text("2015,2016\n1,2\n3,4\n")
    for header, rows in ((True, 2), (False, 3), (None, 3)):
        read, _, _ = read_columns(tmp_path / "years.csv", lambda names, numeric: numeric, header)
        assert len(read) == rows


def test_the_delimiter_can_be_given(tmp_path, values):
    text = "".join("|".join(map(str, row)) + "\n" for row in values)
    (tmp_path / "bars.csv").write_text(text)
    assert load("csv", path=tmp_path / "bars.csv", columns="all", delimiter="|", **SMALL).input_size == 3
    with pytest.raises(ValueError, match="delimiter must be one character, given '::'"):
        load("csv", path=tmp_path / "bars.csv", delimiter="::")


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
        (b"a,b\n", "no column of numbers"),
        (b"day\nmonday\ntuesday\n", "no column of numbers; its first row is day"),
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


def test_a_folder_instead_of_a_file_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"the CSV file must be a file, but .* is a folder"):
        load("csv", path=tmp_path)


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
