"""The table of docs/numerics.md: that the script makes it, from all cases, and can run the released code."""

import csv
import math
import sys

import pytest

from benchmarks import numerics
from benchmarks.common import RESULTS, write_csv
from tests.oracles.cases import BY_FLOAT64, BY_INPUTS, CASES
from tests.oracles.longdouble import PRECISE


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not PRECISE, reason="a long double is no more than a float64 on this system")
def test_the_script_compares_ours_with_a_clone_of_the_released_code(clone, tmp_path, monkeypatch, capsys):
    for package in ("tslearn.metrics", "pysdtw", "ddtw"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    cases = [c for c in CASES if c.name == "noise, N = 20"]
    monkeypatch.setattr(numerics, "CASES", (*cases, CASES[-1]))
    numerics.main(["--original", str(clone), "--longest", "30", "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "tslearn is not installed: left out" in printed
    assert "pysdtw is not installed: left out" in printed
    rows = read(tmp_path / "out" / "numerics.csv")
    assert {(r["case"], float(r["gamma"])) for r in rows} == {(c.name, c.gamma) for c in cases}
    mild = {r["contender"]: r for r in rows if float(r["gamma"]) == 1}
    for name in ("ours", "released code"):
        assert all(0 <= float(mild[name][q]) < 1e-4 for q in numerics.QUANTITIES)
    assert float(mild["ours"]["shape_gradient"]) < 1e-6
    assert 0 < float(mild[numerics.ROUNDING]["shape_gradient"]) < 1e-6
    assert float(mild[numerics.FLOAT64]["temporal_gradient"]) < 1e-12
    page = (tmp_path / "out" / "numerics.md").read_text(encoding="utf-8")
    head = next(line for line in page.splitlines() if line.startswith("| case | γ |"))
    assert "shape: released code" in head
    assert "temporal: released code" in head
    assert page.count("\n| noise, N = 20 | ") == len(cases) + 1  # once more in the list of cases


@pytest.mark.skipif(not PRECISE, reason="a long double is no more than a float64 on this system")
def test_numbers_of_a_contender_that_is_not_at_hand_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(numerics, "peers", dict)
    monkeypatch.setattr(numerics, "CASES", [c for c in CASES if c.name == "noise, N = 20"])
    there = {"shape_value": "1.5e-03", "shape_gradient": "nan", "temporal_value": "", "temporal_gradient": ""}
    where = {"case": "noise, N = 20", "N": "20", "M": "20", "gamma": "0.01", "contender": "absent"}
    kept, dropped = where | there | {"machine": "of old"}, where | there | {"case": "unknown", "machine": "x"}
    write_csv(tmp_path / "numerics.csv", [kept, dropped, kept | {"contender": "ours", "shape_value": "7"}])
    numerics.main(["--longest", "30", "--output", str(tmp_path)])
    sentence, rows = "The numbers of absent are kept from an earlier run: of old.", read(tmp_path / "numerics.csv")
    assert [row for row in rows if row["contender"] == "absent"] == [kept]
    assert sum(row["contender"] == "ours" for row in rows) == len(numerics.CASES)
    assert all(float(row["shape_value"]) < 1e-6 for row in rows if row["contender"] == "ours")
    assert sentence in capsys.readouterr().out
    page = (tmp_path / "numerics.md").read_text(encoding="utf-8")
    assert sentence in page
    assert "| absent | shape | 0 of 1 | 1.5e-3 | noise, N = 20, γ = 0.01 |" in page
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| noise, N = 20 | ")]
    assert [line[3] for line in lines[: len(numerics.CASES)]] == ["–", "NaN", "–", "–"]


@pytest.mark.skipif(not PRECISE, reason="a long double is no more than a float64 on this system")
def test_a_contender_that_cannot_do_a_case_gets_no_numbers(clone):
    case = next(c for c in CASES if c.name == "identical, two steps")
    uneven = case._replace(y=case.y[:1])
    results, _ = numerics.compare(uneven, {"released code": numerics.contenders(clone)["released code"]})
    assert results["released code"] == {}


def test_a_folder_that_is_no_clone_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="clone of the released DILATE"):
        numerics.contenders(tmp_path)


@pytest.mark.parametrize(
    ("error", "text"),
    [(None, "–"), (math.nan, "NaN"), (math.inf, "inf"), (0.0, "0"), (3.14e-7, "3.1e-7"), (2.0, "2.0e0")],
)
def test_numbers_of_the_table(error, text):
    assert numerics.short(error) == text


def test_only_marked_blocks_are_filled_in():
    text = "before\n<!-- a -->\nold\n<!-- end -->\nafter\n<!-- b -->\n<!-- end -->\n"
    filled = numerics.fill_in(text, {"a": "new", "b": "other"})
    assert filled == "before\n<!-- a -->\n\nnew\n\n<!-- end -->\nafter\n<!-- b -->\n\nother\n\n<!-- end -->\n"
    assert numerics.fill_in(filled, {"a": "new", "b": "other"}) == filled
    with pytest.raises(SystemExit, match="<!-- c -->"):
        numerics.fill_in(text, {"c": "nowhere"})


def test_the_committed_results_hold_every_case():
    rows, page = read(RESULTS / "numerics.csv"), numerics.PAGE.read_text(encoding="utf-8")
    cases = (*CASES, BY_INPUTS, BY_FLOAT64)
    ours = [r for r in rows if r["contender"] == "ours"]
    assert [(r["case"], float(r["gamma"])) for r in ours] == [(c.name, c.gamma) for c in cases]
    for case in cases:
        assert f"\n| {case.name} | {case.gamma:g} | " in page
        assert f"\n| {case.name} | {case.words} | " in page
