"""README.md and the pages beside it: commands run, code runs, files, flags and numbers that they name are there."""

import ast
import csv
import importlib
import io
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from contextlib import chdir, redirect_stdout
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

import loss as loss_package
from loss import DilateLoss, SoftDTWLoss
from main import main, results_table
from tests.helpers import ROOT, SHARED_DATA
from training.experiment import prepare
from training.settings import parse_args

FOLDERS = ("experiments", "benchmarks", "examples")
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *(ROOT / name / "README.md" for name in FOLDERS)]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
README = PAGES["README.md"]
every_page = pytest.mark.parametrize("page", PAGES)
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # of runpy, in `help_of`


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 260


# ------------------------------------------------------------------------------------ what a page holds


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def inline_code(page):
    prose = re.sub(r"```.*?```|\[`[^`]+`\]\(", "", PAGES[page], flags=re.DOTALL)  # links are looked at elsewhere
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def tables(page):
    """Rows of cells, without the lines of dashes."""
    rows = [line.split("|")[1:-1] for line in PAGES[page].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def commands(page):
    lines = [line.split("#")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    starts = ("python ", "torchrun ", "make ", "pip ")
    return [line for line in lines if line] + [code for code in inline_code(page) if code.startswith(starts)]


COMMANDS = sorted({command for page in PAGES for command in commands(page)})
MAIN = [command for command in COMMANDS if command.startswith(("python main.py", "torchrun "))]
OTHERS = [command for command in COMMANDS if command not in MAIN]


def module_of(command):
    return re.match(r"python -m (\S+)", command)[1]


def printed_by(call):
    """What a call prints that ends the program, in this process: a new one takes seconds to import torch."""
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit, match=r"^(0|None)$"):
        call()
    return printed.getvalue()


@cache
def help_of(module, *words):
    """What a script says when it is asked for help after these words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *words, "--help"])
        return printed_by(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))


@cache
def known_flags():
    helps = [help_of(module_of(command)) for command in COMMANDS if command.startswith("python -m ")]
    main_help = printed_by(lambda: parse_args(["--help"]))
    return flags_in(" ".join([main_help, *helps])) | {"--nproc-per-node"}  # torchrun's


def flags_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


# ------------------------------------------------------------------------------------ commands


def run(words, folder):
    """Run this interpreter, in the clone but writing elsewhere."""
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """One epoch of the default experiment, which the commands on earlier runs start from."""
    folder = tmp_path_factory.mktemp("readme")
    finished = run([ROOT / "main.py", "--epochs", "1", "--output", "run"], folder)
    assert finished.returncode == 0, finished.stderr
    return folder / "run", finished.stdout


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """The file and the run of docs/own_data.md, after one epoch."""
    folder = tmp_path_factory.mktemp("own_data")
    with chdir(folder):
        exec(blocks("docs/own_data.md", "python")[0], {})
    first = commands("docs/own_data.md")[0].replace("main.py", str(ROOT / "main.py"))
    finished = run([*shlex.split(first)[1:], "--epochs", "1", "--save-predictions", "--hidden-size", "8"], folder)
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


@pytest.mark.slow
def test_own_data_shows_what_its_run_prints(own_run):
    folder, printed = own_run
    printed = printed.replace(f"{folder}/", "")
    shown, table, forecast = blocks("docs/own_data.md", "text")
    assert shown in printed
    caption, header, *rows = table.splitlines()
    assert caption in printed
    naive = [row for row in rows if row.startswith("last ")]  # the others need all epochs
    assert [row.split() for row in [header, *naive]] == [
        line.split() for line in printed.splitlines() if line.startswith(("loss  ", "last "))
    ]
    begun = (folder / "demand-run/forecast.csv").read_text(encoding="utf-8").splitlines()
    for line, ours in zip(forecast.splitlines(), begun, strict=False):
        assert line.split(",")[0] == ours.split(",")[0]
    assert forecast.splitlines()[0] == begun[0]


@pytest.mark.slow
@pytest.mark.parametrize("command", MAIN)
def test_command_of_main(command, short_run, own_run, tmp_path):
    if "--output demand-run" in command:
        return  # `own_run` has run it
    rng = np.random.default_rng(0)
    csv_file, traffic = tmp_path / "ETTh1.csv", tmp_path / "traffic.csv"
    times = pd.date_range("2016-07-01", periods=700, freq="h", name="date")
    pd.DataFrame(rng.random((700, 2)), times, ["HUFL", "OT"]).to_csv(csv_file)
    np.savetxt(traffic, rng.random(1200), header="occupancy", comments="")
    if "ecg5000" in command and not (SHARED_DATA / "ecg5000").is_dir():
        pytest.skip("the real ECG5000 files are not here, and the loader takes no others")
    replaced = {"ETTh1.csv": csv_file, "FILE": traffic, "runs/RUN": short_run[0], "--resume FOLDER": "--resume RUN"}
    replaced |= {"FOLDER": SHARED_DATA / "ecg5000", "RUN": short_run[0]}
    replaced |= {"experiments/weights": ROOT / "experiments" / "weights"}
    replaced |= {"demand.csv": own_run[0] / "demand.csv", "demand-run": own_run[0] / "demand-run"}
    for placeholder, path in replaced.items():
        command = command.replace(placeholder, str(path))
    words = shlex.split(re.sub(r"--epochs \d+", "", command))
    if not {"--help", "--evaluate", "--forecast", "--resume"} & set(words):
        words += ["--epochs", "1", "--no-plots", "--hidden-size", "8"]  # the last of two equal flags counts
        words += [] if "--losses" in words else ["--losses", "mse"]  # `short_run` has all three
    start = ["-m", "torch.distributed.run"] if words[0] == "torchrun" else []
    finished = run([*start, *(ROOT / word if word == "main.py" else word for word in words[1:])], tmp_path)
    assert finished.returncode == 0, finished.stderr


def check_script(command):
    """Scripts take minutes to hours, so they are asked for help, after the flags of the command."""
    words = shlex.split(command.replace("DATA", "--data-path ecg5000=FOLDER traffic=FILE"))[2:]
    assert flags_in(" ".join(words)) <= flags_in(help_of(*words))


def check_make(command):
    words = shlex.split(command)
    planned = subprocess.run(
        ["make", "--no-print-directory", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert planned.returncode == 0, planned.stderr
    assert {"run": "main.py", "lint": "ruff"}.get(words[1], "pytest") in planned.stdout


def check_pip(command):
    words = shlex.split(command)[2:]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for before, word in zip(["", *words], words, strict=False):
        if before == "-r":
            assert (ROOT / word).is_file()
        elif word.startswith("."):
            assert set(re.findall(r"\[(\w+)\]", word)) <= project["optional-dependencies"].keys()
        else:
            assert re.fullmatch(r"-r|[\w-]+", word)


@pytest.mark.parametrize("command", OTHERS)
def test_command(command):
    if command.startswith("python -m "):
        check_script(command)
    elif command.startswith("python examples/"):
        assert (ROOT / command.split()[1]).is_file()  # tests/test_examples.py runs it
    elif command.startswith("make "):
        check_make(command)
    else:
        assert command.startswith("pip install ")
        check_pip(command)


@pytest.mark.slow
def test_the_default_experiment_prints_the_readmes_table(short_run):
    folder, printed = short_run
    (header,) = [line for line in printed.splitlines() if line.startswith("loss  ") and "paper's TDI" in line]
    assert header.split() in [line.split() for line in README.splitlines()]
    assert (folder / "figures" / "forecasts.png").is_file()


@pytest.mark.parametrize("folder", ["experiments", "benchmarks"])
def test_the_table_of_scripts_has_all_of_them(folder):
    files = [path for path in (ROOT / folder).rglob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    files += (ROOT / folder).rglob("__main__.py")
    scripts = {path.relative_to(ROOT).as_posix().removesuffix(".py").removesuffix("/__main__") for path in files}
    documented = [module_of(cell.strip("`")) for row in tables(f"{folder}/README.md") for cell in row if "-m" in cell]
    assert sorted(documented) == sorted(script.replace("/", ".") for script in scripts)


@every_page
def test_flags_are_known(page):
    assert flags_in(" ".join(inline_code(page))) <= known_flags()


# ------------------------------------------------------------------------------------ code


@every_page
def test_python_examples_run_one_after_the_other(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "dilate_loss", loss_package)  # as if it were installed
    names = {"prediction": torch.randn(4, 20, 2, requires_grad=True), "target": torch.randn(4, 20, 2)}
    for code in blocks(page, "python"):
        exec(code, names)
    assert names["prediction"].grad is not None or page != "README.md"


def without_docstrings(code):
    """Lines of code as `ast` writes them, so that comments and the breaking of lines do not count."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            del node.body[0]
    return ast.unparse(tree).splitlines()


def excerpts():
    parts = re.split(r"```py\n(.*?)```", PAGES["examples/README.md"], flags=re.DOTALL)
    return [
        (re.findall(r"\]\((\w+\.py)\)", before)[-1], code) for before, code in zip(*[iter(parts)] * 2, strict=False)
    ]


@pytest.mark.parametrize(("script", "code"), excerpts())
def test_excerpts_are_lines_of_their_script(script, code):
    indented = code if not code.startswith(" ") else f"class Excerpt:\n{code}"
    lines = [line for line in without_docstrings(indented) if line.strip() and line != "class Excerpt:"]
    whole = [line for line in without_docstrings((ROOT / "examples" / script).read_text(encoding="utf-8")) if line]
    starts = [k for k, line in enumerate(whole) if line == lines[0]]
    assert any(whole[k : k + len(lines)] == lines for k in starts)


# ------------------------------------------------------------------------------------ what tables and prose name


def functions_and_files(page):
    """Names and files of the tables "paper | function | where"; a single file holds all names of its row."""
    for row in tables(page):
        files = re.findall(r"`([^`]+\.py)`", row[-1])
        if len(row) == 3 and files and re.fullmatch(r"(`[^`]+\.py`(, )?)+", row[-1]):
            names = re.findall(r"`([^`]+)`", row[1])
            yield from zip(names, files * len(names) if len(files) == 1 else files, strict=bool(names))


NAMED = [(page, *pair) for page in PAGES for pair in functions_and_files(page)]


@pytest.mark.parametrize(("page", "name", "file"), NAMED)
def test_table_names_functions_that_exist(page, name, file):
    thing = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        thing = getattr(thing, part)


def test_the_table_of_equations_has_all_of_them():
    assert sum(page == "README.md" for page, _, _ in NAMED) >= 15
    for equation in range(1, 7):
        assert f"| Eq. {equation}, " in README


@every_page
def test_named_files_exist(page, own_run):
    roots = [ROOT, (ROOT / page).parent, ROOT / "experiments" / "results", ROOT / "experiments" / "weights"]
    roots += [own_run[0], own_run[0] / "demand-run"]
    for code in inline_code(page):
        if re.fullmatch(r"[\w./-]+(\.(py|md|txt|toml|csv|jsonl?|png|pt)|/)", code) and not code.startswith("runs/"):
            assert any((root / code).exists() for root in roots), code


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, "data/README.md", "experiments/main_run/README.md"])
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_every_page_is_linked_from_the_readme_or_is_the_packages():
    linked = set(re.findall(r"\]\(([^)#\s]+)\)", README))
    assert PAGES.keys() - linked == {"README.md", "docs/package.md"}


def requirement_files():
    return [*ROOT.glob("requirements*.txt"), *ROOT.glob("e*/requirements.txt")]


@pytest.mark.parametrize("file", requirement_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_pinned_package_says_what_it_is_for(file):
    for line in file.read_text(encoding="utf-8").splitlines():
        assert "==" not in line or re.fullmatch(r"[\w\[\]-]+==[\w.]+ +# \S.*", line), line


# ------------------------------------------------------------------------------------ numbers


def committed(path, **where):
    """Rows of a committed CSV file in which these columns have these values."""
    with open(ROOT / path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row[key] == str(value) for key, value in where.items())]


def assert_rounded(printed, measured):
    """That a printed number is the measured one, up to half a unit of its last digit."""
    unit = 10.0 ** -len(printed.partition(".")[2])
    assert abs(float(printed) - float(measured)) <= 0.501 * unit, (printed, measured)


def test_the_first_table_is_that_of_the_committed_run(threads):
    rows = {row.pop("loss"): row for row in committed("experiments/main_run/results.csv")}
    results = {loss: {name: float(cell) for name, cell in row.items()} for loss, row in rows.items()}
    results = {loss: {**row, "epoch": int(row["epoch"])} for loss, row in results.items()}
    assert list(results) == ["mse", "soft_dtw", "dilate"]
    assert f"```text\n{results_table(prepare(parse_args([])), results)}\n```" in README


KEPT = {"mse": "trained with MSE", "soft_dtw": "soft-DTW", "dilate": "DILATE"}


@pytest.mark.parametrize("loss", KEPT)
def test_kept_networks_have_the_metrics_that_the_results_give(loss, capsys, threads):
    text = " ".join(PAGES["docs/results.md"].split())
    (given,) = re.findall(rf"([\d.]+) / ([\d.]+) / ([\d.]+) \({KEPT[loss]}\)", text)
    main(parse_args(["--evaluate", str(ROOT / "experiments" / "weights" / f"{loss}.pt")]))
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(f"{loss} ")]
    assert [float(number) for number in row[1:4]] == pytest.approx([float(number) for number in given], rel=1e-2)


def test_table_1_is_that_of_the_committed_results():
    rows = [row for row in tables("docs/results.md") if row[0] in ("MLP", "Seq2Seq")]
    assert len(rows) == 18
    for network, data, metric, *cells in rows:
        name = metric.split(" × ")[0]
        for column, ours, paper in zip(KEPT, cells[::2], cells[1::2], strict=True):
            (kept,) = committed(
                "experiments/results/table1.csv", setting=f"{network}, {data}", metric=name, column=column
            )
            assert metric == f"{name} × {kept['scale']}"
            assert ours.startswith("**") == (kept["best"] == "1")
            numbers = [*ours.strip("*").split(" ± "), *paper.split(" ± ")]
            for printed, measured in zip(numbers, ("mean", "std", "paper_mean", "paper_std"), strict=True):
                assert_rounded(printed, float(kept[measured]) * float(kept["scale"]))


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_as_many_cells_lie_outside_as_the_claims_count(page):
    claims = (ROOT / "experiments" / "results" / "claims.md").read_text(encoding="utf-8")
    ((count, cells),) = re.findall(r"(\d+) of (\d+) cells", claims)
    assert f"{count} of {cells} cells" in PAGES[page]


def test_times_of_the_loss_are_those_of_the_committed_results():
    rows = [row for row in tables("docs/performance.md") if len(row) == 4 and row[0].isdigit()]
    assert len(rows) == 6
    for batch, horizon, milliseconds, ns in rows:
        where = {"kind": "dilate", "contender": "ours", "batch": batch, "horizon": horizon}
        (kept,) = committed("benchmarks/results/loss.csv", **where)
        assert_rounded(milliseconds, kept["milliseconds"])
        assert_rounded(ns, kept["ns_per_cell"])


def test_times_of_several_processes_are_those_of_the_committed_results():
    rows = [row for row in tables("docs/performance.md") if len(row) == 5 and row[0][0].isdigit()]
    kept = committed("benchmarks/results/data_parallel.csv")
    assert len(rows) == len(kept) == 4
    for (units, batch, *times), row in zip(rows, kept, strict=True):
        assert (units.split()[0], batch.split()[0]) == (row["hidden"], row["batch"])
        for printed, measured in zip(times, ("one_ms", "one_2_threads_ms", "2_processes_ms"), strict=True):
            assert_rounded(printed, row[measured])


def test_times_of_a_step_are_those_of_the_committed_results():
    rows = [row for row in tables("docs/performance.md") if "→" in row[0]]
    assert len(rows) == 3
    for setting, bare, ours, share, torchs, released in rows:
        setting = setting.split(",")[0].lower()
        kept = {row["name"]: row for row in committed("benchmarks/results/step.csv", setting=setting)}
        assert_rounded(bare, kept["bare products"]["milliseconds"])
        assert share == kept["loss"]["share_of_the_step"]
        for cell, gru in ((ours, "fused"), (torchs, "torch"), (released, "released")):
            milliseconds, times = re.findall(r"[\d.]+", cell)
            assert_rounded(milliseconds, kept[f"{gru}, dilate"]["milliseconds"])
            assert_rounded(times, kept[f"{gru}, dilate"]["times_bare_products"])


def test_speed_ups_of_the_custom_backward_are_those_of_the_committed_results():
    steps, ours, papers = (
        row[1:] for row in tables("docs/performance.md") if row[0] in ("steps", "times faster", "paper")
    )
    for horizon, our, paper in zip(steps, ours, papers, strict=False):
        (kept,) = committed("benchmarks/results/autograd.csv", horizon=horizon)
        assert_rounded(our, kept["speedup"])
        assert (kept["paper"] != "") == (paper != "")
        if paper:
            assert_rounded(paper.split(",")[0], kept["paper"])


def test_metrics_at_long_horizons_are_those_of_the_committed_results():
    rows = [row for row in tables("docs/results.md") if row[1] in ("MSE", "DTW", "TDI")]
    columns = [("mlp", "mse"), ("mlp", "dilate"), ("seq2seq", "mse"), ("seq2seq", "dilate"), ("last day", "")]
    assert len(rows) == 12
    horizon = None
    for first, metric, *cells in rows:
        horizon = first or horizon
        for cell, (model, loss) in zip(cells, columns, strict=True):
            where = {"role": "final", "horizon": horizon, "model": model, "loss": loss}
            (kept,) = committed("experiments/results/long_horizon/quality.csv", **where)
            assert_rounded(cell, kept[f"test_{metric.lower()}"])


def test_changes_with_networks_of_today_are_those_of_the_committed_results():
    committed_tables = (ROOT / "experiments" / "results" / "modern" / "tables.md").read_text(encoding="utf-8")
    section = committed_tables.split("## DILATE instead of MSE")[1].split("##")[0]
    lines = [line for line in PAGES["docs/when.md"].splitlines() if line.startswith("| ") and "---" not in line]
    assert len(lines) == 14
    assert all(line in section for line in lines)


def test_answer_on_negative_losses_gives_their_values():
    text = PAGES["docs/faq.md"]
    answer = text[text.index("**Why is the loss negative?**") : text.index("**Which α and γ?**")]
    soft_dtw, dilate, temporal = map(float, re.findall(r"-?0\.\d{3}", answer))
    series = torch.full((1, 20, 1), 3.0)
    terms = DilateLoss(0.5, 0.01).components(series, series)
    assert SoftDTWLoss(0.01)(series, series).item() == pytest.approx(soft_dtw, abs=5e-4)
    assert terms.loss.item() == pytest.approx(dilate, abs=5e-4)
    assert terms.temporal.item() == pytest.approx(temporal, abs=5e-4)
