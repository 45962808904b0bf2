import re
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import load
from data.csv_time import RowError, Step, read_numbered_times, read_times, shown, steps_of, times_at

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
    "%m/%d/%Y %I:%M%p",
    "%d.%m.%Y %I:%M:%S%p",
    "%Y-%m-%d %H:%M UTC",
    "%Y-%m-%d %H:%M:%S GMT",
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
    assert series.offset == ("+02:00" if "+02" in form else "+00:00" if re.search("Z|UTC|GMT", form) else "")
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


UNREAD = ["%a %Y-%m-%d %H:%M", "%b %d, %Y", "%Y_%m_%d", "%H:%M", "%m/%Y", "%YW%W", "%d. %B %Y", "%d.%m.%Y %H:%M CET"]
DIGITS = {"%Y%m%d": "D", "%Y%m%d%H": "h", "%Y": "YE", "%H": "h"}
ASKED = (
    r"no column holds time stamps such as .*, but .*when.* may hold other times, or name series: "
    "give time or series; time='none' takes the rows as equal steps"
)


@pytest.mark.parametrize(
    "cells",
    [
        *(hours(form) for form in UNREAD),
        *(hours(form, freq=freq) for form, freq in DIGITS.items()),
        [f"soon {row}" for row in range(ROWS)],
        range(ROWS),
        range(2024, 2024 - ROWS, -1),
        [2024 - row // 12 for row in range(ROWS)],
        [*range(30), *range(31, 60), "", *range(61, ROWS + 1)],
    ],
    ids=lambda cells: f"{cells[0]} {cells[1]}",
)
@pytest.mark.parametrize("columns", [None, "y", "all"])
@pytest.mark.parametrize("first", [True, False])
def test_a_column_besides_those_named_may_hold_times_and_is_asked_about(tmp_path, cells, columns, first):
    table = pd.DataFrame({"when": cells, "y": VALUES})
    table[["when", "y"] if first or columns is None else ["y", "when"]].to_csv(tmp_path / "odd.csv", index=False)
    options = {"columns": columns, "missing": "last", **SMALL}
    with pytest.raises(ValueError, match=ASKED):
        load("csv", path=tmp_path / "odd.csv", **options)
    assert load("csv", path=tmp_path / "odd.csv", time="none", **options).series[0].times is None


@pytest.mark.parametrize(
    "names", [["10m", "50m"], ["5%", "95%"], ["#A", "#B"], ["(1)", "(2)"], [101, "A102"], [7, 9]], ids=str
)
@pytest.mark.parametrize("targets", [None, "y"])
@pytest.mark.parametrize("stacked", [True, False])
def test_a_column_besides_those_named_may_name_series_and_is_asked_about(tmp_path, names, targets, stacked):
    cells = [names[row >= ROWS // 2 if stacked else row % 2] for row in range(ROWS)]
    pd.DataFrame({"when": cells, "y": VALUES}).to_csv(tmp_path / "long.csv", index=False)
    with pytest.raises(ValueError, match=ASKED):
        load("csv", path=tmp_path / "long.csv", targets=targets, **SMALL)
    task = load("csv", path=tmp_path / "long.csv", targets="y", time="none", series="when", **SMALL)
    assert [series.name for series in task.series] == list(map(str, names))


def test_nothing_is_asked_where_each_column_is_named(tmp_path):
    table = pd.DataFrame({"date": range(ROWS, 0, -1), "y": VALUES})
    table.to_csv(tmp_path / "named.csv", index=False)
    assert load("csv", path=tmp_path / "named.csv", columns=["date", "y"], **SMALL).series[0].times is None
    table[["date"]].to_csv(tmp_path / "alone.csv", index=False)
    for columns in (None, "all", "date"):
        read = load("csv", path=tmp_path / "alone.csv", columns=columns, **SMALL).series[0].values[:, 0]
        np.testing.assert_array_equal(read, table["date"])


@pytest.mark.parametrize("value", ["soon", "05", "north"])
def test_text_that_is_given_as_the_time_but_is_none_is_refused(write, value):
    with pytest.raises(
        ValueError, match=f"line 2, column 'when' holds '{value} 0', which is no time stamp such as 2016"
    ):
        load("csv", path=write([f"{value} {i}" for i in range(ROWS)]), time="when", **SMALL)


@pytest.mark.parametrize(("form", "step"), [("%Y%m%d", "D"), ("%Y%m%d%H", "h")])
def test_numbers_that_are_given_as_the_time_are_days(tmp_path, form, step):
    times = pd.date_range("2016-07-01", periods=ROWS, freq=step).strftime(form)
    pd.DataFrame({"trading": times, "y": VALUES}).to_csv(tmp_path / "days.csv", index=False)
    known = load("csv", path=tmp_path / "days.csv", time="trading", **SMALL)
    assert known.series[0].times[0] == np.datetime64("2016-07-01")


@pytest.mark.parametrize("form", ["%d%m%Y", "%y%m%d", "%m%d%Y"])
def test_days_of_digits_that_begin_with_zeros_are_no_numbers(tmp_path, form):
    times = pd.date_range("2009-01-01", periods=31)
    pd.DataFrame({"when": times.strftime(form), "y": np.arange(31.0)}).to_csv(tmp_path / "days.csv", index=False)
    with pytest.raises(ValueError, match="may be a date in several ways: write it as 2016-07-31"):
        load("csv", path=tmp_path / "days.csv", time="when", input_length=4, horizon=2)
    counts = [f"{number:06d}" for number in range(31)]
    pd.DataFrame({"when": counts, "y": np.arange(31.0)}).to_csv(tmp_path / "counts.csv", index=False)
    (series,) = load("csv", path=tmp_path / "counts.csv", time="when", input_length=4, horizon=2).series
    np.testing.assert_array_equal(series.times, np.arange(31.0))


@pytest.mark.parametrize("ids", [["H1", "H2", "H3"], [1, 2, 3]])
def test_series_one_below_another_with_numbered_times_are_asked_about(tmp_path, ids):
    names = np.repeat(ids, 60)
    table = pd.DataFrame({"unique_id": names, "ds": [*range(1, 61)] * 3, "y": np.arange(180.0)})
    table.to_csv(tmp_path / "long.csv", index=False)
    with pytest.raises(ValueError, match=r"no column holds time .* but unique_id, ds may .* give time or series"):
        load("csv", path=tmp_path / "long.csv", **SMALL)
    with pytest.raises(ValueError, match="line 62, column 'ds' holds 1, which is before 60 in the row above"):
        load("csv", path=tmp_path / "long.csv", time="ds", **SMALL)
    task = load("csv", path=tmp_path / "long.csv", time="ds", series="unique_id", **SMALL)
    assert [len(series.values) for series in task.series] == [60, 60, 60]


def test_days_that_begin_with_the_day_are_no_plain_numbers(tmp_path):
    for form in ("%m%d%Y", "%d%m%Y"):
        days = pd.date_range("2020-10-10", periods=20).strftime(form)
        pd.DataFrame({"when": days, "y": np.arange(20.0)}).to_csv(tmp_path / "days.csv", index=False)
        with pytest.raises(ValueError, match="may be a date in several ways: write it as 2016-07-31"):
            load("csv", path=tmp_path / "days.csv", time="when", columns="y", input_length=2, horizon=1)


def test_a_sentence_on_times_says_that_they_are_in_utc(write):
    days = pd.date_range("2024-03-01", periods=ROWS, tz="Europe/Berlin")
    with pytest.raises(ValueError, match="these times are in UTC, since their offsets may change"):
        load("csv", path=write([str(day) for day in days]), **SMALL)


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
        (range(0, 5_000_000 * ROWS, 5_000_000), "5000000"),
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
    assert load("csv", path=path, columns="all", time="none", **SMALL).columns == ("t", "y")
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
    assert "series: 2 in column 'unique_id' (A, B)" in about
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


# --- what a reading must not get wrong without a word ------------------------------


def read(*stamps, **options):
    return read_times(np.array([stamp.encode() for stamp in stamps]), **options)


@pytest.mark.parametrize(
    ("stamps", "expected", "offset"),
    [
        (["2020-01-01 00:00", "2020-01-01 01:00"], ["2020-01-01T00", "2020-01-01T01"], ""),
        (["2020-01-01 00:00Z", "2020-01-01 01:00Z"], ["2020-01-01T00", "2020-01-01T01"], "+00:00"),
        (["2020-01-01 00:00+02:00", "2020-01-01 01:00+0200"], ["2020-01-01T00", "2020-01-01T01"], "+02:00"),
        (["2020-01-01 00:00:00+02", "2020-01-01 01:00:00+02"], ["2020-01-01T00", "2020-01-01T01"], "+02:00"),
        (["2020-01-01 00:00-03:30", "2020-01-01 01:00-03:30"], ["2020-01-01T00", "2020-01-01T01"], "-03:30"),
        (["2020-03-29 01:00+01:00", "2020-03-29 03:00+02:00"], ["2020-03-29T00", "2020-03-29T01"], "+00:00"),
        (
            ["2020-01-01 00:00:00,5", "2020-01-01 00:00:01,25"],
            ["2020-01-01T00:00:00.5", "2020-01-01T00:00:01.25"],
            "",
        ),
    ],
)
def test_times_keep_their_offset_or_are_in_utc_where_it_changes(stamps, expected, offset):
    times, found, _ = read(*stamps)
    assert (times == np.array(expected, "datetime64[us]")).all()
    assert found == offset
    for time, stamp in zip(times, stamps, strict=True):
        assert pd.Timestamp(shown(time, found)) == pd.Timestamp(stamp.replace(",", "."))


@pytest.mark.parametrize("unit", ["D", "MS", "B"])
def test_an_offset_moves_no_row_to_another_day(write, unit):
    times = pd.date_range("2001-01-01", periods=ROWS, freq=unit)
    (series,) = load("csv", path=write(times.strftime("%Y-%m-%d 00:00+02:00")), **SMALL).series
    assert (series.times == times.to_numpy()).all()
    assert series.step.unit == {"D": "microsecond", "MS": "month", "B": "working day"}[unit]
    assert series.shown_times([0, -1]) == times[[0, -1]].strftime("%Y-%m-%d 00:00+02:00").tolist()


@pytest.mark.parametrize(
    ("stamps", "row"),
    [
        (["2020-01-01 00:00+02:00", "2020-01-01 01:00"], 1),
        (["2020-01-01 00:00", "2020-01-01 01:00", "2020-01-01 02:00Z"], 2),
        (["2020-01-01", "now"], 1),
        (["2020-01-01 00:00", "2020-01-01 01:00-05:00"], 1),
        (["2020-01-01 23:00", "2020-01-01 24:00"], 1),
        (["2020-01-01 24:00", "2020-01-02 01:00"], 0),
    ],
)
def test_a_stamp_unlike_the_others_is_refused(stamps, row):
    with pytest.raises(RowError, match=f"holds '{re.escape(stamps[row])}', which is no time stamp") as error:
        read(*stamps)
    assert error.value.row == row


@pytest.mark.parametrize(
    ("form", "count", "words"),
    [
        ("%y-%m-%d", 7, "day, month and year may be in several orders"),
        ("%d/%m/%y", 17, "day, month and year may be in several orders"),
        ("%d/%m/%Y", 7, "day and month may be either way round"),
        ("%m.%d.%Y", 7, "day and month may be either way round"),
    ],
)
def test_dates_that_fit_several_readings_are_refused(form, count, words):
    for days in ("D", "B"):
        with pytest.raises(RowError, match=f"{words}: write the year first, in four digits"):
            read(*pd.date_range("2020-01-01", periods=count, freq=days).strftime(form))


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%y", "%y-%m-%d"])
@pytest.mark.parametrize(
    ("first", "freq", "known"),
    [
        ("2020-01-02", "D", Step(86_400_000_000, "microsecond")),
        ("2020-01-02", "B", Step(1, "working day")),
        ("2020-01-13", "7D", Step(7 * 86_400_000_000, "microsecond")),
    ],
)
def test_a_known_step_tells_day_and_month_and_year_from_each_other(form, first, freq, known):
    times = pd.date_range(first, periods=9, freq=freq)
    assert (read(*times.strftime(form), known=known)[0] == times.to_numpy()).all()
    months = pd.date_range("2020-01-01", periods=9, freq="MS")
    if "%Y" in form:
        assert (read(*months.strftime(form), known=Step(1, "month", 1))[0] == months.to_numpy()).all()
    digits = np.array([float(time.strftime("%y%m%d")) for time in times])
    assert (read_numbered_times(digits, known=known) == times.to_numpy()).all()
    assert (read_numbered_times(digits, known=Step(1.0, "")) == digits).all()
    hours = pd.date_range("2020-01-01", periods=200, freq="h")  # in which no month is a step
    assert (read(*hours.strftime(form + " %H:%M"), known=Step(1, "month"))[0] == hours.to_numpy()).all()


@pytest.mark.parametrize(("form", "other"), [("%d/%m/%Y", "%m/%d/%Y"), ("%m/%d/%Y", "%d/%m/%Y")])
def test_the_form_of_earlier_stamps_tells_day_and_month_from_each_other(form, other):
    hours = pd.date_range("2020-01-10", periods=200, freq="h")
    *_, written = read(*hours.strftime(form + " %H:%M"))
    assert written == form + " %H:%M"
    known = Step(3_600_000_000, "microsecond", 0, written)
    of_one_day = pd.date_range("2020-02-05", periods=24, freq="h")
    times, _, again = read(*of_one_day.strftime(written), known=known)
    assert (times == of_one_day.to_numpy()).all()
    assert again == written
    for alike in (form.replace("/", ".") + " %H:%M", form + " %H:%M:%S", form + " %I:%M %p", form.replace("Y", "y")):
        stamps = of_one_day if "%H" in alike or "%I" in alike else pd.date_range("2020-02-05", periods=5)
        step = known if len(stamps) == 24 else Step(86_400_000_000, "microsecond", 0, written)
        assert (read(*stamps.strftime(alike), known=step)[0] == stamps.to_numpy()).all()
    late = pd.date_range("2020-02-15", periods=24, freq="h")  # no month
    assert (read(*late.strftime(other + " %H:%M"), known=known)[0] == late.to_numpy()).all()
    with pytest.raises(RowError, match="day and month may be either way round"):
        read(*of_one_day.strftime(form + " %H:%M"))
    assert read("05/05/2020 00:00", "05/05/2020 01:00")[2] == ""  # in either order


@settings(deadline=None, max_examples=60)
@given(
    form=st.sampled_from(
        ["%y-%m-%d", "%d/%m/%y", "%m/%d/%y", "%d.%m.%Y", "%m-%d-%Y", "%y/%m/%d %H:%M", "%d-%m-%y %H:%M"]
    ),
    first=st.dates(pd.Timestamp(2001, 1, 1).date(), pd.Timestamp(2030, 1, 1).date()),
    step=st.sampled_from(["D", "h", "6h", "W", "B"]),
    count=st.integers(2, 120),
)
def test_dates_of_any_order_are_right_or_refused(form, first, step, count):
    times = pd.date_range(first, periods=count, freq=step if "%H" in form or "h" not in step else "D")
    if times[-1] - times[0] < pd.Timedelta("62D"):
        with suppress(RowError):
            assert (read(*times.strftime(form))[0] == times.to_numpy()).all()
    else:
        assert (read(*times.strftime(form))[0] == times.to_numpy()).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([200130, 200131, 200201], ["2020-01-30", "2020-01-31", "2020-02-01"]),
        ([202001, 202002, 202003], ["2020-01-01", "2020-02-01", "2020-03-01"]),
        ([20200113, 20200114], ["2020-01-13", "2020-01-14"]),
        ([200113, 200114], None),
        ([200101, 200102], None),
    ],
)
def test_digits_that_may_be_other_dates_or_numbers_are_refused(values, expected):
    if expected is None:
        with pytest.raises(RowError, match=f"holds {values[0]}, which may be a date in several ways"):
            read_numbered_times(np.array(values, float))
    else:
        assert (read_numbered_times(np.array(values, float)) == np.array(expected, "datetime64[us]")).all()


def on_day(day, months, count):
    """Times at noon on that day, or on the last day of shorter months."""
    firsts = pd.date_range("2019-01-01", periods=count, freq=f"{months}MS")
    return (firsts + pd.to_timedelta(np.minimum(day, firsts.days_in_month) - 1, "D") + pd.Timedelta("12h")).to_numpy()


@pytest.mark.parametrize("day", [1, 15, 28, 29, 30, 31])
@pytest.mark.parametrize("months", [1, 2, 3, 12])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_months_go_on_on_the_same_day_or_the_last_one_of_shorter_months(day, months, first):
    times = on_day(day, months, 40).astype("datetime64[us]")
    step, positions = steps_of(times)
    assert (step.size, step.unit) == (months, "month")
    assert (positions == np.arange(40)).all()
    assert (times_at(times[0], step, positions) == times).all()
    other, _ = steps_of(times[:1], step._replace(day=1 if day > 15 else 31))  # of a training on another day
    assert (times_at(times[0], other, np.arange(40)) == times).all()
    known, positions = steps_of(times[first : first + 2], step)  # in which February or a long month may be missing
    assert (times_at(times[first], known, np.arange(20)) == times[first : first + 20]).all()


@pytest.mark.parametrize(
    ("known", "fits"),
    [
        (Step(1, "working day"), "B"),
        (Step(86_400_000_000, "microsecond"), "D"),
        (Step(1, "month", 31), "MS"),  # months are months, on the first day too
        (Step(3_600_000_000, "microsecond"), "h"),
        (Step(3, "month", 31), "QE"),
    ],
)
def test_rows_are_held_to_a_known_step(write, known, fits):
    for freq in ("B", "D", "MS", "h", "QE", "30min", "W"):
        times = pd.date_range("2020-01-01", periods=ROWS, freq=freq)
        path = write(times.strftime("%Y-%m-%d %H:%M"))
        if freq == fits:
            (series,) = load("csv", path=path, steps={None: known}, **SMALL).series
            assert (series.times == times.to_numpy()).all()
            assert series.step[:2] == known[:2]
        else:
            with pytest.raises(ValueError, match=f"the network was trained on steps of {known}"):
                load("csv", path=path, steps={None: known}, **SMALL)


@pytest.mark.parametrize("lost", [[], [2], [1, 3]])
def test_a_week_without_a_weekend_is_of_working_days_where_they_are_known(lost):
    times = np.delete(np.arange("2020-02-03", "2020-02-08", dtype="datetime64[D]"), lost).astype("datetime64[us]")
    step, positions = steps_of(times, Step(1, "working day"))
    assert (positions == np.delete(np.arange(5), lost)).all()
    assert shown(times_at(times[0], step, positions[-1:] + 1)[0]) == "2020-02-10 00:00"


@pytest.mark.parametrize("size", [9, 11, 11.5, 9.99, 5])
@pytest.mark.parametrize("rows", [2, 4, 12])
def test_numbered_times_of_another_step_than_the_known_one_are_refused(size, rows):
    with pytest.raises(RowError, match=r"which is no (step|whole number of steps) of 10"):
        steps_of(size * np.arange(rows), Step(10.0, ""))
    step, positions = steps_of(10 * np.arange(rows) + 1e-7, Step(10.0, ""))
    assert (positions == np.arange(rows)).all()
    assert step.size == pytest.approx(10)


@pytest.mark.parametrize("time", [1467331200.0, 1467331200000.0, 1467331200000001.0, 20.0, 0.1 + 0.2])
def test_times_in_numbers_are_shown_in_all_their_digits(time):
    assert float(shown(time)) == pytest.approx(time, rel=1e-15)
    assert "e" not in shown(time)


@pytest.mark.parametrize("form", ["%d %B %Y", "%d %b %Y", "%d-%b-%y"])
@pytest.mark.parametrize("first", ["2020-04-28", "2020-05-01", "2020-05-30"])
def test_may_is_short_and_long(form, first):
    times = pd.date_range(first, periods=40)
    assert (read(*times.strftime(form))[0] == times.to_numpy()).all()


@pytest.mark.parametrize(
    ("freq", "known"), [("h", "1 hour"), ("D", "1 day"), ("B", "1 working day"), ("MS", "1 month")]
)
@pytest.mark.parametrize("multiple", [2, 3, 12])
@pytest.mark.parametrize("missing", ["refuse", "interpolate", "last"])
def test_a_multiple_of_the_known_step_is_another_step_and_no_gap(write, freq, known, multiple, missing):
    times = pd.date_range("2016-07-29", periods=multiple * ROWS, freq=freq)
    (series,) = load("csv", path=write(times[:ROWS], name="known.csv"), **SMALL).series
    assert str(series.step) == known
    options = {"missing": missing, "steps": {None: series.step}, **SMALL}
    with pytest.raises(
        ValueError, match=f"line 3, .* {known.replace('1', str(multiple))}s is the most frequent step of"
    ):
        load("csv", path=write(times[::multiple]), **options)
    if missing != "refuse":  # a file with gaps only
        kept = np.delete(np.arange(ROWS), np.r_[10:60:3, 70:80])
        (found,) = load("csv", path=write(times[kept], VALUES[kept]), **options).series
        assert (found.times == times[:ROWS].to_numpy()).all()
        assert (found.filled[:, 0] == ~np.isin(np.arange(ROWS), kept)).all()


def test_rows_out_of_order_within_a_named_series_are_told_from_the_row_above_of_it(tmp_path):
    rows = [f"{time},{name},{number}" for number, time in enumerate(hours(count=50)) for name in ("north", "south")]
    rows[41], rows[43] = rows[43], rows[41]
    path = tmp_path / "long.csv"
    path.write_text("\n".join(["when,shop,sold", *rows]))
    with pytest.raises(ValueError, match=r"line 45, .* in the row above of series 'south'; sort") as refused:
        load("csv", path=path, series="shop", **SMALL)
    assert "several series" not in str(refused.value)


@pytest.mark.parametrize(
    ("step", "shown_first"),
    [("30min", "2016-07-29 22:00"), ("30s", "2016-07-29 22:00:00"), ("250ms", "2016-07-29 22:00:00.000000")],
)
def test_the_times_of_a_series_are_shown_in_one_form(write, step, shown_first):
    times = hours("%Y-%m-%dT%H:%M:%S.%f", freq=step)
    (series,) = load("csv", path=write(times), **SMALL).series
    texts = series.shown_times(slice(None))
    assert texts[0] == shown_first
    assert set(map(len, texts)) == {len(shown_first)}
    assert [pd.Timestamp(text) for text in texts] == [pd.Timestamp(time) for time in times]
