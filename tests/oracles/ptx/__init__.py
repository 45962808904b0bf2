"""Run compiled CUDA kernels without a GPU: their PTX, translated to C, thread by thread, every memory access checked.

    program = Program(ptx)
    findings = program.launch(blocks, threads, (x, n), (result,))
    assert findings.clean, findings.messages

Needs gcc. Not covered: atomics, named barriers, warp instructions of some lanes only, the GPU's own roundings of its
approximations (but see ``approximation``), the compiler from PTX to machine code, and time.
"""

import ctypes
import functools
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .translate import parameter_kinds, to_c

Value = torch.Tensor | int | float | bool | None

GCC = ["gcc", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off", "-fwrapv", "-fno-strict-aliasing"]
GCC += ["-U_FORTIFY_SOURCE"]  # whose longjmp would take the change to another fibre for a fault
POINTER_OR_INT = ("q", (torch.Tensor, type(None), int))
PARAMETERS = {  # by their type in PTX: the format of `struct`, and what Python may give
    **dict.fromkeys(("u64", "s64", "b64"), POINTER_OR_INT),
    **dict.fromkeys(("u32", "s32", "b32"), ("i", (int,))),
    **dict.fromkeys(("u8", "s8", "b8"), ("?", (bool,))),
    "f64": ("d", (float,)),
    "f32": ("f", (float,)),
}


class _Region(ctypes.Structure):
    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("written", ctypes.c_int64),
        ("words", ctypes.c_void_p),
    )


class _Message(ctypes.Structure):
    _fields_ = (
        ("what", ctypes.c_char_p),
        *((name, ctypes.c_int64) for name in ("line", "block", "thread", "other_line", "other_thread")),
    )


class _Findings(ctypes.Structure):
    counts = (
        "races",
        "out_of_bounds",
        "unwritten_reads",
        "divergent",
        "barriers",
        "shuffles",
        "instructions",
        "messages",
    )
    _fields_ = (*((name, ctypes.c_int64) for name in counts), ("message", _Message * 8))


@dataclass(frozen=True)
class Findings:
    """What a launch did.

    Attributes:
        races: Unordered accesses to one word of memory, at least one of them a write.
        out_of_bounds: Accesses outside of the launch's memory, or not aligned to their size.
        unwritten_reads: Reads of words of outputs, shared or local memory that nothing was written to.
        divergent: Barriers that some threads of the block wait at while others wait at another, and shuffles, votes
            and barriers of a warp that not all of its lanes reach. The block ends there.
        barriers: Over all blocks.
        shuffles: Over all warps.
        instructions_of_busiest_thread: Of a program that is ``counted``, else None.
        messages: Up to eight findings at different lines of the PTX.
    """

    races: int
    out_of_bounds: int
    unwritten_reads: int
    divergent: int
    barriers: int
    shuffles: int
    instructions_of_busiest_thread: int | None
    messages: list[str]

    @property
    def clean(self) -> bool:
        return not (self.races or self.out_of_bounds or self.unwritten_reads or self.divergent)


class Program:
    """The only kernel of a PTX, compiled for the CPU once in a process.

    Args:
        ptx: The text, as ``numba.cuda.compile`` returns it.
        counted: Count the instructions of each thread, which takes longer.

    Raises:
        ValueError: An instruction of the PTX is not known; the message names it.
    """

    def __init__(self, ptx: str, counted: bool = False):
        self.lines, self.counted = ptx.split("\n"), counted
        self.kinds = parameter_kinds(ptx)
        self._library = _build(ptx, counted)

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
            inputs: The first parameters: contiguous CPU tensors, whose memory counts as written, or None; integers,
                floats and bools.
            outputs: The other parameters, likewise, but their memory counts as not yet written.
            shared_bytes: The size of dynamic shared memory.
            approximation: 0: ``ex2``, ``lg2``, ``rcp`` and ``div.approx`` are right to the last bit or so. 1: random
                errors of up to 2**-22. 2: the same, but ``lg2`` is always too large by 2**-22.

        Raises:
            TypeError: A value does not fit the kernel's parameter, or the number of values is not that of parameters.
            ValueError: A tensor is not contiguous, or not on the CPU.
        """
        values = (*inputs, *outputs)
        if len(values) != len(self.kinds):
            raise TypeError(f"the kernel has {len(self.kinds)} parameters, got {len(values)} values")
        parameters = [_packed(k, kind, value) for k, (kind, value) in enumerate(zip(self.kinds, values, strict=True))]
        regions = [_Region(), _Region()]  # local and shared memory
        for given, written in ((inputs, 1), (outputs, 0)):
            tensors = (value for value in given if isinstance(value, torch.Tensor))
            regions += (_Region(tensor.data_ptr(), tensor.nbytes, written) for tensor in tensors)
        buffers = [ctypes.create_string_buffer(parameter, len(parameter)) for parameter in parameters]
        found = self._library.launch(
            (ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers)),
            blocks, threads, shared_bytes, (_Region * len(regions))(*regions), len(regions), approximation,
        ).contents  # fmt: skip
        return Findings(
            found.races, found.out_of_bounds, found.unwritten_reads, found.divergent, found.barriers, found.shuffles,
            found.instructions if self.counted else None,
            [self._text(message) for message in found.message[: found.messages]],
        )  # fmt: skip

    def _text(self, message: _Message) -> str:
        text = f"{message.what.decode()}: block {message.block}, thread {message.thread}, {self._line(message.line)}"
        return (
            f"{text}; and thread {message.other_thread}, {self._line(message.other_line)}"
            if message.other_line
            else text
        )

    def _line(self, number: int) -> str:
        return f"line {number}: {' '.join(self.lines[number - 1].split())}"


def _packed(position: int, kind: str, value: Value) -> bytes:
    """The eight bytes of a parameter; those past a shorter value must not matter."""
    code, types = PARAMETERS[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and code != "?"):
        raise TypeError(f"parameter {position} of the kernel is {kind}, got {type(value).__name__}")
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu" or not value.is_contiguous():
            raise ValueError(f"parameter {position} must be a contiguous tensor of the CPU")
        value = value.data_ptr()
    return struct.pack(code, value or 0).ljust(8, b"\xcc")


@functools.cache
def _build(ptx: str, counted: bool) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernel.c"), Path(folder, "kernel.so")
        source.write_text(to_c(ptx, counted))
        command = [*GCC, "-I", str(Path(__file__).parent), str(source), "-o", str(library), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        loaded = ctypes.CDLL(str(library))
    loaded.launch.restype = ctypes.POINTER(_Findings)
    return loaded
