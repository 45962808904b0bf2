import json
import math
import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data import load
from evaluation import plots
from main import main
from models import build_model
from tests.helpers import assert_one_sentence, weights, write_waves
from training import CheckpointError, Forecaster, load_forecaster, predict
from training.data_record import DataRecord, record_of
from training.experiment import prepare
from training.settings import parse_args

NAMES = ["sine", "other"]
CHOICES = [(["other"], ["other"]), (NAMES, ["other"]), (["other", "sine"], NAMES), (["other", "sine"], ["sine"])]


def flags_of(path, columns=NAMES, targets=NAMES, model="mlp"):
    flags = ["--dataset", "csv", "--data-path", path, "--csv-columns", *columns, "--csv-targets", *targets]
    flags += ["--csv-time", "none"] if columns == ["other"] else []  # beside a column that is not used
    flags += ["--input-length", 6, "--horizon", 4, "--model", model, "--hidden-size", 5, "--losses", "mse"]
    return [str(flag) for flag in [*flags, "--epochs", 1, "--jobs", 1, "--no-plots"]]


def trained(folder, *choice, **options):
    """Checkpoint of a network on a file with numbers far from 0 and 1, and its flags."""
    write_waves(folder / "waves.csv")
    values = pd.read_csv(folder / "waves.csv") * [1000, 0.01] + [50, -3]
    values.to_csv(folder / "far.csv", index=False)
    flags = flags_of(folder / "far.csv", *choice, **options)
    main(parse_args([*flags, "--output", str(folder / "run")]))
    return folder / "run" / "checkpoints" / "mse.pt", flags


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"))[0]


@pytest.mark.parametrize("model", ["mlp", "seq2seq"])
@pytest.mark.parametrize(("columns", "targets"), CHOICES)
def test_a_forecaster_gives_the_forecasts_of_the_test_set_in_the_units_of_the_file(tmp_path, columns, targets, model):
    path, flags = trained(tmp_path, columns, targets, model=model)
    experiment = prepare(parse_args(flags))
    data = experiment.data
    expected = data.target_scaling.unscale(predict(experiment.trained_network(path), data.test)[0].double())
    forecaster = load_forecaster(path)
    assert (list(forecaster.data.columns), list(forecaster.data.targets)) == (columns, targets)
    table = pd.read_csv(tmp_path / "far.csv")[96:]  # the test part
    for window in (0, 3, len(data.test) - 1):
        history = table[window : window + 6]
        forecast = forecaster.predict(history)
        assert forecast.dtype == np.float64
        assert forecast == pytest.approx(expected[window].numpy(), rel=1e-5)
        for other in (history.iloc[:, ::-1], table[: window + 6], history.assign(more="text")):
            assert (forecaster.predict(other) == forecast).all()
        values = history[columns].to_numpy()
        for other in (values, torch.tensor(values, requires_grad=True), values.tolist()):
            assert (forecaster.predict(other) == forecast).all()


def test_a_network_on_raw_units_is_a_forecaster_of_raw_units(tmp_path):
    run = tmp_path / "run"
    flags = ["--model", "mlp", "--hidden-size", "4", "--losses", "mse", "--epochs", "1", "--jobs", "1", "--no-plots"]
    main(parse_args([*flags, "--output", str(run)]))
    forecaster = load_forecaster(run / "checkpoints" / "mse.pt")
    inputs = load("synthetic").test[7][0]
    with torch.no_grad():
        expected = forecaster.net(inputs[None])[0]
    assert forecaster.predict(inputs) == pytest.approx(expected.numpy(), rel=1e-5)
    assert forecaster.data.targets == ()


@pytest.mark.parametrize(
    ("header", "names"),
    [("y,y,y", ["y", "y.1", "y.2"]), ("y,y.1,y", ["y", "y.1", "y.2"]), ("y,y,y.1", ["y", "y.2", "y.1"])],
)
def test_columns_that_share_a_name_are_told_apart_as_by_pandas(tmp_path, header, names):
    path = tmp_path / "shared.csv"
    values = np.random.default_rng(0).normal(0, [1, 10, 100], (60, 3))
    np.savetxt(path, values, header=header, delimiter=",", comments="")
    table = pd.read_csv(path)
    assert list(table.columns) == names
    for positions in ([2], [1], [0, 2], [2, 1, 0]):
        data = load("csv", path=path, columns=positions, input_length=6, horizon=4, time="none")
        assert data.columns == tuple(names[position] for position in positions)
        net = build_model("mlp", input_length=6, horizon=4, input_size=len(positions), output_size=len(positions))
        forecaster = Forecaster(net, record_of(data))
        expected = forecaster.predict(table.to_numpy()[:, positions])
        assert (forecaster.predict(table) == expected).all()


def test_loading_leaves_the_global_random_state(checkpoint):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_forecaster(checkpoint)
    assert torch.equal(torch.rand(3), expected)


HISTORY = np.zeros((9, 2))


@pytest.mark.parametrize(
    ("history", "kind", "sentence"),
    [
        (HISTORY[:5], ValueError, "history must have at least 6 steps, not 5"),
        (HISTORY[:, :1], ValueError, r"history must be shaped \(steps, 2\), not \(9, 1\)"),
        (HISTORY[:, 0], ValueError, r"history must be shaped \(steps, 2\), not \(9,\)"),
        (pd.DataFrame(HISTORY, columns=["sine", "b"]), ValueError, "columns sine, other, but has no 'other'"),
        (pd.DataFrame({"sine": ["x"] * 9, "other": 1}), TypeError, "history must be an array or a table of numbers"),
        ([["a", "b"]], TypeError, "history must be an array or a table of numbers"),
        (np.full((9, 2), np.nan), ValueError, "history must be finite in its last 6 steps"),
        (np.full((9, 2), 1e300), ValueError, "history must hold numbers that are not too large for float32"),
        (HISTORY + 1j, TypeError, "history must be an array or a table of numbers .given complex128"),
        (torch.tensor(HISTORY + 1j), TypeError, "history must be an array or a table of numbers"),
        (HISTORY.astype("datetime64[s]"), TypeError, "history must be an array or a table of numbers"),
        (HISTORY.astype(str), TypeError, "history must be an array or a table of numbers"),
        (pd.DataFrame(HISTORY + 1j, columns=NAMES), TypeError, "history must be an array or a table of numbers"),
        (pd.DataFrame(HISTORY.astype("datetime64[s]"), columns=NAMES), TypeError, "history must be an array or a"),
        (pd.DataFrame(np.zeros((9, 3)), columns=[*NAMES, "sine"]), ValueError, "but has 2 columns 'sine'"),
    ],
)
def test_a_history_that_does_not_fit_is_one_sentence(checkpoint, history, kind, sentence):
    forecaster = load_forecaster(checkpoint)
    assert_one_sentence(kind, sentence, lambda: forecaster.predict(history))


def with_hole(kind, row):
    """Numbers from 0 on, of which one is missing in the way of that kind."""
    values = np.arange(18.0).reshape(9, 2)
    if kind == "nan":
        values[row, 1] = np.nan
    elif kind == "mask":
        values = np.ma.masked_array(values)
        values[row, 1] = np.ma.masked
    elif kind == "None":
        values = values.astype(object)
        values[row, 1] = None
    else:
        values = pd.DataFrame(values, columns=NAMES).astype(kind)
        values.loc[row, "other"] = None
    return values


@pytest.mark.parametrize("kind", ["nan", "mask", "None", "Float64", "Int64", "float32", "object"])
def test_a_value_may_be_missing_before_the_window_only(checkpoint, kind):
    forecaster = load_forecaster(checkpoint)
    expected = forecaster.predict(np.arange(18.0).reshape(9, 2))
    assert (forecaster.predict(with_hole(kind, 2)) == expected).all()
    for row in (3, 8):
        assert_one_sentence(
            ValueError,
            "history must be finite in its last 6 steps",
            lambda row=row: forecaster.predict(with_hole(kind, row)),
        )


@pytest.mark.parametrize("model", ["mlp", "seq2seq"])
def test_the_precision_and_the_device_that_a_caller_works_in_change_no_forecast(tmp_path, model):
    forecaster, history = load_forecaster(trained(tmp_path, model=model)[0]), np.arange(18.0).reshape(9, 2)
    expected = forecaster.predict(history)
    with torch.autocast("cpu", torch.bfloat16):
        assert (forecaster.predict(history) == expected).all()
    with torch.device("meta"):
        assert (forecaster.predict(history) == expected).all()


def test_a_checkpoint_without_a_record_of_its_data_is_refused(checkpoint, tmp_path):
    torch.save(weights(checkpoint.parents[1], "mse"), tmp_path / "bare.pt")
    state = torch.load(checkpoint, weights_only=True)
    del state["settings"]["data"]
    torch.save(state, tmp_path / "old.pt")
    for name in ("bare.pt", "old.pt"):
        message = assert_one_sentence(CheckpointError, name, lambda name=name: load_forecaster(tmp_path / name))
        assert "keeps no scaling of its data" in message


# Tables with times


HOUR = pd.Timedelta("1h")
HOURS = pd.date_range("2016-07-20", periods=20, freq="h")
OF_HOURS = {"time_column": "when", "steps": {None: (3_600_000_000, "microsecond", 0)}}


def forecaster_of(**options):
    """A network of random weights that observes 6 steps of y, without scaling."""
    sizes = {"input_length": 6, "horizon": 4, "input_size": 1, "output_size": 1}
    unscaled = dict.fromkeys(("target_columns", "mean", "std", "fingerprint"))
    record = DataRecord(**{**sizes, **unscaled, "columns": ("y",), **options})
    return Forecaster(build_model("mlp", input_length=6, horizon=4, hidden_size=5), record)


def timed(times, how):
    """A table of numbers with these times, in a column, as text, with an offset, or in the index."""
    y = np.sin(np.arange(len(times)))
    indices = {
        "index": lambda: times,
        "named index": lambda: times.map(str).rename("when"),
        "index of text": lambda: times.map(str),
        "index of objects": lambda: times.astype(object),
        "index of periods": lambda: times.to_period("min"),
    }
    if how in indices:
        return pd.DataFrame({"y": y}, index=indices[how]())
    if how.endswith("of another name"):
        at = times.tz_localize("Etc/GMT-2") if "offset" in how else times.map(str) if "text" in how else times
        return pd.DataFrame({"at": at, "y": y})
    column = {
        "column": times,
        "text": times.map(str),
        "day first": times.strftime("%d.%m.%Y %H:%M"),
        "offset": times.tz_localize("Etc/GMT-2"),
        "city": times.tz_localize("Europe/Berlin"),
    }
    return pd.DataFrame({"y": y, "when": column[how]})


HOW = ["column", "text", "day first", "offset", "city", "index", "named index"]
HOW += ["index of text", "index of objects", "index of periods"]
HOW += ["column of another name", "offset, of another name", "text, of another name"]


@pytest.mark.parametrize("how", HOW)
def test_a_table_in_the_steps_of_the_training_is_forecast(how):
    forecaster = forecaster_of(**OF_HOURS)
    table = timed(HOURS, how)
    assert (forecaster.predict(table) == forecaster.predict(table[["y"]].to_numpy())).all()
    late = timed(HOURS[:10].append(HOURS[10:] + HOUR), how)  # a gap before the window
    assert (forecaster.predict(late) == forecaster.predict(table)).all()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (HOURS[::-1], "sorted by time, so that its last 6 rows are the newest"),
        (HOURS[[*range(18), 19, 18]], "sorted by time, so that its last 6 rows are the newest"),
        (HOURS[[*range(19), 18]], "sorted by time, so that its last 6 rows are the newest"),
        (HOURS[[*range(10, 20), *range(10)]], "sorted by time, so that its last 6 rows are the newest"),
        (HOURS[:17].append(HOURS[17:] + HOUR), "row 17 holds 2016-07-20 18:00 after 2016-07-20 16:00"),
        (HOURS[:17].append(HOURS[17:] + HOUR / 2), "row 17 holds .*, which is no whole number of steps of 1 hour"),
        (HOURS[0] + 24 * (HOURS - HOURS[0]), "in steps of 1 hour, as in the training: row 15 holds"),
    ],
)
def test_a_table_out_of_order_or_in_other_steps_is_refused(how, times, sentence):
    if how == "city":
        sentence = re.sub("1[68]:00", ".*", sentence)  # in UTC
    assert_one_sentence(
        ValueError, f"history must be .*{sentence}", lambda: forecaster_of(**OF_HOURS).predict(timed(times, how))
    )


@pytest.mark.parametrize("form", ["%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M"])
def test_dates_in_the_index_that_only_the_step_of_the_training_tells_apart_are_checked(form):
    table = timed(HOURS, "index").set_index(pd.date_range("2024-04-01 20:00", periods=20, freq="h").strftime(form))
    forecaster = forecaster_of(**OF_HOURS)
    assert np.isfinite(forecaster.predict(table)).all()
    assert_one_sentence(ValueError, "history must (be sorted|hold times)", lambda: forecaster.predict(table[::-1]))
    for label in (None, "Total"):
        bad = table.set_index(pd.Index([*table.index[:18], label, table.index[19]], dtype=object))
        assert_one_sentence(ValueError, "history must hold times", lambda bad=bad: forecaster.predict(bad))


def test_labels_in_the_index_that_are_no_dates_are_left_alone():
    table = timed(HOURS, "index").set_index(pd.Index([f"row {k}" for k in range(20)]))
    assert np.isfinite(forecaster_of(**OF_HOURS).predict(table)).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.assign(site="x").set_index(["site", "when"]).rename_axis(["site", "at"]),
        lambda table: table.set_index("when").rename_axis("at"),
        lambda table: (
            table.assign(when=table["when"].dt.strftime("%b %d, %Y %H:%M")).set_index("when").rename_axis(None)
        ),
    ],
)
def test_times_in_every_kind_of_index_are_checked(change):
    reversed_rows = change(timed(HOURS, "column")[::-1])
    assert_one_sentence(
        ValueError,
        "history must (be sorted by time|hold times)",
        lambda: forecaster_of(**OF_HOURS).predict(reversed_rows),
    )


def test_a_column_of_times_that_stands_there_twice_is_refused():
    table = timed(HOURS, "column")
    twice = pd.concat([table, table[["when"]]], axis=1)
    assert_one_sentence(
        ValueError,
        "must have one column 'when' of times, but has 2",
        lambda: forecaster_of(**OF_HOURS).predict(twice),
    )


def test_text_with_underscores_is_no_number():
    table = timed(HOURS, "column").astype({"y": object})
    table.loc[table.index[-1], "y"] = "1_0"
    assert_one_sentence(
        TypeError, "underscores belong to no number", lambda: forecaster_of(**OF_HOURS).predict(table)
    )


def test_a_table_of_pyarrow_is_read_as_that_of_pandas():
    pyarrow = pytest.importorskip("pyarrow")
    table = timed(HOURS, "column")
    forecaster = forecaster_of(**OF_HOURS)
    found = forecaster.predict(pyarrow.Table.from_pandas(table, preserve_index=False))
    np.testing.assert_array_equal(found, forecaster.predict(table))


def test_a_table_without_rows_is_refused():
    for table in (timed(HOURS, "column")[:0], pd.DataFrame({"y": [], "when": []})):
        assert_one_sentence(
            ValueError,
            "history must have at least 6 steps, not 0",
            lambda table=table: forecaster_of(**OF_HOURS).predict(table),
        )


@pytest.mark.parametrize(
    "when", [[*HOURS[:19], pd.NaT], [*HOURS[:19].map(str), None], [*HOURS[:19].map(str), "soon"]]
)
def test_a_row_without_a_time_is_refused(when):
    table = timed(HOURS, "column").assign(when=when)
    assert_one_sentence(
        ValueError, "history must hold (a time|times) in", lambda: forecaster_of(**OF_HOURS).predict(table)
    )


def write_shops(path, rows=120):
    """Two series in one file, of other levels and sizes."""
    waves = np.sin(0.4 * np.arange(rows))
    shops = [pd.DataFrame({"shop": name, "sold": size * waves + level}) for name, level, size in SHOPS]
    pd.concat(shops).to_csv(path, index=False)


SHOPS = [("north", 1000, 50), ("south", -3, 0.01)]


def test_each_of_several_series_is_forecast_and_scaled_by_its_own_scaling(tmp_path):
    write_shops(tmp_path / "shops.csv")
    options = {"columns": "sold", "series": "shop", "input_length": 6, "horizon": 4}
    data = load("csv", path=tmp_path / "shops.csv", **options)
    record = DataRecord(**record_of(data).plain)
    net = build_model("mlp", input_length=6, horizon=4, hidden_size=5)
    forecasts = predict(net, data.test)[0].double()
    assert len(forecasts) == 2 * 15
    for k, (name, level, size) in enumerate(SHOPS):
        history = size * np.sin(0.4 * np.arange(110, 116)) + level
        own = data.series[k].target_scaling.unscale(forecasts[15 * k + 14]).numpy()
        forecast = Forecaster(net, record).predict(history[:, None], name)
        assert abs(forecast - own).max() < 1e-4 * size
    for name in (None, "west"):
        with pytest.raises(ValueError, match=f"series must be one of 'north', 'south', not {name!r}"):
            Forecaster(net, record).predict(history[:, None], name)
    with pytest.raises(ValueError, match="series must be None, for there is one only, not 'north'"):
        record_of(load("synthetic", n=4)).scaling_of("north")
    again = load("csv", path=tmp_path / "shops.csv", scaling=record.scaling, **options)
    assert torch.equal(again.test.inputs, data.test.inputs)
    write_shops(tmp_path / "less.csv", rows=110)
    other = load("csv", path=tmp_path / "less.csv", scaling=record.scaling, **options)
    assert torch.equal(other.series[1].input_scaling.mean, data.series[1].input_scaling.mean)
    with pytest.raises(ValueError, match="scaling must hold one for series 'north', given those of east"):
        load("csv", path=tmp_path / "less.csv", scaling={"east": record.scaling["north"]}, **options)


# Beyond the last row of a file


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def forecast(*flags):
    main(parse_args([str(flag) for flag in flags]))


def refusal(capsys, *flags):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        forecast(*flags)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def forecasts_in(folder, **options):
    return pd.read_csv(Path(folder) / "forecast.csv", float_precision="round_trip", **options)


STAMPS = {
    "h": pd.date_range("2016-07-01", periods=125, freq="h"),
    "15min": pd.date_range("2016-07-01 07:15", periods=125, freq="15min"),
    "D": pd.date_range("2020-01-30", periods=125, freq="D"),
    "B": pd.date_range("2020-01-30", periods=125, freq="B"),
    "MS": pd.date_range("1990-01-01", periods=125, freq="MS"),
    "ME": pd.date_range("1990-01-31", periods=125, freq="ME"),
}


def dated(folder, stamps, name="far.csv"):
    """The file of `trained`, with a column of time stamps."""
    table = pd.read_csv(folder / "far.csv")
    table.insert(0, "when", stamps[: len(table)])
    table.to_csv(folder / name, index=False)


@pytest.mark.parametrize("kind", STAMPS)
def test_a_forecast_goes_on_with_the_times_of_the_file(in_folder, capsys, kind):
    path, _ = trained(in_folder, NAMES, ["other"])
    dated(in_folder, STAMPS[kind], "dated.csv")
    history = pd.read_csv("dated.csv")[:121]
    expected = load_forecaster(path).predict(history)
    capsys.readouterr()
    forecast("--forecast", path, "--data-path", "dated.csv", "--output", "out")
    table = forecasts_in("out", parse_dates=["when"])
    assert list(table.columns) == ["when", "other"]
    assert (table["when"] == STAMPS[kind][120:124]).all()
    assert (table["other"].to_numpy() == expected[:, 0]).all()
    data = in_folder / "dated.csv"
    assert f"4 steps after the last row of {data} are in out/forecast.csv; --plots draws" in capsys.readouterr().out


MONTHS = pd.date_range("1990-01-01", periods=120, freq="MS")
ON_30TH = MONTHS + pd.to_timedelta(np.minimum(30, MONTHS.days_in_month) - 1, "D")


@pytest.mark.parametrize(
    ("stamps", "rows", "expected"),
    [
        (STAMPS["B"], slice(2, 7), ["2020-02-10 00:00", "2020-02-11 00:00"]),  # Monday to Friday
        (STAMPS["B"].strftime("%d/%m/%Y"), slice(2, 7), ["2020-02-10 00:00", "2020-02-11 00:00"]),
        (ON_30TH, slice(8, 13), ["1991-02-28 00:00", "1991-03-30 00:00"]),
        (ON_30TH, slice(9, 14), ["1991-03-30 00:00", "1991-04-30 00:00"]),
        (STAMPS["ME"], slice(9, 14), ["1991-03-31 00:00", "1991-04-30 00:00"]),
        (
            STAMPS["h"].map(lambda time: f"{time}+02:00"),
            slice(0, 5),
            ["2016-07-01 05:00+02:00", "2016-07-01 06:00+02:00"],
        ),
        (STAMPS["h"].tz_localize("UTC").tz_convert("Europe/Berlin") + pd.Timedelta("2946h"), slice(0, 9), None),
        (1_467_331_200_000 + 3_600_000 * np.arange(120), slice(0, 5), ["1467349200000", "1467352800000"]),
    ],
)
def test_a_checkpoint_goes_on_in_the_steps_of_its_training(in_folder, stamps, rows, expected):
    table = pd.DataFrame({"when": stamps[:120], "y": np.sin(0.4 * np.arange(120))})
    table.to_csv("all.csv", index=False)
    table[rows].assign(made=STAMPS["D"][: len(table[rows])])[["made", "when", "y"]].to_csv("newer.csv", index=False)
    flags = flags_of("all.csv", ["y"], ["y"])
    flags[flags.index("--input-length") + 1] = "5"
    time = ["--csv-time", "when"] if table["when"].dtype.kind == "i" else []
    main(parse_args([*flags, *time, "--output", "run"]))
    forecast("--forecast", "run/checkpoints/mse.pt", "--data-path", "newer.csv", "--output", "out")
    found = forecasts_in("out", dtype={"when": str})["when"].tolist()
    if expected is None:  # over the end of daylight saving time
        assert [pd.Timestamp(time) for time in found] == stamps[9:13].tolist()
        assert all(time.endswith(":00") for time in found)
    else:
        assert found[:2] == expected


@pytest.mark.parametrize("freq", ["D", "30min", "MS"])
def test_a_file_in_other_steps_than_the_training_is_refused(in_folder, capsys, freq):
    for step, name in (("h", "hours.csv"), (freq, "other.csv")):
        times = pd.date_range("2016-07-01", periods=120, freq=step)
        pd.DataFrame({"when": times, "y": np.sin(0.4 * np.arange(120))}).to_csv(name, index=False)
    main(parse_args([*flags_of("hours.csv", ["y"], ["y"]), "--output", "run"]))
    for mode in ("--forecast", "--evaluate"):
        sentence = refusal(capsys, mode, "run/checkpoints/mse.pt", "--data-path", "other.csv")
        assert re.search("line 3, column 'when' holds .*; the network was trained on steps of 1 hour", sentence)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_a_file_shorter_than_the_window_is_told_the_rows_that_it_needs(in_folder, capsys, rows):
    path, _ = trained(in_folder)
    pd.read_csv("far.csv")[-rows:].to_csv("short.csv", index=False)
    sentence = refusal(capsys, "--forecast", path, "--data-path", "short.csv")
    assert f"short.csv has {rows} rows, but {path} needs at least 6, the --input-length of its training" in sentence
    write_shops(in_folder / "shops.csv")
    main(parse_args([*flags_of("shops.csv", ["sold"], ["sold"]), "--csv-series", "shop", "--output", "shops"]))
    shops = pd.read_csv("shops.csv")
    shops[: 120 + rows].to_csv("short.csv", index=False)
    sentence = refusal(capsys, "--forecast", "shops/checkpoints/mse.pt", "--data-path", "short.csv")
    assert f"short.csv has {rows} rows of series 'south', but shops/checkpoints/mse.pt needs at least 6" in sentence
    shops.replace({"shop": {"south": "east"}}).to_csv("other.csv", index=False)
    sentence = refusal(capsys, "--forecast", "shops/checkpoints/mse.pt", "--data-path", "other.csv")
    assert re.search("other.csv holds series 'east', but shops/checkpoints/mse.pt knows only .*'south'", sentence)


@pytest.mark.parametrize(("columns", "targets"), CHOICES)
def test_a_forecast_has_a_column_for_each_target_and_numbers_steps_without_times(in_folder, columns, targets):
    path, _ = trained(in_folder, columns, targets)
    forecast("--forecast", path)
    (folder,) = in_folder.glob("runs/csv-forecast-*")
    table = forecasts_in(folder)
    assert list(table.columns) == ["step", *targets]
    assert table["step"].tolist() == [1, 2, 3, 4]
    assert (table[targets].to_numpy() == load_forecaster(path).predict(pd.read_csv("far.csv"))).all()


def test_a_file_as_short_as_the_window_is_enough(in_folder):
    path, _ = trained(in_folder)
    pd.read_csv("far.csv")[-6:].to_csv("short.csv", index=False)
    forecast("--forecast", path, "--data-path", "short.csv", "--output", "short")
    forecast("--forecast", path, "--output", "long")
    assert (in_folder / "short/forecast.csv").read_text() == (in_folder / "long/forecast.csv").read_text()


def test_each_series_of_a_file_is_forecast(in_folder):
    write_shops(in_folder / "shops.csv")
    flags = flags_of("shops.csv", ["sold"], ["sold"])
    main(parse_args([*flags, "--csv-series", "shop", "--output", "run"]))
    path = "run/checkpoints/mse.pt"
    forecast("--forecast", path, "--output", "out")
    table = forecasts_in("out")
    assert list(table.columns) == ["shop", "step", "sold"]
    shops = pd.read_csv("shops.csv")
    for name, _, _ in SHOPS:
        expected = load_forecaster(path).predict(shops[shops["shop"] == name], name)
        assert (table.loc[table["shop"] == name, "sold"].to_numpy() == expected[:, 0]).all()
        for table_of_all in (shops, shops.set_index("shop"), shops.assign(day=1).set_index(["shop", "day"])):
            with pytest.raises(ValueError, match=f"history must hold the series '{name}' only, but also holds"):
                load_forecaster(path).predict(table_of_all, name)
        (other,) = {shop for shop, _, _ in SHOPS} - {name}
        with pytest.raises(ValueError, match=f"history must hold the series '{name}' only, but holds '{other}'"):
            load_forecaster(path).predict(shops[shops["shop"] == other], name)
    main(parse_args(["--evaluate", path, "--data-path", "shops.csv"]))


def write_series(names, variables):
    """A file of several series, each variable of each on a level of its own, and these levels."""
    levels = {
        (variable, name): 10.0 * (1 + place) for place, (name, variable) in enumerate(product(names, variables))
    }
    waves = 0.1 * np.sin(0.4 * np.arange(120))
    parts = [
        pd.DataFrame({"id": name, **{variable: waves + levels[variable, name] for variable in variables}})
        for name in names
    ]
    pd.concat(parts).to_csv("several.csv", index=False)
    return levels


@pytest.mark.parametrize(
    ("names", "variables"),
    [(["b, c", "c"], ["a", "a, b"]), (["x", "y", "x, x"], ["x", "y", "x, y"]), (["north"], ["1, 2", "2"])],
)
def test_each_variable_of_each_series_has_a_panel_whatever_the_names(in_folder, monkeypatch, names, variables):
    levels, panels = write_series(names, variables), []

    def figure(curves, draw=plots._future_figure):
        panels.extend(curves)
        return draw(curves)

    monkeypatch.setattr(plots, "_future_figure", figure)
    flags = [flag for flag in flags_of("several.csv", variables, variables) if flag != "--no-plots"]
    main(parse_args([*flags, "--csv-header", "--csv-series", "id", "--no-show", "--output", "run"]))
    drawn = [(title, round(float(past.mean()))) for title, (past, _, _) in panels]
    assert drawn == [*levels.items()]


@pytest.mark.parametrize("count", [1, 6, 11])
def test_every_page_of_forecasts_that_a_resumed_run_does_not_draw_is_named(in_folder, capsys, count):
    write_series([f"site {k}" for k in range(count)], ["y"])
    flags = [flag for flag in flags_of("several.csv", ["y"], ["y"]) if flag != "--no-plots"]
    main(parse_args([*flags, "--csv-series", "id", "--no-show", "--output", "run"]))
    pages = {path.name for path in Path("run").glob("*.png")}
    assert len(pages) == -(-count // 5)
    capsys.readouterr()
    main(parse_args(["--resume", "run", "--epochs", "2", "--no-plots"]))
    named = capsys.readouterr().err.partition("and not by this one: ")[2].strip().split(", ")
    assert pages == {name for name in named if not name.startswith("figures/")}


def test_a_forecast_that_cannot_be_made_is_one_sentence(in_folder, capsys):
    path, flags = trained(in_folder, ["other"], ["other"])
    pd.read_csv("far.csv")[-5:].to_csv("short.csv", index=False)
    pd.read_csv("far.csv").rename(columns={"other": "third"}).to_csv("renamed.csv", index=False)
    torch.save(weights("run", "mse"), "bare.pt")
    raw = [*flags[flags.index("--model") :], "--output", "raw"]
    main(parse_args(raw))
    there = set(in_folder.rglob("forecast.csv"))
    for given, sentence in (
        (
            ["--data-path", "short.csv"],
            f"short.csv has 5 rows, but {path} needs at least 6, the --input-length of its",
        ),
        (["--data-path", "renamed.csv"], "'other'"),
        (["--data-path", "none.csv"], "none.csv"),
        (
            ["--epochs", 3],
            "--epochs cannot be given with --forecast, only --data-path, --device, --output, ",
        ),
        (["--evaluate", path], "--evaluate and --forecast cannot be given together."),
    ):
        assert sentence in refusal(capsys, "--forecast", path, *given)
    assert "bare.pt keeps no scaling of its data" in refusal(capsys, "--forecast", "bare.pt")
    sentence = refusal(capsys, "--forecast", "raw/checkpoints/mse.pt")
    assert "--forecast needs a checkpoint of --dataset csv, but raw/checkpoints/mse.pt is of synthetic." in sentence
    assert set(in_folder.rglob("forecast.csv")) == there
    forecast("--forecast", path, "--output", "out")
    before = (in_folder / "out/forecast.csv").read_bytes()
    assert "--output out already holds forecast.csv: name another" in refusal(
        capsys, "--forecast", path, "--output", "out"
    )
    assert (in_folder / "out/forecast.csv").read_bytes() == before


def said(capsys, *flags):
    capsys.readouterr()
    forecast(*flags)
    return capsys.readouterr().out


def waves_without(rows, values, freq="h", name="newer.csv"):
    """A file with times and a column y, without some rows and some values of others."""
    table = pd.DataFrame(
        {"when": pd.date_range("2016-07-01", periods=120, freq=freq), "y": np.sin(0.4 * np.arange(120))}
    )
    table.loc[values, "y"] = np.nan
    table.drop(index=rows).to_csv(name, index=False)


def test_what_is_read_to_forecast_or_to_evaluate_is_said_as_in_a_training(in_folder, capsys):
    waves_without([], [], name="all.csv")
    main(parse_args([*flags_of("all.csv", ["y"], ["y"]), "--split", "50", "20", "30", "--output", "run"]))
    waves_without([40, 41], [7, 115])
    given = ["run/checkpoints/mse.pt", "--data-path", "newer.csv", "--csv-missing", "interpolate"]
    evaluated = said(capsys, "--evaluate", *given)
    ahead = said(capsys, "--forecast", *given)
    for printed in (evaluated, ahead):
        for line in (
            r"file: .*/newer.csv, 118 rows, delimiter ',', names in the first row, utf-8",
            r"observed: y; forecast: y.*",
            r"time: 2016-07-01 00:00 to 2016-07-05 23:00 in column 'when', step 1 hour",
            r"filled by interpolation: 2 missing rows, 2 missing values in other rows",
        ):
            assert re.search(f"(?m)^{line}$", printed), line
    assert "; test: 30 rows, 21 windows; 20 rows after them in no part\n" in evaluated
    assert "\nmeasured: 21 windows of the test part, 30 rows, 2016-07-03 22:00 to 2016-07-05 03:00\n" in evaluated
    assert "\nfilled in the last 6 rows: 1 of 6 values\n" in ahead


@pytest.mark.parametrize("how", ["interpolate", "last"])
@pytest.mark.parametrize("filled", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("rows", [True, False])
def test_a_window_of_which_more_than_half_was_filled_is_not_forecast_from(in_folder, capsys, how, filled, rows):
    waves_without([], [], name="all.csv")
    main(parse_args([*flags_of("all.csv", ["y"], ["y"]), "--output", "run"]))
    lost = list(range(119 - filled, 119))
    waves_without(lost if rows else [], [] if rows else lost)
    flags = ["--forecast", "run", "--data-path", "newer.csv", "--csv-missing", how, "--output", "out"]
    if filled > 3:
        sentence = refusal(capsys, *flags)
        assert re.search(f"newer.csv lacks {filled} of the last 6 values of column 'y', more than half", sentence)
        assert not Path("out").exists()
    else:
        assert (f"filled in the last 6 rows: {filled} of 6 values\n" in said(capsys, *flags)) == bool(filled)


@pytest.mark.parametrize("filled", [0, 3, 4, 5])
@pytest.mark.parametrize("rows", [True, False])
def test_a_training_on_an_end_that_was_mostly_filled_keeps_its_results_and_says_why_it_forecasts_nothing(
    in_folder, capsys, filled, rows
):
    lost = list(range(119 - filled, 119))
    waves_without(lost if rows else [], [] if rows else lost)
    given = [*flags_of("newer.csv", ["y"], ["y"]), "--csv-missing", "interpolate", "--output", "run"]
    printed = said(capsys, *given)
    reason = f"lacks {filled} of the last 6 values of column 'y', more than half of what a forecast goes on from"
    refused = re.search(f"(?m)^No forecast beyond the last row: .*/newer.csv {reason}", printed)
    assert (refused is not None) == (filled > 3) == (not Path("run/forecast.csv").exists())
    assert "\nEverything is in run\n" in printed
    for name in ("results.csv", "results_in_units.csv", "checkpoints/mse.pt"):
        assert Path("run", name).stat().st_size


def test_rows_without_times_are_said_to_be_taken_as_the_steps_of_the_training(in_folder, capsys):
    waves_without([], [], name="all.csv")
    main(parse_args([*flags_of("all.csv", ["y"], ["y"]), "--output", "run"]))
    pd.read_csv("all.csv")[["y"]].to_csv("newer.csv", index=False)
    for mode in ("--forecast", "--evaluate"):
        line = r"(?m)^times: not known in .*/newer.csv, so its rows are taken as the steps of the training, 1 hour$"
        flags = [mode, "run/checkpoints/mse.pt", "--data-path"]
        assert re.search(line, said(capsys, *flags, "newer.csv"))
        assert "times: not known" not in said(capsys, *flags, "all.csv")


@pytest.mark.parametrize("whole", [True, False])
def test_a_training_on_decimals_settles_that_points_of_newer_files_group_no_thousands(in_folder, capsys, whole):
    values = pd.DataFrame({"y": np.random.default_rng(0).uniform(5, 50, 90).round(0 if whole else 3)})
    values.to_csv("all.csv", index=False, float_format="%g")
    main(parse_args([*flags_of("all.csv", ["y"], ["y"]), "--output", "run"]))
    few = [f"{10.125 + row:.3f}" for row in range(6)]
    Path("few.csv").write_text("\n".join(["y", *few]))
    flags = ["--forecast", "run", "--data-path", "few.csv", "--no-plots"]
    asked = "give --csv-thousands . if its point groups thousands, --csv-decimal . if not"
    if whole:
        assert f"'10.125'; {asked}" in refusal(capsys, *flags)
        flags += ["--csv-decimal", "."]
    forecast(*flags, "--output", "out")
    expected = load_forecaster("run/checkpoints/mse.pt").predict(np.array(few, float)[:, None])
    assert pd.read_csv("out/forecast.csv")["y"].to_numpy() == pytest.approx(expected[:, 0], rel=1e-6)
    grouped = [*flags, "--csv-decimal", ",", "--csv-thousands", ".", "--output", "thousands"]
    forecast(*grouped)
    assert f"in the training: y ({values['y'][:54].mean():.4g} ± " in capsys.readouterr().out
    Path("few.csv").write_text("\n".join(["y", *few[:5], "998"]))  # among whole numbers it may group them
    assert asked in refusal(capsys, "--forecast", "run", "--data-path", "few.csv", "--no-plots")
    assert asked in refusal(capsys, "--evaluate", "run/checkpoints/mse.pt", "--data-path", "few.csv")
    large = load_forecaster("run/checkpoints/mse.pt").predict(1000 * np.array(few, float)[:, None])
    assert pd.read_csv("thousands/forecast.csv")["y"].to_numpy() == pytest.approx(large[:, 0], rel=1e-6)


@pytest.mark.parametrize("form", ["%d. %B %Y, %H:%M", "%Y%m%d%H", "count"])
@pytest.mark.parametrize("with_times", [True, False])
def test_a_newer_file_whose_columns_may_be_times_is_asked_about(in_folder, capsys, form, with_times):
    waves_without([], [], name="all.csv")
    table = pd.read_csv("all.csv")
    if not with_times:
        table[["y"]].to_csv("all.csv", index=False)
    main(parse_args([*flags_of("all.csv", ["y"], ["y"]), "--output", "run"]))
    times = pd.date_range("2024-01-01", periods=len(table), freq="h")
    stamps = range(len(table)) if form == "count" else times.strftime(form)
    newest_first = pd.DataFrame({"stamp": stamps, "y": table["y"]})[::-1]
    newest_first.to_csv("newer.csv", index=False)
    for mode in ("--forecast", "--evaluate"):
        flags = [mode, "run/checkpoints/mse.pt", "--data-path", "newer.csv"]
        sentence = refusal(capsys, *flags)
        assert "no column holds time stamps such as 2016-07-01 12:00, but stamp may hold other times" in sentence
        assert "give --csv-time; --csv-time none takes the rows as equal steps" in sentence
        assert "taken as" in said(capsys, *flags, "--csv-time", "none")


@pytest.mark.parametrize(
    ("losses", "renamed", "lead"),
    [
        ("mse", {}, ["shop", "when"]),
        ("mse dilate", {}, ["shop", "when"]),
        ("mse", {"sold": "series"}, ["shop", "when"]),
        ("mse", {"sold": "step"}, ["shop", "when"]),
        ("mse", {"when": "series", "shop": "step"}, ["step", "series"]),
        ("mse", {"sold": "step", "when": None}, ["shop", "step (time)"]),
        ("mse dilate", {"sold": "step", "when": None}, ["shop", "step"]),
        (
            "mse",
            {"sold": "step", "when": None, "shop": "step (time)"},
            ["step (time) (series)", "step (time)"],
        ),
        ("mse", {"sold": "a", "when": "a mse"}, ["shop", "a mse"]),
        ("mse dilate", {"sold": "a", "when": "a mse"}, ["shop", "a mse (time)"]),
        ("mse dilate", {"sold": "a", "shop": "a dilate"}, ["a dilate (series)", "when"]),
    ],
)
def test_no_two_columns_of_a_forecast_share_a_name(in_folder, losses, renamed, lead):
    write_shops(in_folder / "shops.csv")
    shops = pd.read_csv("shops.csv").assign(when=[*pd.date_range("2016-07-01", periods=120, freq="h")] * 2)
    shops = shops.rename(columns={name: new for name, new in renamed.items() if new})
    shops.drop(columns=[name for name, new in renamed.items() if not new]).to_csv("shops.csv", index=False)
    names = {name: renamed.get(name, name) for name in ("shop", "sold")}
    flags = flags_of("shops.csv", [names["sold"]], [names["sold"]])
    flags[flags.index("--losses") + 1 : flags.index("--losses") + 2] = losses.split()
    main(parse_args([*flags, "--csv-series", names["shop"], "--output", "run"]))
    head = Path("run/forecast.csv").read_text().splitlines()[0].split(",")
    targets = [f"{names['sold']} {loss}" for loss in losses.split()] if " " in losses else [names["sold"]]
    assert head == [*lead, *targets]
    assert len(set(head)) == len(head)


def test_the_times_of_a_forecast_and_of_predictions_have_one_form(in_folder):
    for freq, length in (("30min", 16), ("30s", 19), ("250ms", 26)):
        waves_without([], [], freq)
        flags = [*flags_of("newer.csv", ["y"], ["y"]), "--save-predictions", "--output", f"run-{freq}"]
        main(parse_args(flags))
        with np.load(f"run-{freq}/predictions.npz") as saved:
            times = saved["times"]
        for column, first in ((forecasts_in(f"run-{freq}")["when"], 120), (times[0].tolist(), 102)):
            assert {len(time) for time in column} == {length}
            expected = pd.date_range("2016-07-01", periods=124, freq=freq)[first : first + 4]
            assert [pd.Timestamp(time) for time in column] == expected.tolist()


def test_a_newer_file_may_be_written_in_another_way(in_folder, capsys):
    waves_without([], [], name="all.csv")
    main(parse_args([*flags_of("all.csv", ["y"], ["y"]), "--output", "run"]))
    pd.read_csv("all.csv").to_csv("newer.csv", index=False, sep=";", decimal=",", encoding="utf-16-le", na_rep="-")
    flags = ["--data-path", "newer.csv", "--csv-delimiter", ";", "--csv-decimal", ",", "--csv-encoding", "utf-16-le"]
    flags += ["--csv-header", "--csv-missing", "last", "--csv-thousands", "."]
    assert "decimal mark ','" in said(capsys, "--evaluate", "run/checkpoints/mse.pt", *flags)
    forecast("--forecast", "run", *flags, "--output", "out")
    assert Path("out/forecast.csv").read_text() == Path("run/forecast.csv").read_text()


@pytest.mark.parametrize("mode", ["--forecast", "--evaluate", "--resume"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table.rename(columns={"y": "z"}), "newer.csv, read with the settings of run.* names 'y', but"),
        (lambda table: table[["y"]].astype(str) + "x?", r"newer.csv, line 2, column 'y' holds '\S+', [^;]*; [^;]*$"),
        (
            lambda table: table.assign(x=1).set_axis(["when", "y", "y"], axis=1),
            "newer.csv, .* 'y', which several columns",
        ),
        (lambda table: table.iloc[::-1], "newer.csv, line 3, .* the network was trained on steps of 1 hour"),
    ],
)
def test_a_file_that_an_earlier_run_cannot_read_is_named_without_advice_on_flags(
    in_folder, capsys, mode, change, sentence
):
    waves_without([], [], name="all.csv")
    main(parse_args([*flags_of("all.csv", ["y"], ["y"]), "--output", "run"]))
    change(pd.read_csv("all.csv")).to_csv("newer.csv", index=False)
    path = "run" if mode == "--resume" else "run/checkpoints/mse.pt"
    found = refusal(capsys, mode, path, "--data-path", "newer.csv")
    if mode == "--resume":
        sentence = (
            "newer.csv.*; a run goes on with its own data only, so give these by --data-path, or start a new run.$"
        )
        assert found.count("; ") == 1
    assert re.search(sentence, found.strip())
    assert not re.search("(by|give) (--csv-(columns|targets|series|time)|its position)", found)


def test_a_folder_in_place_of_a_checkpoint_is_told_one_and_a_folder_of_no_run_that_it_is_none(in_folder, capsys):
    trained(in_folder)
    sentence = "run is a folder, but a checkpoint is wanted, such as run/checkpoints/mse.pt."
    assert sentence in refusal(capsys, "--evaluate", "run")
    with pytest.raises(IsADirectoryError, match=re.escape(sentence)):
        load_forecaster("run")
    Path("empty").mkdir()
    assert "empty is no folder of a run: empty/config.json is missing" in refusal(capsys, "--forecast", "empty")


def test_checkpoints_that_changed_places_or_forecast_other_variables_are_refused(in_folder, capsys):
    first, other = in_folder / "run" / "checkpoints", in_folder / "other" / "checkpoints"
    for folder, targets in ((first, "a"), (other, "b")):
        flags = ["--dataset", "csv", "--data-path", "two.csv", "--csv-columns", "all", "--csv-targets", targets]
        flags += ["--input-length", "6", "--horizon", "4", "--hidden-size", "4", "--epochs", "1", "--no-plots"]
        flags += ["--csv-time", "none"]
        np.savetxt("two.csv", np.random.default_rng(0).random((90, 2)), delimiter=",", header="a,b", comments="")
        main(parse_args([*flags, "--losses", "mse", "dilate", "--jobs", "1", "--output", str(folder.parent)]))
    shutil.copy(other / "dilate.pt", first / "dilate.pt")
    with pytest.raises(SystemExit):
        forecast("--forecast", first.parent, "--output", "out")
    assert "The networks of one table must forecast the same variables" in capsys.readouterr().err
    shutil.copy(first / "mse.pt", first / "dilate.pt")
    with pytest.raises(SystemExit):
        forecast("--forecast", first.parent, "--output", "out")
    assert f"{first / 'dilate.pt'} was trained with loss 'mse': has it changed places?" in capsys.readouterr().err
    assert not Path("out/forecast.csv").exists()


def test_a_newer_file_is_read_by_the_form_and_the_names_of_the_trainings_times(in_folder, capsys):
    months = pd.date_range("2005-01-01", periods=160, freq="MS")
    table = pd.DataFrame({"day": months.strftime("%d/%m/%Y"), "y": np.sin(0.5 * np.arange(160))})
    table.to_csv("months.csv", index=False)
    main(parse_args([*flags_of("months.csv", ["y"], ["y"]), "--csv-time", "0", "--output", "run"]))
    forecaster = load_forecaster("run/checkpoints/mse.pt")
    days = table[:12].assign(day=pd.date_range("2022-07-01", periods=12).strftime("%d/%m/%Y"))
    with pytest.raises(ValueError, match="to which no steps of 1 month lead"):
        forecaster.predict(days)  # the same stamps, read month first, are months
    days.to_csv("days.csv", index=False)
    assert "to which no steps of 1 month lead" in refusal(capsys, "--forecast", "run", "--data-path", "days.csv")
    table.insert(0, "row", np.arange(len(table)))
    table.to_csv("more.csv", index=False)
    printed = said(capsys, "--forecast", "run", "--data-path", "more.csv", "--no-plots", "--output", "out")
    assert "in column 'day', step 1 month" in printed
    assert pd.read_csv("out/forecast.csv")["day"][0] == "2018-05-01 00:00"


@pytest.mark.parametrize("place", ["run/checkpoints/mse.pt", "mse.pt"])
def test_an_unfinished_training_is_said_to_be_one(in_folder, capsys, place):
    checkpoint, _ = trained(in_folder)
    shutil.copy(checkpoint, in_folder / "of_one_epoch.pt")
    config = json.loads(Path("run/config.json").read_text())
    modes = [["--forecast", place, "--no-plots"], ["--evaluate", place]]
    modes += [["--forecast", "run", "--no-plots"]] if place.startswith("run") else []
    for goes_on, changes in ((False, {}), (True, {"epochs": 7}), (False, {"epochs": 7, "patience": 1})):
        state = torch.load("of_one_epoch.pt", weights_only=True)
        state["history"] += [state["history"][-1] | {"valid_loss": math.inf}] * ("patience" in changes)
        if place.startswith("run"):  # continued with other settings, without another checkpoint
            Path("run/config.json").write_text(json.dumps({"settings": config["settings"] | changes}))
        else:
            state["settings"] |= changes
        torch.save(state, place)
        for mode in modes:
            line = f"{place} is of a training that is not finished: it holds 1 of 7 epochs\n"
            assert (line in said(capsys, *mode)) == goes_on


@pytest.mark.parametrize("config", ["", "{}", '{"settings": {"epochs": "7"}}', '{"settings": {"epochs": null}}'])
def test_a_run_with_unreadable_settings_keeps_no_network_from_its_use(in_folder, capsys, config):
    checkpoint, flags = trained(in_folder)
    Path("run/config.json").write_text(config)
    torch.save(weights("run", "mse"), "run/checkpoints/bare.pt")
    for mode in (["--forecast", checkpoint, "--no-plots", "--output", "out"], ["--evaluate", checkpoint]):
        assert "not finished" not in said(capsys, *mode)
    of_data_and_network = flags[: flags.index("--losses")]
    assert "not finished" not in said(capsys, *of_data_and_network, "--evaluate", "run/checkpoints/bare.pt")


@pytest.mark.parametrize("where", ["column", "index"])
@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M"])
def test_dates_as_text_tell_the_order_also_after_a_training_without_times(where, form):
    forecaster, texts = forecaster_of(), HOURS.strftime(form)
    table = pd.DataFrame({"at": texts, "y": np.sin(np.arange(20))})
    table = table.set_index("at") if where == "index" else table
    assert (forecaster.predict(table) == forecaster.predict(table[["y"]].to_numpy())).all()
    with pytest.raises(ValueError, match="history must be sorted by time"):
        forecaster.predict(table[::-1])


@pytest.mark.parametrize("where", ["at", "other", "column"])
def test_periods_are_times_whatever_they_are_called(where):
    months = pd.date_range("2016-01-01", periods=20, freq="MS")
    forecaster, y = forecaster_of(time_column="at", steps={None: (3, "month", 1, "")}), np.sin(np.arange(20))
    for times, works in ((months.to_period("M"), False), (pd.period_range("2005Q1", periods=20, freq="Q"), True)):
        table = pd.DataFrame({"at": times, "y": y})
        table = table if where == "column" else table.set_index("at").rename_axis(where)
        if works:
            assert (forecaster.predict(table) == forecaster.predict(y[:, None])).all()
        else:
            with pytest.raises(ValueError, match="must be in steps of 3 months"):
                forecaster.predict(table)
        with pytest.raises(ValueError, match="history must be sorted by time"):
            forecaster.predict(table[::-1])


def test_the_order_of_dates_is_seen_after_a_training_on_columns_without_names():
    forecaster, y = forecaster_of(columns=()), np.sin(np.arange(20))
    for index in (HOURS, HOURS.map(str), HOURS.to_period("h")):
        table = pd.DataFrame({0: y}, index=index)
        assert (forecaster.predict(table) == forecaster.predict(y[:, None])).all()
        with pytest.raises(ValueError, match="history must be sorted by time"):
            forecaster.predict(table[::-1])


def test_dates_of_any_form_and_periods_are_not_passed_over_after_a_training_with_times():
    forecaster, y = forecaster_of(**OF_HOURS), np.sin(np.arange(20))
    with pytest.raises(ValueError, match="which is no time stamp"):
        forecaster.predict(pd.DataFrame({"at": HOURS.strftime("%b %d, %Y %H:%M"), "y": y}))
    with pytest.raises(ValueError, match="history must be sorted by time"):
        forecaster.predict(pd.DataFrame({"at": HOURS.to_period("h"), "y": y})[::-1])


def test_a_column_that_had_no_points_in_the_training_is_asked_about_its_points(in_folder, capsys):
    rng = np.random.default_rng(0)
    numbers = pd.DataFrame({"a": rng.integers(1001, 9998, 90), "y": rng.normal(50, 2, 90).round(2)})
    numbers.to_csv("all.csv", sep=";", index=False)
    main(parse_args([*flags_of("all.csv", ["a", "y"], ["y"]), "--output", "run"]))
    newer = numbers.assign(a=[f"{a:,}".replace(",", ".") for a in numbers["a"]])
    newer.to_csv("newer.csv", sep=";", index=False)
    for mode in ("--forecast", "--evaluate"):
        flags = [mode, "run/checkpoints/mse.pt", "--data-path", "newer.csv"]
        assert "give --csv-thousands . if its point groups thousands" in refusal(capsys, *flags)
    printed = said(capsys, "--forecast", "run", "--data-path", "all.csv", "--no-plots", "--output", "out")
    assert f"in the training: a ({numbers['a'][:54].mean():.4g} ± " in printed


@pytest.mark.parametrize("several", [False, True])
def test_a_column_that_was_constant_in_the_training_is_said_to_have_been(in_folder, capsys, several):
    hours = pd.date_range("2016-07-01", periods=90, freq="h")
    table = pd.DataFrame({"when": hours, "tariff": 7.0, "y": 1000 + np.arange(90) % 5})
    if several:
        table = pd.concat([table.assign(place="A"), table.assign(place="B", y=3.0)])
    table.to_csv("all.csv", index=False)
    places = ["--csv-series", "place"] * several
    trained = said(capsys, *flags_of("all.csv", ["tariff", "y"], ["y"]), *places, "--output", "run")
    table.assign(tariff=np.arange(len(table)) % 3).to_csv("newer.csv", index=False)
    deviation = table["y"].iloc[:54].std(ddof=0) / (1 + several)
    scale = f"y ({(table['y'].iloc[:54].mean() + 3 * several) / (1 + several):.4g} ± {deviation:.3g})"
    assert "tariff (7 ± 0, constant)" in trained
    assert scale in trained
    for mode in ("--forecast", "--evaluate"):
        printed = said(capsys, mode, "run/checkpoints/mse.pt", "--data-path", "newer.csv")
        assert f"in the training: tariff (7 ± 0, constant), {scale}\n" in printed


@pytest.mark.parametrize("mode", ["--forecast", "--evaluate"])
@pytest.mark.parametrize("times", [True, False])
def test_names_that_are_numbers_are_not_taken_for_places(in_folder, capsys, mode, times):
    table = pd.DataFrame(np.random.default_rng(0).normal(10, 1, (90, 3)).round(3))
    table = table.set_index(STAMPS["h"][:90]) if times else table
    table.to_csv("named.csv", index=times)
    table.to_csv("bare.csv", index=times, header=False)
    files = {"--csv-header": "named.csv", "--no-csv-header": "bare.csv"}
    for header, file in files.items():
        flags = [*flags_of(file, ["1", "2"], ["1"]), header, *([] if times else ["--csv-time", "none"])]
        main(parse_args([*flags, "--output", file.removesuffix("csv")]))
        given = [mode, f"{file.removesuffix('csv')}/checkpoints/mse.pt", "--data-path"]
        assert "in the training: 1 (" in said(capsys, *given, file)
        ((other_header, other),) = (pair for pair in files.items() if pair != (header, file))
        refused = refusal(capsys, *given, other, other_header)
        if not times:
            has, were = (
                ("names its columns", "counted") if other == "named.csv" else ("has no names of columns", "named")
            )
            assert f"{other} {has}, but {given[1]} was trained on columns that are {were} 1, 2." in refused


def test_times_without_a_name_are_called_time(in_folder):
    pd.DataFrame({"y": np.sin(np.arange(90.0))}, index=STAMPS["h"][:90]).to_csv("all.csv")
    main(parse_args([*flags_of("all.csv", ["y"], ["y"]), "--output", "run"]))
    table = forecasts_in("run")
    assert list(table) == ["time", "y"]
    assert pd.to_datetime(table["time"]).tolist() == STAMPS["h"][90:94].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_callers_default_dtype_does_not_round_the_weights(in_folder, dtype):
    waves_without([], [], name="all.csv")
    main(parse_args([*flags_of("all.csv", ["y"], ["y"]), "--output", "run"]))
    history = np.sin(np.arange(6.0))[:, None]
    expected = load_forecaster("run/checkpoints/mse.pt").predict(history)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        np.testing.assert_array_equal(load_forecaster("run/checkpoints/mse.pt").predict(history), expected)
    finally:
        torch.set_default_dtype(before)
