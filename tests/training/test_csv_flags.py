import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evaluation import plots
from main import main
from training.experiment import prepare
from training.run_folder import RunFolder
from training.settings import parse_args, settings_of
from training.table import introduction

TINY = shlex.split("--dataset csv --input-length 6 --horizon 4 --model mlp --hidden-size 4 --losses mse --jobs 1")
VALUES = np.random.default_rng(0).normal(1200, 300, (100, 2)).round(2)
HOURS = pd.date_range("2016-07-01", periods=100, freq="h")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Every test runs in an empty folder, and leaves torch's number of threads as it was."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def write(path, rows, encoding="utf-8"):
    with open(path, "w", encoding=encoding) as file:
        file.write("\n".join(rows))


def plain(times=HOURS):
    return ["time,height,load", *(f"{time},{a},{b}" for time, (a, b) in zip(times, VALUES, strict=True))]


def european():
    def number(value):
        return f"{value:,.2f}".translate({ord(","): ".", ord("."): ","})

    times = HOURS.strftime("%d.%m.%Y %H:%M")
    return [
        "Zeit;Höhe;Last",
        *(f"{time};{number(a)};{number(b)}" for time, (a, b) in zip(times, VALUES, strict=True)),
    ]


def experiment(*flags):
    return prepare(parse_args([*TINY, *map(str, flags)]))


def test_the_introduction_says_what_was_read():
    write("series.csv", plain())
    lines = introduction(experiment("--data-path", "series.csv", "--csv-targets", "load", "--split", 60, 15, 20))
    mean, deviation = VALUES[:60, 1].mean(), VALUES[:60, 1].std()
    for line in (
        r"csv: 51 training and 11 test series, 6 -> 4 steps",
        r"file: .*/series.csv, 100 rows, delimiter ',', names in the first row, utf-8",
        rf"observed: load; forecast: load \({mean:.4g} ± {deviation:.3g}\); not used: height",
        r"time: 2016-07-01 00:00 to 2016-07-05 03:00 in column 'time', step 1 hour",
        r"training: 60 rows, 51 windows; validation: 15 rows, 6 windows; test: 20 rows, 11 windows; "
        r"5 rows after them in no part",
    ):
        assert re.search(f"(?m)^{line}$", lines), line


@pytest.mark.parametrize(
    "flags",
    [
        "--csv-columns all --csv-targets load",
        "--csv-columns 1 2 --csv-targets load",
        "--csv-columns height load --csv-targets -1",
        "--csv-columns -2 load --csv-targets 2",
    ],
)
def test_targets_are_found_among_the_columns_however_both_are_named(flags):
    write("series.csv", plain())
    found = experiment("--data-path", "series.csv", *flags.split())
    assert found.data.columns == ("height", "load")
    assert found.data.target_columns == (1,)


EUROPEAN = "--csv-decimal , --csv-thousands . --csv-encoding latin-1"


@pytest.mark.parametrize(
    "more",
    [
        "",
        "--csv-delimiter ;",
        "--csv-header",
        "--csv-time Zeit",
        "--csv-time 0 --csv-missing last",
        "--csv-time none",
    ],
)
def test_flags_say_how_a_file_is_written(more):
    write("series.csv", plain())
    write("europe.csv", european(), "latin-1")
    expected = experiment("--data-path", "series.csv", "--csv-columns", "all").data
    found = experiment("--data-path", "europe.csv", "--csv-columns", "all", *EUROPEAN.split(), *more.split()).data
    assert found.columns == ("Höhe", "Last")
    assert found.fingerprint == expected.fingerprint
    assert torch.equal(found.test.targets, expected.test.targets)


def test_a_file_in_another_notation_is_trained_on(capsys):
    write("europe.csv", european(), "latin-1")
    flags = ["--data-path", "europe.csv", *EUROPEAN.split(), "--epochs", "1", "--no-plots", "--output", "run"]
    main(parse_args([*TINY, *flags]))
    assert "observed: Last; forecast: Last" in capsys.readouterr().out
    stored = settings_of(parse_args(["--resume", "run"]))
    assert (stored["csv_decimal"], stored["csv_thousands"], stored["csv_encoding"]) == (",", ".", "latin-1")


@pytest.mark.parametrize(("name", "mark"), [("tab", "\t"), (r"\t", "\t"), ("space", " "), ("|", "|")])
def test_delimiters_that_are_hard_to_type_have_names(name, mark):
    write("series.csv", [row.replace(",", mark) for row in plain(np.arange(100))])
    flags = "--csv-time", "none", "--csv-delimiter", name
    assert experiment("--data-path", "series.csv", *flags).data.columns == ("load",)


@pytest.mark.parametrize(
    ("change", "flags", "sentence"),
    [
        (lambda rows: european(), "", "column 'Last' holds .* give --csv-decimal , --csv-thousands [.]$"),
        (lambda rows: european(), "--csv-decimal ,", "column 'Last' holds .* give --csv-thousands [.]$"),
        (
            lambda rows: [row.replace("height", "1") for row in rows],
            "--csv-header --csv-columns 7",
            "--csv-columns asks for column 7",
        ),
        (
            lambda rows: rows,
            "--csv-columns depth",
            "--csv-columns names 'depth', but the columns are time, height, load",
        ),
        (lambda rows: rows, "--csv-targets load load", "--csv-targets must name one or several columns, each once"),
        (lambda rows: rows, "--csv-columns height --csv-targets load", "--csv-targets must be among --csv-columns"),
        (lambda rows: rows, "--csv-encoding utf-9", "--csv-encoding must be the name of an encoding"),
        (lambda rows: rows, "--csv-series id", "--csv-series names 'id', but the columns are time, height, load"),
        (lambda rows: rows, "--csv-decimal , --csv-thousands ,", "--csv-decimal and --csv-thousands must differ"),
        (lambda rows: rows, "--split 0.5 0.5", "--split must be three shares"),
        (
            lambda rows: rows,
            "--split 90 90 90",
            "--split asks for 90 [+] 90 [+] 90 time steps, but the series has 100",
        ),
        (lambda rows: rows, "--input-length 90", "one window needs --input-length [+] --horizon = 90 [+] 4 = 94"),
        (
            lambda rows: [*rows[:50], *rows[51:]],
            "",
            "line 51, .* --csv-missing interpolate or --csv-missing last fills",
        ),
        (
            lambda rows: [*rows, *rows[1:]],
            "",
            "line 102, .* give --csv-series if .* --csv-time none takes the rows as",
        ),
        (lambda rows: [rows[0], *rows[:0:-1]], "", "line 3, .* which is before .* sort the rows by time"),
        (lambda rows: [*rows[:9], rows[9][:22], *rows[10:]], "", "line 10 has 2 cells, but the first row has 3"),
        (
            lambda rows: ["4711", *(f"{float(row.split(',')[2]):.3f}" for row in rows[1:])],
            "",
            "give --csv-header or --no-csv-",
        ),
        (
            lambda rows: [rows[0], *(f"on {row}" for row in rows[1:])],
            "",
            "no column holds time .* time, height may .*: give --csv-time or --csv-series; --csv-time none takes",
        ),
        (lambda rows: [row.replace(",", " ") for row in rows], "", "give --csv-delimiter if it is not ','"),
    ],
)
def test_a_mistake_is_one_sentence_that_speaks_of_flags(change, flags, sentence):
    write("series.csv", change(plain()))
    with pytest.raises(ValueError, match=sentence) as error:
        experiment("--data-path", "series.csv", *flags.split())
    assert "\n" not in str(error.value)
    assert not re.search(r"(?<![-\w'])(columns|targets|input_length|split|missing|time|decimal)=", str(error.value))


def test_rows_without_times_are_introduced_as_equal_steps():
    write("series.csv", ["where,load", *(f"room {k % 3},{load}" for k, load in enumerate(VALUES[:, 1]))])
    printed = introduction(experiment("--data-path", "series.csv", "--csv-time", "none"))
    assert "not used: where" in printed
    assert "time: no column is read as time stamps, so rows are taken as equal steps" in printed


def test_the_introduction_tells_the_scale_of_each_observed_column():
    write("series.csv", plain())
    lines = introduction(experiment("--data-path", "series.csv", "--csv-columns", "all", "--csv-targets", "load"))
    scales = [f"({mean:.4g} ± {std:.3g})" for mean, std in zip(VALUES[:60].mean(0), VALUES[:60].std(0), strict=True)]
    assert f"observed: height {scales[0]}, load; forecast: load {scales[1]}\n" in lines


def test_the_introduction_tells_the_mean_scale_of_several_series_and_what_is_filled_in_which_part():
    values = {"north": VALUES[:, 0].copy(), "south": VALUES[:, 1].copy()}
    rows = [f"{time},{name},{of_one[k]}" for name, of_one in values.items() for k, time in enumerate(HOURS)]
    for row in (10, 85, 86, 190):
        rows[row] = rows[row].rpartition(",")[0] + ","
    write("series.csv", ["time,where,load", *rows])
    lines = introduction(experiment("--data-path", "series.csv", "--csv-series", "where", "--csv-missing", "last"))
    values["north"][[10, 85, 86]] = values["north"][[9, 84, 84]]
    mean = np.mean([of_one[:60].mean() for of_one in values.values()])
    std = np.mean([of_one[:60].std() for of_one in values.values()])
    assert f"forecast: load ({mean:.4g} ± {std:.3g})\n" in lines
    assert (
        "training: 120 rows, 102 windows, values filled in: 1; validation: 40 rows, 22 windows; test: 40 rows, 22 "
        in lines
    )
    assert "windows, values filled in: 3" in lines


@pytest.mark.parametrize("flags", ["--split 0.5 0.2 0.3", "--csv-time none", "--no-csv-header", "--csv-missing last"])
def test_flags_of_csv_are_refused_by_other_data(flags):
    name = flags.split()[0].replace("--no-", "--")
    with pytest.raises(ValueError, match=f"{name} cannot be given with --dataset synthetic"):
        prepare(parse_args(flags.split()))


@pytest.mark.parametrize(
    "split", [["0.6", "0.2", "0.2"], ["0.75", "0", "0.25"], ["60", "20", "20"], ["50", "0", "30"]]
)
def test_the_split_is_in_shares_or_in_rows(split):
    write("series.csv", plain())
    (series,) = experiment("--data-path", "series.csv", "--split", *split).data.series
    sizes = np.array(split, dtype=float) * (100 if "." in split[0] else 1)
    assert series.ends == tuple(np.cumsum(sizes).astype(int))


def test_several_series_are_counted_and_scaled_each_by_itself():
    rows = plain()
    write("long.csv", ["id," + rows[0], *(f"{name},{row}" for name in "AB" for row in rows[1:])])
    lines = introduction(experiment("--data-path", "long.csv", "--csv-series", "id"))
    assert "series: 2 in column 'id' (A, B)" in lines
    assert "training: 120 rows, 102 windows; validation: 40 rows, 22 windows; test: 40 rows, 22 windows" in lines


def test_the_run_of_an_earlier_version_that_had_fewer_flags_is_continued():
    settings = settings_of(parse_args(TINY))
    new = ("delimiter", "decimal", "thousands", "encoding", "header", "time", "series", "missing")
    newer = {"split", *(f"csv_{name}" for name in new)}
    folder = RunFolder(Path("run"))
    folder.create()
    folder.write_settings({name: value for name, value in settings.items() if name not in newer})
    assert settings_of(parse_args(["--resume", "run"])) == settings


def write_shops(levels, rows=100):
    """Shops of one wave each, of another level and size, in one file; returns their values."""
    waves = {name: level * (2 + np.sin(0.5 * np.arange(rows) + level)).round(3) for name, level in levels.items()}
    lines = [
        f"{time},{name},{value}" for name, of_one in waves.items() for time, value in zip(HOURS, of_one, strict=True)
    ]
    write("shops.csv", ["when,shop,sold", *lines])
    return waves


def errors_of(folder):
    with open(Path(folder) / "results_in_units.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("levels", [{"small": 1, "large": 1000}, {"b": 1, "all": 20, "c": 300}])
def test_errors_are_given_for_each_of_several_series(levels, monkeypatch, capsys):
    waves, drawn = write_shops(levels), []
    monkeypatch.setattr(plots, "plot_forecasts", lambda *_, **options: drawn.append(options["name"]))
    flags = ["--data-path", "shops.csv", "--csv-series", "shop", "--epochs", "1", "--save-predictions"]
    flags += ["--plot-samples", "0", "5", "12", "21"]
    main(parse_args([*TINY, *flags, "--no-show", "--output", "run"]))
    rows = {(row["series"], row["loss"]): row for row in errors_of("run")}
    assert list(rows) == [(name, loss) for name in ["", *levels] for loss in ("mse", "last value")]
    with np.load("run/predictions.npz") as saved:
        names, error = saved["series"], saved["mse"] - saved["target"]
    for name, values in waves.items():
        of_one = rows[name, "mse"]
        assert float(of_one["mae"]) == pytest.approx(np.abs(error[names == name]).mean())
        assert float(of_one["mse"]) == pytest.approx(np.square(error[names == name]).mean())
        windows = np.lib.stride_tricks.sliding_window_view(values[80:], 10)
        naive = np.abs(windows[:, 6:] - windows[:, [5]]).mean()
        assert float(rows[name, "last value"]["mae"]) == pytest.approx(naive, rel=1e-5)
    for metric in ("mae", "mse", "dtw", "tdi"):
        mean = np.mean([float(rows[name, "mse"][metric]) for name in levels])
        assert float(rows["", "mse"][metric]) == pytest.approx(mean)
    printed = capsys.readouterr().out
    for name in ("(all)", *levels):
        mae = float(rows[name.replace("(all)", ""), "mse"]["mae"])
        assert re.search(rf"(?m)^{re.escape(name)} +mse +0 +{re.escape(f'{mae:#.4g}')} ", printed), name
    assert drawn == [[("sold", names[sample]) for sample in (0, 5, 12, 21)]]


@pytest.mark.parametrize("count", [1, 10, 11])
def test_the_table_is_by_series_where_they_are_few(count, capsys):
    write_shops({f"shop{number}": 1 + number for number in range(count)})
    main(parse_args([*TINY, "--data-path", "shops.csv", "--csv-series", "shop", "--epochs", "1", "--no-plots"]))
    printed = capsys.readouterr().out
    assert len(re.findall(r"(?m)^shop\d+ +mse ", printed)) == (count if count == 10 else 0)
    assert (", over all 11 series\n" in printed) == (count > 10)
    (folder,) = Path("runs").iterdir()
    assert len(errors_of(folder)) == (2 if count == 1 else 2 * (count + 1))
