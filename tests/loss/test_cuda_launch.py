"""What a launch of the CUDA kernels hands to the driver, and what it needs before; the driver here launches nothing.

Skipped where numba-cuda (requirements-cuda.txt) or gcc is missing, and where a real driver is there.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from textwrap import dedent

import pytest
import torch

from tests.helpers import ROOT

if importlib.util.find_spec("numba_cuda") is None or shutil.which("gcc") is None:
    pytest.skip("needs numba-cuda (requirements-cuda.txt) and gcc", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("tests/loss/test_cuda.py launches on the GPU that is there", allow_module_level=True)

import numba.cuda

if not numba.cuda.nvvm.is_available():
    pytest.skip("needs the compiler of CUDA (requirements-cuda.txt)", allow_module_level=True)

WITH_A_DRIVER = """
from tests.oracles.driver import Driver

driver = Driver()
"""
IMPORTS = """
import warnings
import torch
from loss.kernels import cuda, cuda_launch, has_kernels
from loss.kernels.lattice import MANY
from tests.helpers import arguments, series
"""


def run(cache, code, before=WITH_A_DRIVER, imports=IMPORTS):
    """Run code in a process of its own, whose machine code is kept in a folder."""
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(map(dedent, (before, imports, code)))]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NUMBA_CACHE_DIR": str(cache)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder where the machine code of the smallest kernel is kept."""
    folder = tmp_path_factory.mktemp("machine_code")
    run(folder, "assert has_kernels(torch.device('cuda'))")
    assert len(list(folder.glob("*.cubin"))) == 1
    return folder


SWEEP = """
def bits(value):
    return 0 if value is None else value.data_ptr() if isinstance(value, torch.Tensor) else value % 2**64

def launch(kind, blocks, threads, problem, results):
    driver.parameters = len(problem) + len(results)
    cuda.launch(kind, blocks, threads, problem, results)
    assert len(driver.values) == driver.parameters
    for value, given in zip((*problem, *results), driver.values, strict=True):
        assert bits(value) == (given & 0xFF if isinstance(value, bool) else given), (value, given)
    assert (list(driver.config.grid), list(driver.config.block)) == ([blocks, 1, 1], [threads, 1, 1])
    assert (driver.config.stream, driver.config.shared_bytes) == (driver.stream.cuda_stream, 0)

def sweep(batch, variables=2):
    cuda.sweep(*arguments(*series(batch, 40, 33, variables, torch.float32)), cuda.Limits(132), launch)
"""


def test_the_driver_is_given_all_arguments_on_the_current_stream_and_a_second_process_compiles_nothing(cache):
    first = """
    compiled, linked = [], []
    compile_ptx, program = cuda.compile_ptx, cuda_launch.Program
    cuda.compile_ptx = lambda *args: compiled.append(compile_ptx(*args)) or compiled[-1]
    cuda_launch.Program = lambda ptx, *args: linked.append(ptx) or program(ptx, *args)
    sweep(batch=5)
    assert linked == compiled  # as tests/loss/test_cuda_executed.py compiles it
    assert driver.launches == len(linked) == 1
    driver.stream.cuda_stream = 0x3000
    sweep(batch=3)
    assert (driver.launches, len(linked)) == (2, 1)
    sweep(batch=3, variables=MANY)  # the costs, their sweep, both terms by x and by y
    assert (driver.launches, len(linked)) == (8, 4)
    """
    second = """
    cuda_launch.compile_ptx = cuda_launch.Program = None
    sweep(batch=5)
    assert driver.launches == 1
    """
    run(cache, SWEEP + dedent(first))
    run(cache, SWEEP + dedent(second))


WITHOUT_A_DRIVER = """
import torch

torch.cuda.current_device, torch.cuda.get_device_capability = lambda: 0, lambda device=None: (9, 0)
"""
WITHOUT_THE_REDIRECT = """
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "numba_cuda" not in type(finder).__module__]
"""
WITHOUT_A_LIBRARY = """
from importlib import import_module
import cuda.pathfinder

load = cuda.pathfinder.load_nvidia_dynamic_lib

def load_others(name):
    if name == "{0}":
        raise cuda.pathfinder.DynamicLibNotFoundError("no {0}")
    return load(name)

cuda.pathfinder.load_nvidia_dynamic_lib = load_others
import_module("cuda.pathfinder._dynamic_libs.load_nvidia_dynamic_lib").load_nvidia_dynamic_lib = load_others
"""
ANNOUNCED_ONCE = """
import warnings
import torch
from loss.kernels import has_kernels

with warnings.catch_warnings(record=True) as announced:
    warnings.simplefilter("always", UserWarning)
    assert not has_kernels(torch.device("cuda"))
    assert not has_kernels(torch.device("cuda"))
(reason,) = [str(warning.message) for warning in announced if "DILATE" in str(warning.message)]
assert "cannot be compiled and loaded" in reason, reason
"""
HALVES = {
    "driver": WITHOUT_A_DRIVER,
    "redirect of numba-cuda": WITH_A_DRIVER + WITHOUT_THE_REDIRECT,
    "nvvm": WITH_A_DRIVER + WITHOUT_A_LIBRARY.format("nvvm"),
    "nvrtc": WITH_A_DRIVER + WITHOUT_A_LIBRARY.format("nvrtc"),
    "cuda.core": WITH_A_DRIVER + "import sys\nsys.modules['cuda.core'] = None",
    "cuda.bindings": WITH_A_DRIVER + "import sys\nsys.modules['cuda.bindings'] = None",
}


@pytest.mark.parametrize("missing", HALVES)
def test_a_half_installed_machine_is_announced_once_though_a_kernel_is_on_disk(cache, missing):
    run(cache, ANNOUNCED_ONCE, HALVES[missing], imports="")


def test_a_machine_without_a_linker_is_announced_once(tmp_path):
    run(tmp_path, ANNOUNCED_ONCE, WITH_A_DRIVER + WITHOUT_A_LIBRARY.format("nvJitLink"), imports="")
