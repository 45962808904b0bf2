"""The CUDA kernels pass numba's type checks and compile for a GPU, which needs none.

The simulator does neither. Skipped where numba-cuda and its compiler are not installed.
"""

import importlib.util
import re
from types import SimpleNamespace

import pytest
from numba import config, float32, float64

if config.ENABLE_CUDASIM or importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("needs numba-cuda (requirements-cuda.txt), not simulated", allow_module_level=True)

import numba.cuda

from loss.kernels import cuda

if not numba.cuda.nvvm.is_available():
    pytest.skip("needs the compiler of CUDA (requirements-cuda.txt)", allow_module_level=True)


@pytest.mark.parametrize("number", [float32, float64])
@pytest.mark.parametrize("shared", [True, False])
def test_kernels_compile_for_an_h100(monkeypatch, number, shared):
    h100 = SimpleNamespace(compute_capability=(9, 0))
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: h100)
    ptx, _ = numba.cuda.compile_ptx(cuda.make_kernel(number, shared), cuda.signature(number), cc=(9, 0))
    entry = re.search(r"\.entry [^{]*", ptx)[0]
    kinds = {cuda.Numbers: "u64", cuda.Doubles: "u64", cuda.Integers: "u64", int: "u64", float: "f64", bool: "u8"}
    fields = [kind for part in (cuda.Problem, cuda.Plan, cuda.Results) for kind in part.__annotations__.values()]
    assert re.findall(r"\.param \.(\w+)", entry) == [kinds[kind] for kind in fields]
    assert "bar.sync" in ptx
    assert not re.search(r"\batom\.|\bred\.", ptx)  # results must be the same every time
    assert (".shared" in ptx) == shared
