import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import load
from data.csv_time import read_numbered_times

SMALL = {"input_length": 6, "horizon": 4}
ROWS = 100
VALUES = np.random.default_rng(0).normal(5, 3, ROWS).round(3) + 0.0001


@pytest.fixture
def write(tmp_path):
    """A function that writes lines of times and of VALUES, and returns the path."""

    def write(times, values=VALUES, name="series.csv"):
        path = tmp_path / name
        path.write_text(
            "when,y\n" + "".join(f'"{time}",{value}\n' for time, value in zip(times, values, strict=True))
        )
        return path

    return write


def hours(form="%Y-%m-%d %H:%M", count=ROWS, **step):
    return pd.date_range("2016-07-29 22:00", periods=count, **(step or {"freq": "h"})).strftime(form).tolist()


FORMS = [
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%MZ",
    "%Y-%m-%d %H:%M:%S+02:00",
    "%Y/%m/%d %H:%M",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %I:%M %p",
    "%m/%d/%y %H:%M",
    "%d-%b-%Y %H:%M",
    "%d %B %Y %H:%M",
]


@pytest.mark.parametrize("form", FORMS)
def test_time_stamps_are_found_and_read(write, form):
    task = load("csv", path=write(hours(form)), **SMALL)
    (series,) = task.series
    expected = np.datetime64("2016-07-29T22:00") + np.arange(ROWS) * np.timedelta64(1, "h")
    assert (series.times == expected).all()
    assert series.offset == ("+02:00" if "+02" in form else "+00:00" if "Z" in form else "")
    assert str(series.step) == "1 hour"
    assert "in column 'when', step 1 hour" in "\n".join(task.about)


STEPS = [
    ("15min", "%Y-%m-%d %H:%M", "15 minutes"),
    ("10s", "%Y-%m-%d %H:%M:%S", "10 seconds"),
    ("D", "%d.%m.%Y", "1 day"),
    ("W", "%Y-%m-%d", "7 days"),
    ("MS", "%d/%m/%Y", "1 month"),
    ("MS", "%Y-%m", "1 month"),
    ("ME", "%Y-%m-%d", "1 month"),
    ("QE", "%Y-%m-%d", "3 months"),
    ("YS", "%Y-%m-%d", "12 months"),
    ("B", "%Y-%m-%d", "1 working day"),
]


@pytest.mark.parametrize(("step", "form", "words"), STEPS)
def test_the_step_is_found_in_time_working_days_or_months(write, step, form, words):
    times = pd.date_range("2001-01-01", periods=ROWS, freq=step)
    task = load("csv", path=write(times.strftime(form)), **SMALL)
    assert str(task.series[0].step) == words
    assert (task.series[0].times == times.to_numpy()).all()


@pytest.mark.parametrize(("step", "form", "words"), STEPS)
@pytest.mark.parametrize("lost", [[50], [1, 2, 3, 60, 61]])
def test_missing_rows_are_refused_or_filled_whatever_the_step(write, step, form, words, lost):
    times = pd.date_range("2001-01-01", periods=ROWS, freq=step)
    kept = np.delete(np.arange(ROWS), lost)
    path = write(times[kept].strftime(form), VALUES[kept])
    with pytest.raises(
        ValueError, match=rf"line {lost[0] + 2}, column 'when' holds .* but the step is {words}; missing='i"
    ):
        load("csv", path=path, **SMALL)
    for how in ("interpolate", "last"):
        expected = pd.Series(VALUES)
        expected[lost] = np.nan
        expected = (expected.interpolate() if how == "interpolate" else expected.ffill()).to_numpy()
        task = load("csv", path=path, missing=how, **SMALL)
        assert (task.series[0].times == times.to_numpy()).all()
        np.testing.assert_allclose(task.target_scaling.mean.item(), expected[:60].mean())
        np.testing.assert_allclose(task.target_scaling.unscale(task.test.targets[-1])[:, 0], expected[-4:], rtol=1e-5)
        assert any(f"{len(lost)} missing rows, 0 missing values" in line for line in task.about)


@settings(deadline=None, max_examples=40)
@given(
    row=st.integers(1, ROWS - 2),
    kind=st.sampled_from(["lost", "repeated", "swapped", "between", "unreadable", "empty"]),
)
def test_the_first_row_at_a_wrong_time_is_named(tmp_path_factory, row, kind):
    times = hours("%Y-%m-%d %H:%M:%S")
    line = row + 2
    if kind == "lost":
        times[row:] = hours("%Y-%m-%d %H:%M:%S", ROWS + 1)[row + 1 :]
    elif kind == "repeated":
        times[row] = times[row - 1]
    elif kind == "swapped":
        times[row], times[row + 1], line = times[row + 1], times[row], row + 3
    elif kind == "between":
        times[row] = times[row].replace(":00:00", ":20:00")
    else:
        times[row] = "soon" if kind == "unreadable" else ""
    path = tmp_path_factory.mktemp("wrong") / "wrong.csv"
    path.write_text("when,y\n" + "".join(f"{time},{value}\n" for time, value in zip(times, VALUES, strict=True)))
    with pytest.raises(ValueError, match=f"line {line}, column 'when' (holds|repeats)") as error:
        load("csv", path=path, **SMALL)
    assert "\n" not in str(error.value)
    task = load("csv", path=path, time="none", **SMALL)
    np.testing.assert_allclose(task.input_scaling.mean.item(), VALUES[:60].mean())
    assert any("rows are taken as equal steps" in line for line in task.about)


def test_the_newest_row_first_is_refused(write):
    with pytest.raises(
        ValueError, match="line 3, column 'when' holds 2016-08-03 00:00, which is before 2016-08-03 01:00"
    ):
        load("csv", path=write(hours()[::-1]), **SMALL)


def test_more_missing_rows_than_rows_are_refused(write):
    times = [*hours()[:-1], "2019-01-01 00:00"]
    with pytest.raises(ValueError, match=r"line 101, .* rows are missing, more than there are; time='none'"):
        load("csv", path=write(times), missing="last", **SMALL)


@pytest.mark.parametrize("value", ["soon", "05", "2016/13"])
def test_a_column_of_other_text_is_no_time(write, value):
    path = write([f"{value} {i}" for i in range(ROWS)])
    assert load("csv", path=path, **SMALL).series[0].times is None
    with pytest.raises(
        ValueError, match=f"line 2, column 'when' holds '{value} 0', which is no time stamp such as 2016"
    ):
        load("csv", path=path, time="when", **SMALL)


def test_a_day_that_may_be_a_month_is_refused(write):
    path = write([f"{1 + i:02d}/01/2016" for i in range(12)], VALUES[:12])
    with pytest.raises(
        ValueError, match="holds '01/01/2016', whose day and month may be either way round: write the year"
    ):
        load("csv", path=path, input_length=1, horizon=1)


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (range(ROWS), "1"),
        (range(1000, 1000 + 5 * ROWS, 5), "5"),
        (1_467_331_200 + 3600 * np.arange(ROWS), "3600"),
        (np.arange(ROWS) * 0.1, "0.1"),
        (np.linspace(0, 1, ROWS), "0.010101"),
        (pd.date_range("2016-07-20", periods=ROWS).strftime("%Y%m%d"), "1 day"),
        (pd.date_range("2016-07-20", periods=ROWS, freq="h").strftime("%Y%m%d%H"), "1 hour"),
        (pd.date_range("2010-07-01", periods=ROWS, freq="MS").strftime("%Y%m"), "1 month"),
    ],
)
def test_times_may_be_numbers_if_their_column_is_named(tmp_path, times, step):
    path = tmp_path / "numbers.csv"

    def write(rows):
        path.write_text("t,y\n" + "".join(f"{times[i]},{VALUES[i]}\n" for i in rows))

    write(range(ROWS))
    task = load("csv", path=path, time="t", columns="all", **SMALL)
    assert str(task.series[0].step) == step
    assert task.columns == ("y",)
    assert load("csv", path=path, columns="all", **SMALL).columns == ("t", "y")
    write([i for i in range(ROWS) if i != 50])
    with pytest.raises(ValueError, match=f"line 52, column 't' holds .*, but the step is {re.escape(step)}"):
        load("csv", path=path, time="t", **SMALL)
    filled = load("csv", path=path, time="t", missing="last", **SMALL).series[0].times
    assert len(filled) == ROWS
    assert len(np.unique(np.diff(filled).round(9) if filled.dtype.kind == "f" else [0])) == 1


# --- several series ------------------------------


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(60, 90), min_size=1, max_size=4),
    stacked=st.booleans(),
    random=st.randoms(use_true_random=False),
    reach_back=st.booleans(),
    stride=st.integers(1, 3),
)
def test_several_series_are_each_cut_and_scaled_as_if_alone(
    tmp_path_factory, lengths, stacked, random, reach_back, stride
):
    folder = tmp_path_factory.mktemp("several")
    options = {**SMALL, "columns": ["y", "z"], "targets": "z", "reach_back": reach_back, "stride": stride}
    rows, alone = [], []
    for number, length in enumerate(lengths):
        times, values = hours(count=length), np.random.default_rng(number).normal(10.0**number, 2, (length, 2))
        own = [f"{time},{y!r},{z!r}" for time, (y, z) in zip(times, values.tolist(), strict=True)]
        (folder / "alone.csv").write_text("ds,y,z\n" + "\n".join(own))
        alone.append(load("csv", path=folder / "alone.csv", **options))
        rows += [(number, f"id {number},{row}") for row in own]
    if not stacked:  # rows of different series in any order, those of one series in time
        turns = [number for number, _ in rows]
        random.shuffle(turns)
        queues = {number: iter([row for other, row in rows if other == number]) for number in set(turns)}
        rows = [(number, next(queues[number])) for number in turns]
    (folder / "all.csv").write_text("unique_id,ds,y,z\n" + "\n".join(row for _, row in rows))
    together = load("csv", path=folder / "all.csv", series="unique_id", **options)
    order = list(dict.fromkeys(number for number, _ in rows))
    assert [series.name for series in together.series] == [f"id {number}" for number in order]
    for part in ("train", "valid", "test"):
        for windows in ("inputs", "targets"):
            expected = torch.cat([getattr(getattr(alone[number], part), windows) for number in order])
            assert torch.equal(getattr(getattr(together, part), windows), expected)
    for series, number in zip(together.series, order, strict=True):
        assert torch.equal(series.input_scaling.mean, alone[number].input_scaling.mean)
        assert torch.equal(series.target_scaling.std, alone[number].target_scaling.std)
        assert series.ends == alone[number].series[0].ends
        assert (series.times == alone[number].series[0].times).all()
    assert together.input_scaling is None


def long_format(lengths, times=hours):
    rows = (
        f"{name},{time},{VALUES[i]}" for name, length in lengths.items() for i, time in enumerate(times(count=length))
    )
    return "unique_id,ds,y\n" + "\n".join(rows)


def test_stacked_series_are_refused_until_their_column_is_named(tmp_path):
    (tmp_path / "long.csv").write_text(long_format({"A": 60, "B": 60}))
    with pytest.raises(
        ValueError, match=r"line 62, column 'ds' holds .* before .* give series if the file holds several"
    ):
        load("csv", path=tmp_path / "long.csv", **SMALL)
    about = "\n".join(load("csv", path=tmp_path / "long.csv", series="unique_id", **SMALL).about)
    assert "series: 2 in column 'unique_id' (A, B), each scaled by itself" in about
    assert "training: 72 rows, 54 windows; validation: 24 rows, 6 windows; test: 24 rows, 6 windows" in about


def test_a_series_that_is_too_short_is_named(tmp_path):
    (tmp_path / "long.csv").write_text(long_format({"A": 60, "B": 20}))
    with pytest.raises(ValueError, match="series 'B': the validation part has 4 of the 20 time steps"):
        load("csv", path=tmp_path / "long.csv", series="unique_id", **SMALL)


@pytest.mark.parametrize("change", ["gap", "hole", "nameless"])
def test_a_fault_in_one_of_several_series_is_named_by_its_line(tmp_path, change):
    lines = long_format({"A": 60, "B": 60}).splitlines()
    name, time, _ = lines[90].split(",")
    changed = {"gap": [], "hole": [f"{name},{time},NA"], "nameless": [f",{time},1.5"]}[change]
    lines[90:91] = changed
    (tmp_path / "long.csv").write_text("\n".join(lines))
    column = {"gap": "ds", "hole": "y", "nameless": "unique_id"}[change]
    with pytest.raises(ValueError, match=f"line 91, column '{column}' holds"):
        load("csv", path=tmp_path / "long.csv", series=0, **SMALL)


@pytest.mark.parametrize(
    ("first", "unit", "pattern"),
    [("2016-01-05", "D", "%Y%m%d"), ("2016-01-01T05", "h", "%Y%m%d%H"), ("2016-02", "M", "%Y%m")],
)
def test_digits_of_dates_are_dates_within_a_month_too(first, unit, pattern):
    times = np.datetime64(first) + np.arange(8).astype(f"timedelta64[{unit}]")
    cells = np.array([float(time.strftime(pattern)) for time in times.astype("datetime64[us]").tolist()])
    assert (read_numbered_times(cells) == times).all()
    assert (read_numbered_times(np.arange(2001.0, 2009.0)) == np.arange(2001.0, 2009.0)).all()
