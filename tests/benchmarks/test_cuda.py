"""The benchmark on a GPU, with a clock and a device that are none, and the counts that need no GPU."""

import csv
import importlib.util
import shutil
import sys

import pytest
import torch

from benchmarks import cuda as benchmark
from benchmarks import cuda_counts

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


# ------------------------------------------------------------------------------------ counts

SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   MOV R2, R3 ;
.L_x_2:
        /*0020*/                   SHFL.UP PT, R2, R2, 0x1, RZ ;
        /*0030*/              @P0  IADD3 R2, R2, R3, RZ ;
        /*0040*/              @!P1 BRA `(.L_x_2) ;
.L_x_3:
        /*0050*/                   IMAD R2, R2, R3, RZ ;
        /*0060*/               @P1 BRA `(.L_x_3) ;
        /*0070*/                   BRA `(.L_x_1) ;
.L_x_4:
        /*0080*/                   SHFL.DOWN PT, R2, R2, 0x1, 0x1f ;
        /*0090*/               @P3 BRA `(.L_x_4) ;
        /*00a0*/                   BRA `(.L_x_5) ;
.L_x_5:
        /*00b0*/                   EXIT ;
"""


def test_loops_are_the_innermost_ones_with_a_shuffle():
    names = {way: [known.name for known in body] for way, body in cuda_counts.loops(SASS).items()}
    assert names == {"forward": ["SHFL.UP", "IADD3", "BRA"], "backward": ["SHFL.DOWN", "BRA"]}


@pytest.mark.parametrize(
    ("line", "writes", "reads"),
    [
        ("DADD R12, -R76, R50", {"R12", "R13"}, {"R76", "R77", "R50", "R51"}),
        ("FSEL R13, R51.reuse, 1, !P5", {"R13"}, {"R51", "P5"}),
        ("@P4 LDG.E.64 R70, desc[UR10][R16.64+0x8]", {"R70", "R71"}, {"R16", "R17", "UR10", "UR11", "P4"}),
        ("STG.E desc[UR10][R18.64], R87", set(), {"UR10", "UR11", "R18", "R19", "R87"}),
        ("DSETP.GEU.AND P4, PT, R50, R76, PT", {"P4"}, {"R50", "R51", "R76", "R77"}),
        ("F2F.F64.F32 R50, R87", {"R50", "R51"}, {"R87"}),
        ("F2F.F32.F64 R12, R14", {"R12"}, {"R14", "R15"}),
        ("@!P4 BRA `(.L_x_31)", set(), {"P4"}),
    ],
)
def test_an_instruction_names_its_registers(line, writes, reads):
    known = cuda_counts.instruction(f"        /*0010*/                   {line} ;")
    assert (set(known.writes), set(known.reads)) == (writes, reads)


@pytest.mark.parametrize(("dependent", "of_one", "of_four"), [(True, 60, 70), (False, 24, 64)])
def test_a_scheduler_hides_latencies_behind_other_warps(dependent, of_one, of_four):
    """Four shuffles, four cycles of a pipe each, and six additions: two of a pipe each, ten until the result."""
    lines = [f"SHFL.UP PT, R{40 + k}, R{50 + k}, 0x1, RZ" for k in range(4)]
    lines += [f"DADD R{0 if dependent else 2 * k}, R{0 if dependent else 20}, R30" for k in range(6)]
    body = tuple(cuda_counts.instruction(f"        /*0010*/   {line} ;") for line in lines)
    assert cuda_counts.cycles_of_a_step(body, 1, 1.0) == pytest.approx(of_one, rel=0.1)
    assert cuda_counts.cycles_of_a_step(body, 4, 1.0) == pytest.approx(of_four, rel=0.1)


@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="needs numba-cuda (requirements-cuda.txt)")
def test_a_batch_takes_its_rounds_and_barriers():
    """Two warps, the second one LAG chunks behind: the rounds of one warp and of two on different schedulers."""
    from loss.kernels import cuda

    shuffles = tuple(cuda_counts.Instruction("SHFL", (f"R{k}",), ()) for k in range(4))
    kind = cuda.Kind("float32", **cuda_counts.KIND)
    plan = cuda.make_plan((1, 64, 64, 1), kind, True, False, cuda.Limits(132))
    assert (plan.warps, plan.segments) == (2, 1)
    steps = {"forward": shuffles, "backward": shuffles}
    of_a_step = cuda_counts.cycles_of_a_step(shuffles, 1, 1.0)
    cycles = 2 * (plan.steps // cuda.CHUNK + cuda.LAG) * (cuda.CHUNK * of_a_step + cuda_counts.BARRIER)
    found = cuda_counts.played(steps, 64, plan, 1, 1.0)
    assert found == pytest.approx(cycles / cuda_counts.HERTZ * 1e3)


@pytest.mark.parametrize("given", ["20", "0x20", "100x", "100x20x3", "axb", "²x2"])
def test_a_size_is_batch_and_horizon(given, capsys):
    with pytest.raises(SystemExit) as end:
        cuda_counts.main(["--sizes", given])
    assert end.value.code == 2
    assert f"must be BATCHxHORIZON, two whole numbers of at least 1, got {given!r}" in capsys.readouterr().err


MOST = {(100, 20): 1.4 * 9_430, (128, 96): 1.4 * 29_767}  # times those of a prototype without most features


@pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None or shutil.which("gcc") is None,
    reason="needs numba-cuda (requirements-cuda.txt) and gcc",
)
def test_the_busiest_thread_executes_few_instructions():
    from loss.kernels import cuda
    from tests.oracles.ptx import pretended_h100

    with pretended_h100():
        ptx = cuda.compile_ptx(cuda.Kind("float32", **cuda_counts.KIND))
    for (batch, horizon), most in MOST.items():
        row = cuda_counts.executed(batch, horizon, ptx, {})
        assert horizon < int(row["PTX instructions"].replace(",", "")) <= most
