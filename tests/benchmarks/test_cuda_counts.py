"""The counts of the CUDA kernel: what the loops of a disassembly are, and how much a thread may execute."""

import importlib.util
import shutil

import pytest

from benchmarks import cuda_counts

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
    assert cuda_counts.loops(SASS) == [["SHFL.UP", "IADD3", "BRA"], ["SHFL.DOWN", "BRA"]]


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
        row = cuda_counts.executed(batch, horizon, ptx)
        assert horizon < int(row["PTX instructions"].replace(",", "")) <= most
