"""Run compiled CUDA kernels without a GPU: their PTX, translated to C, thread by thread, every memory access checked.

    program = Program(ptx)
    findings = program.launch(blocks, threads, (x, n), (result,))
    assert findings.clean, findings.messages

Needs gcc. Atomics, votes, fences, named barriers and shuffles of a part of a warp are refused. Not shown are the
GPU's own roundings of approximations (see ``approximation``), the compiler from PTX to machine code, and time.
"""

import ctypes
import functools
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch

from tests.oracles.ptx.translate import Translator, parameter_kinds

GCC = ["gcc", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off", "-fwrapv", "-fno-strict-aliasing"]
GCC += ["-U_FORTIFY_SOURCE"]  # whose longjmp takes the change to another fibre for a fault
FORMATS = dict.fromkeys(("u64", "s64", "b64"), "q") | dict.fromkeys(("u32", "s32", "b32"), "i")
FORMATS |= dict.fromkeys(("u8", "s8", "b8"), "?") | {"f64": "d", "f32": "f"}
VALUES = {"q": (torch.Tensor, type(None), int), "i": (int,), "?": (bool,), "d": (float,), "f": (float,)}

Value = torch.Tensor | int | float | bool | None


def pretended_h100() -> mock._patch:
    """A context in which numba compiles for an H100 where there is no GPU."""
    h100 = SimpleNamespace(compute_capability=(9, 0))
    return mock.patch("numba.cuda.dispatcher.get_current_device", return_value=h100)


class _Region(ctypes.Structure):
    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("written", ctypes.c_int64),
        ("words", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Findings:
    """What a launch did; ``messages`` says where in the PTX the first of each sort happened."""

    races: int  # accesses to memory that nothing orders after another access, where one of them is a write
    out_of_bounds: int  # accesses outside of the launch's memory, or not aligned to their size
    unwritten_reads: int  # reads of outputs or shared memory that nothing was written to
    divergent: int  # barriers, or shuffles of a warp, that only a part of the threads reached: the block ends there
    barriers: int  # over all blocks
    shuffles: int  # over all warps
    instructions_of_busiest_thread: int  # 0 unless the program counts them
    messages: list[str]

    @property
    def clean(self) -> bool:
        return not (self.races or self.out_of_bounds or self.unwritten_reads or self.divergent)


class Program:
    """The only kernel of a PTX, compiled for the CPU; the same text is compiled once in a process.

    Args:
        ptx: The text, as ``numba.cuda.compile`` returns it.
        counted: Count the instructions of each thread.

    Raises:
        ValueError: An instruction of the PTX is not known; the message names it.
    """

    def __init__(self, ptx: str, counted: bool = False):
        self._lines, self._kinds, self._library = ptx.split("\n"), parameter_kinds(ptx), _build(ptx, counted)

    def launch(
        self,
        blocks: int,
        threads: int,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        shared_bytes: int = 0,
        approximation: int = 0,
    ) -> Findings:
        """Run the kernel on a grid of one dimension.

        Args:
            blocks: The number of blocks.
            threads: The number of threads of a block.
            inputs: The first parameters: contiguous tensors of the CPU, whose memory counts as written, or None for a
                null pointer; integers, floats, bools.
            outputs: The other parameters, likewise, but their memory counts as not yet written.
            shared_bytes: The size of dynamic shared memory.
            approximation: 0: ``ex2``, ``lg2``, ``rcp`` and ``div.approx`` are exact but for rounding. 1: they have
                random errors of up to 2**-22. 2: likewise, but ``lg2`` is always too large by 2**-22.

        Raises:
            TypeError: A value does not fit the type of its parameter.
            ValueError: The number of values is not that of parameters; a tensor is not contiguous or not of the CPU.
        """
        values = (*inputs, *outputs)
        if len(values) != len(self._kinds):
            raise ValueError(f"the kernel has {len(self._kinds)} parameters, got {len(values)} values")
        parameters = b"".join(map(_packed, range(len(values)), self._kinds, values))
        regions = [_Region(), _Region()]  # filled by the runtime
        for k, value in enumerate(values):
            if isinstance(value, torch.Tensor):
                regions.append(_Region(value.data_ptr(), value.nbytes, k < len(inputs)))
        messages = ctypes.create_string_buffer(4096)  # MESSAGE_BYTES
        memory = (_Region * len(regions))(*regions), len(regions)
        counts = self._library.launch(parameters, blocks, threads, shared_bytes, *memory, approximation, messages)
        text = re.sub(r"line (\d+)", self._with_line, messages.value.decode())
        return Findings(*counts[:7], text.splitlines())

    def _with_line(self, number: re.Match) -> str:
        return f"{number[0]} ({' '.join(self._lines[int(number[1]) - 1].split())})"


def _packed(position: int, kind: str, value: Value) -> bytes:
    """The eight bytes of a parameter; those past a shorter value must not matter."""
    if not isinstance(value, VALUES[FORMATS[kind]]) or (isinstance(value, bool) and FORMATS[kind] != "?"):
        raise TypeError(f"parameter {position} of the kernel is of type {kind}, got {type(value).__name__}")
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu" or not value.is_contiguous():
            raise ValueError(f"the tensor of parameter {position} must be contiguous, and of the CPU")
        value = value.data_ptr()
    return struct.pack(FORMATS[kind], 0 if value is None else value).ljust(8, b"\xcc")


@functools.cache
def _build(ptx: str, counted: bool) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernel.c"), Path(folder, "kernel.so")
        source.write_text(Translator(ptx, counted).program())
        subprocess.run([*GCC, "-I", Path(__file__).parent, source, "-o", library, "-lm"], check=True)
        loaded = ctypes.CDLL(library)
    loaded.launch.restype = ctypes.POINTER(ctypes.c_int64)
    return loaded
