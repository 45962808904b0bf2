"""What a sweep is given: a block of numbers, which threads that know nothing of Python can read.

To hand twenty arrays to a compiled function, and work to a thread of Python's, takes longer than a small sweep does.
So arrays are given by their addresses, 0 for one that a call does not need, and whoever makes a call keeps them.
"""

import ctypes
import struct
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple, get_type_hints

import numpy as np
import torch
from numba import carray, types
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype
from torch import Tensor

from .jit import compile_c, jit


class Call(NamedTuple):
    """A batch to sweep over, where the results go, and how the work is cut up.

    In the comments, addresses have the shapes of their arrays; ``terms`` is 2 where V and V_dot are kept apart and
    both are wanted, else 1. Numbers are those of the input's precision, but for the ones said to be float64.
    """

    next_ticket: int  # counters that the threads of a call share, 0 in the beginning
    next_thread: int

    # the problem
    batch: int
    N: int
    M: int
    C: int
    of_series: bool  # is the cost that of two series, or given?
    cost_scale: float  # the cost of a cell is cost_scale * Delta + omega_in_cost * Omega (Eq. 5: alpha, 1 - alpha)
    omega_in_cost: float
    omegas: int  # matrices in Omega
    gamma: float
    dual: bool  # sweep the dual part too?
    apart: bool  # keep V and V_dot apart, or return weight * V + weight_dot * V_dot and its derivatives?
    weight: float
    weight_dot: float
    want_x: bool
    want_y: bool
    want_D: bool
    want_gamma: bool
    backward: bool  # any of these

    # its arrays
    x: int  # (batch, N, C) predictions
    y: int  # (batch, M, C) targets
    D: int  # (batch, N, M) costs, if they are given
    toeplitz: int  # (N + M - 1,) float64: Omega(h, j) at h - j + M - 1, if it depends on h - j alone
    Omega: int  # (1 or batch, N, M) float64, otherwise
    omega_scale: int  # (batch,) float64, factor of Omega for each pair; 0: 1
    n: int  # (batch,) int64, true lengths of x; 0: N
    m: int  # (batch,) int64, true lengths of y; 0: M

    # the results; where V and V_dot are kept apart, derivatives are those of V and, with the dual part, of V_dot
    value: int  # (batch,)
    value_dot: int  # (batch,), zeros without the dual part; only where they are kept apart
    d_x: int  # (terms, batch, N, C)
    d_y: int  # (terms, batch, M, C)
    E: int  # (terms, batch, N, M)
    d_gamma: int  # (2, batch) float64; the first row alone where V and V_dot are not kept apart

    # memory to work in
    doubles: int  # (threads, room_for_doubles) float64
    numbers: int  # (threads, room_for_numbers)

    # the plan
    lo: int  # (N + M,) int64, first cell i of each row, and of an empty one after the last
    hi: int  # (N + M,) int64, last cell i of each row
    start: int  # (N + M + 1,) int64, where a row begins in the table of weights, in cells
    parts: int  # int64, where the parts of a tile's memory begin, three in `numbers`, the others in `doubles`
    tile: int  # pairs in a tile
    rows: int  # rows in a segment
    stride: int  # distance of two rows of V
    table: int  # size of each of the five parts of the table of weights
    bytes_of_a_number: int
    room_for_numbers: int
    room_for_doubles: int

    # where it is one pair cut into halves
    end: int = 0  # the last row of a half
    starts: int = 0  # (2, 2, N) float64, see `tile.go_back`


class Inputs(NamedTuple):
    """The arrays of a problem, in the order of their addresses in a `Call`; None for those that are not given."""

    x: Tensor | None
    y: Tensor | None
    D: Tensor | None
    toeplitz: Tensor | None
    Omega: Tensor | None
    omega_scale: Tensor
    n: Tensor
    m: Tensor


class Results(NamedTuple):
    """The arrays to write, likewise."""

    value: Tensor
    value_dot: Tensor
    d_x: Tensor | None
    d_y: Tensor | None
    E: Tensor | None
    d_gamma: Tensor | None


def addresses(arrays: Iterable[Tensor | None]) -> list[int]:
    """Where arrays are, 0 for one that has no numbers."""
    return [0 if array is None else array.data_ptr() for array in arrays]


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
_FIELDS = get_type_hints(Call)
_PACKED = struct.Struct("".join("d" if kind is float else "q" for kind in _FIELDS.values()))
_SIZE = _PACKED.size + 8  # of a call in a block; the last 8 bytes only have a type


def pack(*calls: Call) -> ctypes.Array:
    """A block that holds these calls, one after the other."""
    block = (ctypes.c_char * (len(calls) * _SIZE))()
    for k, call in enumerate(calls):
        _PACKED.pack_into(block, k * _SIZE, *call)
    return block


def block_of(dtype: torch.dtype) -> types.CPointer:
    """The type of a block, as compiled functions see it: a pointer to calls.

    Their field ``unit`` has the precision of the input.
    """
    names, formats = [*_FIELDS, "unit"], ["f8" if kind is float else "i8" for kind in _FIELDS.values()]
    offsets = [8 * k for k in range(len(names))]
    record = {"names": names, "formats": [*formats, _NUMPY[dtype]], "offsets": offsets, "itemsize": _SIZE}
    return types.CPointer(from_dtype(np.dtype(record)))


def entry(function: Callable) -> Callable[[torch.dtype], Callable[[int], None]]:
    """Let a function of a block be called from outside, with the address of the block.

    Returns:
        What gives, for the precision of the input, the C function; it is compiled when first asked for. Python's
        global lock is not held while it runs.
    """

    @cache
    def of(dtype):
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compile_c(function, types.void(block_of(dtype))))

    return of


@intrinsic
def at(typing_context, address, like):
    """The pointer to numbers of the type of ``like`` at an address."""
    result = types.CPointer(types.unliteral(like))

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(address, like), generate


@intrinsic
def address(typing_context, pointer):
    """The address that a pointer points to."""

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(arguments[0], context.get_value_type(types.intp))

    return types.intp(pointer), generate


@jit
def call_of(block, k):
    """The k-th call of a block."""
    return carray(block, (k + 1,))[k]


@jit
def counters(block):
    """Pointers to the counters of the first call of a block."""
    return at(address(block), 0), at(address(block) + 8, 0)


@jit
def vector(address, like, size):
    """The array of so many numbers at an address, of none if that is 0."""
    return carray(at(address, like), (size if address != 0 else 0,))


@jit
def matrices(address, like, count, rows, columns):
    """The array (count, rows, columns) at an address, (0, rows, columns) if that is 0."""
    return carray(at(address, like), (count if address != 0 else 0, rows, columns))


@jit
def terms(address, call, rows, columns):
    """The array (terms, batch, rows, columns) at an address, (0, batch, rows, columns) if that is 0."""
    count = 2 if call.dual and call.apart else 1
    return carray(at(address, call.unit), (count if address != 0 else 0, call.batch, rows, columns))
