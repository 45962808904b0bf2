"""The paper's tables: jobs, their files, the choice of settings, the t-test, and what is written."""

import csv
import dataclasses
import importlib
import json
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind

import experiments
from evaluation.metrics import evaluate_forecasts, hausdorff, ramp_score
from evaluation.paper import FIG_5A, TABLE_1, TABLE_2, TABLE_3, TABLE_4, printed_scale
from experiments import choose, claims, fig5, jobs, protocol, reasons, table1, table2, table3, table4, weights
from experiments.jobs import Job, JobStore, run, run_all
from experiments.tables import Row, Summary, Table, best, summary
from training import load_checkpoint, losses, predict, train_model
from training.loop import _out_of_patience

QUICK = Job("synthetic", "mlp", "mse", 0, learning_rate=1e-2, epochs=3, eval_every=1, patience=3)
CHOSEN = {"learning_rate": 3e-3, "patience": 5}


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path)


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    """Settings for every job of every table, whatever was chosen in earnest."""
    names = [f"{d}-{m}-{loss}" for d in protocol.DATASETS for m in protocol.MODELS for loss in table1.LOSSES]
    settings = dict.fromkeys(names, CHOSEN) | {
        "synthetic-seq2seq-tangled_weighted": {**CHOSEN, "alpha": 0.5},
        "synthetic-seq2seq-tangled_band": {**CHOSEN, "alpha": 1.0, "band": 2},
    }
    (tmp_path / "choices.json").write_text(json.dumps(settings))
    monkeypatch.setattr(protocol, "CHOICES", tmp_path / "choices.json")


@pytest.fixture(autouse=True)
def one_thread(threads):
    """Jobs set the number of threads of their process, which here is that of the tests."""
    threads(1)


def unclocked(result):
    return {name: value for name, value in result.items() if name != "seconds"}


# --- jobs ---------------------------------------------


def test_a_job_is_named_by_the_settings_that_it_has():
    assert re.fullmatch(r"synthetic-mlp-mse-seed0-[0-9a-f]{8}", QUICK.name)
    others = [dataclasses.replace(QUICK, **change) for change in ({"seed": 1}, {"patience": 4}, {"alpha": 0.5})]
    assert len({job.name for job in (QUICK, *others)}) == 4
    assert QUICK.name == dataclasses.replace(QUICK).name
    assert None not in QUICK.settings.values()


def test_a_job_leaves_all_metrics_of_its_best_weights(store):
    result = run(QUICK, store)
    assert store.read(QUICK.settings) == result
    assert not store.checkpoint(QUICK).exists()
    data = jobs._data("synthetic", None, None)
    net = jobs._network(QUICK, data)
    net.load_state_dict(load_checkpoint(store.weights(QUICK))["net"])
    for part in ("valid", "test"):
        prediction, target = predict(net, getattr(data, part))
        expected = evaluate_forecasts(prediction, target)
        expected["hausdorff"] = hausdorff(prediction, target).mean()
        expected["ramp"] = ramp_score(prediction, target).mean()
        assert {name: result[part][name] for name in expected} == pytest.approx(expected)
    assert result["job"] == QUICK.settings
    history = result["history"]
    assert history["epoch"] == [0, 1, 2]
    assert result["best_epoch"] == np.argmin(history["valid_loss"])
    assert min(history["valid_loss"]) == pytest.approx(result["valid"]["mse"], rel=1e-5)
    assert result["epochs"] == 3
    assert result["seconds"] > 0


def test_the_criteria_have_the_settings_of_the_job():
    job = dataclasses.replace(QUICK, gamma=0.1, alpha=0.8, band=3)
    criteria = {loss: make(job) for loss, make in losses.LOSSES.items()}
    settings = {loss: (c.gamma, getattr(c, "alpha", None), c.band) for loss, c in criteria.items() if loss != "mse"}
    assert settings == {
        "soft_dtw": (0.1, None, None),
        "dilate": (0.1, 0.8, None),
        "dilate per variable": (0.1, 0.8, None),
        "tangled_weighted": (0.1, 0.8, None),
        "tangled_band": (0.1, 0.8, 3),
    }
    assert criteria["tangled_band"].omega is None
    assert criteria["dilate per variable"].per_channel


def test_an_interrupted_job_ends_as_an_uninterrupted_one(store, tmp_path, monkeypatch):
    def interrupted(*args, **options):
        train_model(*args, **options | {"epochs": 2})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(QUICK, store)
    assert store.checkpoint(QUICK).exists()
    assert store.read(QUICK.settings) is None
    expected = run(QUICK, JobStore(tmp_path / "other"))
    assert unclocked(run(QUICK, store)) == unclocked(expected)


def test_finished_jobs_are_not_run_again_and_changed_ones_are(store, monkeypatch, capsys):
    assert run_all([QUICK, QUICK], store) == []
    trained = []
    monkeypatch.setattr(jobs, "run", lambda job, *rest: trained.append(job) or run(job, *rest))
    changed = dataclasses.replace(QUICK, learning_rate=2e-2)
    assert run_all([QUICK, changed], store) == []
    assert trained == [changed]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [QUICK.name, changed.name]


def test_a_failed_job_is_reported_and_the_others_are_kept(store, capsys):
    broken = dataclasses.replace(QUICK, model="none")
    other = dataclasses.replace(QUICK, seed=1)
    assert run_all([QUICK, broken, other], store) == [broken]
    assert store.read(QUICK.settings) and store.read(other.settings) and not store.read(broken.settings)  # noqa: PT018
    out = capsys.readouterr().out
    assert f"{broken.name} failed" in out
    assert "Unknown model 'none'" in out


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_jobs_on_two_workers_give_the_numbers_of_one(store, tmp_path, backend):
    if backend == "dask":
        pytest.importorskip("distributed")
    several = [QUICK, dataclasses.replace(QUICK, loss="dilate", alpha=0.5, gamma=0.01, seed=1)]
    assert run_all(several, store, workers=2, backend=backend) == []
    for job in several:
        assert unclocked(store.read(job.settings)) == unclocked(run(job, JobStore(tmp_path / "alone")))


def test_a_result_that_was_written_elsewhere_is_written_here_too(store, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "run", lambda job, _, path: run(job, JobStore(tmp_path / "elsewhere"), path))
    run_all([QUICK], store)
    assert store.read(QUICK.settings) == JobStore(tmp_path / "elsewhere").read(QUICK.settings)


def test_the_results_in_the_clone_are_sorted_and_found_by_their_settings():
    store = JobStore(protocol.RESULTS)
    lines = store.path.read_text().splitlines(keepends=True)
    found = [json.loads(line) for line in lines]
    names = [Job(**result["job"]).name for result in found]
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert all(store.read(result["job"]) == result for result in found)
    assert lines == [f"{json.dumps(result)}\n" for result in found]


# --- settings -----------------------------------------


@pytest.mark.parametrize("name", ["joblib", "ruptures", "scipy"])
def test_without_what_they_need_the_experiments_name_the_file_that_has_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=rf"need {name}: pip install -r experiments/requirements\.txt"):
        importlib.reload(experiments)


def test_jobs_have_the_papers_settings_and_the_chosen_ones(chosen):
    job = protocol.job("traffic", "seq2seq", "dilate", 3)
    assert (job.alpha, job.gamma, job.epochs, job.seed) == (0.8, 0.01, 1000, 3)
    assert (job.learning_rate, job.patience) == (3e-3, 5)
    assert protocol.job("ecg5000", "mlp", "dilate", 0).held_out == 100
    assert protocol.job("synthetic", "mlp", "mse", 0).gamma is None
    assert protocol.job("synthetic", "seq2seq", "dilate", 0, alpha=0.1).alpha == 0.1
    band = protocol.job("synthetic", "seq2seq", "tangled_band", 0)
    assert (band.band, band.alpha) == (2, 1.0)


def test_the_choices_in_the_clone_are_some_of_those_that_were_tried():
    assert protocol.choices()
    for name, settings in protocol.choices().items():
        job = protocol.job(*name.split("-"), 0)
        assert job.learning_rate in choose.LEARNING_RATES
        assert job.patience in choose.PATIENCES
        assert job.clip_norm in (None, choose.CLIP_NORM)
        own = {key: value for key, value in settings.items() if key in ("alpha", "band")}
        assert not own or own in choose.TANGLED[job.loss]


def test_a_setting_that_was_not_chosen_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(protocol, "CHOICES", tmp_path / "none.json")
    with pytest.raises(SystemExit):
        table3.main(["--results", str(tmp_path)])
    assert capsys.readouterr().err == (
        "Nothing was chosen for synthetic-seq2seq-dilate yet: see python -m experiments.choose.\n"
    )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(1, 5))
def test_patience_is_simulated_as_training_has_it(losses, patience):
    history = []
    for loss in losses:
        if _out_of_patience(history, patience):
            break
        history.append({"valid_loss": loss})
    gain = losses[0] - min(losses)
    lost = min(record["valid_loss"] for record in history) - min(losses)
    assert choose.lost_by_stopping(losses, patience) == (lost / gain if gain else 0)


def long_training(valid_loss, learning_rate, patience=40, **more):
    return {
        "job": {"learning_rate": learning_rate, "patience": patience},
        "history": {"valid_loss": valid_loss},
        **more,
    }


def test_the_lowest_validation_loss_chooses_the_rate_and_all_losses_the_patience():
    slow = [10.0] + [5.0] * 6 + [1.0]  # 5 looks are too few, 10 are enough
    quick = [10.0, 1.5] + [2.0] * 40
    spoilt = [10.0, math.nan, math.nan]
    sweep = {
        ("synthetic", "mlp", loss, rate): long_training(curve, rate)
        for loss in table1.LOSSES
        for rate, curve in zip(
            choose.LEARNING_RATES, (quick, slow if loss == "dilate" else spoilt, spoilt), strict=True
        )
    }
    assert choose.choose(sweep) == {
        "synthetic-mlp-mse": {"learning_rate": 1e-3, "patience": 10},
        "synthetic-mlp-soft_dtw": {"learning_rate": 1e-3, "patience": 10},
        "synthetic-mlp-dilate": {"learning_rate": 3e-3, "patience": 10},
    }
    del sweep["synthetic", "mlp", "mse", 1e-2]
    assert choose.choose(sweep) == {}


def test_clipping_is_judged_by_the_mean_validation_loss_of_all_seeds():
    seeds, name = choose.SEEDS, "ecg5000-seq2seq-dilate"

    def sweep(free, clipped):
        losses = {None: free, choose.CLIP_NORM: clipped}
        return {
            (name, norm, seed): long_training([11.0, lowest, 11.0], 1e-3)
            for norm, of_norm in losses.items()
            for seed, lowest in zip(seeds, of_norm, strict=True)
        }

    spoilt_once = sweep((1.0, 1.0, 10.0), (1.0, 1.0, 1.0))
    assert choose.compare_clipping(spoilt_once) == {name: (4.0, 1.0, pytest.approx(0.3))}
    lost = sweep((1.0, 1.0, math.nan), (1.0, 1.0, 1.0))
    assert choose.compare_clipping(lost)[name].share == pytest.approx(1 / 3)
    worse = sweep((1.0, 1.0, 1.0), (2.0, 1.0, 1.5))
    assert choose.compare_clipping(worse)[name].share == pytest.approx(-0.5 / 9.5)
    del worse[name, None, seeds[2]]
    assert choose.compare_clipping(worse) == {}


@pytest.mark.slow
def test_choosing_writes_what_the_tables_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(choose, "LEARNING_RATES", (1e-3, 1e-2))
    monkeypatch.setattr(choose, "TANGLED", {"tangled_band": [{"alpha": 1.0, "band": 1}, {"alpha": 1.0, "band": 3}]})
    monkeypatch.setattr(choose, "MODELS", {"seq2seq": "Seq2Seq"})
    choose.main(["--datasets", "synthetic", "--epochs", "1", "--jobs", "1", "--results", str(tmp_path)])
    written = json.loads((tmp_path / "choices.json").read_text())
    assert list(written) == [f"synthetic-seq2seq-{loss}" for loss in (*table1.LOSSES, "tangled_band")]
    results = results_of(tmp_path)
    assert len(results) == 3 * (2 + 3 + 2) + 2
    assert all(settings["clip_norm"] is None for settings in written.values())  # one epoch gains nothing
    own = written["synthetic-seq2seq-tangled_band"].keys() - written["synthetic-seq2seq-dilate"].keys()
    assert own == {"alpha", "band"}
    bands = {result["job"]["band"]: result["valid"]["dilate"] for result in results if "band" in result["job"]}
    assert written["synthetic-seq2seq-tangled_band"]["band"] == min(bands, key=bands.get)
    markdown = (tmp_path / "choices.md").read_text()
    assert markdown in capsys.readouterr().out
    assert markdown.count("**") == 2 * (3 * 3 + 1)


# --- statistics ---------------------------------------


def test_summary_is_mean_standard_deviation_and_number():
    assert summary([1.0, 2.0, 6.0]) == Summary(3.0, pytest.approx(math.sqrt(7.0)), 3)
    assert math.isnan(summary([1.0]).std)
    assert summary([]) is None


@given(st.integers(0, 1000), st.floats(0, 3))
def test_the_test_is_students(seed, shift):
    a, b = np.random.default_rng(seed).standard_normal((2, 10))
    b += shift - b.mean() + a.mean()
    different = ttest_ind(a, b).pvalue < 0.05
    assert best({"a": summary(a), "b": summary(b), "none": None}) == ({"a"} if different else {"a", "b"})


def test_a_single_run_proves_nothing():
    assert best({"a": summary([1.0]), "b": summary([2.0])}) == set()
    assert best({"a": summary([1.0, 1.0]), "b": summary([2.0, 2.0]), "c": summary([0.5])}) == {"a"}


MLP_BOLD = "mse dilate, soft_dtw, dilate, mse, dilate, mse dilate, mse, soft_dtw dilate, mse dilate"
SEQ2SEQ_BOLD = "mse dilate, mse soft_dtw dilate, dilate, mse, dilate, dilate, mse dilate, soft_dtw dilate, mse dilate"
BOLD_OF_TABLE_2 = "dilate, soft_dtw, mse dilate, mse soft_dtw dilate, mse soft_dtw dilate, soft_dtw dilate"
EVERY_TANGLED = "dilate tangled_weighted tangled_band"
BOLD_OF_TABLE_3 = f"dilate, {EVERY_TANGLED}, {EVERY_TANGLED}, dilate, dilate tangled_weighted"
BOLD_OF_TABLE_4 = "tt_rnn, dilate, dilate, dilate, lstnet tt_rnn dilate"


def test_the_test_gives_the_papers_own_bolds_but_for_two():
    def of_ten(stats):
        return {name: Summary(*stat, 10) for name, stat in stats.items()}

    datasets, losses = ("synthetic", "ecg5000", "traffic"), ("mse", "soft_dtw", "dilate")
    rows = []
    for model in ("mlp", "seq2seq"):
        for d in datasets:
            stats = [np.reshape(TABLE_1[d, model, loss], (3, 2)) for loss in losses]
            rows += [of_ten(dict(zip(losses, metric, strict=True))) for metric in np.swapaxes(stats, 0, 1)]
    rows += [of_ten({x: TABLE_2[d, x][m] for x in losses}) for d in datasets for m in ("hausdorff", "ramp")]
    for table in (TABLE_3, TABLE_4):
        rows += [of_ten({x: table[x][m] for x in table}) for m in ("mse", "dtw", "ramp", "tdi", "hausdorff")]
    printed = ", ".join((MLP_BOLD, SEQ2SEQ_BOLD, BOLD_OF_TABLE_2, BOLD_OF_TABLE_3, BOLD_OF_TABLE_4))
    expected = [set(bold.split()) for bold in printed.split(", ")]
    assert len(rows) == len(expected) == 34
    others = [(number, best(row)) for number, row in enumerate(rows) if best(row) != expected[number]]
    assert others == [
        (25, {"tangled_weighted", "tangled_band"}),  # DTW of Table 3: DILATE's differs from the lowest at p = 0.03
        (29, {"tt_rnn", "dilate"}),  # MSE of Table 4: they do not differ, p = 0.08
    ]


# --- tables -------------------------------------------


def test_a_table_shows_ours_beside_the_papers_in_its_scale(tmp_path):
    ours = {"a": summary([0.01, 0.011, 0.012]), "b": summary([0.02]), "c": None}
    paper = {"a": Summary(0.02, 0.001, 10), "b": Summary(0.01, 0.001, 10)}
    table = Table("t", "A table.", {"a": "A", "b": "B", "c": "C"}, [Row("Data", "MSE", 100, ours, paper)])
    markdown = table.write(tmp_path)
    assert markdown == (tmp_path / "t.md").read_text()
    assert markdown == (
        "A table. Mean ± standard deviation (number of our runs).\n\n"
        "|  | metric | A | paper | B | paper | C |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| Data | MSE × 100 | 1.10 ± 0.100 (3) | 2.00 ± 0.100 | 2.00 (1) | **1.00 ± 0.100** | - |\n"
    )
    with open(tmp_path / "t.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["column"] for line in lines] == ["a", "b", "c"]
    assert float(lines[0]["mean"]) == pytest.approx(0.011)
    assert (lines[0]["runs"], lines[2]["runs"], lines[2]["mean"]) == ("3", "0", "")
    assert float(lines[1]["paper_mean"]) == 0.01
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_printed_scales_are_the_true_ones():
    assert [printed_scale("synthetic", metric) for metric in protocol.METRICS] == [100, 100, 10, 1, 10]
    assert [printed_scale("ecg5000", metric) for metric in protocol.METRICS] == [100, 10, 10, 1, 1]
    assert [printed_scale("traffic", metric) for metric in protocol.METRICS] == [100, 100, 100, 1, 10]
    row = TABLE_1["traffic", "seq2seq", "dilate"]
    assert row.tdi * printed_scale("traffic", "tdi") == pytest.approx(14.4)


def test_the_papers_tables_agree_where_they_repeat_each_other():
    for metric in ("mse", "dtw", "tdi"):
        for table, dataset in ((TABLE_3, "synthetic"), (TABLE_4, "traffic")):
            assert table["dilate"][metric] == TABLE_1[dataset, "seq2seq", "dilate"].stat(metric)
    for metric in ("hausdorff", "ramp"):
        assert TABLE_3["dilate"][metric] == TABLE_2["synthetic", "dilate"][metric]
        assert TABLE_4["dilate"][metric] == TABLE_2["traffic", "dilate"][metric]
    assert (FIG_5A[1], FIG_5A[56], FIG_5A[96]) == (0.4, 32.3, 36.2)


def results_of(folder, **settings):
    found = map(json.loads, (folder / "jobs.jsonl").read_text().splitlines())
    return [result for result in found if settings.items() <= result["job"].items()]


def test_tables_of_the_synthetic_task_are_made_of_the_same_jobs(chosen, tmp_path, capsys):
    flags = ["--epochs", "1", "--runs", "2", "--jobs", "1", "--results", str(tmp_path)]
    table1.main([*flags, "--datasets", "synthetic"])
    assert len(results_of(tmp_path)) == 2 * 3 * 2
    table2.main([*flags, "--datasets", "synthetic"])
    assert len(results_of(tmp_path)) == 2 * 3 * 2
    table3.main(flags)
    assert len(results_of(tmp_path)) == 2 * (3 * 2 + 2)
    out = capsys.readouterr().out
    for name in ("table1", "table2", "table3"):
        assert (tmp_path / f"{name}.md").read_text() in out
        assert (tmp_path / f"{name}.png").exists()
    with open(tmp_path / "table1.csv", newline="") as file:
        cells = {(line["setting"], line["metric"], line["column"]): line for line in csv.DictReader(file)}
    values = [r["test"]["tdi"] for r in results_of(tmp_path, model="mlp", loss="dilate")]
    cell = cells["MLP, Synthetic", "TDI", "dilate"]
    assert float(cell["mean"]) == pytest.approx(np.mean(values))
    assert float(cell["std"]) == pytest.approx(np.std(values, ddof=1))
    assert (cell["paper_mean"], cell["scale"]) == ("1.38", "10")
    with open(tmp_path / "table2.csv", newline="") as file:
        (cell,) = [x for x in csv.DictReader(file) if (x["metric"], x["column"]) == ("Hausdorff", "mse")]
    values = [r["test"]["hausdorff"] for r in results_of(tmp_path, model="seq2seq", loss="mse")]
    assert float(cell["mean"]) == pytest.approx(np.mean(values))


def test_an_interrupted_table_goes_on_where_it_was(chosen, tmp_path, monkeypatch, capsys):
    trained = []

    def interrupted_at_the_third(job, *rest):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(job)
        return run(job, *rest)

    flags = ["--epochs", "1", "--runs", "1", "--datasets", "synthetic", "--jobs", "1"]
    monkeypatch.setattr(jobs, "run", interrupted_at_the_third)
    with pytest.raises(SystemExit):
        table2.main([*flags, "--results", str(tmp_path / "interrupted")])
    before = (tmp_path / "interrupted" / "jobs.jsonl").read_text().splitlines()
    assert len(before) == 2
    monkeypatch.setattr(jobs, "run", lambda job, *rest: trained.append(job) or run(job, *rest))
    table2.main([*flags, "--results", str(tmp_path / "interrupted")])
    assert len(trained) == len(set(trained)) == 3
    after = (tmp_path / "interrupted" / "jobs.jsonl").read_text().splitlines()
    assert [line for line in after if line in before] == before
    assert [json.loads(line)["job"] for line in after] == [
        job.settings for job in sorted(trained, key=lambda job: job.name)
    ]
    table2.main([*flags, "--results", str(tmp_path / "uninterrupted")])
    tables = [(tmp_path / name / "table2.csv").read_text() for name in ("interrupted", "uninterrupted")]
    assert tables[0] == tables[1]


def test_a_report_trains_nothing_and_says_how_many_runs_there_are(chosen, tmp_path, capsys):
    flags = ["--epochs", "1", "--runs", "2", "--datasets", "synthetic", "--results", str(tmp_path), "--report-only"]
    run(protocol.job("synthetic", "mlp", "mse", 1, epochs=1), JobStore(tmp_path))
    table1.main(flags)
    assert len(results_of(tmp_path)) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "MLP, Synthetic | MSE" in line)
    assert re.search(r"\| [\d.]+ \(1\) \| \*\*1\.65 ± 0\.140\*\* \| - \|", line)


def test_table_4_holds_ours_against_the_papers_baselines(chosen, tmp_path):
    np.savetxt(tmp_path / "traffic.csv", np.random.default_rng(0).random(1200), header="occupancy", comments="")
    flags = ["--epochs", "1", "--runs", "1", "--jobs", "1", "--results", str(tmp_path)]
    table4.main([*flags, "--data-path", f"traffic={tmp_path / 'traffic.csv'}"])
    markdown = (tmp_path / "table4.md").read_text()
    assert "| Traffic | TDI × 100 | 25.7 ± 4.75 (10) | **17.8 ± 1.73** (10) |" in markdown
    assert (results_of(tmp_path)[0]["job"]["alpha"], len(results_of(tmp_path))) == (0.8, 1)


def test_fig_5_shares_alpha_1_and_one_half_with_table_1(chosen, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fig5, "ALPHAS", [0.5, 1.0])
    monkeypatch.setattr(fig5, "FIG_5B", dict.fromkeys(("mse", "dtw", "tdi"), (1.0, 2.0)))
    flags = ["--epochs", "1", "--runs", "2", "--jobs", "1", "--results", str(tmp_path)]
    fig5.main(flags)
    of_fig_5 = results_of(tmp_path)
    table2.main([*flags, "--datasets", "synthetic"])
    assert len(of_fig_5) == 4
    others = [result for result in results_of(tmp_path) if result not in of_fig_5]
    assert {result["job"]["loss"] for result in others} == {"mse"}
    assert (tmp_path / "fig5.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "fig5.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "fig5.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    values = [r["test"]["dtw"] for r in results_of(tmp_path, loss="soft_dtw")]
    (line,) = [x for x in lines if (x["alpha"], x["metric"]) == ("1.0", "dtw")]
    assert float(line["mean"]) == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("table", "flags"),
    [(table1, []), (table2, []), (table3, []), (table4, []), (fig5, ["--runs", "5"]), (claims, []), (choose, [])],
)
def test_reports_of_the_results_in_the_clone_are_the_ones_in_the_clone(table, flags, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "run", None)
    shutil.copy(protocol.RESULTS / "jobs.jsonl", tmp_path)
    table.main([*flags, "--report-only", "--results", str(tmp_path)])
    written = [path for path in tmp_path.iterdir() if path.suffix in (".md", ".csv", ".json")]
    assert written
    for path in written:
        assert path.read_bytes() == (protocol.RESULTS / path.name).read_bytes(), path.name


def test_a_copy_of_the_tree_reports_without_training(tmp_path):
    copy = tmp_path / "copy"
    not_needed = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "runs", "weights")
    shutil.copytree(protocol.RESULTS.parents[1], copy, ignore=not_needed)
    for suffix in ("md", "csv"):
        (copy / "experiments" / "results" / f"table3.{suffix}").unlink()
    jobs_file = copy / "experiments" / "results" / "jobs.jsonl"
    before = jobs_file.stat()
    subprocess.run([sys.executable, "-m", "experiments.table3", "--report-only"], cwd=copy, check=True)
    for suffix in ("md", "csv"):
        name = f"table3.{suffix}"
        assert (jobs_file.parent / name).read_bytes() == (protocol.RESULTS / name).read_bytes()
    assert jobs_file.stat().st_mtime_ns == before.st_mtime_ns
    assert not list(jobs_file.parent.glob(".*"))


def test_a_damaged_file_of_results_is_one_sentence(chosen, tmp_path, capsys):
    (tmp_path / "jobs.jsonl").write_text("<<<<<<< HEAD\n")
    for more in ([], ["--report-only"]):
        with pytest.raises(SystemExit) as ended:
            table3.main(["--results", str(tmp_path), *more])
        assert ended.value.code == 2
        sentence = f"{tmp_path / 'jobs.jsonl'}: line 1 is not the result of a training: '<<<<<<< HEAD'.\n"
        assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data-path", "traffic"], "must be NAME=PATH with a name of synthetic, ecg5000, traffic, got 'traffic'"),
        (["--runs", "0"], "must be a whole number of at least 1, got '0'"),
        (["--datasets", "other"], "invalid choice: 'other'"),
        (["--backend", "none"], "invalid choice: 'none'"),
    ],
)
def test_a_wrong_flag_is_refused(flags, sentence, capsys):
    with pytest.raises(SystemExit):
        table1.main(flags)
    assert sentence in capsys.readouterr().err


def test_a_table_with_a_failed_job_ends_with_1_and_keeps_the_others(chosen, tmp_path, capsys):
    flags = ["--epochs", "1", "--runs", "1", "--jobs", "1", "--results", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        table2.main([*flags, "--datasets", "synthetic", "traffic", "--data-path", f"traffic={tmp_path / 'none.csv'}"])
    assert ended.value.code == 1
    assert "3 jobs failed, see above; the same command runs them again, and no other one." in capsys.readouterr().err
    assert len(results_of(tmp_path)) == 3


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "\nInterrupted; the same command goes on from here.\n"),
        (ModuleNotFoundError(name="dask"), 2, "--backend loky needs a package that is not installed: dask.\n"),
    ],
)
def test_an_end_before_the_end_is_one_sentence(chosen, tmp_path, monkeypatch, capsys, error, code, sentence):
    def stop(*args):
        raise error

    monkeypatch.setattr(protocol, "run_all", stop)
    with pytest.raises(SystemExit) as ended:
        table3.main(["--results", str(tmp_path)])
    assert (ended.value.code, capsys.readouterr().err) == (code, sentence)


# --- claims -------------------------------------------


def rows_of_table_1(shift=0.0):
    """Ours are the paper's numbers, moved by so many of its standard deviations."""
    rows = []
    for model in protocol.MODELS:
        for dataset in protocol.DATASETS:
            for metric in ("mse", "dtw", "tdi"):
                paper = {loss: Summary(*TABLE_1[dataset, model, loss].stat(metric), 10) for loss in table1.LOSSES}
                ours = {loss: cell._replace(mean=cell.mean + shift * cell.std) for loss, cell in paper.items()}
                rows.append(Row(f"{model} {dataset}", protocol.METRICS[metric], 1, ours, paper))
    return rows


def test_the_papers_numbers_support_what_its_text_counts():
    lines = [line.strip("| ").split(" | ") for line in claims._counted(rows_of_table_1()).splitlines()[2:]]
    names = lines[0][2::2]
    assert names == ["lower, paper", "better, paper", "equivalent, paper", "worse, paper"]
    counted = {(line[0], line[1]): [int(cell.split(" of ")[0]) for cell in line[2::2]] for line in lines[2:]}
    assert counted == {
        ("MSE", "MSE"): [0, 0, 3, 3],  # "equivalent in 3 of 6"
        ("MSE", "DTW"): [6, 4, 2, 0],  # "better in 6 of 6", and in bold in 5 (Seq2Seq on Traffic: p = 0.054)
        ("MSE", "TDI"): [6, 3, 3, 0],  # "better in 6 of 6", and in bold in 3
        ("DTW_γ", "MSE"): [6, 6, 0, 0],  # "always significantly better"
        ("DTW_γ", "DTW"): [3, 2, 3, 1],  # 2 wins, 3 ties, 1 loss
        ("DTW_γ", "TDI"): [6, 6, 0, 0],
    }
    assert all(line[2::2] == line[3::2] for line in lines[2:])  # ours are the paper's here
    assert lines[2][2].endswith(" of 6")


def test_cells_outside_of_two_standard_deviations_are_listed():
    assert "0 of 54 cells" in claims._outside({"table1": rows_of_table_1(1.9)})
    text = claims._outside({"table1": rows_of_table_1(-2.1)})
    assert "54 of 54 cells" in text
    assert text.count("| -2.1 |") == 54


def test_claims_are_made_of_the_finished_jobs(chosen, tmp_path, capsys):
    for loss in ("mse", "dilate"):
        for seed in range(2):
            run(protocol.job("synthetic", "mlp", loss, seed, epochs=1), JobStore(tmp_path))
    claims.main(["--epochs", "1", "--runs", "2", "--datasets", "synthetic", "--results", str(tmp_path)])
    text = (tmp_path / "claims.md").read_text()
    assert text in capsys.readouterr().out
    dilate, mse = ([r["test"]["dtw"] for r in results_of(tmp_path, loss=loss)] for loss in ("dilate", "mse"))
    difference, p = 100 * (np.mean(dilate) - np.mean(mse)), ttest_ind(dilate, mse).pvalue
    assert f"| MLP, Synthetic | DTW × 100 | {difference:+.3g} | {p:.2g} | - | - |" in text
    assert "| MSE | DTW | 2 of 2 |" in text
    assert len(results_of(tmp_path)) == 4


# --- reasons ------------------------------------------


def test_what_is_within_two_standard_deviations_of_the_paper():
    paper = Summary(1.0, 0.1, 10)
    assert reasons.within(Summary(1.2, 5.0, 10), paper)
    assert not reasons.within(Summary(0.79, 5.0, 10), paper)
    assert not reasons.within(None, paper)


def test_reasons_train_for_a_fixed_number_of_epochs(chosen, tmp_path, monkeypatch, capsys):
    epochs = {"mlp": 3, "seq2seq": 1}
    monkeypatch.setattr(reasons, "TRAINED", {("synthetic", m): reasons._unstopped(epochs[m]) for m in epochs})
    reasons.main(["--datasets", "synthetic", "--runs", "1", "--jobs", "1", "--results", str(tmp_path)])
    found = results_of(tmp_path)
    assert {(r["job"]["model"], r["job"]["loss"]) for r in found} == {
        (model, loss) for model in protocol.MODELS for loss in table1.LOSSES
    } | {("seq2seq", loss) for loss in table3.LOSSES}
    for result in found:
        assert result["epochs"] == result["job"]["eval_every"] == epochs[result["job"]["model"]]
    (mse,) = (r["test"]["mse"] for r in found if (r["job"]["model"], r["job"]["loss"]) == ("mlp", "mse"))
    text = (tmp_path / "reasons.md").read_text()
    assert text in capsys.readouterr().out
    assert f"| table1 | MLP, Synthetic | MSE × 100 | MSE | 1.65 ± 0.140 | - | {100 * mse:#.3g} |" in text
    lines = list(csv.DictReader((tmp_path / "reasons.csv").open()))
    assert len(lines) == text.count("| table") - 1
    assert float(lines[0]["otherwise_mean"]) == mse


def test_where_nothing_else_was_tried_nothing_is_trained(chosen, tmp_path):
    command = reasons.Otherwise.parse("reasons", "", ["--results", str(tmp_path)])
    assert command.jobs("traffic", "seq2seq", "mse") == []
    assert command.collect({("none",): [], ("one",): [QUICK]})["none",] == []
    assert len(results_of(tmp_path)) == 1


def test_the_kept_networks_are_measured_otherwise():
    text = reasons._measured_otherwise(reasons._forecasts())
    job = protocol.job("synthetic", "seq2seq", "dilate", 0)
    stored = JobStore(protocol.RESULTS).read(job.settings)["test"]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[4:]]
    dilate = {row[1]: float(row[-1]) for row in rows if row[1] != "paper"}
    assert dilate["one change point (ours)"] == pytest.approx(stored["hausdorff"], rel=5e-3)
    assert dilate["tolerance 0.05"] == pytest.approx(10 * stored["ramp"], rel=5e-3)


# --- weights ------------------------------------------


def test_small_weights_are_read_as_any_state_dict(tmp_path):
    torch.manual_seed(0)
    state = {"w": torch.randn(300, 128), "b": torch.tensor([0.0, -0.0, 1.0, -1.5, 3e-39])}
    (tmp_path / "w.pt").write_bytes(content := weights.compressed(state))
    loaded = load_checkpoint(tmp_path / "w.pt")["net"]
    for name, value in state.items():
        torch.testing.assert_close(loaded[name], value, rtol=2**-16, atol=1e-42)
    assert len(content) < 0.8 * 4 * state["w"].numel()


def test_rounding_is_to_the_nearest():
    step = 2.0**-15
    values = torch.tensor([1 + 0.49 * step, 1 + 0.51 * step, 2 - 0.4 * step, -1 - 0.51 * step])
    assert weights.rounded(values).tolist() == [1.0, 1 + step, 2.0, -1 - step]


@pytest.mark.parametrize("loss", table1.LOSSES)
def test_the_weights_in_the_clone_have_the_scores_of_their_job(loss):
    job = protocol.job("synthetic", "seq2seq", loss, 0)
    net = jobs._network(job, data := jobs._data("synthetic", None, None))
    net.load_state_dict(load_checkpoint(weights.FOLDER / f"{loss}.pt")["net"])
    stored = JobStore(protocol.RESULTS).read(job.settings)["test"]
    scores = evaluate_forecasts(*predict(net, data.test))
    assert scores == pytest.approx({name: stored[name] for name in scores}, rel=1e-3)


def test_the_exported_networks_are_those_of_table_1(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    weights.main(["--epochs", "1", "--jobs", "1", "--results", str(tmp_path)])
    for loss in table1.LOSSES:
        job = protocol.job("synthetic", "seq2seq", loss, 0, epochs=1)
        net = jobs._network(job, data := jobs._data("synthetic", None, None))
        net.load_state_dict(load_checkpoint(tmp_path / "weights" / f"{loss}.pt")["net"])
        assert evaluate_forecasts(*predict(net, data.test))["mse"] == pytest.approx(
            JobStore(tmp_path).read(job.settings)["test"]["mse"], rel=1e-4
        )


def test_exported_networks_stay_where_they_were_not_trained(chosen, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "exported")
    flags = ["--epochs", "1", "--jobs", "1", "--results", str(tmp_path)]
    weights.main(flags)
    shutil.rmtree(tmp_path / "weights")
    before = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}
    weights.main(flags)
    assert capsys.readouterr().out.count(" stays as it is: ") == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()} == before
    (tmp_path / "exported" / "mse.pt").unlink()
    with pytest.raises(
        SystemExit, match=r"mse\.pt cannot be made: .* not trained here; delete its line in jobs\.jsonl"
    ):
        weights.main(flags)
