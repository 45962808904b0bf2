import numpy as np
import pandas as pd
import pytest
import torch

from data import load
from main import main
from tests.helpers import assert_one_sentence, weights, write_waves
from training import CheckpointError, load_forecaster, predict
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
