import gzip

import numpy as np
import pytest
import torch

from data import load
from tests.helpers import SHARED_DATA

REAL = SHARED_DATA / "traffic"

HOURS = 1000


@pytest.fixture(scope="module")
def occupancy() -> np.ndarray:
    """Four decimals between 0 and 0.47, as in the real file."""
    values = np.random.default_rng(0).integers(0, 4700, HOURS) / 10_000
    values[3] = 0.0480
    return values


def one_column(values) -> str:
    return "".join(f"{value:.4f}\n" for value in values)


def with_dates(values) -> str:
    hours = np.datetime64("2015-01-01T00") + np.arange(len(values))
    rows = [f"{str(hour).replace('T', ' ')}:00:00,{value:.4f}\n" for hour, value in zip(hours, values, strict=True)]
    return "".join(rows)


def many_sensors(values) -> str:
    return "".join(f"{value:.4f}" + ",0.9000,0.0001" * 40 + "\n" for value in values)


FORMS = {
    "one column": one_column,
    "one column under a name": lambda values: "occupancy\n" + one_column(values),
    "dates under Date,0": lambda values: "Date,0\n" + with_dates(values),
    "dates under ,0": lambda values: ",0\n" + with_dates(values),
    "dates without header": with_dates,
    "many sensors": many_sensors,
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_the_first_series_is_read_from_every_form_of_the_file(tmp_path, occupancy, form, compressed):
    content = FORMS[form](occupancy).encode()
    file = tmp_path / ("any.txt.gz" if compressed else "any.txt")
    file.write_bytes(gzip.compress(content) if compressed else content)
    task = load("traffic", path=file)
    scaled = (occupancy / occupancy.max()).astype(np.float32)
    parts = ((task.train, 0, 600), (task.valid, 600, 800), (task.test, 800, 1000))
    for part, start, end in parts:
        assert len(part) == end - start - 191
        for window in (0, len(part) - 1):
            observed, target = part[window]
            border = start + window + 168
            np.testing.assert_array_equal(observed[:, 0], scaled[border - 168 : border])
            np.testing.assert_array_equal(target[:, 0], scaled[border : border + 24])
    assert (task.name, task.input_length, task.horizon) == ("traffic", 168, 24)
    assert (task.input_size, task.output_size) == (1, 1)


def test_unscaling_gives_back_road_occupancy(tmp_path, occupancy):
    (tmp_path / "traffic.csv").write_text(one_column(occupancy))
    task = load("traffic", path=tmp_path)
    restored = task.target_scaling.unscale(task.train.targets[0, :, 0])
    torch.testing.assert_close(restored, torch.from_numpy(occupancy[168:192]).float())


@pytest.mark.parametrize("name", ["traffic.csv", "traffic.txt", "traffic.csv.gz", "traffic/traffic.txt.gz"])
def test_a_folder_is_searched_for_the_usual_names(tmp_path, occupancy, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    content = one_column(occupancy).encode()
    file.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert len(load("traffic", path=tmp_path).train) == 600 - 191


def test_lengths_and_stride_are_options(tmp_path, occupancy):
    (tmp_path / "traffic.csv").write_text(one_column(occupancy))
    task = load("traffic", path=str(tmp_path), input_length=48, horizon=12, stride=24)
    assert (task.input_length, task.horizon) == (48, 12)
    assert len(task.test) == (200 - 60) // 24 + 1


def test_a_missing_file_says_what_was_looked_for_and_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load("traffic", path=tmp_path / "absent.csv")
    for word in ("Traffic", str(tmp_path / "absent.csv"), "multivariate-time-series-data", "path"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_the_file_says_the_names_and_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load("traffic", path=tmp_path)
    for word in ("traffic.csv", "traffic.txt.gz", str(tmp_path), "multivariate-time-series-data"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("0.1\n0.2\n35.5\n", "road occupancies.*between 0 and 1, not all 0, but lies between 0.1 and 35.5"),
        ("0.1\n-0.2\n0.3\n", "road occupancies.*between -0.2 and 0.3"),
        ("0.0\n" * 300, "road occupancies.*between 0 and 0"),
        (",0\n" + "".join(f"{hour},0.1\n" for hour in range(300)), "between 0 and 299"),
        ("0.1\nabc\n0.3\n", "line 2, column '0' holds 'abc'"),
        ("0.1\n\n0.3\n", "line 2 is blank"),
        ("0.1\n" * 500, "the validation part has 100 of the 500 time steps, but one window needs .* = 192"),
        ("", "is empty"),
        ("0\n" + "0.1\n" * 500, r"line 1 may hold names or data \(0\)$"),
        ("Date\n2015-01-01\n", "no column of numbers"),
    ],
)
def test_a_malformed_file_is_one_clear_sentence(tmp_path, content, sentence):
    (tmp_path / "traffic.csv").write_text(content)
    with pytest.raises(ValueError, match=sentence) as error:
        load("traffic", path=tmp_path)
    assert "\n" not in str(error.value)


def lose(rows, row):
    del rows[row : row + 300]


def swap(rows, row):
    rows[row - 1], rows[row] = rows[row], rows[row - 1]


DISORDER = {
    "a gap": (lose, "holds {} after {}, but the step is 1 hour"),
    "the newest first": (lambda rows, _: rows.reverse(), "holds {}, which is before {} in the row above"),
    "a row twice": (lambda rows, row: rows.insert(row, rows[row - 1]), "repeats the time {}"),
    "two rows exchanged": (swap, "holds {} after {}, but the step is 1 hour|holds {}, which is before {}"),
    "half an hour": (
        lambda rows, row: rows.insert(row, rows[row - 1].replace(":00:00", ":30:00")),
        "no whole number",
    ),
    "every second hour": (lambda rows, _: rows.__delitem__(slice(1, None, 2)), "2 hours is the most frequent step"),
}


@pytest.mark.parametrize("row", [1, 5, 600])
@pytest.mark.parametrize("disorder", list(DISORDER))
@pytest.mark.parametrize("header", ["", "Date,0\n"])
def test_dates_that_are_not_one_hour_apart_are_refused_with_their_line(tmp_path, occupancy, header, disorder, row):
    change, sentence = DISORDER[disorder]
    rows = with_dates(occupancy).splitlines(keepends=True)
    change(rows, row)
    (tmp_path / "traffic.csv").write_text(header + "".join(rows))
    place = rf"traffic.csv, line \d+, column '{'Date' if header else '0'}'"
    with pytest.raises(ValueError, match=f"{place} .*({sentence.replace('{}', '2015-[-: 0-9]+')})[^;]*$"):
        load("traffic", path=tmp_path)


@pytest.mark.skipif(not (REAL / "traffic.csv").is_file(), reason="the real file is not there")
def test_the_real_file_gives_the_windows_of_the_protocol():
    task = load("traffic", path=REAL)
    assert [len(part) for part in (task.train, task.valid, task.test)] == [10_335, 3_318, 3_318]
    raw = np.loadtxt(REAL / "traffic.csv", delimiter=",", skiprows=1, usecols=1)
    assert raw.shape == (17_544,)
    scaled = torch.from_numpy(raw / 0.4747).float()
    assert torch.equal(task.train.inputs[:, 0, 0], scaled[:10_335])
    assert torch.equal(task.valid.inputs[0, :, 0], scaled[10_526 : 10_526 + 168])
    assert torch.equal(task.test.targets[-1, :, 0], scaled[-24:])
    assert task.target_scaling.std.item() == 0.4747


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not there")
def test_several_real_sensors_in_one_file_give_the_first():
    (file,) = REAL.glob("*cols0-8*.gz")
    task = load("traffic", path=file)
    assert torch.equal(task.train.inputs[:100], load("traffic", path=REAL).train.inputs[:100])
