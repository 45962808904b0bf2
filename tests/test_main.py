import csv
import gzip
import json
import math
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from tslearn.metrics import dtw, dtw_path

import main as program
from evaluation import plots
from evaluation.paper import TABLE_1, paper_row
from main import main
from models import GRUS
from tests.helpers import ROOT, records, results, untimed, weights, write_ecg5000, write_traffic, write_waves
from training import best_record, load_checkpoint, load_forecaster
from training import experiment as experiment_module
from training.experiment import at_a_time, prepare, resolve_device
from training.interruption import LostProcessError
from training.losses import LOSSES as CRITERIA
from training.run_folder import RunFolder, new_folder
from training.settings import parse_args, settings_of
from training.table import results_table

LOSSES = ["mse", "soft_dtw", "dilate"]
SECONDS = 600  # a test waits at most so long for another process, on a busy machine too


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Every test runs in an empty folder, and leaves torch and its number of threads as they were."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_waves(tmp_path_factory.mktemp("data") / "waves.csv")


@pytest.fixture
def small(table):
    """Flags of a run that takes a fraction of a second."""
    return [
        *("--dataset", "csv", "--data-path", str(table), "--input-length", "6", "--horizon", "4"),
        *("--hidden-size", "6", "--batch-size", "16", "--epochs", "4", "--eval-every", "2"),
        *("--csv-time", "none", "--no-plots", "--no-show"),
    ]


def run(*flags):
    """In this process, unless --jobs says something else: tests look into it, and others take seconds to start."""
    args = parse_args([str(flag) for flag in flags])
    args.jobs = args.jobs or 1
    return main(args)


def assert_same_run(folder, other, losses=LOSSES):
    assert untimed(records(folder)) == untimed(records(other))
    assert results(folder) == results(other)
    for loss in losses:
        ours, theirs = weights(folder, loss), weights(other, loss)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def refusal(capsys, *flags):
    """The one sentence on stderr that a call ends with."""
    with pytest.raises(SystemExit) as stopped:
        run(*flags)
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert err.startswith("main.py: error: ")
    assert err.count("\n") == 1
    return err


def continued_by(folder):
    """How the sentence on an interrupted run ends."""
    return f"this continues: {shlex.join([sys.executable, str(ROOT / 'main.py'), '--resume', folder])}\n"


def until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class StopsAtStep(nn.Module):
    """The mean squared error, until a given step does something else."""

    def __init__(self, step, action):
        super().__init__()
        self.left, self.action = step, action

    def forward(self, prediction, target):
        self.left -= 1
        if self.left == 0:
            self.action()
        return (prediction - target).square().mean()


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def interrupt():
    raise KeyboardInterrupt


def test_no_flags_means_the_released_experiment():
    args = parse_args([])
    expected = {
        "dataset": "synthetic",
        "model": "seq2seq",
        "losses": LOSSES,
        "epochs": 500,
        "eval_every": 50,
        "batch_size": 100,
        "learning_rate": 1e-3,
        "alpha": 0.5,
        "gamma": 0.01,
        "hidden_size": 128,
        "layers": 1,
        "plots": True,
    }
    assert {name: getattr(args, name) for name in expected} == expected


@pytest.mark.parametrize(("dataset", "alpha"), [("synthetic", 0.5), ("ecg5000", 0.5), ("traffic", 0.8), ("csv", 0.5)])
def test_alpha_is_the_papers_for_the_dataset_unless_given(dataset, alpha):
    assert parse_args(["--dataset", dataset]).alpha == alpha
    assert parse_args(["--dataset", dataset, "--alpha", "0"]).alpha == 0


def test_a_run_leaves_every_file_of_its_folder_and_they_parse(tmp_path, capsys):
    final = run("--epochs", 2, "--hidden-size", 4, "--plot-samples", 0, 3, "--output", "run", "--no-show")
    names = {str(path.relative_to("run")) for path in Path("run").rglob("*") if path.is_file()}
    figures = {"forecasts", "learning_curves", *(f"alignment_{loss}" for loss in LOSSES)}
    assert names == {
        *("config.json", "metrics.jsonl", "results.csv"),
        *(f"checkpoints/{loss}.pt" for loss in LOSSES),
        *(f"figures/{name}.png" for name in figures),
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in Path("run/figures").iterdir())
    config = json.loads(Path("run/config.json").read_text())
    assert config["settings"]["hidden_size"] == 4
    assert config["settings"]["plot_samples"] == [0, 3]
    assert config["versions"]["torch"] == torch.__version__
    keys = ["loss", "epoch", "train_loss", "mse", "dtw", "tdi", "seconds"]
    assert all(list(record) == keys for record in records("run"))
    assert [(r["loss"], r["epoch"]) for r in records("run")] == [(loss, e) for loss in LOSSES for e in (0, 1)]
    assert results("run") == {k: {m: v[m] for m in ("mse", "dtw", "tdi")} for k, v in final.items()}
    out = capsys.readouterr().out
    assert re.search(r"^loss +MSE +DTW +TDI$", out, re.MULTILINE)
    for loss in LOSSES:
        row = [f"{final[loss][metric]:#.4g}" for metric in ("mse", "dtw", "tdi")]
        assert re.search(rf"^{loss} +{' +'.join(map(re.escape, row))}$", out, re.MULTILINE)


def test_the_default_folder_is_named_after_the_run(small):
    run(*small, "--losses", "mse")
    run(*small, "--losses", "mse")
    first, second = sorted(os.listdir("runs"))
    assert all(re.fullmatch(r"csv-seq2seq-\d{8}-\d{6}(-2)?", name) for name in (first, second))


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(small):
    run(*small, "--output", "a", "--seed", 3)
    run(*small, "--output", "b", "--seed", 3)
    run(*small, "--output", "c", "--seed", 4)
    assert_same_run("a", "b")
    assert untimed(records("a")) != untimed(records("c"))


def test_all_losses_start_from_the_same_weights(small, monkeypatch):
    states = []

    def spy(net, *args, **options):
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        return train_model(net, *args, **options)

    train_model = program.train_model
    monkeypatch.setattr(program, "train_model", spy)
    run(*small)
    assert len(states) == 3
    for state in states[1:]:
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


@pytest.mark.parametrize("steps", [1, 6, 19])  # of 4 per epoch: before, between and after evaluations
def test_a_run_interrupted_between_evaluations_resumes_to_the_numbers_of_a_whole_one(
    small, monkeypatch, capsys, steps
):
    flags = [*small, "--epochs", 5]
    run(*flags, "--output", "whole")
    criteria = {loss: CRITERIA[loss] for loss in LOSSES}
    monkeypatch.setitem(CRITERIA, "soft_dtw", lambda args: _stopping(criteria["soft_dtw"](args), steps))
    with pytest.raises(SystemExit) as stopped:
        run(*flags, "--output", "broken")
    assert stopped.value.code == 130
    assert capsys.readouterr().err.endswith(continued_by("broken"))
    assert results("broken").keys() == {path.stem for path in Path("broken/checkpoints").glob("*.pt")}

    trained = []
    for name, make in criteria.items():
        monkeypatch.setitem(CRITERIA, name, _counting(make, name, trained))
    run("--resume", "broken")
    assert_same_run("whole", "broken")
    assert set(trained) == {"soft_dtw", "dilate"}


def test_a_resumed_run_that_is_interrupted_keeps_the_results_of_all_losses(small, monkeypatch):
    run(*small, "--epochs", 5, "--output", "run")
    make = CRITERIA["soft_dtw"]
    monkeypatch.setitem(CRITERIA, "soft_dtw", lambda args: _stopping(make(args), 12))  # after an evaluation
    with pytest.raises(SystemExit):
        run("--resume", "run", "--epochs", 9)
    histories = [load_checkpoint(f"run/checkpoints/{loss}.pt")["history"] for loss in LOSSES]
    assert [history[-1]["epoch"] for history in histories] == [8, 6, 4]
    assert list(results("run")) == LOSSES
    for history, row in zip(histories, results("run").values(), strict=True):
        assert row == {name: best_record(history)[name] for name in row}


def _stopping(criterion, steps):
    counter = StopsAtStep(steps, interrupt)

    def stopping(prediction, target):
        counter(prediction.detach(), target)
        return criterion(prediction, target)

    return stopping


def _counting(make, name, trained):
    def build(args):
        criterion = make(args)

        def counting(prediction, target):
            trained.append(name)
            return criterion(prediction, target)

        return counting

    return build


def test_sigterm_ends_a_run_like_ctrl_c_and_leaves_the_handler_as_it_was(small, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    kill = StopsAtStep(9, lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setitem(CRITERIA, "mse", lambda args: kill)
    with pytest.raises(SystemExit) as stopped:
        run(*small, "--output", "my run")
    assert stopped.value.code == 143
    assert capsys.readouterr().err.endswith(continued_by("my run"))
    assert signal.getsignal(signal.SIGTERM) == before
    assert [record["epoch"] for record in records("my run")] == [0]


@pytest.mark.slow
def test_the_sentence_on_an_interrupted_run_continues_it_from_where_the_user_stands(small):
    run(*small, "--losses", "mse", "--epochs", 150, "--output", "whole")
    folder = "it's here"
    command = [sys.executable, os.path.relpath(ROOT / "main.py"), *small, "--losses", "mse", "--jobs", "1"]
    command += ["--epochs", "150", "--output", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not Path(folder, "checkpoints/mse.pt").exists():
            time.sleep(0.005)
        process.terminate()
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    continues = err.rpartition("this continues: ")[2]
    assert shlex.split(continues)[:2] == command[:2]
    without_python = {**os.environ, "PATH": os.defpath}
    subprocess.run(continues, shell=True, env=without_python, stdout=subprocess.DEVNULL, timeout=SECONDS, check=True)
    assert_same_run("whole", folder, ["mse"])


def test_metrics_lost_between_checkpoint_and_file_come_back_on_resume(small):
    run(*small, "--output", "run")
    before = records("run")
    Path("run/metrics.jsonl").write_text(json.dumps(before[0]) + '\n{"loss": "mse", "epo')
    Path("run/results.csv").unlink()
    run("--resume", "run")
    assert records("run") == before
    assert results("run").keys() == set(LOSSES)


def test_resume_extends_a_finished_run(small):
    run(*small, "--output", "long", "--epochs", 7, "--losses", "dilate")
    run(*small, "--output", "run", "--epochs", 5, "--losses", "dilate")
    run("--resume", "run", "--epochs", 7)
    assert_same_run("run", "long", ["dilate"])
    assert json.loads(Path("run/config.json").read_text())["settings"]["epochs"] == 7


def test_a_resumed_run_names_the_files_that_it_leaves_as_they_were(small, capsys):
    drawn = [flag for flag in small if flag != "--no-plots"]
    run(*drawn, "--save-predictions", "--losses", "mse", "--output", "run")
    assert "Written by an earlier session" not in capsys.readouterr().err
    run("--resume", "run", "--epochs", 6, "--no-plots", "--no-save-predictions")
    older = re.search("Written by an earlier session of this run, and not by this one: (.*)", capsys.readouterr().err)
    assert older[1].split(", ") == [
        *("predictions.npz", "forecast.png"),
        *(f"figures/{name}.png" for name in ("alignment_mse", "forecasts", "learning_curves")),
    ]
    run("--resume", "run", "--epochs", 8, "--plots", "--save-predictions")
    assert "Written by an earlier session" not in capsys.readouterr().err


def test_resume_works_from_another_folder(small, table, monkeypatch, tmp_path):
    monkeypatch.chdir(table.parent)
    flags = ["waves.csv" if flag == str(table) else flag for flag in small]
    run(*flags, "--losses", "mse", "--output", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    run("--resume", "run", "--epochs", 5)
    assert records("run")[-1]["epoch"] == 4


@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_a_run_whose_data_moved_goes_on_where_they_are_now(small, table, capsys, device):
    flags = [*small, "--losses", "dilate"]
    run(*flags, "--output", "whole", "--epochs", 5)
    Path("old.csv").write_bytes(table.read_bytes())
    old = ["old.csv" if flag == str(table) else flag for flag in flags]
    run(*old, "--output", "run", "--epochs", 3)
    Path("new").mkdir()
    Path("old.csv").rename("new/data.csv")
    capsys.readouterr()
    assert "old.csv" in refusal(capsys, "--resume", "run", "--epochs", 5)
    run("--resume", "run", "--epochs", 5, "--data-path", "new/data.csv", *device)
    assert_same_run("whole", "run", ["dilate"])
    stored = json.loads(Path("run/config.json").read_text())["settings"]
    assert stored["data_path"] == str(Path("new/data.csv").absolute())
    assert stored["device"] == (device or ["", "auto"])[1]
    run("--resume", "run", "--epochs", 6)


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ({"level": 1e-9}, "holds other values in its 120 rows"),
        ({"size": 2}, "holds other values in its 120 rows"),
        ({"rows": 118}, "has 118 rows in place of 120"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--csv-columns", "all"]])
def test_resume_refuses_data_that_changed_and_leaves_the_run_as_it_is(small, table, capsys, change, how, flags):
    rewritten(table, "waves.csv")
    flags = ["waves.csv" if flag == str(table) else flag for flag in [*small, *flags]]
    run(*flags, "--output", "run", "--losses", "mse")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    rewritten(table, "waves.csv", **change)
    capsys.readouterr()
    sentence = refusal(capsys, "--resume", "run", "--epochs", 6)
    assert f"{Path('waves.csv').absolute()} changed since the run began: it {how}; " in sentence
    assert {path: path.read_bytes() for path in before} == before
    rewritten(table, "moved")
    run("--resume", "run", "--epochs", 6, "--data-path", "moved", "--device", "cpu")
    assert records("run")[-1]["epoch"] == 5


def test_the_same_values_with_another_meaning_are_refused(capsys):
    rows = [(1000.0, float(t), t % 7) for t in range(80)]

    def write(path, order):
        lines = [",".join("ABC"[k] for k in order), *(",".join(str(row[k]) for k in order) for row in rows)]
        Path(path).write_text("\n".join(lines) + "\n")

    def write_series(path, border):
        lines = ["id,y", *(f"{'a' if t < border else 'b'},{t * t % 13}" for t in range(160))]
        Path(path).write_text("\n".join(lines) + "\n")

    sizes = ["--input-length", 6, "--horizon", 4, "--model", "mlp", "--hidden-size", 2, "--losses", "mse"]
    sizes += ["--epochs", 1, "--no-plots", "--dataset", "csv"]
    write("table.csv", (0, 1, 2))
    columns = ["--csv-columns", "A", "B", "C", "--csv-targets", 2]
    run(*sizes, "--data-path", "table.csv", *columns, "--output", "run")
    write_series("series.csv", 80)
    run(*sizes, "--data-path", "series.csv", "--csv-series", "id", "--output", "series")
    write("table.csv", (2, 1, 0))
    write_series("series.csv", 90)
    capsys.readouterr()
    for folder in ("run", "series"):
        sentence = refusal(capsys, "--resume", folder, "--epochs", 2)
        assert "holds the same values, but other series or other columns to forecast" in sentence
    run("--evaluate", "run/checkpoints/mse.pt", "--data-path", "table.csv")
    assert re.search(r"observed: A \(.*\), B \(.*\), C; forecast: C \(", capsys.readouterr().out)


def test_resume_goes_on_where_only_what_was_not_read_changed(small, table):
    rewritten(table, "waves.csv")
    flags = ["waves.csv" if flag == str(table) else flag for flag in small]
    run(*flags, "--output", "run", "--losses", "mse")
    values = np.loadtxt(table, delimiter=",", skiprows=1) * [2, 1]
    np.savetxt("waves.csv", values, fmt="%.25e", delimiter=";", newline="\r\n", header="new;other", comments="")
    run("--resume", "run", "--epochs", 6)


def test_a_run_of_an_earlier_version_goes_on_without_a_fingerprint(small, table):
    rewritten(table, "waves.csv")
    flags = ["waves.csv" if flag == str(table) else flag for flag in small]
    run(*flags, "--output", "run", "--losses", "mse")
    without_record("run/checkpoints/mse.pt")
    run("--resume", "run", "--epochs", 5)
    rewritten(table, "waves.csv", level=1)
    with pytest.raises(SystemExit):
        run("--resume", "run", "--epochs", 6)


@pytest.mark.parametrize("dataset", ["traffic", "ecg5000"])
def test_resume_refuses_changed_files_of_every_dataset(tmp_path, capsys, dataset):
    write = {"traffic": write_traffic, "ecg5000": write_ecg5000}[dataset]
    sizes = ["--input-length", "6", "--horizon", "4"] if dataset == "traffic" else []
    write(tmp_path / "data", seed=0)
    flags = ["--dataset", dataset, "--data-path", "data", *sizes, "--model", "mlp", "--hidden-size", "2"]
    flags += ["--losses", "mse", "--epochs", "1", "--no-plots", "--output", "run"]
    run(*flags)
    write(tmp_path / "moved", seed=0)
    run("--resume", "run", "--data-path", "moved")
    write(tmp_path / "moved", seed=1)
    capsys.readouterr()
    sentence = refusal(capsys, "--resume", "run", "--epochs", 2)
    assert f"{tmp_path / 'moved'} changed since the run began: it holds other values in its " in sentence


def test_a_file_that_changes_while_processes_start_ends_the_run(small, table, monkeypatch, capsys):
    rewritten(table, "waves.csv")
    flags = ["waves.csv" if flag == str(table) else flag for flag in small]
    monkeypatch.setattr(program, "compile_kernels", lambda experiment: rewritten(table, "waves.csv", rows=119))
    sentence = refusal(capsys, *flags, "--losses", "mse", "dilate", "--jobs", 2)
    assert "changed since the run began: it has 119 rows in place of 120" in sentence
    monkeypatch.setattr(
        program, "compile_kernels", lambda experiment: Path("waves.csv").write_text("sine,other\n1,x\n")
    )
    sentence = refusal(capsys, *flags, "--losses", "mse", "dilate", "--jobs", 2)
    assert "waves.csv changed since the run began: the training part has 0 of the 1 time steps" in sentence


def test_evaluate_gives_the_metrics_of_results_csv_and_writes_nothing(small, capsys):
    run(*small, "--output", "run", "--losses", "dilate", "--model", "mlp", "--layers", 2)
    before = sorted(Path(".").rglob("*"))
    capsys.readouterr()
    scores = run("--evaluate", "run/checkpoints/dilate.pt")
    assert scores == results("run")
    assert sorted(Path(".").rglob("*")) == before
    (in_units,) = [row for row in rows_of("run/results_in_units.csv") if row["loss"] == "dilate"]
    assert f"{float(in_units['dtw']):#.4g}" in capsys.readouterr().out


def test_evaluate_takes_bare_weights_with_the_settings_of_the_flags(small):
    run(*small, "--output", "run", "--losses", "mse")
    torch.save(weights("run", "mse"), "bare.pt")
    of_data_and_network = [*small[:12], "--csv-time", "none"]
    assert run(*of_data_and_network, "--evaluate", "bare.pt")["bare"] == results("run")["mse"]


@pytest.mark.parametrize("flags", [["--save-predictions"], ["--plots"], ["--output", "out"], ["--epochs", "7"]])
def test_evaluate_refuses_flags_that_bare_weights_do_not_use(small, capsys, flags):
    run(*small, "--output", "run", "--losses", "mse")
    torch.save(weights("run", "mse"), "bare.pt")
    capsys.readouterr()
    assert f"{flags[0]} cannot be given with --evaluate, only --dataset, " in refusal(
        capsys, *small[:12], "--csv-time", "none", *flags, "--evaluate", "bare.pt"
    )


def rewritten(table, path, columns=("sine", "other"), level=0.0, size=1.0, rows=None):
    """Other values, names, or a part of the rows of a file of two columns, in a new file."""
    values = np.loadtxt(table, delimiter=",", skiprows=1)[:rows] * size + level
    np.savetxt(path, values, fmt="%.17g", delimiter=",", header=",".join(columns), comments="")
    return path


def without_record(path):
    """Make a checkpoint one of an earlier version, which kept nothing of its data."""
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["settings"]["data"]
    torch.save(checkpoint, path)


@pytest.mark.parametrize("columns", [[], ["all"], ["other", "sine"]])
def test_evaluate_scales_any_file_as_the_data_of_the_training(small, table, tmp_path, capsys, columns):
    flags = ["--csv-columns", *columns] if columns else []
    run(*small, *flags, "--output", "run", "--losses", "mse", "--model", "mlp")
    path, own = "run/checkpoints/mse.pt", results("run")["mse"]
    rewritten(table, "far.csv", level=50, size=3)
    capsys.readouterr()
    assert run("--evaluate", path, "--data-path", table)["mse"] == own
    assert f"scaled by the mean and deviation of the data that the network was trained on, kept in {path}\n" in (
        capsys.readouterr().out
    )
    far = run("--evaluate", path, "--data-path", "far.csv")["mse"]
    experiment = prepare(parse_args(["--evaluate", path, "--data-path", "far.csv"]))
    net = experiment.trained_network(path)
    trained = prepare(parse_args([*small, *flags])).data
    values = np.loadtxt("far.csv", delimiter=",", skiprows=1)[-24:]  # the test part
    order = {"sine": 0, "other": 1}
    values = values[:, [order[name] for name in trained.columns]]
    scaled = trained.input_scaling.scale(torch.tensor(values)).float().unfold(0, 10, 1).transpose(1, 2)
    with torch.no_grad():
        expected = (net(scaled[:, :6]) - scaled[:, 6:]).square().mean().item()
    assert far["mse"] == pytest.approx(expected, rel=1e-5)
    assert far["mse"] > 100 * own["mse"]


def test_evaluate_says_that_a_checkpoint_of_an_earlier_version_scales_no_data(small, table, capsys):
    run(*small, "--output", "run", "--losses", "mse")
    rewritten(table, "far.csv", level=50, size=3)
    path = "run/checkpoints/mse.pt"
    without_record(path)
    capsys.readouterr()
    far = run("--evaluate", path, "--data-path", "far.csv")["mse"]
    assert far["mse"] == pytest.approx(results("run")["mse"]["mse"], rel=1e-4)
    sentence = f"{path} holds no mean and deviation of its training data: these data are scaled by their own mean"
    assert sentence in capsys.readouterr().out


def test_evaluate_refuses_other_columns_than_those_of_the_training(small, table, capsys):
    run(*small, "--output", "run", "--losses", "mse")
    rewritten(table, "renamed.csv", columns=("sine", "price"))
    sentence = refusal(capsys, "--evaluate", "run/checkpoints/mse.pt", "--data-path", "renamed.csv")
    assert "--csv-columns names 'other', but the columns are sine, price" in sentence


@pytest.mark.parametrize("columns", [[], ["--csv-columns", "all"], ["--csv-columns", "-1", "0"]])
def test_the_columns_of_a_training_are_found_by_name_in_a_file_with_others(small, table, columns):
    run(*small, *columns, "--output", "run", "--losses", "mse")
    sine, other = np.loadtxt(table, delimiter=",", skiprows=1)[:, :2].T
    np.savetxt("more.csv", np.stack([other, sine, sine], axis=1), delimiter=",", header="other,sine,z", comments="")
    for name, path in (("before", table), ("after", "more.csv")):
        run("--forecast", "run", "--data-path", path, "--output", name, "--no-plots")
    assert Path("after/forecast.csv").read_text() == Path("before/forecast.csv").read_text()
    scores = [run("--evaluate", "run/checkpoints/mse.pt", "--data-path", path) for path in (table, "more.csv")]
    assert scores[0] == scores[1]


def test_evaluate_says_nothing_of_scaling_where_data_are_in_raw_units(capsys):
    run("--evaluate", ROOT / "experiments/weights/dilate.pt")
    assert "scaled" not in capsys.readouterr().out


@pytest.mark.parametrize("record", [{}, {"mean": [1.0]}, 3, [1]])
def test_a_damaged_record_of_the_data_is_named(small, capsys, record):
    run(*small, "--output", "run", "--losses", "mse")
    path = "run/checkpoints/mse.pt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["settings"]["data"] = record
    torch.save(checkpoint, path)
    capsys.readouterr()
    assert f"{path} is damaged: its record of the data" in refusal(capsys, "--evaluate", path)


@pytest.mark.slow
def test_every_gru_trains_to_the_same_numbers():
    flags = ["--epochs", 4, "--eval-every", 1, "--losses", "mse", "dilate", "--no-plots"]
    for gru in GRUS:
        run(*flags, "--output", gru, "--gru", gru)
        assert json.loads(Path(gru, "config.json").read_text())["settings"]["gru"] == gru
        for mine, other in zip(untimed(records(gru)), untimed(records("torch")), strict=True):
            assert mine.pop("loss") == other.pop("loss")
            assert mine == pytest.approx(other, rel=1e-5)


def test_a_checkpoint_is_evaluated_with_any_gru(small):
    for trained in GRUS:
        run(*small, "--output", trained, "--losses", "mse", "--gru", trained)
        path, own = f"{trained}/checkpoints/mse.pt", results(trained)["mse"]
        assert run("--evaluate", path)["mse"] == own
        for other in GRUS:
            assert run("--evaluate", path, "--gru", other)["mse"] == pytest.approx(own, rel=1e-5)


def test_clipping_reaches_the_training_and_is_kept(small):
    flags = [*small, "--losses", "mse", "dilate"]
    run(*flags, "--output", "plain")
    run(*flags, "--output", "clipped", "--clip-norm", 0.01)
    assert json.loads(Path("clipped/config.json").read_text())["settings"]["clip_norm"] == 0.01
    assert untimed(records("clipped")) != untimed(records("plain"))
    for mine, other in zip(records("clipped"), records("plain"), strict=True):
        assert mine["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)
    run("--resume", "clipped", "--epochs", 5)
    for gru in GRUS:
        run("--evaluate", "clipped/checkpoints/mse.pt", "--gru", gru)
    assert torch.load("clipped/checkpoints/mse.pt", weights_only=True)["protocol"]["clip_norm"] == 0.01


def of_earlier_version(folder, **removed):
    """Give the settings of a run, and of its checkpoint for MSE, those that an earlier version had."""
    config = json.loads(Path(folder, "config.json").read_text())
    config["settings"] |= removed
    Path(folder, "config.json").write_text(json.dumps(config))
    path = Path(folder, "checkpoints", "mse.pt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["settings"] |= removed
    torch.save(checkpoint, path)


def test_a_run_whose_removed_switches_were_off_goes_on_and_is_evaluated(small, capsys):
    run(*small, "--output", "whole", "--losses", "mse", "--epochs", 5)
    run(*small, "--output", "run", "--losses", "mse")
    of_earlier_version("run", bf16=False, compile=False)
    run("--resume", "run", "--epochs", 5)
    assert untimed(records("run"))[-1] == untimed(records("whole"))[-1]
    assert not {"bf16", "compile"} & json.loads(Path("run/config.json").read_text())["settings"].keys()
    of_earlier_version("run", bf16=False, compile=False)
    capsys.readouterr()
    assert run("--evaluate", "run/checkpoints/mse.pt")["mse"] == results("whole")["mse"]
    assert "removed" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["bf16", "compile"])
def test_a_run_with_a_removed_switch_does_not_go_on_but_is_evaluated(small, capsys, name):
    run(*small, "--output", "run", "--losses", "mse")
    of_earlier_version("run", **{"bf16": False, "compile": False, name: True})
    capsys.readouterr()
    assert f"run/config.json has --{name}, which was removed, so" in refusal(capsys, "--resume", "run")
    path = "run/checkpoints/mse.pt"
    assert run("--evaluate", path)["mse"] == results("run")["mse"]
    sentence = f"{path} was trained with --{name}, which was removed; it is evaluated without.\n"
    assert capsys.readouterr().out.count(sentence) == 1


@pytest.mark.parametrize("model", ["seq2seq", "mlp"])
def test_a_run_from_before_there_was_a_flag_goes_on_as_it_began(small, model):
    flags = [*small, "--losses", "mse", "--model", model]
    old = [*flags, "--gru", "torch"] if model == "seq2seq" else flags
    run(*old, "--output", "whole", "--epochs", 5)
    run(*old, "--output", "run")
    config, checkpoint = json.loads(Path("run/config.json").read_text()), Path("run/checkpoints/mse.pt")
    state = torch.load(checkpoint, weights_only=True)
    for setting in ("gru", "clip_norm", "cuda_graph"):
        del config["settings"][setting], state["settings"][setting]
    Path("run/config.json").write_text(json.dumps(config))
    torch.save(state, checkpoint)
    run("--resume", "run", "--epochs", 5)
    assert untimed(records("run"))[-1] == untimed(records("whole"))[-1]
    kept = json.loads(Path("run/config.json").read_text())["settings"]
    assert (kept["gru"], kept["clip_norm"], kept["cuda_graph"]) == ("torch", None, False)


def test_several_columns_forecast_one(small):
    run(
        *small,
        "--csv-columns",
        "other",
        "sine",
        "--csv-targets",
        "sine",
        "--losses",
        "mse",
        "--output",
        "run",
    )
    state = weights("run", "mse")
    assert state["encoder.gru.weight_ih_l0"].shape[1] == 2
    assert state["decoder.out.weight"].shape[0] == 1


def test_the_decoder_starts_from_the_column_that_it_forecasts(small):
    def first_input(columns):
        args = parse_args([*small, "--csv-columns", *columns, "--csv-targets", "sine"])
        net = prepare(args).network()
        return list(net.output_columns)

    assert first_input(["other", "sine"]) == [1]
    assert first_input(["sine", "other"]) == [0]


def drawn(monkeypatch, *flags):
    """What a run with figures draws: the past, the targets and the names of every figure."""
    figures = {}

    def spy(name, draw):
        def drawing(*series, **options):
            figures[name] = (*series, options)
            return draw(*series, **options)

        monkeypatch.setattr(plots, name, drawing)

    with monkeypatch.context() as monkeypatch:
        spy("plot_forecasts", plots.plot_forecasts)
        spy("plot_alignment", plots.plot_alignment)
        run(*flags, "--plots", "--epochs", 1, "--losses", "mse", "--model", "mlp")
    return figures


@pytest.mark.parametrize("chosen", [None, "sine", "other"])
@pytest.mark.parametrize("columns", [["sine", "other"], ["other", "sine"]])
@pytest.mark.parametrize("targets", [["other"], ["sine"], ["other", "sine"], ["sine", "other"]])
def test_figures_show_the_past_of_the_variable_that_they_name(
    small, table, monkeypatch, capsys, columns, targets, chosen
):
    flags = [*small, "--csv-columns", *columns, "--csv-targets", *targets, "--plot-samples", 2]
    flags += [] if chosen is None else ["--plot-variable", chosen]
    if chosen not in (None, *targets):
        sentence = f"--plot-variable must be one of {', '.join(targets)}, got '{chosen}'."
        assert sentence in refusal(capsys, *flags, "--plots")
        assert not Path("runs").exists()
        return
    figures = drawn(monkeypatch, *flags)
    past, truth, *_, options = figures["plot_forecasts"]
    name = chosen or targets[0]
    assert options["name"] == [(name, "")]
    values = np.loadtxt(table, delimiter=",", skiprows=1)[:, ["sine", "other"].index(name)]
    scaled, late = (values[96:] - values[:72].mean()) / values[:72].std(), values[96:]
    for window in range(len(past)):
        assert past[window, :, 0].numpy() == pytest.approx(late[window : window + 6], abs=1e-5)
        assert truth[window, :, 0].numpy() == pytest.approx(late[window + 6 : window + 10], abs=1e-5)
    target, _, _, _, options = figures["plot_alignment"]
    assert target[:, options["variable"]].numpy() == pytest.approx(scaled[8:12], abs=1e-5)
    assert options["name"] == (name, "")
    assert (options["mean"], options["std"]) == pytest.approx((values[:72].mean(), values[:72].std()))


def test_another_variable_is_drawn_when_a_run_is_continued(small, monkeypatch):
    run(*small, "--csv-columns", "all", "--losses", "mse", "--output", "run")
    config = json.loads(Path("run/config.json").read_text())
    del config["settings"]["plot_variable"]  # as in an earlier version
    Path("run/config.json").write_text(json.dumps(config))
    run("--resume", "run", "--plots", "--plot-variable", "other")
    assert json.loads(Path("run/config.json").read_text())["settings"]["plot_variable"] == "other"


def test_all_columns_are_observed_and_forecast(small):
    run(*small, "--csv-columns", "all", "--losses", "mse", "--output", "run")
    assert weights("run", "mse")["decoder.out.weight"].shape[0] == 2


def test_metrics_that_are_nan_are_null_in_the_json_lines(tmp_path):
    RunFolder(tmp_path).append_metrics({"loss": "mse", "epoch": 0, "dtw": math.nan, "tdi": 0.5})
    assert records(tmp_path) == [{"loss": "mse", "epoch": 0, "dtw": None, "tdi": 0.5}]


def test_no_progress_bar_off_a_terminal_and_one_on_a_terminal(small, capsys, monkeypatch):
    run(*small, "--output", "a")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(*small, "--output", "b", "--losses", "dilate")
    err = capsys.readouterr().err
    assert "dilate: 4/4 epochs, loss " in err


def test_the_number_of_threads_is_one_on_the_cpu_unless_given(small):
    torch.set_num_threads(2)
    prepare(parse_args([*small, "--device", "cpu"]))
    assert torch.get_num_threads() == 1
    prepare(parse_args([*small, "--threads", "2"]))
    assert torch.get_num_threads() == 2


def test_networks_trained_side_by_side_have_the_numbers_of_those_trained_one_by_one(small, capfd):
    run(*small, "--output", "one", "--jobs", 1)
    run(*small, "--output", "all", "--jobs", 3)
    sort = {loss: place for place, loss in enumerate(LOSSES)}
    RunFolder(Path("all")).write_metrics(sorted(records("all"), key=lambda record: sort[record["loss"]]))
    assert_same_run("one", "all")
    assert list(results("all")) == LOSSES
    printed = capfd.readouterr()
    assert "mse, soft_dtw, dilate: 3 at a time, each in a process of its own" in printed.out
    assert re.search(r"^soft_dtw   Eval valid_loss= ", printed.out, re.MULTILINE)
    assert printed.err == ""
    run("--resume", "all", "--epochs", 5, "--jobs", 2)
    assert len(records("all")) == 3 * 4


def test_a_diverging_training_ends_those_beside_it_with_one_sentence(small, capsys):
    flags = [*small, "--losses", "mse", "dilate", "--learning-rate", "1e30", "--jobs", "2"]
    assert "The training loss became" in refusal(capsys, *flags)


def test_all_networks_are_trained_at_a_time_where_there_are_cores(small, monkeypatch):
    def jobs(*flags):
        return at_a_time(prepare(parse_args([*small, *flags])))

    monkeypatch.setattr(experiment_module, "cores", lambda: 2)
    assert [jobs(), jobs("--losses", "mse"), jobs("--jobs", "2"), jobs("--jobs", "9")] == [3, 1, 2, 3]
    monkeypatch.setattr(experiment_module, "cores", lambda: 1)
    assert jobs() == 1
    monkeypatch.setattr(program.data_parallel, "world_size", lambda: 2)
    assert jobs() == 1
    with pytest.raises(ValueError, match="--jobs 2 cannot be given with torchrun, whose processes train one network"):
        jobs("--jobs", "2")


def test_kernels_are_compiled_before_several_processes_need_them(small, monkeypatch):
    compiled = []

    def spy(net, criterion, *options):
        compiled.append(type(criterion).__name__)
        return warm_up(net, criterion, *options)

    def start(*args):
        assert compiled == ["MSELoss", "SoftDTWLoss", "DilateLoss"]
        raise LostProcessError
        yield

    warm_up = experiment_module.warm_up
    monkeypatch.setattr(experiment_module, "warm_up", spy)
    monkeypatch.setattr(program, "train_side_by_side", start)
    with pytest.raises(SystemExit):
        run(*small, "--jobs", 3)


@pytest.mark.slow
def test_compilation_is_announced_where_it_happens(small, tmp_path):
    def printed(*flags):
        command = [sys.executable, ROOT / "main.py", *small, "--model", "mlp", "--losses", "mse", *flags]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert done.stderr == ""
        return done.stdout

    assert printed("--output", "first").count("compiling the kernels, once") == 1
    assert "compiling" not in printed("--output", "second")


def _all_train(process):
    while process.poll() is None and len(list(Path("run").glob("checkpoints/*.pt"))) < 2:
        time.sleep(0.05)


def _processes_start(process):
    assert any("at a time, each in a process of its own" in line for line in process.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("until", "kept"), [(_all_train, LOSSES[1:]), (_processes_start, [])])
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_side_by_side_that_is_ended_leaves_no_process_and_no_draft(small, how, code, until, kept):
    flags = ["--losses", *LOSSES[1:], "--epochs", "1000000", "--eval-every", "1", "--output", "run", "--jobs", "2"]
    command = [sys.executable, "-u", ROOT / "main.py", *small, *flags]
    own_group = {"start_new_session": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A job in a shell's background ignores Ctrl-C, and so would the run, were it not handled here.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, **own_group)
    signal.signal(signal.SIGINT, ignored)
    with process:
        until(process)
        # A terminal's Ctrl-C goes to all processes, kill to one.
        os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code
    assert err == "\nInterrupted; only the work since the last evaluation is lost, and " + continued_by("run")
    _wait_for_the_end_of_group(process.pid)
    assert sorted(path.name for path in Path("run").glob("checkpoints/*")) == sorted(f"{loss}.pt" for loss in kept)


def _wait_for_the_end_of_group(group):
    """Processes that were just starting, and those that Python itself keeps, go when they find the others gone."""
    for _ in range(20 * SECONDS):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a process is left")


def test_a_lost_process_ends_the_run_with_a_sentence(small, monkeypatch, capsys):
    def lose(*args):
        raise LostProcessError("gone")
        yield

    monkeypatch.setattr(program, "train_side_by_side", lose)
    with pytest.raises(SystemExit) as stopped:
        run(*small, "--output", "run", "--jobs", 3)
    assert stopped.value.code == 1
    assert "Another process of this run is gone, so it ends; only the work since" in capsys.readouterr().err


def test_deterministic_algorithms_are_switched_on(small, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    prepare(parse_args([*small, "--deterministic"]))
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_auto_takes_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


PATHS = ("--resume", "--evaluate", "--forecast", "--output", "--data-path")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--gamma", "0"], "argument --gamma: must be a positive number, got '0'"),
        (["--gamma", "nan"], "argument --gamma: must be a positive number, got 'nan'"),
        (["--learning-rate", "fast"], "argument --learning-rate: must be a positive number, got 'fast'"),
        (["--alpha", "1.5"], "argument --alpha: must lie between 0 and 1, got '1.5'"),
        (["--epochs", "0"], "argument --epochs: must be a whole number of at least 1, got '0'"),
        (["--batch-size", "2.5"], "--batch-size: must be a whole number of at least 1, got '2.5'"),
        (["--eval-every", "-1"], "--eval-every: must be a whole number of at least 0, got '-1'"),
        (["--seed", "x"], "--seed: must be a whole number of at least 0, got 'x'"),
        (["--losses", "mae"], "--losses: invalid choice: 'mae' (choose from"),
        (["--losses", "mse", "mse"], "--losses must name each loss once, got mse mse."),
        (["--gru", "lstm"], "argument --gru: invalid choice: 'lstm' (choose from"),
        (["--alpha", "0.3", "--losses", "mse"], "--alpha 0.3 cannot be given with --losses mse, only with dilate."),
        (["--gru", "written-out", "--model", "mlp"], "--gru written-out cannot be given with --model mlp, which has"),
        (["--clip-norm", "0"], "argument --clip-norm: must be a positive number, got '0'"),
        (["--cuda-graph", "--device", "cpu"], "--cuda-graph needs a CUDA device, got cpu."),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        *(([name, ""], f"argument {name}: must be a path, got ''") for name in PATHS),
        (["--epochs", "٣"], "argument --epochs: must be a whole number of at least 1, got '٣'"),
        (["--epochs", "1_0"], "argument --epochs: must be a whole number of at least 1, got '1_0'"),
        (["--plot-samples", "1", "²"], "argument --plot-samples: must be a whole number of at least 0, got '²'"),
        (["--gamma", "1_0"], "argument --gamma: must be a positive number, got '1_0'"),
        (["--alpha", "٠"], "argument --alpha: must lie between 0 and 1, got '٠'"),
        (["--device", "cuda:٣"], "--device must be auto, cpu, cuda, cuda:1, ... or mps, got 'cuda:٣'."),
        (["--seed", str(2**64)], f"argument --seed: must be at most {2**64 - 1}, got '{2**64}'"),
        (["--epochs", "1" * 30], "argument --epochs: must be at most 2147483647, got '111"),
        (["--layers", "1001"], "argument --layers: must be at most 1000, got '1001'"),
        (["--threads", "1025"], "argument --threads: must be at most 1024, got '1025'"),
        (["--gamma", "1e-320"], "argument --gamma: must be at least 2.23e-308, got '1e-320'"),
        (["--learning-rate", "2e-308"], "argument --learning-rate: must be at least 2.23e-308, got '2e-308'"),
        (["--hidden-size", "10000000"], "There is not enough memory for a network of --hidden-size 10000000 and"),
        (["--hidden-size", "2147483647", "--layers", "3"], "a network of --hidden-size 2147483647 and --layers 3."),
        (["--input-length", "2000000000"], "There is not enough memory for this run: a smaller --hidden-size, --la"),
        (["--device", "gpu"], "--device must be auto, cpu, cuda, cuda:1, ... or mps, got 'gpu'."),
        (["--device", "cuda:x"], "--device must be auto, cpu, cuda, cuda:1, ... or mps, got 'cuda:x'."),
        (["--device", "cuda:99"], "--device cuda:99 is not there: torch finds"),
        (["--data-path", "x"], "--data-path cannot be given with --dataset synthetic."),
        (["--stride", "2"], "--stride cannot be given with --dataset synthetic."),
        (["--dataset", "csv"], "--dataset csv needs --data-path, the CSV file."),
        (["--dataset", "csv", "--data-path", "none.csv"], "none.csv"),
        (["--dataset", "traffic", "--data-path", "none.csv"], "none.csv"),
        (["--dataset", "ecg5000", "--data-path", "none"], "none"),
        (["--plot-variable", "x"], "--plot-variable cannot be given with --dataset synthetic, which names none."),
        (["--plot-samples", "500"], "--plot-samples must lie between 0 and 499, got 500."),
        (["--resume", "a", "--evaluate", "b"], "--resume and --evaluate cannot be given together."),
        (["--resume", "nowhere"], "nowhere is no folder of a run: "),
        (["--evaluate", "none.pt"], "There is no checkpoint none.pt."),
    ],
)
def test_a_mistake_is_answered_by_one_sentence_and_leaves_no_folder(capsys, tmp_path, flags, sentence):
    assert sentence in refusal(capsys, *flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_named(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"--device {name} is not there"):
        resolve_device(name)


def test_targets_outside_of_the_columns_are_refused(small, capsys):
    message = "--csv-targets must be among --csv-columns (other), given 'sine'"
    assert message in refusal(capsys, *small, "--csv-columns", "other", "--csv-targets", "sine")


def test_a_folder_that_holds_a_run_is_refused_and_unchanged(small, capsys):
    run(*small, "--output", "run", "--losses", "mse")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    sentence = refusal(capsys, *small, "--output", "run")
    assert "--output run already holds a run (config.json)" in sentence
    assert "--resume run" in sentence
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_training_replaces_no_forecast(small, capsys):
    Path("out").mkdir()
    Path("out/forecast.csv").write_text("kept")
    assert "--output out already holds forecast.csv: name another folder." in refusal(
        capsys, *small, "--output", "out"
    )
    assert Path("out/forecast.csv").read_text() == "kept"


def test_a_folder_in_which_another_process_trains_is_refused_until_that_is_gone(small, capsys):
    flags = [*small, "--losses", "mse", "--jobs", "1", "--epochs", "1000000", "--output", "run"]
    with subprocess.Popen([sys.executable, ROOT / "main.py", *flags], stdout=subprocess.DEVNULL) as process:
        until(lambda: Path("run/checkpoints/mse.pt").exists())
        assert "Another process trains in run: wait for its end, or end it." in refusal(capsys, "--resume", "run")
        process.kill()
    config = json.loads(Path("run/config.json").read_text()) | {"versions": {"torch": "2.5.0"}}
    Path("run/config.json").write_text(json.dumps(config))
    reached = torch.load("run/checkpoints/mse.pt", weights_only=True)["epoch"]
    run("--resume", "run", "--epochs", reached + 3)
    assert [record["epoch"] for record in records("run")] == sorted({record["epoch"] for record in records("run")})
    config["settings"]["epochs"] = reached + 3
    assert json.loads(Path("run/config.json").read_text()) == config
    assert not list(Path("run").glob(".*"))


@pytest.mark.parametrize("flags", [["--output", "run"], ["--resume", "run"]])
def test_a_folder_that_is_locked_stays_as_it_is(small, capsys, flags):
    folder = RunFolder(Path("run"))
    folder.create()
    if "--resume" in flags:
        folder.write_settings(settings_of(parse_args(small)))
    with folder.locked():
        before = {path: path.read_bytes() for path in Path("run").iterdir()}
        assert "Another process trains in run: " in refusal(capsys, *(small if "--output" in flags else []), *flags)
        assert {path: path.read_bytes() for path in Path("run").iterdir()} == before
    run(*(small if "--output" in flags else []), *flags)
    assert results("run").keys() == set(LOSSES)


def test_an_empty_folder_may_be_the_output(small):
    Path("run").mkdir()
    run(*small, "--output", "run", "--losses", "mse")
    assert Path("run/results.csv").exists()


def test_runs_that_start_at_the_same_time_have_folders_of_their_own():
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_folder("csv-mlp").path, range(200)))
    assert len(set(folders)) == 200
    assert all(folder.is_dir() and re.fullmatch(r"csv-mlp-\d{8}-\d{6}(-\d+)?", folder.name) for folder in folders)


@pytest.mark.parametrize("name", ["file", "link"])
def test_a_folder_of_runs_that_cannot_be_made_is_one_sentence(small, capsys, name):
    Path("runs").write_text("in the way") if name == "file" else Path("runs").symlink_to("nowhere")
    assert "Cannot read or write runs: File exists." in refusal(capsys, *small)


@contextmanager
def full_disk(size):
    """Let no file of this process, nor pytest's own log, grow beyond a number of bytes inside of the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "flags", "file"),
    [
        (100, [], "config.json"),
        (5000, [], "checkpoints/mse.pt"),
        (20000, ["--epochs", "500", "--eval-every", "1"], "metrics.jsonl"),
        (20000, ["--plots"], "figures/forecasts.png"),
    ],
)
def test_a_full_disk_is_one_sentence_and_what_was_written_stays(small, capsys, size, flags, file):
    run(*small, "--losses", "mse", "--model", "mlp", "--output", "before")  # so that numba's cache is written
    with full_disk(size):
        sentence = refusal(capsys, *small, "--losses", "mse", "--model", "mlp", *flags, "--output", "run")
    assert sentence.endswith(continued_by("run")) == (file != "config.json")
    assert re.search(f"Cannot (read or )?write (the figure )?run/{file}: File too large", sentence)
    assert not list(Path("run").rglob(".*"))
    if Path("run/checkpoints/mse.pt").exists():
        run("--resume", "run", "--epochs", 500, "--no-plots")
        assert records("run")[-1]["epoch"] == 499


@pytest.mark.parametrize("name", [None, "kernel.nbi"])
def test_a_full_disk_outside_of_the_folder_is_one_sentence(small, capsys, monkeypatch, name):
    def fill():
        raise OSError(28, "No space left on device", name)

    monkeypatch.setitem(CRITERIA, "mse", lambda args: StopsAtStep(9, fill))
    sentence = refusal(capsys, *small, "--losses", "mse", "--output", "run")
    file = name or "a file outside of the run's folder, such as numba's cache"
    assert f"Cannot read or write {file}: No space left on device; this continues: " in sentence
    assert sentence.endswith(continued_by("run"))


def test_an_output_that_cannot_be_written_is_one_sentence(small, capsys):
    Path("file").write_text("in the way")
    assert "file/run" in refusal(capsys, *small, "--output", "file/run")
    assert Path("file").read_text() == "in the way"


@pytest.mark.parametrize("flag", [("--gamma", "0.1"), ("--dataset", "csv"), ("--output", "x"), ("--no-plots",)])
def test_resume_refuses_flags_that_would_change_the_run(small, capsys, flag):
    run(*small, "--output", "run", "--losses", "mse")
    capsys.readouterr()
    if flag == ("--no-plots",):
        run("--resume", "run", *flag)
    else:
        sentence = refusal(capsys, "--resume", "run", *flag)
        assert f"{flag[0]} cannot be given with --resume, only --cuda-graph, --epochs, --jobs, --patience" in sentence


EDITED = {"alpha": 0.9, "gamma": 0.5, "horizon": 3, "input_length": 5, "stride": 2, "hidden_size": 7, "gru": "torch"}


@pytest.mark.parametrize(("name", "value"), EDITED.items())
def test_resume_refuses_a_configuration_that_was_edited(small, capsys, name, value):
    run(*small, "--output", "run", "--losses", "mse")
    config = json.loads(Path("run/config.json").read_text())
    config["settings"][name] = value
    Path("run/config.json").write_text(json.dumps(config))
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    sentence = refusal(capsys, "--resume", "run", "--epochs", 6)
    assert f"run/checkpoints/mse.pt was trained with {name} " in sentence
    assert f"cannot go on with {value!r}." in sentence
    assert {path: path.read_bytes() for path in before} == before


def test_resume_refuses_checkpoints_that_changed_places(small, capsys):
    run(*small, "--output", "run", "--losses", "mse", "dilate")
    mse, dilate = (Path(f"run/checkpoints/{loss}.pt") for loss in ("mse", "dilate"))
    mse.rename("kept.pt")
    dilate.rename(mse)
    Path("kept.pt").rename(dilate)
    capsys.readouterr()
    assert "mse.pt was trained with loss 'dilate'" in refusal(capsys, "--resume", "run", "--epochs", 6)


def test_resume_refuses_fewer_epochs_than_there_are(small, capsys):
    run(*small, "--output", "run", "--losses", "mse")
    config = Path("run/config.json").read_text()
    capsys.readouterr()
    assert "--epochs must be at least 4, which run" in refusal(capsys, "--resume", "run", "--epochs", 3)
    assert Path("run/config.json").read_text() == config


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": 3}'])
def test_a_damaged_configuration_is_named(capsys, content):
    Path("run").mkdir()
    Path("run/config.json").write_text(content)
    assert "config.json is damaged: it holds no settings." in refusal(capsys, "--resume", "run")


NOT_A_CHOICE = ["foo", None, 3, ["mlp"]]
NOT_A_COUNT = ["abc", "", "٣", None, 0.5, -1, True, [1], 2**70]
NO_STEPS = ["abc", 0, -1.5, True, [1]]
NOT_POSITIVE = ["abc", 0, -1, "1_0", math.nan, math.inf, True, {}]
NOT_A_SWITCH = ["yes", 1, None, []]
NOT_A_LIST = [[], "1", 3]
NO_SETTINGS = {
    **dict.fromkeys(("dataset", "model", "gru"), NOT_A_CHOICE),
    **{key: ["foo", 3, [","]] for key in ("csv_decimal", "csv_missing")},
    **{key: ["", "::", [","]] for key in ("csv_delimiter", "csv_thousands")},
    **{key: [["x"], []] for key in ("csv_encoding", "csv_time", "csv_series")},
    "csv_header": ["yes", 1, []],
    "split": [["x"], [-1], [1.5], *NOT_A_LIST],
    **dict.fromkeys(("hidden_size", "layers", "epochs", "batch_size", "seed"), NOT_A_COUNT),
    "eval_every": ["abc", -1, 0.5, True, [1]],
    **dict.fromkeys(("input_length", "horizon", "stride", "threads", "patience", "season"), NO_STEPS),
    **dict.fromkeys(("cuda_graph", "deterministic", "plots", "save_predictions", "show"), NOT_A_SWITCH),
    **dict.fromkeys(("gamma", "learning_rate", "clip_norm"), NOT_POSITIVE),
    "alpha": [1.5, -0.1, math.nan, "x", [0.5]],
    "losses": [["foo"], ["mse", 3], None, *NOT_A_LIST],
    "plot_samples": [[-1], ["x"], [0.5], *NOT_A_LIST],
    "csv_columns": NOT_A_LIST,
    "csv_targets": NOT_A_LIST,
    "data_path": ["", "a\0b", ["a"]],
    "device": [["cpu"], []],
    "plot_variable": [["x"], []],
}


@pytest.mark.parametrize("name", settings_of(parse_args([])))
def test_a_configuration_with_a_setting_that_no_flag_gives_is_named(capsys, name):
    folder = RunFolder(Path("run"))
    folder.create()
    for value in NO_SETTINGS[name]:
        folder.write_settings({**settings_of(parse_args([])), name: value})
        before = folder.config.read_bytes()
        sentence = refusal(capsys, "--resume", "run")
        flag = "--" + name.replace("_", "-")
        assert f"run/config.json holds a setting that no run can have: argument {flag}" in sentence, value
        assert folder.config.read_bytes() == before


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--gamma", "0.1234567890123456789", "--alpha", "1e-17", "--learning-rate", "3e-300", "--clip-norm", "7"],
        ["--seed", str(2**64 - 1), "--plot-samples", "0", "7", "--no-show", "--deterministic", "--threads", "2"],
        ["--dataset", "csv", "--data-path", "a b.csv", "--csv-columns", "-1", "ü", "--csv-targets", "-1"],
        ["--losses", "dilate", "mse", "--model", "mlp", "--layers", "3", "--no-plots", "--cuda-graph"],
    ],
)
def test_a_configuration_brings_back_the_settings_of_the_flags(flags):
    settings = settings_of(parse_args(flags))
    folder = RunFolder(Path("run"))
    folder.create()
    folder.write_settings(settings)
    assert settings_of(parse_args(["--resume", "run"])) == settings


@pytest.mark.parametrize("name", ["hidden_size", "losses", "gamma"])
def test_a_checkpoint_with_a_setting_that_no_flag_gives_is_named(small, capsys, name):
    run(*small, "--output", "run", "--losses", "mse")
    checkpoint = torch.load("run/checkpoints/mse.pt", weights_only=True)
    checkpoint["settings"][name] = "abc"
    torch.save(checkpoint, "edited.pt")
    capsys.readouterr()
    assert "edited.pt holds a setting that no run can have: argument --" in refusal(capsys, "--evaluate", "edited.pt")


@pytest.mark.parametrize("name", ["--no-plots", *("--" + name.replace("_", "-") for name in vars(parse_args([])))])
def test_a_flag_that_is_not_written_out_is_refused(capsys, name):
    for end in range(len(name) - 1, 3, -1):
        assert f"unrecognized arguments: {name[:end]}" in refusal(capsys, name[:end], "1")


def test_a_configuration_of_another_version_is_named(small, capsys):
    run(*small, "--output", "run", "--losses", "mse")
    config = json.loads(Path("run/config.json").read_text())
    config["settings"]["colour"] = "red"
    Path("run/config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert "belongs to another version of this program: see 'colour'" in refusal(capsys, "--resume", "run")


def test_a_damaged_checkpoint_is_named_on_resume_and_evaluate(small, capsys):
    run(*small, "--output", "run", "--losses", "mse")
    Path("run/checkpoints/mse.pt").write_bytes(b"damaged")
    capsys.readouterr()
    assert "mse.pt is not a checkpoint" in refusal(capsys, "--resume", "run")
    assert "mse.pt is not a checkpoint" in refusal(capsys, "--evaluate", "run/checkpoints/mse.pt")


def test_evaluate_refuses_weights_of_another_network(small, capsys):
    run(*small, "--output", "run", "--losses", "mse")
    torch.save(weights("run", "mse"), "bare.pt")
    capsys.readouterr()
    sentence = refusal(capsys, *small[:8], "--csv-time", "none", "--hidden-size", 7, "--evaluate", "bare.pt")
    assert "bare.pt belongs to another network" in sentence


def test_a_diverging_training_is_one_sentence(small, capsys, monkeypatch):
    monkeypatch.setitem(CRITERIA, "mse", lambda args: lambda p, t: (p * math.inf).sum())
    assert "The training loss became" in refusal(capsys, *small, "--losses", "mse")


def test_table_1_in_raw_units_is_the_printed_table():
    printed = {  # mean and deviation of MSE, DTW, TDI as printed; times 100, 100 (ECG5000: 10) and 10
        ("synthetic", "mlp", "mse"): (1.65, 0.14, 38.6, 1.28, 15.3, 1.39),
        ("synthetic", "mlp", "soft_dtw"): (4.82, 0.40, 27.3, 1.37, 26.9, 4.16),
        ("synthetic", "mlp", "dilate"): (1.67, 0.184, 32.1, 5.33, 13.8, 0.712),
        ("ecg5000", "mlp", "mse"): (31.5, 1.39, 19.5, 0.159, 7.58, 0.192),
        ("ecg5000", "mlp", "soft_dtw"): (70.9, 37.2, 18.4, 0.749, 38.9, 8.76),
        ("ecg5000", "mlp", "dilate"): (37.2, 3.59, 17.7, 0.427, 7.21, 0.886),
        ("traffic", "mlp", "mse"): (0.620, 0.010, 24.6, 0.180, 16.8, 0.799),
        ("traffic", "mlp", "soft_dtw"): (2.52, 0.230, 23.4, 5.40, 27.4, 5.01),
        ("traffic", "mlp", "dilate"): (1.93, 0.080, 23.1, 0.41, 16.7, 0.508),
        ("synthetic", "seq2seq", "mse"): (1.10, 0.17, 24.6, 1.20, 17.2, 1.22),
        ("synthetic", "seq2seq", "soft_dtw"): (2.31, 0.45, 22.7, 3.55, 20.0, 3.72),
        ("synthetic", "seq2seq", "dilate"): (1.21, 0.13, 23.1, 2.44, 14.8, 1.29),
        ("ecg5000", "seq2seq", "mse"): (21.2, 2.24, 17.8, 1.62, 8.27, 1.03),
        ("ecg5000", "seq2seq", "soft_dtw"): (75.1, 6.30, 17.1, 0.650, 27.2, 11.1),
        ("ecg5000", "seq2seq", "dilate"): (30.3, 4.10, 16.1, 0.156, 6.59, 0.786),
        ("traffic", "seq2seq", "mse"): (0.890, 0.11, 24.6, 1.85, 15.4, 2.25),
        ("traffic", "seq2seq", "soft_dtw"): (2.22, 0.26, 22.6, 1.34, 22.3, 3.66),
        ("traffic", "seq2seq", "dilate"): (1.00, 0.260, 23.0, 1.62, 14.4, 1.58),
    }
    assert TABLE_1.keys() == printed.keys()
    for key, row in printed.items():
        dtw_scale, tdi_scale = 10 if key[0] == "ecg5000" else 100, 100 if key[0] == "traffic" else 10
        scales = np.repeat([100, dtw_scale, tdi_scale], 2)
        np.testing.assert_allclose(np.array(paper_row(*key)) * scales, row, err_msg=str(key))
    assert paper_row("csv", "mlp", "mse") is None


@pytest.mark.parametrize(
    ("flags", "with_paper"),
    [
        ([], {"mse", "soft_dtw", "dilate"}),
        (["--epochs", "7", "--seed", "3"], {"mse", "soft_dtw", "dilate"}),
        (["--model", "mlp", "--input-length", "20"], {"mse", "soft_dtw", "dilate"}),
        (["--alpha", "0.6"], {"mse", "soft_dtw"}),
        (["--gamma", "0.1"], {"mse"}),
        (["--hidden-size", "64"], set()),
        (["--layers", "2"], set()),
        (["--horizon", "24"], set()),
    ],
)
def test_the_papers_row_stands_beside_ours_only_in_the_papers_setting(flags, with_paper):
    experiment = prepare(parse_args(flags))
    ours = {"mse": 0.0125, "dtw": 0.19, "tdi": 1.5, "epoch": 499}
    caption, header, *rows = results_table(experiment, dict.fromkeys(LOSSES, ours)).splitlines()
    assert "after 500 epochs, means over the test set in raw units" in caption
    assert ("paper's DTW" in header) == ("Table 1" in caption) == bool(with_paper)
    assert {row.split()[0] for row in rows if "±" in row} == with_paper
    assert all(re.search(r"0\.01250 +0\.1900 +1\.500", row) for row in rows)
    if not flags:
        assert rows[-1].endswith("0.0121 ± 0.0013  0.231 ± 0.0244  1.48 ± 0.129")


@pytest.mark.parametrize("targets", [["other"], ["other", "sine"]])
def test_a_csv_run_reports_errors_in_the_units_of_the_file_beside_those_of_naive_forecasts(
    small, table, capsys, targets
):
    rewritten(table, "far.csv", level=50, size=3)
    flags = ["far.csv" if flag == str(table) else flag for flag in small]
    flags = [*flags, "--csv-columns", "sine", "other", "--csv-targets", *targets, "--losses", "mse", "--model", "mlp"]
    run(*flags, "--season", 3, "--output", "run")
    printed = capsys.readouterr().out
    path = "run/checkpoints/mse.pt"
    run("--evaluate", path)
    evaluated = capsys.readouterr().out
    values = np.loadtxt("far.csv", delimiter=",", skiprows=1)
    columns = [["sine", "other"].index(name) for name in targets]
    windows = np.lib.stride_tricks.sliding_window_view(values[96:], 10, axis=0).transpose(0, 2, 1)
    truth, last = windows[:, 6:, columns], np.repeat(windows[:, 5:6, columns], 4, axis=1)
    season = windows[:, [3, 4, 5, 3]][..., columns]
    forecast = np.stack([load_forecaster(path).predict(window[:6]) for window in windows])
    stored = {(row["column"], row["loss"]): row for row in rows_of("run/results_in_units.csv")}
    for variable, name in enumerate(targets):
        for loss, ours in (("mse", forecast), ("last value", last), ("last season", season)):
            error = (ours - truth)[..., variable]
            distances = [dtw(*pair) for pair in zip(ours[..., variable], truth[..., variable], strict=True)]
            expected = {"mae": abs(error).mean(), "mse": np.square(error).mean(), "dtw": np.mean(distances)}
            label = f"{name} +{loss}" if len(targets) > 1 else loss
            for text in (printed, evaluated):
                (*shown, _) = re.search(rf"^{label}[ \d]*? +(\S+) +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE).groups()
                assert [float(number) for number in shown] == pytest.approx([*expected.values()], rel=1e-3)
            row = stored[name, loss]
            assert [float(row[metric]) for metric in expected] == pytest.approx([*expected.values()], rel=1e-5)
    scale = values[:72, columns].std(axis=0)
    for text in (printed, evaluated) if len(targets) > 1 else ():
        row = re.search(r"^last value +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE)
        assert float(row[1]) == pytest.approx(np.square((last - truth) / scale).mean(), rel=1e-3)


def test_naive_forecasts_are_measured_by_the_numbers_in_the_file_whatever_their_level(small, table, capsys):
    counts = np.random.default_rng(0).poisson(6, 120)  # many pairs of which differ by the same
    for name, level in (("counts.csv", 0), ("far.csv", 10**7)):
        Path(name).write_text("y\n" + "\n".join(map(str, counts + level)))
    flags = ["counts.csv" if flag == str(table) else flag for flag in small]
    run(*flags, "--csv-columns", "y", "--losses", "mse", "--season", 3, "--save-predictions", "--output", "run")
    capsys.readouterr()
    run("--evaluate", "run/checkpoints/mse.pt", "--data-path", "far.csv")
    far = re.findall(r"^last \w+ .*$", capsys.readouterr().out, re.MULTILINE)
    windows = np.lib.stride_tricks.sliding_window_view(counts[96:].astype(float), 10)
    truth = windows[:, 6:]
    np.testing.assert_array_equal(np.load("run/predictions.npz")["target"][..., 0], truth)
    stored = {row["loss"]: row for row in rows_of("run/results_in_units.csv")}
    for printed, loss, steps in zip(far, ("last value", "last season"), ([5] * 4, [3, 4, 5, 3]), strict=True):
        naive = windows[:, steps]
        paths = [dtw_path(*pair) for pair in zip(truth, naive, strict=True)]
        tdi = np.mean([sum((h - j) ** 2 for h, j in path) / 16 for path, _ in paths])
        expected = [abs(naive - truth).mean(), np.square(naive - truth).mean(), np.mean([d for _, d in paths]), tdi]
        row = [float(stored[loss][metric]) for metric in ("mae", "mse", "dtw", "tdi")]
        assert row == pytest.approx(expected, rel=1e-9)
        assert list(map(float, printed.split()[-4:])) == pytest.approx(expected, rel=1e-3)


def test_a_csv_run_keeps_the_weights_that_are_best_on_the_validation_part(small, table, capsys):
    run(*small, "--losses", "mse", "--epochs", 30, "--learning-rate", 10, "--seed", 2, "--output", "run")
    losses = [record["valid_loss"] for record in records("run")]
    best = int(np.argmin(losses))
    assert len(losses) == 16
    assert best < 15  # that rate overshoots
    record = records("run")[best]
    (row,) = rows_of("run/results.csv")
    assert {name: float(row[name]) for name in ("epoch", "valid_loss", "mse")} == {
        name: record[name] for name in ("epoch", "valid_loss", "mse")
    }
    assert re.search(rf"^mse +{record['epoch']} ", capsys.readouterr().out, re.MULTILINE)
    run("--evaluate", "run/checkpoints/mse.pt")
    values = np.loadtxt(table, delimiter=",", skiprows=1)[:, 1]
    windows = np.lib.stride_tricks.sliding_window_view(values[96:], 10)
    forecast = np.stack([load_forecaster("run/checkpoints/mse.pt").predict(window[:6, None]) for window in windows])
    error = (forecast[..., 0] - windows[:, 6:]) / values[:72].std()
    assert np.square(error).mean() == pytest.approx(record["mse"], rel=1e-4)


def test_patience_stops_a_run_early_and_a_higher_one_goes_on(small, capsys):
    flags = [*small, "--losses", "mse", "--epochs", 30, "--learning-rate", 1]
    run(*flags, "--output", "whole")
    run(*flags, "--patience", 2, "--output", "run")
    stopped, whole = records("run"), records("whole")
    assert len(stopped) < len(whole)
    assert untimed(stopped) == untimed(whole[: len(stopped)])
    losses = [record["valid_loss"] for record in stopped]
    assert len(losses) - 1 - int(np.argmin(losses)) == 2
    epochs = [record["epoch"] for record in stopped]
    said = f"stopped after epoch  {epochs[-1]}: no lower valid_loss than that of epoch  {epochs[-3]} in 2 evaluations"
    assert capsys.readouterr().out.count(said) == 1
    run("--resume", "run")
    assert capsys.readouterr().out.count(said) == 1
    run("--resume", "run", "--patience", 30)
    assert untimed(records("run")) == untimed(whole)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--dataset", "synthetic", "--patience", 3],
            "--patience cannot be given with --dataset synthetic, only with",
        ),
        (
            ["--patience", 3, "--split", "0.8", "0", "0.2"],
            "--patience 3 needs a validation part, which --split leaves",
        ),
        (
            ["--patience", 3, "--eval-every", 0],
            "--patience 3 needs evaluations on the way, but --eval-every 0 has only the last one: give --eval-every",
        ),
        (["--season", 7], "--season must be at most --input-length, which is 6, got 7."),
        (
            ["--dataset", "synthetic", "--season", 7],
            "--season cannot be given with --dataset synthetic, only with csv.",
        ),
    ],
)
def test_patience_and_season_are_refused_where_they_mean_nothing(small, capsys, flags, sentence):
    given = [] if "synthetic" in flags else small
    assert sentence in refusal(capsys, *given, *flags)


def test_data_without_a_validation_part_end_with_the_last_weights(small):
    run(*small, "--split", "0.8", "0", "0.2", "--losses", "mse", "--output", "run")
    assert "valid_loss" not in records("run")[0]
    assert [row["epoch"] for row in rows_of("run/results.csv")] == ["3"]


@pytest.mark.parametrize("dataset", ["csv", "traffic", "synthetic"])
def test_weights_are_chosen_among_those_of_every_epoch_where_there_is_a_validation_part(dataset):
    assert parse_args(["--dataset", dataset]).eval_every == (50 if dataset == "synthetic" else 1)


@pytest.mark.parametrize("losses", [["dilate"], ["mse", "dilate"]])
def test_a_csv_run_ends_with_a_forecast_beyond_the_last_row(small, table, losses):
    run(*small, "--csv-columns", "all", "--losses", *losses, "--plots", "--output", "run")
    with open("run/forecast.csv", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    suffixes = [f" {loss}" for loss in losses] if len(losses) > 1 else [""]
    assert head == ["step", *(f"{name}{suffix}" for suffix in suffixes for name in ("sine", "other"))]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    history = np.loadtxt(table, delimiter=",", skiprows=1)
    for place, loss in enumerate(losses):
        expected = load_forecaster(f"run/checkpoints/{loss}.pt").predict(history)
        ours = np.array([row[1 + 2 * place : 3 + 2 * place] for row in rows], dtype=float)
        assert np.array_equal(ours, expected)
    assert Path("run/forecast.png").stat().st_size > 5000
    run("--forecast", "run", "--output", "later")
    assert Path("later/forecast.csv").read_text() == Path("run/forecast.csv").read_text()
    assert Path("later/forecast.png").exists()


def test_predictions_of_the_test_part_are_saved_in_the_units_of_the_file(small, table):
    rewritten(table, "far.csv", level=50, size=3)
    flags = ["far.csv" if flag == str(table) else flag for flag in small]
    run(*flags, "--losses", "mse", "dilate", "--save-predictions", "--output", "run")
    values = np.loadtxt("far.csv", delimiter=",", skiprows=1)[96:, 1]
    windows = np.lib.stride_tricks.sliding_window_view(values, 10)
    with np.load("run/predictions.npz") as saved:
        assert set(saved) == {"target", "mse", "dilate", "columns"}
        assert saved["columns"].tolist() == ["other"]
        assert saved["target"][..., 0] == pytest.approx(windows[:, 6:], rel=1e-6)
        forecaster = load_forecaster("run/checkpoints/dilate.pt")
        expected = np.stack([forecaster.predict(window[:6, None]) for window in windows])
        assert saved["dilate"] == pytest.approx(expected, rel=1e-5)


def test_windows_that_are_drawn_of_a_csv_file_are_spread_over_the_test_part(small, monkeypatch):
    *_, ids, _ = drawn(monkeypatch, *small)["plot_forecasts"]
    assert ids == [1, 4, 7, 10, 13]


def test_runs_on_other_data_print_their_losses_alone(capsys):
    run("--evaluate", ROOT / "experiments/weights/dilate.pt")
    printed = capsys.readouterr().out
    assert "last value" not in printed
    assert "units of the file" not in printed


def test_a_gzipped_csv_is_read(small, table):
    with gzip.open("waves.csv.gz", "wb") as file:
        file.write(table.read_bytes())
    flags = ["waves.csv.gz" if flag == str(table) else flag for flag in small]
    run(*flags, "--losses", "mse", "--output", "run")
    assert results("run").keys() == {"mse"}


def test_help_names_the_papers_values_and_exits_0():
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, ROOT / "main.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    for text in (
        "Units per layer; paper and default: 128",
        "paper and default: 0.5, traffic 0.8",
        "paper and default: 0.01",
        "released code and default: 500",
        "paper and default: synthetic 20, ecg5000 84, traffic 168",
        "fused is the fastest on the CPU, torch is nn.GRU, written-out follows its equations",
        "130 ended by Ctrl-C",
        "python main.py --resume",
    ):
        assert text in done.stdout


def test_a_mistake_ends_the_process_with_exit_code_2_and_no_traceback():
    command = [sys.executable, ROOT / "main.py", "--device", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "main.py: error: --device must be auto, cpu, cuda, cuda:1, ... or mps, got 'gpu'.\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "ascii_only", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_the_table_is_printed_where_stdout_is_ascii(ascii_only):
    command = [sys.executable, ROOT / "main.py", "--evaluate", ROOT / "experiments/weights/dilate.pt"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, **ascii_only}, check=True)
    assert done.stderr == b""
    assert b"0.0121 ? 0.0013" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_whose_output_nobody_reads_ends_with_how_to_continue_it(small, jobs):
    flags = [*small, "--losses", "mse", "dilate", "--epochs", "1000000", "--jobs", str(jobs), "--output", "run"]
    command = [sys.executable, ROOT / "main.py", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("csv: ")
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141
    assert err.startswith("\nNobody reads the output any more, so the run ends; ")
    assert err.endswith(continued_by("run"))
    assert err.count("\n") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        (
            ">/dev/full",
            2,
            "main.py: error: Cannot read or write stdout: No space left on device; " + continued_by("run"),
        ),
    ],
)
def test_a_run_without_stdout(small, redirection, code, said):
    flags = [*small, "--losses", "mse", "soft_dtw", "--jobs", "2", "--output", "run"]
    command = shlex.join([sys.executable, str(ROOT / "main.py"), *flags])
    done = subprocess.run(f"{command} {redirection}", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)
    if code == 0:
        assert results("run").keys() == {"mse", "soft_dtw"}
