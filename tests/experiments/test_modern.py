"""The study of when DILATE helps: its windows, the rules that choose settings, its trainings and its tables."""

import csv
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import WindowDataset
from evaluation.metrics import evaluate_forecasts, ramp_score
from experiments.modern import report
from experiments.modern.__main__ import main
from experiments.modern.protocol import NETWORKS, TASKS, TRAINED_WITH, Protocol, by_rule, network, standardised
from experiments.modern.trainings import (
    Job,
    best,
    best_rule,
    budget,
    budget_jobs,
    candidate_jobs,
    excess,
    final_jobs,
    run,
    score,
    store_in,
)
from experiments.protocol import RESULTS
from loss import DilateLoss

PROTOCOL = Protocol()


def windows(seed=0, count=30, scale=7.0, input_length=40, horizon=12):
    generator = torch.Generator().manual_seed(seed)
    series = torch.randn(count, input_length + horizon, 1, generator=generator).cumsum(1) * scale + 100
    return WindowDataset(series[:, :input_length], series[:, input_length:])


def result(job, products, curve=(1.0,)):
    """What a training leaves, with so large a product of its metrics on validation."""
    return {"job": job.settings, "valid": {"mse": products, "dtw": 2.0, "tdi": 0.5}, "valid_curve": list(curve)}


# --- tasks ---------------------------------------------


@given(seed=st.integers(0, 99), stride=st.integers(1, 4))
def test_a_window_is_scaled_by_its_own_input_and_restored(seed, stride):
    of = windows(seed)
    part = standardised(of, stride)
    x, y = part.windows.inputs, part.windows.targets
    assert len(part.windows) == math.ceil(len(of) / stride)
    torch.testing.assert_close(x.mean(1), torch.zeros(len(x), 1), rtol=0, atol=1e-4)
    torch.testing.assert_close(x.std(1), torch.ones(len(x), 1))
    torch.testing.assert_close(part.restored(y), of.targets[::stride], rtol=1e-5, atol=1e-3)


def test_a_constant_input_is_no_division_by_zero():
    part = standardised(WindowDataset(torch.ones(1, 5, 1), torch.tensor([[[1.0], [1.5]]])))
    assert part.windows.inputs.abs().max() == 0
    torch.testing.assert_close(part.restored(part.windows.targets), torch.tensor([[[1.0], [1.5]]]))


@pytest.mark.parametrize("balance", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("share", [0.001, 0.1])
def test_the_rule_balances_the_terms_of_the_forecast_that_repeats_the_last_value(share, balance):
    part = standardised(windows())
    alpha, gamma = by_rule(part, share, balance)
    x, y = part.windows.inputs, part.windows.targets
    costs = [(x[w, -1, 0] - y[w, j, 0]).square().item() for w in range(len(y)) for j in range(y.shape[1])]
    assert gamma == pytest.approx(share * np.median(costs), rel=2e-2)
    _, shape, temporal = DilateLoss(0.5, gamma).components(x[:, -1:].expand_as(y), y)
    assert float(alpha * shape) == pytest.approx(float(balance * (1 - alpha) * temporal), rel=2e-2)


# --- rules ---------------------------------------------


@pytest.mark.parametrize(
    ("curves", "steps"),
    [
        ([[2.0, 1.0, 1.0, 1.0], [3.0, 1.0, 0.99, 0.98]], 300),  # both are down after two of four epochs
        ([[2.0, 1.0, 1.0, 1.0], [3.0, 2.0, 1.5, 1.0]], 600),  # one is not
        ([[1.0, 1.0, 1.0, 1.0], [-3.0, -2.0, -1.0, 0.0]], 150),  # nothing comes down any more
    ],
)
def test_the_budget_is_the_least_that_suffices_for_all_losses(curves, steps):
    tried = {name: [{"valid_curve": curve}] for name, curve in zip("ab", curves, strict=True)}
    assert budget(PROTOCOL, tried) == steps


def test_the_budget_is_chosen_by_one_training_of_each_loss_with_a_seed_of_its_own():
    jobs = budget_jobs(PROTOCOL, ("traffic", "tide"))
    assert list(jobs) == ["mse", "mae", "soft_dtw", "dilate"]
    assert {job.seed for (job,) in jobs.values()}.isdisjoint(PROTOCOL.seeds)
    assert jobs["dilate"][0].settings | {"seed": 0} == {
        "task": "traffic",
        "network": "tide",
        "loss": "dilate",
        "seed": 0,
        "steps": 600,
        "alpha": 0.5,
        "gamma": 0.1,
    }


def test_settings_are_chosen_by_validation_alone_and_the_rule_over_all_cells():
    cells = [("traffic", "tide"), ("ecg5000", "tide")]
    tried = {}
    for cell, worst in zip(cells, (4, 2), strict=True):
        jobs = candidate_jobs(PROTOCOL, cell, 150)
        tried[cell] = {
            "soft_dtw": [result(job, 2 + k) for k, job in enumerate(jobs["soft_dtw"])],
            "dilate": [result(job, 1 + (k != worst)) for k, job in enumerate(jobs["dilate"])],
            # The first rule is best in one cell and bad in the other; the third one is good in both.
            "rule": [
                result(job, {0: 1.0 if worst == 4 else 9.0, 2: 1.5}.get(k, 5.0)) for k, job in enumerate(jobs["rule"])
            ],
        }
    assert best_rule(tried.values()) == 2
    assert excess(tried.values(), 2) == [1.5, 1.5]
    jobs = final_jobs(PROTOCOL, tried)
    assert [job.loss for job in jobs] == [*TRAINED_WITH] * 10
    assert [job.seed for job in jobs] == [seed for seed in range(5) for _ in range(10)]
    assert {job.steps for job in jobs} == {150}
    for job in jobs:
        if job.loss in ("soft_dtw", "dilate", "rule"):
            chosen = tried[job.task, job.network]["rule"][2] if job.loss == "rule" else None
            chosen = chosen or best(tried[job.task, job.network], job.loss)
            assert job.settings == chosen["job"] | {"seed": job.seed}
        else:
            assert (job.alpha, job.gamma, job.share) == (None, None, None)


def test_the_score_is_the_product_of_the_three_metrics():
    assert score({"valid": {"mse": 2.0, "mae": 99.0, "dtw": 3.0, "tdi": 0.5}}) == 3.0


# --- trainings ---------------------------------------------


def write_hours(path, rows=14400):
    hours = np.arange(rows)
    load = 10 + 3 * np.sin(2 * np.pi * hours / 24) + np.random.default_rng(0).normal(0, 0.5, rows)
    np.savetxt(path, load, header="OT", comments="")
    return path


def test_a_baseline_is_measured_on_the_test_part(tmp_path):
    path = str(write_hours(tmp_path / "hours.csv"))
    test = TASKS["etth1-48"].load(path).test
    x, y = (test.restored(of) for of in (test.windows.inputs, test.windows.targets))
    for name, forecast in (("last value", x[:, -1:].expand_as(y)), ("last day", x[:, -24:].repeat(1, 2, 1))):
        found = run(Job("etth1-48", name), store_in(tmp_path), path)["test"]
        expected = evaluate_forecasts(forecast, y) | {"ramp": ramp_score(forecast, y).mean()}
        expected["mae"] = (forecast - y).abs().mean()
        assert found == pytest.approx({metric: float(value) for metric, value in expected.items()}, rel=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_depends_on_its_seed_alone_and_forecasts_its_horizon(name):
    pytest.importorskip("neuralforecast")
    x = torch.randn(3, 40, 1, generator=torch.Generator().manual_seed(1))
    first, again, other = (network(name, 40, 8, seed).eval()(x) for seed in (1, 1, 2))
    assert first.shape == (3, 8, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_study_trains_each_network_once_and_goes_on_where_it_was(tmp_path, threads, capsys):
    pytest.importorskip("neuralforecast")
    threads(1)
    path = write_hours(tmp_path / "hours.csv")
    words = ["--tasks", "etth1-48", "--networks", "tide", "--budgets", "1", "--alphas", "0.1", "--gammas", "0.1"]
    words += ["--shares", "0.01", "--balances", "1", "--seeds", "0", "1", "--jobs", "1"]
    words += ["--output", str(tmp_path / "out"), "--data-path", f"etth1={path}"]
    main(words)
    store = tmp_path / "out" / "trainings.jsonl"
    lines = store.read_text().splitlines(keepends=True)
    assert len(lines) == 2 + 4 + 1 + 2 * 5  # baselines, budgets, one candidate more (by rule), two seeds
    store.write_text("".join(lines[:-3]))
    main(words)
    unclocked = [[line.split('"seconds_per_step"')[0] for line in of] for of in (lines, store.open())]
    assert unclocked[0] == unclocked[1]
    with open(tmp_path / "out" / report.RESULTS, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == [*TRAINED_WITH] * 2 + ["", ""] + ["soft_dtw", "dilate", "rule"]
    assert "DILATE instead of MSE" in capsys.readouterr().out
    assert (tmp_path / "out" / report.FIGURE).stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--data-path must say where etth1, traffic, ecg5000 is"),
        (["--data-path", "etth2=x"], "must be NAME=PATH with a name of etth1, traffic, ecg5000"),
        (["--tasks", "etth1"], "invalid choice: 'etth1'"),
        (["--report-only", "--output", "nowhere"], "lacks 7 trainings: run without --report-only"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


# --- report ---------------------------------------------


def test_the_committed_tables_are_those_of_the_committed_trainings(tmp_path):
    committed = RESULTS / "modern"
    shutil.copy(committed / "trainings.jsonl", tmp_path)
    main(["--report-only", "--output", str(tmp_path)])
    for name in (report.TABLES, report.RESULTS):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name


def test_p_is_that_of_the_differences_of_pairs():
    a, b = [1.0, 2.0, 3.0, 4.0, 5.0], [1.1, 2.3, 3.1, 4.4, 5.0]
    difference = np.subtract(a, b)
    t = difference.mean() / (difference.std(ddof=1) / math.sqrt(5))
    assert t == pytest.approx(-2.4495, abs=1e-3)
    assert report.p_value(a, b) == pytest.approx(0.0705, abs=1e-3)  # two-sided, four degrees of freedom
    assert math.isnan(report.p_value(a, np.add(a, 1)))
