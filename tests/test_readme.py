"""The README's commands run, its code runs, and what its tables name exists."""

import csv
import importlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

from loss import DilateLoss, SoftDTWLoss
from main import main, results_table
from tests.helpers import ROOT
from training.experiment import prepare
from training.settings import parse_args

SHARED = ROOT.parent / "shared" / "data"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def main_commands():
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("python main.py")]


def run(command, folder):
    """Run a ``python main.py`` command with this interpreter, in the clone but writing elsewhere."""
    words = shlex.split(command)[2:]
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *words], cwd=folder, capture_output=True, text=True, timeout=500
    )


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """One epoch of the default experiment, which the commands on earlier runs start from."""
    folder = tmp_path_factory.mktemp("readme")
    finished = run("python main.py --epochs 1 --output run", folder)
    assert finished.returncode == 0, finished.stderr
    return folder / "run", finished.stdout


def test_the_default_experiment_prints_the_readmes_table(short_run):
    folder, printed = short_run
    ours, theirs = printed.splitlines(), README.splitlines()
    (header,) = [line for line in ours if line.startswith("loss  ") and "paper's TDI" in line]
    assert header.split() in [line.split() for line in theirs]
    assert (folder / "figures" / "forecasts.png").is_file()


def test_the_first_table_is_that_of_the_committed_run(threads):
    with open(ROOT / "experiments" / "main_run" / "results.csv", newline="", encoding="utf-8") as file:
        rows = {row.pop("loss"): {name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)}
    results = {loss: {**row, "epoch": int(row["epoch"])} for loss, row in rows.items()}
    assert list(results) == ["mse", "soft_dtw", "dilate"]
    assert f"```text\n{results_table(prepare(parse_args([])), results)}\n```" in README


KEPT = {"mse": "trained with MSE", "soft_dtw": "soft-DTW", "dilate": "DILATE"}


@pytest.mark.parametrize("loss", KEPT)
def test_kept_networks_have_the_metrics_that_the_readme_gives(loss, capsys, threads):
    (given,) = re.findall(rf"([\d.]+) / ([\d.]+) / ([\d.]+) \({KEPT[loss]}\)", " ".join(README.split()))
    main(parse_args(["--evaluate", str(ROOT / "experiments" / "weights" / f"{loss}.pt")]))
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(f"{loss} ")]
    assert [float(number) for number in row[1:4]] == pytest.approx([float(number) for number in given], rel=1e-2)


@pytest.mark.parametrize("command", main_commands())
def test_command(command, short_run, tmp_path):
    rng = np.random.default_rng(0)
    csv = tmp_path / "ETTh1.csv"
    np.savetxt(csv, rng.random((700, 2)), delimiter=",", header="HUFL,OT", comments="")
    traffic = tmp_path / "traffic.csv"
    np.savetxt(traffic, rng.random(1200), header="0", comments="")
    replaced = {"ETTh1.csv": csv, "FILE": traffic, "runs/RUN": short_run[0], "FOLDER": SHARED / "ecg5000"}
    replaced["experiments/weights"] = ROOT / "experiments" / "weights"
    if "ecg5000" in command and not (SHARED / "ecg5000").is_dir():
        pytest.skip("the real ECG5000 files are not here, and the loader takes no others")
    for placeholder, path in replaced.items():
        command = command.replace(placeholder, str(path))
    if not any(flag in command for flag in ("--help", "--evaluate")):
        command = re.sub(r"--epochs \d+", "", command) + " --epochs 1 --no-plots"
    finished = run(command, tmp_path)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)[ `]", README))))
def test_make_target(target):
    command = ["make", "--no-print-directory", "-n", target]
    planned = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    assert {"run": "main.py", "lint": "ruff"}.get(target, "pytest") in planned.stdout


def test_dependency_table_holds_what_is_pinned_where_it_says():
    table = README[README.index("## Dependencies") : README.index("## Development")]
    rows = re.findall(r"^\| (.+?) \| .+ \| `(.+?)` \|$", table, flags=re.MULTILINE)
    files = {file for _, file in rows}
    for file in files:
        text = (ROOT / file).read_text(encoding="utf-8")
        pinned = {re.sub(r"\[.*", "", name) for name in re.findall(r"^([^#\s]+)==", text, flags=re.MULTILINE)}
        documented = {name for names, where in rows if where == file for name in names.split(", ")}
        assert documented == pinned, file
    assert len(files) > 3


def test_answer_on_negative_losses_gives_their_values():
    answer = README[README.index("**Why is the loss negative?**") : README.index("**Which α and γ?**")]
    soft_dtw, dilate, temporal = map(float, re.findall(r"-?0\.\d{3}", answer))
    series = torch.full((1, 20, 1), 3.0)
    terms = DilateLoss(0.5, 0.01).components(series, series)
    assert SoftDTWLoss(0.01)(series, series).item() == pytest.approx(soft_dtw, abs=5e-4)
    assert terms.loss.item() == pytest.approx(dilate, abs=5e-4)
    assert terms.temporal.item() == pytest.approx(temporal, abs=5e-4)


def test_python_examples_run_one_after_the_other():
    names = {"prediction": torch.randn(4, 20, 2, requires_grad=True), "target": torch.randn(4, 20, 2)}
    for code in blocks("python"):
        exec(code, names)
    assert names["prediction"].grad is not None


def equation_table():
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|([^|]*)\|$", README, flags=re.MULTILINE)
    return [
        (name, file)
        for _, code, where in rows
        for name, file in zip_cells(re.findall(r"`([^`]+)`", code), re.findall(r"`([^`]+\.py)`", where))
    ]


def zip_cells(names, files):
    return zip(names, files * len(names) if len(files) == 1 else files, strict=False)


@pytest.mark.parametrize(("name", "file"), equation_table())
def test_equation_table_names_what_exists(name, file):
    assert (ROOT / file).is_file()
    thing = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    if name == file:
        return
    for part in name.split("."):
        thing = getattr(thing, part)


def test_equation_table_covers_the_equations():
    assert len(equation_table()) >= 15
    for equation in ("Eq. 1", "Eq. 2", "Eq. 3", "Eq. 4"):
        assert f"| {equation}" in README


def test_linked_files_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link
