"""The experiment on long horizons: its protocol, what it measures, and that nothing is trained twice."""

import copy
import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tslearn.metrics import dtw_path

from benchmarks.memory import RESET
from data import batches
from experiments.long_horizon import quality, report, steps
from experiments.long_horizon.__main__ import main, parser
from experiments.long_horizon.protocol import FromLastValue, Protocol, criterion
from experiments.long_horizon.quality import Job, chosen, last_day, measured
from loss import DilateLoss
from tests.helpers import SHARED_DATA

REAL = SHARED_DATA / "etth1" / "ETTh1.csv"
SMALL = {"split": (150, 60, 60), "input_length": 24, "horizons": (4, 8), "batch_size": 8, "epochs": 2, "patience": 1}
GRID = {"alphas": (0.1, 0.5), "gammas": (1.0,)}


def write_hours(path, seed=0, noise=0.1, hours=300):
    """Two variables with a daily wave."""
    wave = np.sin(2 * np.pi * np.arange(hours) / 24)[:, None] * [1, 3] + [0, 50]
    values = wave + noise * np.random.default_rng(seed).normal(size=(hours, 2))
    times = pd.date_range("2016-07-01", periods=hours, freq="h", name="date")
    pd.DataFrame(values, times, ["a", "b"]).to_csv(path)
    return path


@pytest.fixture
def protocol(tmp_path):
    return Protocol(str(write_hours(tmp_path / "hours.csv")), **SMALL, **GRID)


def flags(protocol, output, *more):
    words = ["--data-path", protocol.data_path, "--output", str(output), *more]
    for name, value in (SMALL | GRID).items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(protocol, tmp_path, threads):
    """Run the command line on the small file; returns the folder of its results."""
    threads(1)
    output = tmp_path / "results"

    def run(*more):
        main(flags(protocol, output, *more))
        return output

    return run


# --- protocol ------------------------------


@pytest.mark.skipif(not REAL.is_file(), reason="the real file is not there")
@pytest.mark.parametrize(("horizon", "windows"), [(96, 2785), (720, 2161)])
def test_etth1_is_cut_as_in_the_literature_on_long_horizons(horizon, windows):
    task = Protocol(str(REAL)).task(horizon)
    assert (task.input_size, task.output_size, task.input_length) == (7, 7, 336)
    assert len(task.train) == 8640 - 336 - horizon + 1
    assert len(task.valid) == len(task.test) == windows
    raw = np.loadtxt(REAL, delimiter=",", skiprows=1, usecols=range(1, 8))[:14400]
    expected = (raw - raw[:8640].mean(0)) / raw[:8640].std(0)
    np.testing.assert_allclose(task.test.targets[0], expected[11520 : 11520 + horizon], atol=1e-5)
    np.testing.assert_allclose(task.test.targets[-1, -1], expected[-1], atol=1e-5)


def test_the_defaults_of_the_command_line_are_the_protocol():
    assert Protocol.of(parser().parse_args(["--data-path", "x.csv"])) == Protocol("x.csv")


@pytest.mark.parametrize("model", ["mlp", "seq2seq"])
def test_forecasts_follow_the_level_of_the_series(protocol, model):
    net = protocol.network(model, protocol.task(6)).double()
    assert isinstance(net, FromLastValue)
    x, level = torch.randn(3, 24, 2, dtype=torch.float64), torch.tensor([100.0, -7.0])
    torch.testing.assert_close(net(x + level), net(x) + level)


def test_training_windows_begin_at_all_hours(protocol):
    task = protocol.task(6)
    windows = protocol.training_windows(task)
    assert len(windows) == -(-len(task.train) // 5)
    assert torch.equal(windows.inputs[3], task.train.inputs[15])


def test_the_released_loss_takes_one_variable_at_a_time(clone):
    x, y = torch.randn(2, 3, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    released, ours = (criterion(f"{name} per variable", 0.3, 0.5, clone)(x, y) for name in ("released", "dilate"))
    torch.testing.assert_close(released, ours)
    batch_times_too_large = torch.autograd.grad(released, x)[0]
    torch.testing.assert_close(batch_times_too_large, 3 * torch.autograd.grad(ours, x)[0])


# --- steps ------------------------------


def test_a_step_in_parts_trains_as_any_step_does(protocol):
    task = protocol.task(6)
    windows = protocol.training_windows(task)
    step = steps.Step(protocol, "mlp", task, windows, DilateLoss(0.5, 1.0))
    net = copy.deepcopy(step.net)
    optimizer = torch.optim.Adam(net.parameters(), lr=protocol.learning_rate)
    epoch = [batch for batch in batches(windows, 8, torch.Generator().manual_seed(0)) if len(batch[0]) == 8]
    for x, y in epoch:
        parts = step()
        optimizer.zero_grad()
        DilateLoss(0.5, 1.0)(net(x), y).backward()
        optimizer.step()
    assert list(parts) == list(steps.PARTS)
    assert min(parts.values()) > 0
    for ours, theirs in zip(step.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_medians_are_taken_part_by_part_in_turns(monkeypatch):
    clock, called = [0.0], []

    def step(name, seconds):
        def call():
            called.append(name)
            clock[0] += sum(duration := [seconds * len(called)] * len(steps.PARTS))
            return dict(zip(steps.PARTS, duration, strict=True))

        return call

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    taken = steps.medians({"a": step("a", 1.0), "b": step("b", 10.0)}, seconds=0)
    assert called == ["a", "b"] * (1 + steps.AT_LEAST)
    assert taken == {"a": dict.fromkeys(steps.PARTS, 5.0), "b": dict.fromkeys(steps.PARTS, 60.0)}


def test_steps_are_timed_for_all_losses_and_horizons(run, clone, monkeypatch, capsys):
    monkeypatch.setattr(steps, "peak", lambda *arguments: 3 * 2**20)
    monkeypatch.setattr(steps, "AT_LEAST", 1)
    monkeypatch.setattr(quality, "train", None)
    rows = rows_of(run("--steps-only", "--seconds", "0", "--original", str(clone)) / report.STEPS)
    losses = ("mse", "dilate", "dilate per variable", "released per variable")
    assert [(row["horizon"], row["model"], row["loss"]) for row in rows] == [
        (horizon, model, loss) for horizon in ("4", "8") for model in ("mlp", "seq2seq") for loss in losses
    ]
    for row in rows:
        parts = {part: float(row[f"{part}_ms"]) for part in steps.PARTS}
        assert float(row["step_ms"]) == pytest.approx(sum(parts.values()), rel=1e-2)
        assert float(row["loss_share"]) == pytest.approx(parts["loss"] / sum(parts.values()), abs=2e-3)
        assert row["peak_mib"] == "3"
    assert "released per variable" in capsys.readouterr().out
    # Nothing is left of the flushing of denormal numbers.
    assert torch.tensor(1e-40) * 1 > 0


@pytest.mark.skipif(not RESET.exists(), reason="this system does not tell peaks of memory")
def test_a_step_takes_at_least_its_gradients_and_little_more(tmp_path):
    # The system counts to within some hundred kilobytes, so the gradients must be larger: they are 2.1 MB here.
    hours = str(write_hours(tmp_path / "hours.csv", hours=9000))
    protocol = Protocol(hours, **SMALL | {"split": (4000, 2500, 2500), "horizons": (2000,)}, **GRID)
    task = protocol.task(2000)
    gradients = 4 * sum(parameter.numel() for parameter in protocol.network("mlp", task).parameters())
    found = steps.peak(protocol, "mlp", 2000, "mse", None)
    assert 0.8 * gradients < found < 7 * gradients  # Adam makes arrays of their size, too: 5.2 was measured


def test_too_few_windows_for_a_batch_are_one_sentence(protocol, tmp_path, threads):
    with pytest.raises(SystemExit, match="error: horizon 4 leaves 25 training windows, less than a batch"):
        main([*flags(protocol, tmp_path), "--batch-size", "26", "--steps-only"])


# --- quality ------------------------------


def test_metrics_are_those_of_every_variable_alone(protocol):
    forecast, target = torch.randn(2, 7, 9, 3, generator=torch.Generator().manual_seed(1))
    found = measured(forecast, target, every=3)
    paths = [dtw_path(target[i, :, v].numpy(), forecast[i, :, v].numpy()) for i in (0, 3, 6) for v in range(3)]
    assert found["mse"] == pytest.approx(np.square((forecast - target).numpy()).mean())
    assert found["mae"] == pytest.approx(np.abs((forecast - target).numpy()).mean())
    assert found["dtw"] == pytest.approx(np.mean([distance for _, distance in paths]))
    assert found["tdi"] == pytest.approx(np.mean([sum((i - j) ** 2 for i, j in path) / 81 for path, _ in paths]))


def test_the_last_day_forecasts_a_daily_wave(tmp_path):
    wave = Protocol(str(write_hours(tmp_path / "wave.csv", noise=0)), **SMALL)
    for horizon in (6, 30):
        assert last_day(wave, horizon) == pytest.approx({"mse": 0, "mae": 0, "dtw": 0, "tdi": 0}, abs=1e-5)


def test_the_pair_with_the_smallest_product_on_validation_is_chosen(protocol, tmp_path, monkeypatch):
    products = {(0.1, 1.0): 3.0, (0.5, 1.0): 2.0}

    def train(protocol, job):
        scores = {"mse": 1.0, "mae": 0.0, "dtw": 0.5, "tdi": 2 * products.get((job.alpha, job.gamma), 0)}
        return {"valid": scores, "test": dict(scores, tdi=-scores["tdi"])}

    monkeypatch.setattr(quality, "train", train)
    found = list(quality.results(protocol, tmp_path / "trainings.jsonl"))
    assert len(found) == quality.number_of_results(protocol)
    final = [result["settings"] for result in found if result["role"] == quality.FINAL]
    assert {(s["alpha"], s["gamma"]) for s in final if s["loss"] == "dilate"} == {(0.5, 1.0)}
    assert [(s["model"], s["horizon"], s["loss"]) for s in final] == [
        (model, horizon, loss) for model in ("mlp", "seq2seq") for horizon in (4, 8) for loss in ("mse", "dilate")
    ]
    assert chosen(found[:2]) is found[1]


def test_an_interrupted_run_goes_on_to_the_same_numbers(run, protocol, monkeypatch):
    train, trained = quality.train, []
    monkeypatch.setattr(quality, "train", lambda protocol, job: (trained.append(job), train(protocol, job))[1])
    output = run("--quality-only")
    first, jobs = (output / report.QUALITY).read_bytes(), list(trained)
    assert len(jobs) == len(set(jobs)) == 2 * (2 + 2 * 2)
    assert {job.patience for job in jobs[:2]} == {1}
    assert {job.patience for job in jobs[2:6]} == {2}  # all epochs
    lost = jobs[3]
    kept = output / "trainings.jsonl"
    lines = kept.read_text().splitlines(keepends=True)
    others = [line for line in lines if not asdict(lost).items() <= json.loads(line)["settings"].items()]
    assert len(others) == len(lines) - 1
    kept.write_text("".join(others))
    run("--quality-only")
    assert trained[len(jobs) :] == [lost]
    assert (output / report.QUALITY).read_bytes() == first

    trained.clear()
    run("--quality-only", "--seed", "1")
    assert len(trained) == len(jobs)
    trained.clear()
    run("--quality-only")
    assert trained == []
    assert (output / report.QUALITY).read_bytes() == first
    trained.clear()
    write_hours(Path(protocol.data_path), seed=1)
    run("--quality-only", "--seed", "1")
    assert len(trained) == len(jobs)


def test_results_are_written_as_csv_tables_and_figure(run, protocol, monkeypatch):
    monkeypatch.setattr(steps, "measure", None)
    output = run("--quality-only")
    rows = rows_of(output / report.QUALITY)
    assert [row["role"] for row in rows].count("candidate") == 2 * 2
    assert [row["role"] for row in rows].count("final") == 2 * 2 * 2 + 2
    for row in rows:
        assert all(float(row[f"test_{metric}"]) >= 0 for metric in quality.METRICS)
        assert bool(row["valid_shape"]) == bool(row["alpha"]) == (row["loss"] == "dilate")
    tables = (output / report.TABLES).read_text()
    assert "One training step" not in tables
    assert tables.count("| last day |") == 2
    assert tables.count("| mlp | dilate |") == 2
    assert (output / report.FIGURE).stat().st_size > 10_000


def test_with_either_loss_a_network_learns_a_daily_wave(protocol):
    wave = Protocol(protocol.data_path, **(SMALL | {"epochs": 30}), **GRID)
    task = wave.task(12)
    flat = measured(task.test.inputs[:, -1:].expand(-1, 12, -1), task.test.targets, every=1)
    for loss in ("mse", "dilate"):
        assert quality.train(wave, Job("mlp", loss, 12, 5, 0.5, 1.0))["test"]["mse"] < 0.1 * flat["mse"]


# --- what is refused ------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data-path", "absent.csv"], "error: the CSV file was looked for at absent.csv, but there is no such"),
        (["--split", "150", "5", "60"], "error: the validation part has 5 of the 300 time steps, but one window"),
        (["--input-length", "23"], "error: input_length must be a whole number of at least 24, given 23"),
        (["--alphas", "2"], "error: alpha must .* 2"),
        (["--original", "nowhere"], "--original must be a clone of the released DILATE, but nowhere has no"),
    ],
)
def test_a_mistake_is_one_sentence(protocol, tmp_path, threads, words, sentence):
    more = ["--seconds", "0"] if "--original" in words else ["--quality-only"]
    with pytest.raises(SystemExit, match=sentence) as ended:
        main([*flags(protocol, tmp_path), *more, *words])
    assert "\n" not in str(ended.value)


def test_only_one_part_can_be_the_only_one(protocol, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*flags(protocol, tmp_path), "--steps-only", "--quality-only"])
    assert "not allowed with" in capsys.readouterr().err
