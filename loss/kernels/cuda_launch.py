"""How the kernels of :mod:`.cuda` are compiled, kept on disk, and launched on torch's current stream.

numba compiles a kernel to PTX, and NVIDIA's cuda.core links and launches it: it takes plain numbers for arguments,
where numba's own launch takes some fifty microseconds for them. The machine code is kept beside that of the CPU's
kernels, under a name with all that it depends on.
"""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from cuda.core import Kernel, LaunchConfig, ObjectCode, Program, ProgramOptions, Stream
from cuda.core import launch as launch_kernel
from numba import config, cuda
from torch import Tensor

THREADS = 512  # of a block, at most, which leaves 128 registers to each


def compile_ptx(kernel: Callable, signature: tuple, capability: tuple[int, int]) -> str:
    """A kernel as PTX for a compute capability; needs no GPU."""
    options = {"device": False, "abi": "numba", "cc": capability, "launch_bounds": (THREADS, 1)}
    return cuda.compile(kernel, signature, **options)[0]


@cache
def cache_folder() -> Path | None:
    """Where machine code is kept: where numba keeps that of the CPU's kernels; None if there is no place."""
    folder = Path(config.CACHE_DIR or Path(__file__).parent / "__pycache__")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


@cache
def _versions() -> str:
    """A short name for the sources of all kernels and for what compiles them."""
    here = Path(__file__).parent
    sources = b"".join((here / name).read_bytes() for name in ("cuda.py", "cuda_launch.py", "cells.py"))
    compilers = ((name, version(name)) for name in ("numba", "numba-cuda", "cuda-core"))
    return hashlib.sha256(sources + repr((sys.version_info[:2], *compilers)).encode()).hexdigest()[:16]


def machine_code(name: str, make_ptx: Callable[[], str], capability: tuple[int, int]) -> bytes:
    """The cubin of a kernel for a compute capability: from disk, or else compiled, linked and kept there."""
    architecture = "sm_{}{}".format(*capability)
    file = cache_folder() and cache_folder() / f"cuda-{name}-{architecture}-{_versions()}.cubin"
    if file and file.exists():
        return file.read_bytes()
    code = Program(make_ptx(), "ptx", ProgramOptions(arch=architecture)).compile("cubin").code
    if file:
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as written:
            written.write(code)
        os.replace(written.name, file)
    return code


def load(code: bytes) -> Kernel:
    """The kernel of a cubin, ready to be launched."""
    entry = re.search(rb"\.nv\.constant0\.(\w+)", code)[1]  # the section of its arguments; functions have none
    return ObjectCode.from_cubin(code).get_kernel(entry.decode())


@cache
def _configuration(blocks: int, threads: int) -> LaunchConfig:
    return LaunchConfig(grid=blocks, block=threads)


@cache
def _stream(handle: int) -> Stream:
    return Stream.from_handle(handle)


def launch(
    kernel: Kernel,
    blocks: int,
    threads: int,
    inputs: Sequence[Tensor | None],
    numbers: Sequence[int | bool],
    outputs: Sequence[Tensor | None],
) -> None:
    """Run a kernel on torch's current stream of the current device; its arguments are tensors, numbers, tensors."""
    stream = _stream(torch.cuda.current_stream().cuda_stream)
    arguments = (*map(_address, inputs), *numbers, *map(_address, outputs))
    launch_kernel(stream, _configuration(blocks, threads), kernel, *arguments)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
