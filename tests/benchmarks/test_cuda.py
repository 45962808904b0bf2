"""The benchmark on a GPU: what it says without one, and, with a clock and a device that are none, all the rest."""

import csv
import sys

import pytest
import torch

from benchmarks import cuda as benchmark

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")

PEER = """
import torch

class SoftDTW(torch.nn.Module):
    def __init__(self, use_cuda, gamma):
        super().__init__()
        from loss import SoftDTWLoss
        self.loss = SoftDTWLoss(gamma, "none")
        assert use_cuda

    def forward(self, x, y):
        {body}
"""


@pytest.fixture
def peer(tmp_path):
    def write(name, body):
        (tmp_path / f"{name}.py").write_text(PEER.format(body=body))
        return tmp_path / f"{name}.py"

    return write


@pytest.fixture
def pretended(monkeypatch):
    """A CPU as the GPU, and calls that all take a millisecond and a megabyte."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "pysdtw", None)
    for name, stand_in in {
        "DEVICE": torch.device("cpu"),
        "machine": lambda: "a GPU",
        "captured": lambda call: call,
        "milliseconds": lambda call: 1.0,
        "megabytes": lambda call: 1.0,
        "SIZES": ((100, 20, 1), (3, 12, 2)),
        "LONGEST": 15,
    }.items():
        monkeypatch.setattr(benchmark, name, stand_in)


@without_gpu
def test_without_a_gpu_there_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        benchmark.main([])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("pretended")
def test_everybody_is_verified_timed_and_written(peer, tmp_path, capsys):
    peers = peer("right", "return self.loss(x, y)"), peer("wrong", "return 2 * self.loss(x, y)")
    peers += (peer("broken", "raise TypeError('not with this numba')"),)
    benchmark.main(["--seconds", "0", "--output", str(tmp_path), *(f"--peer={path}" for path in peers)])
    with open(tmp_path / "cuda.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    ours, others = {"ours", "ours, captured"}, {"right", "wrong"}
    found = {(row["kind"], row["contender"], int(row["horizon"])) for row in rows}
    expected = {(kind, name, horizon) for kind in ("dilate", "shape") for name in ours for horizon in (20, 12)}
    assert found == expected | {("shape", name, 12) for name in others}  # 20 is too long for others here
    for row in rows:
        assert row["machine"] == "a GPU"
        assert float(row["error"]) == pytest.approx(1.0 if row["contender"] == "wrong" else 0.0, abs=1e-5)
    printed = capsys.readouterr().out
    assert "broken fails at (3, 12, 2) and is left out: TypeError: not with this numba" in printed
    assert printed.count("milliseconds: 1, goal 0.04: MISSED") == 2
    assert printed.count("times ours: 1, goal 10: MISSED") == 2
    assert "pysdtw is not installed" in printed


@pytest.mark.usefixtures("pretended")
def test_a_wrong_gradient_of_ours_is_not_timed(monkeypatch):
    loss = benchmark.SoftDTWLoss(0.01)
    monkeypatch.setattr(benchmark, "run", lambda kind, loss, x, y: x if x.dtype == torch.float64 else 1.1 * x)
    with pytest.raises(SystemExit, match="Our gradient is wrong"):
        benchmark.bench("shape", {"ours": loss}, (2, 5, 1), 0)


def test_a_peer_must_have_a_class(tmp_path):
    (tmp_path / "empty.py").touch()
    for path, message in ((tmp_path / "none.py", "there is no"), (tmp_path / "empty.py", "has none")):
        with pytest.raises(SystemExit, match=message):
            benchmark.class_of(path)


def test_verdicts_compare_with_the_goals():
    row = {"kind": "dilate", "batch": 32, "horizon": 512, "variables": 64, "contender": "ours", "milliseconds": "3"}
    assert benchmark.verdicts(row | {"megabytes": "220"}) == ["megabytes: 220, goal 230: met"]
    assert benchmark.verdicts(row | {"megabytes": "240"}) == ["megabytes: 240, goal 230: MISSED"]
    row |= {"variables": 1, "megabytes": ""}
    assert benchmark.verdicts(row | {"milliseconds": "0.7"}) == ["milliseconds: 0.7, goal 0.8: met"]
    assert benchmark.verdicts(row | {"contender": "pysdtw", "times_ours": "12"}) == ["times ours: 12, goal 10: met"]
