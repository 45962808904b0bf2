from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data import load
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
    ],
)
def test_a_history_that_does_not_fit_is_one_sentence(checkpoint, history, kind, sentence):
    forecaster = load_forecaster(checkpoint)
    assert_one_sentence(kind, sentence, lambda: forecaster.predict(history))


def test_what_lies_before_the_window_may_be_missing(checkpoint):
    forecaster, history = load_forecaster(checkpoint), np.ones((9, 2))
    expected = forecaster.predict(history)
    history[:3] = np.nan
    assert (forecaster.predict(history) == expected).all()


def test_a_checkpoint_without_a_record_of_its_data_is_refused(checkpoint, tmp_path):
    torch.save(weights(checkpoint.parents[1], "mse"), tmp_path / "bare.pt")
    state = torch.load(checkpoint, weights_only=True)
    del state["settings"]["data"]
    torch.save(state, tmp_path / "old.pt")
    for name in ("bare.pt", "old.pt"):
        message = assert_one_sentence(CheckpointError, name, lambda name=name: load_forecaster(tmp_path / name))
        assert "keeps no scaling of its data" in message


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
        with pytest.raises(ValueError, match=f"series must be one of north, south, not {name!r}"):
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
    assert f"4 steps after the last row of {data} are in out/forecast.csv\n" in capsys.readouterr().out


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
    assert list(table.columns) == ["series", "step", "sold"]
    shops = pd.read_csv("shops.csv")
    for name, _, _ in SHOPS:
        expected = load_forecaster(path).predict(shops[shops["shop"] == name], name)
        assert (table.loc[table["series"] == name, "sold"].to_numpy() == expected[:, 0]).all()
    main(parse_args(["--evaluate", path, "--data-path", "shops.csv"]))


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
