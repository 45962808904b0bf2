"""The benchmark of the loss: that it runs, tells right from wrong, knows the goals, and measures memory."""

import csv
import math
import subprocess
import sys

import pytest
import torch

from benchmarks import loss as benchmark
from benchmarks import memory
from benchmarks.common import alternate, loss_and_gradient, machine, write_csv
from benchmarks.contenders import KINDS, contenders, plain_loss, released_loss, run
from loss.kernels import cpu

measures_memory = pytest.mark.skipif(not memory.RESET.exists(), reason="this system does not tell peaks of memory")


@pytest.fixture
def only_ours(monkeypatch):
    for package in ("tslearn.metrics", "pysdtw", "ddtw"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed


@pytest.mark.slow
def test_everybody_is_compared_with_a_clone_of_the_released_code(only_ours, clone, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "SIZES", ((3, 6), (2, 9)))
    monkeypatch.setattr(benchmark, "LONG", ((1, 300),))
    monkeypatch.setattr(benchmark, "bytes_of_call", lambda kind, name, batch, horizon, *_: 13 * batch * horizon**2)
    benchmark.main(["--original", str(clone), "--seconds", "0", "--output", str(tmp_path)])
    with open(tmp_path / "loss.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(r["kind"], r["contender"], int(r["horizon"])) for r in rows}
    everybody = {("shape", "ours"), ("shape", "plain PyTorch"), ("dilate", "ours"), ("dilate", "plain PyTorch")}
    everybody |= {("dilate", "released code"), ("value", "ours")}
    long = {("dilate", "ours", 300), ("value", "ours", 300)}
    assert found == {(*who, horizon) for who in everybody for horizon in (6, 9)} | long
    for row in rows:
        assert float(row["error"]) < (1e-6 if row["contender"] == "ours" else 1e-3)
        assert float(row["bytes_per_cell"]) == 13
        cells = int(row["batch"]) * int(row["horizon"]) ** 2
        assert float(row["ns_per_cell"]) == pytest.approx(1e6 * float(row["milliseconds"]) / cells, rel=1e-2)
        is_goal = (row["kind"], row["contender"]) == ("dilate", "ours") and row["horizon"] != "300"
        assert bool(row["goal_ms"]) == is_goal
    printed = capsys.readouterr().out
    assert "pysdtw is not installed: left out" in printed
    assert printed.count("bytes per cell: 13, goal 12: MISSED") == 5
    assert printed.count("milliseconds: ") == 2
    assert (tmp_path / "loss.png").stat().st_size > 10_000


@pytest.mark.slow
def test_times_of_a_contender_that_is_not_at_hand_are_kept_beside_ours_of_today(only_ours, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", ((3, 6),))
    monkeypatch.setattr(benchmark, "LONG", ())
    monkeypatch.setattr(benchmark, "bytes_of_call", lambda *_: None)
    ours = {"kind": "dilate", "batch": 3, "horizon": 6, "contender": "ours", "milliseconds": 7, "goal_ms": ""}
    ours |= {"ns_per_cell": 7, "times_ours": 1, "bytes_per_cell": "", "error": "0"}
    absent = ours | {"contender": "absent", "milliseconds": "900", "times_ours": "128"}
    write_csv(tmp_path / "loss.csv", [ours, absent, absent | {"horizon": "5"}], machine="of old")
    benchmark.main(["--seconds", "0", "--output", str(tmp_path)])
    with open(tmp_path / "loss.csv", newline="") as file:
        *rows, last = csv.DictReader(file)
    now = next(float(r["milliseconds"]) for r in rows if (r["kind"], r["contender"]) == ("dilate", "ours"))
    assert (last["contender"], last["milliseconds"], last["machine"]) == ("absent", "900", "of old")
    assert float(last["times_ours"]) == pytest.approx(900 / now, rel=1e-3)
    assert "absent" not in {row["contender"] for row in rows}
    assert all(row["machine"] == machine() for row in rows)


def test_goals_are_three_nanoseconds_a_cell_and_five_at_batch_one():
    goals = [benchmark.goal("dilate", "ours", *size) for size in benchmark.SIZES]
    assert goals == pytest.approx([0.27, 1.0908, 1.722864, 3.688944, 6.441456, 5.39288])
    assert benchmark.goal("shape", "ours", 100, 20) is None
    assert benchmark.goal("dilate", "plain PyTorch", 100, 20) is None


def test_verdicts_compare_with_the_goals():
    row = {"contender": "ours", "kind": "dilate", "milliseconds": "0.2", "goal_ms": "0.27", "bytes_per_cell": ""}
    assert benchmark.verdicts(row) == ["milliseconds: 0.2, goal 0.27: met"]
    assert benchmark.verdicts(row | {"milliseconds": "0.3"}) == ["milliseconds: 0.3, goal 0.27: MISSED"]
    assert benchmark.verdicts(row | {"contender": "plain PyTorch"}) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_contender_gets_its_error(only_ours, kind):
    x, y = torch.randn(2, 3, 8, 1, generator=torch.Generator().manual_seed(0))
    losses = {"ours": contenders(kind)["ours"], "worse": lambda x, y: 1.1 * plain_loss(kind)(x, y)}
    errors = benchmark.errors(kind, losses, x, y)
    assert errors["ours"] < 1e-6
    assert errors["worse"] == pytest.approx(0.1, rel=1e-2)


def test_the_released_gradient_is_batch_size_times_too_large(clone):
    x, y = torch.randn(2, 3, 6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, gradient = loss_and_gradient(released_loss(clone), x, y)
    plain_value, plain_gradient = loss_and_gradient(plain_loss("dilate"), x, y)
    torch.testing.assert_close(value, plain_value)
    torch.testing.assert_close(gradient, 3 * plain_gradient)


def test_contenders_take_turns_and_a_quick_one_is_repeated(monkeypatch):
    clock, called = [0.0], []

    def call(name, duration):
        called.append(name)
        clock[0] += duration

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    times = alternate({"quick": lambda: call("quick", 0.02), "slow": lambda: call("slow", 1.0)}, 2.0, at_least=2)
    assert times == pytest.approx({"quick": 0.02, "slow": 1.0})
    assert called == ["quick", "slow", *(["quick"] * 3 + ["slow"]) * 2]


@measures_memory
def test_measured_memory_is_that_of_the_arrays_the_kernels_work_in(monkeypatch, threads):
    threads(1)
    asked, take = [], cpu.MEMORY.take
    monkeypatch.setattr(cpu.MEMORY, "take", lambda size: asked.append(size) or take(size))
    run("dilate", contenders("dilate")["ours"], *torch.randn(2, 8, 400, 1))
    measured = memory.bytes_of_call("dilate", "ours", 8, 400, threads=1)
    assert math.isclose(measured, sum(asked), rel_tol=0.2)


@pytest.mark.slow
@measures_memory
def test_memory_of_plain_pytorch_and_of_a_clone(clone):
    cells = 4 * 64**2
    assert memory.bytes_of_call("dilate", "plain PyTorch", 4, 64) > 40 * cells  # ten float32 for each cell, at least
    assert memory.bytes_of_call("dilate", "released code", 1, 12, original=clone) > 0


@measures_memory
def test_a_contender_that_fails_says_so():
    with pytest.raises(RuntimeError, match=r"nobody fails at \(2, 5\)"):
        memory.bytes_of_call("dilate", "nobody", 2, 5)


@pytest.mark.slow
def test_a_peer_in_numba_leaves_torch_its_number_of_threads():
    program = (
        "import torch; from benchmarks.common import loss_and_gradient, use_threads\n"
        "from benchmarks.contenders import contenders\n"
        "use_threads(1); print(torch.get_num_threads())  # torch settles its number when it is first asked\n"
        "loss_and_gradient(contenders('shape')['tslearn'], *torch.randn(2, 2, 5, 1)); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=memory.ROOT, capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if line.isdecimal()] == ["1", "1"], done.stderr
