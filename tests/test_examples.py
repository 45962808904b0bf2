"""The scripts of examples/ train, and their adapters compute DILATE, wherever their framework is installed."""

import importlib
import importlib.util
import math
import os
import re
import subprocess
import sys

import pytest
import torch

from loss import AsymmetricOmega, DilateLoss
from tests.helpers import ROOT

FRAMEWORKS = {
    "plain_pytorch": "torch",
    "lightning_module": "lightning",
    "darts_model": "darts",
    "neuralforecast_model": "neuralforecast",
    "pytorch_forecasting_model": "pytorch_forecasting",
}
NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?|-?inf|nan)"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder from which `dilate_loss` is imported as if the clone had been installed."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "dilate_loss").symlink_to(ROOT / "loss", target_is_directory=True)
    return folder


def skip_without(framework):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed (examples/requirements.txt)")


@pytest.fixture
def example(installed, monkeypatch):
    """Import a script of examples/, once: neuralforecast registers a loss under its name."""
    monkeypatch.syspath_prepend(installed)
    monkeypatch.syspath_prepend(ROOT / "examples")

    def load(script):
        skip_without(FRAMEWORKS[script])
        return importlib.import_module(script)

    return load


def series(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).unbind()


@pytest.mark.parametrize(("script", "framework"), FRAMEWORKS.items())
def test_script_trains(script, framework, installed, tmp_path):
    skip_without(framework)
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / "examples" / f"{script}.py")]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(rf"^(?:epoch|steps) .*: loss {NUMBER}", done.stdout, re.MULTILINE)]
    assert len(losses) >= 5
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0] / 2
    for term in ("shape", "temporal"):
        assert math.isfinite(float(re.findall(rf"{term} {NUMBER}", done.stdout)[-1]))
    (mse,) = re.findall(rf"MSE {NUMBER}", done.stdout)
    assert 0 < float(mse) < 1  # better than the mean of the standardised series
    assert ("loaded with DilateLoss(alpha=0.05, gamma=0.1" in done.stdout) == (framework != "torch")
    assert not list(tmp_path.iterdir())


def test_every_script_is_tested_and_documented():
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert scripts == FRAMEWORKS.keys()
    documented = re.findall(r"\]\((\w+)\.py\)", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"))
    assert set(documented) == scripts


def test_the_documented_versions_are_those_that_are_installed_to_test_them():
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in ("requirements.txt", "examples/requirements.txt")]
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", "".join(texts), re.MULTILINE))
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    documented = {pair for pair in re.findall(r"([\w-]+) (\d+\.[\d.]*\d)", readme) if pair[0] != "Python"}
    assert documented <= pinned.items()
    assert {name for name, _ in documented} >= {
        "lightning",
        "darts",
        "neuralforecast",
        "pytorch-forecasting",
        "torch",
    }


def test_darts_adapter_gives_a_window_the_mean_of_its_weights(example):
    criterion = example("darts_model").WeightedDilateLoss(0.3, 0.2)
    prediction, target = series(4, 10, 2)
    assert criterion(prediction, target) == DilateLoss(0.3, 0.2)(prediction, target)
    criterion.reduction = "none"
    weights = torch.rand(4, 10, 1)
    values = DilateLoss(0.3, 0.2, "none")(prediction, target)
    ours = (criterion(prediction, target) * weights).mean()
    torch.testing.assert_close(ours, (values * weights.mean((1, 2))).mean())
    assert criterion(torch.ones(2, 2), torch.zeros(2, 2)).shape == (2, 2)  # what Darts tries first


@pytest.mark.parametrize("variables", [1, 3])
def test_neuralforecast_adapter_takes_the_target_first_and_weights_whole_windows(example, variables):
    criterion = example("neuralforecast_model").Dilate(0.3, 0.2)
    y_hat, y = series(4, 10, variables)
    values = DilateLoss(0.3, 0.2, "none")(y_hat, y)
    torch.testing.assert_close(criterion(y=y, y_hat=y_hat), values.mean())
    mask = torch.tensor([1.0, 2.0, 1.0, 1.0]).view(4, 1, 1).repeat(1, 10, variables)
    mask[2, 7:] = 0  # padding
    expected = (values[0] + 2 * values[1] + values[3]) / 4
    torch.testing.assert_close(criterion(y=y, y_hat=y_hat, mask=mask, y_insample=y), expected)
    assert criterion(y=y, y_hat=y_hat, mask=torch.zeros_like(mask)) == 0
    criterion.criterion = late = DilateLoss(omega=AsymmetricOmega(early=0, late=1), reduction="none")
    torch.testing.assert_close(criterion(y=y, y_hat=y_hat), late(y_hat, y).mean())


def test_pytorch_forecasting_adapter_is_the_mean_over_windows(example):
    metric = example("pytorch_forecasting_model").Dilate(0.3, 0.2)
    y_hat, y = series(4, 10)
    values = DilateLoss(0.3, 0.2, "none")(y_hat, y)
    torch.testing.assert_close(metric(y_hat.unsqueeze(-1), (y, None)), values.mean())
    weights = torch.rand(4, 10)
    torch.testing.assert_close(metric(y_hat, (y, weights)), (values * weights.mean(1)).mean())


def test_pytorch_forecasting_adapter_does_not_see_padding(example):
    metric = example("pytorch_forecasting_model").Dilate(0.3, 0.2)
    y_hat, y = series(4, 10)
    lengths = torch.tensor([10, 7, 3, 9])
    packed = torch.nn.utils.rnn.pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False)
    alone = [(y_hat[i : i + 1, :n], y[i : i + 1, :n]) for i, n in enumerate(lengths)]
    values = torch.stack([DilateLoss(0.3, 0.2)(*pair) for pair in alone])
    for target in (packed, (packed, None)):
        torch.testing.assert_close(metric(y_hat, target), (values * lengths).sum() / lengths.sum())
